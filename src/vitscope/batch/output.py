"""The output folder: shards appear whole, and every shard that the manifest lists is finished, whatever happens."""

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from msgspec import to_builtins

from vitscope._documents import (
    DamagedFileError,
    damaged,
    document_bytes,
    file_record,
    json_bytes,
    read_document,
    require_contents,
)
from vitscope._files import PART_PREFIX, atomic_write, make_room, require_same_options, write_errors
from vitscope._messages import msg
from vitscope.batch._arrow import pa, pq
from vitscope.batch.schemas import Manifest, ShardRecord
from vitscope.batch.types import PLAN, SCHEMA, Outcome, Task
from vitscope.errors import OutOfMemoryError, ResultError, UsageError

log = logging.getLogger(__name__)

MANIFEST, LOCK = "manifest.json", ".lock"
DATA, STATS = "data", "stats"
RESUME = msg("batch.resume.hint", "run again with {@resume=True} to continue: finished shards are readable and kept")
_OTHER_OUT = msg("batch.other-out.hint", "choose another {@out}")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # as `pathlib` leaves it


class OutputFolder:
    """An output folder that is locked for writing. Made by `open_output`.

    Shards with images over which memory ran out are not finished: they are made again.

    Raises:
        ResultError: a folder with something in it is in the place of a shard.

    Attributes:
        folder: where.
        damaged: listed shards that are not as they were written, by file with the reason; they are made again.
    """

    def __init__(self, folder: Path, shards: Iterable[ShardRecord]) -> None:
        self.folder, self.damaged = folder, dict[str, str]()
        self._plan, self._shards = file_record(folder / PLAN).sha256, dict[int, ShardRecord]()
        for shard in shards:
            try:
                path = require_intact(folder, shard)
                if shard.failed and _lacked_memory(path):
                    log.info("%s: memory ran out over some images; it is made again", shard.file)
                else:
                    self._shards[shard.number] = shard
            except ResultError as error:
                self.damaged[shard.file] = error.message
                log.warning("%s; it is made again", error.message)
                for path in (folder / shard.file, folder / _stats_file(shard.number)):
                    make_room(path)

    @property
    def shards(self) -> tuple[ShardRecord, ...]:
        """The finished shards in order."""
        return tuple(self._shards[number] for number in sorted(self._shards))

    def remaining(self, tasks: Iterator[Task]) -> Iterator[Task]:
        """Yield the tasks whose shards are not finished; raise a ResultError where the source has changed."""
        for task in tasks:
            shard = self._shards.get(task.number)
            if shard is None:
                yield task
            elif shard.digest != task.digest:
                raise ResultError.coded(
                    "batch.source-changed",
                    "the source has changed since the run in {path} started: shard {number} held other images",
                    "choose another {@out}, or restore the source",
                    path=self.folder,
                    number=task.number,
                )

    def commit(self, outcome: Outcome) -> ShardRecord:
        """Write a shard and list it in the manifest; both are on disk on return.

        One caller at a time.

        Raises:
            ResultError: the disk is full, or the folder cannot be written.
        """
        shard = _write_shard(self.folder, outcome)
        self._shards[shard.number] = shard
        document = {"schema": SCHEMA, "plan": self._plan, "shards": [to_builtins(one) for one in self.shards]}
        _write(self.folder / MANIFEST, document_bytes(document, indent=None))
        log.debug("shard %d is finished: %d rows, %d failed images", shard.number, shard.rows, shard.failed)
        return shard


@contextmanager
def open_output(folder: Path, plan: Mapping[str, Any], *, resume: bool) -> Iterator[OutputFolder]:
    """Lock an output folder for writing, a new one or that of an earlier run.

    Args:
        folder: where.
        plan: everything that rows depend on; plain JSON values.
        resume: continue the run in the folder.

    Raises:
        UsageError: a URL.
        ResultError: the folder holds something else, a run without `resume`, or a run with other options (which are
            named); another run writes into it; or it cannot be written.
    """
    plan = json.loads(json.dumps(plan))
    with write_errors(folder, _OTHER_OUT):
        resuming = _holds_run(folder, resume)
        folder.mkdir(parents=True, exist_ok=True)
        make_room(folder / LOCK)
        lock = FileLock(folder / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ResultError(
                msg("batch.locked", "another run writes into {path}", path=folder),
                msg("batch.locked.hint", "wait until it ends, or choose another {@out}"),
            ) from None
    try:
        with write_errors(folder, RESUME):
            if resuming or _holds_run(folder, resume):  # another run may have started before this one had the lock
                hint = msg("batch.other-options.hint", "choose another {@out}, or use the same options")
                require_same_options(folder / PLAN, plan, hint, ignore="versions")
            else:
                _write(folder / PLAN, document_bytes(plan, indent=1))
            for name in (DATA, STATS):
                (folder / name).mkdir(exist_ok=True)
                for part in (folder / name).glob(f"{PART_PREFIX}*"):
                    make_room(part)
                    part.unlink(missing_ok=True)
        yield OutputFolder(folder, read_manifest(folder))
    finally:
        lock.release()


def check_output(folder: Path, *, resume: bool) -> None:
    """Check an output folder before the model is loaded.

    Raises:
        UsageError: a URL.
        ResultError: the folder holds something else, or a run without `resume`.
    """
    with write_errors(folder, _OTHER_OUT):
        _holds_run(folder, resume)


def read_manifest(folder: Path) -> tuple[ShardRecord, ...]:
    """Return the finished shards of an output folder, also while a run writes there.

    Raises:
        ResultError: a manifest that is damaged or of another schema.
    """
    path = folder / MANIFEST
    if not path.exists() or not (folder / PLAN).is_file():
        return ()
    try:
        manifest = read_document(path, Manifest, SCHEMA)
        if file_record(folder / PLAN).sha256 != manifest.plan:
            raise damaged(folder / PLAN, msg("batch.other-plan", "it is not the file with which the run was started"))
        shards = manifest.shards
        numbers = [shard.number for shard in shards]
        fits = all(shard.file == _shard_file(shard.number) and shard.failed <= shard.images for shard in shards)
        if not fits or numbers != sorted({*numbers}):
            reason = msg("batch.shards", "these shards cannot belong to one run")
            raise damaged(path, msg("documents.field", "field {field}: {reason}", field="shards", reason=reason))
    except DamagedFileError as error:
        hint = msg(
            "batch.broken-manifest.hint",
            "restore the file, or remove it and run again with {@resume=True}: all shards are made again",
        )
        raise ResultError(
            msg("batch.broken-manifest", "not a manifest of vitscope batch: {reason}", reason=error.message), hint
        ) from error
    return tuple(shards)


def require_intact(folder: Path, shard: ShardRecord) -> Path:
    """Return the path of a finished shard, whose file is the one that was written.

    Raises:
        ResultError: missing, damaged or exchanged.
    """
    try:
        return require_contents(folder / shard.file, shard.record)
    except DamagedFileError as error:
        raise ResultError(
            msg("batch.damaged-shard", "a finished shard is damaged: {reason}", reason=error.message),
            msg("batch.damaged-shard.hint", "restore the file, or run again with {@resume=True} to make it again"),
        ) from error


def _lacked_memory(path: Path) -> bool:
    """Return whether images of a finished shard failed for want of memory, which is no fault of theirs."""
    kinds = pq.read_table(path, columns=["error_kind"], partitioning=None).column(0)
    return OutOfMemoryError.__name__ in kinds.unique().to_pylist()


def _shard_file(number: int) -> str:
    return f"{DATA}/part-{number:06d}.parquet"


def _stats_file(number: int) -> str:
    return f"{STATS}/part-{number:06d}.json"


def _write_shard(folder: Path, outcome: Outcome) -> ShardRecord:
    """Write a shard and its statistics, each whole or not at all. What an earlier try left is replaced."""
    buffer = pa.BufferOutputStream()
    pq.write_table(outcome.table, buffer, compression="zstd")
    data = buffer.getvalue()
    stats = outcome.stats
    shard = ShardRecord(
        number=outcome.number,
        digest=outcome.digest,
        file=_shard_file(outcome.number),
        sha256=hashlib.sha256(data).hexdigest(),
        size=data.size,
        images=stats["images"],
        rows=stats["rows"],
        failed=stats["failed"],
        seconds=stats["seconds"],
    )
    _write(folder / shard.file, data)
    _write(folder / _stats_file(shard.number), json_bytes({**to_builtins(shard), **stats}, indent=1))
    return shard


def _holds_run(folder: Path, resume: bool) -> bool:
    """Return whether the folder holds a run; raise where a run may not start there."""
    if _URL.match(place := folder.as_posix()) and not folder.exists():
        raise UsageError.coded(
            "batch.output-is-url",
            "{url} is not a folder: object stores have no rename and no lock, which resuming needs",
            "choose a local or mounted folder, and copy it there after the run",
            url=place.replace(":/", "://", 1),
        )
    if folder.exists() and not folder.is_dir():
        raise ResultError(msg("batch.output-is-file", "{path} is a file, not a folder", path=folder), _OTHER_OUT)
    if (folder / PLAN).is_file():
        if not resume:
            raise ResultError.coded(
                "batch.already-started", "{path} holds an earlier run", "{@resume=True} continues it", path=folder
            )
        return True
    if folder.is_dir() and any(
        one.name not in (LOCK, DATA, STATS) and not one.name.startswith(PART_PREFIX) for one in folder.iterdir()
    ):
        raise ResultError.coded(
            "batch.output-not-empty", "{path} is not empty and holds no run of vitscope batch", _OTHER_OUT, path=folder
        )
    return False


def _write(path: Path, data: bytes | pa.Buffer) -> None:
    with atomic_write(path, RESUME, sync=True) as part:
        part.write_bytes(data)
