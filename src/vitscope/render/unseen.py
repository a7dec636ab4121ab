"""Hatches and labels the part of a photo that the model did not see, so that its light is not read as hot."""

import numpy as np
from jaxtyping import UInt8

from vitscope.geometry import ImageRegion
from vitscope.render.labels import draw_label

_WORDS = "not seen by the model"
_THINNEST = 0.002  # of a side: thinner strips come from rounding
_DIMMED, _LINE = 0.38, 0.3  # of the photo's light that stays; of white that a line adds
_LINES = 90  # across the longer side


def hatch_unseen(photo: UInt8[np.ndarray, "H W 3"], region: ImageRegion) -> UInt8[np.ndarray, "H W 3"]:
    """Return the photo with what lies outside the model's crop dimmed, hatched and labelled.

    Args:
        photo: RGB pixels.
        region: what the model saw of it; the pixels inside stay as they are.

    Returns:
        The photo itself where the model saw all of it, else a copy.
    """
    high, wide = photo.shape[:2]
    left, top, right, bottom = region.window()
    strips = [(0, 0, wide, top), (0, bottom, wide, high), (0, top, left, bottom), (right, top, wide, bottom)]
    least = max(2.0, _THINNEST * max(wide, high))
    strips = [(x, y, right, bottom) for x, y, right, bottom in strips if min(right - x, bottom - y) >= least]
    if not strips:
        return photo
    pixels = photo.copy()
    period = max(max(wide, high) // _LINES, 6)
    for x, y, right, bottom in strips:
        part = pixels[y:bottom, x:right]
        diagonal = (np.arange(y, bottom)[:, None] + np.arange(x, right)) % period < max(period // 9, 1)
        part[:] = part * _DIMMED
        part[diagonal] = part[diagonal] * (1 - _LINE) + 255 * _LINE
        draw_label(part, _WORDS, max(wide, high))
    return pixels
