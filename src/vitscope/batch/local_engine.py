"""The engine of one machine: this process explains, and a thread behind it writes."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vitscope.batch.crash_log import open_crash_log
from vitscope.batch.crash_trial import try_in_subprocess
from vitscope.batch.types import BatchPlan, CommitCallback, ProgressCallback, Task
from vitscope.batch.worker import outcomes

if TYPE_CHECKING:
    from vitscope.scope import Scope


def run(
    tasks: Iterator[Task],
    plan: BatchPlan,
    scope: "Scope",
    commit: CommitCallback,
    on_progress: ProgressCallback,
    out: Path,
) -> None:
    """Explain every task in this process, in order.

    At most two finished shards wait for the writer.

    An image over which the process died twice is tried in a separate process before it is used again.

    Raises:
        ResultError: a shard cannot be written; those before it are.
    """
    loadable = scope.adapter.reference == plan.model
    waiting: deque[Future[object]] = deque()
    with (
        open_crash_log(out, partial(try_in_subprocess, plan=plan, model=loadable)) as crash_log,
        ThreadPoolExecutor(1, "vitscope-write") as writer,
        closing(
            outcomes(crash_log.screened(tasks), plan, scope, out=out, on_progress=on_progress, crash_log=crash_log)
        ) as finished,
    ):
        for outcome in finished:
            while waiting and (len(waiting) > 1 or waiting[0].done()):
                waiting.popleft().result()
            waiting.append(writer.submit(commit, outcome))
        for future in waiting:
            future.result()
