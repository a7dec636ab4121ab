"""The engine of one machine: this process explains, a thread writes behind it."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from vitscope.batch.crash_trial import open_crash_log
from vitscope.batch.types import BatchPlan, CommitCallback, ProgressCallback, Task
from vitscope.batch.worker import outcomes

if TYPE_CHECKING:
    from vitscope.scope import Scope

__all__ = ["run"]


def run(
    tasks: Iterator[Task],
    plan: BatchPlan,
    scope: "Scope",
    commit: CommitCallback,
    on_progress: ProgressCallback,
    out: Path,
) -> None:
    """Explain every task here, in order; at most two finished shards wait to be written.

    A picture over which the process died twice is tried in a process apart before it is worked on again.

    Raises:
        ResultError: a shard that cannot be written; those before it are.
    """
    waiting: deque[Future[object]] = deque()
    loadable = scope.adapter.reference == plan.model
    with (
        open_crash_log(out, plan, model=loadable) as crash_log,
        ThreadPoolExecutor(1, "vitscope-write") as writer,
        closing(
            outcomes(crash_log.screened(tasks), plan, scope, out=out, on_progress=on_progress, crash_log=crash_log)
        ) as results,
    ):
        for outcome in results:
            while waiting and (len(waiting) > 1 or waiting[0].done()):
                waiting.popleft().result()
            waiting.append(writer.submit(commit, outcome))
        for future in waiting:
            future.result()
