"""Load images: whatever a user has becomes an upright RGB Picture, or one clear error.

Each conversion (first frame of an animation, CMYK to RGB, alpha over white ...) is listed in the notes: nothing is
converted in silence. Only formats that Pillow decodes with well-tested code are opened.
"""

import io
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vitscope import _pillow
from vitscope._messages import msg
from vitscope._pillow import FORMATS, decoding, empty, opened, repeat_grey, too_large, upright
from vitscope.errors import ImageError

__all__ = ["BinaryFile", "ImageLike", "Picture", "decode_image", "is_several", "load_image", "reusable"]

_GREY, _RGB = 1, 3


@dataclass(frozen=True)
class Picture:
    """An upright 8-bit RGB image.

    Attributes:
        pixels: `(H, W, 3)`, read-only.
        name: the file name without its ending, or `image`.
        source: the path as given, or the kind of object.
        notes: the conversions of the original, one phrase each.
        medium: `image`; a clip, volume or recording of `vitscope.media` is a Picture of a part of itself.
    """

    medium: ClassVar[str] = "image"
    pixels: UInt8[np.ndarray, "H W 3"]
    name: str = "image"
    source: str = "array"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.pixels.setflags(write=False)

    @property
    def size(self) -> tuple[int, int]:
        """`(W, H)`, as Pillow has it."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def pil(self) -> Image.Image:
        """Return the image as a Pillow image."""
        return Image.fromarray(self.pixels)


@runtime_checkable
class BinaryFile(Protocol):
    """A file opened in binary mode, or anything else that reads bytes."""

    def read(self) -> bytes:
        """Return the bytes from the current position to the end."""
        ...


ImageLike: TypeAlias = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | BinaryFile
    | Image.Image
    | np.ndarray
    | Mapping[str, Any]
    | Picture
)


def load_image(source: ImageLike) -> Picture:
    """Load an image from a file, its bytes, or an object in memory.

    Args:
        source: a path; the bytes of an image file; a file opened in binary mode, read from its position; a Pillow
            image; an array `(H, W, 3)`, `(H, W, 1)` or `(H, W)` of uint8 or of floats in [0, 1]; a row of a `datasets`
            dataset: `{"image": any of these}`, or `{"bytes": ..., "path": ...}` where the column is not decoded.

    Raises:
        ImageError: missing, empty, truncated, not an image, too large or too small; an array of another shape or range.
    """
    if isinstance(source, Picture):
        return _require_image(source)
    if isinstance(source, Mapping):
        return _load_row(source)
    if isinstance(source, (str, os.PathLike)):
        return _load_path(Path(source))
    if isinstance(source, np.ndarray):
        (pixels, notes), kind = _from_array(source), "array"
    elif isinstance(source, Image.Image):
        with decoding("the image"):
            (pixels, notes), kind = upright(source, "the image"), "PIL image"
    elif isinstance(source, (bytes, bytearray, memoryview)):
        return decode_image(bytes(source), "the image", name="image", kind="bytes")
    else:
        return _load_file(source)
    return _finish(pixels, "image", kind, notes)


def _require_image(picture: Picture) -> Picture:
    if picture.medium != "image":
        raise ImageError(
            msg("images.other-medium", "{name} is no image but a {medium}", name=picture.name, medium=picture.medium),
            msg("images.other-medium.hint", "this needs an image, and a model of images"),
        )
    return picture


def reusable(source: ImageLike) -> ImageLike:
    """Return an image that can be loaded more than once: the Picture in a file object, anything else as it is."""
    return load_image(source) if isinstance(source, BinaryFile) else source


def is_several(source: object) -> bool:
    """Return whether `source` is a sequence of images; the bytes of one are not."""
    return isinstance(source, Sequence) and not isinstance(source, (str, bytes, bytearray, memoryview))


def decode_image(
    data: bytes, source: str, max_pixels: int | None = None, *, name: str | None = None, kind: str | None = None
) -> Picture:
    """Decode the bytes of an image file, as `load_image` reads the file itself.

    Args:
        data: the whole file.
        source: where it came from, for messages and provenance.
        max_pixels: refuse larger images before they are decoded; by default 100 million.
        name: the Picture's name; by default the file name in `source` without its ending.
        kind: the Picture's source, where that is not `source`.

    Raises:
        ImageError: as for `load_image`.
    """
    source = _printable(source)
    if not data:
        raise empty(source)
    with decoding(source), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        pixels, notes = upright(image, source, max_pixels)
    return _finish(pixels, name or Path(source).stem, kind or source, notes)


def _load_path(path: Path) -> Picture:
    with decoding(str(path)), opened(path) as image:
        pixels, notes = upright(image, str(path))
    return _finish(pixels, _printable(path.stem), _printable(path), notes)


def _load_file(file: object) -> Picture:
    if not isinstance(file, BinaryFile) or isinstance(file, type):
        raise _unknown_type(file)
    path = getattr(file, "name", None)
    name, kind = (None, None) if isinstance(path, str) else ("image", "file object")
    source = path if isinstance(path, str) else "the file"
    with decoding(source):
        data = file.read()
    if not isinstance(data, (bytes, bytearray)):
        raise ImageError(
            msg("images.text-file", "{source} is opened as text", source=source),
            msg("images.text-file.hint", "open it in binary mode: open(path, 'rb')"),
        )
    return decode_image(bytes(data), source, name=name, kind=kind)


def _load_row(row: Mapping[str, Any]) -> Picture:
    """Load the image of a row of a dataset."""
    if row.get("image") is not None:
        return load_image(row["image"])
    data, path = row.get("bytes"), row.get("path")
    if data is not None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise _unknown_type(data)
        return decode_image(bytes(data), path) if path else load_image(bytes(data))
    if path is not None:
        return load_image(path)
    raise ImageError(
        msg("images.no-image-key", "a dict with the keys {keys} holds no image", keys=", ".join(map(str, row)) or "{}"),
        msg("images.no-image-key.hint", "pass the image itself, or a dict with 'image', or with 'bytes' and 'path'"),
    )


def _unknown_type(source: object) -> ImageError:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.Tensor):
        hint = msg(
            "images.tensor.hint",
            """scope.attribute(pixels) takes normalised tensors (B, 3, H, W); for an image in 0..1 pass
                tensor.permute(1, 2, 0).cpu().numpy()""",
        )
        return ImageError(msg("images.tensor", "a tensor is not an image to preprocess"), hint)
    hint = msg(
        "images.unknown-type.hint",
        "pass a path, bytes, a binary file, a PIL image, an array, or a row of a dataset, one image at a time",
    )
    return ImageError(msg("images.unknown-type", "{type} is not an image", type=type(source).__name__), hint)


def _printable(path: str | Path) -> str:
    r"""Return a path as text that can be printed: bytes that are no UTF-8 become \xff."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _from_array(array: np.ndarray) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    """Check an array's shape and values and bring it to 8-bit RGB; note each step."""
    notes: list[str] = []
    shape, dtype = array.shape, array.dtype
    _check_shape(array)
    if np.issubdtype(dtype, np.floating):
        _check_range(array)
        notes.append(msg("images.scaled", "floats in 0..1 multiplied by 255"))
        array = (array.astype(np.float64) * 255).round().astype(np.uint8)
    elif dtype != np.uint8:
        raise ImageError(
            msg("images.array-dtype", "an array of {dtype} is not an image (shape {shape})", dtype=dtype, shape=shape),
            msg("images.array-dtype.hint", "pass uint8 in 0..255, or floats in 0..1"),
        )
    pixels = array[..., None] if array.ndim == 2 else array
    return (pixels.copy() if pixels.shape[2] == _RGB else repeat_grey(pixels)), notes


def _check_shape(array: np.ndarray) -> None:
    shape, channels = array.shape, (_GREY, _RGB)
    if array.ndim == 3 and shape[0] in channels and (shape[2] not in channels or shape[0] == _GREY < shape[2]):
        raise ImageError(
            msg("images.channels-first", "an array of shape {shape} has its channels first", shape=shape),
            msg("images.channels-first.hint", "pass array.transpose(1, 2, 0), which is (H, W, channels)"),
        )
    if array.ndim == 3 and shape[0] == shape[2] == _RGB:
        raise ImageError(
            msg("images.ambiguous-shape", "an array of shape {shape} may have its channels first or last", shape=shape),
            msg("images.ambiguous-shape.hint", "pass a PIL image: Image.fromarray(array)"),
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in channels):
        problem = msg(
            "images.array-shape", "an array of shape {shape} ({dtype}) is not an image", shape=shape, dtype=array.dtype
        )
        raise ImageError(
            problem, msg("images.array-shape.hint", "pass (H, W, 3), (H, W, 1) or (H, W), one image at a time")
        )
    if shape[0] * shape[1] > _pillow.MAX_PIXELS:
        raise too_large(f"the array {shape}")


def _check_range(array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        problem = msg(
            "images.not-finite",
            "the array holds NaN or infinity (shape {shape}, {dtype})",
            shape=array.shape,
            dtype=array.dtype,
        )
        raise ImageError(problem, msg("images.not-finite.hint", "pixels are finite: floats in 0..1, or uint8"))
    low, high = float(array.min(initial=0)), float(array.max(initial=0))
    if low < 0 or high > 1:
        raise ImageError(
            msg(
                "images.out-of-range",
                "floats are in 0..1, but the array has values from {low} to {high}",
                low=f"{low:.4g}",
                high=f"{high:.4g}",
            ),
            msg("images.out-of-range.hint", "divide values in 0..255 by 255")
            if low >= 0
            else msg(
                "images.normalised.hint", "undo the normalisation, or pass a normalised tensor to scope.attribute"
            ),
        )


def _finish(pixels: UInt8[np.ndarray, "H W 3"], name: str, source: str, notes: list[str]) -> Picture:
    height, width = pixels.shape[:2]
    if min(width, height) < 2:
        problem = msg(
            "images.too-small",
            "{source} has {width} x {height} pixels: there are no regions to tell apart",
            source=source,
            width=width,
            height=height,
        )
        raise ImageError(problem, msg("images.too-small.hint", "use an image of at least 2 x 2 pixels"))
    return Picture(np.ascontiguousarray(pixels), name, source, tuple(notes))
