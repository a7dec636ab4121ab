"""Models that no library knows: understood, or refused in one line."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import vitscope
from tests.helpers.errors import raises
from tests.models.toys_generic import (
    _P,
    KINDS,
    Attention,
    D,
    Fused,
    HeadsFirst,
    OneHeadInWindows,
    ViT,
    loaded,
    made,
    rows_by_hand,
    vit_pytorch,
)
from tests.models.traced_row import as_it_is, picture
from vitscope.errors import CaptureError, LayoutError
from vitscope.geometry import TokenLayout


@pytest.mark.spread
@pytest.mark.covering
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
        with vitscope.capture(model) as captured:
            out = model(pixels)
    torch.testing.assert_close(out, plain, rtol=1e-5, atol=1e-5)
    assert len(captured.attention) == 2
    for block, matrix in zip(captured.attention, rows_by_hand(model, pixels), strict=True):
        rows = block.rows()
        matrix = matrix.transpose(0, 1) if kind is HeadsFirst else matrix
        torch.testing.assert_close(rows.reshape(matrix.shape).double(), matrix, rtol=0, atol=1e-5)


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


@pytest.mark.spread
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
    with raises(LayoutError, "geometry.wrong-token-count"):
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
    with raises(LayoutError, "models.answer-without-tensor"):
        loaded(AnswersWithText().eval())


def test_no_usual_size_is_refused_with_what_to_do():
    model = made(Fused, size=(24, 40))
    with raises(LayoutError, "models.no-input-size", hint="models.no-input-size.hint"):
        vitscope.load(model)


@pytest.mark.spread
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
