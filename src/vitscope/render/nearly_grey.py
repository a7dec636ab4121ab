"""The photo as it lies below a coloured map: nearly grey, and what only its colours show made lighter or darker.

Lightness alone hides an object that differs from its ground by hue. There the strongest difference in colour beside
lightness is added to the greys, as Grundland and Dodgson (2007, "Decolorize") do, and only its detail, so that large
areas keep their lightness beside each other and beside the map.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

_GREY, _LUMA = np.float32(0.7), np.array([0.299, 0.587, 0.114], np.float32)  # how grey; ITU-R BT.601
_MOST = 2.0  # times the difference in colour is added where lightness shows nothing
_SIDE = 64  # cells of the longer side, on which contrast and large areas are measured
_APART = (2, 4, 8)  # cells between those whose difference counts as contrast
_AREA = 8.0  # cells: standard deviation of the Gaussian that large areas are


def colour_weights(*photos: UInt8[np.ndarray, "_ _ 3"]) -> Float[np.ndarray, "3"]:
    """Return the weights of red, green and blue by which differences in colour are added to greys.

    Contrast is the mean square difference of cells 2, 4 and 8 apart, of 64 along the longer side. The weights are the
    first principal component of what is left of it beside lightness, with the sign that adds to the lightness's
    contrast, times `2 (1 - r)`; `r` is the contrast of lightness over the mean of the three channels' contrasts.

    Args:
        photos: RGB pixels; several, as of a film's frames, share their weights.

    Returns:
        Weights that sum to zero: what is grey stays as it is. Zero where lightness holds at least as much contrast as
        the channels do.
    """
    contrast = sum(_contrast(_cells(photo)) for photo in photos)
    lightness = _LUMA.astype(np.float64)
    mean = np.trace(contrast) / 3
    strength = _MOST * max(0.0, 1 - lightness @ contrast @ lightness / mean) if mean > 0 else 0.0
    if strength == 0:
        return np.zeros(3, np.float32)
    beside = np.eye(3) - np.outer(np.ones(3), lightness)  # a colour without its lightness
    direction = np.linalg.eigh(beside @ contrast @ beside.T)[1][:, -1]
    direction *= np.sign(direction[np.abs(direction).argmax()])
    weights = direction @ beside
    agrees = weights @ contrast @ lightness >= 0
    return (weights * (strength if agrees else -strength)).astype(np.float32)


def greys_of(
    photo: UInt8[np.ndarray, "H W 3"], weights: Float[np.ndarray, "3"] | None = None
) -> Callable[[int, int], Float[np.ndarray, "h W 3"]]:
    """Return a function that draws the photo's rows from `top` to `bottom` as they lie below a map, 0 to 255.

    Args:
        photo: RGB pixels.
        weights: of its colours, by default `colour_weights(photo)`.
    """
    added = colour_weights(photo) if weights is None else weights
    if not added.any():
        return lambda top, bottom: _towards(photo[top:bottom].astype(np.float32))
    height, width = photo.shape[:2]
    areas = _areas(_cells(photo) @ added)
    wide = _between(areas.T, 0, width, width).T

    def rows(top: int, bottom: int) -> Float[np.ndarray, "h W 3"]:
        pixels = photo[top:bottom].astype(np.float32)
        return _towards(pixels, pixels @ added - _between(wide, top, top + len(pixels), height))

    return rows


def nearly_grey(
    photo: UInt8[np.ndarray, "H W 3"], weights: Float[np.ndarray, "3"] | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Return the photo as it lies below a map: 30 % of each pixel's colour and 70 % of its grey."""
    return (greys_of(photo, weights)(0, len(photo)) + 0.5).astype(np.uint8)


def _towards(pixels: Float[np.ndarray, "h W 3"], more: Float[np.ndarray, "h W"] | float = 0.0) -> np.ndarray:
    grey: np.ndarray = np.clip(pixels @ _LUMA + more, 0, 255)[..., None]
    drawn: np.ndarray = pixels + _GREY * (grey - pixels)
    return drawn


def _cells(photo: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "h w 3"]:
    height, width = photo.shape[:2]
    scale = _SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BOX), np.float32)


def _contrast(cells: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "3 3"]:
    """Return the mean product of each two channels' differences."""
    pairs = [(cells[:, far:], cells[:, :-far]) for far in _APART] + [(cells[far:], cells[:-far]) for far in _APART]
    found = np.concatenate([(one - other).reshape(-1, 3) for one, other in pairs]).astype(np.float64)
    products: np.ndarray = found.T @ found / max(len(found), 1)
    return products


def _areas(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    down, across = (_blur(length) for length in values.shape)
    blurred: np.ndarray = down @ values @ across.T
    return blurred.astype(np.float32)


def _blur(length: int) -> Float[np.ndarray, "n n"]:
    apart = np.arange(length)[:, None] - np.arange(length)
    weights: np.ndarray = np.exp(-0.5 * (apart / _AREA) ** 2)
    weights /= weights.sum(1, keepdims=True)
    return weights


def _between(values: Float[np.ndarray, "n m"], start: int, stop: int, length: int) -> Float[np.ndarray, "rows m"]:
    """Return rows `start` to `stop` of the values, resized to `length` rows linearly between the middles of rows."""
    at = np.clip((np.arange(start, stop) + 0.5) * len(values) / length - 0.5, 0, len(values) - 1)
    before = at.astype(int)
    share = (at - before).astype(np.float32)[:, None]
    rows: np.ndarray = values[before] * (1 - share) + values[np.minimum(before + 1, len(values) - 1)] * share
    return rows
