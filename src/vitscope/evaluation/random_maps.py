"""Draw random maps until every verdict of a map stands, and not one more."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import numpy as np
from jaxtyping import Float, Float64

from vitscope.metrics.faithfulness import Measure, MeasureResult, MeasureSettings
from vitscope.metrics.measurement import Bounds, Number, compare_with_random
from vitscope.metrics.perturb import Probe
from vitscope.metrics.ranking import RankedMap, rank_map, shuffled_maps

_FIRST, _ROUND = 2, 4  # random maps whose masked images go through the model together
_REORDERED = 5  # random maps of measures that make many of few


class _TimeIsUp(Exception):
    """The time for drawing random maps is over."""


def compare_scores(
    probe: Probe,
    values: Float[np.ndarray, "gh gw"],
    measures: Sequence[Measure],
    settings: MeasureSettings,
    n_random_maps: int,
    until: float,
    ends: Callable[[Measure], Bounds],
    tick: Callable[[int, int], None],
) -> tuple[list[Number], float, int]:
    """Measure a map and random maps, which are drawn until every measure has its verdict.

    A measure whose verdict stands takes no forward more. Since it stands only where all of `n_random_maps` would give
    the same (`Number.verdict`), looking after each round makes no false alarm likelier.

    Args:
        probe: the image.
        values: the map.
        measures: what to measure.
        settings: their resolution.
        n_random_maps: how many to draw at most.
        until: by `time.monotonic()`, when to draw no more after the first two.
        ends: the least and the largest possible number of a measure.
        tick: called with (done, total as far as known) forwards.

    Returns:
        The numbers in the order of `measures`, the score with everything replaced, and how many forwards that took.
    """
    one, forwards = rank_map(values, settings.seed), 0

    def scores_of(masks: list[np.ndarray], limit: float = math.inf) -> Iterator[Float64[np.ndarray, " _"]]:
        before = forwards

        def limited(done: int, total: int) -> None:
            nonlocal forwards
            forwards = before + done
            if time.monotonic() > limit:
                raise _TimeIsUp
            tick(forwards, before + total)

        return iter(probe.scores(masks, limited)[0])

    few = shuffled_maps(one, min(n_random_maps, _REORDERED), settings.seed)
    asked: list[tuple[Measure, list[RankedMap]]] = [(m, few if m.random_values else []) for m in measures]
    masks = [m.masks(each, settings) for m, others in asked for each in (one, *others)]
    scores = scores_of([np.ones((1, settings.patches), bool), *masks])
    empty = float(next(scores)[0])
    found: dict[str, list[MeasureResult]] = {}
    numbers: dict[str, Number] = {}
    for measure, others in asked:
        own = [next(scores) for _ in range(1 + len(others))]
        found[measure.name] = [measure.value(one, own[0], settings)]
        if measure.random_values is not None:
            randoms = measure.random_values([one, *others], own, settings)
            numbers[measure.name] = _compared(measure, found[measure.name][0], randoms, ends)
    drawn, waiting = 0, [m for m in measures if m.random_values is None]
    with suppress(_TimeIsUp):
        while waiting and drawn < n_random_maps:
            count = min(drawn + (_ROUND if drawn else _FIRST), n_random_maps)
            fresh = shuffled_maps(one, count, settings.seed, drawn)
            limit = until if drawn else math.inf
            scores = scores_of([m.masks(other, settings) for m in waiting for other in fresh], limit)
            for measure in waiting:
                found[measure.name] += [measure.value(other, next(scores), settings) for other in fresh]
                own_result, *of_others = found[measure.name]
                randoms, curves = [o.value for o in of_others], [o.y for o in of_others]
                numbers[measure.name] = _compared(measure, own_result, randoms, ends, n_random_maps, curves)
            drawn, waiting = count, [m for m in waiting if numbers[m.name].needed]
    return [numbers[measure.name] for measure in measures], empty, forwards


def _compared(
    measure: Measure,
    own: MeasureResult,
    randoms: Sequence[float],
    ends: Callable[[Measure], Bounds],
    planned: int = 0,
    curves: Sequence[Sequence[float]] = (),
) -> Number:
    return compare_with_random(
        measure.name,
        "faithfulness",
        measure.better,
        own,
        randoms,
        planned=planned,
        possible=ends(measure),
        curves=curves,
    )
