"""Which pictures are in work, on file, so that those over which the process died are known afterwards."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from vitscope.batch.types import Ref, Task
from vitscope.errors import VitscopeError

__all__ = ["DEATHS_BEFORE_TRIAL", "IN_PROGRESS_FILE", "SUSPECTS_FILE", "CrashLog", "CrashingImage"]

DEATHS_BEFORE_TRIAL = 2
IN_PROGRESS_FILE, SUSPECTS_FILE = ".in-work", ".suspects.json"
_BLANK = b" " * 32 + b"\n"  # in the place of an id


class CrashingImage(VitscopeError):
    """A picture over which the process dies."""


class CrashLog:
    """What is in work, on file; and which pictures are never to be again. Made by `watching`.

    Args:
        folder: the output folder.
        trial: from refs to words about those over which a process died, by id.
    """

    def __init__(self, folder: Path, try_refs: Callable[[Sequence[Ref]], dict[str, str]]) -> None:
        self._try_refs, self._in_progress, self._suspects = try_refs, folder / IN_PROGRESS_FILE, folder / SUSPECTS_FILE
        known: dict[str, dict[str, int]] = {}
        with suppress(OSError, ValueError):
            known = json.loads(self._suspects.read_text("utf-8"))
        last = self._in_progress.read_text("ascii", "replace").split() if self._in_progress.exists() else []
        self._deaths = {name: known.get("deaths", {}).get(name, 0) + 1 for name in last}
        self._crashing: dict[str, str] = {**known.get("deadly", {})}  # type: ignore[dict-item]
        self._save()
        self._lock, self._free, self._count = Lock(), list[int](), 0
        self._file = self._in_progress.open("wb", buffering=0)

    def close(self) -> None:
        """Whoever comes here did not die: nothing is in work any more."""
        self._file.close()
        with suppress(OSError):
            self._in_progress.unlink()
            self._deaths = {}
            self._save()

    @contextmanager
    def in_progress(self, *refs: Ref) -> Iterator[None]:
        """The refs stand on file for the length of a `with`; from any thread. Not synced: the system outlives us."""
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
        """Why a picture is not to be worked on, if it is not."""
        words = self._crashing.get(ref.id)
        return None if words is None else CrashingImage(f"{ref.source}: {words}", "see what another program says of it")

    def screened(self, tasks: Iterator[Task]) -> Iterator[Task]:
        """The tasks as they are; suspects among their pictures are tried before."""
        for task in tasks:
            suspects = [
                ref
                for ref in task.refs
                if self._deaths.get(ref.id, 0) >= DEATHS_BEFORE_TRIAL and not self.crash_error(ref)
            ]
            if suspects:
                self._crashing |= self._try_refs(suspects)
                with suppress(OSError):
                    self._save()
            yield task

    def _take_slot(self) -> int:
        if not self._free:
            self._free.append(self._count)
            self._count += 1
        return self._free.pop()

    def _write_slots(self, slots: Sequence[int], lines: Sequence[bytes]) -> None:
        with suppress(OSError):  # a full disk is told where it matters
            for slot, line in zip(slots, lines, strict=True):
                self._file.seek(slot * len(_BLANK))
                self._file.write(line)

    def _save(self) -> None:
        if not self._deaths and not self._crashing:
            self._suspects.unlink(missing_ok=True)
            return
        part = self._suspects.with_name(f"{SUSPECTS_FILE}.part")
        part.write_text(json.dumps({"deaths": self._deaths, "deadly": self._crashing}), "utf-8")
        part.replace(self._suspects)
