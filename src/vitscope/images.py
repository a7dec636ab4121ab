"""Load images: whatever a user has becomes an upright Picture, or one clear error.

Each conversion (first frame of an animation, CMYK to RGB, alpha over white ...) is listed in the notes: nothing is
converted in silence. Only formats that Pillow, tifffile, pydicom, pillow-heif or numpy decode with well-tested code are
opened, and their sizes are read first.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BufferedIOBase
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias, TypedDict, Unpack, runtime_checkable

import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image

from vitscope._bands import (
    CHOSEN,
    Reading,
    Window,
    bands_of,
    check_array,
    check_finite,
    check_range,
    repeat_grey,
    to_unit,
    unknown_range,
)
from vitscope._decoder import decode_guarded, is_guarded
from vitscope._formats import decode
from vitscope._header_scan import check_cost
from vitscope._image_file import HEAD, empty, first_bytes, is_known, opened
from vitscope._messages import msg
from vitscope._pillow import Decoded, decoding, upright
from vitscope.errors import ImageError

_GREY, _RGB, _BYTE = 1, 3, 255


@dataclass(frozen=True)
class Picture:
    """An upright image: what people see of it and, where that is not all, the numbers that a model sees.

    Attributes:
        pixels: `(H, W, 3)`, 8-bit RGB, read-only.
        name: the file name without its ending, or `image`.
        source: the path as given, or the kind of object.
        notes: the conversions of the original, one phrase each.
        medium: `image`; a clip, volume or recording of `vitscope.media` is a Picture of a part of itself.
        data: the numbers `(H, W, C)` as they were read, read-only; None for a photo, which is its `pixels`.
        window: the numbers of `data` that become 0 and 1 for the model; None where that is not known.
        alpha: the last band of `data` is no colour: a model of the others sees `pixels`.
    """

    medium: ClassVar[str] = "image"
    pixels: UInt8[np.ndarray, "H W 3"]
    name: str = "image"
    source: str = "array"
    notes: tuple[str, ...] = ()
    data: Shaped[np.ndarray, "H W C"] | None = None
    window: Window | None = None
    alpha: bool = False

    def __post_init__(self) -> None:
        self.pixels.setflags(write=False)
        if self.data is not None:
            self.data.setflags(write=False)

    @property
    def bands(self) -> int:
        """The number of bands."""
        return _RGB if self.data is None else self.data.shape[2]

    @property
    def nbytes(self) -> int:
        """Memory that pixels and numbers take, in bytes."""
        held = 0 if self.pixels.strides == (0, 0, 0) else self.pixels.nbytes
        return held + (0 if self.data is None else self.data.nbytes)

    def unit(self) -> Float32[np.ndarray, "H W C"]:
        """Return the numbers, from 0 to 1.

        Raises:
            ImageError: the window is not known.
        """
        data = self.pixels if self.data is None else self.data
        window = (0.0, 255.0) if self.data is None else self.window
        if window is None:
            raise unknown_range(data, self.source)
        return to_unit(data, window)

    def flat(self, value: int) -> "Picture":
        """Return a picture of the same size and kind whose every band holds one value of 0..255."""
        shape = self.pixels.shape
        if self.data is None:
            return Picture(np.full(shape, value, np.uint8))
        made = grey_picture((shape[1], shape[0]), self.bands, value, self.window or (0.0, 255.0))
        return replace(made, window=self.window, alpha=self.alpha)

    @property
    def size(self) -> tuple[int, int]:
        """`(W, H)`, as Pillow has it."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def pil(self) -> Image.Image:
        """Return the image as a Pillow image."""
        return Image.fromarray(self.pixels)


class Medium:
    """What a model of another medium takes, such as a sound before its spectrogram is made; no image."""


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
    | Medium
)


class ReadOptions(TypedDict, total=False):
    """The keywords of `load_image`: the fields of `_bands.Reading`."""

    channels: int | None
    display: Sequence[int] | str | None
    window: Sequence[float | int] | str | None


def load_image(source: ImageLike, **options: Unpack[ReadOptions]) -> Picture:
    """Load an image from a file, its bytes, or an object in memory.

    Args:
        source: a path; the bytes of an image file; a file opened in binary mode, read from its position; a Pillow
            image; an array `(H, W, bands)` or `(H, W)` of uint8, of floats in [0, 1], or with a window of any numbers;
            a row of a `datasets` dataset: `{"image": any of these}`, or `{"bytes": ..., "path": ...}` where the column
            is not decoded.
        options:

            - `display`: the bands, counted from 0, that people see: one as grey, or three as red, green and blue. By
              default the only one, the first of two, the first three of more.
            - `window`: the numbers `(low, high)` that become black and white, 0 and 1; those beyond are clipped. By
              default what the file says, or the whole range of the number format; of 16-bit greys that leave the upper
              half of it unused, the percentiles 0.5 and 99.5, and a note says so.
            - `channels`: bands that the model takes: so many grey pages of a TIFF are the bands of one image.

    Raises:
        ImageError: missing, empty, truncated, not an image, too large or too small; an array of another shape or range.
        MissingDependencyError: the package that reads this kind of file is not installed.
        UsageError: no such window or bands.
    """
    reading = Reading(**options)
    if isinstance(source, (Picture, Mapping)):
        return _again(source, reading) if isinstance(source, Picture) else _load_row(source, options)
    if isinstance(source, (str, os.PathLike)):
        return _load_path(Path(source), reading)
    if isinstance(source, np.ndarray):
        return _load_array(source, reading)
    if isinstance(source, Image.Image):
        with decoding("the image"):
            if isinstance(file := getattr(source, "fp", None), BufferedIOBase):
                _check_open(file)
            decoded = upright(source, "the image", None, reading.channels, whole=reading.window is not None)
        return _finish(decoded, reading, "image", "PIL image", "the image")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decode_image(bytes(source), "the image", name="image", kind="bytes", reading=reading)
    return _load_file(source, reading)


def _check_open(file: BufferedIOBase) -> None:
    """Check what decoding an opened image will cost; the file is left where it was."""
    at = file.tell()
    file.seek(0)
    check_cost(file.read(), "the image")
    file.seek(at)


def grey_picture(size: tuple[int, int], bands: int, value: int, window: Window = (0.0, 255.0)) -> Picture:
    """Return a picture of `(W, H)` pixels whose every band holds one value of 0..255."""
    shape = (size[1], size[0], _RGB)
    pixels = np.full(shape, value, np.uint8)
    if bands == _RGB and window == (0.0, 255.0):
        return Picture(pixels)
    number = window[0] + value / 255 * (window[1] - window[0])
    data = np.full((*shape[:2], bands), number, np.uint8 if window == (0.0, 255.0) else np.float64)
    return Picture(pixels, data=data, window=window)


def reusable(source: ImageLike, **options: Unpack[ReadOptions]) -> ImageLike:
    """Return an image that can be loaded more than once: the Picture in a file object, anything else as it is."""
    return load_image(source, **options) if isinstance(source, BinaryFile) else source


def is_several(source: object) -> bool:
    """Return whether `source` is a sequence of images; the bytes of one are not."""
    return isinstance(source, Sequence) and not isinstance(source, (str, bytes, bytearray, memoryview))


def decode_image(
    data: bytes,
    source: str,
    max_pixels: int | None = None,
    *,
    name: str | None = None,
    kind: str | None = None,
    reading: Reading = Reading(),  # noqa: B008  frozen
) -> Picture:
    """Decode the bytes of an image file, as `load_image` reads the file itself.

    Args:
        data: the whole file.
        source: where it came from, for messages and provenance.
        max_pixels: refuse larger images before they are decoded; by default 100 million.
        name: the Picture's name; by default the file name in `source` without its ending.
        kind: the Picture's source, where that is not `source`.
        reading: how its numbers become an image.

    Raises:
        ImageError: as for `load_image`.
    """
    source = _printable(source)
    if not data:
        raise empty(source)
    bounded = check_cost(data, source)
    if is_guarded() and not bounded:
        decoded = decode_guarded(data, source, reading, max_pixels)
    else:
        decoded = decode(data, source, reading, max_pixels)
    return _finish(decoded, reading, name or Path(source).stem, kind or source, source)


def _load_path(path: Path, reading: Reading) -> Picture:
    return decode_image(read_image_file(path), _printable(path), name=_printable(path.stem), reading=reading)


def read_image_file(path: Path) -> bytes:
    """Return the bytes of an image file; of one that is none, the first few.

    Raises:
        ImageError: a folder, a pipe, a device, a file of holes, an empty one, or one that cannot be read.
    """
    with decoding(str(path)), opened(path) as file:
        head = file.peek(HEAD)[:HEAD]
        return file.read() if is_known(head) else head


def check_image_file(path: Path) -> None:
    """Raise the error of `load_image` where it shows before anything is decoded: no such file, or no image."""
    with decoding(str(path)):
        head = first_bytes(path)
    if not is_known(head):
        decode_image(head, _printable(path))


def _load_file(file: object, reading: Reading) -> Picture:
    if not isinstance(file, BinaryFile) or isinstance(file, type):
        raise _unknown_type(file)
    path = getattr(file, "name", None)
    name, kind = (None, None) if isinstance(path, str) else ("image", "file object")
    source = path if isinstance(path, str) else "the file"
    with decoding(source):
        data = file.read()
    if not isinstance(data, (bytes, bytearray)):
        raise ImageError.coded(
            "images.text-file", "{source} is opened as text", "open it in binary mode: open(path, 'rb')", source=source
        )
    return decode_image(bytes(data), source, name=name, kind=kind, reading=reading)


def _load_row(row: Mapping[str, Any], options: ReadOptions) -> Picture:
    """Load the image of a row of a dataset."""
    if (image := row.get("image")) is not None:
        if isinstance(image, Mapping) and image.get("image") is not None:  # which may be the row itself
            raise _unknown_type(image)
        return load_image(image, **options)
    data, path = row.get("bytes"), row.get("path")
    if data is not None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise _unknown_type(data)
        if path:
            return decode_image(bytes(data), path, reading=Reading(**options))
        return load_image(bytes(data), **options)
    if path is not None:
        return load_image(path, **options)
    raise ImageError(
        msg("images.no-image-key", "a dict with the keys {keys} holds no image", keys=", ".join(map(str, row)) or "{}"),
        msg("images.no-image-key.hint", "pass the image itself, or a dict with 'image', or with 'bytes' and 'path'"),
    )


def _unknown_type(source: object) -> ImageError:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.Tensor):
        last = source.ndim == 3 and source.shape[2] <= 4 < source.shape[0]
        hint = msg(
            "images.tensor.hint",
            "scope.attribute(pixels) takes normalised tensors (B, C, H, W); for an image in 0..1 pass {array}",
            array="tensor.cpu().numpy()" if last else "tensor.permute(1, 2, 0).cpu().numpy()",
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


def _load_array(array: np.ndarray, reading: Reading) -> Picture:
    """Check an array's shape and values; grey and colours of 8 bits or in 0..1 become a photo."""
    data = check_array(array, reading)
    photo = data.shape[2] in (_GREY, _RGB) and reading.plain
    if photo and data.dtype == np.uint8:
        return _finish(Decoded([], _colours(data.copy())), reading, "image", "array", "the array")
    if photo and np.issubdtype(data.dtype, np.floating):
        check_range(data)
        notes: list[str] = [msg("images.scaled", "floats in 0..1 multiplied by 255")]
        pixels = (data.astype(np.float64) * 255).round().astype(np.uint8)
        return _finish(Decoded(notes, _colours(pixels)), reading, "image", "array", "the array")
    return _finish(Decoded([], data=data.copy()), reading, "image", "array", "the array")


def _colours(pixels: UInt8[np.ndarray, "H W _"]) -> UInt8[np.ndarray, "H W 3"]:
    return pixels if pixels.shape[2] == _RGB else repeat_grey(pixels)


def _again(picture: Picture, reading: Reading) -> Picture:
    """Return an image of numbers under another window, or with other bands for people; any other as it is."""
    if picture.medium != "image":
        raise ImageError(
            msg("images.other-medium", "{name} is no image but a {medium}", name=picture.name, medium=picture.medium),
            msg("images.other-medium.hint", "this needs an image, and a model of images"),
        )
    if picture.data is None or picture.alpha or reading.plain:
        return picture
    found = bands_of(picture.data, reading, picture.source, None if reading.window else picture.window)
    kept = [note for note in picture.notes if getattr(note, "code", "") not in CHOSEN]
    return replace(picture, pixels=found.pixels, window=found.window, notes=(*kept, *found.notes))


def _finish(decoded: Decoded, reading: Reading, name: str, kind: str, source: str) -> Picture:
    """Make the Picture of what was decoded: a photo, or numbers with the picture that people see of them."""
    pixels, data, window, notes = decoded.pixels, decoded.data, decoded.window, decoded.notes
    shown = pixels if pixels is not None else data
    assert shown is not None
    height, width = shown.shape[:2]
    if min(width, height) < 2:
        problem = msg(
            "images.too-small",
            "{source} has {width} x {height} pixels: there are no regions to tell apart",
            source=kind,
            width=width,
            height=height,
        )
        raise ImageError(problem, msg("images.too-small.hint", "use an image of at least 2 x 2 pixels"))
    alpha = decoded.alpha and reading.plain
    if pixels is not None and not reading.plain and (data is None or data.shape[2] != reading.channels):
        data = pixels  # transparency is on white, and the caller's words are of the colours
    if reading.window and data is not None and data.dtype == np.uint8 and decoded.full != _BYTE:
        data = data * np.float32(decoded.full / _BYTE)  # the window is in the numbers of the file
    if pixels is None or not reading.plain:
        assert data is not None
        check_finite(data)
        made = bands_of(data, reading, source, window)
        pixels, data, window, notes = made.pixels, made.data, made.window, notes + made.notes
    elif data is not None:
        window = (0.0, 255.0)
    return Picture(np.ascontiguousarray(pixels), name, kind, tuple(notes), data, window, alpha)
