"""Contact sheets: many images, each with its title and a line of numbers."""

import math
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLE_LETTERS = 11  # an inch
_SETTLING = 2  # layouts before the one of drawing: an image of fixed shape shrinks its axes, and its captions move


@dataclass(frozen=True)
class Cell:
    """One image of a sheet: a Pillow image or an array that matplotlib colours, its title and a line under it."""

    picture: Image.Image | np.ndarray
    title: str
    below: str = ""


def sheet(cells: Sequence[Cell], title: str, *, columns: int | None = None, cmap: str = "inferno") -> Image.Image:
    """Lay the cells out row by row; by default as square as it gets (16 cells are 4 x 4).

    Arrays are coloured from 0 to their own largest value, by the square root, so that faint entries stay visible.
    """
    columns = columns or math.ceil(math.sqrt(len(cells)))
    rows = math.ceil(len(cells) / columns)
    first = cells[0].picture
    height, width = first.shape[:2] if isinstance(first, np.ndarray) else first.size[::-1]
    side = 3.4 if columns < 4 else 2.6
    tall = side * min(max(height / width, 0.3), 3.0)
    in_rows = [cells[row * columns : (row + 1) * columns] for row in range(rows)]
    under = sum(max(_height_below(cell) for cell in row) for row in in_rows)
    wide = columns * (side + 0.15) + 0.15
    lines = textwrap.wrap(title, int(wide * _TITLE_LETTERS))
    figure = new_figure((wide, rows * (tall + 0.36) + under + 0.15 + 0.2 * len(lines)))
    for axes, cell in zip(new_panels(figure, rows, columns, len(cells)), cells, strict=True):
        _draw(axes, cell, cmap, side)
    return figure_image(figure, "\n".join(lines), w_pad=0.03, h_pad=0.08)


def _height_below(cell: Cell) -> float:
    """Return the inches that the lines below a cell take."""
    return 0.05 + 0.13 * (1 + cell.below.count("\n")) if cell.below else 0.0


def new_figure(size: tuple[float, float]) -> "Figure":
    """Make an empty figure of this size in inches, outside matplotlib's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=130)
    FigureCanvasAgg(figure)
    return figure


def new_panels(figure: "Figure", rows: int, columns: int, count: int) -> "list[Axes]":
    """Divide a figure into rows and columns, of which the first `count` panels are shown."""
    panels: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return panels[:count]


def _draw(axes: "Axes", cell: Cell, cmap: str, inches: float) -> None:
    from matplotlib.colors import PowerNorm

    if isinstance(cell.picture, np.ndarray):
        highest = float(cell.picture.max()) or 1.0
        axes.imshow(cell.picture, cmap=cmap, norm=PowerNorm(0.5, 0, highest), interpolation="antialiased")
    else:
        small = cell.picture.copy()
        small.thumbnail((int(inches * 300), int(inches * 300)))
        axes.imshow(np.asarray(small.convert("RGBA")))  # of one band matplotlib would make colours
    axes.set_title(cell.title, fontsize=9, pad=3, parse_math=False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if cell.below:
        axes.set_xlabel(cell.below, fontsize=7.5, labelpad=3, parse_math=False)


def figure_image(figure: "Figure", title: str = "", **padding: float) -> Image.Image:
    """Render a figure to an image, its parts placed so that none covers another; `padding` is matplotlib's."""
    if title:
        figure.suptitle(title, fontsize=11, parse_math=False)
    figure.set_layout_engine("constrained", **padding)
    canvas: Any = figure.canvas
    engine: Any = figure.get_layout_engine()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # names in scripts that the font lacks show as boxes
        for _ in range(_SETTLING):
            engine.execute(figure)
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
