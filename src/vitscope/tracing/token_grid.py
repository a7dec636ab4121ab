"""Grids of tokens, recognised by positions: four images that hold 1, x, y and 0 are averaged as tokens are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitscope._messages import msg
from vitscope.errors import LayoutError
from vitscope.tracing.records import TokenMerge

_TOLERANCE = 1e-3  # of the weight that passes through the tokens
_UNEVEN = 0.5  # of a patch
_APART = 0.05  # of a patch, between tokens of two branches that are one


def position_images(size: tuple[int, int], device: torch.device, channels: int = 3) -> Tensor:
    """Return the four images `(4, C, Hi, Wi)` that hold 1, x, y and 0 in pixels."""
    ys, xs = (torch.arange(n, dtype=torch.float32, device="cpu") + 0.5 for n in size)
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    return torch.stack([torch.ones_like(x), x, y, torch.zeros_like(x)])[:, None].expand(4, channels, -1, -1).to(device)


def grid_of(values: Tensor) -> tuple[Tensor, tuple[int, int]] | None:
    """Find the grid that tokens fill.

    Args:
        values: mass, x, y and leaf number of each token `(4, tokens)`.

    Returns:
        The rank of each token on the grid, row by row, and the rows and columns; None where they fill no grid.
    """
    mass, x, y, leaf = values
    if bool((mass < 0.05).any()) or bool((leaf > 0.5).any()):
        return None
    columns, rows = _ranks(x / mass), _ranks(y / mass)
    gw, gh = int(columns.max()) + 1, int(rows.max()) + 1
    order = rows * gw + columns
    if gh * gw != len(order) or len(torch.unique(order)) != len(order):
        return None
    return order, (gh, gw)


def split_prefix(values: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]] | None:
    """Find the places of prefix tokens, leaf by leaf, and of patches, row by row, with the grid of the patches.

    Args:
        values: mass, x, y and leaf number of each token `(4, tokens)`.
    """
    leaf = values[3].round()
    prefix, patches = leaf.nonzero().squeeze(1), (leaf == 0).nonzero().squeeze(1)
    found = grid_of(values[:, patches]) if len(patches) else None
    if found is None:
        return None
    order, grid = found
    placed = torch.empty_like(patches)
    placed[order] = patches
    return prefix[leaf[prefix].argsort(stable=True)], placed, grid


def prefix_weights(grad: Tensor | None, leaf: Tensor, batch: int) -> Tensor:
    """Return the gradient of a leaf as weights `(B, tokens)` of its tokens."""
    return _token_weights(grad, leaf, leaf.ndim - 1, batch)


@dataclass(frozen=True, eq=False)
class FinestTokens:
    """The finest tokens of a model, on which maps are drawn, as tensors of the averaged network.

    Attributes:
        merges: numbers of the merges that make them; everything that the answer reads passes through these. Empty where
            two grids stand side by side: then the pixels stand for the tokens, in cells of the finer grid.
        order: rank of each token on the grid, row by row.
        grid: rows and columns.
    """

    merges: tuple[int, ...]
    order: Tensor
    grid: tuple[int, int]

    def tensors(self, merges: list[TokenMerge], start: Tensor) -> list[tuple[Tensor, int]]:
        """Return the tensors to take gradients of, each with its channel axis."""
        return [(merges[i].values, merges[i].axis) for i in self.merges] or [(start, 1)]

    def weights(self, grads: Sequence[Tensor | None], tensors: list[tuple[Tensor, int]], batch: int) -> Tensor:
        """Return gradients of those tensors as weights `(B, gh*gw)`, row by row."""
        tokens = [_token_weights(g, like, axis, batch) for g, (like, axis) in zip(grads, tensors, strict=True)]
        total = torch.stack(tokens).sum(0)
        if self.merges:
            placed = torch.zeros_like(total)
            placed[..., self.order] = total
            return placed
        gh, gw = self.grid
        height, width = tensors[0][0].shape[2:]
        return total.reshape(batch, gh, height // gh, gw, width // gw).sum((2, 4)).flatten(1)


def check_cover(finest: FinestTokens, merges: list[TokenMerge], size: tuple[int, int]) -> None:
    """Raise a LayoutError where the tokens leave out a border as wide as one of them, or lie off an even grid.

    Args:
        finest: the finest tokens.
        merges: what the averaged network recorded on the images of positions.
        size: height and width of the input.
    """
    if len(finest.merges) != 1:
        return
    merge = merges[finest.merges[0]]
    mass, *places = merge.values.as_subclass(Tensor).detach().mean(merge.axis).reshape(4, -1)[:3]
    rows, columns = finest.grid
    ranks = finest.order % columns, finest.order.div(columns, rounding_mode="floor")
    for place, rank, count, length in zip(places, ranks, (columns, rows), reversed(size), strict=True):
        if count < 2:
            continue
        middles = [float((place / mass)[rank == i].mean()) for i in range(count)]
        even = (np.arange(count) + 0.5) * length / count
        centres = middles[0], middles[-1]
        step = (centres[1] - centres[0]) / (count - 1)
        if max(centres[0], length - centres[1]) <= 1.495 * step:
            off = np.abs(middles - even).max() * count / length
            if off > _UNEVEN or np.diff(middles).min() < _UNEVEN * length / count:
                raise LayoutError.coded(
                    "tracing.uneven",
                    "the patches lie up to {off} of a patch off an even grid, as where the model repeats or "
                    "mirrors the border of the image, or convolutions and pooling reach far beyond a patch",
                    "pad the image in its preprocessing instead of inside the model, with a flat colour; or pass "
                    "the layout of all patches, also of those beside the image, which is checked: "
                    "layout=vitscope.TokenLayout(prefix=..., grid=(rows, columns))",
                    off=f"{off:.2f}",
                )
        else:
            raise LayoutError.coded(
                "tracing.cropped",
                "the tokens show {first} to {last} of {length} pixels: the model leaves out the rest of the image "
                "by itself",
                "crop the image in its preprocessing instead of inside the model",
                first=f"{centres[0] - step / 2:.0f}",
                last=f"{centres[1] + step / 2:.0f}",
                length=length,
            )


@dataclass(eq=False)
class _Group:
    """Merges that fill the same grid in the same order, and the weight that passes through them together."""

    merges: list[int]
    weight: float
    order: Tensor
    grid: tuple[int, int]
    centres: Tensor  # x and y of each token, in pixels

    def covers(self, order: Tensor, centres: Tensor) -> bool:
        """Return whether other tokens, in that order, lie where these do, as those of a crop of the image do not.

        The paddings of two branches may move one of them as a whole, and the border.
        """
        if not torch.equal(self.order, order):
            return False
        spread = self.centres.amax(1) - self.centres.amin(1)
        step = torch.stack([extent / max(n - 1, 1) for extent, n in zip(spread, reversed(self.grid), strict=True)])
        off, step = self.centres - centres, step.clamp_min(1)
        moved = off.median(1).values
        scaled = (off - moved[:, None]).abs().mean(1)
        return bool((moved.abs() <= _UNEVEN * step).all() and (scaled <= _APART * step).all())


def find_finest_tokens(merges: list[TokenMerge], start: Tensor, out: Tensor) -> FinestTokens:
    """Find the last merges before any attention that everything passes through, and the grid that their tokens fill.

    Args:
        merges: what the averaged network recorded, in order.
        start: its input, the four images of positions.
        out: its answer for each image.

    Raises:
        LayoutError: no such grid exists.
    """
    batch = start.shape[0]
    candidates = [i for i, merge in enumerate(merges) if merge.values.numel() // batch]
    tensors = [merges[i].values for i in candidates]
    grads = torch.autograd.grad(out.sum(), [start, *tensors], allow_unused=True, retain_graph=True)
    total = 0.0 if grads[0] is None else float(grads[0][0].sum())
    if total < 1e-6:
        raise LayoutError(
            msg("tracing.nothing-read", "the answer reads nothing of the image, be it by attention or beside it"),
            msg("tracing.nothing-read.hint", "explain a model, or an output of it, that depends on the image"),
        )
    groups: list[_Group] = []
    for i, grad in reversed(list(zip(candidates, grads[1:], strict=True))):
        merge = merges[i]
        weight = 0.0 if grad is None else float(_token_weights(grad, merge.values, merge.axis, batch)[0].sum())
        if weight < _TOLERANCE * total:
            continue
        placed = merge.values.as_subclass(Tensor).detach().mean(merge.axis).reshape(batch, -1)
        found = grid_of(placed)
        if found is None:
            continue
        order, grid = found
        centres = placed[1:3] / placed[0]
        if weight > (1 - _TOLERANCE) * total:  # more than all, where a later part of the model pads
            return FinestTokens((i,), order, grid)
        if not merge.real:
            continue
        same = next((g for g in groups if g.grid == grid and g.covers(order, centres)), None)
        group = _Group([i], weight, order, grid, centres)
        if same is not None:
            group = _Group([i, *same.merges], weight + same.weight, order, grid, centres)
        if abs(group.weight - total) < _TOLERANCE * total:
            return FinestTokens(tuple(group.merges), order, grid)
        if group.weight < total:  # two merges side by side, such as a shortcut's and a branch's, may add up
            groups = [g for g in groups if g is not same] + [group]
    height, width = start.shape[2:]
    dividing = [g for g in groups if height % g.grid[0] == 0 and width % g.grid[1] == 0]
    if dividing:
        finest = max(dividing, key=lambda g: g.grid[0] * g.grid[1])
        return FinestTokens((), finest.order, finest.grid)
    raise LayoutError.coded(
        "tracing.no-grid",
        "no grid of patch tokens was found that everything the answer reads passes through",
        "pass the layout: layout=vitscope.TokenLayout(prefix=..., grid=(rows, columns)), of all tokens, those that "
        "the model itself puts around the image too",
    )


def _token_weights(grad: Tensor | None, like: Tensor, axis: int, batch: int) -> Tensor:
    """Sum a gradient over channels: `(B, tokens)`, also where windows are folded into the batch."""
    if grad is None:
        grad = torch.zeros_like(like)
    grad = grad.as_subclass(Tensor)
    return (grad.sum(axis) if axis < grad.ndim else grad).reshape(batch, -1)


def _ranks(x: Tensor) -> Tensor:
    values = x.sort().values
    step = (values[-1] - values[0]) / max(len(values) - 1, 1)
    new = values.diff() > max(float(step) / 2, 1e-3)
    edges = torch.cat([values[:1], values[1:][new]]) - 1e-3 - float(step) / 4
    return torch.searchsorted(edges, x.contiguous(), right=True) - 1
