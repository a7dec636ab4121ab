"""A token layout from the caller, held against the pixels that reach the model's tokens."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import vitscope
from tests.helpers.errors import raises
from tests.models.sabotaged import D, Tiny
from tests.models.traced_row import as_it_is
from vitscope.errors import LayoutError
from vitscope.geometry import TokenLayout


class Bordered(Tiny):
    """Widens its image of 32 x 32 pixels by itself: left, right, top, bottom."""

    def __init__(self, mode, pads):
        super().__init__()
        self.mode, self.pads = mode, pads
        self.grid = (32 + sum(pads[2:])) // 8, (32 + sum(pads[:2])) // 8
        self.places = nn.Parameter(torch.randn(1, self.grid[0] * self.grid[1], D) / 2)

    def widened(self, x):
        return functional.pad(x, self.pads, mode=self.mode)

    def embed(self, x):
        return self.stem(self.widened(x)).flatten(2).mT + self.places


def bordered(mode, pads):
    torch.manual_seed(0)
    return Bordered(mode, pads).eval()


def cells_of(model):
    """By hand: patches of 8 pixels begin where the padding does."""
    (rows, columns), (left, _, top, _) = model.grid, model.pads
    return -left, -top, 8 * columns - left, 8 * rows - top


def beside_by_hand(model):
    """The patches that show no pixel of the image in its place."""
    left, top, _, _ = cells_of(model)
    across = [8 * n + 8 + left > 0 and 8 * n + left < 32 for n in range(model.grid[1])]
    down = [8 * n + 8 + top > 0 and 8 * n + top < 32 for n in range(model.grid[0])]
    return len(across) * len(down) - sum(across) * sum(down)


def elsewhere_by_hand(model):
    """Of the rows or columns that one patch reads, the largest share of those beside its cell, from an arange."""
    shares = []
    for axis in range(2):
        line = torch.arange(32.0)[None, None, :, None].expand(1, 1, 32, 32)
        numbers = model.widened(line if axis == 0 else line.mT)[0, 0]
        numbers = (numbers[:, 16] if axis == 0 else numbers[16]).numpy().astype(int)
        first = cells_of(model)[1 - axis]
        for n in range(model.grid[axis]):
            read = set(numbers[8 * n : 8 * n + 8])
            own = set(range(first + 8 * n, first + 8 * n + 8))
            shares.append(len(read - own) / len(read))
    return max(shares)


def noted(scope, code):
    """The notes of that code on maps at the model's size."""
    e = scope.explain(np.zeros((32, 32, 3), np.uint8), method="rollout")
    return [note for note in e.provenance["notes"] if note.code == code]


def loaded(model, **given):
    layout = TokenLayout(("cls",), model.grid, **given)
    return vitscope.load(model, processor=as_it_is(model.size), layout=layout)


NARROW = [(1, 1, 1, 1), (4, 4, 4, 4), (3, 5, 3, 5), (0, 2, 3, 3)]
WIDE = [(12, 12, 12, 12), (8, 8, 8, 8), (0, 8, 0, 8), (8, 0, 8, 0), (16, 16, 16, 16), (20, 4, 20, 4)]


@pytest.mark.covering
@pytest.mark.parametrize("pads", NARROW, ids=str)
@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
def test_a_border_narrower_than_a_patch_moves_the_cells(mode, pads):
    """Traced or given, the cells are those of the arithmetic; a note says what a patch reads beside its own."""
    model = bordered(mode, pads)
    wanted = cells_of(model)
    given, traced = loaded(model), vitscope.load(model, processor=as_it_is(model.size))
    for scope in (given, traced):
        assert scope.layout.cells == pytest.approx(wanted)
        assert scope.layout.seen == pytest.approx([*np.maximum(wanted[:2], 0), *np.minimum(wanted[2:], 32)])
    share = elsewhere_by_hand(model) if mode == "reflect" else 0
    for scope in (given, traced):
        notes = noted(scope, "tracing.note-border")
        assert [note.params["share"] for note in notes] == ([f"{share:.0%}"] if share else [])
    pixels = torch.randn(1, 3, *model.size)
    one, other = (scope.attribute(pixels, method="rollout").maps for scope in (given, traced))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.spread
@pytest.mark.parametrize("pads", WIDE, ids=str)
def test_patches_of_padding_alone_lie_beside_the_image(pads):
    """The hint of the refusal without a layout can be followed."""
    model = bordered("constant", pads)
    with raises(LayoutError, "tracing.no-grid", "tracing.no-grid.hint"):
        vitscope.load(model, processor=as_it_is(model.size))
    scope = loaded(model)
    assert scope.layout.cells == cells_of(model)
    (note,) = noted(scope, "tracing.note-beside-image")
    assert note.params["count"] == beside_by_hand(model)
    e = scope.explain(np.zeros((32, 32, 3), np.uint8), method="rollout")
    heat = e.heat(smooth=False)
    for y, x in ((3, 3), (3, 28), (20, 11)):
        row, column = (y + pads[2]) // 8, (x + pads[0]) // 8
        assert heat[y, x] == e.map[row, column]


@pytest.mark.covering
@pytest.mark.parametrize("pads", WIDE, ids=str)
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_whole_patches_of_a_repeated_border_are_refused_and_the_hint_can_be_followed(mode, pads):
    pads = tuple(min(pad, 16) for pad in pads)
    model = bordered(mode, pads)
    with pytest.raises(LayoutError):
        vitscope.load(model, processor=as_it_is(model.size))
    with raises(LayoutError, "tracing.other-cells", "tracing.other-cells.hint") as caught:
        loaded(model)
    told = tuple(float(n) for n in caught.value.hint.params["found"].strip("()").split(","))
    assert told == cells_of(model)
    scope = loaded(model, cells=told)
    assert noted(scope, "tracing.note-beside-image")
    assert scope.layout.seen == (0, 0, 32, 32)


@pytest.mark.parametrize("layout", [None, TokenLayout(("cls",), (5, 5))])
def test_a_border_patch_that_shows_mostly_other_pixels_is_refused(layout):
    """Seven of the eight rows of the first patch lie in the second, too."""
    model = bordered("reflect", (7, 7, 7, 7))
    code = "tracing.given-uneven" if layout else "tracing.uneven"
    with raises(LayoutError, code, f"{code}.hint"):
        vitscope.load(model, processor=as_it_is(model.size), **({"layout": layout} if layout else {}))


def test_a_repeated_border_in_the_preprocessing_is_as_the_hint_says():
    """Padded with a flat colour before the model, patches of the padding are where they belong."""
    torch.manual_seed(0)
    model = Tiny().eval()
    process = as_it_is((16, 16))
    scope = vitscope.load(model, processor=lambda image: functional.pad(process(image), (8,) * 4))
    e = scope.explain(np.zeros((64, 64, 3), np.uint8), method="rollout")
    assert e.region.box == pytest.approx((-32, -32, 96, 96), abs=0.5)


@pytest.mark.parametrize("cells", [(0, 0, 32, 32), (-4, -4, 36, 34), (-2, -4, 38, 36)])
def test_cells_that_the_caller_states_elsewhere_are_refused(cells):
    model = bordered("constant", (4, 4, 4, 4))
    with raises(LayoutError, "tracing.other-cells", "tracing.other-cells.hint"):
        loaded(model, cells=cells)
    assert loaded(model, cells=(-4, -4, 36, 36)).layout.cells == (-4, -4, 36, 36)


def test_a_wide_stem_keeps_its_given_layout():
    """Convolutions with a ReLU and max-pooling: what a token reads is wide, and where its cells lie is known all the
    same: the first reads 7 pixels around every second, the second 3 of those around every second."""

    class Convolutional(Tiny):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, D, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
            self.places = nn.Parameter(torch.randn(1, 256, D) / 2)
            self.size = 64, 64

    torch.manual_seed(0)
    model = Convolutional().eval()
    model.grid = 16, 16
    layout = loaded(model).layout
    assert layout.cells == pytest.approx((-1.5, -1.5, 62.5, 62.5), abs=0.5)


def test_a_model_without_gradients_keeps_its_given_layout():
    class Frozen(Tiny):
        def embed(self, x):
            with torch.no_grad():
                return super().embed(x)

    torch.manual_seed(0)
    model = Frozen().eval()
    model.grid = 4, 4
    assert loaded(model).layout.cells is None


@pytest.mark.parametrize(("size", "crop", "cells"), [((50, 40), None, None), ((50, 50), (10, 40), (10, 10, 40, 40))])
def test_a_model_that_resizes_the_image_by_itself(size, crop, cells):
    """What a patch reads is spread; its middle is where it is."""

    class Resizing(Tiny):
        def embed(self, x):
            x = x if crop is None else x[..., slice(*crop), slice(*crop)]
            return super().embed(functional.interpolate(x, (32, 32), mode="bilinear"))

    torch.manual_seed(0)
    model = Resizing().eval()
    layout = TokenLayout(("cls",), (4, 4))
    found = vitscope.load(model, processor=as_it_is(size), layout=layout).layout.cells
    assert found is None if cells is None else found == pytest.approx(cells, abs=0.5)


def test_what_reads_the_whole_image_keeps_its_given_layout():
    """A z-score of the image makes every patch depend on every pixel a little."""

    class Scored(Tiny):
        def embed(self, x):
            return super().embed(functional.group_norm(x, 1))

    torch.manual_seed(0)
    model = Scored().eval()
    layout = TokenLayout(("cls",), (4, 4))
    scope = vitscope.load(model, processor=as_it_is((32, 32)), layout=layout)
    assert scope.layout.cells is None
