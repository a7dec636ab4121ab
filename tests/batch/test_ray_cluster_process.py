"""`vitscope batch --engine ray` as a process: who can reach it, and how it ends."""

import os
import resource
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.helpers.errors import raises
from vitscope.batch import ray_cluster
from vitscope.batch.ray_cluster import Cluster, start_ray
from vitscope.errors import ResultError

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")  # not imported to be counted
PATIENCE = 150.0  # seconds until the workers of a busy machine have begun


@pytest.mark.slow
def test_an_address_space_that_is_too_small_is_refused_at_once(monkeypatch, tmp_path):
    """Ray itself aborts at 8 GB, with a dump."""
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (8_000_000_000, resource.RLIM_INFINITY))
    with raises(ResultError, "batch.address-space"):
        start_ray(Cluster(workers=1), tmp_path)


def test_workers_import_from_a_working_directory_only_where_this_process_does(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/nowhere/vitscope"])
    config = ray_cluster._job_config()
    assert config._py_driver_sys_path == []
    assert config._runtime_env_has_working_dir()
    monkeypatch.setattr(sys, "path", [*sys.path, ""])
    assert ray_cluster._job_config()._py_driver_sys_path == [str(tmp_path)]


@pytest.mark.slow
def test_no_file_of_the_working_directory_is_run(tiny_folder, tmp_path):
    run = f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__)"
    for name in ("numpy", "pyarrow", "torch", "vitscope"):
        (tmp_path / f"{name}.py").write_text(run)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    command = [
        sys.executable,
        "-P",
        "-c",
        "import sys; sys.argv[0] = 'vitscope'; from vitscope.cli.main import run; run()",
    ]
    options = ["batch", "a.png", "-o", "out", "-m", tiny_folder, "--engine", "ray", "--method", "rollout"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    done = subprocess.run(
        [*command, *map(str, options)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert not (tmp_path / "ran").exists()
    assert done.returncode == 0, done.stderr


@pytest.fixture
def batch(tiny_folder, tmp_path):
    """A run that has begun: its process, its folder and the file of what it printed."""
    (photos := tmp_path / "photos").mkdir()
    noise = np.random.default_rng(0)
    for number in range(400):
        Image.fromarray(noise.integers(0, 255, (64, 64, 3), np.uint8)).save(photos / f"{number:03}.png")
    out, printed = tmp_path / "out", tmp_path / "printed.txt"
    options = ["-o", out, "-m", tiny_folder, "--engine", "ray", "--shard-size", 2, "--method", "rise"]
    command = [sys.executable, "-m", "vitscope", "batch", photos, *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}  # without a token of its own
    with printed.open("w") as file:
        process = subprocess.Popen(list(map(str, command)), env=environment, stdout=file, stderr=file)
        try:
            until = time.monotonic() + PATIENCE
            while not any(out.glob("data/*")):
                assert process.poll() is None, printed.read_text()
                assert time.monotonic() < until
                time.sleep(0.2)
            yield process, out, printed
        finally:
            for one in [process, *psutil.Process().children(recursive=True)]:
                if isinstance(one, psutil.Process) and "ray" in one.name():
                    one.kill()
            process.kill()
            process.wait()


def finished_rows(out):
    return {file.name: file.read_bytes() for file in out.glob("data/*.parquet")}


@pytest.mark.slow
def test_it_is_reached_from_this_machine_with_a_token_only_and_a_signal_ends_it(batch, tmp_path):
    process, out, printed = batch
    family = psutil.Process(process.pid).children(recursive=True)
    raylet = next(one for one in family if one.name() == "raylet")
    listening = {line.laddr.ip for one in family for line in connections(one)}
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}
    environment = raylet.environ()
    assert environment["RAY_AUTH_MODE"] == "token"
    assert len(environment["RAY_AUTH_TOKEN"]) == 64
    assert not (tmp_path / ".ray").exists()
    process.send_signal(signal.SIGTERM)
    ended = process.wait(60)
    said = printed.read_text()
    assert ended == 130, said
    assert said.splitlines()[-1].startswith("vitscope: interrupted")
    assert not {"SIGTERM", "Traceback", "Fatal"} & set(said.split())
    assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert finished_rows(out)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raylet", "ray::DashboardAgent"])
def test_a_process_of_ray_that_dies_is_one_line(batch, name):
    """The raylet follows its agent, and then Ray's own thread ends this process, from one moment to the next."""
    process, out, printed = batch
    family = psutil.Process(process.pid).children(recursive=True)
    next(one for one in family if name in (one.name(), *one.cmdline())).kill()
    assert process.wait(60) == 1, printed.read_text()
    until = time.monotonic() + 10  # the line may come from a process that outlives this one
    while "a process of Ray" not in (said := printed.read_text()) and time.monotonic() < until:
        time.sleep(0.1)
    assert "a process of Ray on this machine ended" in said.splitlines()[-1]
    assert "--resume" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert "state-dump" not in said
    assert finished_rows(out)


def test_what_outlives_ray_is_ended(monkeypatch):
    """Of the processes that Ray started and of theirs; a worker that had just begun was seen to outlive the raylet."""
    import ray

    outliving = "import subprocess, sys; subprocess.Popen(['sleep', '60']); print(flush=True); sys.stdin.read()"
    started = subprocess.Popen([sys.executable, "-c", outliving], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    started.stdout.readline()
    family = [psutil.Process(started.pid), *psutil.Process(started.pid).children()]
    node = SimpleNamespace(head=True, all_processes={"raylet": [SimpleNamespace(process=started)]})
    monkeypatch.setattr("ray._private.worker._global_node", node)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray_cluster, "_ENDING", 0.2)
    ray_cluster.shut_down()
    started.communicate()
    assert len(family) == 2
    assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def connections(process):
    try:
        return [line for line in process.net_connections("inet") if line.status == psutil.CONN_LISTEN]
    except psutil.Error:
        return []


def test_a_cluster_that_others_could_reach_is_refused(monkeypatch, tmp_path):
    """Releases without tokens, or that listen on all interfaces whatever they are told."""
    import ray

    for name in ("init", "shutdown"):
        monkeypatch.setattr(ray, name, lambda *_, **__: None)
    for address, token in (("127.0.0.1", False), ("10.0.0.7", True)):
        monkeypatch.setattr(ray, "nodes", lambda address=address: [{"NodeManagerAddress": address}])
        monkeypatch.setattr(
            "ray._private.authentication.authentication_utils.is_token_auth_enabled", lambda token=token: token
        )
        (folder := Path(tmp_path / address)).mkdir()
        with raises(ResultError, "batch.ray-open"):
            start_ray(Cluster(workers=1), folder)
