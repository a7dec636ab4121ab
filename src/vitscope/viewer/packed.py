"""Arrays as a page carries them: byte planes, deflated."""

import base64
import math
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Encoding = Literal["planes"]
_HALF = 60000.0  # the largest number that a scaled float16 map holds, below float16's own 65504


@dataclass(frozen=True)
class Packed:
    """One array, packed.

    Attributes:
        dtype: `uint8`, `uint16`, `uint32`, `float16` or `float32`, little-endian.
        shape: of the array.
        data: the first bytes of all numbers, then their second bytes, and so on, as a zlib stream.
        encoding: how `data` is made; `planes` is the only way so far.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes
    encoding: Encoding = "planes"

    @classmethod
    def of(cls, array: np.ndarray) -> "Packed":
        """Pack an array."""
        plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        planes = plain.reshape(-1).view(np.uint8).reshape(plain.size, plain.itemsize).T
        coder = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, 7, zlib.Z_RLE)  # noise repeats nothing but zeros
        return cls(array.dtype.name, array.shape, coder.compress(planes.tobytes()) + coder.flush())

    def array(self) -> np.ndarray:
        """Unpack the array."""
        dtype = np.dtype(self.dtype).newbyteorder("<")
        planes = np.frombuffer(zlib.decompress(self.data), np.uint8).reshape(dtype.itemsize, -1)
        return np.ascontiguousarray(planes.T).view(dtype).reshape(self.shape)

    @property
    def nbytes(self) -> int:
        """Characters of a page, in base64."""
        return 4 * math.ceil(len(self.data) / 3)

    def document(self) -> dict[str, Any]:
        """Return the array ready for JSON."""
        return {
            "dtype": self.dtype,
            "shape": list(self.shape),
            "encoding": self.encoding,
            "data": base64.b64encode(self.data).decode(),
        }


def scaled(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Return values as float16, scaled to stay out of its denormals, and the factor to multiply them by."""
    peak = float(np.abs(values).max(initial=0))
    scale = peak / _HALF if peak > 0 else 1.0
    return (values / scale).astype(np.float16), scale


def zigzag(values: np.ndarray) -> np.ndarray:
    """Map signed integers to unsigned ones that stay small: 0, -1, 1, -2 become 0, 1, 2, 3."""
    wide = values.astype(np.int32)
    return ((wide << 1) ^ (wide >> 31)).astype(np.uint32)
