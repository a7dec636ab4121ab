"""Stability: whether the map stays the same under small noise."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.metrics.faithfulness import DRAWS, MeasureResult
from vitscope.metrics.measurement import Number, compare_with_random
from vitscope.metrics.ranking import rank_map, shuffled_maps, spearman

RADIUS = 0.02  # of the range from black to white
NOISE_SAMPLES = 8
STABILITY_NUMBERS = ("max-sensitivity", "stability")


def stability(
    values: Float[np.ndarray, "gh gw"],
    explain_again: Callable[[Tensor], Float[np.ndarray, "gh gw"]],
    pixels: Float[Tensor, "C Hi Wi"],
    span: Float[Tensor, "C Hi Wi"],
    *,
    n_random_maps: int = DRAWS,
    seed: int = 0,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> list[Number]:
    """Measure max-sensitivity (Yeh et al. 2019, definition 3.1) and the mean rank correlation under small noise.

    Formula: `max_i |m(x + e_i) - m(x)|_2 / |m(x)|_2` and `mean_i spearman(m(x + e_i), m(x))`, e_i uniform in
    `[-r, r]` times the range from black to white of each pixel, r = 0.02, i = 1 ... 8. Random maps are this map's
    values in other orders.

    Args:
        values: the map.
        explain_again: makes the map of pixels `(C, Hi, Wi)` as that one was made.
        pixels: the image as the model gets it.
        span: white minus black, as the model gets them.
        n_random_maps: the number of random maps.
        seed: draws noise and random maps.
        tick: called with (done, total).

    Cost: 8 explanations.
    Limits: a constant map is perfectly stable; noise of one size and kind stands for all.
    """
    draw = torch.Generator().manual_seed(seed)
    maps = []
    for number in range(NOISE_SAMPLES):
        noise = (2 * torch.rand(pixels.shape, generator=draw, dtype=torch.float64, device="cpu") - 1).to(pixels)
        maps.append(explain_again(pixels + RADIUS * span * noise))
        tick(number + 1, NOISE_SAMPLES)
    change, alike = _changes(values, np.stack(maps))
    one = rank_map(values, seed)
    grid = values.shape
    others = [
        _changes(first.values.reshape(grid), np.stack([m.values.reshape(grid) for m in rest]))
        for number, first in enumerate(shuffled_maps(one, n_random_maps, seed))
        for rest in [shuffled_maps(first, NOISE_SAMPLES, seed + 1 + number)]
    ]
    detail = {"radius": RADIUS, "samples": NOISE_SAMPLES}
    worst = MeasureResult(float(change.max()), detail=detail | {"each": change.tolist()})
    mean = MeasureResult(float(alike.mean()), detail=detail | {"each": alike.tolist()})
    return [
        compare_with_random(
            "max-sensitivity", "stability", "lower", worst, [float(c.max()) for c, _ in others], possible=(0.0, None)
        ),
        compare_with_random(
            "stability", "stability", "higher", mean, [float(a.mean()) for _, a in others], possible=(-1.0, 1.0)
        ),
    ]


def _changes(values: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return other maps' distances from this one, relative to its norm, and their rank correlations with it."""
    values, others = values.astype(np.float64), others.astype(np.float64)
    norm = float(np.linalg.norm(values)) or 1.0
    return np.linalg.norm((others - values).reshape(len(others), -1), axis=1) / norm, spearman(
        others, np.broadcast_to(values, others.shape)
    )
