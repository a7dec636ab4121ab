"""What attention heads do on one image: sink, local, position, object, background, alike, or mixed."""

from dataclasses import dataclass
from math import gcd

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from vitscope.attention import Block, budget
from vitscope.geometry import TokenLayout

KINDS = ("object", "background", "alike", "local", "position", "sink", "mixed")
NUMBERS = ("sink_share", "near_share", "position_share", "object_ratio", "own_ratio")
_ASKED = 128  # patches whose rows are looked at, spread evenly
_MOST, _TIMES = 0.5, 2.0  # what a kind needs: half of the attention, or twice the density
_NEAR = 0.1  # of the grid's longer side
_WELLS = 3  # patches that a sink head may pour its attention into, beside the prefix


@dataclass(frozen=True, eq=False)
class HeadKinds:
    """What the heads of one layer do on one image, and the numbers that say so.

    Patches ask; their weights on patches are made shares of one, but for `sink_share`.

    Attributes:
        kinds: for each head the first that holds. `sink`: `sink_share` is half or more; `local`: `near_share` is;
            `position`: `position_share` is; `object`: `object_ratio` is 2 or more; `background`: it is 1/2 or less;
            `alike`: `own_ratio` is 2 or more; else `mixed`.
        sink_share: of all attention, what lies on the prefix and on the three patches that get most of it, in [0, 1].
        near_share: what lies within a tenth of the grid's longer side, at least on the eight neighbours and the patch
            itself, in [0, 1].
        position_share: how much of the variance of the weights is foretold by the mean of the other asking patches at
            the same offset in rows and columns, at most 1; negative where that mean misleads.
        object_ratio: mean weight of an object's patch over that of a background's; None without an object.
        own_ratio: mean weight of a patch on the asking patch's own side of the two over one on the other side: the
            smaller of the two sides' ratios; None without an object.
    """

    kinds: tuple[str, ...]
    sink_share: Float[np.ndarray, " H"]
    near_share: Float[np.ndarray, " H"]
    position_share: Float[np.ndarray, " H"]
    object_ratio: Float[np.ndarray, " H"] | None
    own_ratio: Float[np.ndarray, " H"] | None


def split_object(features: Float[np.ndarray, "P D"], grid: tuple[int, int]) -> Bool[np.ndarray, " P"] | None:
    """Tell an object's patches from its background's by features; None where they do not part.

    The sign of the first principal component of the directions parts the patches into two (Oquab et al. 2023, section
    7.5); the object is the side of which a smaller share lies on the image's border. Where that share is more than half
    of the other side's, neither is an object.
    """
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.maximum(length, np.finfo(np.float64).tiny)
    unit = unit - unit.mean(0)
    side = unit @ torch.linalg.eigh(torch.from_numpy(unit.T @ unit))[1][:, -1].numpy() > 0
    if side.all() or not side.any():
        return None
    border = np.ones(grid, dtype=bool)
    border[1:-1, 1:-1] = False
    shares = [border.ravel()[side == one].mean() for one in (False, True)]
    found: np.ndarray = side if shares[1] < shares[0] else ~side
    return found if min(shares) <= max(shares) / _TIMES else None


def head_kinds(block: Block, layout: TokenLayout, object_: Bool[np.ndarray, " P"] | None) -> HeadKinds:
    """Say what each head of a layer does on an image, by the rows of 128 patches or a few more.

    Args:
        block: the layer's attention, between the tokens of `layout`.
        layout: which token is which.
        object_: the object's patches, by `split_object`; None where there is none.

    Cost: the rows of those patches, once, chunk by chunk; memory linear in tokens.
    """
    first, (high, wide) = len(layout.prefix), layout.grid
    patches = high * wide
    step = max(patches // _ASKED, 1)
    while gcd(step, wide) > 1 and step > 1:  # else only some columns would ask
        step += 1
    asked = np.arange(0, patches, step)
    most = block.chunk or max(1, budget(block.device) // (block.shape[1] * block.shape[3]))
    with torch.no_grad():
        parts = torch.split(torch.from_numpy(first + asked).to(block.device), most)
        rows = np.concatenate([block.rows(part)[0].cpu().numpy() for part in parts], 1)
    weights = rows[:, :, first:]
    prefix, poured = rows[:, :, :first].sum(2).mean(1), np.sort(weights.mean(1, dtype=np.float64))[:, -_WELLS:].sum(1)
    sink = prefix + poured if patches > _WELLS else prefix
    weights = weights / np.maximum(weights.sum(2, keepdims=True), np.finfo(weights.dtype).tiny)
    down, right = (of[None, :] - of[asked][:, None] for of in np.divmod(np.arange(patches), wide))
    near = down**2 + right**2 <= max(_NEAR * max(high, wide), 1.5) ** 2
    local = (weights.reshape(len(weights), -1) @ near.ravel().astype(weights.dtype)).astype(np.float64) / len(asked)
    position = _foretold(weights, asked, layout.grid)
    ratio = own = None
    if object_ is not None:
        ratio = _density(weights.mean(1), object_)
        sides = [_density(weights[:, object_[asked] == one].mean(1), object_ == one) for one in (True, False)]
        own = np.minimum(*sides)
    kinds = tuple(
        _kind(sink[h], local[h], position[h], *((None, None) if ratio is None or own is None else (ratio[h], own[h])))
        for h in range(len(rows))
    )
    return HeadKinds(kinds, sink, local, position, ratio, own)


def _kind(sink: float, near: float, position: float, ratio: float | None, own: float | None) -> str:
    for name, share in (("sink", sink), ("local", near), ("position", position)):
        if share >= _MOST:
            return name
    if ratio is None or own is None:
        return "mixed"
    if not 1 / _TIMES < ratio < _TIMES:
        return "object" if ratio >= _TIMES else "background"
    return "alike" if own >= _TIMES else "mixed"


def _density(weights: Float[np.ndarray, "H P"], there: Bool[np.ndarray, " P"]) -> Float[np.ndarray, " H"]:
    """Return the mean weight there over the mean weight elsewhere."""
    elsewhere = np.maximum(weights[:, ~there].mean(1, dtype=np.float64), np.finfo(np.float64).tiny)
    found: np.ndarray = weights[:, there].mean(1, dtype=np.float64) / elsewhere
    return found


def _foretold(
    weights: Float[np.ndarray, "H n P"], asked: Int[np.ndarray, " n"], grid: tuple[int, int]
) -> Float[np.ndarray, " H"]:
    """Return how much of the variance the mean of the others at the same offset foretells; 0 for even weights."""
    (high, wide), heads, patches = grid, len(weights), weights.shape[2]
    maps = weights.transpose(1, 2, 0).astype(np.float64, order="C").reshape(-1, high, wide, heads)
    count = np.zeros((2 * high - 1, 2 * wide - 1, 1))  # of each offset in rows and columns
    total, squares = np.zeros((2, *count.shape[:2], heads))
    for one, row, column in zip(maps, *np.divmod(asked, wide), strict=True):
        window = slice(high - 1 - row, 2 * high - 1 - row), slice(wide - 1 - column, 2 * wide - 1 - column)
        count[window] += 1
        total[window] += one
        squares[window] += one**2
    # of c weights x at one offset the sum of (x - (total - x) / (c - 1))^2; of a single one that of (x - 1 / P)^2
    several = count * (count * squares - total**2) / np.maximum(count - 1, 1) ** 2
    single = squares - 2 * total / patches + 1 / patches**2
    missed = np.where(count > 1, several, np.where(count == 1, single, 0)).sum((0, 1))
    squared = squares.sum((0, 1))
    spread = squared - total.sum((0, 1)) ** 2 / weights[0].size
    told = spread > 1e-12 * squared
    found: np.ndarray = np.where(told, 1 - missed / np.where(told, spread, 1), 0.0)
    return found
