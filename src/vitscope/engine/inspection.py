"""What else can be looked at in one picture: every head, every query, every layer's reading, attention in numbers.

Each function is the body of a method of `Scope`; it stands beside the pipeline, whose stages it calls.
"""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vitscope.attention import vecmat_heads
from vitscope.attention.transformer_blocks import HiddenStates, TransformerBlocks
from vitscope.engine.options import Options, Progress
from vitscope.errors import MethodError, UsageError
from vitscope.explanation import Explanation
from vitscope.images import ImageLike, load_image
from vitscope.methods.attention import attention
from vitscope.methods.base import METHODS
from vitscope.methods.targets import SimilarTo, Target, feature_of, similar_to
from vitscope.metrics.attention_statistics import Statistics
from vitscope.metrics.attention_streaming import statistics_of
from vitscope.metrics.head_importance import head_importance

if TYPE_CHECKING:
    from vitscope.scope import Scope

__all__ = ["attention_heads", "compare", "logit_lens", "queries", "statistics"]

_OF_METHODS = ("options", "gradient_rule", "refine", "target", "caveat")


def attention_heads(scope: "Scope", image: ImageLike, layer: int, size: int | None) -> list[Explanation]:
    """One explanation for each head of a layer; see `Scope.attention_heads`."""
    picture, method = load_image(image), METHODS.get("attention")
    pixels, region = scope._prepared(picture, size)
    store = scope._forward([pixels]).store
    if store.chain is None:
        rows = vecmat_heads(store[layer], store.readout_weights())[0]
    else:
        rows = torch.cat([attention(store, layer=layer, head=head) for head in range(store[layer].shape[1])])
    results = []
    for head, row in enumerate(rows.float().cpu().numpy()):
        params = {"layer": store.select(layer)[0], "head": head}
        told = scope._told(Options("attention", size=size), method, params, None, picture)
        results.append(scope._explanation(method, store, row, 0, picture, region, told))
    return results


def queries(
    scope: "Scope", image: ImageLike, method: str, size: int | None, chunk: int, params: dict[str, Any]
) -> np.ndarray:
    """What every token attends to; see `Scope.queries`."""
    chosen = METHODS.get(method)
    if chosen.on_subject:
        raise UsageError(f"the method '{method}' does not read attention", "ask attention or rollout")
    given = chosen.check({**params, "query": "readout"})
    store = scope.attention(image, size=size)
    count = store.layout.tokens if store.layout else 0
    with torch.no_grad():
        parts = [
            chosen.run(store.with_queries(range(start, min(start + chunk, count))), **given)
            for start in range(0, count, chunk)
        ]
    return np.concatenate([part.float().cpu().numpy() for part in parts])  # type: ignore[union-attr]


def logit_lens(
    scope: "Scope", image: ImageLike, target: Target, size: int | None, progress: Progress | None
) -> list[Explanation]:
    """The logit lens of every layer, with what the readout says there; see `Scope.logit_lens`."""
    picture = load_image(image)
    if isinstance(target, (list, tuple)):
        raise UsageError("the lens follows one target at a time")
    if reason := scope._excuse(METHODS.get("logit-lens")):
        raise MethodError(f"the lens does not apply: {reason}")
    assert isinstance(scope.body, TransformerBlocks)
    pixels, _ = scope._prepared(picture, size)
    forward = scope._forward([pixels], tokens=True)
    assert isinstance(forward.states, HiddenStates)
    results = []
    for number in range(len(forward.store)):
        e = scope.explain(picture, method="logit-lens", layer=number, target=target, size=size, progress=progress)
        with scope.body.skip(forward.states.at(number + 1).detach()):
            answer = scope._answer(forward.pixels)
        says = scope.predictions(replace(forward.store, logits=answer)) if e.predictions else []
        score = scope._scorer(target, forward.store.answer)
        results.append(replace(e, predictions=says, score=float(score(answer)[0]) if score else None))
    return results


def compare(
    scope: "Scope", one: ImageLike, other: ImageLike, options: dict[str, Any]
) -> tuple[Explanation, Explanation]:
    """Which regions make two pictures alike, on both; see `Scope.compare`."""
    if "target" in options:
        raise UsageError("each picture is the other's target", "leave target out")
    first, second = load_image(one), load_image(other)
    if (method := METHODS.get(options.setdefault("method", "relevance"))).uses_target is False:
        raise UsageError(f"the method '{method.name}' has no target", "ask relevance or another that uses one")
    return (
        scope.explain(first, target=similar_to(other), **options),
        scope.explain(second, target=similar_to(one), **options),
    )


def statistics(
    scope: "Scope",
    image: ImageLike,
    *,
    size: int | None,
    target: Target,
    importance: bool,
    seed: int,
    batch_size: int,
    progress: Progress | None,
) -> Statistics:
    """Attention in numbers; see `Scope.statistics`."""
    if not importance and target is not None:
        raise UsageError("a target changes nothing but importance", "ask for importance=True, or leave it out")
    options = Options("attention", target, size=size, batch_size=batch_size, seed=seed)
    if options.several:
        raise UsageError("importance follows one target at a time")
    picture = load_image(image)
    pixels, region = scope._prepared(picture, size)
    forward, drops = scope._forward([pixels], tokens=isinstance(scope.body, TransformerBlocks)), None
    if importance:
        assert forward.store.answer is not None
        own = target is None and not scope.adapter.classifies(forward.store.answer)
        asked = SimilarTo("the whole model's feature", feature_of(forward.store.answer)) if own else target
        scorer = scope._scorer(asked, forward.store.answer)
        assert scorer is not None
        tick = partial(progress, "importance") if progress else lambda done, total: None
        drops = head_importance(forward.store, scope.model, forward.pixels, scorer, scope._answer, batch_size, tick)
    told = scope._told(options, METHODS.get("attention"), {}, None, picture)
    told = {name: value for name, value in told.items() if name not in _OF_METHODS}
    states = forward.states if isinstance(forward.states, HiddenStates) else str(scope.body)
    return statistics_of(forward.store, region, states, importance=drops, provenance=told)
