"""Read files of clips, volumes and sounds: what is wrong with one is one line, whatever the library raises."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitscope._header_scan import check_regular
from vitscope._messages import msg
from vitscope._numbers import is_text, items_of
from vitscope._pillow import MAX_PIXELS, quiet
from vitscope.errors import ImageError, OutOfMemoryError, UsageError, VitscopeError, is_out_of_memory

MOST_NUMBERS = 4 * MAX_PIXELS  # of a volume or a sound


def media_file(source: str | Path) -> Path:
    """Return the path of a file.

    Raises:
        ImageError: it does not exist, is no file but a pipe or device, or is mostly holes.
    """
    path = Path(source)
    with reading(str(path), lambda error: _not_found(path)):
        if not path.exists():
            raise _not_found(path)
        check_regular(path, str(path))
    return path


@contextmanager
def reading(source: str, broken: Callable[[Exception], ImageError]) -> Iterator[None]:
    """Raise `broken(error)` for whatever a library raises on a damaged file, and let it warn of nothing.

    Raises:
        OutOfMemoryError: there is not enough memory; nothing is said about the file.
    """
    try:
        with quiet:
            yield
    except VitscopeError:
        raise
    except Exception as error:  # struct.error, zlib.error, IndexError, tokenize.TokenError, a library's own ...
        if is_out_of_memory(error):
            raise OutOfMemoryError.of(error, source) from None
        raise broken(error) from error


def check_count(count: int, source: str) -> None:
    """Raise an ImageError where a file says that it has more numbers than are read, before there is room for them."""
    if count > MOST_NUMBERS:
        raise ImageError.coded(
            "media.too-many-numbers",
            "{source} has {count} million numbers, more than {limit} million",
            "cut a part out of it, or resample it first",
            source=source,
            count=f"{count / 1e6:,.0f}",
            limit=f"{MOST_NUMBERS / 1e6:,.0f}",
        )


def checked_notes(notes: Any) -> tuple[str, ...]:
    """Return notes as a tuple.

    Raises:
        UsageError: not a sequence of texts.
    """
    texts = items_of(notes, is_text)
    if texts is None:
        raise UsageError(msg("media.notes", "{@notes} is a list of texts, not {notes}", notes=repr(notes)))
    return texts


def _not_found(path: Path) -> ImageError:
    return ImageError(msg("media.no-such-file", "{path} does not exist", path=path))
