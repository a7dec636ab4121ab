"""Slow twins of the faithfulness measures, in plain Python floats, written from the papers' formulas.

`y` is a function from a set of patches that are replaced to the score; `m` the map as a list; `order` its patches,
highest first. Nothing here imports vitscope.
"""

import math
from itertools import pairwise

import numpy as np
import scipy.optimize


def area(points):
    """Trapezoids under (x, y) points."""
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points))


def half_up(x):
    return math.floor(x + 0.5)


def counts_of(patches, steps):
    """How many patches at each step."""
    steps = min(steps, patches)
    return sorted({half_up(i * patches / steps) for i in range(steps + 1)})


def deletion(y, order, steps):
    """Petsiuk et al. 2018, algorithm 1: the most relevant go first."""
    return area([(k / len(order), y(set(order[:k]))) for k in counts_of(len(order), steps)])


def insertion(y, order, steps):
    """Petsiuk et al. 2018: from nothing, the most relevant come first."""
    return area([(k / len(order), y(set(order[k:]))) for k in counts_of(len(order), steps)])


def aopc(y, order, steps):
    """Samek et al. 2017, equation 12, for one picture, over 16 % of it."""
    counts = counts_of(len(order), steps)
    counts = [k for k in counts if k <= max(0.16 * len(order), counts[1])]
    return sum(y(set()) - y(set(order[:k])) for k in counts) / len(counts)


def perturbation(y, order):
    """Chefer et al. 2021: 10 % to 90 % in this order; the area over the span."""
    return area([(i / 10, y(set(order[: half_up(i * len(order) / 10)]))) for i in range(1, 10)]) / 0.8


def saco(y, m, order):
    """Wu et al. 2024, algorithm 1, salience and drop of a group per patch."""
    groups = [list(part) for part in np.array_split(np.array(order), min(10, len(order)))]
    s = [sum(m[j] for j in group) / len(group) for group in groups]
    drop = [(y(set()) - y(set(group))) / len(group) for group in groups]
    total = weights = 0.0
    for i in range(len(groups) - 1):
        for j in range(i + 1, len(groups)):
            weight = s[i] - s[j] if drop[i] >= drop[j] else -(s[i] - s[j])
            total, weights = total + weight, weights + abs(weight)
    return total / weights if weights else 0.0


def sensitivity_n(y, m, sets):
    """Ancona et al. 2018, section 4, for the sets of one n: Pearson's correlation."""
    a = [sum(m[j] for j in one) for one in sets]
    b = [y(set()) - y(set(one)) for one in sets]
    ma, mb = sum(a) / len(a), sum(b) / len(b)
    cov = sum((p - ma) * (q - mb) for p, q in zip(a, b, strict=True))
    return cov / math.sqrt(sum((p - ma) ** 2 for p in a) * sum((q - mb) ** 2 for q in b))


def infidelity(y, m, sets):
    """Yeh et al. 2019, definition 2.1 with the best scale and zero of the map, over the mean square of the drops."""
    columns = np.array([[sum(m[j] for j in one), len(one)] for one in sets], float)
    drop = np.array([y(set()) - y(set(one)) for one in sets])
    _, rest = scipy.optimize.nnls(np.c_[columns, -columns[:, 1]], drop)  # b >= 0, and b c of either sign
    return float(rest**2 / (drop @ drop))


def covered(pixels, fill, patches, grid):
    """A picture (3, H, W) with some patches replaced, pixel by pixel."""
    out = pixels.copy()
    (_, height, width), (gh, gw) = pixels.shape, grid
    for r in range(height):
        for c in range(width):
            if (r * gh // height) * gw + c * gw // width in patches:
                out[:, r, c] = fill[:, r, c]
    return out


def blurred(pixels, grid):
    """A Gaussian of one patch, renormalised at the edges, by sums over all pixels."""
    _, height, width = pixels.shape
    sy, sx = height / grid[0], width / grid[1]
    out = np.zeros_like(pixels)
    for r in range(height):
        for c in range(width):
            wy = np.exp(-((np.arange(height) - r) ** 2) / (2 * sy**2))
            wx = np.exp(-((np.arange(width) - c) ** 2) / (2 * sx**2))
            out[:, r, c] = (pixels @ wx) @ wy / (wy.sum() * wx.sum())
    return out
