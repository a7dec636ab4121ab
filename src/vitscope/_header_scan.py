"""What decoding an image file will cost, told from its bytes before anything is decoded.

A file of a few bytes can ask a decoder for hours of work: thousands of scans over one image, millions of empty blocks.
What asks for more than honest files do is refused here. Of the rest, some formats are bounded: the work grows with
the pixels and the bytes only. All others are decoded where they can be stopped, see `_decoder`.
"""

import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from vitscope._messages import msg
from vitscope.errors import ImageError

GIF_COUNTED = 100
_GIF_IMAGE, _GIF_EXTENSION, _GIF_COMMENT, _GIF_END = 0x2C, 0x21, 0xFE, 0x3B
_SCANS = 100  # of a JPEG with previews: progressive ones of usual encoders have about 10
_SCANNED, _QUICK = 2_000_000_000, 400_000_000  # pixels, each counted once a scan: at all, and within a second
# chunks of text or profiles in a PNG, each of which may be compressed; pieces of Exif in a JPEG, joined one by one
_TEXTS, _FEW_TEXTS = 200, 20
_COMMENTS = 1_000_000  # bytes in the comments of a GIF
_PIECES = 10_000, 1 / 64  # blocks, chunks or segments: so many, and so many for each byte
_TAG_BYTES = 64_000_000  # that the tags of a TIFF say they have
_WHOLE = 4_000_000_000  # bytes of a file
_HOLLOW, _HOLLOW_SHARE = 64_000_000, 1 / 16  # larger files are stored with at least this share on disk


def check_regular(path: Path, source: str) -> None:
    """Raise an ImageError where `path` is neither a file nor a link to one, or is mostly holes; nothing is read.

    Raises:
        OSError: it does not exist, or cannot be looked up.
    """
    status = path.stat()
    kinds = {
        stat.S_IFIFO: msg("images.fifo", "a pipe"),
        stat.S_IFSOCK: msg("images.socket", "a socket"),
        stat.S_IFCHR: msg("images.device", "a device"),
        stat.S_IFBLK: msg("images.device", "a device"),
    }
    if (kind := kinds.get(stat.S_IFMT(status.st_mode))) is not None:
        raise ImageError(
            msg("images.not-a-file", "{source} is {kind}, not a file", source=source, kind=kind),
            msg("images.not-a-file.hint", "save the image to a file first"),
        )
    held = getattr(status, "st_blocks", status.st_size) * 512
    if status.st_size > _HOLLOW and held < status.st_size * _HOLLOW_SHARE:
        problem = msg(
            "images.sparse",
            "{source} says it has {size} MB, of which {held} are stored: the rest are holes",
            source=source,
            size=f"{status.st_size / 1e6:,.0f}",
            held=f"{held / 1e6:,.0f}",
        )
        raise ImageError(problem, msg("images.sparse.hint", "copy or download it again"))
    if status.st_size > _WHOLE and stat.S_ISREG(status.st_mode):
        problem = msg(
            "images.too-many-bytes",
            "{source} has {size} million bytes, more than {limit} million",
            source=source,
            size=f"{status.st_size / 1e6:,.0f}",
            limit=f"{_WHOLE / 1e6:,.0f}",
        )
        raise ImageError(problem, msg("images.too-large.hint", "shrink or crop it first"))


def check_cost(data: bytes, source: str) -> bool:
    """Return whether the cost of decoding a file grows with its pixels and bytes only.

    Args:
        data: the whole file.
        source: for messages.

    Raises:
        ImageError: it asks for more work than honest files do.

    Cost: about a millisecond for 10 MB.
    """
    if data[:2] == b"\xff\xd8":
        return _jpeg(data, source)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _png(data, source)
    if data[:4] == b"GIF8":
        _gif(data, source)
    elif data[:4] in (b"II*\0", b"MM\0*"):
        _tiff(data, source)
    plain = data[:2] == b"BM" and data[30:34] in (b"\0\0\0\0", b"\3\0\0\0")  # a BMP that is not compressed
    return plain or (data[:4] == b"RIFF" and data[8:12] == b"WEBP" and b"ANIM" not in data[12:64])


def _costly(source: str, what: str) -> ImageError:
    return ImageError(
        msg("images.costly", "{source} is small, but costly to decode: {what}", source=source, what=what),
        msg("images.costly.hint", "no usual program writes such files: save it again with another one"),
    )


def _check_pieces(count: int, size: int, source: str) -> None:
    most, each = _PIECES
    if count > most + size * each:
        raise _costly(source, msg("images.many-pieces", "more than {count} pieces", count=count - 1))


def _check_texts(count: int, source: str) -> None:
    if count > _TEXTS:
        raise _costly(source, msg("images.many-texts", "more than {count} texts and profiles", count=_TEXTS))


def _jpeg(data: bytes, source: str) -> bool:
    """Check a JPEG: the marker of a scan stands nowhere in the data of another one, so that counting bytes is safe."""
    scans, pixels, size = data.count(b"\xff\xda"), 0, len(data)
    at, segments, texts = 2, 0, 0
    while at + 9 < size and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xDA:
            break
        if marker == 0xFF or 0xD0 <= marker <= 0xD8 or marker == 1:
            at += 1 if marker == 0xFF else 2
        else:
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                height, width = struct.unpack(">HH", data[at + 5 : at + 9])
                pixels = max(pixels, height * width)
            texts += marker == 0xE1 and data[at + 4 : at + 8] == b"Exif"
            at += 2 + max(int.from_bytes(data[at + 2 : at + 4], "big"), 2)
        _check_pieces(segments := segments + 1, size, source)
        _check_texts(texts, source)
    if scans > _SCANS or scans * pixels > _SCANNED:
        raise _costly(source, msg("images.many-scans", "{count} scans over the whole image", count=scans))
    return scans * pixels <= _QUICK and texts <= _FEW_TEXTS


def _png(data: bytes, source: str) -> bool:
    at, chunks, texts, size = 8, 0, 0, len(data)
    while at + 12 <= size and (kind := data[at + 4 : at + 8]) != b"IEND":
        texts += kind in (b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"eXIf")
        _check_pieces(chunks := chunks + 1, size, source)
        _check_texts(texts, source)
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return texts <= _FEW_TEXTS


def _gif(data: bytes, source: str) -> None:
    """Check a GIF as far as it is read: no more frames are counted than a few."""
    comments = frames = 0
    for number, (label, length) in enumerate(_gif_blocks(data)):
        _check_pieces(number, len(data), source)
        frames += label == _GIF_IMAGE
        comments += length if label == _GIF_COMMENT else 0
        if comments > _COMMENTS:
            raise _costly(source, msg("images.long-comments", "comments of more than {count} bytes", count=_COMMENTS))
        if frames > GIF_COUNTED:
            return


def gif_frames(data: bytes) -> int:
    """Return how many frames a GIF has, counted up to one more than `GIF_COUNTED`."""
    frames = 0
    for label, _ in _gif_blocks(data):
        frames += label == _GIF_IMAGE
        if frames > GIF_COUNTED:
            break
    return frames


def _gif_blocks(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the start of each image of a GIF, and each piece of data: its label (0 in an image) and its length."""
    with suppress(IndexError):  # a truncated file
        at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
        while (kind := data[at]) != _GIF_END:
            label = 0
            if kind == _GIF_IMAGE:
                yield _GIF_IMAGE, 0
                at += 11 + (3 << (data[at + 9] & 7) + 1 if data[at + 9] & 0x80 else 0)
            elif kind == _GIF_EXTENSION:
                label, at = data[at + 1], at + 2
            else:  # what readers skip
                yield 0, 1
                at += 1
                continue
            while length := data[at]:
                yield label, length
                at += length + 1
            at += 1


def _tiff(data: bytes, source: str) -> None:
    """Check the tags of the first page: how long they say they are, and that they lie within the file."""
    order = "<" if data[:2] == b"II" else ">"
    with suppress(struct.error):
        (first,) = struct.unpack(f"{order}I", data[4:8])
        (count,) = struct.unpack(f"{order}H", data[first : first + 2])
        total = 0
        for number in range(count):
            at = first + 2 + 12 * number
            total += struct.unpack(f"{order}I", data[at + 4 : at + 8])[0]
        if total > min(_TAG_BYTES, len(data)):
            raise _costly(source, msg("images.long-tags", "its tags say they have {count} numbers", count=total))
