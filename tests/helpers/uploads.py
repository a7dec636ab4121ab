"""Photos as a client sends them, good and hostile, and answers compared."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from skimage import data

from vitscope.viewer.packed import Packed


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def bomb(width, height, mode=6):
    """A PNG of a few hundred bytes that says it is huge."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, mode, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100_000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


PROBLEM = {"detail", "hint", "code", "messages"}
CAT = data.chelsea()
WHOLE = encoded(CAT)
GOOD = [
    WHOLE,
    encoded(CAT[:200, :180], "JPEG"),
    encoded(CAT[50:, 100:], "WEBP"),
    encoded(CAT[:120, :160, :1].repeat(3, 2), "GIF"),
    encoded(CAT[:90, :70], "BMP"),
]
HOSTILE = {
    "nothing": b"",
    "text": b"hello, I am no picture" * 50,
    "page": b"<html><script>alert(1)</script></html>",
    "drawing": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "half": WHOLE[:40_000],
    "head": encoded(CAT, "JPEG")[:300],
    "bomb": bomb(60_000, 60_000),
    "wide": bomb(2**31 - 1, 1),
    "too many pixels": encoded(np.zeros((5001, 5000, 3), np.uint8), compress_level=1),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "photoshop": b"8BPS" + bytes(200),
    "archive": b"PK\x03\x04" + bytes(500),
    "one pixel": encoded(np.zeros((1, 1, 3), np.uint8)),
}


def uploaded(client, photo, name="cat.png"):
    answer = client.post("/api/photos", content=photo, params={"name": name})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def map_of(document, entry):
    """A map's numbers out of a document or of an answer."""
    told = document["arrays"][f"map.{entry['id']}"]
    packed = Packed(told["dtype"], tuple(told["shape"]), base64.b64decode(told["data"]))
    return packed.array().astype(np.float32) * np.float32(entry["scale"])


def same(predictions, others):
    """Labels alike, and probabilities up to what batching does to the last digits."""
    assert [label for label, _ in predictions] == [label for label, _ in others]
    assert [p for _, p in predictions] == pytest.approx([p for _, p in others], rel=1e-4)
