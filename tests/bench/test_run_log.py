"""The log of a run: resuming, and what is never taken for it."""

import json
import os
from dataclasses import replace

import pytest

from tests.helpers.benchmarks import rows_of
from tests.helpers.errors import raises
from vitscope._documents import document_bytes
from vitscope.bench import run_log
from vitscope.bench.benchmark import make_benchmark, run_benchmark
from vitscope.bench.run_log import CaseResult, RunLog
from vitscope.bench.runner import explain_case
from vitscope.errors import ResultError

pytestmark = pytest.mark.usefixtures("plots_are_not_drawn")

# --- resuming


class Stop(Exception):
    pass


def test_an_interrupted_run_goes_on_and_gives_the_same(tiny_scope, benchmark, tmp_path, monkeypatch):
    rows = rows_of(tiny_scope, "attention", "rollout")
    whole = run_benchmark(tiny_scope, benchmark, rows, tmp_path / "whole")

    def stop(done, total):
        assert total == 12
        if done == 5:
            raise Stop

    with pytest.raises(Stop):
        run_benchmark(tiny_scope, benchmark, rows, tmp_path / "o", on_progress=stop)
    lines = (tmp_path / "o" / "rows.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 5
    with (tmp_path / "o" / "rows.jsonl").open("a") as file:
        file.write(lines[0][:40])  # a line cut off in the middle
    made = []
    monkeypatch.setattr("vitscope.bench.runner.explain_case", lambda *a: made.append(a[1].label) or explain_case(*a))
    said = []
    resumed = run_benchmark(tiny_scope, benchmark, rows, tmp_path / "o", on_note=said.append)
    assert len(made) == 12 - 5
    assert (said[0].code, said[0].params["count"]) == ("bench.resumed", 5)
    for one, other in zip(resumed.scores, whole.scores, strict=True):
        assert (one.method, one.numbers, one.groups, one.p) == (other.method, other.numbers, other.groups, other.p)
    made.clear()
    run_benchmark(tiny_scope, benchmark, rows_of(tiny_scope, "attention", "pca"), tmp_path / "o")
    assert set(made) == {"pca"}, "another method is added, the others stay"


def test_other_options_are_refused_by_name(tiny_scope, benchmark, tmp_path):
    rows = rows_of(tiny_scope, "attention")
    run_benchmark(tiny_scope, benchmark, rows, tmp_path / "o")
    other = make_benchmark(tiny_scope, "planted", count=3, size=80, seed=2)
    with raises(ResultError, "files.other-options", "bench.other-options.hint") as caught:
        run_benchmark(tiny_scope, other, rows, tmp_path / "o")
    changes = [dict(one.params) for one in caught.value.message.params["changes"].params.values()]
    assert changes == [{"name": "seed", "before": "1", "now": "2"}, {"name": "size", "before": "64", "now": "80"}]
    changed = replace(benchmark, options={**benchmark.options, "weights": "others"})
    with raises(ResultError, "files.other-options") as caught:
        run_benchmark(tiny_scope, changed, rows, tmp_path / "o")
    change = caught.value.message.params["changes"].params
    assert (change["name"], change["now"]) == ("weights", "'others'")
    run_benchmark(tiny_scope, other, rows, tmp_path / "o", force=True)
    kept = [json.loads(line) for line in (tmp_path / "o" / "rows.jsonl").read_text().splitlines()]
    assert len(kept) == 9
    assert json.loads((tmp_path / "o" / "bench.json").read_text())["seed"] == 2


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    for force in (False, True):
        with raises(ResultError, "bench.not-a-benchmark"):
            RunLog(tmp_path, {}, force=force)
    assert (tmp_path / "thesis.txt").read_text() == "years"
    (tmp_path / "bench.json").write_text("not json")
    with raises(ResultError, "files.broken-options"):
        RunLog(tmp_path, {})
    (tmp_path / "bench.json").write_bytes(document_bytes({}))
    (tmp_path / "rows.jsonl").write_text('{"key": "x", "methods": 1}\n')
    with raises(ResultError, "bench.broken-row"):
        RunLog(tmp_path, {})


def test_rows_of_another_key_are_not_taken(tmp_path):
    one = RunLog(tmp_path / "o", {"seed": 0})
    one.add(CaseResult("attention", "a", "g", {"ap": 0.5}))
    path = tmp_path / "o" / "rows.jsonl"
    line = path.read_text().replace('"case": "a"', '"case": "b"')
    path.write_text(line)
    with raises(ResultError, "bench.broken-row", "bench.broken-row.hint"):
        RunLog(tmp_path / "o", {"seed": 0})
    path.write_bytes(document_bytes({k: v for k, v in json.loads(line).items() if k != "sha256"}, indent=None))
    again = RunLog(tmp_path / "o", {"seed": 0})
    assert again.get("attention", "a") is None
    assert again.get("attention", "b") is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("numbers", {"ap": "high"}), ("numbers", {"ap": {"x": 1}}), ("numbers", [1]), ("seconds", -1), ("forward", -0.5)],
)
def test_a_row_holds_numbers_alone(tmp_path, field, value):
    log = RunLog(tmp_path, {"seed": 0})
    log.add(CaseResult("rollout", "a", "g", {"ap": 0.5, "auc": None, "counts": [1, 2], "hit": True}, 0.25))
    assert RunLog(tmp_path, {"seed": 0}).get("rollout", "a").numbers["counts"] == [1, 2]
    document = json.loads((tmp_path / "rows.jsonl").read_bytes())
    del document["sha256"]
    (tmp_path / "rows.jsonl").write_bytes(document_bytes(document | {field: value}, indent=None))
    with raises(ResultError, "bench.broken-row") as caught:
        RunLog(tmp_path, {"seed": 0})
    assert field in str(caught.value)


def test_a_fingerprint_sees_contents_and_names(tmp_path):
    (tmp_path / "a").write_text("1")
    first = run_log.fingerprint(tmp_path)
    (tmp_path / "a").write_text("2")
    second = run_log.fingerprint(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, run_log.fingerprint(tmp_path)}) == 3
    assert run_log.fingerprint(None) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("name", ["rows.jsonl", "bench.json"])
def test_a_pipe_in_the_place_of_a_file_is_refused(tmp_path, name):
    RunLog(tmp_path, {"seed": 0})
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(ResultError):
        RunLog(tmp_path, {"seed": 0})
