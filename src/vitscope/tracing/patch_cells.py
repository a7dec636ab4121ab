"""Where patches lie on the input: the pixels that a few tokens depend on tell size, stride and start of all."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vitscope.tracing.token_grid import FinestTokens

log = logging.getLogger(__name__)

_OFF = 0.51  # pixels that a patch may lie off its place
_Box = tuple[float, float, float, float]
Found = tuple[_Box | None, _Box | None]


def find_cells(
    finest: FinestTokens, tensors: list[tuple[Tensor, int]], start: Tensor
) -> tuple[_Box | None, _Box | None]:
    """Find the box that the patches' cells tile, and the box that any of them sees, in pixels of the input.

    Args:
        finest: the tokens that maps are drawn on.
        tensors: what holds them in the averaged network, each with its channel axis.
        start: the input of the network, four images.

    Returns:
        `(left, top, right, bottom)` twice; None where the patches tile the whole input, or lie unevenly.

    Cost: at most five backward passes through the patch embedding.
    """
    if not finest.merges:
        return None, None
    (rows, columns), size = finest.grid, start.shape[2:]
    places = dict.fromkeys(zip(_probed(rows), _probed(columns), strict=True))
    found = {place: _extents(finest, tensors, start, place) for place in places}
    if any(extent is None for extent in found.values()):
        return None, None
    known = [(place, extent) for place, extent in found.items() if extent is not None]
    down, across = (
        _side({place[axis]: extent[axis] for place, extent in known}, count, size[axis])
        for axis, count in enumerate((rows, columns))
    )
    if down is None or across is None:  # resized before the patches are cut: the edges of what they see are spread
        log.debug("patches of %s x %s pixels lie unevenly: %s", *size, found)
        cells = _by_centres(finest, tensors)
        if cells is None or np.abs(np.array(cells) - (0, 0, size[1], size[0])).max() <= _OFF:
            return None, None
        ends = np.array([extent for _, extent in known], float)
        (first, begin), (last, end) = ends[..., 0].min(0).tolist(), ends[..., 1].max(0).tolist()
        return cells, (begin, first, end, last)
    ((top, bottom), (first, last)), ((left, right), (begin, end)) = down, across
    if (left, top, right, bottom) == (0, 0, size[1], size[0]):
        return None, None
    log.debug("the patches of %s x %s pixels tile %s", *size, (left, top, right, bottom))
    return (left, top, right, bottom), (begin, first, end, last)


def _by_centres(finest: FinestTokens, tensors: list[tuple[Tensor, int]]) -> _Box | None:
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


def leaves_out(cells: _Box, seen: _Box, grid: tuple[int, int], size: tuple[int, int]) -> bool:
    """Return whether a border as wide as a whole cell is seen by no patch."""
    across, down = (cells[2] - cells[0]) / grid[1], (cells[3] - cells[1]) / grid[0]
    return max(seen[0], size[1] - seen[2]) >= across or max(seen[1], size[0] - seen[3]) >= down


def _probed(count: int) -> list[int]:
    """Return which patches along one side are looked at: the outer ones and two in the middle."""
    return [min(max(n, 0), count - 1) for n in (0, 1, count // 2, count - 2, count - 1)]


def _extents(
    finest: FinestTokens, tensors: list[tuple[Tensor, int]], start: Tensor, place: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return the first and the last pixel plus one, down and across, that one token depends on."""
    token = int((finest.order == place[0] * finest.grid[1] + place[1]).nonzero()[0])
    values = [one.as_subclass(Tensor).mean(axis).reshape(len(start), -1)[0, token] for one, axis in tensors]
    total, like = torch.stack(values).sum(), [start]
    grads: Sequence[Tensor | None] = torch.autograd.grad(total, like, retain_graph=True, allow_unused=True)
    if grads[0] is None:
        return None
    read = grads[0][0].abs().sum(0) > 0
    down, across = (read.any(1 - axis).nonzero().flatten() for axis in range(2))
    if not len(down):
        return None
    return (int(down[0]), int(down[-1]) + 1), (int(across[0]), int(across[-1]) + 1)


def _side(
    extents: dict[int, tuple[int, int]], count: int, length: int
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Return the ends of the cells and of what is seen along one side; None where the patches lie unevenly."""
    width = max(end - begin for begin, end in extents.values())
    begins = {n: begin if begin > 0 or end - begin == width else end - width for n, (begin, end) in extents.items()}
    first, last = min(begins), max(begins)
    stride = (begins[last] - begins[first]) / (last - first) if last > first else width
    start = begins[first] - first * stride
    if stride <= 0 or any(abs(begin - start - n * stride) > _OFF for n, begin in begins.items()):
        return None
    low = start + (width - stride) / 2
    seen = min(begin for begin, _ in extents.values()), max(end for _, end in extents.values())
    if count == 1 and seen == (0, length):
        return (0.0, float(length)), seen
    return (low, low + count * stride), (float(seen[0]), float(seen[1]))
