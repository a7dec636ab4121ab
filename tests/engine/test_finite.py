"""NaN and infinity are errors that name the layer where they begin; no map is made of them."""

import json

import numpy as np
import pytest
import torch

import vitscope
from tests.helpers.errors import raises
from tests.models.toys_heads import Around, backbone
from vitscope.attention import AttentionStore, Dense, Factored
from vitscope.engine.finite import require_finite_attention
from vitscope.errors import MethodError, UsageError

PHOTO = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
METHODS = ("rollout", "attention", "gradcam", "relevance", "integrated-gradients", "occlusion")


def classifier(dtype=torch.float32):
    torch.manual_seed(0)
    return Around(lambda own, f: own.head(f), head=torch.nn.Linear(32, 3)).to(dtype).eval()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", ["vit.blocks.0.attn.qkv", "vit.blocks.1.mlp.fc1", "vit.norm", "head"])
def test_infinite_weights_are_named(method, layer):
    model = classifier()
    scope = vitscope.load(model)
    with torch.no_grad():
        model.get_submodule(layer).weight.view(-1)[3] = float("inf")
    with raises(MethodError, "engine.answer-not-finite", "engine.weights-not-finite.hint") as caught:
        scope.explain(PHOTO, method=method)
    assert caught.value.message.endswith(f"begins in {layer}")
    assert f"'{layer}.weight'" in caught.value.hint
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.spread
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_overflow_is_named(dtype):
    model = classifier(dtype)
    scope = vitscope.load(model)
    assert scope.explain(PHOTO, method="rollout").predictions
    with torch.no_grad():
        model.vit.norm.weight.fill_(torch.finfo(dtype).max)
        model.vit.norm.bias.fill_(torch.finfo(dtype).max)
    with raises(MethodError, "engine.answer-not-finite", "engine.not-finite.hint") as caught:
        scope.explain(PHOTO, method="rollout")
    assert "begins in vit.norm" in caught.value.message


class Hiding(torch.nn.Module):
    """A block's attention is NaN, and the model replaces the NaN before its answer."""

    def __init__(self):
        super().__init__()
        self.vit = backbone(num_classes=3)

    def forward(self, x):
        return 2 * torch.nan_to_num(self.vit(x), posinf=0, neginf=0)  # the sums of some kernels overflow before


def test_attention_of_nan_behind_a_finite_answer():
    model = Hiding().eval()
    scope = vitscope.load(model)
    with torch.no_grad():
        model.vit.blocks[0].attn.qkv.weight[40] = float("nan")  # a key
    for method in ("rollout", "attention", "gradcam"):
        with raises(MethodError, "engine.attention-not-finite", "engine.weights-not-finite.hint") as caught:
            scope.explain(PHOTO, method=method)
        assert "vit.blocks.0.attn" in caught.value.message


def test_a_targets_own_score():
    scope = vitscope.load(classifier())
    with raises(MethodError, "engine.score-not-finite"):
        scope.explain(PHOTO, method="gradcam", target=lambda answer: answer[:, 0] / 0)


def test_pixels_come_first():
    scope = vitscope.load(classifier())
    pixels = torch.zeros(2, 3, 32, 32)
    pixels[1, 0, 3, 3] = float("nan")
    with raises(UsageError, "engine.pixels-not-finite") as caught:
        scope.attribute(pixels, method="rollout")
    assert "image 1" in caught.value.message


class LeavesOut(Around):
    """Classes that cannot be are -inf, as in a subset of ImageNet."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(lambda own, f: own.head(f) + own.left_out, head=torch.nn.Linear(32, 3))
        self.register_buffer("left_out", torch.tensor([0.0, 0.0, -float("inf")]))


def test_a_class_that_is_left_out_has_no_probability():
    model = LeavesOut().eval()
    e = vitscope.load(model).explain(PHOTO, method="gradcam")
    shares = dict(e.predictions)
    assert shares["class 2"] == 0
    assert sum(shares.values()) == pytest.approx(1)
    json.dumps(e.manifest(), allow_nan=False)


def of_layer(dtype, **changes):
    """Return a store of two layers, one number of which is another in the second."""
    q, k, lse = torch.zeros(3, 1, 2, 40, 8, dtype=dtype)
    parts = {"q": q, "k": k, "lse": lse[..., 0].float(), "probs": q.softmax(-1)}
    for name, value in changes.items():
        parts[name] = parts[name].clone()
        parts[name][0, 1, 7] = value
    made = Factored("second", parts["q"], parts["k"], 1.0, lse=parts["lse"])
    dense = Dense("second", parts["probs"])
    return AttentionStore((Factored("first", q, k, 1.0), dense if "probs" in changes else made))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("part", ["q", "k", "probs", "lse"])
def test_one_number_that_is_none_is_found_in_every_part(part, number, dtype):
    if (part, number) == ("lse", -float("inf")):  # a mask hides every key
        require_finite_attention(torch.nn.Identity(), of_layer(dtype, lse=number))
        return
    with raises(MethodError, "engine.attention-not-finite") as caught:
        require_finite_attention(torch.nn.Identity(), of_layer(dtype, **{part: number}))
    assert "second" in caught.value.message


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_numbers_whose_sum_is_infinite_are_numbers(dtype):
    q = torch.full((1, 2, 40, 8), torch.finfo(dtype).max, dtype=dtype)
    require_finite_attention(torch.nn.Identity(), AttentionStore((Factored("", q, q, 1.0),)))


class Masked(torch.nn.Module):
    """A mask of the first block hides every key of patch token 5; the kernel answers with zeros there."""

    def __init__(self, additive=False):
        super().__init__()
        self.vit, self.mask = backbone(num_classes=3), torch.ones(17, 17, dtype=torch.bool)
        self.mask[5] = False
        self.mask = torch.zeros(17, 17).masked_fill(~self.mask, -torch.inf) if additive else self.mask
        attention = self.vit.blocks[0].attn
        attention.forward = lambda x, **more: type(attention).forward(attention, x, attn_mask=self.mask)

    def forward(self, x):
        return self.vit(x)


@pytest.mark.parametrize("additive", [False, True])
def test_a_mask_that_hides_every_key_of_a_token_is_told_with_its_layer(additive):
    scope = vitscope.load(Masked(additive).eval())
    for method in ("rollout", "flow", "relevance", "random-walk", "value-rollout", "grad-rollout"):
        with raises(MethodError, "attention.no-keys", "attention.no-keys.hint") as caught:
            scope.explain(PHOTO, method=method)
        assert "blocks.0.attn" in caught.value.message
        assert "token 5" in caught.value.message
    for method in ("attention", "gradcam", "occlusion"):  # that token's attention is none of theirs
        assert np.isfinite(scope.explain(PHOTO, method=method).map).all()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_bias_that_is_no_number_is_found(number):
    q, bias = torch.zeros(1, 2, 40, 8), torch.zeros(1, 1, 40, 40)
    bias[..., 3, 4] = -torch.inf
    require_finite_attention(torch.nn.Identity(), AttentionStore((Factored("fine", q, q, 1.0, bias),)))
    bias[..., 7, 8] = number
    with raises(MethodError, "engine.attention-not-finite"):
        require_finite_attention(torch.nn.Identity(), AttentionStore((Factored("", q, q, 1.0, bias),)))
