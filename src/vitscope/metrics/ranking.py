"""Maps as rankings of patches: order, random counterparts, and the similarity of two maps. Numpy only."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

_K1, _K2 = 0.01, 0.03  # the constants of Wang et al. 2004


@dataclass(frozen=True, eq=False)
class RankedMap:
    """A map, one value per patch, row by row, and the order of its patches, highest value first."""

    values: Float64[np.ndarray, " P"]
    order: Int[np.ndarray, " P"]


def rank_map(values: Float[np.ndarray, "gh gw"], seed: int) -> RankedMap:
    """Return a map with its exact order; patches of equal value are in a random order that `seed` draws."""
    flat = values.astype(np.float64).ravel()
    chance = np.random.default_rng(seed).permutation(flat.size)
    return RankedMap(flat, np.lexsort((chance, -flat)))


def shuffled_maps(one: RankedMap, count: int, seed: int, start: int = 0) -> list[RankedMap]:
    """Return random maps `start` to `count`: the map's values in random orders, which depend on `seed` and P alone."""
    made = []
    for number in range(start, count):
        order = np.random.default_rng([seed, number]).permutation(one.values.size)
        values = np.empty_like(one.values)
        values[order] = one.values[one.order]
        made.append(RankedMap(values, order))
    return made


def step_counts(patches: int, steps: int) -> Int[np.ndarray, " _"]:
    """Return the number of replaced patches at each step: `i P / steps` rounded half up, from 0 to P, none twice."""
    return np.unique(np.floor(np.arange(steps + 1) * patches / steps + 0.5).astype(int))


def top_masks(order: Int[np.ndarray, " P"], counts: Int[np.ndarray, " n"]) -> Bool[np.ndarray, "n P"]:
    """Return for each count a mask of that many first patches of an order."""
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    return rank < np.asarray(counts)[:, None]


def spearman(a: Float[np.ndarray, "*n gh gw"], b: Float[np.ndarray, "*n gh gw"]) -> Float64[np.ndarray, "*n"]:
    """Return Spearman's rank correlation of maps, in [-1, 1]; equal values share their mean rank; 0 for a flat map."""
    ranks = [np.apply_along_axis(_ranks, -1, x.reshape(*x.shape[:-2], -1)) for x in (a, b)]
    x, y = (r - r.mean(-1, keepdims=True) for r in ranks)
    scale = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return np.asarray((x * y).sum(-1) / np.where(scale > 0, scale, 1))


def ssim(a: Float[np.ndarray, "*n gh gw"], b: Float[np.ndarray, "*n gh gw"]) -> Float64[np.ndarray, "*n"]:
    """Return the structural similarity of maps (Wang et al. 2004, equation 13), in [-1, 1].

    Each map is scaled to [0, 1] first. The mean is over all square windows inside the map, of side 7 or the largest odd
    number that fits, with equal weights in a window and variances with n - 1.
    """
    side = min(7, *a.shape[-2:])
    side -= 1 - side % 2
    x, y = _unit(a), _unit(b)
    n = side**2
    bessel = n / max(n - 1, 1)
    mx, my = _window_means(x, side), _window_means(y, side)
    vx, vy = (bessel * (_window_means(z * z, side) - m * m) for z, m in ((x, mx), (y, my)))
    cov = bessel * (_window_means(x * y, side) - mx * my)
    c1, c2 = _K1**2, _K2**2
    local = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return np.asarray(local.mean((-2, -1)))


def moved_copies(values: Float[np.ndarray, "gh gw"], count: int, seed: int) -> Float[np.ndarray, "n gh gw"]:
    """Return copies of the map, shifted around the edges and mirrored at random: as smooth, but unrelated."""
    rng, (gh, gw) = np.random.default_rng([seed, 1]), values.shape
    made: list[np.ndarray] = []
    while len(made) < count:
        down, right, up, left = rng.integers(0, (gh, gw, 2, 2))
        if (down, right, up, left) != (0, 0, 0, 0) or values.size == 1:
            mirrored = values[:: -1 if up else 1, :: -1 if left else 1]
            made.append(np.roll(mirrored, (down, right), (0, 1)))
    return np.stack(made)


def _ranks(x: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    means: np.ndarray = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(means[inverse])


def _unit(x: Float[np.ndarray, "*n gh gw"]) -> np.ndarray:
    x = x.astype(np.float64)
    low, high = x.min((-2, -1), keepdims=True), x.max((-2, -1), keepdims=True)
    unit: np.ndarray = (x - low) / np.where(high > low, high - low, 1)
    return unit


def _window_means(x: np.ndarray, side: int) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), (-2, -1))
    return np.asarray(windows.mean((-2, -1)))
