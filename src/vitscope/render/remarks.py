"""What must be said beside a map before its colours are believed: flat, nearly random, or a few isolated patches."""

import numpy as np
from jaxtyping import Float

from vitscope._messages import Message, msg

_LEVEL = 16 * float(np.finfo(np.float32).eps)  # what sums of many numbers lose
_NEARLY_FLAT = 0.02  # of the largest value: the whole scale of colours is a fiftieth of it
_SIDE = 6  # patches on each side from which on neighbours can be told from chance
_CHANCE = 2.33  # standard deviations of a shuffled map's likeness of neighbours: one in a hundred is beyond
_LONELY, _TALL, _MOST = 4.0, 10.0, 0.5  # times the neighbours; times the mean; share of the map


def map_remarks(values: Float[np.ndarray, "..."]) -> list[Message]:
    """Say what a map's values are where its colours would mislead; empty for an ordinary map.

    **flat**: all patches have one value, to the precision of floats, or nearly: the largest and the least differ by a
    fiftieth of it. **nearly random**: by Moran's I of ranks (Moran 1950, over pairs of patches with a common edge)
    neighbours are no more alike than in 99 of 100 shuffled maps. **isolated**: patches of four times their
    highest neighbour and ten times the mean, which together hold half of the map or more, as sinks do.

    Args:
        values: the map. Neighbours are looked at in maps of two axes with six patches or more along each.
    """
    low, high = float(values.min()), float(values.max())
    size = max(abs(low), abs(high))
    if low == high == 0:
        return [msg("render.zero", "this map is zero at every patch: it says nothing about the image")]
    if high - low <= _LEVEL * size:
        return [
            msg(
                "render.flat",
                "this map is flat: its patches all have the value {value}, to the precision of floats, so its colours "
                "mean nothing",
                value=f"{high:.6g}",
            )
        ]
    if high - low <= _NEARLY_FLAT * size:
        return [
            msg(
                "render.nearly-flat",
                "this map is nearly flat: all its colours stand for a difference of {share} between patches",
                share=f"{100 * (high - low) / size:.2g}%",
            )
        ]
    return _of_neighbours(values) if values.ndim == 2 and min(values.shape) >= _SIDE else []


_LABELS = {
    "render.zero": "zero everywhere",
    "render.flat": "flat map: colours mean nothing",
    "render.nearly-flat": "nearly flat map: {share} between patches",
    "render.isolated": "{share} on isolated patches",
    "render.nearly-random": "nearly random map",
}


def map_labels(values: Float[np.ndarray, "..."]) -> list[str]:
    """Say in a few words what `map_remarks` says, to be drawn into the picture."""
    return [_LABELS[one.code].format(**one.params) for one in map_remarks(values)]


def _of_neighbours(values: Float[np.ndarray, "gh gw"]) -> list[Message]:
    count, share = _isolated(values.astype(np.float64))
    if share >= _MOST:
        return [
            msg(
                "render.isolated",
                "{share} of this map lies on isolated patches ({count}): look what is there, as sinks of attention "
                "look the same",
                count=count,
                share=f"{share:.0%}",
            )
        ]
    if _moran(values) <= _CHANCE:
        return [
            msg(
                "render.nearly-random",
                "this map is nearly random: patches beside each other are hardly more alike than in a shuffled map",
            )
        ]
    return []


def _moran(values: Float[np.ndarray, "gh gw"]) -> float:
    """Return Moran's I of ranks over patches that share an edge, in standard deviations of shuffled maps."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse].reshape(values.shape)
    z, n = ranks - ranks.mean(), values.size
    products = float((z[1:] * z[:-1]).sum() + (z[:, 1:] * z[:, :-1]).sum())
    edges = z[1:].size + z[:, 1:].size
    degrees = np.full(values.shape, 4.0)
    for edge in np.s_[0, :], np.s_[-1, :], np.s_[:, 0], np.s_[:, -1]:
        degrees[edge] -= 1
    s0, s1, s2 = 2.0 * edges, 4.0 * edges, 4.0 * float((degrees**2).sum())
    expected = -1 / (n - 1)
    kurtosis = n * float((z**4).sum()) / float((z**2).sum()) ** 2
    square = n * ((n * n - 3 * n + 3) * s1 - n * s2 + 3 * s0**2) - kurtosis * (
        (n * n - n) * s1 - 2 * n * s2 + 6 * s0**2
    )
    variance = square / ((n - 1) * (n - 2) * (n - 3) * s0**2) - expected**2  # Cliff & Ord 1981, under permutation
    return float((n / edges * products / float((z**2).sum()) - expected) / variance**0.5)


def _isolated(values: Float[np.ndarray, "gh gw"]) -> tuple[int, float]:
    """Return how many patches stand alone, and the share of the map's positive values that they hold."""
    positive = np.clip(values, 0, None)
    padded, (rows, columns) = np.pad(positive, 1), values.shape
    around = np.max(
        [
            padded[1 + down : 1 + down + rows, 1 + right : 1 + right + columns]
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
            if down or right
        ],
        axis=0,
    )
    alone = (positive > _LONELY * around) & (positive > _TALL * positive.mean())
    return int(alone.sum()), float(positive[alone].sum() / max(float(positive.sum()), np.finfo(float).tiny))
