"""Where patches lie on the input: the pixels that a few tokens depend on tell size, stride and start of all."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitscope._messages import Message, msg
from vitscope.tracing.token_grid import FinestTokens

log = logging.getLogger(__name__)

_OFF = 0.51  # pixels that a patch may lie off its place
_MOST_ELSEWHERE = 0.51  # of the rows of pixels that a patch at a mirrored border reads may lie beside its cell
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Side:
    """The cells along one side of the input, in pixels.

    Attributes:
        cells: their ends.
        seen: the ends of what is seen.
        elsewhere: see `PatchCells`.
        outside: whether some cells that see a part of the input lie beside it.
    """

    cells: tuple[float, float]
    seen: tuple[float, float]
    elsewhere: float = 0.0
    outside: bool = False

    @property
    def misplaced(self) -> bool:
        """Whether some patch that lies on the input shows mostly other pixels."""
        return self.elsewhere > _MOST_ELSEWHERE and not self.outside


@dataclass(frozen=True)
class PatchCells:
    """Where the patches lie on the input, in pixels.

    Attributes:
        cells: the box that the patches' cells tile, `(left, top, right, bottom)`; None for the whole input.
        seen: the box that any patch sees; None for the whole input.
        elsewhere: the largest share of what a patch at the border reads that lies beside its cell, as where the model
            mirrors the border.
    """

    cells: Box | None = None
    seen: Box | None = None
    elsewhere: float = 0.0

    @classmethod
    def of(cls, down: Side, across: Side, size: tuple[int, int]) -> "PatchCells":
        """Return the cells that lie so along both sides of an input of `(Hi, Wi)` pixels."""
        elsewhere = max(down.elsewhere, across.elsewhere)
        cells: Box = across.cells[0], down.cells[0], across.cells[1], down.cells[1]
        whole: Box = 0.0, 0.0, float(size[1]), float(size[0])
        if cells == whole:
            return cls(elsewhere=elsewhere)
        log.debug("the patches of %s x %s pixels tile %s", *size, cells)
        return cls(cells, (across.seen[0], down.seen[0], across.seen[1], down.seen[1]), elsewhere)


def find_cells(finest: FinestTokens, tensors: list[tuple[Tensor, int]], start: Tensor) -> PatchCells:
    """Find the box that the patches' cells tile, and the box that any of them sees, in pixels of the input.

    Args:
        finest: the tokens that maps are drawn on.
        tensors: what holds them in the averaged network, each with its channel axis.
        start: the input of the network, four images.

    Returns:
        The boxes; none where the patches tile the whole input, or lie unevenly.

    Cost: at most five backward passes through the patch embedding.
    """
    if not finest.merges:
        return PatchCells()
    (rows, columns), size = finest.grid, start.shape[2:]
    places = dict.fromkeys(zip(_probed(rows), _probed(columns), strict=True))
    found = {place: _read(finest, tensors, start, place) for place in places}
    known = [(place, read) for place, read in found.items() if read is not None]
    if len(known) < len(found):
        return PatchCells()
    down, across = (
        fit_side({place[axis]: read[axis] for place, read in known}, count)
        for axis, count in enumerate((rows, columns))
    )
    if down is None or across is None or any(side.outside or side.misplaced for side in (down, across)):
        # resized before the patches are cut: the edges of what they see are spread
        log.debug("patches of %s x %s pixels lie unevenly", *size)
        cells = _by_centres(finest, tensors)
        if cells is None or np.abs(np.array(cells) - (0, 0, size[1], size[0])).max() <= _OFF:
            return PatchCells()
        ends = [np.flatnonzero(np.any([read[axis] for _, read in known], 0))[[0, -1]] for axis in range(2)]
        (first, last), (begin, end) = ends
        return PatchCells(cells, (float(begin), float(first), float(end + 1), float(last + 1)))
    return PatchCells.of(down, across, (size[0], size[1]))


def border_note(share: float) -> Message:
    """Say how much of what a patch at the border reads lies beside its cell."""
    return msg(
        "tracing.note-border",
        "the model repeats or mirrors the border of the image: of the pixels that a patch at the border reads, up to "
        "{share} lie beside its place on the map",
        share=f"{share:.0%}",
    )


def _by_centres(finest: FinestTokens, tensors: list[tuple[Tensor, int]]) -> Box | None:
    """Return the box that evenly spaced centres of tokens tile; None where they are not, or there are too few."""
    if len(tensors) != 1 or min(finest.grid) < 2:
        return None
    values, axis = tensors[0]
    mass, *places = values.as_subclass(Tensor).detach().mean(axis).reshape(4, -1)[:3].double()
    columns = finest.grid[1]
    ranks = finest.order % columns, finest.order.div(columns, rounding_mode="floor")
    ends: list[tuple[float, float]] = []
    for place, rank, count in zip(places, ranks, finest.grid[::-1], strict=True):
        centres = torch.stack([(place / mass)[rank == n].mean() for n in range(count)]).cpu().numpy()
        stride, start = np.polyfit(np.arange(count) + 0.5, centres, 1)
        if np.abs(start + stride * (np.arange(count) + 0.5) - centres).max() > _OFF:
            return None
        ends.append((float(start), float(start + stride * count)))
    (left, right), (top, bottom) = ends
    return left, top, right, bottom


def leaves_out(cells: Box, seen: Box, grid: tuple[int, int], size: tuple[int, int]) -> bool:
    """Return whether a border as wide as a whole cell is seen by no patch."""
    across, down = (cells[2] - cells[0]) / grid[1], (cells[3] - cells[1]) / grid[0]
    return max(seen[0], size[1] - seen[2]) >= across or max(seen[1], size[0] - seen[3]) >= down


def _probed(count: int) -> list[int]:
    """Return which patches along one side are looked at: the outer ones and two in the middle."""
    return [min(max(n, 0), count - 1) for n in (0, 1, count // 2, count - 2, count - 1)]


def _read(
    finest: FinestTokens, tensors: list[tuple[Tensor, int]], start: Tensor, place: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the rows and the columns of pixels that one token depends on; None where it depends on none."""
    token = int((finest.order == place[0] * finest.grid[1] + place[1]).nonzero()[0])
    values = [one.as_subclass(Tensor).mean(axis).reshape(len(start), -1)[0, token] for one, axis in tensors]
    total, like = torch.stack(values).sum(), [start]
    grads: Sequence[Tensor | None] = torch.autograd.grad(total, like, retain_graph=True, allow_unused=True)
    return None if grads[0] is None else rows_and_columns(grads[0][0].abs().sum(0))


def rows_and_columns(weights: Tensor) -> tuple[np.ndarray, np.ndarray] | None:
    """Return which rows and columns of pixels `(Hi, Wi)` have any weight; None where none has."""
    read = weights > 0
    down, across = (read.any(1 - axis).cpu().numpy() for axis in range(2))
    return (down, across) if down.any() else None


def fit_side(read: Mapping[int, np.ndarray], count: int) -> Side | None:
    """Find evenly spaced cells along one side from the pixels that some of its patches read.

    Patches that read as many pixels as any, in one piece, say the spacing. A patch at the border may read fewer, and
    others in their place, as where the model mirrors the border: most of what it reads must still be its own cell's.

    Args:
        read: for some rows (or columns) of patches, the rows (or columns) of pixels that they read.
        count: of all rows of patches.

    Returns:
        The cells; None where the patches lie unevenly.
    """
    length = len(next(iter(read.values())))
    places = {n: np.flatnonzero(mask) for n, mask in read.items()}
    ends = {n: (int(place[0]), int(place[-1]) + 1) for n, place in places.items()}
    whole = {n: end - begin for n, (begin, end) in ends.items() if end - begin == len(places[n])}
    width = max(whole.values(), default=length)
    begins = {n: ends[n][0] for n, wide in whole.items() if wide == width}
    if len(begins) < 2:
        begins = {n: begin if begin > 0 or end - begin == width else end - width for n, (begin, end) in ends.items()}
    start, stride = _spacing(begins) if len(begins) > 1 else (begins[min(begins)] - min(begins) * width, width)
    if not stride:  # as where the image is resized before its patches are cut: what they read is spread
        return None
    elsewhere, outside = 0.0, False
    for n, place in places.items():
        low = start + n * stride
        if begins.get(n) == low:
            continue
        own = set(range(max(low, 0), min(low + width, length)))
        if not own:
            outside = True
        elif len(own) == width or not own <= {*place.tolist()}:
            return None
        elsewhere = max(elsewhere, 1 - len(own) / len(place))
    seen = min(begin for begin, _ in ends.values()), max(end for _, end in ends.values())
    if elsewhere:  # what patches read beside their cells is not where they are seen
        seen = max(seen[0], start), min(seen[1], start + (count - 1) * stride + width)
    if count == 1 and seen == (0, length):
        return Side((0.0, float(length)), seen)
    first = start + (width - stride) / 2
    return Side((first, first + count * stride), (float(seen[0]), float(seen[1])), elsewhere, outside)


def _spacing(begins: Mapping[int, int]) -> tuple[int, int]:
    """Return start and stride, in whole pixels, of the line that most of these lie on; a stride of 0 for none."""
    best = (1, 0, 0)
    for n, begin in begins.items():
        for m, other in begins.items():
            stride, rest = divmod(other - begin, m - n) if m > n else (0, 1)
            if stride > 0 and not rest:
                start = begin - n * stride
                near = sum(one == start + k * stride for k, one in begins.items())
                best = max(best, (near, start, stride))
    return best[1], best[2]
