"""A Ray cluster for a run: one that is there, or one of this machine for as long as the run lasts."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vitscope.errors import MissingDependencyError, ResultError, UsageError, first_line

__all__ = ["Cluster", "connected", "start_ray"]


@dataclass(frozen=True)
class Cluster:
    """Where the work runs.

    Attributes:
        address: of a running cluster (`auto`, `ray://HOST:PORT`); None starts one on this machine, for this run only.
        workers: actors; None takes one per GPU, or where there is none one per CPU but one.
        cpus: CPUs for each actor.
        stall_timeout: seconds without any progress after which the run fails; the first piece has three minutes
            to be begun.
    """

    address: str | None = None
    workers: int | None = None
    cpus: int = 1
    stall_timeout: float | int = 600

    def __post_init__(self) -> None:
        if (self.workers is not None and self.workers < 1) or self.cpus < 1 or self.stall_timeout <= 0:
            raise UsageError(f"workers, cpus and patience are above zero, not {self}")


@contextmanager
def connected(cluster: Cluster) -> Iterator[tuple[int, bool]]:
    """Ray, without telemetry or dashboard: how many workers, and whether it was started here and so ends here."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a thread that still waits when Ray ends would start it anew
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
    """Start Ray or go to where it runs.

    Args:
        cluster: which.
        folder: an empty one that stays until Ray ends.

    Raises:
        UsageError: nobody answers at the address.
        ResultError: Ray does not start here.
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
        raise UsageError(
            f"no Ray cluster answers at {cluster.address}: {first_line(error)}", "ray start --head starts one"
        ) from None


@contextmanager
def _without_rfc3987(folder: Path) -> Iterator[None]:
    """What is started meanwhile imports faster.

    Each of Ray's own processes, a dozen, imports jsonschema, which where Jupyter is installed works out a grammar of
    URIs for two seconds, for checks that Ray never asks for. They are told that it is not there: jsonschema goes on.
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

    for last in (False, True):  # Ray gives itself 30 seconds, which a busy machine may miss once
        try:
            # logical CPUs: one more than the workers take, or the reading task would wait for ever
            ray.init("local", num_cpus=cpus + 1, include_dashboard=False, **quiet)
        except Exception as error:
            ray.shutdown()
            if last:
                raise ResultError(f"Ray does not start here: {first_line(error)}", "--engine local") from error
        else:
            return


def _check_reachable(address: str) -> None:
    """Ray itself takes minutes to find out that nobody is there."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def _workers(cluster: Cluster) -> int:
    import ray

    has = ray.cluster_resources()
    cpus, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
    workers = cluster.workers or gpus or max(1, (cpus - 1) // cluster.cpus)
    needed = workers * cluster.cpus + 1
    if cpus < needed:
        raise UsageError(
            f"the Ray cluster has {cpus} CPUs, {workers} workers need {needed}: {cluster.cpus} each, and one that "
            "reads",
            f"--workers {max(1, (cpus - 1) // cluster.cpus)}, or a larger cluster",
        )
    return workers
