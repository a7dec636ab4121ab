"""Hatches and labels the part of a photo that the model did not see, so that its light is not read as hot."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from vitscope.geometry import ImageRegion

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
        _label(part, max(wide, high))
    return pixels


def _label(part: UInt8[np.ndarray, "h w 3"], longest: int) -> None:
    """Write the label along the middle of a strip, where there is room."""
    high, wide = part.shape[:2]
    letters = min(max(longest // 50, 9), 60)
    font = ImageFont.load_default(size=letters)
    left, top, right, bottom = font.getbbox(_WORDS)
    gap = max(letters // 3, 2)
    size = int(right - left) + 2 * gap, int(bottom - top) + 2 * gap
    upright = size[0] > wide
    label = Image.new("RGB", size, (24, 25, 28))
    ImageDraw.Draw(label).text((gap - left, gap - top), _WORDS, fill="white", font=font)
    label = label.rotate(90, expand=True) if upright else label
    if label.width > wide or label.height > high:
        return
    x, y = (wide - label.width) // 2, (high - label.height) // 2
    part[y : y + label.height, x : x + label.width] = np.asarray(label)
