"""Lists the images within Parquet files, tars and videos without reading the images.

A file that cannot be opened gives one ref with the reason, so that it costs its own row only.
"""

import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from vitscope._header_scan import check_regular
from vitscope._messages import msg
from vitscope.batch.types import Ref
from vitscope.errors import ImageError, UnknownNameError, UsageError, VitscopeError

IMAGE_COLUMNS = ("image", "image_bytes", "bytes", "jpg", "png", "path", "image_path", "file_name", "filename", "url")
_TAR_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".ppm", ".pgm", ".gif", ".bmp", ".tif", ".tiff"})


def list_refs(path: str, key: str, file_kind: str, column: str | None, stride: int) -> Iterator[Ref]:
    """Yield the refs of one file; their `row` is not set yet."""
    list_file = {"parquet": _list_parquet, "webdataset": _list_tar, "video": _list_video}.get(file_kind)
    if list_file is None:
        yield Ref(0, key, path, "file", path)
        return
    try:
        yield from list_file(path, key, column if file_kind == "parquet" else stride)  # type: ignore[operator]
    except ImageError as error:  # no file at all
        yield Ref(0, f"{key}!", path, "broken", path, problem=error.message)
    except VitscopeError:
        raise
    except Exception as error:  # whatever a library raises on a broken file
        problem = msg(
            "batch.unreadable-container",
            "{path} cannot be read as {kind}: {reason}",
            path=path,
            kind=file_kind,
            reason=failure_reason(error),
        )
        yield Ref(0, f"{key}!", path, "broken", path, problem=problem)


def failure_reason(error: BaseException) -> str:
    """Return why reading failed, without the path."""
    if isinstance(error, OSError) and error.errno is None and error.__cause__ is not None:
        return failure_reason(error.__cause__)  # fsspec raises an OSError that holds the URL only
    if isinstance(error, FileNotFoundError) and error.errno is None:
        return msg("batch.does-not-exist", "does not exist")
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def local_path(path: str) -> str:
    """Return the path that a URL of a local file names; any other URL or path as it is.

    Raises:
        ImageError: a chain of URLs whose last one is a local pipe or device.
    """
    if "://" not in path:
        return path
    last = path.rpartition("::")[2]
    if last.startswith(("file://", "local://")) or "://" not in last:
        name = last.rpartition("://")[2]
        if last == path:
            return name
        check_regular(Path(name), path)
    return path


@contextmanager
def open_file(path: str) -> Iterator[BinaryIO]:
    """Open a local file or a URL at any position; fetch it whole where a server supports no ranges."""
    path = local_path(path)
    if "://" not in path:
        check_regular(Path(path), path)
        with open(path, "rb") as file:  # noqa: PTH123  # a name may hold bytes that are no text
            yield file
        return
    import fsspec

    files, place = fsspec.core.url_to_fs(path)
    with files.open(place, "rb") as file:
        if _supports_ranges(file):
            yield file
            return
    with files.open(place, "rb", block_size=0) as stream, TemporaryFile() as whole:
        shutil.copyfileobj(stream, whole)
        whole.seek(0)
        yield whole


def _supports_ranges(file: Any) -> bool:
    """Return whether a web server sends parts of a file; some admit only on the first request that they do not."""
    try:
        file.seek(file.size - 1)
        file.read(1)
        file.seek(0)
    except (TypeError, ValueError):  # no size; no ranges
        return False
    return True


def _list_parquet(path: str, key: str, column: str | None) -> Iterator[Ref]:
    import pyarrow.parquet as pq

    with open_file(path) as file, pq.ParquetFile(file) as table:
        names = table.schema_arrow.names
        chosen = column or next((name for name in IMAGE_COLUMNS if name in names), None)
        if chosen not in names:
            if column:
                raise UnknownNameError(f"column of {path}", column, names)
            raise UsageError(
                msg("batch.no-image-column", "{path} has no column of images with a usual name", path=path),
                msg("batch.no-image-column.hint", "choose {@column}, one of {columns}", columns=", ".join(names)),
            )
        row = 0
        for group in range(table.num_row_groups):
            for at in range(table.metadata.row_group(group).num_rows):
                yield Ref(0, f"{key}#{row}", f"{path}#{row}", "parquet", path, at, group=group, column=str(chosen))
                row += 1


def _list_tar(path: str, key: str, _stride: int) -> Iterator[Ref]:
    with open_file(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # or all headers stay in memory
            if member.isreg() and PurePosixPath(member.name).suffix.lower() in _TAR_SUFFIXES:
                name = member.name
                yield Ref(0, f"{key}::{name}", f"{path}::{name}", "tar", path, member.offset_data, member.size)


def _list_video(path: str, key: str, stride: int) -> Iterator[Ref]:
    from vitscope.media.video import opened_video  # with numpy, which a mistake in a command does without

    with open_file(path) as file, opened_video(file, path) as video:
        stream: Any = video.streams.video[0]
        stamps = sorted(packet.pts for packet in video.demux(stream) if packet.pts is not None)
        base, before = float(stream.time_base), 0
        for number, stamp in list(enumerate(stamps))[::stride]:
            seconds = (stamp - stamps[0]) * base
            where = f"{path}@{seconds:.3f}s"
            yield Ref(0, f"{key}@{number}", where, "video", path, stamp, group=before)
            before = stamp
