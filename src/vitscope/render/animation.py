"""Frames of an animation: maps over one photo, each with its scale and a caption."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from vitscope.geometry import ImageRegion
from vitscope.render.raster import Style, limits, overlay, with_bar

_LEAST = 320  # pixels in width: a caption needs some


def frames(
    maps: Sequence[tuple[Float[np.ndarray, "gh gw"], str]],
    region: ImageRegion,
    photo: UInt8[np.ndarray, "H W 3"],
    style: Style,
    *,
    width: int = 640,
    one_scale: bool = False,
) -> list[Image.Image]:
    """Draw maps over their photo, as images of one size: the map, its colour scale at the right, its caption below.

    Args:
        maps: each with its caption.
        region: the part of the photo that the patches cover.
        photo: RGB pixels.
        style: how to draw.
        width: of the photo in a frame, in pixels; smaller photos keep their size down to 320.
        one_scale: one scale for all, from the lowest end of their own scales to the highest; else each has its own.
    """
    styles = [style.resolved(values) for values, _ in maps]
    scales = [limits(values, one.norm) for (values, _), one in zip(maps, styles, strict=True)]
    if one_scale:
        scales = [(min(low for low, _ in scales), max(high for _, high in scales))] * len(scales)
    height, wide = photo.shape[:2]
    wide, height = _fitted(wide, height, width)
    drawn = []
    for (values, _), one, scale in zip(maps, styles, scales, strict=True):
        picture = overlay(values, region, photo, replace(one, colorbar=False), scale)
        drawn.append(with_bar(picture.resize((wide, height), Image.Resampling.LANCZOS), one, *scale))
    most = max(picture.width for picture in drawn)
    tall = max(most // 36, 11)
    font = ImageFont.load_default(size=tall)
    letters = int(most / font.getlength("x")) - 2
    captions = ["\n".join(textwrap.wrap(caption, letters)) for _, caption in maps]
    line, lines = tall * 1.3, max(caption.count("\n") + 1 for caption in captions)
    made = []
    for picture, caption in zip(drawn, captions, strict=True):
        frame = Image.new("RGB", (most, height + round(line * (lines + 0.7))), "white")
        frame.paste(picture)
        place = (tall // 2, height + round(0.35 * line))
        ImageDraw.Draw(frame).multiline_text(place, caption, fill="black", font=font, spacing=tall * 0.3)
        made.append(frame)
    return made


def _fitted(wide: int, high: int, width: int) -> tuple[int, int]:
    scale = min(width, max(wide, _LEAST)) / wide
    return round(wide * scale), max(round(high * scale), 1)
