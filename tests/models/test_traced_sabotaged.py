"""Sabotaged models: of each the map is right, by a twin in float64, or it is refused with a reason."""

import copy
from collections import Counter

import numpy as np
import pytest
import timm
import torch

import vitscope
from tests.helpers.errors import raises
from tests.models.all_sabotaged import PARTS, SABOTAGED
from tests.models.sabotaged import HEADS, Tiny, wanted
from tests.models.traced_row import as_it_is
from vitscope.errors import CaptureError, LayoutError, VitscopeError
from vitscope.geometry import TokenLayout

LIKE = 1  # refusals of one code that `make test` tries


def each_case():
    """All models that have a map, and of those that are refused with one code the first of each."""
    seen = Counter()
    for case in SABOTAGED:
        refusal = "" if callable(case.truth) else case.truth
        seen[refusal] += 1
        marks = [pytest.mark.slow] if refusal and seen[refusal] > LIKE else []
        yield pytest.param(case, id=case.twist, marks=marks)


EACH = pytest.mark.parametrize("case", list(each_case()))
RIGHT = [case for case in SABOTAGED if callable(case.truth)]


def pixels_of(model, count=1):
    return torch.randn(count, 3, *model.size, generator=torch.Generator().manual_seed(3))


def rollout_of(model, pixels):
    scope = vitscope.load(model, processor=as_it_is(model.size))
    return scope, np.stack([np.asarray(one) for one in scope.attribute(pixels, method="rollout").maps])


@pytest.mark.spread
@pytest.mark.filterwarnings("ignore:flex_attention called without")
@EACH
def test_each_is_right_or_refused(case):
    model = case.model()
    pixels = pixels_of(model)
    if not callable(case.truth):
        with pytest.raises(VitscopeError) as refused:
            rollout_of(model, pixels)
        assert refused.value.code == case.truth, str(refused.value)
        assert refused.value.hint
        return
    scope, maps = rollout_of(model, pixels)
    right = wanted(case, model, pixels)
    np.testing.assert_allclose(maps[0], right, rtol=0, atol=1e-5)
    assert np.ptp(right) > 1e-3  # an even map would say nothing
    assert case.layers is None or scope.adapter.depth == case.layers
    assert scope.adapter.describe()["heads"] == str(HEADS if case.heads else 1)
    notes = [note.code for note in scope.adapter.notes]
    assert notes == [case.note] * bool(case.note)


def test_there_are_enough_of_both_kinds():
    assert len(SABOTAGED) >= 100
    assert all(any(case.make().__module__ == part.__name__ for case in SABOTAGED) for part in PARTS)
    assert len({case.twist for case in SABOTAGED}) == len(SABOTAGED)
    assert len(RIGHT) >= 60


@pytest.mark.parametrize(
    "twist", ["patch tokens in another order: shuffled", "queries in chunks", "windows with a cyclic shift"]
)
def test_a_twin_with_other_weights_is_told_apart(twist):
    """The comparison can fail: a twin whose weights, or whose matrices' order, differ has another map."""
    case = next(case for case in SABOTAGED if case.twist == twist)
    model = case.model()
    pixels = pixels_of(model)
    _, maps = rollout_of(model, pixels)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.qkv[0].weight.mul_(0.9)
    assert np.abs(maps[0] - wanted(case, other, pixels)).max() > 1e-4
    assert np.abs(maps[0] - wanted(case, model, pixels_of(model, 2)[1:])).max() > 1e-3


LOOPS = ["heads in a loop, side by side at last", "heads in a loop, stacked", "queries in chunks"]
METHODS = ["attention", "grad-rollout", "attention-gradcam", "relevance", "rollout"]


@pytest.mark.spread
@pytest.mark.parametrize("twist", LOOPS)
def test_a_loop_gives_the_maps_of_one_call(twist):
    """Also in a batch, and by methods that need gradients or values."""
    looped = next(case for case in SABOTAGED if case.twist == twist).model()
    plain = Tiny().eval()
    plain.load_state_dict(looped.state_dict())
    pixels = pixels_of(plain, 2)
    maps = []
    for model in (plain, looped):
        scope = vitscope.load(model, processor=as_it_is(model.size))
        maps.append([scope.attribute(pixels, method=method).maps for method in METHODS if scope.supports(method)])
    assert len(maps[0]) == len(maps[1]) == len(METHODS)
    for method, one, other in zip(METHODS, *maps, strict=True):
        torch.testing.assert_close(
            other, one, rtol=1e-4, atol=1e-6, msg=lambda text, method=method: f"{method}: {text}"
        )


GIVEN = TokenLayout(("cls",), (4, 4))


@pytest.mark.spread
@pytest.mark.parametrize("twist", ["heads in a loop, stacked", "queries in chunks", "pictures in a loop"])
def test_with_a_given_layout_loops_are_one_layer_too(twist):
    looped = next(case for case in SABOTAGED if case.twist == twist).model()
    plain = Tiny().eval()
    plain.load_state_dict(looped.state_dict())
    pixels = pixels_of(plain)
    one, other = (
        vitscope.load(model, processor=as_it_is(model.size), layout=GIVEN).attribute(pixels, method="rollout").maps
        for model in (plain, looped)
    )
    torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


def test_images_in_a_loop_are_refused_in_a_batch_of_a_given_layout():
    looped = next(case for case in SABOTAGED if case.twist == "pictures in a loop").model()
    scope = vitscope.load(looped, processor=as_it_is(looped.size), layout=GIVEN)
    with raises(CaptureError, "tracing.images-in-a-loop", "tracing.images-in-a-loop.hint"):
        scope.attribute(pixels_of(looped, 2), method="rollout")


def test_views_in_one_batch_are_refused_with_a_given_layout_too():
    model = next(case for case in SABOTAGED if case.twist == "both views in one batch").model()
    scope = vitscope.load(model, processor=as_it_is(model.size), layout=GIVEN)
    with raises(CaptureError, "tracing.views-in-a-batch", "tracing.views-in-a-batch.hint"):
        scope.attribute(pixels_of(model), method="rollout")


class Merging(Tiny):
    """Its patches come in squares of 2 x 2, as those of Qwen2-VL's vision tower do."""

    def embed(self, x):
        return super().embed(x).unflatten(1, (2, 2, 2, 2)).transpose(2, 3).flatten(1, 4)


class Last(Tiny):
    """CLS comes after the patches."""

    def tokens(self, x):
        return super().tokens(x).roll(-1, 1)

    def read(self, x):
        return self.norm(x)[:, -1]


class Columns(Tiny):
    """Its patches run column by column."""

    def embed(self, x):
        return super().embed(x).unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)


@pytest.mark.spread
@pytest.mark.parametrize(
    ("kind", "place", "told", "found"), [(Merging, (0, 3), 4, 6), (Last, (0, 0), 1, 0), (Columns, (0, 3), 4, 13)]
)
def test_a_given_layout_of_tokens_in_another_order_is_refused(kind, place, told, found):
    """Its tokens by hand; where no layout is given, the order is found."""
    model = kind().eval()
    with raises(LayoutError, "tracing.other-order", "tracing.other-order.hint") as caught:
        vitscope.load(model, processor=as_it_is(model.size), layout=GIVEN).attribute(pixels_of(model), method="rollout")
    params = caught.value.message.params
    assert ((params["row"], params["column"]), params["told"], params["found"]) == (place, told, found)
    assert rollout_of(model, pixels_of(model))[1].shape == (1, 4, 4)


def test_heads_that_follow_one_another_are_refused_as_such():
    """EfficientViT-M adds what one head made to the tokens of the next: its source says so, and nothing of windows."""
    with raises(LayoutError, "tracing.heads-in-turn"):
        vitscope.load(timm.create_model("efficientvit_m0", num_classes=5).eval())


def test_the_case_of_a_loop_over_pictures():
    """Its reason and its hint are true: with the layout given, the map is the plain model's."""
    model = next(case for case in SABOTAGED if case.twist == "pictures in a loop").model()
    with raises(LayoutError, "tracing.calls-by-image", "tracing.calls-by-image.hint"):
        vitscope.load(model)
