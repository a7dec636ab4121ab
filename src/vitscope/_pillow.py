"""Decode image files with Pillow: one upright frame, a note for each conversion, one clear error."""

import ctypes
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin, _imaging, features

from vitscope._header_scan import GIF_COUNTED, gif_frames
from vitscope._image_file import CHECK_PATH
from vitscope._messages import msg
from vitscope.errors import ImageError, MissingDependencyError, OutOfMemoryError

# phones' MPO files come through the JPEG reader; two plugins are not loaded by Pillow on its own
FORMATS = (
    "JPEG",
    "PNG",
    "GIF",
    "BMP",
    "PPM",
    WebPImagePlugin.WebPImageFile.format,
    TiffImagePlugin.TiffImageFile.format,
    *(("AVIF",) if features.check("avif") else ()),
)
MAX_PIXELS = 100_000_000
_BYTE, _FULL = 255, 65535
_MAX_COUNTED_FRAMES = 100
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _Quiet:
    """Suppresses warnings while any thread decodes; those about large images, too: our limit is lower and an error.

    What Pillow logs of a broken file goes to handlers of the caller's only, and not to stderr for want of any; what
    libtiff writes there goes nowhere.

    Filters belong to the process. If each thread saved and restored its own, the last one to leave would restore
    another's silence for good; so the first one in saves them, and the last one out restores them.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._filters, self._nowhere = warnings.catch_warnings(), logging.NullHandler()
        self._tiff_handler: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
                logging.getLogger("PIL").addHandler(self._nowhere)
                self._tiff_handler = _libtiff_handler(None)
            self._inside += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)
                logging.getLogger("PIL").removeHandler(self._nowhere)
                _libtiff_handler(self._tiff_handler)


def _libtiff_handler(handler: int | None) -> int | None:
    """Set the function that gets the errors of the libtiff in Pillow; return the one that was set, if there is one."""
    try:
        setter = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler  # looked up in what Pillow is linked with
    except (AttributeError, OSError):  # built in, or there is none
        return None
    setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
    before: int | None = setter(handler)
    return before


quiet = _Quiet()


@contextmanager
def decoding(source: str) -> Iterator[None]:
    """Turn whatever Pillow raises on a broken file into one line; suppress its warnings, which change no pixel."""
    try:
        with quiet:
            yield
    except (ImageError, MissingDependencyError, OutOfMemoryError):
        raise
    except UnidentifiedImageError:
        raise ImageError(
            msg("images.not-an-image", "{source} is not an image that can be read", source=source),
            msg("images.not-an-image.hint", "readable are {formats}", formats=", ".join(FORMATS)),
        ) from None
    except Image.DecompressionBombError:
        raise too_large(source) from None
    except OSError as error:
        if error.errno is not None:
            raise ImageError(
                msg("images.unreadable", "{source} cannot be read: {reason}", source=source, reason=error.strerror),
                CHECK_PATH,
            ) from None
        raise _broken(source, error) from None
    except MemoryError as error:
        raise OutOfMemoryError.of(error, source) from None
    except Exception as error:  # a decoder raises anything: struct.error, SyntaxError, TypeError, IndexError ...
        raise _broken(source, error) from None


def _broken(source: str, error: Exception) -> ImageError:
    reason = str(error) or type(error).__name__
    return ImageError(
        msg("images.broken", "{source} is truncated or broken: {reason}", source=source, reason=reason),
        msg("images.broken.hint", "copy or download it again"),
    )


@dataclass(frozen=True, eq=False)
class Decoded:
    """One decoded image.

    Attributes:
        notes: its conversions.
        pixels: as 8-bit RGB; None where only numbers are known.
        data: its numbers, where they are more than 8 bits or other bands than red, green and blue.
        window: the numbers that are black and white, where the file says so.
        alpha: the last band of `data` is transparency, which `pixels` has laid on white.
        full: the file's number that became 255, where it was not read whole.
    """

    notes: list[str]
    pixels: UInt8[np.ndarray, "H W 3"] | None = None
    data: Shaped[np.ndarray, "H W C"] | None = None
    window: tuple[float, float] | None = None
    alpha: bool = False
    full: int = _BYTE


def upright(
    image: Image.Image,
    source: str,
    max_pixels: int | None = None,
    channels: int | None = None,
    *,
    whole: bool = False,
) -> Decoded:
    """Decode one frame and turn it upright; note each step.

    Args:
        image: an opened image.
        source: for messages.
        max_pixels: refuse larger images before they are decoded.
        channels: bands that the model takes: so many pages of grey are the bands of one image.
        whole: read all 16 bits of colours where that is possible, not the upper 8.
    """
    notes: list[str] = []
    frames = _frames(image)
    pages = int(frames) if channels not in (None, 1, 3) and frames == str(channels) and _is_tiff(image) else 1
    most, area = max_pixels or MAX_PIXELS, image.width * image.height
    if area > most or area * pages > 4 * most:
        raise too_large(f"{source} ({image.width} x {image.height})", max_pixels)
    if pages > 1 and image.tell() == 0 and (data := _pages(image, pages)) is not None:
        notes.append(msg("images.pages", "the {count} pages are its bands", count=pages))
        return Decoded(notes, data=data)
    if frames and image.format != "MPO":  # phones append previews to MPO
        at = image.tell()
        notes.append(
            msg("images.frame", "frame {number} of {count} frames", number=at + 1, count=frames)
            if at
            else msg("images.first-frame", "first of {count} frames", count=frames)
        )
    turn = getattr(image, "tag_v2", {}).get(ExifTags.Base.Orientation)  # TIFF turns itself while it loads
    full = _full(image)
    low = _low_bytes(image) if whole else None
    image.load()
    if (left := _orientation(image)) in _TRANSPOSES:
        turn, image = left, image.transpose(_TRANSPOSES[left])
        low = None if low is None else low.transpose(_TRANSPOSES[left])
    if turn in _TRANSPOSES:
        notes.append(msg("images.turned", "turned upright by its EXIF orientation"))
    if low is not None:
        return Decoded(notes, data=np.asarray(image).astype(np.uint16) << 8 | np.asarray(low))
    if full > _BYTE and not image.mode.startswith("I"):
        notes.append(
            msg("images.high-bytes", "{bits} bits a colour: only the upper 8 are read", bits=full.bit_length())
        )
    return _converted(image, notes, full)


def _is_tiff(image: Image.Image) -> bool:
    return image.format == TiffImagePlugin.TiffImageFile.format


def _pages(image: Image.Image, count: int) -> Shaped[np.ndarray, "H W C"] | None:
    """Return the grey pages of a TIFF as bands; None where they are no such pages."""
    found = []
    for number in range(count):
        image.seek(number)
        if image.mode != "L" and image.mode[0] not in "IF":
            break
        found.append(np.asarray(image))
    image.seek(0)
    if len(found) < count or len({(page.shape, page.dtype) for page in found}) > 1:
        return None
    return np.stack(found, 2)


def _full(image: Image.Image) -> int:
    """Return the number that is white in a file, of which Pillow makes 255, or 65535 of greys; 255 where it is that."""
    bits = [*getattr(image, "tag_v2", {}).get(258, ()), image.info.get("bit_depth", 0)]  # of a TIFF, and HEIC
    for tile in getattr(image, "tile", ()):
        if image.format == "PPM" and isinstance(tile[3], tuple) and isinstance(tile[3][-1], int):
            return tile[3][-1]
        bits.append(16 if ";16" in str(tile[3]) else 0)
    if image.format == "AVIF" and isinstance(file := getattr(image, "fp", None), BytesIO):
        bits.append(_avif_bits(file.getvalue()))
    return 2 ** max(bits) - 1 if max(bits) > 8 and image.mode in ("RGB", "RGBA", "LA", "L") else _BYTE


def _avif_bits(data: bytes) -> int:
    """Return the bits of a colour, which the box `pixi` says (ISO/IEC 23008-12, 6.5.6)."""
    at = data.find(b"pixi")
    return data[at + 9] if 0 <= at < len(data) - 9 else 0


def _low_bytes(image: Any) -> Image.Image | None:
    """Return the lower 8 bits of a PNG of 16 bits a colour, decoded once more; None for any other image."""
    file = getattr(image, "fp", None)
    if image.mode != "RGB" or not isinstance(file, BytesIO) or [t[3] for t in image.tile] != ["RGB;16B"]:
        return None
    again: Any = Image.open(BytesIO(file.getvalue()), formats=["PNG"])
    again.tile = [tile._replace(args="RGB;16L") for tile in again.tile]  # of two bytes the second instead of the first
    again.load()
    low: Image.Image = again
    return low


def _frames(image: Image.Image) -> str:
    """Return the number of frames, empty for one; those of a TIFF or GIF are counted up to 100."""
    if _is_tiff(image):
        at, count = image.tell(), 0
        try:
            while count <= _MAX_COUNTED_FRAMES:
                image.seek(count)  # page by page: Pillow takes the number of one beyond the last as their number
                count += 1
        except EOFError:
            return str(count) if count > 1 else ""
        finally:
            image.seek(at)
        return msg("images.more-than", "more than {count}", count=_MAX_COUNTED_FRAMES)
    if image.format == "GIF" and isinstance(file := getattr(image, "fp", None), BytesIO):
        count = gif_frames(file.getvalue())
        if count > GIF_COUNTED:
            return msg("images.more-than", "more than {count}", count=GIF_COUNTED)
    else:
        count = getattr(image, "n_frames", 1)
    return str(count) if count > 1 else ""


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken metadata: the pixels are whole
        return 1


def _converted(image: Image.Image, notes: list[str], full: int) -> Decoded:
    """Return an image's numbers as RGB; those of more than 8 bits as they are."""
    mode = image.mode
    if mode == "I" and image.format == "PPM" and full != _FULL:  # Pillow has spread them over 16 bits
        numbers = (np.asarray(image)[..., None] * (full / _FULL)).round()
        return Decoded(notes, data=numbers.astype(np.uint16), window=(0.0, float(full)))
    if mode.startswith("I") or mode == "F":  # 16-bit greys; plain 'I' is how some of them are opened
        values = np.asarray(image)[..., None]
        narrow = mode != "F" and values.min(initial=0) >= 0 and values.max(initial=0) <= 65535
        return Decoded(notes, data=values.astype(np.uint16) if narrow else values.copy())
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        notes.append(msg("images.transparency", "transparency laid on white"))
        data = np.array(image) if mode in ("RGBA", "LA") else None
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return Decoded(notes, np.asarray(image.convert("RGB")), data, alpha=data is not None, full=full)
    if mode == "P":
        notes.append(msg("images.palette", "palette converted to RGB"))
    elif mode == "RGBX":
        notes.append(msg("images.fourth-band", "its fourth band is left out"))
        return Decoded(notes, np.asarray(image.convert("RGB")), np.array(image), alpha=True)
    elif mode not in ("RGB", "L", "1"):
        notes.append(msg("images.mode", "{mode} converted to RGB", mode=mode))
    return Decoded(notes, np.asarray(image.convert("RGB")), full=full)


def too_large(source: str, max_pixels: int | None = None) -> ImageError:
    problem = msg(
        "images.too-large",
        "{source} is larger than {limit} million pixels",
        source=source,
        limit=f"{(max_pixels or MAX_PIXELS) / 1e6:g}",
    )
    return ImageError(problem, msg("images.too-large.hint", "shrink or crop it first"))
