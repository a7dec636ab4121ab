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

__all__ = ["DEATHS", "Job", "NoProgressError", "run"]

DEATHS = 3  # workers that a piece may cost before it is given up
_IN_FLIGHT = 2  # pieces an actor holds: one in work, one waiting
_READING = 0.5  # CPUs of the task that takes pieces from the desk; unlike the actors', or Ray fuses it into them
_WAITING = 4  # pieces per worker on the desk
_POLL = 0.25  # seconds
_STARTING = 180  # seconds until the first piece is begun, whatever the patience
_LEAVE = 10  # seconds that a cluster which runs on gets to end what was given up


class NoProgressError(VitscopeError):
    """Nothing moved for too long."""


@runtime_checkable
class Job(Protocol):
    """What a worker does; made in the worker, once, when its first piece comes."""

    def __call__(self, piece: Any, tick: Callable[[], None], /) -> Any:
        """Do one piece; `tick()` tells that something moves."""

    def give_up(self, piece: Any, deaths: int, /) -> Any:
        """What stands for a piece that killed this many workers."""


class TaskBoard:
    """Which pieces wait, and which are in whose hands: an actor of its own, so that it outlives the workers.

    Args:
        room: pieces that wait here; more are not taken.
    """

    def __init__(self, room: int) -> None:
        self.pieces: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(room)
        self.tries: dict[str, int] = {}
        self.hands: dict[str, tuple[str, float]] = {}
        self.moves, self.begun = 0, False

    async def put(self, piece: dict[str, Any] | None) -> None:
        """A piece that waits; None is the end. Answers when there is room for it."""
        await self.pieces.put(piece)

    async def take(self) -> dict[str, Any] | None:
        """The next piece, when there is one."""
        return await self.pieces.get()

    async def start(self, key: str, worker: str) -> int:
        """A worker begins with a piece; how many began with it before and did not come to an end."""
        self.tries[key] = self.tries.get(key, 0) + 1
        self.hands[key] = (worker, time.time())
        self.moves, self.begun = self.moves + 1, True
        return self.tries[key] - 1

    async def tick(self) -> None:
        """Something moves."""
        self.moves += 1

    async def done(self, key: str) -> None:
        """The piece is finished or given up."""
        self.hands.pop(key, None)
        self.tries.pop(key, None)
        self.moves += 1

    async def state(self) -> tuple[tuple[int, bool], dict[str, tuple[str, float]], list[str]]:
        """Moves so far and was any piece begun, who holds what since when, and which were begun more than once."""
        return (self.moves, self.begun), self.hands, sorted(key for key, tries in self.tries.items() if tries > 1)


class _Worker:
    """The actor of the pool; the job is made late, so that a model that cannot be loaded is an answer, not a death."""

    def __init__(self, desk: str, make: Callable[[], Job]) -> None:
        import ray

        self.desk, self.make = ray.get_actor(desk), make
        self.job: Job | None = None
        self.desk.tick.remote()  # it took its time to start
        self.name = f"process {os.getpid()} on {ray.util.get_node_ip_address()}"

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        import ray

        deaths = ray.get(self.desk.start.remote(row["key"], self.name))
        try:
            self.job = self.job or self.make()
            piece = pickle.loads(row["piece"])
            lost = deaths >= DEATHS
            result = self.job.give_up(piece, deaths) if lost else self.job(piece, _ticker(self.desk))
            answer = ("done", result)
        except VitscopeError as error:
            answer = ("failed", ResultError(error.message, error.hint))
        except OSError as error:  # a full disk, a sink that is gone
            answer = ("failed", ResultError(f"{error.filename or 'the system'}: {error.strerror or error}"))
        except Exception:  # a defect: told where it is, not tried again
            answer = ("failed", ResultError(f"{self.name}, piece {row['key']}: {traceback.format_exc(limit=-3)}"))
        self.desk.done.remote(row["key"])
        return {"answer": pickle.dumps(answer)}


def _ticker(desk: Any) -> Callable[[], None]:
    last = time.monotonic()

    def tick() -> None:
        nonlocal last
        if time.monotonic() - last > 1:
            last = time.monotonic()
            desk.tick.remote()

    return tick


def run(
    cluster: Cluster, pieces: Iterable[tuple[str, Any]], make: Callable[[], Job], about: str = "pieces"
) -> Generator[Any, None, None]:
    """What each piece gave, in the order in which they are finished.

    Args:
        cluster: where.
        pieces: (key, piece) one after the other, taken as the workers need them, in a thread.
        make: makes the job in each worker.
        about: what the pieces are called in messages.

    Raises:
        MissingDependencyError: Ray is not installed.
        UsageError: a cluster that cannot be reached, or with too few CPUs.
        NoProgressError: nothing moved for `cluster.patience` seconds; says what was waiting.
        VitscopeError: what `pieces` raised.
        ResultError: a worker failed in a way that is not the piece's fault, such as a full disk.
    """
    with connected(cluster) as (workers, ours):
        import ray

        name = f"vitscope-desk-{os.getpid()}-{time.time_ns()}"
        desk = ray.remote(TaskBoard).options(name=name, num_cpus=0).remote(_WAITING * workers)
        answers: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=_WAITING * workers)
        rows = _pipeline(cluster, workers, name, make)
        _thread(lambda: _feed(pieces, desk), answers)
        reader = _thread(lambda: _read(rows, answers), answers)
        try:
            for kind, result in _watched(answers, desk, cluster.patience, about):
                if kind == "failed":
                    raise result
                yield result
        finally:  # what is still on its way ends for want of the desk, and gives its CPUs back
            ray.kill(desk)
            if not ours:
                reader.join(_LEAVE)


def _reading(_: Mapping[str, Any], desk: str) -> Iterator[dict[str, Any]]:
    import ray

    take = ray.get_actor(desk).take
    while (piece := ray.get(take.remote())) is not None:
        yield piece


def _pipeline(
    cluster: Cluster,
    workers: int,
    desk: str,
    make: Callable[[], Job],
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
        read = ray.data.from_items([0], override_num_blocks=1).flat_map(_reading, fn_args=(desk,), num_cpus=_READING)
        return read.map(
            _Worker,
            fn_constructor_args=(desk, make),
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=_IN_FLIGHT),
            num_cpus=cluster.cpus,
            num_gpus=min(1.0, gpus / workers) if gpus else None,
        )


def _thread(work: Callable[[], None], answers: "queue.Queue[tuple[str, Any]]") -> threading.Thread:
    """Run it aside; what it raises is raised where the answers are taken."""

    def run() -> None:
        try:
            work()
        except BaseException as error:
            answers.put(("broken", error))

    thread = threading.Thread(target=run, daemon=True, name="vitscope-ray")
    thread.start()
    return thread


def _feed(pieces: Iterable[tuple[str, Any]], desk: Any) -> None:
    """Pieces onto the desk, no faster than they are taken."""
    import ray

    for key, piece in pieces:
        ray.get(desk.put.remote({"key": key, "piece": pickle.dumps(piece)}))
    ray.get(desk.put.remote(None))


def _read(rows: Any, answers: "queue.Queue[tuple[str, Any]]") -> None:
    """What the pipeline gives, no faster than it is taken."""
    for row in rows.iter_rows():
        answers.put(("answer", row["answer"]))
    answers.put(("end", None))


def _watched(
    answers: "queue.Queue[tuple[str, Any]]", desk: Any, patience: float | int, about: str
) -> Iterator[tuple[str, Any]]:
    """The answers as they come; two threads feed and read the pipeline, so that here it is noticed when none comes."""
    moved, seen = time.monotonic(), (0, False)
    while True:
        try:
            kind, value = answers.get(timeout=_POLL)
        except queue.Empty:
            moves = _moves(desk, seen)
            if moves != seen:
                moved, seen = time.monotonic(), moves
            if time.monotonic() - moved > (patience if moves[1] else max(patience, _STARTING)):
                raise NoProgressError(_waiting(desk, patience, about), "see the cluster's state: ray status") from None
            continue
        moved = time.monotonic()
        if kind == "end":
            return
        if isinstance(value, VitscopeError):
            raise value
        if kind == "broken":
            raise ResultError(f"Ray gave up: {first_line(value)}") from value
        yield pickle.loads(value)


def _moves(desk: Any, seen: tuple[int, bool]) -> tuple[int, bool]:
    """How often something moved, and whether a piece was begun; no answer, as of a desk that starts, is no progress."""
    import ray

    try:
        moves: tuple[int, bool] = ray.get(desk.state.remote(), timeout=5)[0]
    except Exception:
        return seen
    return moves


def _waiting(desk: Any, patience: float | int, about: str) -> str:
    import ray

    try:
        _, hands, again = ray.get(desk.state.remote(), timeout=5)
    except Exception as error:
        return f"nothing moved for {patience:.0f} s, and the desk does not answer: {first_line(error)}"
    now = time.time()
    held = [f"{key} ({worker}, {now - since:.0f} s)" for key, (worker, since) in sorted(hands.items())]
    free, total = ray.available_resources().get("CPU", 0), ray.cluster_resources().get("CPU", 0)
    tried = f"; tried more than once: {', '.join(again)}" if again else ""
    what = f"{about} in work: {', '.join(held[:8])}" if held else f"no {about} are in work"
    return f"nothing moved for {patience:.0f} s; {what}{tried}; {free:g} of {total:g} CPUs free"
