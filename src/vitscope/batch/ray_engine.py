"""The engine of a cluster: each shard goes to a process that holds the model; this process writes what comes back."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vitscope.batch import ray_pool
from vitscope.batch.ray_cluster import Cluster
from vitscope.batch.types import BatchPlan, CommitCallback, Outcome, ProgressCallback, Task
from vitscope.batch.worker import abandoned_outcome, outcomes
from vitscope.errors import VitscopeError

if TYPE_CHECKING:
    from vitscope.scope import Scope

__all__ = ["WorkerLostError", "run"]


class WorkerLostError(VitscopeError):
    """A shard that several workers did not survive: out of memory, a decoder that crashes."""


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
    """Explain every task on a Ray cluster, in whatever order, and commit here.

    A shard whose worker dies goes to another one; after `ray_pool.DEATHS` deaths each of its pictures gets a row that
    says so, and the run goes on. Workers open pictures by the paths that the source has, and draw overlays into `out`:
    on several machines both lie where all of them see them.

    Args:
        tasks: what is to be done; taken as the workers need it.
        plan: `workers` of it are processes that hold the model; 0 takes one per GPU, or all CPUs but one.
        scope: not sent anywhere: each worker loads the model by its reference.
        commit: called here, in one thread.
        on_progress: called when a shard is done.
        out: the output folder.
        address: of a running cluster; None starts one here.
        cpus: for each worker: threads of the model, and as many that decode.
        stall_timeout: seconds without progress after which the run fails.

    Raises:
        MissingDependencyError, UsageError, NoProgressError, ResultError: as `ray_pool.run` says.
    """
    where = Cluster(address, plan.workers or None, cpus, stall_timeout)
    keyed = ((str(task.number), task) for task in tasks)
    make = partial(_ShardExplainer, replace(plan, workers=cpus), out.resolve(), cpus)
    with closing(ray_pool.run(where, keyed, make, "shards")) as done:
        for outcome in done:
            commit(outcome)
            on_progress(outcome.stats["images"], outcome.stats["failed"])


class _ShardExplainer:
    """The job of a worker: the model, loaded once."""

    def __init__(self, plan: BatchPlan, out: Path, threads: int) -> None:
        import torch

        from vitscope.scope import load

        torch.set_num_threads(threads)
        self.plan, self.out = plan, out
        self.scope = load(plan.model, revision=plan.revision, device=plan.device, dtype=plan.dtype)

    def __call__(self, task: Task, heartbeat: Callable[[], None]) -> Outcome:
        """The rows of one shard."""
        moving = partial(_beat, heartbeat)
        return next(iter(outcomes([task], self.plan, self.scope, out=self.out, on_progress=moving)))

    def give_up(self, task: Task, deaths: int) -> Outcome:
        """Rows that say why there are none."""
        words = f"shard {task.number} was given up: {deaths} workers died over it"
        return abandoned_outcome(
            task, self.plan, self.scope, WorkerLostError(words, "less --batch-tokens, a smaller --shard-size")
        )


def _beat(heartbeat: Callable[[], None], images: int, failed: int) -> None:
    heartbeat()
