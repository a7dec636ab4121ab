"""Open an image file and tell its kind by its first bytes, before numpy and Pillow are imported."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from vitscope._header_scan import check_regular
from vitscope._messages import msg
from vitscope.errors import ImageError

HEAD = 132  # bytes that tell the formats apart
CHECK_PATH = msg("images.check-path.hint", "check the path")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SIGNS = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"RIFF")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def empty(source: str) -> ImageError:
    return ImageError(
        msg("images.empty", "{source} is empty", source=source),
        msg("images.empty.hint", "there are no bytes to read: copy or download it again, or rewind the file"),
    )


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Open a file for reading; raise an ImageError for what is none, or is empty, before any byte is read."""
    if path.is_dir():
        raise ImageError.coded(
            "images.folder", "{path} is a folder, not an image", "name the files in it, such as FOLDER/*.jpg", path=path
        )
    if not path.exists():
        if path.parts[:1] in (("http:",), ("https:",)):
            raise ImageError(
                msg("images.url", "{url} is a URL, not a file", url=path.as_posix().replace(":/", "://", 1)),
                msg("images.url.hint", "download it first"),
            )
        raise ImageError(msg("images.not-found", "{path} does not exist", path=path), CHECK_PATH)
    check_regular(path, str(path))
    if path.stat().st_size == 0:
        raise empty(str(path))
    with path.open("rb") as file:
        yield file


def first_bytes(path: Path) -> bytes:
    """Return the bytes of a file that tell its kind.

    Raises:
        ImageError: a folder, a pipe, a device, a file of holes, an empty one, or none.
        OSError: it cannot be read.
    """
    with opened(path) as file:
        return file.read(HEAD)


def is_known(head: bytes) -> bool:
    """Return whether a file begins as one that can be decoded does."""
    netpbm = head[:1] == b"P" and head[1:2] in b"0123456fy"
    return head.startswith(_SIGNS) or netpbm or bool(format_of(head))


def format_of(head: bytes) -> str:
    """Return the kind of a file by its first bytes: `tiff`, `dicom`, `heic`, `avif`, `npy`, or nothing."""
    if head[:4] in _TIFF:
        return "tiff"
    if head[128:132] == b"DICM":
        return "dicom"
    if head[4:8] == b"ftyp":
        return "heic" if head[8:12] in _HEIC else "avif" if head[8:12] in (b"avif", b"avis") else ""
    return "npy" if head[:6] == b"\x93NUMPY" else ""
