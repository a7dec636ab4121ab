"""Connects a run to a Ray cluster: a running one, or one on this machine for the duration of the run."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vitscope._messages import msg
from vitscope._numbers import whole_number
from vitscope.errors import MissingDependencyError, ResultError, UsageError, first_line

__all__ = ["Cluster", "connected", "start_ray"]


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster and a share of it.

    Attributes:
        address: of a running cluster (`auto`, `ray://HOST:PORT`); None starts one on this machine, for this run only.
        workers: actors; None takes one per GPU or, without GPUs, one per CPU but one.
        cpus: CPUs of each actor.
        stall_timeout: seconds without progress after which the run fails; the first task has at least three minutes to
            start.

    Raises:
        UsageError: a number that is not positive.
    """

    address: str | None = None
    workers: int | None = None
    cpus: int = 1
    stall_timeout: float | int = 600

    def __post_init__(self) -> None:
        if (self.workers is not None and self.workers < 1) or self.cpus < 1 or self.stall_timeout <= 0:
            raise UsageError(
                msg(
                    "batch.cluster-numbers",
                    "workers, cpus and stall_timeout must be positive, got {workers}, {cpus} and {timeout}",
                    workers=self.workers,
                    cpus=self.cpus,
                    timeout=self.stall_timeout,
                )
            )


@contextmanager
def connected(cluster: Cluster) -> Iterator[tuple[int, bool]]:
    """Connect to Ray, without telemetry or dashboard.

    Yields:
        The number of workers, and whether Ray was started here and so ends here.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # or a thread that still waits when Ray ends would start it again
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingDependencyError("Ray", "ray") from None
    started_here = not ray.is_initialized()
    with ExitStack() as until:
        if started_here:
            folder = until.enter_context(TemporaryDirectory(prefix="vitscope-ray-"))
            start_ray(cluster, Path(folder))
            until.callback(ray.shutdown)
        yield _workers(cluster), started_here


def start_ray(cluster: Cluster, folder: Path) -> None:
    """Start Ray, or connect to a running cluster; the empty `folder` exists until Ray ends.

    Raises:
        UsageError: no cluster answers at the address.
        ResultError: Ray does not start on this machine.
    """
    import logging

    import ray

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if cluster.address is None:
        with _without_rfc3987(folder):
            _start_here((cluster.workers or max(1, (os.cpu_count() or 1) - 1)) * cluster.cpus, quiet)
        return
    try:
        _check_reachable(cluster.address)
        ray.init(address=cluster.address, **quiet)
    except Exception as error:  # ConnectionError, ValueError, RuntimeError: by version and form of address
        problem = msg(
            "batch.no-cluster",
            "no Ray cluster answers at {address}: {reason}",
            address=cluster.address,
            reason=first_line(error),
        )
        raise UsageError(problem, msg("batch.no-cluster.hint", "start one with: ray start --head")) from None


@contextmanager
def _without_rfc3987(folder: Path) -> Iterator[None]:
    """Make processes that start meanwhile import faster.

    Each of Ray's own dozen processes imports jsonschema. Where Jupyter is installed, jsonschema then compiles a grammar
    of URIs for two seconds, for checks that Ray never uses. A module that cannot be imported in the grammar's place
    makes jsonschema do without it.
    """
    (folder / "rfc3987_syntax.py").write_text("raise ImportError\n")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _start_here(cpus: int, quiet: dict[str, Any]) -> None:
    import ray

    for last in (False, True):  # Ray allows itself 30 seconds, which a busy machine may miss once
        try:
            # logical CPUs: one more than the workers take, or the reading task would wait for ever
            ray.init("local", num_cpus=cpus + 1, include_dashboard=False, **quiet)
        except Exception as error:
            ray.shutdown()
            if last:
                raise ResultError(
                    msg("batch.ray-start", "Ray does not start on this machine: {reason}", reason=first_line(error)),
                    msg("batch.ray-start.hint", "use {@engine=local}"),
                ) from error
        else:
            return


def _check_reachable(address: str) -> None:
    """Raise at once where no process listens; Ray itself takes minutes to notice."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and (number := whole_number(port)) is not None:
        socket.create_connection((host, number), timeout=5).close()


def _workers(cluster: Cluster) -> int:
    import ray

    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    workers = cluster.workers or gpus or max(1, (cpus - 1) // cluster.cpus)
    needed = workers * cluster.cpus + 1
    if cpus < needed:
        raise UsageError(
            msg(
                "batch.too-few-cpus",
                "the Ray cluster has {cpus} CPUs, but {workers} workers need {needed}: {each} each, and one to read",
                cpus=cpus,
                workers=workers,
                needed=needed,
                each=cluster.cpus,
            ),
            msg(
                "batch.too-few-cpus.hint",
                "choose {@workers={most}}, or a larger cluster",
                most=max(1, (cpus - 1) // cluster.cpus),
            ),
        )
    return workers
