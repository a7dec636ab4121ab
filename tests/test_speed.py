"""`make bench` in short: the page is made of the figures alone, rows are resumed, and what fails says so."""

import copy
import json
import time

import pytest
from benchmarks.speed import __main__ as speed
from benchmarks.speed import measuring, report
from benchmarks.speed.rows import ROWS, Settings

pytestmark = pytest.mark.usefixtures("as_shipped")


def ways(**seconds):
    return {name: {"seconds": values, "cpu": values, "mb": 10.0 * len(name)} for name, values in seconds.items()}


TOLD = {
    "machine": {
        "cores": 2,
        "cpu": "a processor",
        "threads": 2,
        "system": "Linux",
        "allocator": "glibc",
        "versions": {"torch": "2.14.1"},
    },
    "rows": {
        "rollout-518": {
            "group": "reach",
            "about": "`rollout`, 518 px",
            "when": "2026-11-29T13:10+00:00",
            "load": 0.25,
            "tokens": 1370,
            "ways": ways(plain=[1.0, 2.0, 4.0], rollout=[1.5, 2.2, 4.8], dense=[9.0]),
        },
        "hooks-518": {
            "group": "peers",
            "about": "timm, unfused, hooks",
            "tokens": 1370,
            "versions": {"timm": "1.0.31"},
            "ways": ways(plain=[1.0, 1.0], vitscope=[1.25, 1.25], peer=[5.0, 2.5]),
            "spearman": {"peer": 0.5, "vitscope": 1.0},
        },
        "lxt-518": {"group": "peers", "about": "LXT", "tokens": 1370, "failed": "KeyError: 'a | b'"},
        "daam-1022": {"group": "peers", "about": "DAAM", "crashed": "ended by signal 9"},
    },
}


def test_ratios_are_of_neighbours():
    page = report.page(TOLD)
    assert "| `rollout`, 518 px | 2 | 1.20 [1.10 1.50] | 1.15 | 50 / 70 | - |" in page
    assert "| 1,370 | dense | 2 | 4.50 | 50 / 50 |" in page  # ran once: beside the median of the floor


def test_a_peer_stands_beside_vitscope_with_what_its_map_is_worth():
    page = report.page(TOLD)
    line = "1.25 [1.25 1.25] | 3.75 [2.50 5.00] | 3.00 | 50 / 80 / 40 | 0.5 | 0.5000 (1.0000) |"
    assert f"| timm, unfused, hooks (timm 1.0.31) | 1 | {line}" in page


def test_what_failed_says_so():
    page = report.page(TOLD)
    assert "its own message: KeyError: 'a / b'" in page
    assert "`daam-1022`: ended by signal 9" in page


def test_what_is_not_measured_is_not_there():
    page = report.page(TOLD | {"rows": {}})
    assert "not measured" in page
    assert "| `rollout`" not in page


@pytest.mark.slow
def test_the_page_changes_with_its_figures_alone(tmp_path):
    told = copy.deepcopy(TOLD)
    report.write(told, tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert set(first) == {"performance.md", "performance-time.png", "performance-memory.png"}
    report.write(told, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*.*")} == first
    told["rows"]["rollout-518"]["ways"]["rollout"]["seconds"] = [3.0, 6.0, 12.0]
    report.write(told, tmp_path)
    changed = {path.name for path in tmp_path.rglob("*.*") if path.read_bytes() != first[path.name]}
    assert changed == {"performance.md", "performance-time.png"}


def test_the_committed_page_is_made_of_the_committed_figures():
    told = json.loads((speed.DOCS / "performance.json").read_text("utf-8"))
    assert (speed.DOCS / "performance.md").read_text("utf-8") == report.page(told)


def test_plotted_points_are_those_that_ran():
    assert report.points(TOLD["rows"], "rollout", "dense", memory=False) == [(1370, 9.0)]
    assert report.points(TOLD["rows"], "gradients", "plain", memory=False) == []


@pytest.mark.slow
def test_ways_take_turns_and_a_failing_one_keeps_its_message():
    order = []

    def fails():
        order.append("bad")
        raise ValueError("no map\nat all")

    runs = {"plain": lambda: order.append("plain"), "bad": fails, "ours": lambda: time.sleep(0.02)}
    found = measuring.measured(runs, rounds=3, seconds=60)
    assert order == ["plain", "plain", "bad", "plain", "plain", "plain"]
    assert found["bad"]["failed"] == "ValueError: no map"
    assert len(found["ours"]["seconds"]) == 3
    assert min(found["ours"]["seconds"]) >= 0.02


@pytest.mark.slow
def test_memory_is_that_of_one_call():
    def takes():
        return bytearray(b"x") * (60 * 2**20)

    found = measuring.measured({"none": lambda: None, "takes": takes}, rounds=1, seconds=9)
    assert 55 < found["takes"]["mb"] < 75
    assert found["none"]["mb"] < 10


def run(monkeypatch, tmp_path, *flags, found=None):
    ran = []

    def run_row(name, quick, limit):
        ran.append(name)
        return {"when": "2026-11-29", "load": 0.0} | (found or {"took": 1.0, "tokens": 5, "ways": ways(plain=[1.0])})

    monkeypatch.setattr(speed, "run_row", run_row)
    monkeypatch.setattr("sys.argv", ["speed", "--out", str(tmp_path), "--rows", "rollout-168,rollout-224", *flags])
    return speed.main(), ran


@pytest.mark.slow
def test_a_finished_row_is_not_run_again(monkeypatch, tmp_path):
    assert run(monkeypatch, tmp_path, found={"crashed": "ended by signal 9"}) == (2, ["rollout-168", "rollout-224"])
    assert run(monkeypatch, tmp_path) == (0, ["rollout-168", "rollout-224"])
    assert run(monkeypatch, tmp_path) == (0, [])
    assert run(monkeypatch, tmp_path, "--again") == (0, ["rollout-168", "rollout-224"])


@pytest.mark.slow
def test_rows_of_another_machine_are_measured_again(monkeypatch, tmp_path):
    assert run(monkeypatch, tmp_path)[1] == ["rollout-168", "rollout-224"]
    file = tmp_path / "performance.json"
    told = json.loads(file.read_text())
    told["machine"]["cpu"] = "another"
    file.write_text(json.dumps(told))
    assert run(monkeypatch, tmp_path)[1] == ["rollout-168", "rollout-224"]


@pytest.mark.slow
def test_a_row_that_dies_says_how():
    assert speed.run_row("no-such-row", True, 200)["crashed"] == "KeyError: 'no-such-row'"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["rollout-518", "gradients-518", "each-gradient-518", "default-518", "large-1", "everything-518", "measure-224"],
)
def test_a_row_runs(name):
    found = ROWS[name].measure(Settings(quick=True))
    assert all(len(way["seconds"]) == 1 and "failed" not in way for way in found["ways"].values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["output-attentions", "hooks", "torchcam", "grad-cam", "captum-ixg", "captum-ig"])
def test_a_peer_and_vitscope_have_the_map_of_the_twin(name):
    found = ROWS[f"{name}-196"].measure(Settings(quick=True))
    assert found["spearman"] == {"vitscope": 1.0, "peer": 1.0}
