"""Where --out may lead: a folder, or a file of a kind that can be written."""

from collections.abc import Callable, Iterable
from pathlib import Path

from vitscope._files import FILE_KINDS, path_exists
from vitscope._messages import msg
from vitscope.errors import UsageError

_KINDS = {*FILE_KINDS, ".bmp", ".csv", ".eps", ".gif", ".html", ".json", ".npy", ".tif", ".tiff", ".txt", ".webp"}


def out_folder(path: Path | None, *endings: str) -> Path | None:
    """Return the folder, or the file of one of these endings; reject other files, and a folder below a file."""
    if path is None:
        return None
    ending = path.suffix.lower()
    _refuse_slip(path, endings)
    if ending in _KINDS and ending not in endings and not path.is_dir():
        folder = msg("cli.out-is-a-file.hint", "name a folder, such as -o {stem}", stem=path.stem)
        raise UsageError(
            msg("cli.out-is-a-file", "--out expects a folder, got '{path}'", path=path),
            msg("cli.out-kind.hint", "{folder}, or a file ending in {kinds}", folder=folder, kinds=", ".join(endings))
            if endings
            else folder,
        )
    for one in path.parents if ending in endings else (path, *path.parents):
        if path_exists(one) and not one.is_dir():
            raise UsageError.coded(
                "cli.out-below-a-file", "--out expects a folder, and {path} is a file", "choose another path", path=one
            )
    return path


def page_file(path: Path | None) -> Path | None:
    """Return the name of a page; reject a folder, and a name that files of another kind have."""
    if path is not None:
        _refuse_slip(path, (".html",))
    if path is not None and (path.is_dir() or path.suffix.lower() in _KINDS - {".html"}):
        raise UsageError(
            msg("cli.not-a-page", "--out expects an .html file, not {path}", path=path),
            msg("cli.not-a-page.hint", "for example -o {stem}.html", stem=path.stem),
        )
    return path


def _refuse_slip(path: Path, endings: Iterable[str]) -> None:
    """Raise a UsageError for an ending with the letters of one that can be written in another order, such as .pgn."""
    ending = path.suffix.lower()
    meant = [one for one in endings if one != ending and sorted(one) == sorted(ending)]
    if meant and not path_exists(path):
        raise UsageError(
            msg("cli.out-slip", "--out: {ending} is no kind of file, in '{path}'", ending=ending, path=path),
            msg("cli.out-slip.hint", "did you mean -o {name}?", name=path.with_suffix(meant[0])),
        )


def folder_or(*endings: str) -> Callable[[Path | None], Path | None]:
    """Make a check that takes a folder, or a file of one of these endings."""

    def check(path: Path | None) -> Path | None:
        return out_folder(path, *endings)

    return check
