"""The hint of models that are refused: `vitscope.capture` records their raw attention, as eager twins compute it."""

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

import vitscope
from tests.helpers.errors import raises
from vitscope.errors import CaptureError, LayoutError

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Softmaxes(TorchFunctionMode):
    """Keeps what each softmax returns."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") == "softmax":
            self.made.append(result.detach())
        return result


def sam(attention):
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 32, "image_size": 64}
    vision |= {"patch_size": 8, "output_channels": 16, "num_pos_feats": 8, "window_size": 4, "global_attn_indexes": [1]}
    prompts = {"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4}
    decoder = {"hidden_size": 16, "num_attention_heads": 2, "mlp_dim": 32, "iou_head_hidden_dim": 16}
    config = transformers.SamConfig(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config={**decoder, "num_hidden_layers": 2}
    )
    return transformers.SamModel._from_config(config, attn_implementation=attention)


class Pointed(nn.Module):
    """SAM's masks of one point."""

    def __init__(self, attention="sdpa"):
        super().__init__()
        torch.manual_seed(0)
        self.sam = sam(attention)
        for name, parameter in self.named_parameters():
            if "qkv" in name or "rel_pos" in name:
                nn.init.normal_(parameter, 0, 0.3)

    def forward(self, x):
        points = torch.tensor([[[[20.0, 40.0]]]]).expand(len(x), -1, -1, -1)
        return self.sam(pixel_values=x, input_points=points, multimask_output=False).pred_masks[:, 0]


class Asked(nn.Module):
    """OneFormer with a task."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        backbone = transformers.SwinConfig(
            image_size=64, patch_size=4, embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=2
        )
        backbone.out_features = ["stage1", "stage2", "stage3", "stage4"]
        sizes = dict.fromkeys(("hidden_dim", "mask_dim", "conv_dim", "text_encoder_width"), 32)
        sizes |= dict.fromkeys(("encoder_feedforward_dim", "dim_feedforward"), 16)
        sizes |= dict.fromkeys(("encoder_layers", "query_dec_layers", "text_encoder_num_layers"), 1)
        words = {"text_encoder_context_length": 8, "text_encoder_vocab_size": 50, "task_seq_len": 8}
        config = transformers.OneFormerConfig(
            backbone_config=backbone, num_queries=5, num_attention_heads=2, decoder_layers=2, **sizes, **words
        )
        self.model = transformers.OneFormerForUniversalSegmentation(config)

    def forward(self, x):
        return self.model(pixel_values=x, task_inputs=torch.ones(len(x), 8)).class_queries_logits


def recorded(model, images=IMAGES):
    """Rows of each attention call by `capture`, which leaves the answer as it is."""
    with torch.no_grad():
        alone = model(images)
        with vitscope.capture(model) as captured:
            answer = model(images)
    torch.testing.assert_close(answer, alone, rtol=0, atol=0)
    return [block.rows() for block in captured.attention.blocks]


def softmaxes(model, images=IMAGES):
    with torch.no_grad(), Softmaxes() as kept:
        model(images)
    return kept.made


@pytest.mark.slow
def test_sam_with_a_prompt():
    model = Pointed().eval()
    with raises(LayoutError, "tracing.tokens-lost", "tracing.use-capture.hint"):
        vitscope.load(model)
    twin = Pointed("eager").eval()
    twin.load_state_dict(model.state_dict())
    found, wanted = recorded(model), softmaxes(twin)
    assert len(found) == len(wanted) == 2 + 2 * 3 + 1
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other.reshape(one.shape), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_oneformer_with_a_task():
    """Its pixel decoder has a softmax over sampling points, which is no attention between tokens and is left out."""
    model = Asked().eval()
    with raises(LayoutError, "tracing.unsupported-function", "tracing.use-capture.hint"):
        vitscope.load(model)
    found = recorded(model)
    twin = Asked().eval()
    twin.load_state_dict(model.state_dict())
    twin.model.set_attn_implementation("eager")
    wanted = [one for one in softmaxes(twin) if one.shape[1:] != (84, 2, 12)]
    assert len(wanted) == 5  # the others are those of nn.MultiheadAttention, inside the kernel
    for one in wanted:
        alike = [rows for rows in found if rows.numel() == one.numel()]
        assert min(float((rows.ravel() - one.ravel()).abs().max()) for rows in alike) < 1e-6
    queries = dict(model.named_modules())["model.model.transformer_module.decoder.layers.0.cross_attn.multihead_attn"]
    seen = []
    handle = queries.register_forward_pre_hook(lambda _m, args, kwargs: seen.append((args, kwargs)), with_kwargs=True)
    with torch.no_grad():
        model(IMAGES)
    handle.remove()
    args, kwargs = seen[0]
    with torch.no_grad():
        _, weights = queries(*args, **{**kwargs, "need_weights": True, "average_attn_weights": False})
    assert any(one.shape == weights.shape and torch.allclose(one, weights, atol=1e-6) for one in found)


class Listed(nn.Module):
    """NaViT of a list of images."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(list(x))


NAVIT = {"image_size": 64, "patch_size": 16, "num_classes": 3, "dim": 32, "depth": 2, "heads": 2, "mlp_dim": 32}


@pytest.mark.spread
@pytest.mark.parametrize("nested", [False, True])
def test_navit(nested, monkeypatch):
    """The plain formula of what reaches the kernel, image by image."""
    na_vit = pytest.importorskip("vit_pytorch.na_vit")
    from vit_pytorch.na_vit_nested_tensor import NaViT as Nested

    torch.manual_seed(0)
    model = Listed((Nested if nested else na_vit.NaViT)(**NAVIT)).eval()
    code = "tracing.nested" if nested else "tracing.unsupported-function"
    with raises(LayoutError, code, "tracing.use-capture.hint"):
        vitscope.load(model)
    found, wanted, kernel = recorded(model), [], functional.scaled_dot_product_attention

    def by_hand(q, k, v, attn_mask=None, **more):
        for n, (a, b) in enumerate(zip(q.unbind(), k.unbind(), strict=True)):
            scores = a @ b.mT * more.get("scale", a.shape[-1] ** -0.5)
            scores = (
                scores if attn_mask is None else scores.masked_fill(~attn_mask.expand(len(found), 1, -1, -1)[n], -1e9)
            )
            wanted.append(scores.softmax(-1))
        return kernel(q, k, v, attn_mask, **more)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", by_hand)
    with torch.no_grad():
        model(IMAGES)
    assert len(found) == 3
    torch.testing.assert_close([image for rows in found for image in rows], wanted, rtol=0, atol=1e-6)


def test_nested_tensors_of_several_sizes_are_refused():
    pytest.importorskip("vit_pytorch")
    from vit_pytorch.na_vit_nested_tensor import NaViT

    model = NaViT(**NAVIT).eval()
    with (
        raises(CaptureError, "attention.nested", "attention.nested.hint"),
        torch.no_grad(),
        vitscope.capture(model),
    ):
        model([IMAGES[0], IMAGES[1, :, :32]])


def test_cct_needs_no_hint():
    """vit-pytorch's pools its tokens by an einsum; the twin is its own softmaxes, in the order of its forward."""
    pytest.importorskip("vit_pytorch")
    from vit_pytorch.cct import CCT

    torch.manual_seed(0)
    options = {"img_size": 32, "embedding_dim": 32, "n_conv_layers": 1, "kernel_size": 7, "stride": 2, "padding": 3}
    pooling = {"pooling_kernel_size": 3, "pooling_stride": 2, "pooling_padding": 1}
    model = CCT(**options, **pooling, num_layers=2, num_heads=2, mlp_ratio=1, num_classes=3).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "to_qkv" in name or "qkv" in name or "attention_pool" in name:
                parameter.mul_(4)
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    scope = vitscope.load(model)
    first, second, pool = softmaxes(model, images)
    row = pool[0]
    for matrix in (second, first):
        row = 0.5 * row + 0.5 * row @ matrix[0].mean(0)
    found = scope.attribute(images, method="rollout").maps[0]
    torch.testing.assert_close(found.ravel(), row, rtol=0, atol=1e-6)
    assert scope.layout.cells == (-1.5, -1.5, 30.5, 30.5)  # both paddings move the patches, by 1/2 and by 1 pixel
