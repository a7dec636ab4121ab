"""Models that nobody's library knows: understood, or refused in one line."""

import contextlib
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

import vitscope
from tests.models.toys_traced import as_it_is, picture
from vitscope.attention.softmax_tracking import spelled
from vitscope.errors import CaptureError, LayoutError
from vitscope.geometry import TokenLayout

D, HEADS, WIDTH = 32, 4, 8


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class ViT(nn.Module):
    """A Vision Transformer around any kind of attention.

    Args:
        block: what mixes tokens.
        size: of the picture; registers: tokens *after* the patches; pool: "cls" or "mean".
    """

    def __init__(self, block, size=(32, 32), registers=0, pool="cls", depth=2):
        super().__init__()
        self.size, self.pool = size, pool
        self.stem = nn.Conv2d(3, D, 8, 8)
        self.cls = nn.Parameter(torch.randn(1, 1, D)) if pool == "cls" else None
        self.register_tokens = nn.Parameter(torch.randn(1, registers, D)) if registers else None
        self.places = nn.Parameter(torch.randn(1, size[0] * size[1] // 64, D))
        self.layers = nn.ModuleList(block() for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, 5)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2) + self.places
        tokens = x.shape[1]
        if self.cls is not None:
            x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        if self.register_tokens is not None:
            x = torch.cat([x, self.register_tokens.expand(len(x), -1, -1)], 1)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return self.head(x[:, 0] if self.pool == "cls" else x[:, :tokens].mean(1))


class Attention(nn.Module):
    """Pre-norm attention and an MLP; subclasses attend. `seen` are the matrices (B, H, N, N) by the plain formula."""

    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(D), nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.mlp = nn.Sequential(nn.LayerNorm(D), nn.Linear(D, D), nn.GELU(), nn.Linear(D, D))
        self.bias = nn.Parameter(torch.randn(HEADS, 1, 64))  # for those that use it
        self.seen = []
        with torch.no_grad():
            self.qkv.weight.mul_(3)

    def heads(self, x):
        return (part.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))

    def forward(self, x):
        y = self.norm(x)
        x = x + self.out(self.attend(y))
        return x + self.mlp(x)

    def by_hand(self, y):
        q, k, _ = self.heads(y)
        return (q.double() @ k.double().mT / WIDTH**0.5).softmax(-1)


class Fused(Attention):
    def attend(self, y):
        q, k, v = self.heads(y)
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class ScaledFirst(Attention):
    def attend(self, y):
        q, k, v = self.heads(y)
        return ((q * WIDTH**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1).matmul(v).transpose(1, 2).flatten(2)


class ScaledAfter(Attention):
    def attend(self, y):
        q, k, v = self.heads(y)
        return (torch.softmax((q @ k.mT) / WIDTH**0.5, -1) @ v).transpose(1, 2).flatten(2)


class Biased(Attention):
    def attend(self, y):
        q, k, v = self.heads(y)
        scores = torch.matmul(q, k.transpose(2, 3)) * WIDTH**-0.5 + self.bias[:, :, : y.shape[1]]
        return (functional.softmax(scores, dim=-1) @ v).transpose(1, 2).flatten(2)

    def by_hand(self, y):
        q, k, _ = self.heads(y)
        return (q.double() @ k.double().mT / WIDTH**0.5 + self.bias[:, :, : y.shape[1]].double()).softmax(-1)


class Einsum(Attention):
    """Heads third, as `b n h d`, all the way."""

    def attend(self, y):
        q, k, v = (part.unflatten(-1, (HEADS, WIDTH)) for part in self.qkv(y).chunk(3, -1))
        probs = torch.einsum("bihd,bjhd->bhij", q * WIDTH**-0.5, k).softmax(-1)
        return torch.einsum("bhij,bjhd->bihd", probs, v).flatten(2)


class HeadsInTheBatch(Attention):
    """Heads folded into the batch, and `bmm`."""

    def attend(self, y):
        q, k, v = (part.flatten(0, 1) for part in self.heads(y))
        probs = nn.Softmax(dim=2)(torch.bmm(q, k.transpose(1, 2)) * WIDTH**-0.5)
        return torch.bmm(probs, v).unflatten(0, (-1, HEADS)).transpose(1, 2).flatten(2)


class HeadsFirst(Attention):
    """Heads before the batch: `h b n d`."""

    def attend(self, y):
        q, k, v = (part.transpose(0, 1) for part in self.heads(y))
        return ((q @ k.mT) * WIDTH**-0.5).softmax(-1).matmul(v).permute(1, 2, 0, 3).flatten(2)


class KeysFirst(Attention):
    """The matrix transposed: columns of keys by queries times values."""

    def attend(self, y):
        q, k, v = self.heads(y)
        probs = ((q @ k.mT) * WIDTH**-0.5).softmax(-1)
        return (v.transpose(-2, -1) @ probs.transpose(-2, -1)).transpose(-2, -1).transpose(1, 2).flatten(2)


class MultiHead(Attention):
    weights = False

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(D, HEADS, batch_first=True)
        with torch.no_grad():
            self.attention.in_proj_weight.mul_(3)

    def attend(self, y):
        return self.attention(y, y, y, need_weights=self.weights)[0]

    def by_hand(self, y):
        projected = functional.linear(y, self.attention.in_proj_weight, self.attention.in_proj_bias)
        q, k, _ = (part.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for part in projected.chunk(3, -1))
        return (q.double() @ k.double().mT / WIDTH**0.5).softmax(-1)


class MultiHeadWithWeights(MultiHead):
    weights = True


class Encoder(nn.TransformerEncoderLayer):
    def __init__(self):
        super().__init__(D, HEADS, 48, batch_first=True, norm_first=True)
        with torch.no_grad():
            self.self_attn.in_proj_weight.mul_(3)

    def by_hand(self, y):
        return MultiHead.by_hand(type("", (), {"attention": self.self_attn}), y)

    @property
    def norm(self):
        return self.norm1


KINDS = [Fused, ScaledFirst, ScaledAfter, Biased, Einsum, HeadsInTheBatch, HeadsFirst, KeysFirst]
KINDS += [MultiHead, MultiHeadWithWeights, Encoder]


def made(kind, seed=0, **options):
    torch.manual_seed(seed)
    return ViT(kind, **options).eval()


def loaded(model):
    return vitscope.load(model, processor=as_it_is(model.size))


def rows_by_hand(model, pixels):
    """The matrices of each layer by the plain formula, from what goes into its norm."""
    inputs = []
    handles = [layer.norm.register_forward_pre_hook(lambda _m, args: inputs.append(args[0])) for layer in model.layers]
    model(pixels)  # with gradients: torch then leaves its fused encoder layers
    for handle in handles:
        handle.remove()
    return [layer.by_hand(layer.norm(x)).detach() for layer, x in zip(model.layers, inputs, strict=True)]


@pytest.mark.parametrize("options", [{}, {"size": (32, 56), "registers": 2}, {"pool": "mean", "registers": 1}])
@pytest.mark.parametrize("kind", KINDS)
def test_attention_and_layout_of_a_model_that_nobody_knows(kind, options):
    model = made(kind, **options)
    scope, image = loaded(model), picture(model.size)
    layout, registers = scope.layout, options.get("registers", 0)
    assert layout.prefix == ("cls",) * (model.pool == "cls") + tuple(f"register {i + 1}" for i in range(registers))
    assert layout.grid == (model.size[0] // 8, model.size[1] // 8)
    assert (layout.pooling, layout.pool_prefix) == (model.pool, False)
    store = scope.attention(image)
    wanted = rows_by_hand(model, as_it_is(model.size)(Image.fromarray(image))[None])
    patches, cls = layout.grid[0] * layout.grid[1], model.pool == "cls"
    order = [*range(cls), *range(patches + cls, patches + cls + registers), *range(cls, patches + cls)]
    assert len(store) == 2
    for block, matrix in zip(store, wanted, strict=True):
        rows = block.rows().reshape(matrix.shape)
        # in a chain blocks keep their own order, in a plain product they have the layout's
        wanted_rows = matrix if store.chain is not None else matrix[..., order, :][..., order]
        torch.testing.assert_close(rows.double(), wanted_rows, rtol=0, atol=1e-5)
    product = torch.eye(len(order), dtype=torch.float64)
    for matrix in wanted:
        product = (matrix.mean((0, 1)) + torch.eye(len(order))) / 2 @ product
    e = scope.explain(image, method="rollout")
    row = (product[0] if cls else product[:patches].mean(0))[order].numpy()
    np.testing.assert_allclose(np.concatenate([e.prefix, e.map.ravel()]), row, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_capture_sees_the_same_without_a_layout(kind):
    model = made(kind, size=(32, 40), registers=1)
    pixels = torch.randn(2, 3, *model.size)
    with torch.no_grad():
        plain = model(pixels)
        with vitscope.capture(model) as store_of:
            out = model(pixels)
    torch.testing.assert_close(out, plain, rtol=1e-5, atol=1e-5)
    assert len(store_of()) == 2
    for block, matrix in zip(store_of(), rows_by_hand(model, pixels), strict=True):
        rows = block.rows()
        matrix = matrix.transpose(0, 1) if kind is HeadsFirst else matrix
        torch.testing.assert_close(rows.reshape(matrix.shape).double(), matrix, rtol=0, atol=1e-5)


class OneHeadInWindows(nn.Module):
    """One head, windows on an axis of their own: (B, 1, windows, tokens, D)."""

    def __init__(self, heads_axis=True):
        super().__init__()
        self.qkv, self.heads_axis = nn.Linear(D, 3 * D), heads_axis
        with torch.no_grad():
            self.qkv.weight.mul_(4)

    def matrices(self, x):
        q, k, v = self.qkv(x.unflatten(1, (-1, 4))).chunk(3, -1)
        return (q @ k.mT / D**0.5).softmax(-1), v

    def forward(self, x):
        parts = self.qkv(x.unflatten(1, (-1, 4))).chunk(3, -1)
        q, k, v = (part[:, None] if self.heads_axis else part for part in parts)
        out = functional.scaled_dot_product_attention(q, k, v)
        return x + (out[:, 0] if self.heads_axis else out).flatten(1, 2)


@pytest.mark.parametrize("heads_axis", [True, False])
def test_one_head_in_windows_is_not_averaged_over_windows(heads_axis):
    model = made(lambda: OneHeadInWindows(heads_axis), pool="mean", depth=1)
    image = picture(model.size)
    x = model.stem(as_it_is(model.size)(Image.fromarray(image))[None]).flatten(2).mT + model.places
    matrices, _ = model.layers[0].matrices(x)
    whole = torch.block_diag(*matrices[0])  # each row of the grid is a window
    e = loaded(model).explain(image, method="rollout")
    wanted = ((whole + torch.eye(16)) / 2).mean(0).detach().numpy()
    np.testing.assert_allclose(e.map.ravel(), wanted, rtol=0, atol=1e-6)


# vit-pytorch

_P = {"image_size": 32, "patch_size": 8, "num_classes": 5, "dim": 32, "depth": 2, "heads": 4, "mlp_dim": 48}


def vit_pytorch(module, name, **options):
    import importlib

    torch.manual_seed(0)
    return getattr(importlib.import_module(f"vit_pytorch.{module}"), name)(**options).eval()


@pytest.mark.parametrize(
    ("module", "name", "options", "prefix", "pooling", "layers"),
    [
        ("vit", "ViT", _P, ("cls",), "cls", 2),
        ("vit", "ViT", _P | {"pool": "mean"}, (), "mean", 2),
        ("simple_vit", "SimpleViT", _P, (), "mean", 2),
        ("parallel_vit", "ViT", _P, ("cls",), "cls", 4),
        ("vit_for_small_dataset", "ViT", _P, ("cls",), "cls", 2),
    ],
)
def test_models_of_vit_pytorch(module, name, options, prefix, pooling, layers):
    model = vit_pytorch(module, name, **options)
    scope = vitscope.load(model, processor=as_it_is((32, 32)))
    layout = scope.layout
    assert layout.prefix == prefix
    assert layout.grid == (4, 4)
    assert (layout.pooling, layout.pool_prefix) == (pooling, False)
    assert scope.adapter.depth == layers
    e = scope.explain(picture((32, 32)), method="rollout")
    assert e.map.sum() + e.prefix.sum() == pytest.approx(1, abs=1e-5)
    for block in scope.attention(picture((32, 32))):
        rows = block.rows()
        torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:-1]))


def test_a_model_of_vit_pytorch_says_its_own_size_and_the_provenance_says_what_was_chosen():
    scope = vitscope.load(vit_pytorch("simple_vit", "SimpleViT", **_P | {"image_size": 48}))
    e = scope.explain(picture((40, 60)))
    assert e.layout.grid == (e.region.input[0] // 8, e.region.input[1] // 8)
    assert e.region.box == (0, 0, 60, 40)
    notes = [note for note in e.provenance["notes"] if "preprocessing chosen by vitscope" in note]
    assert len(notes) == 1
    assert f"{e.region.input[0]} x {e.region.input[1]}" in notes[0]
    assert not any(
        "chosen by vitscope" in n
        for n in loaded(made(Fused)).explain(picture((32, 32)), method="rollout").provenance["notes"]
    )


# a layout that is stated


def test_a_layout_that_is_stated_is_taken():
    model = made(Fused)
    stated = TokenLayout(("start",), (4, 4), "mean")
    scope = vitscope.load(model, processor=as_it_is(model.size), layout=stated)
    assert scope.layout == stated
    e = scope.explain(picture(model.size), method="rollout")
    found = loaded(model).explain(picture(model.size), method="rollout")
    assert e.layout == stated
    assert np.abs(e.map - found.map).max() > 1e-3  # read from the mean, not from CLS
    assert e.map.sum() + e.prefix.sum() == pytest.approx(1, abs=1e-5)


def test_a_wrong_layout_that_is_stated_is_refused():
    model = made(Fused)
    scope = vitscope.load(model, processor=as_it_is(model.size), layout=TokenLayout(("cls",), (4, 5)))
    with pytest.raises(LayoutError, match="has 17 tokens, but the layout 1 prefix . 4 x 5 patches has 21"):
        scope.explain(picture(model.size))


# what is refused


class Mixer(Attention):
    """No attention: a learned map between tokens."""

    def __init__(self):
        super().__init__()
        self.between = nn.Linear(17, 17)

    def attend(self, y):
        return self.between(y.mT).mT


class Linear(Attention):
    """Linear attention: softmax of keys over tokens, values gathered first."""

    def attend(self, y):
        q, k, v = self.heads(y)
        return (q.softmax(-1) @ (k.softmax(-2).mT @ v)).transpose(1, 2).flatten(2)


class Pruning(Attention):
    """Only the larger half of the tokens goes on."""

    def forward(self, x):
        x = super().forward(x)
        best = x.norm(dim=-1).topk(9, dim=1).indices
        return x.gather(1, best[..., None].expand(-1, -1, D))

    attend = Fused.attend


class ConvNet(nn.Sequential):
    size = (32, 32)

    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: made(Mixer), CaptureError),
        (ConvNet, CaptureError),
        (lambda: made(Linear), (CaptureError, LayoutError)),
        (lambda: made(Pruning), LayoutError),
    ],
    ids=["mixer", "convolutions", "linear attention", "pruning"],
)
def test_what_cannot_be_followed_is_refused_in_one_line(make, kind):
    model = make()
    with pytest.raises(kind) as caught:
        loaded(model)
    assert str(caught.value)
    assert "\n" not in str(caught.value)
    assert torch._C._len_torch_function_stack() == 0


class AnswersWithText(nn.Module):
    size = (32, 32)

    def __init__(self):
        super().__init__()
        self.inner = ViT(Fused)

    def forward(self, x):
        self.inner(x)
        return "a cat"


def test_an_answer_without_a_tensor_is_refused():
    with pytest.raises(LayoutError, match="answers with a str"):
        loaded(AnswersWithText().eval())


def test_no_usual_size_is_refused_with_what_to_do():
    model = made(Fused, size=(24, 40))
    with pytest.raises(LayoutError, match="none of the usual sizes.*processor="):
        vitscope.load(model)


@pytest.mark.parametrize(("module", "name"), [("deepvit", "DeepViT"), ("cait", "CaiT")])
def test_heads_mixed_by_einsum_are_understood_or_refused_in_one_line(module, name):
    model = vit_pytorch(module, name, **_P | ({"cls_depth": 2} if name == "CaiT" else {}))
    try:
        scope = vitscope.load(model, processor=as_it_is((32, 32)))
    except (CaptureError, LayoutError) as error:
        assert "\n" not in str(error)
    else:
        assert scope.layout == TokenLayout(("cls",), (4, 4))
        e = scope.explain(picture((32, 32)), method="rollout")
        assert e.map.sum() + e.prefix.sum() == pytest.approx(1, abs=1e-5)


# threads, compilers and gradients


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_loading_and_explaining_where_the_caller_wants_no_gradients(without):
    model = made(OneHeadInWindows, pool="mean")
    wanted = loaded(model).explain(picture(model.size), method="rollout")
    with without():
        e = loaded(model).explain(picture(model.size), method="rollout")
    np.testing.assert_allclose(e.map, wanted.map, rtol=0, atol=1e-7)


def test_two_threads_with_two_models_do_not_see_each_other():
    """Each explains several pictures at the same time as the other, and gets what it gets alone."""
    models = [made(Fused, seed=1), made(ScaledAfter, seed=2, size=(32, 56), registers=2)]
    scopes = [loaded(model) for model in models]
    images = [[picture(model.size, seed) for seed in range(6)] for model in models]
    alone = [
        [scope.explain(one, method="rollout").map for one in many] for scope, many in zip(scopes, images, strict=True)
    ]
    results, start = [None, None], threading.Barrier(2, timeout=30)

    def look(i):
        start.wait()
        fresh = loaded(models[i])  # tracing too
        results[i] = [fresh.explain(one, method="rollout").map for one in images[i]]

    threads = [threading.Thread(target=look, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got, wanted in zip(results, alone, strict=True):
        for one, other in zip(got, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", [Fused, ScaledAfter])
@pytest.mark.parametrize("way", ["wrapped", "in place"])
def test_a_compiled_model_is_seen(kind, way):
    pytest.importorskip("torch._dynamo", reason="this torch has no dynamo")
    model = made(kind)
    wanted = loaded(model).explain(picture(model.size), method="rollout")
    if way == "wrapped":
        compiled = torch.compile(model, backend="eager")
    else:
        model.compile(backend="eager")
        compiled = model
    pixels = torch.randn(1, 3, *model.size)
    e = vitscope.load(compiled, processor=as_it_is(model.size)).explain(picture(model.size), method="rollout")
    with torch.no_grad():
        plain = compiled(pixels)
        with vitscope.capture(compiled) as store_of:
            captured = compiled(pixels)
        after = compiled(pixels)
    np.testing.assert_allclose(e.map, wanted.map, rtol=0, atol=1e-6)
    assert len(store_of()) == 2
    assert torch.equal(plain, after)
    torch.testing.assert_close(captured, plain, rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


# processors


@pytest.mark.parametrize(("size", "box"), [((60, 100), (20, 0, 80, 60)), ((90, 50), (0, 20, 50, 70))])
def test_the_frame_of_torchvisions_resize_and_centre_crop(size, box):
    from torchvision import transforms

    process = transforms.Compose(
        [
            transforms.Resize(32),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize((0.5,) * 3, (0.5,) * 3),
        ]
    )
    e = vitscope.load(made(Fused), processor=process).explain(picture(size), method="rollout")
    assert e.region.box == pytest.approx(box, abs=1)
    assert e.region.size == (size[1], size[0])
    assert e.region.input == (32, 32)


def letterbox(image):
    """The whole photo in its own shape, with black bars."""
    scale = 32 / max(image.size)
    small = image.resize((round(image.width * scale), round(image.height * scale)), 2)
    canvas = Image.new("RGB", (32, 32))
    canvas.paste(small, ((32 - small.width) // 2, (32 - small.height) // 2))
    return as_it_is((32, 32))(canvas)


def test_a_letterboxing_processor_is_refused_or_right():
    scope = vitscope.load(made(Fused), processor=letterbox)
    try:
        e = scope.explain(picture((50, 100)), method="rollout")
    except LayoutError as error:
        assert "more than resize and crop" in str(error)
    else:
        assert e.region.box == pytest.approx((0, -25, 100, 75), abs=2)


def test_a_processor_that_flips_is_refused():
    with pytest.raises(LayoutError, match="more than resize and crop"):
        vitscope.load(made(Fused), processor=lambda image: as_it_is((32, 32))(image).flip(-1))


# the libraries' own corners


def test_a_timm_model_made_for_another_size_than_its_name_says():
    import timm

    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4)
    scope = vitscope.load(model)
    assert scope.layout == TokenLayout(("cls",), (4, 4))
    assert scope.explain(picture((60, 40))).region.input == (32, 32)


class WantsAMask(ViT):
    size = (32, 32)

    def __init__(self):
        super().__init__(Fused)

    def forward(self, x, mask):
        return super().forward(x * mask)


def _vivit():
    import transformers

    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    return transformers.VivitModel(transformers.VivitConfig(**small))


@pytest.mark.parametrize("make", [WantsAMask, _vivit], ids=["a mask", "video"])
def test_a_model_that_wants_more_than_pixels_is_refused_in_one_line(make):
    with pytest.raises((LayoutError, CaptureError)) as caught:
        vitscope.load(make().eval())
    assert "\n" not in str(caught.value)


class Pooled(nn.Module):
    """Convolutions, and one attention that pools: no layers."""

    size = (32, 32)

    def __init__(self):
        super().__init__()
        self.stem, self.attention = nn.Conv2d(3, D, 8, 8), nn.MultiheadAttention(D, HEADS, batch_first=True)
        self.query = nn.Parameter(torch.randn(1, 1, D))
        with torch.no_grad():
            self.attention.in_proj_weight.mul_(6)

    def forward(self, x):
        x = self.stem(x).flatten(2).mT
        return self.attention(self.query.expand(len(x), -1, -1), x, x)[0][:, 0]


@pytest.mark.parametrize("method", ["rollout", "attention"])
def test_attention_pooling_alone_is_a_map(method):
    torch.manual_seed(0)
    model = Pooled().eval()
    image = picture(model.size)
    scope = loaded(model)
    assert scope.layout == TokenLayout((), (4, 4), "map")
    assert scope.adapter.depth == 0
    x = model.stem(as_it_is(model.size)(Image.fromarray(image))[None]).flatten(2).mT
    wanted = model.attention(model.query, x, x)[1].detach().ravel().numpy()
    np.testing.assert_allclose(scope.explain(image, method=method).map.ravel(), wanted, rtol=0, atol=1e-6)
    assert wanted.max() > 2 / 16


def test_blocks_with_two_attentions_side_by_side_are_a_chain():
    """Their mean is one step of rollout: one after the other would be another map."""
    from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer

    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    model = VisionTransformer(**sizes, block_fn=ParallelThingsBlock).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "qkv.weight" in name:
                parameter.mul_(12)
    scope = vitscope.load(model)
    assert not scope.adapter.isotropic
    image = picture((32, 32))
    e = scope.explain(image, method="rollout")
    store = scope.attention(image)
    rows = [block.rows(slice(None))[0].mean(0).double() for block in store]
    product = torch.eye(17).double()
    for first, second in (rows[:2], rows[2:]):
        product = (0.5 * torch.eye(17) + 0.25 * first + 0.25 * second) @ product
    wanted = product[0].numpy()
    np.testing.assert_allclose(np.concatenate([e.prefix, e.map.ravel()]), wanted, rtol=1e-4, atol=1e-6)


def test_a_model_that_lays_all_pictures_in_one_row_is_run_on_one_at_a_time():
    from tests.models.test_traced_contracts import scope_of

    scope = scope_of("hf-pixtral")
    one, other = picture((32, 32), 0), picture((32, 32), 1)
    assert "all pictures in one row" in scope.body
    with pytest.raises(vitscope.errors.UsageError, match="one picture at a time"):
        scope.attention([one, other])
    alone = scope.explain(other, method="occlusion", batch_size=1)
    together = scope.explain([one, other], method="occlusion", batch_size=8)[1]
    np.testing.assert_allclose(together.map, alone.map, rtol=1e-5, atol=1e-6)
    assert np.ptp(alone.map) > 0


# what the averages leave out is said


class Differential(Attention):
    """Two attentions, one subtracted from the other (Ye et al. 2024)."""

    def attend(self, y):
        q, k, v = self.heads(y)
        scores = (q @ k.mT) * WIDTH**-0.5
        return ((scores.softmax(-1) - 0.3 * scores.flip(-1).softmax(-1)) @ v).transpose(1, 2).flatten(2)


class DifferentialResults(Attention):
    """The same with fused kernels: their results are subtracted."""

    def attend(self, y):
        q, k, v = self.heads(y)
        a, b = (functional.scaled_dot_product_attention(x, k, v) for x in (q, -q))
        return (a - 0.3 * b).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("kind", [Differential, DifferentialResults])
def test_attention_subtracted_from_attention_is_said(kind):
    scope = loaded(made(kind))
    e = scope.explain(picture((32, 32)), method="rollout")
    said = [note for note in e.provenance["notes"] if "subtracted" in note]
    assert len(said) == 1
    assert scope.adapter.describe()["differential attention"] == said[0]
    assert e.map.sum() + e.prefix.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", [Fused, ScaledAfter, MultiHead])
def test_of_a_plain_model_nothing_of_the_kind_is_said(kind):
    scope = loaded(made(kind))
    assert "differential attention" not in scope.adapter.describe()
    assert not [
        note for note in scope.explain(picture((32, 32)), method="rollout").provenance["notes"] if "sub" in note
    ]


@pytest.mark.parametrize(
    ("equation", "dims", "wanted"),
    [
        ("...ij,...jd->...id", (4, 4), "ABij,ABjd->ABid"),
        ("...ij, ...jd -> ...id", (4, 3), "ABij,Bjd->ABid"),
        ("b...n,b...d->b...nd", (3, 3), "bAn,bAd->bAnd"),
        ("Aij...,Ajd->Aid...", (4, 3), "AijB,Ajd->AidB"),
        ("bij,bjd->bid", (3, 3), "bij,bjd->bid"),
    ],
)
def test_dots_in_an_equation_are_spelled_out(equation, dims, wanted):
    left, right = (torch.randn(*(2,) * n).double() for n in dims)
    assert spelled(equation, dims) == wanted
    torch.testing.assert_close(torch.einsum(wanted, left, right), torch.einsum(equation, left, right))


class Detector(nn.Module):
    """DETR in small: learned queries that take attention from one another, then from the patches."""

    size = (32, 32)

    def __init__(self):
        super().__init__()
        self.stem, self.encoder = nn.Conv2d(3, D, 8, 8), Fused()
        self.places = nn.Parameter(torch.randn(1, 16, D))
        self.queries = nn.Parameter(torch.randn(3, D))
        self.own, self.across = (nn.MultiheadAttention(D, HEADS, batch_first=True) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(D) for _ in range(2))
        self.head = nn.Linear(D, 5)
        self.seen = []
        with torch.no_grad():
            self.across.in_proj_weight.mul_(4)

    def forward(self, x):
        x = self.encoder(self.stem(x).flatten(2).mT + self.places)
        q = self.queries.expand(len(x), -1, -1)
        y = self.norms[0](q)
        q = q + self.own(y, y, y, need_weights=False)[0]
        q = q + self.across(self.norms[1](q), x, x, need_weights=False)[0]
        return self.head(q)


def test_queries_of_a_detector_are_tokens_that_read_the_picture():
    """By hand: the mean query is half itself and half what it reads of patches that went through one layer."""
    torch.manual_seed(0)
    model, image = Detector().eval(), picture((32, 32))
    scope = loaded(model)
    e = scope.explain(image, method="rollout")
    pixels = as_it_is(model.size)(Image.fromarray(image))[None]
    with torch.no_grad():
        x = model.stem(pixels).flatten(2).mT + model.places
        first = model.encoder.by_hand(model.encoder.norm(x))[0].mean(0)
        x = model.encoder(x)
        y = model.norms[0](model.queries[None])
        own, weights = model.own(y, y, y)
        q = model.queries[None] + own
        across = model.across(model.norms[1](q), x, x)[1][0].double()
    wanted = 0.5 * across.mean(0) @ (0.5 * torch.eye(16).double() + 0.5 * first)
    np.testing.assert_allclose(e.map.ravel(), wanted.numpy(), rtol=1e-4, atol=1e-6)
    assert e.map.max() > 1.5 * e.map.min()
    assert weights.shape == (1, 3, 3)
    assert e.map.sum() + e.prefix.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_stay_one_in_half_precision(dtype):
    """Weights of many tokens are summed in float32, whatever the model's own type is."""
    model = made(OneHeadInWindows, pool="mean")
    image = picture(model.size)
    full = loaded(model).explain(image, method="rollout")
    half = vitscope.load(model.to(dtype), processor=as_it_is(model.size)).explain(image, method="rollout")
    assert half.provenance["dtype"] == str(dtype).removeprefix("torch.")
    assert half.map.sum() + half.prefix.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(half.map, full.map, rtol=0.1)


def test_progress_is_told_by_batches_and_ends_at_the_total():
    scope, told = loaded(made(Fused)), []
    scope.explain(
        [picture((32, 32), seed) for seed in (0, 1)], method="occlusion", progress=lambda *now: told.append(now)
    )
    assert {name for name, _, _ in told} == {"occlusion"}
    done = [now for _, now, _ in told]
    assert done == sorted(done)
    assert told[-1][1] == told[-1][2] > 1


# sizes


class Shrinking(ViT):
    """Notes the smallest picture it has seen, and answers by it."""

    def __init__(self):
        super().__init__(Fused)
        self.smallest = 64

    def forward(self, x):
        self.smallest = min(self.smallest, x.shape[-1])
        return super().forward(x) * self.smallest


def test_what_a_forward_notes_in_the_model_is_put_back():
    model = Shrinking().eval()
    loaded(model).explain(picture(model.size), method="rollout")
    assert model.smallest == 64


def _timm(name, **options):
    import timm

    return timm.create_model(name, num_classes=5, **options)


@pytest.mark.parametrize(
    ("name", "options", "grid", "seen"),
    [
        ("vit_tiny_patch16_224", {"dynamic_img_size": True}, (4, 6), (64, 96)),
        ("pvt_v2_b0", {}, (16, 24), (64, 96)),
        (
            "swin_tiny_patch4_window7_224",
            {"strict_img_size": False, "embed_dim": 24, "depths": (1,) * 4},
            (16, 24),
            None,
        ),
    ],
)
def test_another_size_keeps_the_shape_of_the_photo(name, options, grid, seen):
    scope = vitscope.load(_timm(name, **options).eval())
    image = picture((64, 96))
    e = scope.explain(image, method="rollout", size=78)
    assert e.layout.grid == grid
    assert e.region.input == (seen or (64, 96))
    assert not np.isnan(e.heat()).any()
    turned = scope.explain(np.ascontiguousarray(image.transpose(1, 0, 2)), method="rollout", size=78)
    assert turned.layout.grid == grid[::-1]


@pytest.mark.parametrize("ask", ["explain", "attention", "attention_heads"])
def test_a_size_that_a_model_does_not_take_is_a_line(ask):
    scope = vitscope.load(_timm("vit_tiny_patch16_224", depth=1).eval())
    options = {"method": "rollout"} if ask == "explain" else {}
    with pytest.raises(vitscope.errors.UsageError, match="does not take 64 x 96 pixels.*leave size out"):
        getattr(scope, ask)(picture((64, 96)), size=78, **options)
    assert scope.explain(picture((64, 96)), method="rollout").layout.grid == (14, 14)


def test_a_size_that_fails_does_not_change_the_model():
    """transformers' Swin makes its windows smaller in a forward."""
    import transformers

    torch.manual_seed(0)
    config = transformers.SwinConfig(
        image_size=64, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=8
    )
    scope = vitscope.load(transformers.SwinModel(config).eval(), processor=as_it_is((64, 64)))
    image = picture((64, 64))
    before = scope.explain(image, method="rollout").map
    windows = [m.window_size for m in scope.model.modules() if hasattr(m, "window_size")]
    for size in ((24, 24), (16, 40)):
        with torch.no_grad(), vitscope.attention.capture.evaluating(scope.model), contextlib.suppress(RuntimeError):
            scope.adapter.run(torch.zeros(1, 3, *size))
    assert [m.window_size for m in scope.model.modules() if hasattr(m, "window_size")] == windows
    np.testing.assert_array_equal(scope.explain(image, method="rollout").map, before)


def test_a_function_can_be_the_processor_of_a_transformers_model():
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    scope = vitscope.load(transformers.ViTModel(config).eval(), processor=as_it_is((32, 48)))
    e = scope.explain(picture((32, 48)), method="rollout")
    assert (e.layout.grid, e.region.input, e.region.box) == ((4, 6), (32, 48), (0, 0, 48, 32))
    assert scope.explain(picture((32, 48)), method="rollout", size=64).region.input == (56, 80)
    assert "function" in scope.adapter.describe()["input"]


def test_running_a_batch_inside_a_capture_is_one_forward():
    scope = loaded(made(Fused))
    with torch.no_grad(), vitscope.capture(scope.model) as store_of:
        scope.adapter.answer(torch.randn(2, 3, 32, 32))
    assert [block.shape[0] for block in store_of.blocks] == [2, 2]


@pytest.mark.parametrize("size", [(40, 72), (83, 61)])
def test_siglip_2_sees_the_patches_that_its_own_processor_cuts(size):
    """NaFlex: the photo's own shape, as many patches as fit; the processor fills up with zeros behind a mask."""
    from tests.models.toys_traced import ROWS

    row = next(row for row in ROWS if row.name == "hf-siglip2")
    scope = row.scope()
    image = picture(size)
    given = scope.adapter.processor(images=Image.fromarray(image), return_tensors="pt")
    rows, columns = (int(n) for n in given["spatial_shapes"][0])
    assert rows * columns <= given["pixel_values"].shape[1] == 16
    e = scope.explain(image, method="rollout")
    assert e.layout.grid == (rows, columns)
    assert e.region.box == (0, 0, size[1], size[0])
    with torch.no_grad():
        wanted = scope.model(**given).pooler_output
        answer = scope.adapter.answer(scope.adapter.prepare(e.picture)[0][None])
    torch.testing.assert_close(answer, wanted, rtol=1e-4, atol=1e-4)


# channels that are all one number are kept as one


def test_a_function_run_once_where_tensors_repeat_themselves_is_the_same_function():
    from vitscope.tracing.token_tensor import one, thinly

    torch.manual_seed(0)
    thin, other = (torch.randn(2, 5, 1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.randn(2, 5, 7, dtype=torch.float64)
    sizes, grads = [], []

    def mean(a, b):
        sizes.append(a.numel())
        return (a + b) / 2

    for way in (thinly, lambda run, *tensors: run(*tensors)):
        out = way(mean, thin.expand(2, 5, 7), other.expand(2, 5, 7))
        assert out.shape == (2, 5, 7)
        grads.append(torch.autograd.grad((out * weight).sum(), (thin, other)))
    assert sizes == [10, 70]
    for got, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(got, wanted)
    (got,) = torch.autograd.grad((one(thin.expand(2, 5, 7), 2) * weight[..., :1]).sum(), thin)
    torch.testing.assert_close(got, weight[..., :1])
    full = torch.randn(2, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(thinly(mean, thin.expand(2, 5, 7), full), mean(thin.expand(2, 5, 7), full))
