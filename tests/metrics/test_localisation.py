"""Maps against masks: twins, scikit-learn, answers by hand, and what resampling promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from tests.helpers.errors import raises
from tests.oracles import localisation as oracle
from vitscope.errors import UsageError
from vitscope.metrics.localisation import inside, localise, pointing, pool_counts, unit_average_precision
from vitscope.metrics.resampling import bootstrap, holm, paired


def drawn(seed, levels=None, size=(7, 9)):
    """A map and a mask, some pixels unseen; with `levels` many values are equal."""
    rng = np.random.default_rng(seed)
    heat = rng.normal(size=size) if levels is None else rng.integers(-levels, levels + 1, size).astype(float)
    mask = rng.random(size) < 0.3
    mask[0, 0], mask[1, 1] = True, False
    heat = heat.astype(np.float32)
    if seed % 2:
        heat[:, -1] = np.nan
    return heat, mask


CASES = [(seed, levels) for seed in range(6) for levels in (None, 1, 4)]


@pytest.mark.parametrize(("seed", "levels"), CASES)
def test_every_number_equals_its_slow_twin(seed, levels):
    heat, mask = drawn(seed, levels)
    seen = np.isfinite(heat)
    values, truth = heat[seen].astype(float).tolist(), mask[seen].tolist()
    above = [v > sum(values) / len(values) for v in values]
    got = localise(heat, mask)
    assert got.auc == pytest.approx(oracle.auc(values, truth), abs=1e-12)
    assert got.ap == pytest.approx(oracle.average_precision(values, truth), abs=1e-12)
    assert got.ap_both == pytest.approx(oracle.ap_both(values, truth), abs=1e-9)
    assert got.iou_best == pytest.approx(oracle.iou_best(values, truth), abs=1e-12)
    assert got.iou_mean == pytest.approx(oracle.iou(above, truth), abs=1e-12)
    assert got.accuracy == pytest.approx(np.mean(np.array(above) == np.array(truth)))
    positive = [max(v, 0.0) for v in values]
    assert got.inside == pytest.approx(sum(p for p, t in zip(positive, truth, strict=True) if t) / sum(positive))
    plain = [[None if np.isnan(v) else float(v) for v in row] for row in heat]
    assert got.pointing == pytest.approx(oracle.pointing(plain, mask.tolist(), 0))
    for tolerance in (1, 1.5, 2.2, 3):
        wide = localise(heat, mask, tolerance=tolerance).pointing
        assert wide == pytest.approx(oracle.pointing(plain, mask.tolist(), tolerance))
    assert sum(got.counts) == len(values)


@pytest.mark.parametrize(("seed", "levels"), [(0, None), (1, 2), (4, 30)])
def test_scikit_learn_agrees(seed, levels):
    heat, mask = drawn(seed, levels, (60, 50))
    seen = np.isfinite(heat)
    got = localise(heat, mask)
    values = heat[seen].astype(float)
    assert got.auc == pytest.approx(roc_auc_score(mask[seen], values), abs=1e-12)
    assert got.ap == pytest.approx(average_precision_score(mask[seen], values), abs=1e-12)
    x = (values - values.min()) / np.ptp(values)
    both = average_precision_score(np.r_[mask[seen], ~mask[seen]], np.r_[x, 1 - x])
    assert got.ap_both == pytest.approx(both, abs=1e-9)


def test_answers_by_hand():
    """Four pixels, 4 3 2 -1; the object is the first and third."""
    got = localise(np.array([[4, 3], [2, -1]], np.float32), np.array([[True, False], [True, False]]))
    assert got.auc == 3 / 4
    assert got.ap == pytest.approx((1 + 2 / 3) / 2)
    assert got.pointing == 1
    assert got.inside == 6 / 9
    assert got.iou_best == 2 / 3
    assert got.iou_mean == 1 / 3  # the mean is 2: above it are 4 and 3
    assert got.accuracy == 2 / 4
    assert got.counts == (1, 1, 1, 1)


def test_the_mask_itself_is_perfect_and_its_opposite_is_worst():
    _, mask = drawn(2)
    perfect, worst = (localise(m.astype(np.float32), mask) for m in (mask, ~mask))
    for name in ("auc", "ap", "pointing", "inside", "iou_best", "iou_mean", "accuracy", "ap_both"):
        assert getattr(perfect, name) == pytest.approx(1)
        assert getattr(worst, name) <= 0.5
    assert worst.auc == worst.pointing == worst.inside == worst.iou_mean == worst.accuracy == 0


def test_a_flat_map_is_chance():
    _, mask = drawn(2)
    share = mask.mean()
    for flat in (np.zeros(mask.shape, np.float32), np.full(mask.shape, -3, np.float32)):
        got = localise(flat, mask)
        assert got.auc == 0.5
        assert got.ap == got.pointing == got.inside == got.iou_best == pytest.approx(share)
        assert got.iou_mean == 0


def test_what_was_not_seen_takes_no_part():
    heat, mask = drawn(0)
    wide = np.pad(heat, 3, constant_values=np.nan)
    for fill in (True, False):
        assert localise(wide, np.pad(mask, 3, constant_values=fill)) == localise(heat, mask)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.01, 100), shift=st.floats(-5, 5))
def test_rankings_do_not_care_for_scale_and_mass_not_for_factors(seed, scale, shift):
    rng = np.random.default_rng(seed)
    heat, mask = rng.integers(-8, 9, (5, 6)).astype(float), rng.random((5, 6)) < 0.4
    mask[0, 0], mask[0, 1] = True, False
    one, moved = localise(heat, mask), localise(heat * scale + shift, mask)
    for name in ("auc", "ap", "pointing", "iou_best"):
        assert getattr(one, name) == pytest.approx(getattr(moved, name), abs=1e-9)
    assert one.inside == pytest.approx(inside(heat * scale, mask))
    turned = localise(-heat, mask)
    assert one.auc + turned.auc == pytest.approx(1)
    assert one.iou_mean <= one.iou_best + 1e-12
    for value in one.to_dict().values():
        assert isinstance(value, tuple) or 0 <= value <= 1


def test_inside_among_two_objects():
    heat = np.array([[3.0, 1.0, 8.0, -5.0]])
    first, second = np.array([[True, False, False, False]]), np.array([[False, True, False, False]])
    assert inside(heat, first, first | second) == 0.75
    assert inside(heat, second, first | second) == 0.25
    assert inside(-abs(heat), first, first | second) == 0.5


def test_pointing_among_equals_counts_shares():
    heat = np.array([[2.0, 2.0, 1.0, 2.0]])
    assert pointing(heat, np.array([[True, False, False, False]])) == pytest.approx(1 / 3)
    assert pointing(heat, np.array([[True, False, False, False]]), tolerance=1) == pytest.approx(2 / 3)


def test_pooling_counts_all_pixels_together():
    pairs, counts = [], []
    for seed, size in ((0, (4, 4)), (2, (9, 9)), (4, (3, 20))):
        heat, mask = drawn(seed, size=size)
        values = heat.astype(float).ravel()
        pairs.append(((values > values.mean()).tolist(), mask.ravel().tolist()))
        counts.append(localise(heat, mask).counts)
    got = pool_counts(np.array(counts))
    assert got.miou == pytest.approx(oracle.miou(pairs))
    right = [c == t for one in pairs for c, t in zip(*one, strict=True)]
    assert got.accuracy == pytest.approx(np.mean(right))


def test_a_flat_map_in_the_two_class_average_precision():
    truth = np.array([True, False, False, False])
    assert unit_average_precision(np.full(4, 7.0), truth) == oracle.ap_both([7.0] * 4, truth.tolist())


def test_what_cannot_be_compared_is_refused(as_shipped):
    heat, mask = drawn(0)
    with raises(UsageError, "metrics.no-object"):
        localise(heat, np.zeros_like(mask))
    with raises(UsageError, "metrics.no-background"):
        localise(heat, np.ones_like(mask))
    with raises(UsageError, "metrics.shapes-differ"):
        localise(heat[1:], mask)


def test_nothing_given_is_changed():
    heat, mask = drawn(1)
    before = heat.tobytes(), mask.tobytes()
    localise(heat, mask, tolerance=3)
    assert (heat.tobytes(), mask.tobytes()) == before


def test_an_interval_repeats_and_narrows_as_the_normal_one_does():
    values = np.random.default_rng(0).normal(3, 2, 400)
    one = bootstrap(values, seed=5)
    assert one == bootstrap(values, seed=5)
    assert one != bootstrap(values, seed=6)
    assert one.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20
    assert one.low == pytest.approx(one.value - half, abs=0.15 * half)
    assert one.high == pytest.approx(one.value + half, abs=0.15 * half)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    rng, covered = np.random.default_rng(1), 0
    for number in range(300):
        one = bootstrap(rng.exponential(1.0, 60), seed=number, draws=400)
        covered += one.low <= 1 <= one.high
    assert 0.89 <= covered / 300 <= 0.985


def test_a_statistic_of_rows_is_resampled_by_rows():
    counts = np.random.default_rng(2).integers(0, 50, (30, 4))
    one = bootstrap(counts, lambda rows: pool_counts(rows).miou, seed=0, draws=300)
    assert one.value == pytest.approx(pool_counts(counts).miou)
    assert one.low < one.value < one.high
    same = bootstrap(np.repeat(counts[:1], 9, 0), lambda rows: pool_counts(rows).miou, draws=50)
    assert same.low == same.high == pytest.approx(same.value)


@pytest.mark.parametrize("count", [1, 3, 8, 12])
def test_the_exact_paired_test_is_the_enumeration(count):
    rng = np.random.default_rng(count)
    ours, theirs = rng.integers(0, 5, count) / 4, rng.integers(0, 5, count) / 4
    got = paired(ours, theirs)
    assert got.exact
    assert got.p == pytest.approx(oracle.sign_flip((ours - theirs).tolist()))
    assert got.value == pytest.approx((ours - theirs).mean())


def test_the_sampled_paired_test_is_near_the_exact_one():
    rng = np.random.default_rng(3)
    ours, theirs = rng.normal(0.35, 1, 14), rng.normal(0, 1, 14)
    sampled, exact = paired(ours, theirs, draws=4000), paired(ours, theirs, draws=2**14)
    assert (sampled.exact, exact.exact) == (False, True)
    assert sampled.p == pytest.approx(exact.p, abs=0.03)
    assert sampled == paired(ours, theirs, draws=4000)


def test_equal_methods_get_p_one_and_p_values_are_uniform_where_nothing_differs():
    assert paired(np.ones(30), np.ones(30)).p == 1
    rng = np.random.default_rng(4)
    ps = [paired(rng.normal(size=25), rng.normal(size=25), seed=n, draws=500).p for n in range(200)]
    assert 0.01 <= np.mean(np.array(ps) <= 0.05) <= 0.1
    assert np.mean(ps) == pytest.approx(0.5, abs=0.08)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_resampling_of_nothing_is_refused(as_shipped):
    with raises(UsageError, "metrics.no-scenes"):
        bootstrap(np.zeros(0))
    with raises(UsageError, "metrics.unpaired"):
        paired(np.zeros(3), np.zeros(2))
