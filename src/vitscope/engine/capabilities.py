"""What one model supports, found out by trying it on noise."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vitscope._cached import cached_property
from vitscope._messages import msg
from vitscope.attention.model_lock import exclusive
from vitscope.engine.runner import ONE_AT_A_TIME, ModelRunner
from vitscope.errors import YES, LayoutError, MethodError, Support, UnknownNameError, UnsupportedError
from vitscope.methods.base import METHODS, Method
from vitscope.methods.rollout_variants import knows_values
from vitscope.methods.targets import feature_of
from vitscope.tracing.placement import quantised_modules

log = logging.getLogger(__name__)

CAPABILITIES = ("batches", "hidden-states", "token-grids", "order-free", "patch-dropping", "values")


class Capabilities:
    """What one model supports; each answer is found once, by a few forwards at most."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner

    def supports(self, name: str) -> Support:
        """Answer for a capability or a method; see `Scope.supports`."""
        name = str(name)
        if name in CAPABILITIES:
            answer: Support = getattr(self, name.replace("-", "_"))
        else:
            methods = dict(METHODS)
            if name not in methods:
                kind = msg("engine.capability-or-method", "capability or method")
                raise UnknownNameError(kind, name, (*CAPABILITIES, *methods))
            return self.at_own_size(methods[name])
        return replace(answer, name=name)

    @property
    def batches(self) -> Support:
        """Can several images go through one forward?"""
        return YES if self._runner.adapter.supports_batches else Support.no(ONE_AT_A_TIME)

    @cached_property
    def hidden_states(self) -> Support:
        """Can the tokens between the blocks be read and replaced?"""
        return _possible(self._runner.require_blocks)

    @cached_property
    def token_grids(self) -> Support:
        """Can the patch tokens of single layers be laid on the image, on whatever grid a layer has?"""
        return self.hidden_states or _possible(self._runner.block_map)

    @cached_property
    def order_free(self) -> Support:
        """Do the blocks know positions from the tokens alone, so that tokens can be left out or moved?"""
        if not self.hidden_states:
            return self.hidden_states
        runner, blocks = self._runner, self._runner.require_blocks()
        pixels = runner.trial_pixels()
        layout = runner.adapter.layout((pixels.shape[2], pixels.shape[3]))
        prefix, tokens = len(layout.prefix), layout.tokens
        shuffled = torch.randperm(tokens - prefix, generator=torch.Generator().manual_seed(0), device="cpu")
        order = torch.cat([torch.arange(prefix, device="cpu"), prefix + shuffled]).to(runner.device)
        plain = feature_of(runner.answer(pixels)).float()
        with blocks.select_tokens(order.expand(2, -1)):
            moved = feature_of(runner.answer(pixels)).float()
        same = torch.allclose(plain, moved, rtol=1e-2, atol=1e-3 * float(plain.abs().max()))
        log.debug(
            "%s: the answer %s when tokens are shuffled", runner.adapter.reference, "stays" if same else "changes"
        )
        kept = (torch.arange(tokens - prefix, device=runner.device) % 2 == 0).expand(2, -1)
        try:
            with blocks.keep_patches(kept):
                runner.answer(pixels)
        except (RuntimeError, ValueError, IndexError):  # a bias or rotation as long as all tokens
            same = False
        return YES if same else Support.no(_QUANTISED if quantised_modules(runner.model) else _POSITIONS)

    @cached_property
    def patch_dropping(self) -> Support:
        """Can patch tokens be left out, all of them too?"""
        if not self.order_free:
            return self.order_free
        runner = self._runner
        if not runner.layout.prefix:
            return Support.no(_NO_PREFIX)
        pixels = runner.trial_pixels()
        layout = runner.adapter.layout((pixels.shape[2], pixels.shape[3]))
        none = torch.zeros(len(pixels), layout.tokens - len(layout.prefix), dtype=torch.bool, device=runner.device)
        try:
            with runner.require_blocks().keep_patches(none):
                runner.answer(pixels)
        except (RuntimeError, ValueError, IndexError, MethodError):  # of no patches there is no mean
            return Support.no(_NEEDS_PATCHES)
        return YES

    @cached_property
    def values(self) -> Support:
        """Is it known what each layer does with the values that attention weighs?"""
        store = self._runner.forward(self._runner.trial_pixels()[:1], values=True).store
        return next((answer for block in store.blocks if not (answer := knows_values(block))), YES)

    @cached_property
    def gradients(self) -> Support:
        """Do gradients go from its answer back to the pixels, through all of its modules?"""
        runner = self._runner
        called: dict[str, tuple[Tensor, Tensor]] = {}

        def watch(module: nn.Module, args: tuple[Any, ...], answer: Any) -> None:
            if isinstance(answer, Tensor) and args and isinstance(args[0], Tensor) and args[0].requires_grad:
                called[_class_of(module)] = args[0], answer

        modules = quantised_modules(runner.model)
        packed = {_class_of(module) for module in modules if hasattr(module, "_packed_params")}  # torch has no backward
        reached = True
        with exclusive(runner.model) as changes:
            for module in modules:
                changes.hook(module, watch)
            if not packed:
                answer = runner.forward(runner.trial_pixels()[:1], gradients=True).answer
                reached = answer.requires_grad
        blocked = packed | {name for name, (given, made) in called.items() if not _differentiable(given, made)}
        if not blocked and not reached:
            return Support.no(_NO_GRAPH)
        if not blocked:
            return YES
        return Support.no(
            msg(
                "engine.no-backward",
                "no gradient goes back through {modules}, whose weights are quantised",
                modules=", ".join(sorted(blocked)),
            )
        )

    def at_own_size(self, method: Method) -> Support:
        """Answer whether a method applies; yes with a reason where it does so at a smaller input only."""
        answer, tokens, most = self.method(method), self._runner.layout.tokens, method.most_tokens
        if answer and most is not None and tokens > most:
            reason = msg(
                "engine.smaller-size-only",
                "only with a smaller {@size}: it takes up to {most} tokens, and this model has {tokens}",
                most=most,
                tokens=tokens,
            )
            answer = replace(answer, reason=reason)
        return replace(answer, name=method.name)

    def method(self, method: Method) -> Support:
        """Answer whether a method applies to this model, at some input size."""
        own = method.supports(self._runner.adapter)
        if not own:
            return own
        needed = (getattr(self, name.replace("-", "_")) for name in CAPABILITIES if name in method.requires)
        found = next((answer for answer in needed if not answer), YES)
        return self.gradients if found and "gradient" in method.requires else found


_POSITIONS = msg(
    "engine.positions-in-blocks",
    "its blocks know positions themselves (position bias or rotation): tokens cannot be left out",
)
_QUANTISED = msg(
    "engine.positions-or-quantised",
    "its answer changes when its tokens are shuffled: its blocks know positions themselves (position bias or "
    "rotation), or round differently then, as 8-bit modules do",
)
_NO_GRAPH = msg(
    "engine.no-graph",
    "no gradient goes from its answer back to the pixels: a part of it runs under torch.no_grad, or detaches its "
    "result",
)
_NEEDS_PATCHES = msg("engine.needs-patches", "without any patch token the model has no answer")
_NO_PREFIX = msg("engine.no-token-left", "without its patch tokens the model has no token left")


def _class_of(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__name__}"


def _differentiable(given: Tensor, made: Tensor) -> bool:
    if not made.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(made.sum(), given, allow_unused=True, retain_graph=True)
    return gradient is not None


def _possible(find: Callable[[], object]) -> Support:
    """Turn a demand into a question."""
    try:
        find()
    except (UnsupportedError, LayoutError) as error:
        return Support.no(error.message)
    return YES
