"""Pictures over which the process dies: suspected by what was in work, and given up only where a trial proves it.

That a whole run gets over one is shown by `benchmarks/kills.py --deadly`, which `test_batch_kills.py` runs.
"""

from dataclasses import replace

import pytest

from tests.helpers import faults
from vitscope.batch import crash_trial
from vitscope.batch.crash_log import CrashingImage, CrashLog
from vitscope.batch.crash_trial import try_in_subprocess
from vitscope.batch.types import BatchPlan, Ref, Task

REFS = tuple(
    Ref(number, f"{number}.png", f"photos/{number}.png", "file", f"photos/{number}.png") for number in range(6)
)
TASK = Task(0, REFS)


def died(folder, *refs, tried=lambda refs: {}):
    """What a run leaves that is killed while these are in work."""
    crash_log = CrashLog(folder, tried)
    list(crash_log.screened(iter([TASK])))
    with crash_log.in_progress(*refs):
        left = {path: path.read_bytes() for path in folder.iterdir()}
    crash_log.close()
    for path, data in left.items():
        path.write_bytes(data)


def test_only_what_was_in_work_at_two_deaths_in_a_row_is_tried(tmp_path):
    asked = []

    def tried(refs):
        asked.append([ref.row for ref in refs])
        return {REFS[2].id: "SIGSEGV"}

    died(tmp_path, REFS[1], REFS[2], tried=tried)
    died(tmp_path, REFS[2], REFS[3], tried=tried)
    assert asked == []
    died(tmp_path, REFS[4], tried=tried)
    assert asked == [[2]]
    crash_log = CrashLog(tmp_path, tried)
    assert list(crash_log.screened(iter([TASK]))) == [TASK]
    assert asked == [[2]]  # judged once and for all, and nothing else had died twice
    crash_error = crash_log.crash_error(REFS[2])
    assert isinstance(crash_error, CrashingImage)
    assert crash_error.code == "batch.crashing-image"
    assert crash_error.message.params == {"source": "photos/2.png", "death": "SIGSEGV"}
    assert crash_log.crash_error(REFS[4]) is None
    crash_log.close()
    again = CrashLog(tmp_path, tried)
    assert again.crash_error(REFS[2])  # the shard may not have been finished
    again.close()


def test_a_run_that_ends_in_order_leaves_no_suspects(tmp_path):
    died(tmp_path, REFS[1])
    crash_log = CrashLog(tmp_path, lambda refs: {})
    with crash_log.in_progress(*REFS[:3]), crash_log.in_progress(REFS[3]):
        pass
    crash_log.close()
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_work_stands_on_file_while_it_is(tmp_path):
    crash_log = CrashLog(tmp_path, lambda refs: {})

    def standing():
        return {*(tmp_path / ".in-progress").read_text().split()}

    with crash_log.in_progress(*REFS[:2]):
        with crash_log.in_progress(REFS[2]):
            assert standing() == {ref.id for ref in REFS[:3]}
        with crash_log.in_progress(REFS[5]):
            assert standing() == {REFS[n].id for n in (0, 1, 5)}
        assert standing() == {ref.id for ref in REFS[:2]}
    assert standing() == set()
    assert (tmp_path / ".in-progress").stat().st_size == 3 * 33
    crash_log.close()


def test_notes_that_are_broken_count_as_none(tmp_path):
    (tmp_path / ".suspects.json").write_text("{")
    (tmp_path / ".in-progress").write_bytes(b"\xff\x00 half of an i")
    CrashLog(tmp_path, lambda refs: {}).close()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def refs(tmp_path, photo):
    places = [tmp_path / name for name in ("fine.png", "broken.png", "deadly.png")]
    for place in places:
        place.write_bytes(b"no picture" if place.stem == "broken" else photo.read_bytes())
    return tuple(Ref(n, place.name, str(place), "file", str(place)) for n, place in enumerate(places))


@pytest.fixture
def fault(monkeypatch, tmp_path):
    """Put a fault into processes that are started from here on."""

    def put(words):
        for name, value in faults.environment(words, tmp_path / "faults").items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.slow
def test_a_trial_in_a_process_apart_names_the_picture_and_how_it_died(refs, tiny_folder, fault):
    fault("during-decode@deadly.png")
    plan = BatchPlan(str(tiny_folder), methods=("rollout",), device="cpu")
    assert try_in_subprocess(refs, plan, model=True) == {refs[2].id: "SIGKILL"}


@pytest.mark.slow
def test_a_trial_goes_on_after_a_death_and_proves_nothing_against_the_others(refs, fault):
    fault("during-decode@e.png")  # the first
    plan = BatchPlan("a model that only its maker has", methods=("rollout",))
    assert [*try_in_subprocess(refs, plan, model=False)] == [refs[0].id]
    fault("during-decode=EIO")
    assert try_in_subprocess(refs, plan, model=False) == {}
    assert (
        try_in_subprocess(refs, replace(plan, model="nowhere/nothing:at-all"), model=True) == {}
    )  # dies before it is ready


@pytest.mark.parametrize(
    ("code", "deadly"), [(-9, True), (-11, True), (-2, False), (-15, False), (1, False), (0, False)]
)
def test_a_wish_to_stop_is_no_crash(code, deadly):
    assert crash_trial._died(code) is deadly
    assert crash_trial._died(0xC0000005)
