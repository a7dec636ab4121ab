"""Where pictures come from, as a stream of refs in an order that is the same each time.

A source is a stream of files (a folder, a pattern, a list, or one file), and each file is one picture or holds many: a
Parquet file, a tar of WebDataset, a video. Nothing is listed whole: a folder is walked one directory at a time, each in
the order of its names.
"""

import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias, get_args

from vitscope.batch.archives import failure_reason, list_refs, open_file
from vitscope.batch.types import Ref
from vitscope.errors import UnknownNameError, UsageError

__all__ = ["IMAGE_SUFFIXES", "FileKind", "ImageSource"]

FileKind: TypeAlias = Literal["auto", "photos", "parquet", "webdataset", "video"]
_JPEG = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"})
IMAGE_SUFFIXES = _JPEG | {".png", ".gif", ".bmp", ".ppm", ".pgm", ".pnm", ".webp", ".tif", ".tiff"}
_CONTAINER_SUFFIXES: dict[FileKind, frozenset[str]] = {
    "parquet": frozenset({".parquet", ".pq"}),
    "webdataset": frozenset({".tar"}),
    "video": frozenset({".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".mpeg"}),
}
_LIST_SUFFIXES = frozenset({".txt", ".lst", ".list"})
_MAGIC = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class ImageSource:
    """A collection of pictures.

    Attributes:
        location: a folder, a pattern such as `photos/**/*.jpg` or `shards/{000..099}.tar`, a list (`.txt`, `.lst`, one
            path or URL a line, as seen from the working directory), a Parquet file, a tar, a video, or a photo; each
            also as a URL that fsspec opens (`s3://`, `gs://`, `https://`, if their packages are there).
        file_kind: what its files are; `auto` goes by their endings. A folder is searched for photos unless this says
            otherwise; a pattern and a list take every file that they name.
        column: of Parquet files: bytes, paths or URLs, or a struct of the two; by default the first of `COLUMNS`.
        stride: of a video, every so many frames one.
        limit: no more pictures than this.
        exclude: a folder that is left out, such as the output's own.

    Raises:
        UsageError: nothing is there, a URL whose package is not installed, a column that is not there, or a stride
            below 1.
    """

    location: str
    file_kind: FileKind = "auto"
    column: str | None = None
    stride: int = 30
    limit: int | None = None
    exclude: Path | None = None

    def __post_init__(self) -> None:
        if self.file_kind not in get_args(FileKind):
            raise UnknownNameError("kind of file", self.file_kind, get_args(FileKind))
        if self.stride < 1 or (self.limit is not None and self.limit < 1):
            raise UsageError("stride and limit are at least 1")
        if _is_url(self.location):
            _check_scheme(self.location)
        somewhere = _is_url(self.location) or self._is_pattern() or _BRACES.search(self.location)
        if not somewhere and not os.path.lexists(self.location):
            raise UsageError(f"the source {self.location} does not exist", "check the path")

    def identity(self) -> dict[str, Any]:
        """What refs depend on, besides what lies there: that is compared shard by shard."""
        return {name: getattr(self, name) for name in ("file_kind", "column", "stride", "limit")}

    def __iter__(self) -> Iterator[Ref]:
        row = 0
        for path, key in self._files():
            refs = list_refs(path, key, self._kind_of(path), self.column, self.stride)
            if key.endswith("/"):
                refs = iter([Ref(0, key, path, "broken", path, column="is a folder that cannot be read")])
            for ref in refs:
                if row == self.limit:
                    return
                yield replace(ref, row=row)
                row += 1

    def _files(self) -> Iterator[tuple[str, str]]:
        """Each file and what it is called within the source."""
        if found := _BRACES.search(self.location):
            first, last = found.groups()
            for number in range(int(first), int(last) + 1):
                name = self.location[: found.start()] + str(number).zfill(len(first)) + self.location[found.end() :]
                yield name, name
        elif self._is_pattern() and not os.path.lexists(self.location):
            yield from self._matching()
        elif Path(self.location).is_dir() or (_is_url(self.location) and not _ending(self.location)):
            yield from self._in_folder()
        elif _ending(self.location) in _LIST_SUFFIXES:
            yield from _lines(self.location)
        else:
            yield self.location, Path(_without_query(self.location)).name

    def _is_pattern(self) -> bool:
        return _MAGIC.search(_without_query(self.location)) is not None

    def _in_folder(self) -> Iterator[tuple[str, str]]:
        wanted = IMAGE_SUFFIXES if self.file_kind in ("auto", "photos") else _CONTAINER_SUFFIXES[self.file_kind]
        for path, key in _walk(self.location, "", self.exclude):
            if not key or key.endswith("/") or PurePosixPath(key).suffix.lower() in wanted:
                yield path, key

    def _matching(self) -> Iterator[tuple[str, str]]:
        from fsspec.utils import glob_translate

        pieces = self.location.split("/")
        fixed = next(i for i, part in enumerate(pieces) if _MAGIC.search(part))
        root, pattern = "/".join(pieces[:fixed]) or ("/" if fixed else "."), "/".join(pieces[fixed:])
        fits, deep = re.compile(glob_translate(pattern)), len(pieces) - fixed if "**" not in pattern else None
        for path, key in _walk(root, "", self.exclude, deep):
            if fits.match(key):
                yield path, key

    def _kind_of(self, path: str) -> FileKind:
        if self.file_kind != "auto":
            return self.file_kind
        return next((kind for kind, endings in _CONTAINER_SUFFIXES.items() if _ending(path) in endings), "photos")


def _is_url(path: str) -> bool:
    return "://" in path


def _without_query(path: str) -> str:
    """On the web a question mark is no pattern: what comes behind it, such as a signature, is not of the name."""
    return path.partition("?")[0] if path.startswith(("http://", "https://")) else path


def _ending(path: str) -> str:
    """Of the file's name, in small letters; of a URL, nothing where it is a host or ends in a slash."""
    name = _without_query(path).partition("://")[2].partition("/")[2].rpartition("/")[2] if _is_url(path) else path
    return PurePosixPath(name.replace(os.sep, "/")).suffix.lower()


def _check_scheme(url: str) -> None:
    """Before anything is read: is there a package for it."""
    import fsspec

    try:
        fsspec.get_filesystem_class(re.split("://|::", url)[0])
    except (ImportError, ValueError) as error:
        raise UsageError(f"{url} cannot be opened: {error}") from error


def _lines(location: str) -> Iterator[tuple[str, str]]:
    try:
        with open_file(location) as file, io.TextIOWrapper(file, "utf-8", "surrogateescape") as lines:
            for number, line in enumerate(lines):
                if name := line.strip():
                    yield name, f"{number}:{name}"
    except Exception as error:
        raise UsageError(f"the source {location} cannot be read: {failure_reason(error)}", "check it") from error


def _walk(
    folder: str, key: str, exclude: Path | None, deep: int | None = None, above: tuple[tuple[int, int], ...] = ()
) -> Iterator[tuple[str, str]]:
    """Files below a folder and their path within it, sorted; hidden ones are passed over.

    A folder that cannot be read is given itself, its key ending in a slash: reading it says why.
    """
    try:
        if not _is_url(folder):
            told = Path(folder).stat()
            if (told.st_dev, told.st_ino) in above:  # a link to a folder that it lies in
                return
            above = (*above, (told.st_dev, told.st_ino))
        found = _listing(folder)
    except Exception as error:  # a server has its own ways of failing
        if not key:
            raise UsageError(f"the source {folder} cannot be read: {failure_reason(error)}", "check it") from error
        yield folder, f"{key}/"
        return
    for name, is_folder in found:
        path, called = f"{folder.rstrip('/')}/{name}" if folder != "." else name, f"{key}/{name}" if key else name
        if name.startswith(".") or (is_folder and exclude is not None and Path(path).resolve() == exclude):
            continue
        if not is_folder:
            yield path, called
        elif deep is None or deep > 1:
            yield from _walk(path, called, exclude, None if deep is None else deep - 1, above)


def _listing(folder: str) -> list[tuple[str, bool]]:
    """Names in a folder and whether they are folders, sorted."""
    if not _is_url(folder):
        with os.scandir(folder) as entries:
            return sorted((entry.name, entry.is_dir()) for entry in entries)
    import fsspec

    files, place = fsspec.core.url_to_fs(folder)
    found = files.ls(place, detail=True)
    return sorted((str(one["name"]).rstrip("/").rsplit("/", 1)[-1], one["type"] == "directory") for one in found)
