"""Pieces of work through a Ray Data pipeline: a pool of actors, a ledger of what is in whose hands, and a watchdog.

    pieces (one task lists them) --streaming, backpressure--> actor pool --> what each piece gave, as it comes

A piece whose worker dies is given to another one; the ledger counts, and on the fourth time the worker is told to give
it up. Nothing here knows what a piece is.
"""

import os
import pickle
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from vitscope.errors import MissingExtra, ResultError, UsageError, VitscopeError

__all__ = ["DEATHS", "Cluster", "Job", "Stalled", "run"]

DEATHS = 3  # workers that a piece may cost before it is given up
_IN_FLIGHT = 2  # pieces an actor holds: one in work, one waiting
_LISTING = 0.5  # CPUs of the task that lists the pieces; unlike the actors', so that Ray does not fuse the two
_POLL = 0.25  # seconds


class Stalled(VitscopeError):
    """Nothing moved for too long."""


class Job(Protocol):
    """What a worker does; made in the worker, once, when its first piece comes."""

    def __call__(self, piece: Any, tick: Callable[[], None]) -> Any:
        """Do one piece; `tick()` tells that something moves."""

    def give_up(self, piece: Any, deaths: int) -> Any:
        """What stands for a piece that killed this many workers."""


@dataclass(frozen=True)
class Cluster:
    """Where the work runs.

    Attributes:
        address: of a running cluster (`auto`, `ray://HOST:PORT`); None starts one on this machine, for this run only.
        workers: actors; None takes one per GPU, or where there is none one per CPU but one.
        cpus: CPUs for each actor.
        patience: seconds without any progress after which the run fails.
    """

    address: str | None = None
    workers: int | None = None
    cpus: int = 1
    patience: float = 600.0

    def __post_init__(self) -> None:
        if (self.workers is not None and self.workers < 1) or self.cpus < 1 or self.patience <= 0:
            raise UsageError(f"workers, cpus and patience are above zero, not {self}")


@dataclass
class Ledger:
    """Which pieces are in whose hands: an actor of its own, so that it outlives the workers."""

    tries: dict[str, int] = field(default_factory=dict)
    hands: dict[str, tuple[str, float]] = field(default_factory=dict)
    moves: int = 0

    def start(self, key: str, worker: str) -> int:
        """A worker takes a piece; how often that happened before without an end."""
        self.tries[key] = self.tries.get(key, 0) + 1
        self.hands[key] = (worker, time.time())
        self.moves += 1
        return self.tries[key] - 1

    def tick(self) -> None:
        """Something moves."""
        self.moves += 1

    def done(self, key: str) -> None:
        """The piece is finished or given up."""
        self.hands.pop(key, None)
        self.tries.pop(key, None)
        self.moves += 1

    def state(self) -> tuple[int, dict[str, tuple[str, float]], dict[str, int]]:
        """Moves so far, who holds what since when, and pieces that were tried more than once."""
        return self.moves, self.hands, {key: tries for key, tries in self.tries.items() if tries > 1}


class _Worker:
    """The actor of the pool; the job is made late, so that a model that cannot be loaded is an answer, not a death."""

    def __init__(self, ledger: str, make: Callable[[], Job]) -> None:
        import ray

        self.ledger, self.make = ray.get_actor(ledger), make
        self.job: Job | None = None
        self.name = f"process {os.getpid()} on {ray.util.get_node_ip_address()}"

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        import ray

        deaths = ray.get(self.ledger.start.remote(row["key"], self.name))
        try:
            self.job = self.job or self.make()
            piece = pickle.loads(row["piece"])
            lost = deaths >= DEATHS
            result = self.job.give_up(piece, deaths) if lost else self.job(piece, _ticker(self.ledger))
            answer = ("done", result)
        except VitscopeError as error:
            answer = ("failed", ResultError(error.message, error.hint))
        except OSError as error:  # a full disk, a sink that is gone
            answer = ("failed", ResultError(f"{error.filename or 'the system'}: {error.strerror or error}"))
        except Exception:  # a defect: told where it is, not tried again
            answer = ("failed", ResultError(f"{self.name}, piece {row['key']}: {traceback.format_exc(limit=-3)}"))
        self.ledger.done.remote(row["key"])
        return {"answer": pickle.dumps(answer)}


def _ticker(ledger: Any) -> Callable[[], None]:
    last = time.monotonic()

    def tick() -> None:
        nonlocal last
        if time.monotonic() - last > 1:
            last = time.monotonic()
            ledger.tick.remote()

    return tick


def run(
    cluster: Cluster, pieces: Callable[[], Iterable[tuple[str, Any]]], make: Callable[[], Job], about: str = "pieces"
) -> Iterator[Any]:
    """What each piece gave, in the order in which they are finished.

    Args:
        cluster: where.
        pieces: gives (key, piece) one after the other, in a task of the cluster; pickled, like what it gives.
        make: makes the job in each worker; pickled.
        about: what the pieces are called in messages.

    Raises:
        MissingExtra: Ray is not installed.
        UsageError: a cluster that cannot be reached, or with too few CPUs.
        Stalled: nothing moved for `cluster.patience` seconds; says what was waiting.
        ResultError: a worker failed in a way that is not the piece's fault, such as a full disk.
    """
    with _connected(cluster) as workers:
        import ray

        name = f"vitscope-ledger-{os.getpid()}-{time.time_ns()}"
        ledger = ray.remote(Ledger).options(name=name, num_cpus=0, max_concurrency=1).remote()
        rows = _pipeline(cluster, workers, name, pieces, make)
        for kind, result in _watched(rows, ledger, cluster.patience, about):
            if kind == "failed":
                raise result
            yield result


def _pipeline(
    cluster: Cluster,
    workers: int,
    ledger: str,
    pieces: Callable[[], Iterable[tuple[str, Any]]],
    make: Callable[[], Job],
) -> Any:
    import ray.data

    def listing(_: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        for key, piece in pieces():
            yield {"key": key, "piece": pickle.dumps(piece)}

    gpus = ray.cluster_resources().get("GPU", 0)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 1  # a piece is a block: what is tried again is one piece, never its neighbours
    context.max_errored_blocks = 0
    context.execution_no_progress_timeout_s = -1  # ours says more
    with ray.data.DataContext.current(context):
        listed = ray.data.from_items([0], override_num_blocks=1).flat_map(listing, num_cpus=_LISTING)
        return listed.map(
            _Worker,
            fn_constructor_args=(ledger, make),
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=_IN_FLIGHT),
            num_cpus=cluster.cpus,
            num_gpus=min(1.0, gpus / workers) if gpus else None,
        )


@contextmanager
def _connected(cluster: Cluster) -> Iterator[int]:
    """Ray, quiet and without telemetry or dashboard; how many workers. What was started here ends here."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a thread that still waits when Ray ends would start it anew
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtra("Ray", "ray") from None
    ours = not ray.is_initialized()
    if ours:
        _start(cluster)
    try:
        yield _workers(cluster)
    finally:
        if ours:
            ray.shutdown()


def _start(cluster: Cluster) -> None:
    import logging

    import ray

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if cluster.address is None:
        wanted = (cluster.workers or max(1, (os.cpu_count() or 1) - 1)) * cluster.cpus
        # logical CPUs: one more than the workers take, or the listing would wait for ever
        ray.init("local", num_cpus=wanted + 1, include_dashboard=False, **quiet)
        return
    try:
        ray.init(address=cluster.address, **quiet)
    except Exception as error:  # ConnectionError, ValueError, RuntimeError: by version and form of address
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"no Ray cluster answers at {cluster.address}: {reason}", "ray start --head starts one"
        ) from None


def _workers(cluster: Cluster) -> int:
    import ray

    has = ray.cluster_resources()
    cpus, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
    workers = cluster.workers or gpus or max(1, (cpus - 1) // cluster.cpus)
    needed = workers * cluster.cpus + 1
    if cpus < needed:
        raise UsageError(
            f"the Ray cluster has {cpus} CPUs, {workers} workers need {needed}: {cluster.cpus} each, and one that "
            "lists the source",
            f"--workers {max(1, (cpus - 1) // cluster.cpus)}, or a larger cluster",
        )
    return workers


def _watched(rows: Any, ledger: Any, patience: float, about: str) -> Iterator[tuple[str, Any]]:
    """The answers of the pipeline; it is read by a thread, so that this one can notice when nothing comes."""
    answers: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=64)
    stopped = threading.Event()

    def read() -> None:
        try:
            for row in rows.iter_rows():
                answers.put(("answer", row["answer"]))
                if stopped.is_set():
                    return
            answers.put(("end", None))
        except BaseException as error:  # whatever it is, it is raised where the results are taken
            answers.put(("broken", error))

    threading.Thread(target=read, daemon=True, name="vitscope-ray").start()
    moved, seen = time.monotonic(), -1
    try:
        while True:
            try:
                kind, value = answers.get(timeout=_POLL)
            except queue.Empty:
                moves = _moves(ledger)
                if moves != seen:
                    moved, seen = time.monotonic(), moves
                if time.monotonic() - moved > patience:
                    raise Stalled(_waiting(ledger, patience, about), "see the cluster's state: ray status") from None
                continue
            moved = time.monotonic()
            if kind == "end":
                return
            if kind == "broken":
                raise ResultError(f"Ray gave up: {_first_line(value)}") from value
            yield pickle.loads(value)
    finally:
        stopped.set()


def _moves(ledger: Any) -> int:
    import ray

    try:
        moves: int = ray.get(ledger.state.remote(), timeout=5)[0]
    except Exception:  # no answer is no progress
        return -1
    return moves


def _waiting(ledger: Any, patience: float, about: str) -> str:
    import ray

    try:
        _, hands, again = ray.get(ledger.state.remote(), timeout=5)
    except Exception as error:
        return f"nothing moved for {patience:.0f} s, and the ledger does not answer: {_first_line(error)}"
    now = time.time()
    held = [f"{key} ({worker}, {now - since:.0f} s)" for key, (worker, since) in sorted(hands.items())]
    free, total = ray.available_resources().get("CPU", 0), ray.cluster_resources().get("CPU", 0)
    tried = f"; tried more than once: {', '.join(sorted(again))}" if again else ""
    what = f"{about} in work: {', '.join(held[:8])}" if held else f"no {about} are in work"
    return f"nothing moved for {patience:.0f} s; {what}{tried}; {free:g} of {total:g} CPUs free"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
