"""Bring numbers of any range and any number of bands to a window, and to a picture that people can look at."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from vitscope import _pillow
from vitscope._messages import msg
from vitscope._numbers import number, whole_number
from vitscope.errors import ImageError, UsageError

Window: TypeAlias = tuple[float, float]

# notes of what is chosen for numbers, which another window or other bands replace
CHOSEN = {
    f"images.{slug}"
    for slug in ("windowed", "window-clips", "window-wide", "16-bit", "percentile-window", "shown", "shown-stretched")
}
_GREY, _RGB = 1, 3
_SHOWN = (2.0, 98.0)  # percentiles that are black and white where several bands are shown
_GREY_WINDOW = (0.5, 99.5)  # percentiles that are 0 and 1 for one band of integers
_FULL = 65535
_BESIDE = 0.999  # of the numbers on one side of a window leave nothing to see
_CLIPPED = 0.5  # of the numbers beside a window are said
_NARROW = 0.1  # of a window, from the least number to the greatest, is said


@dataclass(frozen=True)
class Reading:
    """How numbers become an image.

    Attributes:
        channels: bands that the model takes; None where no model is known.
        display: the bands, counted from 0, that people see as grey (one) or as red, green and blue (three).
        window: the numbers that become 0 and 1; those beyond are clipped.
    """

    channels: int | None = None
    display: Any = None
    window: Any = None

    def __post_init__(self) -> None:
        window, shown = _numbers(self.window, number), _numbers(self.display, whole_number)
        shown = (shown,) if _is_integer(shown) else shown
        if shown is not None and not (
            isinstance(shown, Sequence)
            and len(shown) in (_GREY, _RGB)
            and all(_is_integer(b) and b >= 0 for b in shown)
        ):
            raise UsageError(
                msg("images.display", "{@display} is not {given}", given=repr(self.display)),
                msg("images.display.hint", "name one band or three, counted from 0, as in {@display=3,2,1}"),
            )
        if window is not None and not (
            isinstance(window, Sequence)
            and len(window) == 2
            and all(isinstance(v, (int, float, np.number)) and np.isfinite(v) for v in window)
            and window[0] < window[1]
        ):
            raise UsageError(
                msg("images.window", "{@window} is not {given}", given=repr(self.window)),
                msg("images.window.hint", "write the numbers that become black and white, as in {@window=0,4095}"),
            )
        object.__setattr__(self, "display", None if shown is None else tuple(int(b) for b in shown))
        object.__setattr__(self, "window", None if window is None else (float(window[0]), float(window[1])))

    @property
    def plain(self) -> bool:
        """Whether the caller has said nothing of the numbers."""
        return self.display is None and self.window is None


@dataclass(frozen=True, eq=False)
class Bands:
    """An image of numbers.

    Attributes:
        pixels: what people see.
        data: the numbers as they were read.
        window: the numbers that become 0 and 1; None where that is not known.
        notes: what was chosen.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    data: Shaped[np.ndarray, "H W C"]
    window: Window | None
    notes: list[str]


def to_unit(data: Shaped[np.ndarray, "*shape"], window: Window) -> Float32[np.ndarray, "*shape"]:
    """Map a window to 0..1 and clip what lies beyond."""
    low, high = window
    return ((data.astype(np.float64) - low) / (high - low)).clip(0, 1).astype(np.float32)


def repeat_grey(grey: UInt8[np.ndarray, "H W 1"]) -> UInt8[np.ndarray, "H W 3"]:
    """Repeat a grey value as red, green and blue."""
    return np.repeat(grey, _RGB, axis=2)


def bands_of(data: Shaped[np.ndarray, "H W C"], reading: Reading, source: str, window: Window | None = None) -> Bands:
    """Choose the window of an image of numbers, and make the picture that people see.

    Args:
        data: finite numbers.
        reading: what the caller says of them.
        source: for messages.
        window: what the file itself says.

    Raises:
        ImageError: a range that nothing is known of, or a band that does not exist.
    """
    notes: list[str] = []
    given = reading.window or window
    chosen = (float(given[0]), float(given[1])) if given else _own_window(data, reading, source, notes)
    if given:
        low, high = (_number(v) for v in chosen or ())
        notes.append(msg("images.windowed", "numbers from {low} to {high} become 0 to 1", low=low, high=high))
    if reading.window and chosen:
        notes += window_notes(data, chosen, source)
    return Bands(_shown(data, reading, chosen, notes), data, chosen, notes)


def window_notes(data: Shaped[np.ndarray, "*shape"], window: Window, source: str) -> list[str]:
    """Say how a window from the caller fits the numbers.

    Raises:
        ImageError: nearly all of them lie on one side of it, so that the image would be of one colour.
    """
    if not data.size or np.isnan(low := float(data.min())) or np.isnan(high := float(data.max())):
        return []
    below, above = float((data < window[0]).mean()), float((data > window[1]).mean())
    said = {"low": _number(low), "high": _number(high), "first": _number(window[0]), "last": _number(window[1])}
    if max(below, above) > _BESIDE:
        raise ImageError(
            msg(
                "images.window-beside",
                "{source} holds numbers from {low} to {high}, nearly all of them beside the window from {first} to "
                "{last}: the image would be of one colour",
                source=source,
                **said,
            ),
            msg("images.window-beside.hint", "name numbers that the image has, as in {@window={low},{high}}", **said),
        )
    if below + above > _CLIPPED:
        shares = {"below": round(100 * below), "above": round(100 * above)}
        return [msg("images.window-clips", "{below}% of the numbers lie below the window, {above}% above", **shares)]
    if high - low < _NARROW * (window[1] - window[0]):
        return [msg("images.window-wide", "the numbers go from {low} to {high}, a small part of the window", **said)]
    return []


def _own_window(data: Shaped[np.ndarray, "H W C"], reading: Reading, source: str, notes: list[str]) -> Window | None:
    """Return the window of numbers whose range nobody has said; None for bands that are no colours."""
    whole, low, high = whole_range(data), float(data.min(initial=0)), float(data.max(initial=0))
    if data.dtype == np.uint8 or np.issubdtype(data.dtype, np.floating):
        if whole:
            return whole
    elif data.shape[2] not in (_GREY, _RGB):
        return None
    elif whole:
        notes.append(msg("images.16-bit", "16-bit grey divided by 257"))
        return whole
    elif low >= -_FULL // 2 and high <= _FULL:
        ends = _percentiles(data, _GREY_WINDOW)
        notes.append(
            msg(
                "images.percentile-window",
                "numbers from {low} to {high}: {first} to {last}, their percentiles {lowest} and {highest}, became "
                "black to white; {@window} sets others",
                low=_number(data.min()),
                high=_number(data.max()),
                first=_number(ends[0]),
                last=_number(ends[1]),
                lowest=_GREY_WINDOW[0],
                highest=_GREY_WINDOW[1],
            )
        )
        return ends
    if data.shape[2] in (_GREY, _RGB):
        raise unknown_range(data, source)
    return None


def whole_range(data: Shaped[np.ndarray, "*shape"]) -> Window | None:
    """Return the numbers that are black and white by their format, or None.

    These are 0 and 255 of 8 bits, 0 and 65535 of integers whose upper half is in use, 0 and 1 of floats between them.
    """
    low, high = float(data.min(initial=0)), float(data.max(initial=0))
    if data.dtype == np.uint8:
        return 0.0, 255.0
    if np.issubdtype(data.dtype, np.floating):
        return (0.0, 1.0) if low >= 0 and high <= 1 else None
    return (0.0, float(_FULL)) if low >= 0 and _FULL // 2 < high <= _FULL else None


def unknown_range(data: Shaped[np.ndarray, "H W C"], source: str) -> ImageError:
    """Make the error for numbers whose range nobody has said."""
    low, high = (_number(v) for v in (data.min(), data.max()))
    problem = msg(
        "images.unknown-range",
        "{source} holds {dtype} numbers from {low} to {high}: which of them are black and white is not known",
        source=source,
        dtype=data.dtype,
        low=low,
        high=high,
    )
    hint = msg("images.unknown-range.hint", "say so: {@window={low},{high}}", low=low, high=high)
    return ImageError(problem, hint)


def _shown(
    data: Shaped[np.ndarray, "H W C"], reading: Reading, window: Window | None, notes: list[str]
) -> UInt8[np.ndarray, "H W 3"]:
    """Return the bands that people see, as 8-bit red, green and blue."""
    count = data.shape[2]
    display: tuple[int, ...] = tuple(int(b) for b in reading.display or ()) or ((0, 1, 2) if count >= _RGB else (0,))
    if max(display) >= count:
        raise ImageError.coded(
            "images.no-such-band",
            "{@display} names band {band}, but the image has {count} bands: 0 to {last}",
            "bands are counted from 0",
            band=max(display),
            count=count,
            last=count - 1,
        )
    part, stretched = data[..., list(display)], False
    if window is None or (count not in (_GREY, _RGB) and data.dtype != np.uint8):
        window, stretched = _percentiles(part, _SHOWN), True
    if count not in (_GREY, _RGB) or reading.display:
        bands = ", ".join(map(str, display))
        if stretched:
            low, high = (_number(v) for v in window)
            note = msg(
                "images.shown-stretched",
                "shown: bands {bands} of {count}, counted from 0, stretched from {low} to {high} (percentiles 2, 98)",
                bands=bands,
                count=count,
                low=low,
                high=high,
            )
        else:
            note = msg("images.shown", "shown: bands {bands} of {count}, counted from 0", bands=bands, count=count)
        notes.append(note)
    pixels = (to_unit(part, window) * 255).round().astype(np.uint8)
    return pixels if pixels.shape[2] == _RGB else repeat_grey(pixels)


def _percentiles(data: np.ndarray, shares: tuple[float, float]) -> Window:
    low, high = (float(v) for v in np.percentile(data, shares)) if data.size else (0.0, 1.0)
    if low == high and data.size:
        low, high = float(data.min()), float(data.max())
    return (low, high) if low < high else (low, low + 1)


def check_array(array: np.ndarray, reading: Reading) -> Shaped[np.ndarray, "H W C"]:
    """Return an array with its bands last; refuse what is no image of finite numbers.

    Raises:
        ImageError: another shape, or numbers that are no pixels.
    """
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise ImageError.coded(
            "images.masked", "a masked array has no numbers where its mask is set", "fill them in: array.filled(0)"
        )
    array = np.asarray(array)
    _check_shape(array, reading)
    shape, dtype = array.shape, array.dtype
    floats = np.issubdtype(dtype, np.floating)
    colours = array.ndim == 2 or shape[2] in (_GREY, _RGB)
    narrow = dtype in (np.uint8, np.uint16, np.int16)
    if not (floats or narrow or (np.issubdtype(dtype, np.integer) and (reading.window or not colours))):
        raise ImageError(
            msg("images.array-dtype", "an array of {dtype} is not an image (shape {shape})", dtype=dtype, shape=shape),
            msg("images.array-dtype.hint", "pass uint8 in 0..255, or floats in 0..1; other integers need {@window}"),
        )
    check_finite(array)
    return array[..., None] if array.ndim == 2 else array


def check_finite(array: np.ndarray) -> None:
    """Refuse NaN and infinity."""
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        problem = msg(
            "images.not-finite",
            "the array holds NaN or infinity (shape {shape}, {dtype})",
            shape=array.shape,
            dtype=array.dtype,
        )
        raise ImageError(problem, msg("images.not-finite.hint", "pixels are finite: floats in 0..1, or uint8"))


def _check_shape(array: np.ndarray, reading: Reading) -> None:
    shape, channels = array.shape, {_GREY, _RGB, reading.channels or _RGB}
    if array.ndim == 3 and shape[0] == shape[2] != _GREY and shape[0] in channels:
        raise ImageError(
            msg("images.ambiguous-shape", "an array of shape {shape} may have its channels first or last", shape=shape),
            msg("images.ambiguous-shape.hint", "pass a PIL image: Image.fromarray(array)")
            if shape[0] == _RGB
            else msg(
                "images.ambiguous-bands.hint",
                "resize or crop it, so that only the number of bands is {bands}",
                bands=shape[0],
            ),
        )
    known = array.ndim == 3 and shape[2] in channels and not (shape[0] in channels and shape[0] == _GREY < shape[2])
    if array.ndim == 3 and not known and (shape[0] in channels or shape[0] < min(shape[1:])):
        raise ImageError(
            msg("images.channels-first", "an array of shape {shape} has its channels first", shape=shape),
            msg("images.channels-first.hint", "pass array.transpose(1, 2, 0), which is (H, W, channels)"),
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and (not shape[2] or (not known and shape[2] > max(shape[:2])))):
        problem = msg(
            "images.array-shape", "an array of shape {shape} ({dtype}) is not an image", shape=shape, dtype=array.dtype
        )
        raise ImageError(problem, msg("images.array-shape.hint", "pass (H, W, bands) or (H, W), one image at a time"))
    if shape[0] * shape[1] > _pillow.MAX_PIXELS:
        raise _pillow.too_large(f"the array {shape}")


def check_range(array: np.ndarray) -> None:
    """Refuse floats that are not in 0..1."""
    low, high = float(array.min(initial=0)), float(array.max(initial=0))
    if low < 0 or high > 1:
        raise ImageError.coded(
            "images.out-of-range",
            "floats are in 0..1, but the array has values from {low} to {high}",
            msg(
                "images.out-of-range.hint",
                "divide values in 0..255 by 255; {@window={low},{high}} takes others",
                low=f"{low:.4g}",
                high=f"{high:.4g}",
            )
            if low >= 0
            else msg(
                "images.normalised.hint", "undo the normalisation, or pass a normalised tensor to scope.attribute"
            ),
            low=f"{low:.4g}",
            high=f"{high:.4g}",
        )


def _number(value: float | np.generic) -> str:
    return f"{float(value):.6g}"


def _numbers(given: Any, read: Callable[[str], float | None]) -> Any:
    """Return the numbers of a text with commas; anything else, and a text without numbers, as it is."""
    if not isinstance(given, str):
        return list(given) if isinstance(given, np.ndarray) else given
    found = [read(part) for part in given.split(",")]
    return {given} if None in found else found


def _is_integer(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
