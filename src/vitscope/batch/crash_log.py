"""The record of the images in progress, by which a later run knows which images were in work when the process died."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from vitscope._documents import DamagedFileError, document_bytes, read_bytes, read_document
from vitscope._files import atomic_write, make_room, write_errors
from vitscope._messages import msg
from vitscope.batch.schemas import Suspects
from vitscope.batch.types import Ref, Task
from vitscope.errors import ResultError, VitscopeError

log = logging.getLogger(__name__)

DEATHS_BEFORE_TRIAL = 2  # in a row: a single one may have been a kill from outside
_IN_PROGRESS, _SUSPECTS = ".in-progress", ".suspects.json"
_ID = re.compile("[0-9a-f]{32}")
_BLANK = b" " * 32 + b"\n"  # in the place of an id


class CrashingImage(VitscopeError):
    """An image over which the process dies."""


class CrashLog:
    """The images in progress, on file, and the images that crash the process.

    Made by `open_crash_log`.

    Args:
        folder: the output folder.
        try_images: from suspected images to those that crash a process, by id, with the name of the death.
    """

    def __init__(self, folder: Path, try_images: Callable[[Sequence[Ref]], dict[str, str]]) -> None:
        self._try_images = try_images
        self._in_progress, self._suspects = folder / _IN_PROGRESS, folder / _SUSPECTS
        earlier = Suspects()
        for path in (self._in_progress, self._suspects):
            make_room(path)
        try:
            earlier = read_document(self._suspects, Suspects) if self._suspects.exists() else earlier
            last = (
                read_bytes(self._in_progress).decode("ascii", "replace").split() if self._in_progress.exists() else []
            )
        except DamagedFileError as error:  # images are only tried again
            log.warning("%s; no image is suspected", error.message)
            last = []
        self._deaths = {name: earlier.deaths.get(name, 0) + 1 for name in last if _ID.fullmatch(name)}
        self._crashing = dict(earlier.crashing)
        self._save()
        self._lock, self._free, self._count = Lock(), list[int](), 0
        self._file = self._in_progress.open("wb", buffering=0)

    def close(self) -> None:
        """Remove the record of what is in progress: the process did not die."""
        self._file.close()
        with suppress(OSError, ResultError):
            self._in_progress.unlink()
            self._deaths = {}
            self._save()

    @contextmanager
    def in_progress(self, *refs: Ref) -> Iterator[None]:
        """Keep images on file during the `with`, from any thread; not synced: the system outlives the process."""
        with self._lock:
            slots = [self._take_slot() for _ in refs]
            self._write_slots(slots, [f"{ref.id}\n".encode() for ref in refs])
        try:
            yield
        finally:
            with self._lock:
                self._write_slots(slots, [_BLANK] * len(slots))
                self._free += slots

    def crash_error(self, ref: Ref) -> CrashingImage | None:
        """Return the error of an image that crashes the process; None for any other."""
        death = self._crashing.get(ref.id)
        if death is None:
            return None
        return CrashingImage(
            msg("batch.crashing-image", "{source}: the process dies over it ({death})", source=ref.source, death=death),
            msg("batch.crashing-image.hint", "check the file with another program"),
        )

    def screened(self, tasks: Iterator[Task]) -> Iterator[Task]:
        """Yield the tasks unchanged, each after its suspected images were tried."""
        for task in tasks:
            suspects = [ref for ref in task.refs if self._is_suspect(ref)]
            if suspects:
                log.debug("trying %d images that were in progress at several deaths", len(suspects))
                self._crashing |= self._try_images(suspects)
                with suppress(ResultError):
                    self._save()
            yield task

    def _is_suspect(self, ref: Ref) -> bool:
        return self._deaths.get(ref.id, 0) >= DEATHS_BEFORE_TRIAL and ref.id not in self._crashing

    def _take_slot(self) -> int:
        if not self._free:
            self._free.append(self._count)
            self._count += 1
        return self._free.pop()

    def _write_slots(self, slots: Sequence[int], lines: Sequence[bytes]) -> None:
        with suppress(OSError):  # a full disk is reported where it matters
            for slot, line in zip(slots, lines, strict=True):
                self._file.seek(slot * len(_BLANK))
                self._file.write(line)

    def _save(self) -> None:
        if not self._deaths and not self._crashing:
            self._suspects.unlink(missing_ok=True)
            return
        with atomic_write(self._suspects) as part:
            part.write_bytes(document_bytes({"deaths": self._deaths, "crashing": self._crashing}))


@contextmanager
def open_crash_log(folder: Path, try_images: Callable[[Sequence[Ref]], dict[str, str]]) -> Iterator[CrashLog]:
    """Open the crash log of an output folder.

    Leaving the `with`, even by an error, proves that the process did not crash.

    Raises:
        ResultError: the folder cannot be written.
    """
    with write_errors(folder):
        crash_log = CrashLog(folder, try_images)
    try:
        yield crash_log
    finally:
        crash_log.close()
