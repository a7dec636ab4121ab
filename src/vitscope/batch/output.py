"""The output folder: shards appear whole, and what the manifest lists is finished, whatever happens."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from vitscope.batch.fault_injection import reach
from vitscope.batch.types import SCHEMA, Outcome, Task
from vitscope.errors import ResultError, UsageError

__all__ = ["OutputFolder", "ShardRecord", "check_output", "open_output", "read_manifest", "write_errors", "write_shard"]

PLAN, MANIFEST, LOCK = "batch.json", "manifest.json", ".lock"
DATA, STATS, OVERLAYS = "data", "stats", "overlays"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # as `pathlib` leaves it
_GO_ON = "run again with --resume to go on: what is finished can be read, and is not made again"


@dataclass(frozen=True)
class ShardRecord:
    """What the manifest says of a finished shard.

    Attributes:
        number: that of its task.
        digest: that of its task.
        file: its path within the output.
        sha256: of the file.
        images: pictures in it.
        rows: rows in it.
        failed: pictures that could not be explained.
    """

    number: int
    digest: str
    file: str
    sha256: str
    images: int
    rows: int
    failed: int


def write_shard(folder: Path, outcome: Outcome) -> ShardRecord:
    """Write a shard and its statistics into an output folder, from any process that sees it; the caller lists it.

    Both appear whole or not at all, and a shard that was written before is replaced by the same.

    Raises:
        ResultError: the disk is full, the folder cannot be written.
    """
    name = f"part-{outcome.number:06d}"
    buffer = pa.BufferOutputStream()
    pq.write_table(outcome.table, buffer, compression="zstd")
    data = buffer.getvalue()
    stats = outcome.stats
    shard = ShardRecord(
        number=outcome.number,
        digest=outcome.digest,
        file=f"{DATA}/{name}.parquet",
        sha256=hashlib.sha256(data).hexdigest(),
        images=stats["images"],
        rows=stats["rows"],
        failed=stats["failed"],
    )
    with write_errors(folder):
        reach("before-shard-write")
        _put(folder / shard.file, data, "shard")
        reach("after-shard-rename")
        _put(folder / STATS / f"{name}.json", _json({**asdict(shard), **stats}), "stats")
        reach("after-stats-rename")
    return shard


class OutputFolder:
    """An output folder that is held for writing. Made by `output`."""

    def __init__(self, folder: Path, shards: Iterable[ShardRecord]) -> None:
        self.folder, self._shards = folder, {shard.number: shard for shard in shards}

    @property
    def shards(self) -> tuple[ShardRecord, ...]:
        """The finished shards."""
        return tuple(self._shards[number] for number in sorted(self._shards))

    def remaining(self, tasks: Iterator[Task]) -> Iterator[Task]:
        """The tasks whose shards are not finished yet.

        Raises:
            ResultError: a finished shard holds other pictures than its task: the source has changed.
        """
        for task in tasks:
            shard = self._shards.get(task.number)
            if shard is None:
                yield task
            elif shard.digest != task.digest:
                raise ResultError(
                    f"the source has changed since {self.folder} was begun: shard {task.number} held other pictures",
                    "choose another --out, or put the source back as it was",
                )

    def commit(self, outcome: Outcome) -> ShardRecord:
        """Write a shard and list it; on disk before this returns. One caller at a time."""
        shard = write_shard(self.folder, outcome)
        self.record(shard)
        return shard

    def record(self, shard: ShardRecord) -> None:
        """List a shard that `write_shard` wrote; on disk before this returns. One caller at a time."""
        self._shards[shard.number] = shard
        document = {"schema": SCHEMA, "shards": [asdict(one) for one in self.shards]}
        with write_errors(self.folder):
            _put(self.folder / MANIFEST, _json(document, indent=None), "manifest")


@contextmanager
def open_output(folder: Path, plan: Mapping[str, Any], *, resume: bool) -> Iterator[OutputFolder]:
    """Hold an output folder for writing, new or begun before.

    Args:
        folder: where.
        plan: everything that rows depend on; plain JSON values.
        resume: go on with what is there.

    Raises:
        UsageError: a URL.
        ResultError: the folder holds something else, a run that is not to be gone on with or that was made with other
            options (which are named), somebody is writing into it, or it cannot be written.
    """
    plan = json.loads(json.dumps(plan))
    with write_errors(folder, "check the path, or choose another --out"):
        resuming = _holds_run(folder, resume)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ResultError(f"somebody is writing into {folder}", "wait for it, or choose another --out") from None
    try:
        reach("after-lock")
        with write_errors(folder):
            resuming = resuming or _holds_run(folder, resume)  # somebody may have begun while this waited
            if resuming:
                _check_same_options(folder, plan)
            for name in (DATA, STATS):
                (folder / name).mkdir(exist_ok=True)
                for remaining in (folder / name).glob(".*.part"):
                    remaining.unlink()
            if not resuming:
                _put(folder / PLAN, _json(plan), "plan")
                reach("after-plan")
        yield OutputFolder(folder, read_manifest(folder))
    finally:
        lock.release()


def check_output(folder: Path, *, resume: bool) -> None:
    """Look at an output folder before the model is loaded.

    Raises:
        UsageError: a URL.
        ResultError: it holds something else, or a run that is not to be gone on with.
    """
    with write_errors(folder, "check the path"):
        _holds_run(folder, resume)


def _holds_run(folder: Path, resume: bool) -> bool:
    """Does the folder hold a run of ours?"""
    if _URL.match(place := folder.as_posix()) and not folder.exists():
        raise UsageError(
            f"{place.replace(':/', '://', 1)} is no folder: object stores know no rename and no lock, and resuming "
            "rests on both",
            "name a local or mounted folder, and copy it there when it is done",
        )
    if folder.exists() and not folder.is_dir():
        raise ResultError(f"{folder} is a file", "choose another --out")
    if (folder / PLAN).is_file():
        if not resume:
            raise ResultError(f"{folder} holds a run that was begun before", "--resume goes on with it")
        return True
    if folder.is_dir() and any(
        one.name not in (LOCK, DATA, STATS) and not one.name.endswith(".part") for one in folder.iterdir()
    ):
        raise ResultError(f"{folder} is not empty and holds no run of vitscope", "choose another --out")
    return False


def _check_same_options(folder: Path, plan: Mapping[str, Any]) -> None:
    """The run that is there was begun with the same options."""
    try:
        was = json.loads((folder / PLAN).read_text("utf-8"))
        pairs = [(name, was.get(name), plan.get(name)) for name in sorted({*was, *plan}) if name != "versions"]
    except (ValueError, AttributeError) as error:
        raise ResultError(f"{folder / PLAN} is not what a run wrote: {error}", "choose another --out") from error
    changed = [f"{name} was {then!r} and is {now!r}" for name, then, now in pairs if then != now]
    if changed:
        raise ResultError(
            f"{folder} was begun with other options: {'; '.join(changed)}", "choose another --out, or the same options"
        )


def read_manifest(folder: Path) -> tuple[ShardRecord, ...]:
    """The finished shards of an output folder, in order; also while somebody writes into it.

    Raises:
        ResultError: a manifest that is broken or of another schema, or a shard that is gone.
    """
    path = folder / MANIFEST
    if not path.exists():
        return ()
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["schema"] != SCHEMA:
            raise ResultError(f"{folder} has schema {document['schema']}, this vitscope writes {SCHEMA}", "update it")
        shards = [ShardRecord(**one) for one in document["shards"]]
    except (ValueError, TypeError, KeyError) as error:
        raise ResultError(f"{path} is not what a run wrote: {error}", "choose another --out") from error
    for shard in shards:
        if not (folder / shard.file).is_file():
            raise ResultError(f"{folder / shard.file} is listed as finished and is not there", "put it back")
    return tuple(sorted(shards, key=lambda shard: shard.number))


def _json(document: Any, indent: int | None = 1) -> bytes:
    return (json.dumps(document, indent=indent, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _put(path: Path, data: bytes | pa.Buffer, what: str) -> None:
    """Write a file aside, sync it, and let it take its place."""
    part = path.with_name(f".{path.name}.part")
    view = memoryview(data)
    try:
        with part.open("wb") as file:
            file.write(view[: len(view) // 2])
            reach(f"during-{what}-write")
            file.write(view[len(view) // 2 :])
            file.flush()
            reach(f"after-{what}-write")
            os.fsync(file.fileno())
        reach(f"after-{what}-sync")
        part.replace(path)
        _sync_folder(path.parent)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    reach(f"after-{what}-rename")


def _sync_folder(folder: Path) -> None:
    """The new name is on disk, too, where the system can be asked for that."""
    with suppress(PermissionError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def write_errors(folder: Path, hint: str = _GO_ON) -> Iterator[None]:
    """Whatever the system says against writing becomes one line."""
    try:
        yield
    except OSError as error:
        raise ResultError(f"{folder} cannot be written: {error.strerror or error}", hint) from error
