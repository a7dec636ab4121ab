"""Pieces of work through a Ray Data pipeline: a pool of actors, a desk that knows who has what, and a watchdog.

    pieces --desk--> one reading task --Ray Data, streaming--> actor pool --> answers, as they come

A piece whose worker dies is given to another one; the desk counts, and on the fourth time the worker is told to give
it up. Nothing here knows what a piece is.
"""

import asyncio
import os
import pickle
import queue
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from vitscope.batch.ray_cluster import Cluster, connected
from vitscope.errors import ResultError, VitscopeError, first_line

__all__ = ["MAX_WORKER_DEATHS", "NoProgressError", "TaskHandler", "run"]

MAX_WORKER_DEATHS = 3  # workers that a piece may cost before it is given up
_IN_FLIGHT = 2  # pieces an actor holds: one in work, one waiting
_READER_CPUS = 0.5  # CPUs of the task that takes pieces from the desk; unlike the actors', or Ray fuses it into them
_QUEUED_PER_WORKER = 4  # pieces per worker on the desk
_POLL = 0.25  # seconds
_START_TIMEOUT = 180  # seconds until the first piece is begun, whatever the patience
_DRAIN_TIMEOUT = 10  # seconds that a cluster which runs on gets to end what was given up


class NoProgressError(VitscopeError):
    """Nothing moved for too long."""


@runtime_checkable
class TaskHandler(Protocol):
    """What a worker does; made in the worker, once, when its first piece comes."""

    def __call__(self, task: Any, heartbeat: Callable[[], None], /) -> Any:
        """Do one piece; `tick()` tells that something moves."""

    def give_up(self, task: Any, deaths: int, /) -> Any:
        """What stands for a piece that killed this many workers."""


class TaskBoard:
    """Which pieces wait, and which are in whose hands: an actor of its own, so that it outlives the workers.

    Args:
        room: pieces that wait here; more are not taken.
    """

    def __init__(self, room: int) -> None:
        self.tasks: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(room)
        self.tries: dict[str, int] = {}
        self.holders: dict[str, tuple[str, float]] = {}
        self.progress, self.started = 0, False

    async def put(self, task: dict[str, Any] | None) -> None:
        """A piece that waits; None is the end. Answers when there is room for it."""
        await self.tasks.put(task)

    async def take(self) -> dict[str, Any] | None:
        """The next piece, when there is one."""
        return await self.tasks.get()

    async def start(self, key: str, worker: str) -> int:
        """A worker begins with a piece; how many began with it before and did not come to an end."""
        self.tries[key] = self.tries.get(key, 0) + 1
        self.holders[key] = (worker, time.time())
        self.progress, self.started = self.progress + 1, True
        return self.tries[key] - 1

    async def heartbeat(self) -> None:
        """Something moves."""
        self.progress += 1

    async def done(self, key: str) -> None:
        """The piece is finished or given up."""
        self.holders.pop(key, None)
        self.tries.pop(key, None)
        self.progress += 1

    async def state(self) -> tuple[tuple[int, bool], dict[str, tuple[str, float]], list[str]]:
        """Moves so far and was any piece begun, who holds what since when, and which were begun more than once."""
        return (
            (self.progress, self.started),
            self.holders,
            sorted(key for key, tries in self.tries.items() if tries > 1),
        )


class _Worker:
    """The actor of the pool; the job is made late, so that a model that cannot be loaded is an answer, not a death."""

    def __init__(self, board: str, make: Callable[[], TaskHandler]) -> None:
        import ray

        self.board, self.make = ray.get_actor(board), make
        self.handler: TaskHandler | None = None
        self.board.heartbeat.remote()  # it took its time to start
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
        except OSError as error:  # a full disk, a sink that is gone
            answer = ("failed", ResultError(f"{error.filename or 'the system'}: {error.strerror or error}"))
        except Exception:  # a defect: told where it is, not tried again
            answer = ("failed", ResultError(f"{self.name}, piece {row['key']}: {traceback.format_exc(limit=-3)}"))
        self.board.done.remote(row["key"])
        return {"answer": pickle.dumps(answer)}


def _heartbeat(board: Any) -> Callable[[], None]:
    last = time.monotonic()

    def heartbeat() -> None:
        nonlocal last
        if time.monotonic() - last > 1:
            last = time.monotonic()
            board.heartbeat.remote()

    return heartbeat


def run(
    cluster: Cluster, tasks: Iterable[tuple[str, Any]], make: Callable[[], TaskHandler], noun: str = "pieces"
) -> Generator[Any, None, None]:
    """What each piece gave, in the order in which they are finished.

    Args:
        cluster: where.
        tasks: (key, piece) one after the other, taken as the workers need them, in a thread.
        make: makes the job in each worker.
        noun: what the pieces are called in messages.

    Raises:
        MissingDependencyError: Ray is not installed.
        UsageError: a cluster that cannot be reached, or with too few CPUs.
        NoProgressError: nothing moved for `cluster.patience` seconds; says what was waiting.
        VitscopeError: what `pieces` raised.
        ResultError: a worker failed in a way that is not the piece's fault, such as a full disk.
    """
    with connected(cluster) as (workers, started_here):
        import ray

        name = f"vitscope-desk-{os.getpid()}-{time.time_ns()}"
        board = ray.remote(TaskBoard).options(name=name, num_cpus=0).remote(_QUEUED_PER_WORKER * workers)
        results: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=_QUEUED_PER_WORKER * workers)
        rows = _pipeline(cluster, workers, name, make)
        _thread(lambda: _feed(tasks, board), results)
        reader = _thread(lambda: _read(rows, results), results)
        try:
            for kind, result in _collect(results, board, cluster.stall_timeout, noun):
                if kind == "failed":
                    raise result
                yield result
        finally:  # what is still on its way ends for want of the desk, and gives its CPUs back
            ray.kill(board)
            if not started_here:
                reader.join(_DRAIN_TIMEOUT)


def _take_tasks(_: Mapping[str, Any], board: str) -> Iterator[dict[str, Any]]:
    import ray

    take = ray.get_actor(board).take
    while (task := ray.get(take.remote())) is not None:
        yield task


def _pipeline(
    cluster: Cluster,
    workers: int,
    board: str,
    make: Callable[[], TaskHandler],
) -> Any:
    import ray.data

    gpus = ray.cluster_resources().get("GPU", 0)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 1  # a piece is a block: what is tried again is one piece, never its neighbours
    context.max_errored_blocks = 0
    context.execution_no_progress_timeout_s = -1  # ours says more
    with ray.data.DataContext.current(context):
        read = ray.data.from_items([0], override_num_blocks=1).flat_map(
            _take_tasks, fn_args=(board,), num_cpus=_READER_CPUS
        )
        return read.map(
            _Worker,
            fn_constructor_args=(board, make),
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=_IN_FLIGHT),
            num_cpus=cluster.cpus,
            num_gpus=min(1.0, gpus / workers) if gpus else None,
        )


def _thread(work: Callable[[], None], results: "queue.Queue[tuple[str, Any]]") -> threading.Thread:
    """Run it aside; what it raises is raised where the answers are taken."""

    def run() -> None:
        try:
            work()
        except BaseException as error:
            results.put(("broken", error))

    thread = threading.Thread(target=run, daemon=True, name="vitscope-ray")
    thread.start()
    return thread


def _feed(tasks: Iterable[tuple[str, Any]], board: Any) -> None:
    """Pieces onto the desk, no faster than they are taken."""
    import ray

    for key, task in tasks:
        ray.get(board.put.remote({"key": key, "task": pickle.dumps(task)}))
    ray.get(board.put.remote(None))


def _read(rows: Any, results: "queue.Queue[tuple[str, Any]]") -> None:
    """What the pipeline gives, no faster than it is taken."""
    for row in rows.iter_rows():
        results.put(("answer", row["answer"]))
    results.put(("end", None))


def _collect(
    results: "queue.Queue[tuple[str, Any]]", board: Any, stall_timeout: float | int, noun: str
) -> Iterator[tuple[str, Any]]:
    """The answers as they come; two threads feed and read the pipeline, so that here it is noticed when none comes."""
    moved, seen = time.monotonic(), (0, False)
    while True:
        try:
            kind, value = results.get(timeout=_POLL)
        except queue.Empty:
            progress = _progress(board, seen)
            if progress != seen:
                moved, seen = time.monotonic(), progress
            if time.monotonic() - moved > (stall_timeout if progress[1] else max(stall_timeout, _START_TIMEOUT)):
                raise NoProgressError(
                    _stall_message(board, stall_timeout, noun), "see the cluster's state: ray status"
                ) from None
            continue
        moved = time.monotonic()
        if kind == "end":
            return
        if isinstance(value, VitscopeError):
            raise value
        if kind == "broken":
            raise ResultError(f"Ray gave up: {first_line(value)}") from value
        yield pickle.loads(value)


def _progress(board: Any, seen: tuple[int, bool]) -> tuple[int, bool]:
    """How often something moved, and whether a piece was begun; no answer, as of a desk that starts, is no progress."""
    import ray

    try:
        progress: tuple[int, bool] = ray.get(board.state.remote(), timeout=5)[0]
    except Exception:
        return seen
    return progress


def _stall_message(board: Any, stall_timeout: float | int, noun: str) -> str:
    import ray

    try:
        _, holders, again = ray.get(board.state.remote(), timeout=5)
    except Exception as error:
        return f"nothing moved for {stall_timeout:.0f} s, and the desk does not answer: {first_line(error)}"
    now = time.time()
    held = [f"{key} ({worker}, {now - since:.0f} s)" for key, (worker, since) in sorted(holders.items())]
    free, total = ray.available_resources().get("CPU", 0), ray.cluster_resources().get("CPU", 0)
    tried = f"; tried more than once: {', '.join(again)}" if again else ""
    what = f"{noun} in work: {', '.join(held[:8])}" if held else f"no {noun} are in work"
    return f"nothing moved for {stall_timeout:.0f} s; {what}{tried}; {free:g} of {total:g} CPUs free"
