"""The trial of suspected images in a separate process: does it die as well?

A decoder that crashes or memory that runs out leaves no error to catch. An image that was in progress at several deaths
in a row (`crash_log`) may have caused them, but a kill from outside looks the same. Only where a separate process dies
over the image, too, it is given up.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from vitscope.batch.types import BatchPlan, Ref, Task
from vitscope.errors import VitscopeError

if TYPE_CHECKING:
    from vitscope.scope import Scope

_COMMAND = "import sys; sys.path[:] = sys.argv[1:]; from vitscope.batch.crash_trial import _main; _main()"
_READY = b"ready"
_STOP_SIGNALS = (-signal.SIGINT, -signal.SIGTERM)


def try_in_subprocess(refs: Sequence[Ref], plan: BatchPlan, *, model: bool) -> dict[str, str]:
    """Process each image in a separate process; return how it died, by image id.

    Args:
        refs: the images.
        plan: what is done with each image; metrics and overlays are left out.
        model: load the plan's model and explain; False only reads and decodes.

    Cost: loading the model, once and again after each death, and one image after another.
    """
    left, crashing = [*refs], dict[str, str]()
    while left:
        command = [sys.executable, "-P", "-c", _COMMAND, *sys.path]
        done = subprocess.run(command, input=pickle.dumps((left, plan, model)), capture_output=True, check=False)
        lines = {*done.stdout.splitlines()}
        left = [ref for ref in left if ref.id.encode() not in lines]
        if not left or _READY not in lines or not _died(done.returncode):
            break  # any other failure becomes an error in the run itself
        crashing[left.pop(0).id] = _death_name(done.returncode)
    return crashing


def _died(code: int) -> bool:
    """Return whether a process crashed: by a signal other than a request to stop, or a code of Windows."""
    return (code < 0 and code not in _STOP_SIGNALS) or code >= 0xC0000000


def _death_name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else hex(code)


def _try(refs: Sequence[Ref], plan: BatchPlan, model: bool) -> None:
    """Process images in the separate process; print a line when ready, and one for each image that it survives."""
    from vitscope.batch.fetch import image_reader

    with image_reader() as fetch:
        process: Callable[[Ref], object] = partial(_explain, plan.load(), plan) if model else fetch
        os.write(1, _READY + b"\n")
        for ref in refs:
            with suppress(VitscopeError):
                process(ref)
            os.write(1, f"{ref.id}\n".encode())


def _explain(scope: "Scope", plan: BatchPlan, ref: Ref) -> None:
    from vitscope.batch.worker import outcomes

    list(outcomes([Task(0, (ref,))], replace(plan, metrics=(), overlays=False, workers=1), scope))


def _main() -> None:
    _try(*pickle.load(sys.stdin.buffer))
