"""Bootstrap intervals of numbers over scenes, and paired tests of two methods on the same scenes. Numpy only.

Both generalise to scenes like those drawn. Scenes that share an object or a background are not independent of each
other, so the numbers say nothing about other objects.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Num

from vitscope._documents import Count, Share
from vitscope._messages import msg
from vitscope.errors import UsageError

_LEVEL = (2.5, 97.5)
_PART = 1 << 22  # numbers drawn at a time


@dataclass(frozen=True)
class Estimate:
    """A number over scenes and its 95 % interval.

    Attributes:
        value: the number over all scenes.
        low: 2.5th percentile of the resampled numbers.
        high: the 97.5th.
        count: the number of scenes.
    """

    value: float
    low: float
    high: float
    count: Count


@dataclass(frozen=True)
class Difference:
    """One method minus another on the same scenes.

    Attributes:
        value: mean difference.
        low: lower end of its bootstrap 95 % interval.
        high: upper end.
        p: how often a random choice of signs gives a mean difference at least as far from zero, on both sides.
        exact: all choices of signs were tried, not a sample of them.
    """

    value: float
    low: float
    high: float
    p: Share
    exact: bool


def bootstrap(
    values: Num[np.ndarray, "n ..."],
    statistic: Callable[[np.ndarray], float] | None = None,
    *,
    seed: int = 0,
    draws: int = 2000,
) -> Estimate:
    """Return a statistic of scenes with its percentile bootstrap interval (Efron & Tibshirani 1993, section 13.3).

    Args:
        values: one row per scene.
        statistic: from rows to a number; by default the mean.
        seed: draws the scenes, with replacement; results repeat to the digit.
        draws: the number of resamples.

    Raises:
        UsageError: no scenes.

    Limits: percentiles of few scenes are narrow: with 10 scenes they cover some 90 %, not 95.
    """
    values = np.asarray(values, np.float64)
    count = len(values)
    if count == 0:
        raise UsageError(msg("metrics.no-scenes", "there are no scenes to average over"))
    rng = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    for start in range(0, draws, part := max(1, _PART // max(values.size, 1))):
        rows = rng.integers(0, count, (min(part, draws - start), count))
        if statistic is None:
            found.append(values[rows].mean(1))
        else:
            found.append(np.array([statistic(values[row]) for row in rows]))
    low, high = np.percentile(np.concatenate(found), _LEVEL)
    value = float(values.mean()) if statistic is None else float(statistic(values))
    return Estimate(value, float(low), float(high), count)


def paired(
    ours: Float[np.ndarray, " n"], theirs: Float[np.ndarray, " n"], *, seed: int = 0, draws: int = 10_000
) -> Difference:
    """Test the mean difference on the same scenes by permuting signs (Fisher 1935, section 21).

    If neither method were better, each scene's difference could as well have the other sign. With n scenes there are
    2^n choices of signs: all are tried where they are at most `draws`, else `draws` random ones, and
    `p = (1 + those at least as far from zero) / (1 + draws)`, which is never 0.

    Raises:
        UsageError: no scenes, or not the same number for both.
    """
    if len(ours) != len(theirs) or len(ours) == 0:
        raise UsageError.coded(
            "metrics.unpaired",
            "a paired test needs the same scenes for both methods, not {ours} and {theirs}",
            ours=len(ours),
            theirs=len(theirs),
        )
    difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    estimate = bootstrap(difference, seed=seed)
    count, size = len(difference), np.abs(difference)
    far = abs(float(difference.mean())) * (1 - 1e-12)
    exact = count < 60 and 2**count <= draws
    if exact:
        flips = np.arange(2**count)[:, None] >> np.arange(count) & 1
        p = float((np.abs(_signed_means(flips, size)) >= far).mean())
    else:
        rng, beyond = np.random.default_rng([seed, 1]), 0
        for start in range(0, draws, part := max(1, _PART // count)):
            flips = rng.integers(0, 2, (min(part, draws - start), count))
            beyond += int((np.abs(_signed_means(flips, size)) >= far).sum())
        p = (1 + beyond) / (1 + draws)
    return Difference(estimate.value, estimate.low, estimate.high, p, exact)


def holm(ps: Sequence[float]) -> list[float]:
    """Correct several p-values by Holm's step-down method (Holm 1979): the chance of any false alarm keeps the level.

    The smallest of k is multiplied by k, the next by k - 1, and so on; none falls below the one before or exceeds 1.
    """
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, number in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[number]))
        adjusted[number] = highest
    return adjusted


def _signed_means(flips: np.ndarray, size: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " d"]:
    means: np.ndarray = (1 - 2 * flips) @ size / len(size)
    return means
