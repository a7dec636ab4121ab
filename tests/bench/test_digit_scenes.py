"""The shipped digit model: as accurate as it is said to be, and explained where its digits are."""

import sys
from pathlib import Path

import numpy as np
import pytest

import vitscope

pytestmark = pytest.mark.usefixtures("as_shipped")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "digits"))


@pytest.fixture(scope="module")
def scope():
    return vitscope.load("embedded:digit-scenes")


@pytest.mark.slow
def test_it_names_digits_that_it_never_saw(scope):
    from vitscope.bench.digit_scenes import scenes, split_digits

    _, unseen = split_digits()
    made = scenes(unseen.images, unseen.labels, 100, 77)
    found = total = 0
    explained = scope.explain(list(made.images), method="attention", batch_size=50)
    for e, labels in zip(explained, made.labels, strict=True):
        present = {str(label) for label in labels if label >= 0}
        named = e.predictions[: len(present)]
        found, total = found + len(present & {label for label, _ in named}), total + len(present)
    assert found / total >= 0.97


@pytest.mark.slow
def test_several_digits_are_likely_at_once(scope):
    from vitscope.bench.digit_scenes import scenes, split_digits

    _, unseen = split_digits()
    made = scenes(unseen.images, unseen.labels, 40, 5, shares=(0.0, 1.0, 0.0))
    likely = [sum(p > 0.5 for _, p in scope.explain(picture).predictions) for picture in made.images]
    assert np.mean(likely) > 1.8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options", "least"),
    [
        ("relevance", {}, 0.95),
        pytest.param("input-x-gradient", {"gradient_rule": "libra"}, 0.95, marks=pytest.mark.slow),
        pytest.param("gradcam", {}, 0.9, marks=pytest.mark.slow),
    ],
)
def test_class_evidence_lies_on_the_digit_asked_for(scope, method, options, least):
    from planted import measure

    share, pointing, _, maps = measure(scope, 30, method, **options)
    assert maps > 50
    assert pointing >= least
    assert share > 0.9


@pytest.mark.slow
def test_class_agnostic_methods_score_chance(scope):
    from planted import measure

    for method in ("rollout", "random"):
        share, pointing, _, _ = measure(scope, 30, method)
        assert share == pytest.approx(0.5, abs=0.02)
        assert pointing == pytest.approx(0.5, abs=0.02)
