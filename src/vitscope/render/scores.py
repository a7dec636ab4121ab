"""Plots that compare methods: numbers with their intervals, and accuracy against cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from vitscope._messages import msg
from vitscope.errors import UsageError
from vitscope.render.sheets import figure_image, new_figure, new_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PLAIN, _MARKED, _GREY = "#31688e", "#b5367a", "0.6"


@dataclass(frozen=True)
class Dot:
    """One number of one method.

    Attributes:
        label: the method.
        value: the number; low, high: its interval.
        cost: what it costs, with its interval, where that is drawn.
        prior: a baseline, drawn grey.
        marked: drawn in another colour.
    """

    label: str
    value: float
    low: float
    high: float
    cost: float = 0.0
    cost_low: float = 0.0
    cost_high: float = 0.0
    prior: bool = False
    marked: bool = False

    @property
    def colour(self) -> str:
        """Grey for baselines."""
        return _GREY if self.prior else _MARKED if self.marked else _PLAIN


def dots(panels: Sequence[tuple[str, Sequence[Dot]]], columns: int = 3) -> Image.Image:
    """Draw one panel for each metric, with one line for each method and its interval.

    Raises:
        UsageError: nothing to draw.
    """
    if not panels or not all(found for _, found in panels):
        raise UsageError(msg("render.no-methods", "there is nothing to draw: no panels, or a panel without methods"))
    columns = min(columns, len(panels))
    lines, most = math.ceil(len(panels) / columns), max(len(found) for _, found in panels)
    figure = new_figure((1.3 + 3.1 * columns, lines * (0.75 + 0.24 * most)))
    for axes, (title, found) in zip(new_panels(figure, lines, columns, len(panels)), panels, strict=True):
        _panel(axes, title, found)
    return figure_image(figure)


def scatter(found: Sequence[Dot], across: str, up: str) -> Image.Image:
    """Draw value against cost on a logarithmic axis; baselines, which cost nothing, as dashed lines.

    Raises:
        UsageError: no method with a cost.
    """
    costly = [dot for dot in found if dot.cost > 0]
    if not costly:
        raise UsageError(msg("render.no-cost", "there is nothing to draw: no method has a cost"))
    figure = new_figure((7.2, 4.6))
    axes = figure.subplots()
    for dot in costly:
        axes.errorbar(
            dot.cost,
            dot.value,
            xerr=[[max(dot.cost - dot.cost_low, 0)], [max(dot.cost_high - dot.cost, 0)]],
            yerr=[[max(dot.value - dot.low, 0)], [max(dot.high - dot.value, 0)]],
            fmt="o",
            color=dot.colour,
            markersize=6,
            elinewidth=0.9,
            alpha=0.9,
        )
    for dot in found:
        if dot.prior:
            axes.axhline(dot.value, color=_GREY, linewidth=0.8, linestyle="--", zorder=0)
            axes.annotate(
                dot.label, (1, dot.value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8,
                color="0.45", parse_math=False,
            )  # fmt: skip
    _labels(axes, costly)
    axes.set_xscale("log")
    ticks = (0.1, 0.2, 0.5, 1, 1.5, 2, 3, 5, 10, 20, 50, 100, 300, 1000)
    low, high = min(d.cost_low or d.cost for d in costly), max(d.cost_high or d.cost for d in costly)
    shown = [t for t in ticks if low / 1.6 <= t <= high * 1.6]
    axes.set_xlim(low / 1.25, high * 1.5)
    axes.set_xticks(shown, [f"{t:g}" for t in shown])
    axes.minorticks_off()
    axes.set_xlabel(across, fontsize=9, parse_math=False)
    axes.set_ylabel(up, fontsize=9, parse_math=False)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.93", zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure_image(figure)


def _labels(axes: "Axes", found: Sequence[Dot]) -> None:
    """Write the names beside their dots; where names would overlap, move the lower one down."""
    values, costs = [dot.value for dot in found], [math.log(dot.cost) for dot in found]
    low, high = axes.get_ylim()
    step, near = 0.048 * (high - low), 0.3 * (max(costs) - min(costs)) or 1.0
    placed: list[tuple[float, float]] = []
    for dot in sorted(found, key=lambda d: -d.value):
        across, height = math.log(dot.cost), dot.value
        for other, taken in placed:
            if abs(across - other) < near and abs(height - taken) < step:
                height = taken - step
        placed.append((across, height))
        axes.annotate(
            dot.label, (dot.cost, height), xytext=(7, 0), textcoords="offset points", fontsize=8, va="center",
            color=dot.colour, parse_math=False,
        )  # fmt: skip
    axes.set_ylim(min(low, *values), high)


def _panel(axes: "Axes", title: str, found: Sequence[Dot]) -> None:
    for place, dot in enumerate(found):
        axes.plot([dot.low, dot.high], [place, place], color=dot.colour, linewidth=1.6, solid_capstyle="round")
        axes.plot(dot.value, place, "o", color=dot.colour, markersize=5)
    axes.set_yticks(range(len(found)))
    axes.set_yticklabels([dot.label for dot in found], fontsize=8, parse_math=False)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlim(left=min(0.0, *(dot.low for dot in found)), right=max(1.0, *(dot.high for dot in found)) + 0.02)
    axes.set_title(title, fontsize=9.5, parse_math=False)
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
