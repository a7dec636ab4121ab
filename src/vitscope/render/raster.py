"""One map as a picture: the heat alone, the heat over the photo, the patch grid.

What is drawn is stated: `Style` is the whole recipe, and `manifest.json` keeps it. Values become colours by one linear
scale between two numbers of the map (its extremes, or two percentiles under `norm="robust"`).
"""

from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from vitscope._plugins import renderer
from vitscope.errors import UnknownNameError, UsageError
from vitscope.explanation import Explanation

__all__ = ["LOOKS", "NORMS", "Style", "grid", "heat", "limits", "overlay"]

Look = Literal["color", "grey", "article"]
Norm = Literal["auto", "minmax", "robust", "positive"]
LOOKS, NORMS = get_args(Look), get_args(Norm)
_ROBUST = (1.0, 99.0)
_ARTICLE_ALPHA, _ARTICLE_BLUR = 100, 2
_MAX_BLUR = 1000  # beyond it everything is one colour, and the kernel only costs
_GREY, _LUMA = np.float32(0.7), np.array([0.299, 0.587, 0.114], np.float32)  # how grey; ITU-R BT.601
_STRIP = 512  # rows of the photo that are mixed at a time


@dataclass(frozen=True)
class Style:
    """How a map is drawn.

    Attributes:
        look: `color`: a colour map. `grey`: white on the photo at opacity 100/255. `article`: the grey overlay of the
            published recipe, step by step (8 bits, bicubic to the input size, Gaussian blur of radius 2).
        cmap: any colour map of matplotlib; perceptually uniform ones are inferno, magma, viridis, plasma, cividis.
        opacity: of the hottest colour over the photo, in [0, 1]; the coldest gets half of it, so that the photo stays
            readable where the map is cold. With `color` the photo itself is drawn nearly grey below the map.
        norm: `minmax`: from the map's smallest to its largest value. `robust`: from its 1st to its 99th percentile,
            for maps where a few tokens would leave the rest black. `positive`: from 0 to its 99th percentile, for
            signed maps: what speaks against the target is as cold as what says nothing; a map without positive values
            is drawn as `robust`. `auto`: what vitscope recommends where it chose the method for the model (the
            provenance says what), else `positive` for maps of both signs and `minmax` for others.
        smooth: bicubic between patch centres; otherwise one flat block per patch.
        blur: standard deviation of a Gaussian blur in pixels of the photo; 0 for none.
        colorbar: draw the scale beside the picture, with the map's own values.
    """

    look: Look = "color"
    cmap: str = "inferno"
    opacity: float = 0.9
    norm: Norm = "auto"
    smooth: bool = True
    blur: float = 0.0
    colorbar: bool = False

    def __post_init__(self) -> None:
        for kind, value, choices in (("look", self.look, LOOKS), ("normalisation", self.norm, NORMS)):
            if value not in choices:
                raise UnknownNameError(kind, value, choices)
        if not (0 <= self.opacity <= 1 and 0 <= self.blur <= _MAX_BLUR):
            raise UsageError(f"opacity is in [0, 1] and blur in [0, {_MAX_BLUR}], not {self.opacity} and {self.blur}")
        if self.look == "article" and self.colorbar:
            raise UsageError("the article look has no colour scale to draw", "leave out the colour bar")
        _colours(self.cmap)

    @classmethod
    def of(cls, **style: Any) -> "Style":
        """A style from keywords; an unknown one is named with its nearest spelling."""
        names = [f.name for f in fields(cls)]
        for name in style:
            if name not in names:
                raise UnknownNameError("drawing option", name, names)
        return replace(cls(**style), cmap="gray", opacity=100 / 255) if style.get("look") == "grey" else cls(**style)


@renderer("style")
def style(explanation: Explanation, **options: Any) -> dict[str, Any]:
    """The full style as it goes into the manifest, the normalisation in words."""
    chosen = _chosen(explanation, options)
    words = {"minmax": "smallest to largest value", "robust": "1st to 99th percentile of the patches, clipped"}
    words["positive"] = "0 to the 99th percentile of the patches, clipped"
    return asdict(chosen) | {"normalisation": words[chosen.norm]}


def limits(values: Float[np.ndarray, "..."], norm: Norm) -> tuple[float, float]:
    """The two values of a map that become the coldest and the hottest colour.

    Percentiles are values of the map (the lower of two neighbours), so that on a small grid one sink is clipped, too.
    """
    high = np.percentile(values, _ROBUST[1], method="lower")
    if norm == "positive" and high > 0 and values.min() < values.max():
        return 0.0, float(high)
    robust = norm in ("robust", "positive")
    low, high = np.percentile(values, _ROBUST, method="lower") if robust else (values.min(), values.max())
    return float(low), float(high)


def _chosen(explanation: Explanation, options: dict[str, Any]) -> Style:
    """The style, with `auto` resolved."""
    chosen = Style.of(**options)
    signed = explanation.map.min() < 0 < explanation.map.max()
    recommended = explanation.provenance.get("drawing", {}).get("norm", "positive" if signed else "minmax")
    return replace(chosen, norm=recommended) if chosen.norm == "auto" else chosen


@renderer("overlay")
def overlay(explanation: Explanation, **options: Any) -> Image.Image:
    """The map over the photo, in the photo's own size; where the model saw nothing the photo is as it was."""
    chosen = _chosen(explanation, options)
    if explanation.picture is None:
        raise UsageError("this explanation has no photo to draw on", "heat() and the renderer 'heat' need none")
    if chosen.look == "article":
        return _article(explanation)
    low, high = limits(explanation.map, chosen.norm)
    placed = explanation.heat(chosen.smooth, chosen.blur)
    drawn = explanation.picture.pixels.copy()
    colours = _colours(chosen.cmap).astype(np.float32)
    for top in range(0, len(drawn), _STRIP):
        strip = placed[top : top + _STRIP]
        seen = ~np.isnan(strip)
        level = _levels(strip[seen], low, high)
        part = drawn[top : top + _STRIP]
        below = part[seen].astype(np.float32)
        alpha = np.full((len(level), 1), chosen.opacity, np.float32)
        if chosen.look == "color":
            below += _GREY * ((below @ _LUMA)[:, None] - below)
            alpha *= level[:, None] / np.float32(510) + np.float32(0.5)
        part[seen] = (below + alpha * (colours[level] - below) + 0.5).astype(np.uint8)
    image = Image.fromarray(drawn)
    return _with_bar(image, chosen, low, high) if chosen.colorbar else image


@renderer("heat")
def heat(explanation: Explanation, **options: Any) -> Image.Image:
    """The map alone on the photo's frame, RGBA, transparent where the model saw nothing."""
    chosen = _chosen(explanation, options)
    low, high = limits(explanation.map, chosen.norm)
    placed = explanation.heat(chosen.smooth, chosen.blur)
    seen = ~np.isnan(placed)
    drawn = np.zeros((*placed.shape, 4), np.uint8)
    drawn[seen, :3] = _colours(chosen.cmap)[_levels(placed[seen], low, high)]
    drawn[seen, 3] = 255
    image = Image.fromarray(drawn)
    return _with_bar(image, chosen, low, high) if chosen.colorbar else image


@renderer("grid")
def grid(explanation: Explanation, **options: Any) -> Image.Image:
    """The map on its own patch grid, each patch a square; no photo, no interpolation."""
    chosen = _chosen(explanation, options)
    drawn = _colours(chosen.cmap)[_levels(explanation.map, *limits(explanation.map, chosen.norm))]
    side = max(1, 512 // max(explanation.layout.grid))
    return Image.fromarray(drawn.repeat(side, 0).repeat(side, 1))


def _article(explanation: Explanation) -> Image.Image:
    """The published recipe's drawing, on the part of the photo that the model saw."""
    assert explanation.picture is not None
    values, (height, width) = explanation.map, explanation.region.input
    scaled = (values - values.min()) / max(float(values.max() - values.min()), np.finfo(np.float32).tiny)
    grey = Image.fromarray((scaled * 255).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    grey = grey.filter(ImageFilter.GaussianBlur(radius=_ARTICLE_BLUR))
    layer = Image.merge("RGBA", (grey, grey, grey, Image.new("L", grey.size, _ARTICLE_ALPHA)))
    left, top, right, bottom = explanation.region.window()
    photo = explanation.picture.pil().convert("RGBA")
    photo.alpha_composite(layer.resize((right - left, bottom - top), Image.Resampling.BICUBIC), (left, top))
    return photo.convert("RGB")


def _levels(values: Float[np.ndarray, "..."], low: float, high: float) -> UInt8[np.ndarray, "..."]:
    """0 to 255, linear between the limits; a flat map is all 0."""
    span = high - low
    return (np.clip((values - low) / span if span > 0 else values * 0, 0, 1) * 255 + 0.5).astype(np.uint8)


@lru_cache(maxsize=32)
def _colours(name: str) -> UInt8[np.ndarray, "256 3"]:
    import matplotlib as mpl

    if name not in mpl.colormaps:
        raise UnknownNameError("colour map", name, [n for n in mpl.colormaps if not n.endswith("_r")])
    return (np.asarray(mpl.colormaps[name](np.linspace(0, 1, 256)))[:, :3] * 255 + 0.5).astype(np.uint8)


def _with_bar(image: Image.Image, chosen: Style, low: float, high: float) -> Image.Image:
    """The picture with its colour scale at the right, the map's values beside it."""
    text = min(max(image.height // 28, 9), 60)
    font = ImageFont.load_default(size=text)
    ticks = [(part, f"{low + part * (high - low):.3g}") for part in (1.0, 0.5, 0.0)]
    wide = max(int(font.getlength(label)) for _, label in ticks)
    bar, gap = max(image.height // 24, 8), max(text // 2, 4)
    out = Image.new(image.mode, (image.width + bar + wide + 3 * gap, image.height), "white")
    out.paste(image, (0, 0))
    length = max(image.height - text, 2)
    ramp = _colours(chosen.cmap)[np.linspace(255, 0, length).round().astype(int)]
    out.paste(Image.fromarray(ramp[:, None].repeat(bar, 1)), (image.width + gap, text // 2))
    draw = ImageDraw.Draw(out)
    for part, label in ticks:
        y = text // 2 + round((1 - part) * (length - 1))
        draw.text((image.width + 2 * gap + bar, y), label, fill="black", font=font, anchor="lm")
    return out
