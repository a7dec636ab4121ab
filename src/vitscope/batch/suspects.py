"""Pictures over which the process dies: found out by what was in work when it died, and tried in a process apart.

A decoder that crashes or memory that runs out leaves no error to catch. So the ids of the pictures in work stand in a
file of the output folder; those that stand there when a run begins were in work when the one before it was killed. A
kill from outside looks the same, so that alone proves nothing: a picture that was in work at `DEATHS` deaths in a row
is tried in a process of its own, and only where that dies as well it is given up.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from vitscope.batch.contract import Plan, Ref, Task
from vitscope.batch.shards import writing
from vitscope.errors import VitscopeError

if TYPE_CHECKING:
    from vitscope.pipeline import Scope

__all__ = ["DEATHS", "Deadly", "Watch", "watching"]

DEATHS = 2
IN_WORK, SUSPECTS = ".in-work", ".suspects.json"
_BLANK = b" " * 32 + b"\n"  # in the place of an id
_READY = b"ready"
_ASKED_TO_STOP = (-signal.SIGINT, -signal.SIGTERM)


class Deadly(VitscopeError):
    """A picture over which the process dies."""


class Watch:
    """What is in work, on file; and which pictures are never to be again. Made by `watching`.

    Args:
        folder: the output folder.
        trial: from refs to words about those over which a process died, by id.
    """

    def __init__(self, folder: Path, trial: Callable[[Sequence[Ref]], dict[str, str]]) -> None:
        self._trial, self._in_work, self._suspects = trial, folder / IN_WORK, folder / SUSPECTS
        known: dict[str, dict[str, int]] = {}
        with suppress(OSError, ValueError):
            known = json.loads(self._suspects.read_text("utf-8"))
        last = self._in_work.read_text("ascii", "replace").split() if self._in_work.exists() else []
        self._deaths = {name: known.get("deaths", {}).get(name, 0) + 1 for name in last}
        self._deadly: dict[str, str] = {**known.get("deadly", {})}  # type: ignore[dict-item]
        self._keep()
        self._lock, self._free, self._count = Lock(), list[int](), 0
        self._file = self._in_work.open("wb", buffering=0)

    def close(self) -> None:
        """Whoever comes here did not die: nothing is in work any more."""
        self._file.close()
        with suppress(OSError):
            self._in_work.unlink()
            self._deaths = {}
            self._keep()

    @contextmanager
    def working(self, *refs: Ref) -> Iterator[None]:
        """The refs stand on file for the length of a `with`; from any thread. Not synced: the system outlives us."""
        with self._lock:
            places = [self._place() for _ in refs]
            self._put(places, [f"{ref.id}\n".encode() for ref in refs])
        try:
            yield
        finally:
            with self._lock:
                self._put(places, [_BLANK] * len(places))
                self._free += places

    def verdict(self, ref: Ref) -> Deadly | None:
        """Why a picture is not to be worked on, if it is not."""
        words = self._deadly.get(ref.id)
        return None if words is None else Deadly(f"{ref.source}: {words}", "see what another program says of it")

    def judged(self, tasks: Iterator[Task]) -> Iterator[Task]:
        """The tasks as they are; suspects among their pictures are tried before."""
        for task in tasks:
            suspects = [ref for ref in task.refs if self._deaths.get(ref.id, 0) >= DEATHS and not self.verdict(ref)]
            if suspects:
                self._deadly |= self._trial(suspects)
                with suppress(OSError):
                    self._keep()
            yield task

    def _place(self) -> int:
        if not self._free:
            self._free.append(self._count)
            self._count += 1
        return self._free.pop()

    def _put(self, places: Sequence[int], lines: Sequence[bytes]) -> None:
        with suppress(OSError):  # a full disk is told where it matters
            for place, line in zip(places, lines, strict=True):
                self._file.seek(place * len(_BLANK))
                self._file.write(line)

    def _keep(self) -> None:
        if not self._deaths and not self._deadly:
            self._suspects.unlink(missing_ok=True)
            return
        part = self._suspects.with_name(f"{SUSPECTS}.part")
        part.write_text(json.dumps({"deaths": self._deaths, "deadly": self._deadly}), "utf-8")
        part.replace(self._suspects)


@contextmanager
def watching(folder: Path, plan: Plan, *, model: bool) -> Iterator[Watch]:
    """Watch a run into `folder`; with `model`, the plan's model can be loaded in another process.

    Raises:
        ResultError: the folder cannot be written.
    """
    with writing(folder):
        watch = Watch(folder, lambda refs: trial(refs, plan, model=model))
    try:
        yield watch
    finally:
        watch.close()


def trial(refs: Sequence[Ref], plan: Plan, *, model: bool) -> dict[str, str]:
    """Work on each picture in a process apart; by id, how that died, where it did.

    Cost: the time to load the model, once and again after each death, and one picture after another.
    """
    left, deadly = [*refs], dict[str, str]()
    while left:
        command = [sys.executable, "-m", "vitscope.batch.suspects"]
        done = subprocess.run(command, input=pickle.dumps((left, plan, model)), capture_output=True, check=False)
        said = {*done.stdout.splitlines()}
        left = [ref for ref in left if ref.id.encode() not in said]
        if not left or _READY not in said or not _died(done.returncode):
            break  # what went wrong in another way will be an error in the run itself
        deadly[left.pop(0).id] = f"the process dies over it ({_named(done.returncode)})"
    return deadly


def _died(code: int) -> bool:
    """By a signal that is not a wish to stop, or, on Windows, by one of its codes for crashes."""
    return (code < 0 and code not in _ASKED_TO_STOP) or code >= 0xC0000000


def _named(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else hex(code)


def _try(refs: Sequence[Ref], plan: Plan, model: bool) -> None:
    """In the process apart: a line on stdout when all is ready, and for each picture that is survived."""
    from vitscope.batch.reading import reading

    with reading() as fetch:
        work: Callable[[Ref], object] = partial(_explained, _loaded(plan), plan) if model else fetch
        os.write(1, _READY + b"\n")
        for ref in refs:
            with suppress(VitscopeError):
                work(ref)
            os.write(1, f"{ref.id}\n".encode())


def _loaded(plan: Plan) -> "Scope":
    from vitscope.pipeline import load

    return load(plan.model, revision=plan.revision, device=plan.device, dtype=plan.dtype)


def _explained(scope: "Scope", plan: Plan, ref: Ref) -> None:
    from vitscope.batch.work import outcomes

    list(outcomes([Task(0, (ref,))], replace(plan, metrics=(), overlays=False, workers=1), scope))


if __name__ == "__main__":
    _try(*pickle.load(sys.stdin.buffer))
