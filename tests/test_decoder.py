"""Pictures of unknown cost are decoded in a process that can be ended."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests.helpers.errors import raises
from tests.helpers.odd_pictures import bad, encoded, good
from vitscope import _decoder
from vitscope._decoder import guarded, is_guarded
from vitscope.errors import ImageError, OutOfMemoryError, VitscopeError
from vitscope.images import load_image

SLOW = b"P3\n#" + b"x" * 4_000_000 + b"\n2 2 255 " + b"1 " * 12  # a second and more in Python alone
TIFF = encoded(np.arange(48, dtype=np.uint8).reshape(4, 4, 3), "TIFF")


def answer(data):
    try:
        picture = load_image(data)
    except VitscopeError as error:
        return str(error)
    return picture.pixels.tobytes(), picture.notes


def test_every_odd_picture_is_what_it_is_in_place():
    files = [one[1] for one in (*good(), *bad())]
    in_place = [answer(data) for data in files]
    with guarded():
        assert [answer(data) for data in files] == in_place


def test_a_deadline_ends_the_decoder_and_the_next_picture_is_read():
    with guarded(seconds=0.2):
        began = time.monotonic()
        with raises(ImageError, "images.too-slow"):
            load_image(SLOW)
        assert time.monotonic() - began < 20  # most of it is the start of a process
    with guarded():
        assert load_image(TIFF).size == (4, 4)


@pytest.mark.slow
def test_other_threads_go_on_while_one_picture_is_slow():
    with guarded(seconds=3):
        load_image(TIFF)
        slow = threading.Thread(target=lambda: answer(SLOW))
        slow.start()
        for _ in range(5):
            assert load_image(TIFF).size == (4, 4)
        assert slow.is_alive()
        slow.join()


def test_processes_end_with_the_guard():
    with guarded():
        load_image(TIFF)
        waiting = _decoder._GUARD.idle[0]
        assert waiting.alive
    assert not waiting.alive
    assert not is_guarded()
    assert _decoder._GUARD.idle == []


@pytest.mark.slow
def test_a_decoder_that_was_killed_while_it_waited_is_replaced():
    with guarded():
        load_image(TIFF)
        _decoder._GUARD.idle[0]._process.kill()
        _decoder._GUARD.idle[0]._process.wait()
        assert load_image(TIFF).size == (4, 4)


def test_a_decoder_that_does_not_start_is_no_broken_picture(monkeypatch):
    monkeypatch.setattr(_decoder, "_COMMAND", "raise SystemExit(1)")
    with guarded(), raises(OutOfMemoryError, "images.no-decoder"):
        load_image(TIFF)


def test_a_decoder_that_starts_too_slowly_is_not_said_to_lack_memory(monkeypatch):
    monkeypatch.setattr(_decoder, "_COMMAND", "import time; time.sleep(60)")
    monkeypatch.setattr(_decoder, "_START_SECONDS", 0.5)
    with guarded(), raises(OutOfMemoryError, "images.slow-decoder") as caught:
        load_image(TIFF)
    assert "within 0.5 seconds" in str(caught.value)


def test_memory_is_limited():
    command = "from vitscope import _decoder; _decoder._limit(5, 1); bytearray(4_000_000_000)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    assert "MemoryError" in done.stderr


@pytest.mark.parametrize("guard", ["guarded()", "nullcontext()"])
def test_what_libraries_write_does_not_reach_stderr(tmp_path, guard):
    """libtiff writes to the file of stderr itself, and tifffile logs."""
    damaged = bytearray(encoded(np.zeros((64, 64, 3), np.uint8), "TIFF", compression="tiff_lzw"))
    damaged[20:60] = np.random.default_rng(0).bytes(40)
    (tmp_path / "damaged.tif").write_bytes(damaged)
    command = """if True:
        import sys
        from contextlib import nullcontext
        from vitscope._decoder import guarded
        from vitscope.errors import ImageError
        from vitscope.images import load_image
        with GUARD:
            try:
                load_image(sys.argv[1])
            except ImageError as error:
                print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", command.replace("GUARD", guard), tmp_path / "damaged.tif"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "truncated or broken" in done.stdout
    assert done.stderr == ""
