"""Two models on one image, in `vitscope compare`: differences of their maps, and their distance layer by layer."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vitscope._cached import cached_property
from vitscope._messages import msg
from vitscope.errors import UnsupportedError

if TYPE_CHECKING:
    from PIL import Image

    from vitscope.explanation import Explanation
    from vitscope.images import Picture
    from vitscope.metrics.layer_distance import LayerDistances
    from vitscope.render.raster import StyleOptions
    from vitscope.render.sheets import Cell
    from vitscope.scope import Scope

_WIDE = 40  # characters in a line below a map


@dataclass(frozen=True)
class ModelPair:
    """What two models' maps of one image have in common.

    Attributes:
        one: the first model's maps by method, and `other` the second's.
        first: the first model, and `second` the other.
        picture: the image.
        size: the input size of both.
    """

    one: Mapping[str, "Explanation"]
    other: Mapping[str, "Explanation"]
    first: "Scope"
    second: "Scope"
    picture: "Picture"
    size: int | None

    @cached_property
    def _distances(self) -> "LayerDistances | str":
        """The distances, or the reason why there are none."""
        try:
            return self.first.compare_layers(self.second, self.picture, size=self.size)
        except UnsupportedError as error:
            return error.spoken("cli")[0]

    def cells(self, methods: Sequence[str], style: "StyleOptions") -> "list[Cell]":
        """Return a row of the sheet: the distances by layer, then the difference of each method's maps."""
        from vitscope.render.sheets import Cell

        found = self._distances
        if isinstance(found, str):
            start = Cell(empty_cell(self.picture), "distance by layer", textwrap.fill(found, _WIDE))
        else:
            start = Cell(_plot(found, self.picture.size), "1 - linear CKA by layer")
        return [start, *(self._difference(name, style) for name in methods)]

    def _difference(self, name: str, style: "StyleOptions") -> "Cell":
        from vitscope.engine.two_models import same_patches
        from vitscope.render.sheets import Cell

        title = f"difference: {name}"
        if name not in self.one or name not in self.other:
            return Cell(empty_cell(self.picture), title, "one of the models has no such map")
        one, other = self.one[name], self.other[name]
        if not same_patches(one.map.shape[:2], one.region, other.map.shape[:2], other.region):
            why = msg("cli.patches-differ", "the patches do not lie on the same places")
            return Cell(empty_cell(self.picture), title, why)
        difference = _share(other.map) - _share(one.map)
        drawn = one.region.upsample(difference.astype(np.float32), True)
        return Cell(_signed(drawn, self.picture), title, "red: more in the second, blue: in the first")

    def document(self) -> dict[str, Any]:
        """Return the distances for JSON."""
        found = self._distances
        told = {"layers": [], "why": found} if isinstance(found, str) else {**found.to_dict(), "why": ""}
        return {"image": self.picture.name, **told}

    def summary(self) -> str:
        """Return a line for the terminal."""
        found = self._distances
        if isinstance(found, str):
            return f"{self.picture.name}: {found}"
        cka = ", ".join(f"{layer.cka:.2g}" for layer in found.layers)
        return f"{self.picture.name}: 1 - linear CKA of patch tokens, layer by layer: {cka}"


def empty_cell(picture: "Picture") -> "Image.Image":
    """Return a grey rectangle in the place of a map that there is not, as large as the photo."""
    from PIL import Image

    return Image.new("L", picture.size, 230)


def _share(values: np.ndarray) -> np.ndarray:
    """Return the map with its absolute values summing to one."""
    total = np.abs(values).sum()
    return values / total if total else values


def _signed(values: np.ndarray, picture: "Picture") -> "Image.Image":
    """Return a map over the greyed photo, red above zero and blue below, on a scale of its own."""
    from matplotlib import colormaps
    from PIL import Image

    highest = float(np.nanmax(np.abs(values))) or 1.0
    level = np.nan_to_num(values / highest)
    colours = (colormaps["RdBu_r"](level / 2 + 0.5)[..., :3] * 255).astype(np.uint8)
    heat = Image.fromarray(colours).resize(picture.size)
    mask = Image.fromarray((255 * (0.3 + 0.6 * np.abs(level))).astype(np.uint8)).resize(picture.size)
    return Image.composite(heat, picture.pil().convert("L").convert("RGB"), mask)


def _plot(found: "LayerDistances", size: tuple[int, int]) -> "Image.Image":
    """Return a plot as large as the photo's cell: both distances by layer."""
    from vitscope.render.sheets import figure_image, new_figure

    width, height = size
    figure = new_figure((2.6, 2.6 * min(max(height / width, 0.3), 3.0)))
    axes = figure.subplots()
    axes.plot([one.cka for one in found.layers], marker="o", markersize=3, linewidth=1.2)
    axes.set_ylim(0, 1)
    axes.set_xlabel("layer", fontsize=7)
    axes.tick_params(labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure_image(figure)
