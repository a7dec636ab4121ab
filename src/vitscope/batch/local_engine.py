"""The engine of one machine: this process explains, a thread writes behind it."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from vitscope.batch.crash_trial import watching
from vitscope.batch.types import Advance, Commit, Plan, Task
from vitscope.batch.worker import outcomes

if TYPE_CHECKING:
    from vitscope.scope import Scope

__all__ = ["run"]


def run(tasks: Iterator[Task], plan: Plan, scope: "Scope", commit: Commit, advance: Advance, out: Path) -> None:
    """Explain every task here, in order; at most two finished shards wait to be written.

    A picture over which the process died twice is tried in a process apart before it is worked on again.

    Raises:
        ResultError: a shard that cannot be written; those before it are.
    """
    waiting: deque[Future[object]] = deque()
    loadable = scope.adapter.reference == plan.model
    with (
        watching(out, plan, model=loadable) as watch,
        ThreadPoolExecutor(1, "vitscope-write") as writer,
        closing(outcomes(watch.judged(tasks), plan, scope, out=out, advance=advance, watch=watch)) as made,
    ):
        for outcome in made:
            while waiting and (len(waiting) > 1 or waiting[0].done()):
                waiting.popleft().result()
            waiting.append(writer.submit(commit, outcome))
        for future in waiting:
            future.result()
