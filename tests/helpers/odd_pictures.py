"""Image files of every kind, whole and odd: each with the pixels that it holds, or none where it must be refused."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

RNG = np.random.default_rng(7)
COLOURS = np.kron(RNG.integers(0, 256, (6, 8, 3), np.uint8), np.ones((4, 4, 1), np.uint8))
GREY = COLOURS[..., 0]
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def encoded(array, kind, **options):
    buffer = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind, body):
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(chunks):
    """A PNG with these chunks before its pixels."""
    whole = encoded(COLOURS, "PNG")
    at = whole.index(b"IDAT") - 4
    return whole[:at] + chunks + whole[at:]


def gif_with(before=b"", frames=1):
    """A GIF with these blocks before its image, which is repeated."""
    whole = encoded(Image.fromarray(GREY), "GIF")
    at = whole.index(b"\x2c\0\0\0\0")
    return whole[:at] + before + whole[at:-1] * frames + b";"


def scans(count, size=(24, 32)):
    """A progressive JPEG whose last scan is repeated."""
    whole = encoded(np.full((*size, 3), 90, np.uint8), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * count + whole[-2:]


def tiff_with(tag, kind, count, value):
    """A TIFF one of whose tags is another."""
    whole = bytearray(encoded(GREY, "TIFF"))
    (first,) = struct.unpack("<I", whole[4:8])
    entry = struct.pack("<HHII", tag, kind, count, value)
    for at in range(first + 2, len(whole) - 11, 12):
        if struct.unpack("<H", whole[at : at + 2]) == (tag,):
            whole[at : at + 12] = entry
            return bytes(whole)
    whole[first + 2 : first + 14] = entry
    return bytes(whole)


def good():
    """Yield names, files, and the pixels `(H, W, 3)` that they hold."""
    grey = np.repeat(GREY[..., None], 3, 2)
    for kind, options in {
        "PNG": ({}, {"interlace": 1}, {"compress_level": 0}),
        "BMP": ({},),
        "PPM": ({},),
        "WEBP": ({"lossless": True},),
        "TIFF": ({}, *({"compression": c} for c in ("tiff_lzw", "tiff_adobe_deflate", "packbits"))),
    }.items():
        for one in options:
            name = " ".join([kind, *map(str, one.values())])
            yield name, encoded(COLOURS, kind, **one), COLOURS
            yield f"{name} grey", encoded(GREY, kind, **one), grey
    yield "GIF", encoded(GREY, "GIF"), grey
    yield "GIF of 100,000 frames", gif_with(frames=100_000), grey
    yield "GIF with a comment", gif_with(b"\x21\xfe\x05hello\0"), grey
    yield "PNG with texts", png_with(chunk(b"tEXt", b"a\0b") * 100), COLOURS
    yield "PNG with bytes after its end", encoded(COLOURS, "PNG") + bytes(1000), COLOURS
    yield "PNG with a million bytes after its end", encoded(COLOURS, "PNG") + bytes(1_000_000), COLOURS
    yield "JPEG of one colour", encoded(np.full((24, 32, 3), 90, np.uint8), "JPEG"), np.full((24, 32, 3), 90)
    yield "JPEG of 60 scans", scans(50), np.full((24, 32, 3), 90)
    palette = Image.fromarray(COLOURS).quantize(64)
    yield "PNG with a palette", encoded(palette, "PNG"), np.asarray(palette.convert("RGB"))
    yield "PNG of bits", encoded(Image.fromarray(GREY > 99), "PNG"), np.where(grey > 99, 255, 0)
    clear = np.dstack([COLOURS, np.where(GREY > 128, 255, 0).astype(np.uint8)])
    for kind in ("PNG", "TIFF"):
        yield f"{kind} with transparency", encoded(clear, kind), np.where(clear[..., 3:] > 0, COLOURS, 255)
    for number, turn in TURNS.items():
        exif = Image.Exif()
        exif[274] = number
        for kind in ("PNG", "TIFF"):
            yield f"{kind} turned {number}", encoded(COLOURS, kind, exif=exif), turn(COLOURS)


def bad():
    """Yield names, and files that must be refused."""
    for kind in ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF"):
        whole = encoded(COLOURS, kind)
        for share in (0, 0.02, 0.1, 0.3, 0.6):
            yield f"{kind}, {share:.0%} of it", whole[: int(len(whole) * share)]
    for side in (20_000, 2**31 - 1):
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        yield f"PNG of {side} x {side}", b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
        yield f"BMP of {side} x {side}", encoded(COLOURS, "BMP")[:18] + struct.pack("<ii", side, side) + bytes(300)
    yield "PPM of 20000 x 20000", b"P6 20000 20000 255\n" + bytes(100)
    for count in (150, 4000):
        yield f"JPEG of {count} scans", scans(count)
    yield "JPEG of scans over many pixels", scans(80, (6000, 5000))
    for kind in (b"tEXt", b"iCCP", b"zTXt"):
        body = b"a\0b" if kind == b"tEXt" else b"a\0\0" + zlib.compress(bytes(100_000))
        yield f"PNG of thousands of {kind.decode()}", png_with(chunk(kind, body) * 3000)
    yield "PNG of a million chunks", png_with(chunk(b"prVt", b"") * 1_000_000)
    yield "GIF of a long comment", gif_with(b"\x21\xfe" + (b"\xff" + b"a" * 255) * 10_000 + b"\0")
    yield "GIF of a million pieces", gif_with(b"\x21\xff" + b"\x01a" * 1_000_000 + b"\0")
    for tag, kind, count, value in ((273, 4, 2**31, 8), (279, 4, 50_000_000, 8), (270, 2, 2**32 - 1, 8)):
        yield f"TIFF whose tag {tag} has {count} values", tiff_with(tag, kind, count, value)
    yield "TIFF of 2^31 rows", tiff_with(257, 4, 1, 2**31 - 1)
    yield from {
        "nothing": b"",
        "zeros": bytes(5000),
        "text": b"hello " * 1000,
        "a page": b"<!doctype html><p>404</p>",
        "a drawing": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "an archive": b"PK\x03\x04" + bytes(500),
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "one pixel": encoded(COLOURS[:1, :1], "PNG"),
        "one row": encoded(COLOURS[:1], "PNG"),
        "a program": b"\x7fELF" + bytes(500),
        "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "arrays of objects": b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (9, 9), }"
        + bytes(60),
        "an array of 10^12 numbers": _npy("(1000000, 1000000)"),
    }.items()
    rng = np.random.default_rng(3)
    for head in (
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"BM",
        b"II*\0\x08\0\0\0",
        b"RIFF\xff\0\0\0WEBPVP8 ",
    ):
        for _ in range(8):
            yield f"{head!r} and noise", head + rng.bytes(3000)


def _npy(shape):
    head = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head.encode()
