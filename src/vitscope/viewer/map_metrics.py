"""Deletion and infidelity of a page's maps, and the predictions while their hottest patches are removed."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from vitscope.engine.engine import Engine
from vitscope.engine.options import Progress
from vitscope.evaluation.evaluate import ScoreCache, measure, quick_options
from vitscope.explanation import Explanation
from vitscope.methods.places import QueryTarget, RegionTarget
from vitscope.metrics.measurement import Measurement
from vitscope.metrics.perturb import set_key
from vitscope.metrics.ranking import rank_map, step_counts, top_masks

_TOP = 3

Steps = list[list[list[Any]]]


class _TimeIsUp(Exception):
    """The time for measuring is over."""


def measure_maps(
    engine: Engine,
    explanations: Sequence[Explanation],
    seed: int,
    progress: Progress | None,
    seconds: float | int | None = None,
    place: QueryTarget | RegionTarget | None = None,
) -> Iterator[tuple[Measurement, Steps]]:
    """Measure deletion and infidelity of each map of one image, with predictions at each step.

    Patches are left out where the model can do without their tokens, which is also the cheapest; else they become the
    photo's mean colour. All maps share the squares of infidelity and the random maps of deletion.

    Args:
        engine: the model.
        explanations: maps of one photo.
        seed: draws the random maps.
        progress: called before each forward.
        seconds: after so long the maps that are left stay as they are; None waits for all.
        place: the target of all maps, where it says where in an answer of many places.

    Yields:
        For one map after the other, while there is time: the measurement, and for each step (label, probability) of
        the likeliest classes.

    Cost: 18 forwards for the squares of all, 2 for a map and up to 38 for the random maps of all; with at most 100
        patches 9 and 171.
    """
    cache: ScoreCache = {}
    until = math.inf if seconds is None else time.monotonic() + seconds

    def report(stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress(stage, done, total)
        if time.monotonic() > until:
            raise _TimeIsUp

    with suppress(_TimeIsUp):
        for explanation in explanations:
            measurement = measure(
                engine,
                explanation,
                target=place,
                **quick_options(explanation),
                seconds=None if seconds is None else max(until - time.monotonic(), 0),
                seed=seed,
                score_cache=cache,
                progress=report,
            )
            yield measurement, _steps(engine, explanation, cache, seed) if explanation.predictions else []


def _steps(engine: Engine, explanation: Explanation, cache: ScoreCache, seed: int) -> Steps:
    """Return what a classifier predicts at each step of deletion, from the answers that measuring it kept."""
    order = rank_map(explanation.map, seed).order
    answers = next(each for each in cache.values() if b"" not in each)  # a classifier's answers are kept whole
    masks = top_masks(order, step_counts(order.size, quick_options(explanation)["steps"]))
    likeliest = [engine.predictions(answers[set_key(mask)][None])[:_TOP] for mask in masks]
    return [[[label, share] for label, share in found] for found in likeliest]
