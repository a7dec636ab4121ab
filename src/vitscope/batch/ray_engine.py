"""The engine of a Ray cluster: worker processes hold the model and explain shards, this process writes them."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vitscope._messages import msg
from vitscope.batch import ray_pool
from vitscope.batch.ray_cluster import Cluster
from vitscope.batch.types import BatchPlan, CommitCallback, Outcome, ProgressCallback, Task
from vitscope.batch.worker import abandoned_outcome, outcomes
from vitscope.errors import VitscopeError

if TYPE_CHECKING:
    from vitscope.scope import Scope


class WorkerLostError(VitscopeError):
    """A shard that several workers did not survive: memory ran out, or a decoder crashed."""


def run(
    tasks: Iterator[Task],
    plan: BatchPlan,
    scope: "Scope",
    commit: CommitCallback,
    on_progress: ProgressCallback,
    out: Path,
    *,
    address: str | None = None,
    cpus: int = 1,
    stall_timeout: float | int = 600,
) -> None:
    """Explain every task on a Ray cluster, in any order, and commit in this process.

    A shard whose worker dies goes to another one. After `ray_pool.MAX_WORKER_DEATHS` deaths each of its images gets a
    row with a WorkerLostError, and the run continues. Workers open images by the source's paths, and write overlays
    into `out`: on several machines, both must be visible to all of them.

    Args:
        tasks: consumed as the workers need them.
        plan: its `workers` are processes that hold the model; 0 takes one per GPU, or all CPUs but one.
        scope: stays here; each worker loads the model by its reference.
        commit: called here, in one thread.
        on_progress: called when a shard is done.
        out: the output folder.
        address: of a running cluster; None starts one here.
        cpus: of each worker: threads of the model, and as many that decode.
        stall_timeout: seconds without progress after which the run fails.

    Raises:
        MissingDependencyError, UsageError, NoProgressError, ResultError: as in `ray_pool.run`.
    """
    cluster = Cluster(address, plan.workers or None, cpus, stall_timeout)
    keyed = ((str(task.number), task) for task in tasks)
    make = partial(_ShardExplainer, replace(plan, workers=cpus), out.resolve(), cpus)
    with closing(ray_pool.run(cluster, keyed, make)) as done:
        for outcome in done:
            commit(outcome)
            on_progress(outcome.stats["images"], outcome.stats["failed"])


class _ShardExplainer:
    """The work of a Ray actor: it loads the model once and explains shards."""

    def __init__(self, plan: BatchPlan, out: Path, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.plan, self.out = plan, out
        self.scope = plan.load()

    def __call__(self, task: Task, heartbeat: Callable[[], None]) -> Outcome:
        """Return the rows of one shard."""

        def on_progress(_images: int, _failed: int) -> None:
            heartbeat()

        return next(iter(outcomes([task], self.plan, self.scope, out=self.out, on_progress=on_progress)))

    def give_up(self, task: Task, deaths: int) -> Outcome:
        """Return rows with an error for a shard that cost this many workers."""
        error = WorkerLostError(
            msg(
                "batch.shard-given-up",
                "shard {number} was given up: {deaths} workers died over it",
                number=task.number,
                deaths=deaths,
            ),
            msg("batch.shard-given-up.hint", "choose a smaller {@batch_tokens} or a smaller {@shard_size}"),
        )
        return abandoned_outcome(task, self.plan, self.scope, error)
