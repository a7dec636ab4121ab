"""Walk through the widely copied recipe step by step, beside attention rollout as published: `Scope.recipe`."""

from dataclasses import replace

import numpy as np
import torch

from vitscope.attention import AttentionStore, pooled_matrix
from vitscope.attention.model_lock import lending
from vitscope.engine.engine import Engine
from vitscope.engine.options import Options, Progress
from vitscope.engine.ranges import checked
from vitscope.engine.runner import alone
from vitscope.evaluation.evaluate import ScoreCache, measure, quick_options
from vitscope.evaluation.recipe_page import Recipe, Walk
from vitscope.images import ImageLike
from vitscope.methods.notebook_recipe import notebook_recipe
from vitscope.methods.rollout import rollout


@checked(seed=(0, 2**62), seconds=(0, 1e9))
@alone
def recipe(
    engine: Engine,
    image: ImageLike,
    *,
    layer: int = -1,
    size: int | None = None,
    as_published: bool = False,
    measured: bool = True,
    seconds: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Recipe:
    """Make every step of the copied recipe and of rollout on one image.

    Args:
        engine: the model.
        image: one image.
        layer: the layer whose heads are shown.
        size: input size, as in `Options`.
        as_published: the copied recipe alone.
        measured: also measure both maps by deletion and infidelity, as a page of the viewer does.
        seconds: draw no more random maps of a map after so long.
        seed: of the measurements.
        progress: called with (name, done, total).

    Raises:
        UnsupportedError: a model without a CLS token, or whose layers do not all see the same tokens.
        UsageError: no such layer.

    Cost: one forward and, for L layers, `L (L + 1)` products with attention; measuring takes up to 90 forwards.
    """
    methods = ("notebook-recipe",) if as_published else ("rollout", "notebook-recipe")
    with engine.shared_forwards(), torch.no_grad():
        ready = engine.prepare(image, size=size)
        results = [engine.explain(ready, Options(name, size=size))[0] for name in methods]
        store = engine.forward(ready.pixels[None]).store
        assert store.layout is not None
        number = store.select(layer)[0]
        heads, pooled = pooled_matrix(store[number])
        walks = []
        for count, result in enumerate(results):
            maps = []
            for depth in range(1, len(store) + 1):
                row = _after(store, depth, copied=result.method == "notebook-recipe")
                maps.append(store.layout.patches(row.float().cpu().numpy()))
                if progress:
                    lending(progress)("recipe", count * len(store) + depth, len(results) * len(store))
            walks.append(Walk(result, np.stack(maps)))
    if measured:
        cache: ScoreCache = {}
        walks = [
            replace(
                walk,
                measurement=measure(
                    engine,
                    walk.result,
                    seconds=seconds,
                    seed=seed,
                    score_cache=cache,
                    progress=progress,
                    **quick_options(walk.result),
                ),
            )
            for walk in walks
        ]
    facts = {**engine.adapter.describe(), "tokens": f"{store.layout.tokens}: {store.layout}"}
    return Recipe(number, heads[0].float().cpu().numpy(), pooled, tuple(walks), facts)


def _after(store: AttentionStore, depth: int, *, copied: bool) -> torch.Tensor:
    """Return the relevance of all tokens `(N,)` as if the first `depth` layers were all."""
    if copied:
        return notebook_recipe(replace(store, blocks=store.blocks[:depth]))[0]
    return rollout(store, layers=slice(depth))[0]
