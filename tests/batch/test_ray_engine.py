"""Pieces through a real Ray cluster on this machine: workers killed, a piece that kills, nothing that moves."""

import os
import queue
import re
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.errors import raises
from vitscope.batch import ray_pool
from vitscope.batch.ray_cluster import Cluster, start_ray
from vitscope.batch.ray_pool import NoProgressError, run
from vitscope.errors import ImageError, MissingDependencyError, ResultError, UsageError

WORKERS = 2
EXACT = ("id", "row", "source", "sha256", "width", "box", "grid_rows", "method", "notes", "error", "error_kind")
pytestmark = [  # Ray deprecates its own defaults, and leaves log files open
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*"),
    pytest.mark.filterwarnings("ignore:unclosed file.*ray:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*unclosed file.*ray:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*Popen.__del__:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*ray-data:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def ray_here(tmp_path_factory):
    """A cluster with a CPU for each worker and one to read, shared by the tests of this module."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    ray = pytest.importorskip("ray", reason="ray is not installed")
    folder = tmp_path_factory.mktemp("ray")
    try:
        start_ray(Cluster(workers=WORKERS), folder)
    except ResultError:  # other tests keep a small machine busier than Ray's own start limit allows: twice as patient
        ray.shutdown()
        start_ray(Cluster(workers=WORKERS), folder)
    yield ray
    for thread in threading.enumerate():  # of the run that was given up: its piece comes to an end
        if thread.name == "vitscope-ray":
            thread.join(60)
    ray.shutdown()


def job(killing=(), stuck=(), broken=None, freed=None):
    """What workers do: a class made here, so that it is pickled by value."""

    class Handler:
        def __call__(self, piece, tick):
            import os
            import signal
            import sys
            import time

            if "rfc3987_syntax.syntax_helpers" in sys.modules:
                return piece, "began slowly"
            if piece in killing:
                os.kill(os.getpid(), signal.SIGKILL)
            while piece in stuck and not os.path.exists(freed):  # noqa: PTH110 - nothing is imported in a worker
                time.sleep(0.1)
            if broken is not None:
                raise broken
            time.sleep(0.02)
            tick()
            return piece, os.getpid()

        def give_up(self, piece, deaths):
            return piece, f"gave up after {deaths}"

    return Handler


def numbered(count):
    return ((str(number), number) for number in range(count))


def test_pieces_go_through_a_cluster(ray_here):
    done = dict(run(Cluster(workers=WORKERS), numbered(6), job()))
    assert sorted(done) == list(range(6))
    assert os.getpid() not in done.values()
    assert "began slowly" not in done.values()  # jsonschema found the grammar of URIs that Jupyter brings


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_and_a_deadly_piece_only_itself(ray_here):
    done = list(run(Cluster(workers=WORKERS), numbered(24), job(killing=[11])))
    assert sorted(piece for piece, _ in done) == list(range(24))
    assert dict(done)[11] == "gave up after 3"
    assert len({who for _, who in done if isinstance(who, int)}) >= WORKERS


@pytest.mark.slow
def test_the_engine_makes_the_rows_of_the_local_one_while_a_worker_is_killed(ray_here, tiny_folder, tmp_path):
    import psutil
    import pyarrow.parquet as pq
    from PIL import Image
    from skimage import data

    from vitscope.batch.rows import map_from_row
    from vitscope.batch.run import run as batch
    from vitscope.batch.types import BatchPlan

    (photos := tmp_path / "photos").mkdir()
    for number in range(24):
        Image.fromarray(data.chelsea()).rotate(number * 9).resize((120, 80)).save(photos / f"{number:02}.png")
    (photos / "07.png").write_bytes(b"no picture")
    killed = []

    def kill(images, failed):
        for process in psutil.process_iter(["cmdline"]):
            if not killed and any("ray::MapWorker" in part for part in process.info["cmdline"] or ()):
                process.kill()
                killed.append(process.pid)

    plan = BatchPlan(str(tiny_folder), methods=("rollout",), device="cpu", shard_size=3)
    alone = batch(str(photos), tmp_path / "alone", plan)
    many = batch(str(photos), tmp_path / "many", replace(plan, workers=WORKERS), engine="ray", on_progress=kill)
    assert killed
    assert (many.images, many.failed, many.failures, many.shards) == (24, 1, {"ImageError": 1}, 8)
    assert (alone.images, alone.failed, alone.failures, alone.shards) == (24, 1, {"ImageError": 1}, 8)
    one, other = (pq.read_table(tmp_path / name / "data").to_pylist() for name in ("alone", "many"))
    assert len(one) == len(other) == 24
    for here, there in zip(one, other, strict=True):
        assert [here[k] for k in EXACT] == [there[k] for k in EXACT]
        if here["map"]:  # float16 of float32 sums whose order depends on the number of threads
            assert np.allclose(map_from_row(here), map_from_row(there), rtol=2e-3, atol=0)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_in_one_line(ray_here):
    full = OSError(28, "No space left on device", "/data/out")
    with raises(ResultError, "batch.worker-file-error") as caught:
        list(run(Cluster(workers=1), numbered(3), job(broken=full)))
    assert caught.value.message.params == {"path": "/data/out", "reason": "No space left on device"}


@pytest.mark.slow
def test_a_source_that_breaks_is_told_as_it_is(ray_here):
    def breaking():
        yield "0", 0
        raise ImageError("the list is gone", "look for it")

    with pytest.raises(ImageError, match="the list is gone"):
        list(run(Cluster(workers=1), breaking(), job()))


def test_too_few_cpus_are_told_with_what_is_needed(ray_here):
    with raises(UsageError, "batch.too-few-cpus") as caught:
        list(run(Cluster(workers=3), numbered(1), job()))
    assert caught.value.message.params == {"cpus": 3, "workers": 3, "needed": 4, "each": 1}
    assert "--workers 2" in caught.value.spoken("cli")[1]


def test_an_address_where_nobody_answers_is_one_line(monkeypatch, capfd):
    ray = pytest.importorskip("ray", reason="ray is not installed")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with raises(UsageError, "batch.no-cluster") as told:
        list(run(Cluster(address="127.0.0.1:1"), [], job()))
    assert len(str(told.value).splitlines()) == 1
    assert "refused" in told.value.message.params["reason"]
    assert capfd.readouterr() == ("", "")


def test_ray_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"vitscope\[ray\]"):
        list(run(Cluster(), [], job()))


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"cpus": 0}, {"stall_timeout": 0}])
def test_numbers_that_make_no_sense(wrong):
    with raises(UsageError, "batch.cluster-numbers"):
        Cluster(**wrong)


@pytest.mark.slow
def test_when_nothing_moves_it_says_what_waits(ray_here, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_pool, "_DRAIN_TIMEOUT", 0.1)  # what is stuck ends only when it is freed, below
    begun = time.monotonic()
    with raises(NoProgressError, "joined") as caught:
        list(run(Cluster(workers=1, stall_timeout=2), numbered(1), job(stuck=[0], freed=str(tmp_path / "freed"))))
    stalled, tasks, *_ = caught.value.message.params.values()
    assert (stalled.code, stalled.params["seconds"]) == ("batch.stalled", "2")
    assert re.fullmatch(r"0 \(process \d+ on [\d.]+, \d+ s\)", tasks.params["tasks"])
    (tmp_path / "freed").touch()  # the piece comes to an end, so that the cluster can
    assert time.monotonic() - begun < 240


@pytest.mark.slow
def test_a_desk_that_does_not_answer_yet_has_the_time_of_a_start(monkeypatch):
    pytest.importorskip("ray", reason="ray is not installed")
    monkeypatch.setattr(ray_pool, "_START_TIMEOUT", 1)
    begun = time.monotonic()
    with raises(NoProgressError, "batch.board-lost"):
        list(ray_pool._collect(queue.Queue(), object(), 0.1))
    assert time.monotonic() - begun >= 1
