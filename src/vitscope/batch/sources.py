"""Sources of images: streams of refs in an order that is the same in every run.

A source is a stream of files (a folder, a pattern, a list, or one file). Each file is one image or holds many: a
Parquet file, a WebDataset tar, a video. Nothing is listed whole: a folder is walked one directory at a time, each in
the order of its names.
"""

import io
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias, get_args

from vitscope._files import holds_results
from vitscope._messages import msg
from vitscope.batch.archives import failure_reason, list_refs, open_file
from vitscope.batch.types import Ref
from vitscope.errors import UnknownNameError, UsageError

FileKind: TypeAlias = Literal["auto", "photos", "parquet", "webdataset", "video"]
_JPEG = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"})
IMAGE_SUFFIXES = _JPEG | {".png", ".gif", ".bmp", ".ppm", ".pgm", ".pnm", ".webp", ".tif", ".tiff"}
IMAGE_SUFFIXES |= {".avif", ".heic", ".heif"}
_CONTAINER_SUFFIXES: dict[FileKind, frozenset[str]] = {
    "parquet": frozenset({".parquet", ".pq"}),
    "webdataset": frozenset({".tar"}),
    "video": frozenset({".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".mpeg"}),
}
_LIST_SUFFIXES = frozenset({".txt", ".lst", ".list"})
_MAGIC = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{([0-9]{1,18})\.\.([0-9]{1,18})\}")


@dataclass(frozen=True)
class ImageSource:
    """A collection of images.

    Attributes:
        location: a folder, a pattern such as `photos/**/*.jpg` or `shards/{000..099}.tar`, a list (`.txt`, `.lst`, one
            path or URL a line, relative to the working directory), a Parquet file, a tar, a video, or a photo; each
            also as a URL that fsspec opens (`s3://`, `gs://`, `https://`, where their packages are installed).
        file_kind: the kind of its files; `auto` goes by their suffixes. With `auto`, a folder is searched for photos
            only; a pattern and a list take every file that they name.
        column: of Parquet files: bytes, paths or URLs, or a struct of the two; None takes the first of `IMAGE_COLUMNS`.
        stride: of a video, the distance between the frames taken.
        limit: the number of images, at most.
        exclude: a folder to skip, such as the output folder.

    Raises:
        UsageError: the location does not exist or cannot be listed, a URL whose package is not installed, a missing
            column, or a stride or limit below 1.
        UnknownNameError: an unknown kind of file.
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
            raise UsageError(msg("batch.stride-or-limit", "{@stride} and {@limit} must be at least 1"))
        if _is_url(self.location):
            _check_scheme(self.location)
        somewhere = _is_url(self.location) or self._is_pattern() or _BRACES.search(self.location)
        if not somewhere and not os.path.lexists(self.location):
            raise UsageError.coded(
                "batch.no-source", "the source {path} does not exist", "check the path", path=self.location
            )

    def identity(self) -> dict[str, Any]:
        """Return the options that refs depend on. The files themselves are compared shard by shard."""
        return {name: getattr(self, name) for name in ("file_kind", "column", "stride", "limit")}

    def __iter__(self) -> Iterator[Ref]:
        row = 0
        for path, key in self._files():
            refs = list_refs(path, key, self._kind_of(path), self.column, self.stride)
            if key.endswith("/"):
                refs = iter([Ref(0, key, path, "broken", path, problem=_unreadable_folder(path))])
            for ref in refs:
                if row == self.limit:
                    return
                yield replace(ref, row=row)
                row += 1

    def _files(self) -> Iterator[tuple[str, str]]:
        """Yield each file and its name within the source."""
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
        for path, key in _walk(self.location, "", self.exclude, results=[]):
            if not key or key.endswith("/") or PurePosixPath(key).suffix.lower() in self._wanted:
                yield path, key

    @property
    def _wanted(self) -> frozenset[str]:
        """The endings of the files that are taken from a folder."""
        return IMAGE_SUFFIXES if self.file_kind in ("auto", "photos") else _CONTAINER_SUFFIXES[self.file_kind]

    def ignored(self) -> tuple[dict[str, int], list[str]]:
        """Return what is left out of a local folder.

        Files by their ending, counted, the commonest first; and the folders in it that vitscope wrote.
        """
        results: list[str] = []
        if _is_url(self.location) or not Path(self.location).is_dir():
            return {}, results
        walked = _walk(self.location, "", self.exclude, results=results)
        endings = (PurePosixPath(key).suffix.lower() for _, key in walked)
        return dict(Counter(ending for ending in endings if ending not in self._wanted).most_common()), results

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
    """Return a web URL without its query, in which a question mark is no pattern."""
    return path.partition("?")[0] if path.startswith(("http://", "https://")) else path


def _ending(path: str) -> str:
    """Return the suffix of a file's name in lower case; empty for a URL that is a host or ends in a slash."""
    name = _without_query(path).partition("://")[2].partition("/")[2].rpartition("/")[2] if _is_url(path) else path
    return PurePosixPath(name.replace(os.sep, "/")).suffix.lower()


def _check_scheme(url: str) -> None:
    """Raise where no package is installed for the URL's scheme."""
    import fsspec

    try:
        fsspec.get_filesystem_class(re.split("://|::", url)[0])
    except (ImportError, ValueError) as error:
        raise UsageError(
            msg("batch.no-filesystem", "{url} cannot be opened: {reason}", url=url, reason=str(error))
        ) from error


def _unreadable(location: str, error: Exception) -> UsageError:
    reason = failure_reason(error)
    return UsageError(
        msg("batch.unreadable-source", "the source {path} cannot be read: {reason}", path=location, reason=reason),
        msg("batch.unreadable-source.hint", "check the path"),
    )


def _unreadable_folder(path: str) -> str:
    return msg("batch.unreadable-folder", "the folder {path} cannot be read", path=path)


def _lines(location: str) -> Iterator[tuple[str, str]]:
    try:
        with open_file(location) as file, io.TextIOWrapper(file, "utf-8", "surrogateescape") as lines:
            for number, line in enumerate(lines):
                if name := line.strip():
                    yield name, f"{number}:{name}"
    except Exception as error:
        raise _unreadable(location, error) from error


def _walk(
    folder: str,
    key: str,
    exclude: Path | None,
    deep: int | None = None,
    above: tuple[tuple[int, int], ...] = (),
    results: list[str] | None = None,
) -> Iterator[tuple[str, str]]:
    """Yield the visible files below a folder, sorted, and their paths in it; an unreadable folder as `PATH/`.

    Folders that vitscope wrote are added to `results` and left out, where it is given: their pictures are no photos.
    """
    try:
        if not _is_url(folder):
            status = Path(folder).stat()
            if (status.st_dev, status.st_ino) in above:  # a link to a folder above
                return
            above = (*above, (status.st_dev, status.st_ino))
        found = _listing(folder)
    except Exception as error:  # each kind of server fails in its own way
        if not key:
            raise _unreadable(folder, error) from error
        yield folder, f"{key}/"
        return
    if (
        results is not None
        and ("manifest.json", False) in found
        and not _is_url(folder)
        and holds_results(Path(folder))
    ):
        if not key:
            raise UsageError.coded(
                "batch.results-as-source",
                "{path} holds results of vitscope, not photos",
                "name the folder of the photos, or a pattern such as {path}/*.jpg",
                path=folder,
            )
        results.append(folder)
        return
    for name, is_folder in found:
        path, name_within = f"{folder.rstrip('/')}/{name}" if folder != "." else name, f"{key}/{name}" if key else name
        if name.startswith(".") or (is_folder and exclude is not None and Path(path).resolve() == exclude):
            continue
        if not is_folder:
            yield path, name_within
        elif deep is None or deep > 1:
            yield from _walk(path, name_within, exclude, None if deep is None else deep - 1, above, results)


def _listing(folder: str) -> list[tuple[str, bool]]:
    """Return the names in a folder, sorted, each with whether it is a folder."""
    if not _is_url(folder):
        with os.scandir(folder) as entries:
            return sorted((entry.name, _is_folder(entry)) for entry in entries)
    import fsspec

    files, place = fsspec.core.url_to_fs(folder)
    found = files.ls(place, detail=True)
    return sorted((str(one["name"]).rstrip("/").rsplit("/", 1)[-1], one["type"] == "directory") for one in found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: a file that cannot be read, and no reason to read no other
        return False
