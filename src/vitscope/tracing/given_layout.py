"""A token layout that the caller gave, held against the pixels that reach the first layer's tokens."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from vitscope._messages import Message, msg
from vitscope.attention.blocks import Block, Factored
from vitscope.attention.capture import capture
from vitscope.attention.model_modes import eval_mode, frozen_parameters
from vitscope.errors import CaptureError, LayoutError
from vitscope.geometry import TokenLayout
from vitscope.tracing.patch_cells import PatchCells, Side, border_note, fit_side
from vitscope.tracing.positions import PositionMode, PositionWatch

log = logging.getLogger(__name__)

_OWN = 0.25  # of the largest change of any token, what a patch's own changes at least when its pixels do
_FAINT = 0.01  # of the most that any row of pixels does to a token: less counts as nothing
_BENT = 0.25  # of a patch, that patches may lie off a line where the image is resized before they are cut
_SAME_PLACE = 1.0  # pixels, or as much of a patch as this tenth: that cells as the caller states them may be off
_PROBED = 4  # rows of patches at each border

Run = Callable[[Tensor], object]


def place_given(
    run: Run, model: nn.Module, pixels: Sequence[Tensor], layout: TokenLayout
) -> tuple[TokenLayout, tuple[Message, ...]]:
    """Return a stated layout with the cells of its patches, and notes on its border and on the input's size.

    What reaches the values of the first layer's tokens says where their patches lie. That is not measured where the
    model has no gradients, or reads so widely that cells cannot be told; the order of tokens is checked in any case.

    Args:
        run: calls the model on pixels.
        model: what is captured.
        pixels: images `(1, C, Hi, Wi)` of noise.
        layout: the stated layout.

    Cost: a forward for each image and six more, and at most 24 backward passes for each through what comes before the
        first layer.

    Raises:
        LayoutError: the patches lie elsewhere than the layout says, or on no even grid.
    """
    watch = PositionWatch()

    def watched(image: Tensor) -> None:
        with PositionMode(watch, model):
            run(image)

    try:
        layout, notes = _with_cells(watched, model, pixels, layout)
    except (RuntimeError, CaptureError) as error:
        log.debug("where the patches of %s lie was not measured: %s", type(model).__name__, error)
        notes = ()
    check_order(run, model, pixels[0], layout)
    return layout, (*notes, *watch.notes())


def _values(run: Run, model: nn.Module, pixels: Tensor) -> Sequence[Tensor]:
    """Return the values `(B, H, M, E)` of each attention call of a forward, with their graph."""
    values: list[Tensor] = []
    with eval_mode(model), frozen_parameters(model), capture(model, gradients=True) as recorder:
        recorder.on_values = values.append
        run(pixels)
    return values


def _with_cells(
    run: Run, model: nn.Module, pixels: Sequence[Tensor], layout: TokenLayout
) -> tuple[TokenLayout, tuple[Message, ...]]:
    read = _read(run, model, pixels, layout)
    if not any(bool((weights > 0).any()) for weights in read.values()):
        return layout, ()
    height, width = pixels[0].shape[2:]
    sides: list[Side] = []
    for axis, count in enumerate(layout.grid):
        lines = _joined(read, axis, 0.0)
        if lines is None:
            check_order(run, model, pixels[0], layout)
            raise _uneven(layout, model)
        side = fit_side(lines, count) or _by_middles(lines, count)
        if side is None and all(line[0] and line[-1] for line in lines.values()):  # a norm over the image, say
            faint = _joined(read, axis, _FAINT)
            side = None if faint is None else fit_side(faint, count)
            if side is None or side.elsewhere:
                log.debug("where the patches of %s lie cannot be told", type(model).__name__)
                return layout, ()
        if side is None or side.misplaced:
            raise _uneven(layout, model)
        sides.append(side)
    found = PatchCells.of(sides[0], sides[1], (height, width))
    whole = (0.0, 0.0, float(width), float(height))
    told, measured = layout.cells or whole, found.cells or whole
    beside = _beside(measured, layout.grid, (height, width))
    for place, weights in read.items():
        if place not in beside and not bool((weights > 0).any()):
            check_order(run, model, pixels[0], layout)
            raise _uneven(layout, model)
    steps = np.array([(measured[2] - measured[0]) / layout.grid[1], (measured[3] - measured[1]) / layout.grid[0]] * 2)
    off = np.abs(np.array(told) - measured)
    if (layout.cells is not None and (off > np.maximum(_SAME_PLACE, steps / 10)).any()) or (
        layout.cells is None and any(side.outside for side in sides)
    ):
        raise _elsewhere(layout, told, measured, model)
    notes = [border_note(found.elsewhere)] if found.elsewhere and not beside else []
    if beside:
        notes.append(_beside_note(len(beside), layout))
    cells = layout.cells or found.cells
    return replace(layout, cells=cells, seen=layout.seen or (None if cells is None else found.seen)), tuple(notes)


def _read(run: Run, model: nn.Module, pixels: Sequence[Tensor], layout: TokenLayout) -> dict[tuple[int, int], Tensor]:
    """Return how much each pixel does to the first layer's values of some patches, `(Hi, Wi)` for each."""
    rows, columns = (_probed(count) for count in layout.grid)
    most = max(len(rows), len(columns))
    steps = [(rows[i * len(rows) // most], i * len(columns) // most) for i in range(most)]
    places = {(row, columns[n]) for row, i in steps for n in (i, len(columns) - 1 - i)}
    found: dict[tuple[int, int], Tensor] = {}
    for image in pixels:
        start = image.detach().requires_grad_()
        values = next((v for v in _values(run, model, start) if v.shape[2] == layout.tokens and v.requires_grad), None)
        if values is None:
            return {}
        for row, column in places:
            token = values[:1, :, len(layout.prefix) + row * layout.grid[1] + column]
            weights = torch.randn(token.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
            (grad,) = torch.autograd.grad((token * weights.to(token)).sum(), [start], retain_graph=True)
            found[row, column] = found.get((row, column), 0) + grad[0].abs().sum(0).float()
    return found


def _probed(count: int) -> list[int]:
    near = range(min(_PROBED, count))
    middle = range(max(count // 2 - 2, 0), min(count // 2 + 2, count))
    return sorted({*near, *middle, *(count - 1 - n for n in near)})


def _joined(read: dict[tuple[int, int], Tensor], axis: int, faint: float) -> dict[int, np.ndarray] | None:
    """Return the rows (or columns) of pixels that do more than a faint share of what any does, by rows of patches.

    None where two patches of one row read other rows of pixels.
    """
    lines: dict[int, np.ndarray] = {}
    for place, weights in read.items():
        if not bool((weights > 0).any()):
            continue
        total = weights.sum(1 - axis)
        one = (total > faint * total.max()).cpu().numpy()
        other = lines.get(place[axis], one)
        off = np.abs(np.flatnonzero(one)[[0, -1]] - np.flatnonzero(other)[[0, -1]]).max()
        if off > max(2, one.sum() / 4):
            return None
        lines[place[axis]] = one | other
    return lines


def _by_middles(lines: dict[int, np.ndarray], count: int) -> Side | None:
    """Return cells around the middles of what patches read, of those that do not reach the border; None for no line."""
    ends = {n: np.flatnonzero(line)[[0, -1]] for n, line in lines.items() if not (line[0] or line[-1])}
    if len(ends) < 2:
        return None
    numbers, middles = np.array([*ends]), np.array([(first + last + 1) / 2 for first, last in ends.values()])
    stride, start = np.polyfit(numbers + 0.5, middles, 1)
    if stride <= 0 or np.abs(start + stride * (numbers + 0.5) - middles).max() > _BENT * stride:
        return None
    length, all_read = len(next(iter(lines.values()))), np.flatnonzero(np.any([*lines.values()], 0))
    cells = float(start), float(start + stride * count)
    if np.abs(np.array(cells) - (0, length)).max() <= max(_SAME_PLACE, _BENT * stride):
        cells = 0.0, float(length)
    return Side(cells, (float(all_read[0]), float(all_read[-1] + 1)))


def _beside(cells: tuple[float, ...], grid: tuple[int, int], size: tuple[int, int]) -> set[tuple[int, int]]:
    """Return the patches that have their whole cell beside the input."""
    inside: list[set[int]] = []
    for axis, (count, length) in enumerate(zip(grid, size, strict=True)):
        low, high = cells[1 - axis], cells[3 - axis]
        ends = low + (high - low) * np.arange(count + 1) / count
        inside.append(set(np.flatnonzero((ends[1:] > 0.5) & (ends[:-1] < length - 0.5)).tolist()))
    return {(r, c) for r in range(grid[0]) for c in range(grid[1]) if r not in inside[0] or c not in inside[1]}


def _beside_note(count: int, layout: TokenLayout) -> Message:
    return msg(
        "tracing.note-beside-image",
        "{count} of {patches} patches lie beside the image, which the model itself makes wider: what they receive is "
        "in no pixel",
        count=count,
        patches=layout.grid[0] * layout.grid[1],
    )


def _uneven(layout: TokenLayout, model: nn.Module) -> LayoutError:
    return LayoutError.coded(
        "tracing.given-uneven",
        "by the pixels that reach the tokens of {model}, the patches of the layout {layout} are not evenly spaced, "
        "as where it repeats or mirrors the border of the image",
        "pad the image in its preprocessing instead of inside the model, with a flat colour",
        layout=str(layout),
        model=type(model).__name__,
    )


def _elsewhere(layout: TokenLayout, told: tuple[float, ...], found: tuple[float, ...], model: nn.Module) -> LayoutError:
    def box(ends: tuple[float, ...]) -> str:
        return "({})".format(", ".join(f"{end:g}" for end in ends))

    return LayoutError.coded(
        "tracing.other-cells",
        "the layout {layout} puts the patches' cells into {told}, in pixels of the input, but by the pixels that "
        "reach the tokens of {model} they tile {found}",
        "say so: layout=vitscope.TokenLayout({prefix}, {grid}, cells={found}); patches beside the image are then "
        "left out of the picture",
        layout=str(layout),
        told=box(told),
        model=type(model).__name__,
        found=box(found),
        prefix=str(layout.prefix),
        grid=str(layout.grid),
    )


def check_order(run: Run, model: nn.Module, pixels: Tensor, layout: TokenLayout) -> None:
    """Raise a LayoutError where a stated layout has tokens elsewhere than pixels reach them first.

    The pixels of a few patches are changed, one patch at a time: what the first layer makes of the patch's own token
    must change most.

    Cost: six forwards.
    """

    def first_made(image: Tensor) -> Tensor | None:
        with eval_mode(model), torch.no_grad(), capture(model) as recorder:
            run(image)
        return _first_made(recorder.blocks, layout.tokens)

    rows, columns = (torch.from_numpy(numbers) for numbers in layout.cell_numbers((pixels.shape[2], pixels.shape[3])))
    height, width = layout.grid
    before = first_made(pixels)
    for row, column in dict.fromkeys(
        ((0, 0), (0, width - 1), (height - 1, 0), (min(1, height - 1), 0), (height // 2, width // 3))
    ):
        inside = ((rows == row)[:, None] & (columns == column)).to(pixels.device)
        after = first_made(torch.where(inside, -3 * pixels, pixels))
        if before is None or after is None:
            return
        change = (after - before).abs().flatten(1).sum(1)
        told, found = len(layout.prefix) + row * width + column, int(change.argmax())
        if not float(change[told]) >= _OWN * float(change[found]):
            raise LayoutError.coded(
                "tracing.other-order",
                "the layout {layout} puts row {row}, column {column} at token {told} of {model}, but the pixels "
                "there change token {found}: the model has its tokens in another order or on another grid",
                "tokens are the prefix first, then the patches row by row: state prefix and grid as the model has "
                "them, or put the tokens into that order",
                layout=layout,
                row=row,
                column=column,
                told=told,
                model=type(model).__name__,
                found=found,
            )


def _first_made(blocks: Sequence[Block], tokens: int) -> Tensor | None:
    """Return what the first layer of so many tokens makes of each, `(tokens, ...)`: keys, or rows of attention."""
    for block in blocks:
        if isinstance(block, Factored) and block.k.shape[2] == tokens:
            return block.k[0].movedim(1, 0).float()
        if block.shape[2] == block.shape[3] == tokens:
            return block.rows()[0].movedim(1, 0).float()
    return None
