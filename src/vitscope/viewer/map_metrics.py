"""Deletion and insertion of a page's maps, and the predictions while their hottest patches are removed."""

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitscope.engine.engine import Engine
from vitscope.engine.options import Progress
from vitscope.evaluation.evaluate import ScoreCache, measure
from vitscope.explanation import Explanation
from vitscope.methods.places import QueryTarget, RegionTarget
from vitscope.metrics.measurement import Measurement
from vitscope.metrics.perturb import Baseline, Probe, baseline_fill
from vitscope.metrics.ranking import rank_map, step_counts, top_masks

_STEPS, _RANDOM = 10, 3
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
) -> dict[int, tuple[Measurement, Steps]]:
    """Measure deletion and insertion of each map of one image, with predictions at each step.

    Patches are left out where the model can do without their tokens, which is also the cheapest; else they become the
    photo's mean colour. All maps share the random maps' forwards.

    Args:
        engine: the model.
        explanations: maps of one photo.
        seed: draws the random maps.
        progress: called before each forward.
        seconds: after so long the maps that are left stay as they are; None waits for all.
        place: the target of all maps, where it says where in an answer of many places.

    Returns:
        By the map's number: the measurement, and for each step (label, probability) of the likeliest classes.

    Cost: 20 forwards for a map, 60 for the random maps; with classes 10 more for a map.
    """
    baseline: Baseline = "removal" if engine.supports("patch-dropping") else "mean"
    score_cache: ScoreCache = {}
    found = {}
    until = math.inf if seconds is None else time.monotonic() + seconds

    def report(stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress(stage, done, total)
        if time.monotonic() > until:
            raise _TimeIsUp

    with suppress(_TimeIsUp):
        for number, explanation in enumerate(explanations):
            measurement = measure(
                engine,
                explanation,
                target=place,
                metrics=("deletion", "insertion"),
                baseline=baseline,
                steps=_STEPS,
                n_random_maps=_RANDOM,
                seed=seed,
                score_cache=score_cache,
                progress=report,
            )
            found[number] = measurement, _steps(engine, explanation, baseline, seed) if explanation.predictions else []
    return found


def _steps(engine: Engine, explanation: Explanation, baseline: Baseline, seed: int) -> Steps:
    """Return what a classifier predicts at each step of deletion."""
    assert explanation.picture is not None
    pixels, _ = engine.prepare_pixels(explanation.picture, explanation.provenance.get("size"))
    pixels = pixels.to(engine.device, engine.dtype)
    order = rank_map(explanation.map, seed).order
    counts = step_counts(order.size, _STEPS)
    steps: Steps = []

    def run(shown: Tensor, kept: Tensor | None) -> Tensor:
        if kept is None:
            answer = engine.answer(shown)
        else:
            with engine.require_blocks().keep_patches(kept):
                answer = engine.answer(shown)
        steps.append([[label, share] for label, share in engine.predictions(answer)[:_TOP]])
        return torch.zeros(len(shown))

    fill = baseline_fill(baseline, pixels, pixels, explanation.layout.grid)
    size = (pixels.shape[1], pixels.shape[2])
    numbers = engine.layout_at(size).cell_numbers(size)
    probe = Probe(run, pixels, fill, explanation.layout.grid, 1, numbers=numbers)
    for mask in top_masks(order, counts):
        probe.scores([np.ascontiguousarray(mask[None])])
    return steps
