"""Connects a run to a Ray cluster: a running one, or one on this machine for the duration of the run."""

import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from vitscope._messages import msg
from vitscope._numbers import is_real, is_whole, whole_number
from vitscope.batch.last_words import last_words
from vitscope.errors import MissingDependencyError, ResultError, UsageError, first_line

_LOOPBACK = "127.0.0.1"
_ENDED = msg(
    "batch.ray-ended-this",
    "a process of Ray on this machine ended, and Ray ended this one: memory may have run out; finished shards are "
    "kept, continue with {@resume=True}",
)
_ENDING = 10.0  # seconds that a process of Ray has to end by itself
_ADDRESS_SPACE = 20e9  # bytes: 8 GB were too few, and 20 enough, for one worker with a small model


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
        workers = 1 if self.workers is None else self.workers
        if not (is_whole(workers, 1) and is_whole(self.cpus, 1) and is_real(self.stall_timeout, 1e-3, 1e9)):
            raise UsageError.coded(
                "batch.cluster-numbers",
                "workers, cpus and stall_timeout must be positive, got {workers}, {cpus} and {timeout}",
                workers=self.workers,
                cpus=self.cpus,
                timeout=self.stall_timeout,
            )


@contextmanager
def connected(cluster: Cluster) -> Iterator[tuple[int, bool]]:
    """Connect to Ray, without telemetry or dashboard.

    Yields:
        The number of workers, and whether Ray was started here and so ends here.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # or a thread that still waits when Ray ends would start it again
    os.environ["RAY_DATA_METADATA_PREFETCH_ON_THREAD"] = "0"  # or that thread reports what it misses when Ray ends
    try:
        import ray
        import ray._private.worker
        import ray.data
    except ImportError:
        raise MissingDependencyError("Ray", "ray") from None
    started_here = not ray.is_initialized()
    with ExitStack() as until:
        if started_here:
            until.enter_context(last_words(_ENDED))
            folder = until.enter_context(TemporaryDirectory(prefix="vitscope-ray-"))
            start_ray(cluster, Path(folder))
            until.callback(shut_down)
            # errors are raised; Ray would print dumps of its own processes, too
            until.enter_context(mock.patch.object(ray._private.worker, "print_to_stdstream", return_value=None))
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
    for name in ("ray", "ray.data"):  # what is wrong is raised, and said in one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if cluster.address is None:
        with _environment(_private_settings(folder)), _same_signal_handlers():
            _start_here((cluster.workers or max(1, (os.cpu_count() or 1) - 1)) * cluster.cpus, quiet)
        return
    try:
        _check_reachable(cluster.address)
        with _same_signal_handlers():
            ray.init(address=cluster.address, job_config=_job_config(), **quiet)
    except Exception as error:  # ConnectionError, ValueError, RuntimeError: by version and form of address
        problem = msg(
            "batch.no-cluster",
            "no Ray cluster answers at {address}: {reason}",
            address=cluster.address,
            reason=first_line(error),
        )
        raise UsageError(problem, msg("batch.no-cluster.hint", "start one with: ray start --head")) from None


def shut_down() -> None:
    """End Ray, and each process of its cluster on this machine: a worker may outlive the others by a while."""
    import psutil  # Ray brings one
    import ray
    import ray._private.worker

    node = ray._private.worker._global_node
    family = list[psutil.Process]()
    for started in chain.from_iterable(node.all_processes.values()) if node is not None and node.head else ():
        with suppress(psutil.Error):
            process = psutil.Process(started.process.pid)
            family += [process, *process.children(recursive=True)]
    ray.shutdown()
    for process in psutil.wait_procs(family, timeout=_ENDING)[1]:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(family, timeout=_ENDING)


def require_alive() -> None:
    """Raise a ResultError where a process of the cluster on this machine has ended: Ray would end this one, too."""
    import ray._private.worker

    node = ray._private.worker._global_node
    if node is not None and node.head and (dead := node.dead_processes()):
        raise ResultError(
            msg(
                "batch.ray-died", "a process of Ray on this machine ended: {names}", names=", ".join(n for n, _ in dead)
            ),
            msg("batch.ray-died.hint", "memory may have run out; continue with {@resume=True}"),
        )


@contextmanager
def _same_signal_handlers() -> Iterator[None]:
    """Put the caller's signal handlers back: Ray installs its own, which end the process with a stack dump."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for one, handler in before.items():
            if handler is not None:  # else it was not installed by Python
                signal.signal(one, handler)


def _private_settings(folder: Path) -> dict[str, str]:
    """Return the environment of a cluster for this run only: a token of its own, quiet, and faster imports.

    Each of Ray's own dozen processes imports jsonschema. Where Jupyter is installed, jsonschema then compiles a grammar
    of URIs for two seconds, for checks that Ray never uses. A module that cannot be imported in the grammar's place
    makes jsonschema do without it.
    """
    (folder / "rfc3987_syntax.py").write_text("raise ImportError\n")
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Set variables for processes that start meanwhile."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _job_config() -> Any:
    """Return a job whose workers import from where this process does; Ray adds the working directory.

    The files of a working directory may be a stranger's, and one of them be called numpy.py.
    """
    from ray.job_config import JobConfig

    class OwnPaths(JobConfig):  # type: ignore[misc]
        def _runtime_env_has_working_dir(self) -> bool:
            return True  # so that Ray adds neither the working directory nor the script's

    here = [os.path.realpath(path) for path in sys.path]
    config = OwnPaths()
    script = os.path.dirname(os.path.realpath(sys.argv[0]))  # noqa: PTH120
    config._py_driver_sys_path.extend(path for path in dict.fromkeys([script, os.path.realpath(".")]) if path in here)
    return config


def _start_here(cpus: int, quiet: dict[str, Any]) -> None:
    """Start Ray for this run.

    Raises:
        ResultError: it does not start, or other machines or users could reach it.
    """
    import ray

    _check_address_space()
    for last in (False, True):  # Ray allows itself 30 seconds, which a busy machine may miss once
        try:
            # logical CPUs: one more than the workers take, or the reading task would wait for ever
            with _loopback_only():
                ray._raylet.Config.initialize("")  # read the environment again
                ray.init(
                    "local",
                    num_cpus=cpus + 1,
                    include_dashboard=False,
                    _node_ip_address=_LOOPBACK,
                    job_config=_job_config(),
                    **quiet,
                )
        except Exception as error:
            ray.shutdown()
            if last:
                raise ResultError(
                    msg("batch.ray-start", "Ray does not start on this machine: {reason}", reason=first_line(error)),
                    msg("batch.ray-start.hint", "use {@engine=local}"),
                ) from error
        else:
            break
    if not _is_private():
        ray.shutdown()
        raise ResultError.coded(
            "batch.ray-open",
            "Ray {version} would accept other users of this machine or network: it has no token or no loopback",
            "install a later release, pip install -U 'vitscope[ray]', or use {@engine=local}",
            version=ray.__version__,
        )


def _check_address_space() -> None:
    """Raise where Ray's processes would abort, or wait for each other for ever: each reserves the object store."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if 0 <= limit < _ADDRESS_SPACE:
        raise ResultError.coded(
            "batch.address-space",
            "this process may use {limit} GB of address space (ulimit -v); Ray's processes need {needed} GB",
            "run without that limit, or use {@engine=local}",
            limit=format(limit / 1e9, ".3g"),
            needed=format(_ADDRESS_SPACE / 1e9, ".3g"),
        )


def _is_private() -> bool:
    """Return whether the cluster listens on loopback only and requires the token."""
    import ray

    try:
        from ray._private.authentication.authentication_utils import is_token_auth_enabled
    except ImportError:  # releases before 2.52
        return False
    return bool(is_token_auth_enabled()) and all(node["NodeManagerAddress"] == _LOOPBACK for node in ray.nodes())


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Let Ray keep the loopback address, with which its processes listen on that only.

    It is what Ray does on macOS and Windows; on Linux it would replace the address by one that other machines reach.
    """
    import ray._private.services

    with mock.patch.object(ray._private.services, "resolve_ip_for_localhost", lambda host: host):
        yield


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
        raise UsageError.coded(
            "batch.too-few-cpus",
            "the Ray cluster has {cpus} CPUs, but {workers} workers need {needed}: {each} each, and one to read",
            "choose {@workers={most}}, or a larger cluster",
            cpus=cpus,
            workers=workers,
            needed=needed,
            each=cluster.cpus,
            most=max(1, (cpus - 1) // cluster.cpus),
        )
    return workers
