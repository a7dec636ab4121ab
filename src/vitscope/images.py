"""Reading pictures: whatever a user has becomes an upright RGB picture, or one clear line why not.

What was done to get there (first frame of an animation, CMYK converted, alpha laid on white ...) is kept as notes:
nothing is converted in silence. Only formats that Pillow decodes with well-tested code are opened.
"""

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from vitscope.errors import ImageError

__all__ = ["FORMATS", "MAX_PIXELS", "ImageLike", "Picture", "decoded", "load_image"]

# phones' MPO files come through the JPEG reader; the last two plugins are not loaded by Pillow on its own
FORMATS = (
    "JPEG",
    "PNG",
    "GIF",
    "BMP",
    "PPM",
    WebPImagePlugin.WebPImageFile.format,
    TiffImagePlugin.TiffImageFile.format,
)
MAX_PIXELS = 100_000_000
_MANY = 100
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Picture:
    """An upright 8-bit RGB picture.

    Attributes:
        pixels: `(H, W, 3)`, read-only.
        name: the file name without its ending, or `image`.
        source: the path as given, or what kind of object it was.
        notes: what was done to the original, one phrase each.
    """

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
        """The picture as a Pillow image."""
        return Image.fromarray(self.pixels)


ImageLike: TypeAlias = str | Path | Image.Image | np.ndarray | Picture


def load_image(source: ImageLike) -> Picture:
    """Turn a path, a Pillow image or an `(H, W, 3)` uint8 array into a Picture.

    Raises:
        ImageError: missing, empty, truncated, not a picture, too large, too small, or values that are not pixels.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, np.ndarray):
        return _finish(_checked(source), "image", "array", [])
    if isinstance(source, Image.Image):
        with _decoding("the picture"):
            pixels, notes = _upright(source, "the picture")
        return _finish(pixels, "image", "PIL image", notes)
    path = Path(source)
    with _decoding(str(path)), _opened(path) as image:
        pixels, notes = _upright(image, str(path))
    return _finish(pixels, _text(path.stem), _text(path), notes)


def decoded(data: bytes, source: str, most: int | None = None) -> Picture:
    """A Picture from the bytes of a file, as `load_image` makes it from the file itself.

    Args:
        data: the whole file.
        source: where it came from, for messages and provenance.
        most: pixels that it may have, `MAX_PIXELS` by default; larger ones are refused before they are decoded.

    Raises:
        ImageError: as for `load_image`.
    """
    source = _text(source)
    if not data:
        raise ImageError(f"{source} is empty", "the file has no bytes: copy or download it again")
    with _decoding(source), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        pixels, notes = _upright(image, source, most)
    return _finish(pixels, Path(source).stem, source, notes)


def _text(path: str | Path) -> str:
    r"""A path that can be printed: bytes that are no UTF-8 are written as \xff."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class _Quiet:
    """No warnings while any thread decodes, of bombs too: our own limit is lower and an error.

    Filters belong to the process. If each thread kept and put back its own, the last one to leave would put back
    another's silence for good; so the first one in keeps them, and the last one out puts them back.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._kept = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._kept = warnings.catch_warnings()
                self._kept.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._kept.__exit__(None, None, None)


_QUIET = _Quiet()


@contextmanager
def _decoding(what: str) -> Iterator[None]:
    """Whatever Pillow raises on a broken file becomes one line; what it warns of does not change the pixels."""
    again = "copy or download it again"
    try:
        with _QUIET:
            yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{what} is not a picture that can be read", f"readable are {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise _too_large(what) from None
    except OSError as error:
        if error.errno is not None:
            raise ImageError(f"{what} cannot be read: {error.strerror}", "check the path") from None
        raise ImageError(f"{what} is truncated or broken: {error}", again) from None
    except Exception as error:  # a decoder raises anything: struct.error, SyntaxError, TypeError, IndexError ...
        raise ImageError(f"{what} is truncated or broken: {error or type(error).__name__}", again) from None


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    if path.is_dir():
        raise ImageError(f"{path} is a folder, not a picture", "name the files in it, such as FOLDER/*.jpg")
    if not path.exists():
        raise ImageError(f"{path} does not exist", "check the path")
    if path.stat().st_size == 0:
        raise ImageError(f"{path} is empty", "the file has no bytes: copy or download it again")
    with Image.open(path, formats=FORMATS) as image:
        yield image


def _upright(image: Image.Image, what: str, most: int | None = None) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    """Decode one frame, turn it upright, and bring it to RGB; say what was done."""
    notes = []
    if image.width * image.height > (most or MAX_PIXELS):
        raise _too_large(f"{what} ({image.width} x {image.height})", most)
    if (frames := _frames(image)) and image.format != "MPO":  # phones append previews to MPO
        notes.append(f"{f'frame {image.tell() + 1}' if image.tell() else 'first'} of {frames} frames")
    turn = getattr(image, "tag_v2", {}).get(ExifTags.Base.Orientation)  # TIFF turns itself while it loads
    image.load()
    if (left := _orientation(image)) in _TURNS:
        turn, image = left, image.transpose(_TURNS[left])
    if turn in _TURNS:
        notes.append("turned upright by its EXIF orientation")
    return _rgb(image, what, notes), notes


def _frames(image: Image.Image) -> str:
    """How many, empty for one; a TIFF's are counted only so far, since finding the next one costs all before it."""
    if image.format == TiffImagePlugin.TiffImageFile.format:
        at = image.tell()
        try:
            image.seek(_MANY)
        except EOFError:
            pass
        else:
            return f"more than {_MANY}"
        finally:
            image.seek(at)
    count = getattr(image, "n_frames", 1)
    return str(count) if count > 1 else ""


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken metadata: the pixels are whole
        return 1


def _rgb(image: Image.Image, what: str, notes: list[str]) -> UInt8[np.ndarray, "H W 3"]:
    mode = image.mode
    if mode.startswith("I"):  # 16-bit greys; plain 'I' is how some of them are opened
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(f"{what} has 32-bit integers as pixels", "scale them to 8 bits first")
        notes.append("16-bit grey divided by 257")
        return np.repeat((values[..., None] / 257).round().astype(np.uint8), 3, axis=2)
    if mode == "F":
        raise ImageError(f"{what} has floating-point pixels of unknown range", "scale them to 8 bits first")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        notes.append("transparency laid on white")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif mode not in ("RGB", "L", "1"):
        notes.append(f"{'palette' if mode == 'P' else mode} converted to RGB")
    return np.asarray(image.convert("RGB"))


def _checked(array: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise ImageError(f"the array holds NaN or infinity (shape {array.shape}, {array.dtype})", "pixels are 0..255")
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
        raise ImageError(
            f"a picture as array is (H, W, 3) uint8, not {array.shape} {array.dtype}",
            "for floats in 0..1: (x * 255).round().astype('uint8')",
        )
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise _too_large(f"the array {array.shape}")
    return array.copy()


def _finish(pixels: UInt8[np.ndarray, "H W 3"], name: str, source: str, notes: list[str]) -> Picture:
    if min(pixels.shape[:2]) < 2:
        raise ImageError(
            f"{source} has {pixels.shape[1]} x {pixels.shape[0]} pixels: there are no regions to tell apart",
            "use a picture of at least 2 x 2 pixels",
        )
    return Picture(np.ascontiguousarray(pixels), name, source, tuple(notes))


def _too_large(what: str, most: int | None = None) -> ImageError:
    return ImageError(f"{what} is larger than {(most or MAX_PIXELS) / 1e6:g} million pixels", "shrink or crop it first")
