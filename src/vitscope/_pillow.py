"""Decode image files with Pillow: one upright RGB frame, a note for each conversion, one clear error."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from vitscope._messages import msg
from vitscope.errors import ImageError

__all__ = ["FORMATS", "MAX_PIXELS", "decoding", "empty", "opened", "repeat_grey", "too_large", "upright"]

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

    Filters belong to the process. If each thread saved and restored its own, the last one to leave would restore
    another's silence for good; so the first one in saves them, and the last one out restores them.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)


_QUIET = _Quiet()


@contextmanager
def decoding(source: str) -> Iterator[None]:
    """Turn whatever Pillow raises on a broken file into one line; suppress its warnings, which change no pixel."""
    try:
        with _QUIET:
            yield
    except ImageError:
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
                _check_path(),
            ) from None
        raise _broken(source, error) from None
    except Exception as error:  # a decoder raises anything: struct.error, SyntaxError, TypeError, IndexError ...
        raise _broken(source, error) from None


def _broken(source: str, error: Exception) -> ImageError:
    reason = str(error) or type(error).__name__
    return ImageError(
        msg("images.broken", "{source} is truncated or broken: {reason}", source=source, reason=reason),
        msg("images.broken.hint", "copy or download it again"),
    )


def empty(source: str) -> ImageError:
    return ImageError(
        msg("images.empty", "{source} is empty", source=source),
        msg("images.empty.hint", "there are no bytes to read: copy or download it again, or rewind the file"),
    )


def _check_path() -> str:
    return msg("images.check-path.hint", "check the path")


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    if path.is_dir():
        raise ImageError(
            msg("images.folder", "{path} is a folder, not an image", path=path),
            msg("images.folder.hint", "name the files in it, such as FOLDER/*.jpg"),
        )
    if not path.exists():
        if path.parts[:1] in (("http:",), ("https:",)):
            raise ImageError(
                msg("images.url", "{url} is a URL, not a file", url=path.as_posix().replace(":/", "://", 1)),
                msg("images.url.hint", "download it first"),
            )
        raise ImageError(msg("images.not-found", "{path} does not exist", path=path), _check_path())
    if path.stat().st_size == 0:
        raise empty(str(path))
    with Image.open(path, formats=FORMATS) as image:
        yield image


def upright(
    image: Image.Image, source: str, max_pixels: int | None = None
) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    """Decode one frame, turn it upright, and convert it to RGB; note each step."""
    notes: list[str] = []
    if image.width * image.height > (max_pixels or MAX_PIXELS):
        raise too_large(f"{source} ({image.width} x {image.height})", max_pixels)
    if (frames := _frames(image)) and image.format != "MPO":  # phones append previews to MPO
        at = image.tell()
        notes.append(
            msg("images.frame", "frame {number} of {count} frames", number=at + 1, count=frames)
            if at
            else msg("images.first-frame", "first of {count} frames", count=frames)
        )
    turn = getattr(image, "tag_v2", {}).get(ExifTags.Base.Orientation)  # TIFF turns itself while it loads
    image.load()
    if (left := _orientation(image)) in _TRANSPOSES:
        turn, image = left, image.transpose(_TRANSPOSES[left])
    if turn in _TRANSPOSES:
        notes.append(msg("images.turned", "turned upright by its EXIF orientation"))
    return _to_rgb(image, source, notes), notes


def _frames(image: Image.Image) -> str:
    """Return the number of frames, empty for one; a TIFF's are counted up to 100, as each costs all before it."""
    if image.format == TiffImagePlugin.TiffImageFile.format:
        at = image.tell()
        try:
            image.seek(_MAX_COUNTED_FRAMES)
        except EOFError:
            pass
        else:
            return msg("images.more-than", "more than {count}", count=_MAX_COUNTED_FRAMES)
        finally:
            image.seek(at)
    count = getattr(image, "n_frames", 1)
    return str(count) if count > 1 else ""


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken metadata: the pixels are whole
        return 1


def _to_rgb(image: Image.Image, source: str, notes: list[str]) -> UInt8[np.ndarray, "H W 3"]:
    mode = image.mode
    if mode.startswith("I"):  # 16-bit greys; plain 'I' is how some of them are opened
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(
                msg("images.integer-pixels", "{source} has 32-bit integers as pixels", source=source), _scale_first()
            )
        notes.append(msg("images.16-bit", "16-bit grey divided by 257"))
        return repeat_grey((values[..., None] / 257).round().astype(np.uint8))
    if mode == "F":
        raise ImageError(
            msg("images.float-pixels", "{source} has floating-point pixels of unknown range", source=source),
            _scale_first(),
        )
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        notes.append(msg("images.transparency", "transparency laid on white"))
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif mode == "P":
        notes.append(msg("images.palette", "palette converted to RGB"))
    elif mode not in ("RGB", "L", "1"):
        notes.append(msg("images.mode", "{mode} converted to RGB", mode=mode))
    return np.asarray(image.convert("RGB"))


def _scale_first() -> str:
    return msg("images.scale.hint", "scale them to 8 bits first")


def repeat_grey(grey: UInt8[np.ndarray, "H W 1"]) -> UInt8[np.ndarray, "H W 3"]:
    return np.repeat(grey, 3, axis=2)


def too_large(source: str, max_pixels: int | None = None) -> ImageError:
    problem = msg(
        "images.too-large",
        "{source} is larger than {limit} million pixels",
        source=source,
        limit=f"{(max_pixels or MAX_PIXELS) / 1e6:g}",
    )
    return ImageError(problem, msg("images.too-large.hint", "shrink or crop it first"))
