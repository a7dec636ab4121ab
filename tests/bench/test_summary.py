"""Tables of a benchmark, by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from vitscope.bench import summary
from vitscope.bench.cases import KINDS
from vitscope.bench.run_log import CaseResult


def made_up(values, seconds=1.0):
    """Rows of methods with given average precisions."""
    return [
        CaseResult(method, f"case {n}", "small" if n % 2 else "large", {"ap": ap, "auc": ap}, seconds)
        for method, own in values.items()
        for n, ap in enumerate(own)
    ]


def test_a_summary_by_hand():
    info = replace(KINDS["planted"], metrics={"auc": "AUC", "ap": "AP"})
    rng = np.random.default_rng(0)
    first, same = rng.uniform(0.3, 0.5, 40), rng.uniform(0.3, 0.5, 40)
    made = summary.summarise("planted", info, made_up({"a": first, "b": first + 0.2, "c": same}), {})
    assert next(score.method for score in made.scores) == "b"
    assert made.reference == "a"
    of = {score.method: score for score in made.scores}
    assert of["a"].numbers["ap"].value == pytest.approx(first.mean())
    assert of["a"].difference is None
    assert of["b"].difference.value == pytest.approx(0.2)
    assert of["b"].p == pytest.approx(2 / 10_001)
    assert of["c"].p > 0.05
    assert of["b"].groups["small"]["ap"] == pytest.approx((first[1::2] + 0.2).mean())
    assert list(made.groups.items()) == [("small", 20), ("large", 20)]
    line = made.table()[0]
    assert line[0] == "b"
    assert line[3] == "+.200 (p .0002)"
    assert made.table(intervals=False)[0][1] == line[1].split(" ")[0]
    json.dumps(made.to_dict())


def test_methods_are_compared_on_the_cases_that_both_have():
    info = KINDS["planted"]
    rows = made_up({"a": [0.1, 0.2, 0.3], "b": [0.2, 0.3, 0.4]})
    rows[1] = replace(rows[1], numbers={}, error="broken")
    made = summary.summarise("planted", info, rows, {})
    assert next(s for s in made.scores if s.method == "b").difference.value == pytest.approx(0.1)
    assert [note.code for note in made.notes] == ["bench.failed-for-one"]
    assert made.notes[0].params == {"method": "a", "failed": 1, "total": 3, "reason": "broken"}


def test_pixels_of_all_photos_are_pooled():
    counts = [(10, 0, 0, 90), (0, 50, 50, 0)]
    numbers = [{"counts": c, "iou_mean": i, "ap": 0.5, "ap_both": 0.6} for c, i in zip(counts, (1.0, 0.0), strict=True)]
    rows = [CaseResult("a", str(n), "small", one) for n, one in enumerate(numbers)]
    made = summary.summarise("segmentation", KINDS["segmentation"], rows, {}).scores[0]
    assert made.numbers["accuracy"].value == 0.5
    assert made.numbers["miou"].value == pytest.approx((10 / 110 + 90 / 190) / 2)
    assert made.numbers["ap_both"].value == 0.6
