"""One method and all its options settled for a model, and the method run on one forward."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitscope._cached import cached_property
from vitscope._messages import msg
from vitscope.attention import AttentionStore
from vitscope.attention.capture import capture
from vitscope.attention.gradient_rules import GradientRule
from vitscope.attention.model_lock import lending
from vitscope.attention.model_modes import frozen_parameters
from vitscope.engine.auto import MethodChoice
from vitscope.engine.finite import require_finite_score
from vitscope.engine.options import Options, Progress
from vitscope.engine.runner import Forward, ModelRunner
from vitscope.engine.vanishing import require_norm_gradient, require_other_image, require_unsaturated
from vitscope.geometry import TokenLayout
from vitscope.methods.base import Method
from vitscope.methods.context import MethodContext
from vitscope.methods.refine import spread
from vitscope.methods.targets import Scorer, Target
from vitscope.render.remarks import map_remarks

Tick = Callable[[int, int], None]


@dataclass(frozen=True)
class Request:
    """What is computed of each image.

    Attributes:
        options: as they were given, with what `auto` chose.
        method: the method.
        method_options: all its own options, defaults filled in.
        choice: why this method, where vitscope chose it.
    """

    options: Options
    method: Method
    method_options: Mapping[str, Any]
    choice: MethodChoice | None = None

    @cached_property
    def rule(self) -> GradientRule:
        """How gradients go back through the model."""
        return GradientRule(self.method.gradient_rule or self.options.gradient_rule)  # type: ignore[arg-type]

    @property
    def follows_target(self) -> bool:
        """Does the computation need the target's score?"""
        return "target" in self.method.requires

    def forward(self, runner: ModelRunner, pixels: Float[Tensor, "B C Hi Wi"]) -> Forward:
        """Run the model once and keep what the method needs."""
        method = self.method
        return runner.forward(
            pixels,
            gradients="gradient" in method.requires and "own-gradient" not in method.requires,
            rule=self.rule,
            tokens=not method.requires.isdisjoint({"hidden-states", "token-grids"}) or self.options.refine != "none",
            values="values" in method.requires,
        )


@dataclass(frozen=True, eq=False)
class Relevance:
    """What a method found in a batch of images under one target.

    Attributes:
        values: relevance of each token, on the model's device.
        target: the target of each image, in words; None where the method follows none.
        score: the target's score of each image.
        notes: what must be known of each image's map.
    """

    values: Float[Tensor, "B N"]
    target: list[str] | None
    score: Float[Tensor, " B"]
    notes: list[list[str]]


def ticks_of(request: "Request", progress: Progress | None) -> Tick:
    """Return what a request calls while its method runs many forwards: the caller's function, or nothing."""
    return _silent if progress is None else partial(lending(progress), request.method.name)


def _silent(done: int, total: int) -> None:
    """Report no progress."""


def relevances(
    runner: ModelRunner, request: Request, forward: Forward, targets: "Sequence[Target | list[Target]]", tick: Tick
) -> list[Relevance]:
    """Run a method on one forward of a batch, once for each target.

    Args:
        runner: the model.
        request: the method and its options.
        forward: what `Request.forward` returned.
        targets: each for all images, or a list with one for each.
        tick: called with (done, total) while the method runs many forwards.
    """
    whole = forward.store.without_blocks() if "own-gradient" in request.method.requires else forward.store
    made = []
    for number, target in enumerate(targets):
        store = runner.read_from(whole, target, forward)
        scorer = runner.scorer(target, forward.answer) if request.follows_target else None
        score = torch.zeros(len(forward.pixels), device="cpu")
        with torch.set_grad_enabled("gradient" in request.method.requires):
            if scorer is not None:
                score = scorer(forward.answer)
                require_finite_score(score, scorer.words)
        last = number == len(targets) - 1
        check = partial(_require_gradient, runner, target, scorer.words if scorer else [], score, forward)
        if request.method.runs_model:
            context = _context(runner, request, forward, scorer, store, score, check, last, tick)
            found = request.method.run(context, **request.method_options)
        else:
            if "gradient" in request.method.requires:
                check()
                store = store.differentiate(score, last=last, lazily=True)
            with torch.no_grad():
                found = request.method.run(store, **request.method_options)
        values, own = found if isinstance(found, tuple) else (found, [])
        notes = [[note] for note in own] or [[] for _ in forward.pixels]
        values = values.detach()
        if request.options.refine == "affinity":
            values = _refined(values, forward.tokens(), len(runner.layout.prefix))
            notes = [[*one, _REFINED] for one in notes]
        beyond, level = _padding(store, request.method, values), _remarks(values, store.layout or runner.layout)
        notes = [[*one, *other, *also] for one, other, also in zip(notes, beyond, level, strict=True)]
        made.append(Relevance(values, scorer.words if scorer else None, score.detach(), notes))
    return made


def _require_gradient(
    runner: ModelRunner,
    target: "Target | list[Target]",
    words: Sequence[str],
    score: Float[Tensor, " B"],
    forward: Forward,
) -> None:
    """Raise a MethodError where the gradient of a score, which has its graph, vanishes at the images themselves."""
    targets = target if isinstance(target, list) else [target] * len(score)
    require_other_image(targets, forward.answer, score, forward.store)
    if runner.adapter.classifies(forward.answer):
        require_unsaturated(score, words, forward.answer, probabilities=runner.adapter.scores == "probabilities")
    elif None in targets:
        own = [number for number, one in enumerate(targets) if one is None]
        require_norm_gradient(runner.model, forward.answer[own], score[own], forward.store)


_NOTED_SHARE = 0.01
_REFINED = msg("engine.refined", "refined: the method's map is spread along what patches have in common")


def _padding(store: AttentionStore, method: Method, values: Float[Tensor, "B N"]) -> list[list[str]]:
    """Return a note on the weight that lies on padding, for each image where it is more than a hundredth."""
    if store.chain is None or not method.sums_to_one:
        return [[] for _ in values]
    return [
        [
            msg(
                "engine.padding",
                "{share} of the weight lies on padding that the model adds beyond the image, and is not shown",
                share=f"{share:.0%}",
            )
        ]
        if share >= _NOTED_SHARE
        else []
        for share in (1 - values.float().sum(1)).tolist()
    ]


def _remarks(values: Float[Tensor, "B N"], layout: TokenLayout) -> list[list[str]]:
    """Return what must be said of each image's patches before colours are believed."""
    patches = values[:, len(layout.prefix) :].detach().float().cpu().numpy()
    return [[*map_remarks(one.reshape(layout.shape if one.size == np.prod(layout.shape) else -1))] for one in patches]


def _context(
    runner: ModelRunner,
    request: Request,
    forward: Forward,
    scorer: Scorer | None,
    store: AttentionStore,
    score: Tensor,
    check: Callable[[], None],
    last: bool,
    tick: Tick,
) -> MethodContext:
    """Return what a method that runs the model itself is given."""

    def run(pixels: Tensor, images: Tensor) -> Tensor:
        assert scorer is not None
        with ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(pixels.requires_grad))
            if pixels.requires_grad:
                stack.enter_context(frozen_parameters(runner.model))
                stack.enter_context(capture(runner.model, gradient_rule=request.rule))
            return scorer(runner.run(pixels), images)

    options = request.options
    return MethodContext(
        store,
        forward.pixels,
        score,
        run,
        runner.answer,
        forward.states,
        runner.blocks if "hidden-states" in request.method.requires else None,
        options.seed,
        options.batch_size,
        last,
        tick,
        runner.adapter.pixel_cells((forward.pixels.shape[2], forward.pixels.shape[3])),
        check,
    )


def _refined(values: Float[Tensor, "B N"], tokens: Float[Tensor, "B N D"], prefix: int) -> Float[Tensor, "B N"]:
    return torch.cat([values[:, :prefix], spread(values[:, prefix:], tokens[:, prefix:])], 1)
