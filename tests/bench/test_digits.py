"""Handwritten digits as cases."""

import numpy as np
import pytest

from tests.helpers.benchmarks import rows_of
from tests.helpers.errors import raises
from vitscope.bench import digits
from vitscope.bench.benchmark import make_benchmark, run_benchmark
from vitscope.bench.cases import grid_judge, pair_judge
from vitscope.errors import UsageError

pytestmark = pytest.mark.usefixtures("plots_are_not_drawn")

# --- digits


def test_two_digits_by_hand(explained_by_hand):
    heat = np.zeros((2, 2), np.float32)
    heat[0] = 3, 1
    heat[1, 0] = 4
    e = explained_by_hand(heat)
    ours, other = np.zeros((32, 32), bool), np.zeros((32, 32), bool)
    ours[:16, :16] = other[:16, 16:] = True
    got = pair_judge(other)(e, ours)
    assert got == {"share": 0.75, "hotter": 1.0, "inside": 3 / 8}
    assert pair_judge(ours)(e, other) == {"share": 0.25, "hotter": 0.0, "inside": 1 / 8}
    assert grid_judge(e, ours) == {"cell share": 3 / 8, "cell pointing": 0.0}
    flat = explained_by_hand(-np.ones((2, 2), np.float32))
    assert pair_judge(other)(flat, ours) == {"share": 0.5, "hotter": 0.5, "inside": 0.25}


@pytest.fixture
def explained_by_hand():
    from vitscope.explanation import Explanation
    from vitscope.geometry import ImageRegion, TokenLayout

    def make(values):
        layout, region = TokenLayout(("cls",), values.shape), ImageRegion.from_resize_crop((32, 32), (32, 32))
        return Explanation(values, np.zeros(1, np.float32), "made", layout, region)

    return make


@pytest.fixture(scope="module")
def digit_scope():
    import vitscope

    return vitscope.load("embedded:digit-scenes")


def test_digits_are_asked_both_ways_and_in_grids(as_shipped, digit_scope):
    cases, left = digits.digit_cases(digit_scope, 6)
    pairs = [case for case in cases if case.group == "two digits"]
    grids = [case for case in cases if case.group == "grid"]
    assert len(pairs) == 2 * (12 - left - len(grids))
    assert len(grids) >= 4
    first, second = pairs[:2]
    assert first.target != second.target
    assert not (first.load()[1] & second.load()[1]).any()
    for case in grids:
        image, mask = case.load()
        assert image.shape == (60, 60, 3)
        assert mask.sum() == 900
        e = digit_scope.explain(image)
        assert case.target in {label for label, _ in e.predictions[:4]}
    assert [case.name for case in digits.digit_cases(digit_scope, 6)[0]] == [case.name for case in cases]


@pytest.mark.slow
def test_methods_that_know_the_class_beat_those_that_do_not(as_shipped, digit_scope, tmp_path):
    benchmark = make_benchmark(digit_scope, "digits", count=6)
    made = run_benchmark(digit_scope, benchmark, rows_of(digit_scope, "relevance", "rollout"), tmp_path / "o")
    of = {score.method: score for score in made.scores}
    assert of["relevance"].numbers["share"].value > 0.9
    assert of["relevance"].numbers["cell share"].value > 0.6
    assert of["rollout"].numbers["share"].value == pytest.approx(0.5, abs=1e-6)
    assert of["centre prior"].numbers["cell share"].value == pytest.approx(0.25)
    assert of["random"].p < 0.05
    assert made.groups == {"grid": 6, "two digits": 12} or made.notes


def test_digits_need_a_model_that_names_them(tiny_scope):
    with raises(UsageError, "bench.no-digit-classes"):
        make_benchmark(tiny_scope, "digits")
