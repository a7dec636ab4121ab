"""What attention heads do on one image: sink, local, position, object, background, alike, or mixed."""

from dataclasses import dataclass
from math import gcd

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitscope.geometry import TokenLayout

KINDS = ("object", "background", "alike", "local", "position", "sink", "mixed")
NUMBERS = ("sink_share", "near_share", "position_share", "object_ratio", "own_ratio")
_ASKED = 128  # patches whose rows are looked at, spread evenly
_MOST, _TIMES = 0.5, 2.0  # what a kind needs: half of the attention, or twice the density
_NEAR = 0.1  # of the grid's longer side
_POWERS, _SETTLED = 200, 1e-12  # of a matrix, and the difference between two of them after which no more are taken
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
            smaller of the two sides' ratios; None without an object, or where patches of one side alone ask.
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
    unit = torch.nn.functional.normalize(torch.from_numpy(features), eps=np.finfo(np.float64).tiny)
    unit -= unit.mean(0)
    side: Bool[np.ndarray, " P"] = (unit @ _first_component(unit.T @ unit) > 0).numpy()
    if side.all() or not side.any():
        return None
    border = np.ones(grid, dtype=bool)
    border[1:-1, 1:-1] = False
    shares = [border.ravel()[side == one].mean() for one in (False, True)]
    found: np.ndarray = side if shares[1] < shares[0] else ~side
    return found if min(shares) <= max(shares) / _TIMES else None


def _first_component(matrix: Float[Tensor, "D D"]) -> Float[Tensor, " D"]:
    """Return the eigenvector of the largest eigenvalue of a positive semidefinite matrix.

    Powers of the matrix tend to it; where the next eigenvalue is too close for that, the slower decomposition tells.
    """
    vector: Tensor = torch.randn(len(matrix), generator=torch.Generator().manual_seed(0), dtype=matrix.dtype)
    power = matrix @ matrix
    for _ in range(_POWERS):
        previous, vector = vector, power @ vector
        vector = vector.div(torch.linalg.vector_norm(vector))
        if not bool(torch.linalg.vector_norm(vector - previous) >= _SETTLED):  # or it is NaN: of a matrix of zeros
            break
    else:
        vector = torch.linalg.eigh(matrix).eigenvectors[:, -1]
    return vector


@dataclass(frozen=True, eq=False)
class AskingPatches:
    """The patches whose rows say what heads do, and what follows from their places alone.

    Attributes:
        prefix: the number of prefix tokens.
        tokens: the asking patches' numbers among all tokens.
        grid: rows and columns of patches.
        corners: for each asking patch the row and column where its map begins in an array of all offsets.
        near: one where a patch is near the asking one, else zero, `(n, P)`.
        factor: of each weight's square in what others do not foretell, `(n, P)`.
        factor_of_sum: of the square of the sum of weights at each offset, which is taken from that.
    """

    prefix: int
    tokens: range
    grid: tuple[int, int]
    corners: list[tuple[int, int]]
    near: Float[Tensor, "n P"]
    factor: Float[Tensor, "n P"]
    factor_of_sum: Float[np.ndarray, "h w"]

    def sides(self, object_: Bool[np.ndarray, " P"] | None) -> Float[Tensor, "S n"]:
        """Return a row of ones for all asking patches and, of an object, for those on it and those beside it."""
        every = np.ones(len(self.tokens), dtype=bool)
        here = [] if object_ is None else [self._on(object_), ~self._on(object_)]
        return torch.from_numpy(np.stack([every, *here]).astype(np.float64))

    def on_both_sides(self, object_: Bool[np.ndarray, " P"]) -> bool:
        """Return whether patches ask on the object as well as beside it."""
        return 0 < int(self._on(object_).sum()) < len(self.tokens)

    def _on(self, object_: Bool[np.ndarray, " P"]) -> Bool[np.ndarray, " n"]:
        here: Bool[np.ndarray, " n"] = object_[np.asarray(self.tokens) - self.prefix]
        return here

    @classmethod
    def of(cls, layout: TokenLayout) -> "AskingPatches":
        """Choose 128 patches or a few more, spread evenly."""
        prefix, (high, wide) = len(layout.prefix), layout.grid
        patches = high * wide
        step = max(patches // _ASKED, 1)
        while gcd(step, wide) > 1 and step > 1:  # else only some columns would ask
            step += 1
        rows, columns = np.divmod(np.arange(0, patches, step), wide)
        corners = list(zip((high - 1 - rows).tolist(), (wide - 1 - columns).tolist(), strict=True))
        down, right = (of[None, :] - of[::step, None] for of in np.divmod(np.arange(patches), wide))
        near = down**2 + right**2 <= max(_NEAR * max(high, wide), 1.5) ** 2
        places = down + high - 1, right + wide - 1
        size = 2 * high - 1, 2 * wide - 1
        count = np.bincount(np.ravel_multi_index(places, size).ravel(), minlength=size[0] * size[1]).reshape(size)
        # of c weights x at one offset, sum T, squares S: sum of (x - (T - x) / (c - 1))^2 = c (c S - T^2) / (c - 1)^2
        over = np.maximum(count - 1, 1)
        factor, factor_of_sum = np.where(count > 1, count / over, 1) ** 2, np.where(count > 1, count / over**2, 0)
        near_, factor_ = torch.from_numpy(near.astype(np.float64)), torch.from_numpy(factor[places])
        tokens = range(prefix, prefix + patches, step)
        return cls(prefix, tokens, layout.grid, corners, near_, factor_, factor_of_sum)


def head_kinds(
    rows: Float[Tensor, "H n N"], asking: AskingPatches, object_: Bool[np.ndarray, " P"] | None
) -> HeadKinds:
    """Say what each head of a layer does on an image.

    Args:
        rows: the heads' attention of the asking patches' tokens, on all tokens.
        asking: these patches.
        object_: the object's patches, by `split_object`; None where there is none.
    """
    rows = rows.cpu()
    prefix, weights = rows[:, :, : asking.prefix].sum(2).double().mean(1).numpy(), rows[:, :, asking.prefix :]
    mass = weights.sum(2, keepdim=True)
    weights = weights / mass.clamp_min(torch.finfo(mass.dtype).tiny)
    of_sides = asking.sides(object_).to(rows)
    by = torch.cat((mass.transpose(1, 2), of_sides.expand(len(rows), -1, -1)), 1)
    poured, every, *sides = torch.bmm(by, weights).double().numpy().swapaxes(0, 1)
    wells = np.sort(poured)[:, -_WELLS:].sum(1) / rows.shape[1] if poured.shape[1] > _WELLS else 0.0
    sink = prefix + wells
    local = (weights * asking.near.to(rows)).sum(2).double().mean(1).numpy()
    position = _foretold(weights, asking)
    ratio = own = None
    if object_ is not None:
        ratio = _density(every, object_)
        if asking.on_both_sides(object_):
            own = np.minimum(_density(sides[0], object_), _density(sides[1], ~object_))
    kinds = tuple(
        _kind(sink[h], local[h], position[h], None if ratio is None else ratio[h], None if own is None else own[h])
        for h in range(len(rows))
    )
    return HeadKinds(kinds, sink, local, position, ratio, own)


def _kind(sink: float, near: float, position: float, ratio: float | None, own: float | None) -> str:
    for name, share in (("sink", sink), ("local", near), ("position", position)):
        if share >= _MOST:
            return name
    if ratio is not None and not 1 / _TIMES < ratio < _TIMES:
        return "object" if ratio >= _TIMES else "background"
    return "alike" if own is not None and own >= _TIMES else "mixed"


def _density(weights: Float[np.ndarray, "H P"], there: Bool[np.ndarray, " P"]) -> Float[np.ndarray, " H"]:
    """Return the mean weight there over the mean weight elsewhere."""
    found: np.ndarray = weights[:, there].mean(1) / np.maximum(weights[:, ~there].mean(1), np.finfo(np.float64).tiny)
    return found


def _foretold(weights: Float[Tensor, "H n P"], asking: AskingPatches) -> Float[np.ndarray, " H"]:
    """Return how much of the variance the mean of the others at the same offset foretells; 0 for even weights."""
    (heads, count, patches), (high, wide) = weights.shape, asking.grid
    weights = weights - 1 / patches  # what others foretell of the difference from even weights is the same
    total = np.zeros((heads, 2 * high - 1, 2 * wide - 1), dtype=weights.numpy().dtype)  # at each offset
    for one, (row, column) in zip(weights.numpy().swapaxes(0, 1), asking.corners, strict=True):
        total[:, row : row + high, column : column + wide] += one.reshape(heads, high, wide)
    total = total.astype(np.float64)
    squares, sums = weights.square(), total.sum((1, 2))
    squared, missed = ((squares * f).sum(2).double().sum(1).numpy() for f in (1, asking.factor.to(weights)))
    missed -= (asking.factor_of_sum * total**2).sum((1, 2))
    spread = squared - sums**2 / (count * patches)
    told = spread > 1e-12 * (squared + (2 * sums + count) / patches)  # of the squares of the weights themselves
    found: np.ndarray = np.where(told, 1 - missed / np.where(told, spread, 1), 0.0)
    return found
