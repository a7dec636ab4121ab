"""Files and folders that appear whole or not at all."""

import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vitscope._documents import DamagedFileError, parse_json, read_bytes, read_document
from vitscope._messages import join_messages, msg
from vitscope.errors import ResultError

PART_PREFIX = ".part-"
FILE_KINDS = (".png", ".jpg", ".jpeg", ".pdf", ".svg", ".npz")
_OF_EXPLANATION = {"schema", "method", "layout", "region"}
_WHERE = msg("files.not-written.hint", "check that the folder can be written to and that the disk is not full")


def path_exists(path: Path) -> bool:
    """Return whether something is at `path`; False also for a path that the system cannot look up."""
    try:
        return path.exists()
    except OSError:
        return False


def is_file_name(path: Path) -> bool:
    """Return whether a name is that of one file of a result, such as `map.png`; an existing folder is a folder."""
    return path.suffix.lower() in FILE_KINDS and not path.is_dir()


def not_written(path: Path, error: OSError, hint: str = _WHERE) -> ResultError:
    """Make the error for a file or folder that the system did not write."""
    if isinstance(error, (IsADirectoryError, FileExistsError)):
        return in_the_way(Path(error.filename2 or error.filename or path))
    reason = error.strerror or str(error)
    return ResultError(msg("files.not-written", "{path} cannot be written: {reason}", path=path, reason=reason), hint)


def in_the_way(path: Path) -> ResultError:
    """Make the error for a folder in the place of a file, or the reverse."""
    problem = (
        msg("files.folder-in-the-way", "{path} is a folder, where a file is to be written", path=path)
        if path.is_dir()
        else msg("files.file-in-the-way", "{path} is a file, where a folder is to be made", path=path)
    )
    return ResultError(problem, msg("files.in-the-way.hint", "move it away, or choose another path"))


def make_room(path: Path) -> None:
    """Remove an empty folder in the place of a file.

    Raises:
        ResultError: a folder with something in it, which may be somebody's.
    """
    if path.is_dir() and not path.is_symlink():
        try:
            path.rmdir()
        except OSError as error:
            raise in_the_way(path) from error


@contextmanager
def write_errors(path: Path, hint: str = _WHERE) -> Iterator[None]:
    """Raise a ResultError about `path` for any OSError in the `with`."""
    try:
        yield
    except OSError as error:
        raise not_written(path, error, hint) from error


@contextmanager
def atomic_write(path: Path, hint: str = _WHERE, *, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path whose file replaces `path` when the `with` ends without an error.

    The temporary file lies beside `path`, has the same ending, and its name starts with `PART_PREFIX`; it is the same
    for each write to `path`, so the next write overwrites what a killed process left. An error removes it.

    Args:
        path: the file; missing parent folders are made.
        hint: what to do where it cannot be written.
        sync: also wait until the contents and the new name are on disk.

    Raises:
        ResultError: for any OSError in the `with` or of the replacement.
    """
    part = path.with_name(f"{PART_PREFIX}{zlib.crc32(os.fsencode(path.name)):08x}-{path.name[-40:]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        if sync:
            _sync(part, os.O_RDWR)
        part.replace(path)
        if sync:
            with suppress(PermissionError):  # Windows opens no folders
                _sync(path.parent, os.O_RDONLY)
    except OSError as error:
        raise not_written(path, error, hint) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def staged_folder(folder: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that replaces `folder` when the `with` ends without an error; an error removes it.

    Raises:
        ResultError: `folder` is there already (without `force`), is not a result, or cannot be written.
    """
    if path_exists(folder) and not force:
        raise already_there(folder)
    if path_exists(folder) and not _replaceable(folder):
        raise ResultError(
            msg("files.not-a-result", "{path} is not a result of vitscope and is not replaced", path=folder),
            msg("files.not-a-result.hint", "choose another path"),
        )
    work = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name[:40]}.", dir=folder.parent))
        (stage := work / "new").mkdir()
        yield stage
        if folder.exists():
            folder.replace(work / "old")
        stage.replace(folder)
    except OSError as error:
        raise not_written(folder, error) from error
    finally:
        if work is not None:
            if (work / "old").exists() and not folder.exists():  # interrupted between the two
                (work / "old").replace(folder)
            shutil.rmtree(work, ignore_errors=True)


def already_there(path: Path) -> ResultError:
    """Make the error for a path that is taken."""
    return ResultError.coded(
        "files.already-there", "{path} is already there", "{@force=True} replaces it, or choose another path", path=path
    )


def require_same_options(path: Path, options: Mapping[str, Any], hint: str, *, ignore: str = "") -> None:
    """Compare options with those that an earlier run wrote into a JSON file.

    Args:
        path: the file.
        options: plain JSON values.
        hint: what to do where they differ.
        ignore: an option that may differ.

    Raises:
        ResultError: the file is not such JSON, or options differ; the message names each of them.
    """
    try:
        before = read_document(path, dict[str, Any])
    except DamagedFileError as error:
        problem = msg("files.broken-options", "not the options of a run: {reason}", reason=error.message)
        raise ResultError(
            problem, msg("files.broken-options.hint", "restore the file, or choose another {@out}")
        ) from error
    names = sorted({*before, *options} - {ignore})
    changes = [(name, before.get(name), options.get(name)) for name in names]
    changed = [
        msg("files.option-changed", "{name} was {before} and is {now}", name=name, before=repr(was), now=repr(now))
        for name, was, now in changes
        if was != now
    ]
    if changed:
        problem = msg(
            "files.other-options",
            "{path} was started with other options: {changes}",
            path=path.parent,
            changes=join_messages("; ", changed),
        )
        raise ResultError(problem, hint)


def holds_results(folder: Path) -> bool:
    """Return whether vitscope wrote a folder: a saved explanation, or the output of a batch.

    Web pages, too, have a `manifest.json`, so its keys are read.
    """
    keys = _manifest_keys(folder)
    return keys >= _OF_EXPLANATION or keys >= {"schema", "plan", "shards"}


def _manifest_keys(folder: Path) -> set[str]:
    try:
        return set(parse_json(read_bytes(folder / "manifest.json")))  # which is no pipe
    except (DamagedFileError, OSError, ValueError, TypeError):
        return set()


def _replaceable(folder: Path) -> bool:
    """Return whether `folder` is empty or a saved explanation."""
    try:
        return not any(folder.iterdir()) or _manifest_keys(folder) >= _OF_EXPLANATION
    except OSError:
        return False
