"""Faults at named points of a batch run: the process is killed there, or an error is raised.

The functions at these points are wrapped from outside, in this process (`install`) or in every Python process that is
started with an environment (`environment`). vitscope itself knows nothing of it.
"""

import errno
import os
import signal
from contextlib import contextmanager
from pathlib import Path

POINTS = (
    "after-lock",
    "after-plan",
    "during-decode",
    "after-decode",
    "after-forward",
    "before-shard-write",
    "during-shard-write",
    "after-shard-write",
    "after-shard-sync",
    "after-shard-rename",
    "after-stats-rename",
    "during-manifest-write",
    "after-manifest-sync",
    "after-manifest-rename",
)
ROOT = Path(__file__).parents[2]
STARTUP = """import sys
sys.path.append({root!r})
from tests.helpers import faults
faults.install({fault!r})
"""


def environment(fault, folder):
    """The environment variables with which Python processes get a fault; their start-up file is put into a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(STARTUP.format(root=str(ROOT), fault=fault))
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


def install(fault, put=setattr):
    """Wrap the functions at the points.

    `POINT` kills the process there, as `kill -9` does; `POINT:3` the third time; `POINT@03.png` with an image whose
    source ends so; `POINT=ENOSPC` or another name of an error number raises that error, each time from then on.

    Args:
        fault: as above.
        put: puts a function in place: `setattr`, or a fixture's `monkeypatch.setattr`.
    """
    from filelock import FileLock

    from vitscope import _files
    from vitscope.batch import fetch, output, worker

    reach = _reach(fault)
    put(FileLock, "acquire", _then(FileLock.acquire, lambda *_, **__: reach("after-lock")))
    put(fetch, "_read_image", _first(fetch._read_image, lambda ref, *_: reach("during-decode", ref.source)))
    put(worker, "_load", _then(worker._load, lambda *_: reach("after-decode")))
    put(worker, "explain_batch", _then(worker.explain_batch, lambda *_: reach("after-forward")))

    plain = output.atomic_write

    @contextmanager
    def atomic_write(path, *given, **options):
        what = _what(path)
        reach(f"before-{what}-write")
        with plain(path, *given, **options) as part:
            yield _Part(part, what, reach)
        reach("after-plan" if what == "plan" else f"after-{what}-rename")

    put(output, "atomic_write", atomic_write)
    put(_files, "_sync", _then(_files._sync, lambda path, _: reach(f"after-{_what(path)}-sync")))


class _Part:
    """A file that is written in two halves."""

    def __init__(self, path, what, reach):
        self.path, self.what, self.reach = path, what, reach

    def write_bytes(self, data):
        view = memoryview(data)
        with self.path.open("wb") as file:
            file.write(view[: len(view) // 2])
            self.reach(f"during-{self.what}-write")
            file.write(view[len(view) // 2 :])
            file.flush()
            self.reach(f"after-{self.what}-write")


def _what(path):
    """What a file of the output folder is, whole or in part; the folders themselves are synced too."""
    if path.name.endswith("batch.json"):
        return "plan"
    if path.name.endswith("manifest.json"):
        return "manifest"
    return {".parquet": "shard", ".json": "stats"}.get(path.suffix, "folder")


def _reach(fault):
    place, _, error = fault.partition("=")
    place, _, ending = place.partition("@")
    name, _, nth = place.partition(":")
    assert name in POINTS, fault
    times = 0

    def reach(point, source=""):
        nonlocal times
        if point != name or not source.endswith(ending):
            return
        times += 1
        if times < int(nth or 1):
            return
        if error:
            number = getattr(errno, error)
            raise OSError(number, os.strerror(number))
        os.kill(os.getpid(), signal.SIGKILL)

    return reach


def _then(function, work):
    def wrapped(*given, **options):
        result = function(*given, **options)
        work(*given, **options)
        return result

    return wrapped


def _first(function, work):
    def wrapped(*given, **options):
        work(*given, **options)
        return function(*given, **options)

    return wrapped
