"""Reads the image of a ref: its bytes are fetched, hashed and decoded."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import SEEK_END
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from vitscope._bands import Reading
from vitscope._decoder import guarded
from vitscope._messages import msg
from vitscope.batch.archives import failure_reason, local_path, open_file
from vitscope.batch.parquet_pages import WatchedFile, too_packed
from vitscope.batch.types import Ref
from vitscope.errors import ImageError, OutOfMemoryError, is_out_of_memory
from vitscope.images import Picture, ReadOptions, decode_image, load_image, read_image_file
from vitscope.media.video import opened_video

# from a ref to its image and the SHA-256 of its bytes, or of the pixels for a frame of a video
ImageReader: TypeAlias = Callable[[Ref], tuple[Picture, str]]
_CHUNK, _MOST_FETCHED = 1 << 20, 1_000_000_000  # bytes of a URL: at once, and in all
_BUFFER, _KEPT = 1 << 23, 1 << 26  # bytes of a row group: read at once, and of rows that wait for other threads
_SEEK_BEYOND = 10.0  # seconds; shorter gaps are decoded


@contextmanager
def image_reader(options: ReadOptions | None = None) -> Iterator[ImageReader]:
    """Yield a reader of images that threads may share.

    `options` are those of `load_image`. The reader keeps the last row group, the last tar on another machine and the
    last video open.

    The reader raises ImageError for every failure, and OutOfMemoryError.
    """
    reading = Reading(**(options or {}))
    with guarded(), _RowGroup() as rows, _Tar() as tar, _Video() as video:

        def fetch(ref: Ref) -> tuple[Picture, str]:
            try:
                return _read_image(ref, rows, tar, video, reading)
            except (ImageError, OutOfMemoryError):
                raise
            except Exception as error:  # any library below, on any broken file
                if is_out_of_memory(error):
                    raise OutOfMemoryError.of(error, ref.source) from None
                reason = failure_reason(error)
                problem = msg(
                    "batch.unreadable-image", "{source} cannot be read: {reason}", source=ref.source, reason=reason
                )
                raise ImageError(problem, msg("batch.unreadable-image.hint", "check the path and the file")) from error

        yield fetch


def _read_image(ref: Ref, rows: "_RowGroup", tar: "_Tar", video: "_Video", reading: Reading) -> tuple[Picture, str]:
    if ref.kind == "broken":
        raise ImageError(ref.problem, msg("batch.broken.hint", "copy or download it again"))
    if ref.kind == "video":
        pixels = video.frame(ref)
        picture = load_image(pixels)
        named = Picture(picture.pixels, PurePosixPath(ref.source).name, ref.source)
        return named, hashlib.sha256(pixels.tobytes()).hexdigest()
    if ref.kind == "file" and "://" not in ref.path:
        data = read_image_file(Path(ref.path))
    else:
        data = rows.value(ref) if ref.kind == "parquet" else tar.part(ref) if ref.kind == "tar" else _whole(ref.path)
    return decode_image(data, ref.source, reading=reading), hashlib.sha256(data).hexdigest()


def _whole(path: str) -> bytes:
    path = local_path(path)
    if "://" in path:
        return _fetched(path)
    with open_file(path) as file:
        return file.read()


def _fetched(url: str) -> bytes:
    """Return what a URL holds.

    Raises:
        ImageError: more bytes than an image has; a web server may send them without end.
    """
    import fsspec

    files, place = fsspec.core.url_to_fs(url)
    if not place.startswith(("http://", "https://")):
        data: bytes = files.cat_file(place)  # one request, where opening it takes two
        return data
    parts, count = [], 0
    with files.open(place, "rb", block_size=0, size=1) as file:  # with a size the server is not asked for it first
        while part := file.read(_CHUNK):
            parts.append(part)
            count += len(part)
            if count > _MOST_FETCHED:
                problem = msg(
                    "batch.endless-url",
                    "{source} sends more than {limit} million bytes",
                    source=url,
                    limit=f"{_MOST_FETCHED / 1e6:g}",
                )
                raise ImageError(problem, msg("images.too-large.hint", "shrink or crop it first"))
    return b"".join(parts)


def _part(file: BinaryIO, ref: Ref) -> bytes:
    if ref.at + ref.size > file.seek(0, SEEK_END):  # Python would make room for as many bytes as the tar says
        raise ValueError("the archive ends before it does")
    file.seek(ref.at)
    return file.read(ref.size)


class _Tar:
    """The last tar read from another machine. The bytes read ahead of one member serve its neighbours."""

    def __init__(self) -> None:
        self._lock, self._stack, self._path = Lock(), ExitStack(), ""
        self._file: BinaryIO | None = None

    def __enter__(self) -> "_Tar":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def part(self, ref: Ref) -> bytes:
        """Return the bytes of a member."""
        if "://" not in ref.path:
            with open_file(ref.path) as file:
                return _part(file, ref)
        with self._lock:
            if self._file is None or ref.path != self._path:
                self._stack.close()
                self._file = None
                self._file, self._path = self._stack.enter_context(open_file(ref.path)), ref.path
            return _part(self._file, ref)


class _RowGroup:
    """The last row group read, row by row: neighbouring refs use its rows nearly one after another.

    Rows that others will ask for are kept as long as they are few bytes: a row group can unpack to any number.
    """

    def __init__(self) -> None:
        self._lock, self._stack = Lock(), ExitStack()
        self._of, self._next, self._ahead = ("", -1, ""), 0, dict[int, Any]()
        self._rows: Iterator[Any] = iter(())
        self._file: WatchedFile | None = None

    def __enter__(self) -> "_RowGroup":
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()

    def value(self, ref: Ref) -> bytes:
        """Return the bytes that a row holds or points to."""
        with self._lock:
            value = self._row(ref)
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str) or not value:
            problem = msg(
                "batch.empty-row", "{source} has no image in column {column}", source=ref.source, column=ref.column
            )
            raise ImageError(problem, msg("batch.empty-row.hint", "the row may be empty, or choose another {@column}"))
        beside = ref.path.rpartition("/")[0]
        return _whole(value if "://" in value or value.startswith("/") or not beside else f"{beside}/{value}")

    def _forget(self) -> None:
        self._of, self._rows, self._next, self._ahead, self._file = ("", -1, ""), iter(()), 0, {}, None
        self._stack.close()

    def _row(self, ref: Ref) -> Any:
        """Return the value of a row, without the rows before it."""
        passed = ref.at < self._next and ref.at not in self._ahead
        if passed or self._of != (ref.path, ref.group, ref.column):
            self._open(ref)
        while self._next <= ref.at:
            try:
                value = next(self._rows).column(0)[0].as_py()
            except Exception as error:
                problem = self._file.problem if self._file else None
                self._forget()
                if problem is not None:
                    raise problem from error
                raise
            if isinstance(value, dict):  # as in datasets on the Hub
                value = value.get("bytes") or value.get("path")
            self._ahead[self._next] = value if isinstance(value, (bytes, str)) else None
            self._next += 1
            while len(self._ahead) > 1 and sum(len(one or "") for one in self._ahead.values()) > _KEPT:
                del self._ahead[min(self._ahead)]
        return self._ahead.pop(ref.at)

    def _open(self, ref: Ref) -> None:
        """Open a row group at its first row.

        Raises:
            ImageError: it unpacks to far more than images do.
        """
        import pyarrow.parquet as pq

        self._forget()
        file = self._file = WatchedFile(self._stack.enter_context(open_file(ref.path)))
        table = self._stack.enter_context(pq.ParquetFile(file, buffer_size=_BUFFER))
        if problem := too_packed(ref.source, table.metadata.row_group(ref.group), ref.column):
            raise ImageError(problem, msg("batch.packed-rows.hint", "write the file again with smaller row groups"))
        file.watch(table.metadata)
        # a value that stands once in a dictionary can be that of every row, so that several rows at once are no less
        self._rows = table.iter_batches(1, row_groups=[ref.group], columns=[ref.column], use_threads=False)
        self._of = (ref.path, ref.group, ref.column)


class _Video:
    """The last video read, at the position where it stopped. Frames are requested nearly in the order of time."""

    def __init__(self) -> None:
        self._lock, self._stack = Lock(), ExitStack()
        self._path, self._last = "", -1
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())
        self._ahead: dict[int, Any] = {}

    def __enter__(self) -> "_Video":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def frame(self, ref: Ref) -> np.ndarray:
        """Return the frame `(H, W, 3)` of the ref's timestamp, upright."""
        with self._lock:
            found = self._ahead.pop(ref.at, None) if ref.path == self._path else None
            frame = self._decode(ref) if found is None else found
        pixels: np.ndarray = frame.to_ndarray(format="rgb24")
        return np.ascontiguousarray(np.rot90(pixels, round((getattr(frame, "rotation", 0) or 0) / 90) % 4))

    def _decode(self, ref: Ref) -> Any:
        if ref.path != self._path:
            self._open(ref.path)
        stream = self._container.streams.video[0]
        near = _SEEK_BEYOND / float(stream.time_base)
        if not self._last < ref.at < self._last + near:
            self._container.seek(ref.at, stream=stream)
            self._frames, self._last = self._container.decode(stream), -1
        for frame in self._frames:
            self._last = frame.pts if frame.pts is not None else self._last
            if frame.pts == ref.at:
                return frame
            if frame.pts == ref.group:  # the neighbour's, which another thread may request later
                self._ahead = {frame.pts: frame}
            if frame.pts is not None and frame.pts > ref.at:
                break
        self._path = ""  # opened again for the next
        raise ImageError(
            msg("batch.no-frame", "{source}: the video has no frame at this time", source=ref.source),
            msg("batch.no-frame.hint", "the video may be broken here"),
        )

    def _open(self, path: str) -> None:
        self._stack.close()
        self._ahead = {}
        file = self._stack.enter_context(open_file(path))
        self._container = self._stack.enter_context(opened_video(file, path))
        stream = self._container.streams.video[0]
        stream.thread_type = "AUTO"
        self._frames = self._container.decode(stream)
        self._path, self._last = path, -1
