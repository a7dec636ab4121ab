"""Decode images of strangers in processes that can be ended, where the cost is not known beforehand.

A decoder written in C keeps Python's lock, hears no signal and takes what memory it wants. So inside `guarded()` a file
whose cost its header does not bound (`_header_scan.check_cost`) is decoded by another process, with a deadline and a
limit of memory. Usual JPEG, PNG and WebP files are bounded, and are decoded in place.
"""

import os
import pickle
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vitscope._messages import msg
from vitscope.errors import ImageError, OutOfMemoryError, VitscopeError

if TYPE_CHECKING:
    from vitscope._bands import Reading
    from vitscope._pillow import Decoded

_SECONDS = 20.0
_START_SECONDS = 180.0  # for a process to start, on a busy machine
_KEPT = 2  # processes that wait for the next image
_BASE_BYTES, _PIXEL_BYTES = 2_000_000_000, 64  # of address space, and so many more for each pixel that is allowed
_READY = b"r"
_LENGTH = struct.Struct("<Q")
_COMMAND = "import sys; sys.path.insert(0, sys.argv[1]); from vitscope._decoder import _work; _work()"


class _Process:
    """One decoder process, which decodes one image after another."""

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parents[1])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _COMMAND, root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # an interrupt of the terminal is not for it
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._jobs, self._reply = self._process.stdin, self._process.stdout
        begun = time.monotonic()
        try:
            with self._ended_after(_START_SECONDS):
                started = self._reply.read(1) == _READY
        except BaseException:
            self.end()
            raise
        if not started:
            self.end()
            raise TimeoutError if time.monotonic() - begun >= _START_SECONDS else OSError

    def decode(self, job: tuple[Any, ...], seconds: float) -> "Decoded | VitscopeError | None":
        """Return the decoded image, or the error; None where the process died or was ended after so many seconds."""
        made: Decoded | VitscopeError | None = None
        try:
            with self._ended_after(seconds), suppress(OSError, EOFError):
                _send(self._jobs, (*job, seconds))
                made = _receive(self._reply)
        finally:
            if made is None:
                self.end()
        return made

    @property
    def alive(self) -> bool:
        """Whether it can decode another image."""
        return self._process.poll() is None

    def end(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        for pipe in (self._jobs, self._reply):
            with suppress(OSError):
                pipe.close()
        self._process.wait()

    @contextmanager
    def _ended_after(self, seconds: float) -> Iterator[None]:
        timer = threading.Timer(seconds, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


class _Guard:
    """The decoder processes of this process, and how many callers want them."""

    def __init__(self) -> None:
        self.callers, self.lock, self.idle, self.seconds = 0, threading.Lock(), list[_Process](), _SECONDS

    def take(self) -> _Process:
        with self.lock:
            while self.idle:
                if (process := self.idle.pop()).alive:
                    return process
                process.end()
        try:
            return _Process()
        except TimeoutError:
            raise OutOfMemoryError.coded(
                "images.slow-decoder",
                "the process that decodes images did not start within {seconds} seconds",
                "the machine is busy: run it again when it is less so",
                seconds=f"{_START_SECONDS:g}",
            ) from None
        except OSError:
            raise OutOfMemoryError(
                msg("images.no-decoder", "the process that decodes images did not start"),
                msg("images.no-decoder.hint", "check the limits of memory and of processes: ulimit -v, ulimit -u"),
            ) from None

    def give(self, process: _Process) -> None:
        with self.lock:
            if keep := process.alive and self.callers > 0 and len(self.idle) < _KEPT:
                self.idle.append(process)
        if not keep:
            process.end()


_GUARD = _Guard()


@contextmanager
def guarded(seconds: float = _SECONDS) -> Iterator[None]:
    """Let every thread decode by other processes what is not bounded, until the last such `with` ends.

    `seconds` is the deadline for one image.
    """
    with _GUARD.lock:
        _GUARD.callers += 1
        _GUARD.seconds = seconds
    try:
        yield
    finally:
        with _GUARD.lock:
            _GUARD.callers -= 1
            unused = [] if _GUARD.callers else _GUARD.idle[:]
            del _GUARD.idle[: len(unused)]
        for process in unused:
            process.end()


def is_guarded() -> bool:
    """Return whether this process is within `guarded`."""
    return _GUARD.callers > 0


def decode_guarded(data: bytes, source: str, reading: "Reading", max_pixels: int | None) -> "Decoded":
    """Decode the bytes of an image file in another process.

    Raises:
        ImageError: as `decode` does; or it took too long, or the decoder died over it.
        OutOfMemoryError: it needed more memory than its pixels account for.

    Cost: half a second for the first image; then 3 ms for each, and 1 ms for each MB of the file and of the pixels.
    """
    seconds, process = _GUARD.seconds, _GUARD.take()
    began = time.monotonic()
    try:
        made = process.decode((data, source, reading, max_pixels), seconds)
    finally:
        _GUARD.give(process)
    if isinstance(made, VitscopeError):
        raise made
    if made is not None:
        return made
    if time.monotonic() - began < seconds:
        raise ImageError(
            msg("images.decoder-died", "{source} is broken: its decoder died over it", source=source),
            msg("images.broken.hint", "copy or download it again"),
        )
    took = format(seconds, "g")
    raise ImageError(
        msg("images.too-slow", "decoding {source} took more than {seconds} seconds", source=source, seconds=took),
        msg("images.too-slow.hint", "save it as JPEG or PNG, or make it smaller"),
    )


def _send(file: IO[bytes], value: object) -> None:
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    file.write(_LENGTH.pack(len(data)))
    file.write(data)
    file.flush()


def _receive(file: IO[bytes]) -> Any:
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    data = file.read(length)
    if len(data) < length:
        raise EOFError
    return pickle.loads(data)


def _work() -> None:
    """Decode images from stdin to stdout until stdin ends; what decoders themselves write goes nowhere."""
    from vitscope import _pillow
    from vitscope._formats import decode

    reply = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    reply.write(_READY)
    reply.flush()
    with suppress(EOFError, BrokenPipeError):
        while True:
            data, source, reading, max_pixels, seconds = _receive(sys.stdin.buffer)
            _limit(seconds, max_pixels or _pillow.MAX_PIXELS)
            made: Decoded | VitscopeError
            try:
                made = decode(data, source, reading, max_pixels)
            except VitscopeError as error:
                made = error
            del data
            try:
                _send(reply, made)
            except MemoryError as error:
                _send(reply, OutOfMemoryError.of(error, source))


def _limit(seconds: float, pixels: int) -> None:
    """Limit this process's memory, and its time for one image, where the system can."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + 2 * seconds) + 2, hard))
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = _BASE_BYTES + _PIXEL_BYTES * pixels
        resource.setrlimit(resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))
