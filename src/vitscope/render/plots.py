"""Plots of numbers: by depth with one dot per head, and curves over those of random maps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from PIL import Image

from vitscope._messages import msg
from vitscope.errors import UsageError
from vitscope.render.sheets import figure_image, new_figure, new_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIDE, _TALL = 4.4, 3.5  # inches
_SPREAD = 0.28  # how far the heads of a layer stand apart, in layers


@dataclass(frozen=True, eq=False)
class Panel:
    """One plot.

    Attributes:
        title: above it; unit: what its numbers are.
        values: for each layer one number per head; layers may differ in heads.
        limits: for each layer the largest number possible, drawn as a dashed line; limit: what that means.
        top: the largest number possible in any layer: the axis never shows more.
    """

    title: str
    unit: str
    values: Sequence[Float[np.ndarray, " _"]]
    limits: Sequence[float] | None = None
    limit: str = ""
    top: float | None = None


@dataclass(frozen=True, eq=False)
class Curve:
    """One curve beside those of random maps.

    Attributes:
        title: above it; along: what the horizontal axis is.
        x, y: the points.
        around: mean, low and high of the random maps at each x.
    """

    title: str
    along: str
    x: Sequence[float]
    y: Sequence[float]
    around: Float[np.ndarray, "n 3"]


def curves(panels: Sequence[Curve], unit: str, title: str = "") -> Image.Image:
    """Draw curves side by side on one vertical scale; raise a UsageError for none."""
    if not panels:
        raise UsageError.coded(
            "render.no-curves", "there is nothing to draw: no curves", "measure deletion or insertion"
        )
    figure = new_figure((len(panels) * _SIDE, _TALL + (0.3 if title else 0)))
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False, sharey=True).flat, panels, strict=True):
        mean, low, high = panel.around.T
        axes.fill_between(panel.x, low, high, color="0.87", linewidth=0, label="range of random maps")
        axes.plot(panel.x, mean, color="0.45", linewidth=1, label="random maps, mean")
        axes.plot(panel.x, panel.y, color="tab:red", linewidth=1.6, marker="o", markersize=2.5, label="this map")
        axes.set_title(panel.title, fontsize=9, parse_math=False)
        axes.set_xlabel(f"share of {panel.along}", fontsize=9)
        axes.set_xlim(0, 1)
        _plain(axes)
        axes.legend(fontsize=7, frameon=False)
    figure.axes[0].set_ylabel(unit, fontsize=9, parse_math=False)
    return figure_image(figure, title)


def by_depth(panels: Sequence[Panel], title: str = "") -> Image.Image:
    """Draw panels side by side, the layer on the horizontal axis; raise a UsageError for none."""
    if not panels or not all(panel.values for panel in panels):
        raise UsageError(msg("render.no-layers", "there is nothing to draw: no panels, or a panel without layers"))
    columns = min(len(panels), 2)
    lines = math.ceil(len(panels) / columns)
    figure = new_figure((columns * _SIDE, lines * _TALL + (0.3 if title else 0)))
    for axes, panel in zip(new_panels(figure, lines, columns, len(panels)), panels, strict=True):
        _draw(axes, panel)
    return figure_image(figure, title)


def _draw(axes: "Axes", panel: Panel) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    depth = len(panel.values)
    for layer, values in enumerate(panel.values):
        shift = np.linspace(-_SPREAD, _SPREAD, len(values)) if len(values) > 1 else np.zeros(1)
        colours = colormaps["viridis"](np.linspace(0.1, 0.85, len(values)))
        axes.scatter(layer + shift, values, s=20, c=colours, edgecolors="white", linewidths=0.4, zorder=3)
    if any(len(values) > 1 for values in panel.values):
        means = [float(np.mean(values)) for values in panel.values]
        axes.plot(range(depth), means, color="0.45", linewidth=1, zorder=2, label="mean over heads")
    if panel.limits is not None:
        axes.plot(range(depth), panel.limits, color="tab:red", linestyle="--", linewidth=1, label=panel.limit)
    numbers = np.concatenate(list(panel.values))
    if numbers.min() < 0:
        axes.axhline(0, color="0.7", linewidth=0.8, zorder=1)
    else:
        axes.set_ylim(bottom=0)
    if panel.top is not None:
        axes.set_ylim(top=min(panel.top, float(numbers.max()) * 1.15) or panel.top)
    axes.set_xlim(-0.6, depth - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(panel.title, fontsize=10, parse_math=False)
    axes.set_xlabel("layer", fontsize=9)
    axes.set_ylabel(panel.unit, fontsize=9, parse_math=False)
    _plain(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False)


def _plain(axes: "Axes") -> None:
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="0.92", zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
