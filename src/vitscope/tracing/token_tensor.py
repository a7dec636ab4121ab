"""Shadows: tensors that stand for tokens while a model's own code runs as the averaged network.

A shadow has the shape of the tensor it stands for, and instead of features one number for each token, repeated over
its channels. Each shadow remembers which attention calls have mixed its tokens.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["AttentionTensor", "Plan", "TokenTensor", "attend", "one", "residual", "shadow_of", "tensors_in", "thinly"]

Attend = Callable[[int, Tensor], Tensor]


class TokenTensor(Tensor):
    """Stands for a tensor of tokens.

    Attributes:
        marks: numbers of the attention calls whose result is in here; settled: those that a residual has taken in.
        product: made by multiplying tokens with tokens, as attention scores are; its values mean nothing.
        valid: just after padding, 0 where there is padding.
    """

    marks: frozenset[int]
    settled: frozenset[int]
    product: bool
    valid: Tensor | None


class AttentionTensor(Tensor):
    """Stands for the attention matrix that call number `event` made; its values mean nothing."""

    event: int


def shadow_of(values: Tensor, *parents: Any, product: bool = False) -> TokenTensor:
    """`values` as a shadow that inherits what its parents remember."""
    shadow = values.as_subclass(TokenTensor)
    shadow.marks = frozenset().union(*(p.marks for p in parents))
    shadow.settled = frozenset().union(*(p.settled for p in parents))
    shadow.product, shadow.valid = product, None
    return shadow


def wrapped(value: Any, parents: list[TokenTensor]) -> Any:
    """A result as tokens, part by part, made of those shadows."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return shadow_of(value, *parents, product=any(p.product for p in parents))
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return type(value)(wrapped(part, parents) for part in value)
    return value


def alike(args: Any, given: list[Tensor]) -> Any:
    """Arguments in which attention has the type of the weights beside it."""
    kinds = [t.dtype for t in given if t.is_floating_point() and not isinstance(t, AttentionTensor)]
    return tuple(a.to(kinds[0]) if kinds and isinstance(a, AttentionTensor) else a for a in args)


def as_probs(value: Any, event: int) -> Any:
    """A result as attention of that call, part by part."""
    if isinstance(value, Tensor) and value.is_floating_point():
        probs = value.as_subclass(AttentionTensor)
        probs.event = event
        return probs
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return type(value)(as_probs(part, event) for part in value)
    return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_in(part)


@dataclass
class Plan:
    """What the backward pass through the averaged network multiplies with; changed between passes.

    Attributes:
        keep, mix: weights of a residual's two ends, `keep * skip + mix * branch`.
        active: the attention calls that take part; a residual around any other one hands everything to its skip.
        attend: `attend(event, r)` takes weights of that call's queries to weights of its keys.
        told: what calls hand on forward, one number for each query: then a residual keeps, token by token, as much as
            its branch says, instead of `keep`, and `mix` is 1. For a network that is run with it.
    """

    keep: float = 1.0
    mix: float = 0.0
    active: frozenset[int] = frozenset()
    attend: Attend = field(default=lambda event, r: r)
    told: Mapping[int, Tensor] = field(default_factory=dict)


class _Residual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, skip: Tensor, branch: Tensor, plan: Plan, events: frozenset[int]) -> Tensor:
        ctx.plan, ctx.events = plan, events
        ctx.kept = branch.detach() if events & plan.told.keys() else None
        return skip.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        plan: Plan = ctx.plan
        if not ctx.events & plan.active:
            return grads[0], None, None, None
        if ctx.kept is not None:
            return ctx.kept * grads[0], grads[0], None, None
        return plan.keep * grads[0], plan.mix * grads[0], None, None


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, queries: int, plan: Plan, event: int) -> Tensor:
        ctx.plan, ctx.event, ctx.shape = plan, event, value.shape
        if event in plan.told:
            told = plan.told[event].to(value.dtype).reshape(*value.shape[:-2], queries, 1)
            return told.expand(*value.shape[:-2], queries, value.shape[-1])
        return value.mean(-2, keepdim=True).expand(*value.shape[:-2], queries, value.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        weight = ctx.plan.attend(ctx.event, grads[0].sum(-1))
        width = ctx.shape[-1]
        return (weight[..., None] / width).expand(ctx.shape), None, None, None


class _One(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: int) -> Tensor:
        ctx.axis, ctx.shape = axis, x.shape
        return x.narrow(axis, 0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return (grads[0] / ctx.shape[ctx.axis]).expand(ctx.shape), None


def one(x: Tensor, axis: int) -> Tensor:
    """The one entry that `x`, expanded along `axis`, has there: its gradient goes to all in equal parts, unwritten."""
    out: Tensor = _One.apply(x, axis)
    return out


def residual(skip: Tensor, branch: Tensor, plan: Plan, events: frozenset[int]) -> Tensor:
    """`skip` forward; backward as the plan says."""
    out: Tensor = thinly(lambda a, b: _Residual.apply(a, b, plan, events), skip, branch)
    return out


def thinly(run: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """A pointwise function of tensors, run once where all of them repeat themselves along an axis.

    Channels of a shadow are mostly one number, expanded: memory and time are then those of one channel.
    """
    shape = tensors[0].shape
    if any(t.shape != shape for t in tensors):
        return run(*tensors)
    same = [axis for axis, size in enumerate(shape) if size > 1 and not any(t.stride(axis) for t in tensors)]
    for axis in same:
        tensors = tuple(one(t, axis) for t in tensors)
    out = run(*tensors)
    return out.expand(shape) if same else out


def attend(value: Tensor, queries: int, plan: Plan, event: int) -> Tensor:
    """`(..., M, D)` to `(..., queries, D)`: the mean forward; backward through the attention of that call."""
    out: Tensor = _Attend.apply(value, queries, plan, event)
    return out


def parameter_names(model: nn.Module) -> dict[int, str]:
    """Parameters and buffers by where their numbers lie, so that a view of one can be named."""
    named = [*model.named_buffers(), *model.named_parameters()]
    return {tensor.untyped_storage().data_ptr(): name for name, tensor in named}
