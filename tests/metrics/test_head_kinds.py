"""What heads do: heads built for one thing each are told so, by numbers that follow from how they were built."""

import numpy as np
import pytest
import torch

from vitscope.attention import AttentionStore, Dense
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.metrics.attention_streaming import compute_statistics
from vitscope.metrics.head_kinds import AskingPatches, _first_component, head_kinds, split_object

HIGH, WIDE = 12, 15
LAYOUT = TokenLayout(("cls",), (HIGH, WIDE))
P = HIGH * WIDE
Y, X = np.divmod(np.arange(P), WIDE)
OBJECT = (Y >= 4) & (Y < 9) & (X >= 5) & (X < 11)
NOISE = np.random.default_rng(0).random((P, P))
NEAR = (np.abs(Y[:, None] - Y) <= 1) & (np.abs(X[:, None] - X) <= 1)
LEFT = (Y[:, None] == Y) & (X[:, None] - 4 == X)


def even(there):
    """Weights `(P, P)` spread over the patches that are true, in each row."""
    there = np.broadcast_to(there, (P, P)).astype(float)
    return there / np.maximum(there.sum(1, keepdims=True), 1)


def kind_of(weights, cls_share=0.0, there=OBJECT):
    """The one head's record: `weights` of patches on patches, beside a share for CLS."""
    rows = np.zeros((1, 1, P + 1, P + 1))
    rows[..., 0] = 1
    rows[0, 0, 1:, 1:] = (1 - cls_share) * weights / weights.sum(1, keepdims=True)
    rows[0, 0, 1:, 0] = cls_share
    return kinds_from(torch.from_numpy(rows[0]), LAYOUT, there)


def kinds_from(matrix, layout, there):
    """The record of heads whose attention `(H, N, N)` is known."""
    asking = AskingPatches.of(layout)
    return head_kinds(matrix[:, list(asking.tokens)], asking, there)


BUILT = {
    "sink": (NOISE, 0.55),
    "local": (0.6 * even(NEAR) + 0.4 * even(True), 0.2),
    "position": (0.7 * even(LEFT) + 0.3 * even(True), 0),
    "object": (even(OBJECT) * 0.5 + even(True) * 0.5, 0),
    "background": (even(~OBJECT) * 0.8 + even(True) * 0.2, 0),
    "alike": (even(OBJECT[:, None] == OBJECT) * 0.8 + even(True) * 0.2, 0),
    "mixed": (NOISE, 0),
}


@pytest.mark.parametrize("kind", BUILT)
def test_a_head_built_for_one_thing_is_told_so(kind):
    assert kind_of(*BUILT[kind]).kinds == (kind,)


def test_numbers_are_those_that_the_head_was_built_with():
    found = kind_of(*BUILT["local"])
    inner = 0.6 + 0.4 * NEAR.sum(1) / P
    assert found.near_share[0] == pytest.approx(inner.mean(), abs=0.005)  # not all patches ask
    w, b = OBJECT.sum(), (~OBJECT).sum()
    assert kind_of(*BUILT["object"]).object_ratio[0] == pytest.approx((0.5 / w + 0.5 / P) / (0.5 / P))
    assert kind_of(*BUILT["alike"]).own_ratio[0] == pytest.approx(
        min((0.8 / w + 0.2 / P) / (0.2 / P), (0.8 / b + 0.2 / P) / (0.2 / P))
    )
    sink = kind_of(*BUILT["sink"]).sink_share[0]
    assert 0.55 < sink < 0.55 + 0.45 * 3 * 2 / P


def test_an_offset_foretells_all_of_a_rigid_pattern_and_nothing_of_chance():
    assert kind_of(even(LEFT) + 1e-9).position_share[0] == pytest.approx(1, abs=0.15)  # at the edge nothing lies left
    assert -0.05 < kind_of(NOISE).position_share[0] < 0  # of chance, others foretell less than the mean of all does
    assert kind_of(even(True)).position_share[0] == 0


def test_a_weight_is_not_among_those_that_foretell_it():
    weights = NOISE / NOISE.sum(1, keepdims=True)
    offsets = list(zip((Y - Y[:, None]).ravel(), (X - X[:, None]).ravel(), strict=True))
    at = {}
    for one, offset in zip(weights.ravel(), offsets, strict=True):
        at.setdefault(offset, []).append(one)
    alone = weights.ravel() - 1 / P  # the error where nobody else asks at that offset
    errors = [
        one - (sum(at[offset]) - one) / (len(at[offset]) - 1) if len(at[offset]) > 1 else alone[i]
        for i, (one, offset) in enumerate(zip(weights.ravel(), offsets, strict=True))
    ]
    expected = 1 - np.square(errors).sum() / np.square(weights - weights.mean()).sum()
    assert kind_of(NOISE).position_share[0] == pytest.approx(expected, rel=1e-9)


def test_two_patches_that_all_look_at_are_a_sink():
    wells = np.zeros(P, dtype=bool)
    wells[[3, 70]] = True
    assert kind_of(0.6 * even(wells) + 0.4 * even(True)).kinds == ("sink",)


def test_without_an_object_nothing_is_said_of_one():
    found = kind_of(*BUILT["object"], there=None)
    assert found.kinds == ("mixed",)
    assert found.object_ratio is None


def test_an_object_is_what_the_border_has_less_of():
    random = np.random.default_rng(1)
    directions = random.normal(size=(2, 8))
    features = directions[OBJECT.astype(int)] + 0.1 * random.normal(size=(P, 8))
    assert (split_object(features, (HIGH, WIDE)) == OBJECT).all()
    assert (split_object(-features, (HIGH, WIDE)) == OBJECT).all()


def test_halves_of_an_image_are_no_object():
    random = np.random.default_rng(2)
    features = random.normal(size=(2, 8))[(X < WIDE // 2).astype(int)] + 0.1 * random.normal(size=(P, 8))
    assert split_object(features, (HIGH, WIDE)) is None
    assert split_object(np.ones((P, 4)), (HIGH, WIDE)) is None


@pytest.mark.parametrize("wide", [8, 14, 16, 24, 37])
def test_all_columns_ask(wide):
    """A head that is local in half of the columns alone is half local, whatever the grid."""
    layout, patches = TokenLayout((), (wide, wide), "mean"), wide * wide
    y, x = np.divmod(np.arange(patches), wide)
    near = np.hypot(y[:, None] - y, x[:, None] - x) <= max(0.1 * wide, 1.5)
    rows = np.where((x % 2 == 0)[:, None], near / near.sum(1, keepdims=True), 1 / patches)
    found = kinds_from(torch.from_numpy(rows[None]), layout, None)
    assert found.near_share[0] == pytest.approx(0.5 * (1 + near.sum(1).mean() / patches), abs=0.04)


@pytest.mark.slow
@pytest.mark.weights
def test_real_heads_on_a_real_photo():
    """Early heads of DINOv2 are local, a few of its late ones look at the object; sorting says both."""
    from skimage import data

    import vitscope

    found = vitscope.load().statistics(data.astronaut(), size=224)
    early, late = ([kind for layer in part for kind in layer.kinds] for part in (found.layers[:4], found.layers[7:]))
    assert early.count("local") >= 8 > 2 > late.count("local")
    assert late.count("object") >= 3
    assert found.rows()[0]["kind"] == found.layers[0].kinds[0]


@pytest.mark.parametrize("chunk", [1, 7, P + 1])
def test_rows_are_taken_chunk_by_chunk(chunk):
    """The statistics of a layer read the asking patches' rows on their way."""
    matrix = torch.rand(3, P + 1, P + 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix /= matrix.sum(-1, keepdim=True)
    store = AttentionStore((Dense("one", matrix[None], chunk=chunk),), LAYOUT)
    (found,) = compute_statistics(store, ImageRegion((64, 64), (0, 0, 64, 64), (64, 64)), "nobody watched").layers
    wanted = kinds_from(matrix, LAYOUT, None)
    assert found.kinds == wanted.kinds
    for name in ("sink_share", "near_share", "position_share"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-9)


def test_an_object_between_the_asking_patches_has_no_side_of_its_own():
    layout, there = TokenLayout((), (37, 37), "mean"), np.zeros(37 * 37, dtype=bool)
    there[[703, 704, 705, 706, 741]] = True
    rows = torch.full((1, 1369, 1369), 0.55 / 1369, dtype=torch.float64)
    rows[:, :, there] += 0.45 / 5
    found = kinds_from(rows, layout, there)
    assert found.own_ratio is None
    assert found.kinds == ("object",)
    there[700] = True  # every tenth asks
    assert kinds_from(rows, layout, there).own_ratio is not None


@pytest.mark.parametrize("second", [0.0, 0.3, 0.9999, 1 - 1e-9])
def test_the_first_component_is_that_of_the_decomposition(second):
    random = torch.Generator().manual_seed(3)
    axes = torch.linalg.qr(torch.randn(24, 24, generator=random, dtype=torch.float64))[0]
    values = torch.tensor([1, second, *[0.1] * 22], dtype=torch.float64)
    found = _first_component(axes * values @ axes.T)
    assert abs(float(found @ axes[:, 0])) == pytest.approx(1, abs=1e-12)
    assert not bool((_first_component(torch.zeros(3, 3, dtype=torch.float64)) > 0).any())
