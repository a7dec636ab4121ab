"""One map as an image: the heat alone, the heat over the photo, the patch grid.

`Style` is the whole drawing recipe, and `manifest.json` keeps it. Values become colours by one linear scale between two
numbers of the map (its extremes, or two percentiles under `norm="robust"`).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Literal, TypedDict, Unpack, get_args

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from vitscope._messages import msg
from vitscope._numbers import is_real
from vitscope.errors import UnknownNameError, UsageError
from vitscope.geometry import ImageRegion
from vitscope.render.labels import draw_label
from vitscope.render.nearly_grey import greys_of
from vitscope.render.remarks import map_labels
from vitscope.render.unseen import hatch_unseen

StyleName = Literal["color", "grey", "notebook"]
Norm = Literal["auto", "minmax", "robust", "positive"]
STYLES, NORMS = get_args(StyleName), get_args(Norm)
_NORMALISATION = {
    "minmax": "smallest to largest value",
    "robust": "1st to 99th percentile of the patches, clipped",
    "positive": "0 to the 99th percentile of the patches, clipped",
}
_ROBUST = (1.0, 99.0)
NOTEBOOK_BLUR = 2  # pixels of the model's input
_NOTEBOOK_ALPHA = 100
_MAX_BLUR = 1000  # beyond it everything is one colour, and the kernel only costs
_STRIP = 512  # rows of the photo that are mixed at a time


class StyleOptions(TypedDict, total=False):
    """The fields of `Style` as keywords."""

    style: StyleName
    cmap: str
    opacity: float
    norm: Norm
    smooth: bool
    blur: float
    colorbar: bool


@dataclass(frozen=True)
class Style:
    """How a map is drawn.

    Attributes:
        style: `color`: a colour map. `grey`: white on the photo, at opacity 100/255 unless another one is given.
            `notebook`: the grey overlay of the published recipe, step by step (8 bits, bicubic to the input size,
            Gaussian blur of radius 2).
        cmap: any colour map of matplotlib; perceptually uniform ones are inferno, magma, viridis, plasma, cividis.
        opacity: of the hottest colour over the photo, in [0, 1]; the coldest gets half of it, so that the photo stays
            readable where the map is cold. With `color` the photo itself is drawn nearly grey below the map, and
            what its colours show and its lightness does not (`vitscope.render.nearly_grey`) lighter or darker.
        norm: `minmax`: from the map's smallest to its largest value. `robust`: from its 1st to its 99th percentile,
            for maps where a few tokens would leave the rest black. `positive`: from 0 to its 99th percentile, for
            signed maps: what speaks against the target is as cold as what says nothing; a map without positive values
            is drawn as `robust`. `auto`: what vitscope recommends where it chose the method for the model (the
            provenance says what), else `positive` for maps of both signs and `minmax` for others.
        smooth: bicubic between patch centres; otherwise one flat block per patch.
        blur: standard deviation of a Gaussian blur in pixels of the photo; 0 for none.
        colorbar: draw the scale beside the picture, with the map's own values.
        label: what these values are, beside the scale; an explanation says so itself.
    """

    style: StyleName = "color"
    cmap: str = "inferno"
    opacity: float = 0.65
    norm: Norm = "auto"
    smooth: bool = True
    blur: float = 0.0
    colorbar: bool = False
    label: str = ""

    def __post_init__(self) -> None:
        for kind, value, choices in (
            (msg("render.style", "style"), self.style, STYLES),
            (msg("render.normalisation", "normalisation"), self.norm, NORMS),
        ):
            UnknownNameError.check(kind, value, choices)
        for name, number, most in (("opacity", self.opacity, 1), ("blur", self.blur, _MAX_BLUR)):
            if not is_real(number, 0, most):
                given = {"name": name, "most": most, "value": repr(number)}
                raise UsageError(msg("render.out-of-range", "{@*name} lies between 0 and {most}, not {value}", **given))
        if self.style == "notebook" and self.colorbar:
            raise UsageError.coded(
                "render.no-colorbar", "the style 'notebook' has no colour scale to draw", "leave out {@colorbar}"
            )
        _colours(str(self.cmap))  # what is no text is no name

    @classmethod
    def of(cls, **options: Unpack[StyleOptions]) -> "Style":
        """Make a style from keywords.

        Raises:
            UnknownNameError: a keyword that is no drawing option, with its nearest spelling.
            UsageError: an option that the style `notebook` or `grey` does not follow.
        """
        names = [*StyleOptions.__annotations__]
        for name in options:
            if name not in names:
                raise UnknownNameError(msg("render.drawing-option", "drawing option"), name, names)
        chosen = cls(**options)
        plain = {f.name: f.default for f in fields(cls)}
        fixed = [name for name in ("opacity", "smooth", "blur", "cmap", "norm") if getattr(chosen, name) != plain[name]]
        if chosen.style == "notebook" and fixed:
            raise UsageError.coded(
                "render.notebook-is-fixed",
                "the style 'notebook' draws as the recipe was published, and takes no {options}",
                "leave it out, or take the style 'grey'",
                options=", ".join("blocks" if name == "smooth" else name for name in fixed),
            )
        if chosen.style != "grey":
            return chosen
        if chosen.cmap not in (plain["cmap"], "gray"):
            raise UsageError(
                msg("render.grey-has-no-colours", "the style 'grey' draws in greys, and takes no cmap"),
                msg("render.grey-has-no-colours.hint", "leave it out, or take the style 'color'"),
            )
        faint = chosen.opacity == plain["opacity"]
        return replace(chosen, cmap="gray", opacity=100 / 255 if faint else chosen.opacity)

    def resolved(self, values: Float[np.ndarray, "..."], recommended: Norm | None = None) -> "Style":
        """Replace `norm="auto"`: by the recommendation, or else by what the signs of the map ask for."""
        if self.norm != "auto":
            return self
        signed = values.min() < 0 < values.max()
        return replace(self, norm=recommended or ("positive" if signed else "minmax"))

    def to_dict(self) -> dict[str, object]:
        """Return the style as a manifest keeps it, the normalisation in words."""
        told = {name: value for name, value in asdict(self).items() if name != "label"}
        told |= {"normalisation": _NORMALISATION.get(self.norm, self.norm)}
        return told | ({"opacity": _NOTEBOOK_ALPHA / 255, "blur": NOTEBOOK_BLUR} if self.style == "notebook" else {})


def limits(values: Float[np.ndarray, "..."], norm: Norm) -> tuple[float, float]:
    """Return the two values of a map that become the coldest and the hottest colour.

    Percentiles are values of the map (the lower of two neighbours), so that on a small grid one sink is clipped, too.
    """
    high = np.percentile(values, _ROBUST[1], method="lower")
    if norm == "positive" and high > 0 and values.min() < values.max():
        return 0.0, float(high)
    robust = norm in ("robust", "positive")
    low, high = np.percentile(values, _ROBUST, method="lower") if robust else (values.min(), values.max())
    return float(low), float(high)


def overlay(
    values: Float[np.ndarray, "gh gw"],
    region: ImageRegion,
    photo: UInt8[np.ndarray, "H W 3"],
    style: Style,
    scale: tuple[float, float] | None = None,
    weights: Float[np.ndarray, "3"] | None = None,
) -> Image.Image:
    """Draw a map over its photo, in the photo's size; what must be said of it (`map_remarks`) stands in the picture.

    Args:
        values: relevance of each patch.
        region: the part of the photo that the patches cover; what lies outside is hatched and labelled as not seen.
        photo: RGB pixels.
        style: how to draw.
        scale: the values of the coldest and the hottest colour, where several maps share them; by default this map's.
        weights: of the colours in the greys below the map, where several photos share them; by default this photo's.
    """
    if style.style == "notebook":
        return notebook_steps(values, region, photo)[-1]
    style = style.resolved(values)
    placed = region.upsample(values, style.smooth, style.blur)
    words = map_labels(values) if scale is None else []
    scale = scale or limits(values, style.norm)
    greys = greys_of(photo, weights) if style.style == "color" else None
    return overlay_placed(placed, hatch_unseen(photo, region), style, scale, words, greys)


def overlay_placed(
    placed: Float[np.ndarray, "H W"],
    photo: UInt8[np.ndarray, "H W 3"],
    style: Style,
    scale: tuple[float, float],
    words: Sequence[str] = (),
    greys: Callable[[int, int], Float[np.ndarray, "h W 3"]] | None = None,
) -> Image.Image:
    """Draw a map that lies on its photo already, NaN where it does not; as `overlay` draws one of patches.

    The `words` stand along the map's lower edge, where there is room. `greys` draws the photo below the map where the
    style is `color`, by default `greys_of(photo)`.
    """
    low, high = scale
    pixels = photo.copy()
    colours = _colours(style.cmap).astype(np.float32)
    if style.style != "color":
        greys = None
    elif greys is None:
        greys = greys_of(photo)
    for top in range(0, len(pixels), _STRIP):
        strip = placed[top : top + _STRIP]
        covered = ~np.isnan(strip)
        level = _levels(strip[covered], low, high)
        part = pixels[top : top + _STRIP]
        below = (greys(top, top + _STRIP) if greys else part.astype(np.float32))[covered]
        alpha = np.full((len(level), 1), style.opacity, np.float32)
        if greys:
            alpha *= level[:, None] / np.float32(510) + np.float32(0.5)
        part[covered] = (below + alpha * (colours[level] - below) + 0.5).astype(np.uint8)
    if words:
        down, across = (np.flatnonzero((~np.isnan(placed)).any(axis)) for axis in (1, 0))
        seen = pixels[down[0] : down[-1] + 1, across[0] : across[-1] + 1]
        draw_label(seen, "; ".join(words), max(pixels.shape), below=True)
    image = Image.fromarray(pixels)
    return with_bar(image, style, low, high) if style.colorbar else image


def heat(values: Float[np.ndarray, "gh gw"], region: ImageRegion, style: Style) -> Image.Image:
    """Draw a map alone in the photo's size, RGBA, transparent outside the region."""
    style = style.resolved(values)
    low, high = limits(values, style.norm)
    placed = region.upsample(values, style.smooth, style.blur)
    covered = ~np.isnan(placed)
    pixels = np.zeros((*placed.shape, 4), np.uint8)
    pixels[covered, :3] = _colours(style.cmap)[_levels(placed[covered], low, high)]
    pixels[covered, 3] = 255
    image = Image.fromarray(pixels)
    return with_bar(image, style, low, high) if style.colorbar else image


def grid(values: Float[np.ndarray, "gh gw"], style: Style, scale: tuple[float, float] | None = None) -> Image.Image:
    """Draw a map on its own patch grid, each patch a square, without interpolation; `scale` as for `overlay`."""
    style = style.resolved(values)
    return _enlarged(_colours(style.cmap)[_levels(values, *(scale or limits(values, style.norm)))])


def _enlarged(pixels: UInt8[np.ndarray, "gh gw ..."]) -> Image.Image:
    side = max(1, 512 // max(pixels.shape[:2]))
    return Image.fromarray(pixels.repeat(side, 0).repeat(side, 1))


def notebook_steps(
    values: Float[np.ndarray, "gh gw"], region: ImageRegion, photo: UInt8[np.ndarray, "H W 3"]
) -> list[Image.Image]:
    """Draw as the published recipe does, on the part of the photo that the model saw.

    Returns:
        The map in 8 bits on its grid, each patch a square; resized to the input; blurred; and laid over the photo.
    """
    height, width = region.input
    scaled = (values - values.min()) / max(float(values.max() - values.min()), np.finfo(np.float32).tiny)
    small = Image.fromarray((scaled * 255).astype(np.uint8))
    resized = small.resize((width, height), Image.Resampling.BICUBIC)
    grey = resized.filter(ImageFilter.GaussianBlur(radius=NOTEBOOK_BLUR))
    layer = Image.merge("RGBA", (grey, grey, grey, Image.new("L", grey.size, _NOTEBOOK_ALPHA)))
    left, top, right, bottom = region.window()
    image = Image.fromarray(photo).convert("RGBA")
    low_x, low_y, high_x, high_y = region.cells or (left, top, right, bottom)
    part = [  # of the layer, which is as large as the cells
        min(max((end - low) / (high - low), 0), 1) * length
        for end, low, high, length in (
            (left, low_x, high_x, width),
            (top, low_y, high_y, height),
            (right, low_x, high_x, width),
            (bottom, low_y, high_y, height),
        )
    ]
    size = (right - left, bottom - top)
    image.alpha_composite(
        layer.resize(size, Image.Resampling.BICUBIC, (part[0], part[1], part[2], part[3])), (left, top)
    )
    return [_enlarged(np.asarray(small)), resized, grey, image.convert("RGB")]


def _levels(values: Float[np.ndarray, "..."], low: float, high: float) -> UInt8[np.ndarray, "..."]:
    """Scale values to 0..255, linear between the limits; a flat map is all 0."""
    span = high - low
    return (np.clip((values - low) / span if span > 0 else values * 0, 0, 1) * 255 + 0.5).astype(np.uint8)


@lru_cache(maxsize=32)
def _colours(name: str) -> UInt8[np.ndarray, "256 3"]:
    import matplotlib as mpl

    if name not in mpl.colormaps:
        raise UnknownNameError(
            msg("render.colour-map", "colour map"), name, [n for n in mpl.colormaps if not n.endswith("_r")]
        )
    return (np.asarray(mpl.colormaps[name](np.linspace(0, 1, 256)))[:, :3] * 255 + 0.5).astype(np.uint8)


def _upright(words: str, text: int, height: int) -> Image.Image | None:
    """Draw words from below to above, no longer than the height; None where there are none to draw, or no room."""
    font = ImageFont.load_default(size=text)
    while text > 7 and font.getlength(words) > height:
        text -= 1
        font = ImageFont.load_default(size=text)
    if not words or font.getlength(words) > height:
        return None
    line = Image.new("RGB", (int(font.getlength(words)) + 1, round(text * 1.3)), "white")
    ImageDraw.Draw(line).text((0, line.height // 2), words, fill="black", font=font, anchor="lm")
    return line.transpose(Image.Transpose.ROTATE_90)


def with_bar(image: Image.Image, style: Style, low: float, high: float) -> Image.Image:
    """Draw the colour scale at the right of an image, the map's values beside it and what they are along it."""
    text = min(max(image.height // 28, 9), 60)
    font = ImageFont.load_default(size=text)
    ticks = [(part, f"{low + part * (high - low):.3g}") for part in (1.0, 0.5, 0.0)]
    wide = max(int(font.getlength(label)) for _, label in ticks)
    bar, gap = max(image.height // 24, 8), max(text // 2, 4)
    label = _upright(style.label, text, image.height)
    size = (image.width + bar + wide + 3 * gap + (label.width + gap if label else 0), image.height)
    out = Image.new(image.mode, size, "white")
    out.paste(image, (0, 0))
    length = max(image.height - text, 2)
    ramp = _colours(style.cmap)[np.linspace(255, 0, length).round().astype(int)]
    out.paste(Image.fromarray(ramp[:, None].repeat(bar, 1)), (image.width + gap, text // 2))
    draw = ImageDraw.Draw(out)
    for part, number in ticks:
        y = text // 2 + round((1 - part) * (length - 1))
        draw.text((image.width + 2 * gap + bar, y), number, fill="black", font=font, anchor="lm")
    if label:
        out.paste(label, (size[0] - label.width - gap, (image.height - label.height) // 2))
    return out
