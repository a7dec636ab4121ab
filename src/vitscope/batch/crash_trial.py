"""Pictures over which the process dies: found out by what was in work when it died, and tried in a process apart.

A decoder that crashes or memory that runs out leaves no error to catch. So the ids of the pictures in work stand in a
file of the output folder; those that stand there when a run begins were in work when the one before it was killed. A
kill from outside looks the same, so that alone proves nothing: a picture that was in work at `DEATHS` deaths in a row
is tried in a process of its own, and only where that dies as well it is given up.
"""

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
from typing import TYPE_CHECKING

from vitscope.batch.crash_log import CrashLog
from vitscope.batch.output import write_errors
from vitscope.batch.types import BatchPlan, Ref, Task
from vitscope.errors import VitscopeError

if TYPE_CHECKING:
    from vitscope.scope import Scope

__all__ = ["open_crash_log", "try_in_subprocess"]

_READY = b"ready"
_ASKED_TO_STOP = (-signal.SIGINT, -signal.SIGTERM)


@contextmanager
def open_crash_log(folder: Path, plan: BatchPlan, *, model: bool) -> Iterator[CrashLog]:
    """CrashLog a run into `folder`; with `model`, the plan's model can be loaded in another process.

    Raises:
        ResultError: the folder cannot be written.
    """
    with write_errors(folder):
        log = CrashLog(folder, lambda refs: try_in_subprocess(refs, plan, model=model))
    try:
        yield log
    finally:
        log.close()


def try_in_subprocess(refs: Sequence[Ref], plan: BatchPlan, *, model: bool) -> dict[str, str]:
    """Work on each picture in a process apart; by id, how that died, where it did.

    Cost: the time to load the model, once and again after each death, and one picture after another.
    """
    left, crashing = [*refs], dict[str, str]()
    while left:
        command = [sys.executable, "-m", "vitscope.batch.crash_trial"]
        done = subprocess.run(command, input=pickle.dumps((left, plan, model)), capture_output=True, check=False)
        survived = {*done.stdout.splitlines()}
        left = [ref for ref in left if ref.id.encode() not in survived]
        if not left or _READY not in survived or not _died(done.returncode):
            break  # what went wrong in another way will be an error in the run itself
        crashing[left.pop(0).id] = f"the process dies over it ({_death_name(done.returncode)})"
    return crashing


def _died(code: int) -> bool:
    """By a signal that is not a wish to stop, or, on Windows, by one of its codes for crashes."""
    return (code < 0 and code not in _ASKED_TO_STOP) or code >= 0xC0000000


def _death_name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else hex(code)


def _try(refs: Sequence[Ref], plan: BatchPlan, model: bool) -> None:
    """In the process apart: a line on stdout when all is ready, and for each picture that is survived."""
    from vitscope.batch.fetch import image_reader

    with image_reader() as fetch:
        work: Callable[[Ref], object] = partial(_explained, _loaded(plan), plan) if model else fetch
        os.write(1, _READY + b"\n")
        for ref in refs:
            with suppress(VitscopeError):
                work(ref)
            os.write(1, f"{ref.id}\n".encode())


def _loaded(plan: BatchPlan) -> "Scope":
    from vitscope.scope import load

    return load(plan.model, revision=plan.revision, device=plan.device, dtype=plan.dtype)


def _explained(scope: "Scope", plan: BatchPlan, ref: Ref) -> None:
    from vitscope.batch.worker import outcomes

    list(outcomes([Task(0, (ref,))], replace(plan, metrics=(), overlays=False, workers=1), scope))


if __name__ == "__main__":
    _try(*pickle.load(sys.stdin.buffer))
