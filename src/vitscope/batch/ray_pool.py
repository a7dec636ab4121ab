"""Runs tasks through Ray Data: a task board, a pool of actors, and a watchdog that reports a stall.

    tasks --board--> one reading task --Ray Data, streaming--> actor pool --> results, in the order of completion

A task whose worker dies goes to another worker. The board counts the deaths; after `MAX_WORKER_DEATHS` the worker gives
the task up. This module does not depend on what a task is.
"""

import asyncio
import os
import pickle
import queue
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Protocol, TypeAlias, runtime_checkable

from vitscope._messages import join_messages, msg
from vitscope.batch.ray_cluster import Cluster, connected, require_alive
from vitscope.errors import ResultError, VitscopeError, first_line

MAX_WORKER_DEATHS = 3  # workers that a task may cost before it is given up
_IN_FLIGHT = 2  # tasks an actor holds: one in progress, one waiting
_READER_CPUS = 0.5  # of the task that reads the board; unlike the actors' CPUs, or Ray fuses it into them
_QUEUED_PER_WORKER = 4  # tasks on the board
_BURIAL = 20  # tenths of a second until a process that has ended is seen to
_POLL = 0.25  # seconds
_START_TIMEOUT = 180  # seconds until the first task starts, whatever the stall timeout
_DRAIN_TIMEOUT = 10  # seconds for a cluster that keeps running to end abandoned tasks

_Results: TypeAlias = "queue.Queue[tuple[str, Any]]"


class NoProgressError(VitscopeError):
    """No progress for too long."""


@runtime_checkable
class TaskHandler(Protocol):
    """The work of an actor; made in the actor, once, for its first task."""

    def __call__(self, task: Any, heartbeat: Callable[[], None], /) -> Any:
        """Do one task; `heartbeat()` reports progress."""

    def give_up(self, task: Any, deaths: int, /) -> Any:
        """Return the result of a task that cost this many workers."""


class TaskBoard:
    """Ray actor that queues tasks and records which worker holds which.

    It survives worker crashes.

    Args:
        room: the number of tasks that wait here, at most.
    """

    def __init__(self, room: int) -> None:
        self.tasks: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(room)
        self.tries: dict[str, int] = {}
        self.holders: dict[str, tuple[str, float]] = {}
        self.progress, self.started = 0, False

    async def put(self, task: dict[str, Any] | None) -> None:
        """Queue a task, as soon as there is room; None is the end."""
        await self.tasks.put(task)

    async def take(self) -> dict[str, Any] | None:
        """Return the next task, as soon as there is one."""
        return await self.tasks.get()

    async def start(self, key: str, worker: str) -> int:
        """Record that a worker starts a task; return how many started it before and died."""
        self.tries[key] = self.tries.get(key, 0) + 1
        self.holders[key] = (worker, time.time())
        self.progress, self.started = self.progress + 1, True
        return self.tries[key] - 1

    async def heartbeat(self) -> None:
        """Count progress within a task."""
        self.progress += 1

    async def done(self, key: str) -> None:
        """Record that a task is finished or given up."""
        self.holders.pop(key, None)
        self.tries.pop(key, None)
        self.progress += 1

    async def state(self) -> tuple[tuple[int, bool], dict[str, tuple[str, float]], list[str]]:
        """Return progress, whether a task started, each task's holder, repeated tasks."""
        return (
            (self.progress, self.started),
            self.holders,
            sorted(key for key, tries in self.tries.items() if tries > 1),
        )


class _Worker:
    """Ray actor of the pool. Its handler is made late, so that a model that fails to load is a result, not a death."""

    def __init__(self, board: str, make: Callable[[], TaskHandler]) -> None:
        import ray

        self.board, self.make = ray.get_actor(board), make
        self.handler: TaskHandler | None = None
        self.board.heartbeat.remote()  # starting took time
        self.name = f"process {os.getpid()} on {ray.util.get_node_ip_address()}"

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        import ray

        deaths = ray.get(self.board.start.remote(row["key"], self.name))
        try:
            self.handler = self.handler or self.make()
            task = pickle.loads(row["task"])
            lost = deaths >= MAX_WORKER_DEATHS
            result = self.handler.give_up(task, deaths) if lost else self.handler(task, _heartbeat(self.board))
            answer = ("done", result)
        except VitscopeError as error:
            answer = ("failed", ResultError(error.message, error.hint))
        except OSError as error:  # a full disk, a file system that is gone
            answer = ("failed", ResultError(_os_error(error)))
        except Exception:  # a defect: reported with its place, not tried again
            answer = ("failed", ResultError(_defect(self.name, row["key"], traceback.format_exc(limit=-3))))
        self.board.done.remote(row["key"])
        return {"answer": pickle.dumps(answer)}


def _os_error(error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.filename is None:
        return msg("batch.worker-os-error", "a worker failed: {reason}", reason=reason)
    return msg("batch.worker-file-error", "a worker failed: {path}: {reason}", path=error.filename, reason=reason)


def _defect(worker: str, key: str, trace: str) -> str:
    return msg("batch.worker-defect", "{worker} failed on task {key}: {trace}", worker=worker, key=key, trace=trace)


def _heartbeat(board: Any) -> Callable[[], None]:
    """Return a function that reports progress to the board, once a second at most."""
    last = time.monotonic()

    def heartbeat() -> None:
        nonlocal last
        if time.monotonic() - last > 1:
            last = time.monotonic()
            board.heartbeat.remote()

    return heartbeat


def run(
    cluster: Cluster, tasks: Iterable[tuple[str, Any]], make: Callable[[], TaskHandler]
) -> Generator[Any, None, None]:
    """Yield the result of each task, in the order of completion.

    Args:
        cluster: where to run.
        tasks: (key, task) pairs, consumed in a thread as the workers need them.
        make: makes the handler in each worker.

    Raises:
        MissingDependencyError: Ray is not installed.
        UsageError: a cluster that cannot be reached, or has too few CPUs.
        NoProgressError: no progress for `cluster.stall_timeout` seconds; names the tasks in progress.
        VitscopeError: any that `tasks` raises.
        ResultError: a worker failed for a reason outside the task, such as a full disk.
    """
    with connected(cluster) as (workers, started_here):
        import ray

        name = f"vitscope-board-{os.getpid()}-{time.time_ns()}"
        board = ray.remote(TaskBoard).options(name=name, num_cpus=0).remote(_QUEUED_PER_WORKER * workers)
        results: _Results = queue.Queue(maxsize=_QUEUED_PER_WORKER * workers)
        rows = _pipeline(cluster, workers, name, make)
        _thread(lambda: _feed(tasks, board), results)
        reader = _thread(lambda: _read(rows, results), results)
        try:
            for kind, result in _collect(results, board, cluster.stall_timeout):
                if kind == "failed":
                    raise result
                yield result
        finally:  # without the board, what is left of the pipeline ends and returns its CPUs
            with suppress(Exception):  # a cluster that is gone must not hide why the run ends
                ray.kill(board)
            if not started_here:
                reader.join(_DRAIN_TIMEOUT)


def _take_tasks(_: Mapping[str, Any], board: str) -> Iterator[dict[str, Any]]:
    import ray

    take = ray.get_actor(board).take
    while (task := ray.get(take.remote())) is not None:
        yield task


def _pipeline(cluster: Cluster, workers: int, board: str, make: Callable[[], TaskHandler]) -> Any:
    import ray.data

    gpus = ray.cluster_resources().get("GPU", 0)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 1  # one task is one block: Ray repeats a single task, never its neighbours
    context.max_errored_blocks = 0
    context.execution_no_progress_timeout_s = -1  # `_collect` reports more
    with ray.data.DataContext.current(context):
        source = ray.data.from_items([0], override_num_blocks=1)
        return source.flat_map(_take_tasks, fn_args=(board,), num_cpus=_READER_CPUS).map(
            _Worker,
            fn_constructor_args=(board, make),
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=_IN_FLIGHT),
            num_cpus=cluster.cpus,
            num_gpus=min(1.0, gpus / workers) if gpus else None,
        )


def _thread(work: Callable[[], None], results: _Results) -> threading.Thread:
    """Start a thread; an error in it becomes a result."""

    def run() -> None:
        try:
            work()
        except BaseException as error:
            results.put(("broken", error))

    thread = threading.Thread(target=run, daemon=True, name="vitscope-ray")
    thread.start()
    return thread


def _feed(tasks: Iterable[tuple[str, Any]], board: Any) -> None:
    """Put tasks onto the board, no faster than they are taken."""
    import ray

    for key, task in tasks:
        ray.get(board.put.remote({"key": key, "task": pickle.dumps(task)}))
    ray.get(board.put.remote(None))


def _read(rows: Any, results: _Results) -> None:
    """Queue the pipeline's results, no faster than they are taken."""
    for row in rows.iter_rows():
        results.put(("answer", row["answer"]))
    results.put(("end", None))


def _collect(results: _Results, board: Any, stall_timeout: float | int) -> Iterator[tuple[str, Any]]:
    """Yield results as they come; raise where neither they nor the board progress."""
    moved, seen = time.monotonic(), (0, False)
    while True:
        try:
            kind, value = results.get(timeout=_POLL)
        except queue.Empty:
            require_alive()
            progress = _progress(board, seen)
            if progress != seen:
                moved, seen = time.monotonic(), progress
            if time.monotonic() - moved > (stall_timeout if progress[1] else max(stall_timeout, _START_TIMEOUT)):
                hint = msg("batch.stalled.hint", "check the cluster: ray status")
                raise NoProgressError(_stall_message(board, stall_timeout), hint) from None
            continue
        moved = time.monotonic()
        if kind == "end":
            return
        if isinstance(value, VitscopeError):
            raise value
        if kind == "broken":
            for _ in range(_BURIAL):  # what Ray reports first may be an effect
                require_alive()
                time.sleep(0.1)
            raise ResultError(msg("batch.ray-failed", "Ray failed: {reason}", reason=first_line(value))) from value
        yield pickle.loads(value)


def _progress(board: Any, seen: tuple[int, bool]) -> tuple[int, bool]:
    """Return the board's progress, and whether a task started. A board that does not answer has made no progress."""
    import ray

    try:
        progress: tuple[int, bool] = ray.get(board.state.remote(), timeout=5)[0]
    except Exception:
        return seen
    return progress


def _stall_message(board: Any, stall_timeout: float | int) -> str:
    import ray

    seconds = f"{stall_timeout:.0f}"
    try:
        _, holders, repeated = ray.get(board.state.remote(), timeout=5)
    except Exception as error:
        return msg(
            "batch.board-lost",
            "no progress for {seconds} s, and the task board does not answer: {reason}",
            seconds=seconds,
            reason=first_line(error),
        )
    now = time.time()
    held = [f"{key} ({worker}, {now - since:.0f} s)" for key, (worker, since) in sorted(holders.items())]
    parts = [
        msg("batch.stalled", "no progress for {seconds} s", seconds=seconds),
        msg("batch.tasks-in-progress", "tasks in progress: {tasks}", tasks=", ".join(held[:8]) or "-"),
    ]
    if repeated:
        parts.append(msg("batch.tasks-repeated", "tried more than once: {tasks}", tasks=", ".join(repeated)))
    free, total = ray.available_resources().get("CPU", 0), ray.cluster_resources().get("CPU", 0)
    parts.append(msg("batch.cpus-free", "{free} of {total} CPUs free", free=f"{free:g}", total=f"{total:g}"))
    return join_messages("; ", parts)
