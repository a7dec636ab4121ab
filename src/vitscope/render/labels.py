"""Draws a few words into a picture, white on black, where there is room."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

_DARK = (24, 25, 28)


def draw_label(part: UInt8[np.ndarray, "h w 3"], words: str, longest: int, *, below: bool = False) -> bool:
    """Write words into the middle of a part of a picture, or along its lower edge, upright where it is narrow.

    Args:
        part: RGB pixels, changed in place.
        words: a few.
        longest: the longer side of the whole picture, which settles the size of letters.
        below: along the lower edge, over a third of the height at most, in letters as small as it takes.

    Returns:
        Whether there was room.
    """
    high, wide = part.shape[:2]
    letters = min(max(longest // 50, 9), 60)
    label = _drawn(words, letters)
    while below and label.width > wide and letters > 8:
        label = _drawn(words, letters := letters - 1)
    label = label.rotate(90, expand=True) if label.width > wide and not below else label
    if label.width > wide or label.height > (high // 3 if below else high):
        return False
    x, y = (wide - label.width) // 2, high - label.height if below else (high - label.height) // 2
    part[y : y + label.height, x : x + label.width] = np.asarray(label)
    return True


def _drawn(words: str, letters: int) -> Image.Image:
    font = ImageFont.load_default(size=letters)
    left, top, right, bottom = font.getbbox(words)
    gap = max(letters // 3, 2)
    label = Image.new("RGB", (int(right - left) + 2 * gap, int(bottom - top) + 2 * gap), _DARK)
    ImageDraw.Draw(label).text((gap - left, gap - top), words, fill="white", font=font)
    return label
