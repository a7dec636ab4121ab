"""Per-head maps, all-queries attention, the logit lens and attention statistics of one image.

Each function does the work of a method of `Scope`, which documents the arguments.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from vitscope._messages import msg
from vitscope._numbers import is_whole
from vitscope.attention import AttentionStore, vecmat_heads
from vitscope.attention.model_lock import lending
from vitscope.attention.transformer_blocks import HiddenStates
from vitscope.engine.engine import Engine
from vitscope.engine.options import Options, Progress, one_target
from vitscope.engine.ranges import checked
from vitscope.engine.request import Request
from vitscope.engine.runner import alone
from vitscope.errors import UnsupportedError, UsageError
from vitscope.explanation import Explanation
from vitscope.images import ImageLike, reusable
from vitscope.methods.attention import attention
from vitscope.methods.base import METHODS
from vitscope.methods.targets import SimilarTo, Target, feature_of, similar_to
from vitscope.metrics.attention_statistics import Statistics
from vitscope.metrics.attention_streaming import compute_statistics
from vitscope.metrics.head_importance import head_importance
from vitscope.models.options import refuse_load_options

_OF_METHODS = ("options", "gradient_rule", "refine", "target", "caveat")


@checked()
@alone
def attention_heads(engine: Engine, image: ImageLike, layer: int, size: int | None) -> list[Explanation]:
    """Explain with each head of a layer; see `Scope.attention_heads`."""
    ready, method = engine.prepare(image, size=size), METHODS.get("attention")
    store = engine.forward(ready.pixels[None]).store
    if store.chain is None:
        rows = vecmat_heads(store[layer], store.readout_weights())[0]
    else:
        rows = torch.cat([attention(store, layer=layer, head=head) for head in range(store[layer].shape[1])])
    results = []
    for head, row in enumerate(rows.float().cpu().numpy()):
        params = {"layer": store.select(layer)[0], "head": head}
        request = Request(Options("attention", size=size), method, params)
        record = engine.provenance(request, ready.picture, size=ready.region.input)
        results.append(engine.explanation(request, store, row, 0, ready, record))
    return results


@alone
def attention_store(engine: Engine, images: Sequence[ImageLike], size: int | None) -> AttentionStore:
    """Return all attention of one forward of images of one input size; see `Scope.attention`."""
    ready = [engine.prepare(image, size=size).pixels for image in images]
    if not ready:
        raise UsageError(msg("engine.no-images", "the list of images is empty"))
    if len({pixels.shape for pixels in ready}) > 1:
        raise UsageError(
            msg("engine.sizes-differ", "the images have different input sizes"),
            msg("engine.sizes-differ.hint", "pass one at a time, or crop them to one shape"),
        )
    return engine.forward(torch.stack(ready)).store


@alone
def queries(
    engine: Engine, image: ImageLike, method: str, size: int | None, chunk: int, params: dict[str, Any]
) -> np.ndarray:
    """Return what every token attends to; see `Scope.queries`."""
    chosen = METHODS.get(method)
    if chosen.runs_model:
        raise UsageError(
            msg("engine.no-queries", "the method '{method}' does not read attention alone", method=method),
            msg("engine.no-queries.hint", "use attention or rollout"),
        )
    refuse_load_options(params.keys() - chosen.options.keys())
    given = chosen.check({**params, "query": "readout"})
    if not is_whole(chunk, 1):
        raise UsageError(msg("engine.chunk", "{@chunk} is an integer of at least 1, not {chunk}", chunk=repr(chunk)))
    store = attention_store(engine, [image], size)
    count = store.layout.tokens if store.layout else 0
    with torch.no_grad():
        parts = [
            chosen.run(store.with_queries(range(start, min(start + chunk, count))), **given)
            for start in range(0, count, chunk)
        ]
    return np.concatenate([part.float().cpu().numpy() for part in parts])  # type: ignore[union-attr]


@checked()
@alone
def logit_lens(
    engine: Engine, image: ImageLike, target: Target, size: int | None, progress: Progress | None
) -> list[Explanation]:
    """Explain with the logit lens of every layer; see `Scope.logit_lens`."""
    target = one_target(target)
    if not (support := engine.supports("logit-lens")):
        raise UnsupportedError(
            msg("engine.logit-lens", "the logit lens does not apply: {reason}", reason=support.reason)
        )
    blocks, ready = engine.require_blocks(), engine.prepare(image, size=size)
    forward = engine.forward(ready.pixels[None], tokens=True)
    assert isinstance(forward.states, HiddenStates)
    results = []
    for number in range(len(forward.store)):
        options = Options("logit-lens", target, size=size, method_options={"layer": number})
        (e,) = engine.explain(ready, options, progress)
        with blocks.skip(forward.states.at(number + 1).detach()):
            answer = engine.answer(forward.pixels)
        score = float(engine.scorer(target, forward.answer, [ready.region])(answer)[0])
        results.append(replace(e, predictions=engine.predictions(answer), score=score))
    return results


def compare(
    engine: Engine, one: ImageLike, two: ImageLike, options: Options, progress: Progress | None
) -> tuple[Explanation, Explanation]:
    """Explain which regions make two images alike, on both; see `Scope.compare`."""
    if options.all_targets != [None]:
        raise UsageError.coded("engine.compare-target", "each image is the other's target", "leave the target out")
    if "target" not in METHODS.get(options.method).requires:
        raise UsageError(
            msg("engine.compare-method", "the method '{method}' has no target", method=options.method),
            msg("engine.compare-method.hint", "use relevance or another that has one"),
        )
    one, two = (reusable(image, **engine.adapter.reading) for image in (one, two))
    ((first,), (second,)) = (
        engine.explain(image, replace(options, target=similar_to(other)), progress)
        for image, other in ((one, two), (two, one))
    )
    return first, second


@checked()
@alone
def statistics(
    engine: Engine, image: ImageLike, options: Options, importance: bool = False, progress: Progress | None = None
) -> Statistics:
    """Measure attention by layer and head; see `Scope.statistics`."""
    target = one_target(options.target)
    if not importance and target is not None:
        raise UsageError(
            msg("engine.target-without-importance", "a target changes nothing but importance"),
            msg("engine.target-without-importance.hint", "add {@importance=True}, or leave the target out"),
        )
    if engine.layout.planes is not None:
        raise UnsupportedError.coded(
            "engine.statistics-of-planes", "attention is measured by distances on an image, and this model takes none"
        )
    ready = engine.prepare(image, size=options.size)
    forward, drops = engine.forward(ready.pixels[None], tokens=engine.blocks is not None), None
    if importance:
        own = target is None and not engine.adapter.classifies(forward.answer) and not engine.adapter.dense
        followed = SimilarTo("the whole model's feature", feature_of(forward.answer)) if own else target
        scorer = engine.scorer(followed, forward.answer, [ready.region])
        tick = partial(lending(progress), "importance") if progress is not None else lambda done, total: None
        drops = head_importance(
            forward.store, engine.model, forward.pixels, scorer, engine.answer, options.batch_size, tick
        )
    record = engine.provenance(Request(options, METHODS.get("attention"), {}), ready.picture, size=ready.region.input)
    record = {name: value for name, value in record.items() if name not in _OF_METHODS}
    states = forward.states if isinstance(forward.states, HiddenStates) else engine.supports("hidden-states").reason
    return compute_statistics(forward.store, ready.region, states, importance=drops, provenance=record)
