"""Tensors that carry one number for each token while a model's own code runs as the averaged network."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

AttentionBackward = Callable[[int, Tensor], Tensor]


class TokenTensor(Tensor):
    """Tokens: one number each, repeated over the channels of the tensor that this one stands for.

    Attributes:
        attended: events of the attention calls whose result is part of it.
        joined: those of `attended` whose result a residual connection added.
        product: it was made by multiplying tokens with tokens, as attention scores are; its values mean nothing.
        valid: right after padding, 0 where there is padding.
        marks: what else happened to it since the last attention: "weighted" where each token was multiplied with a
            number of its own, "shares" where a softmax that is no attention normalised it over tokens, "extreme" where
            it is the largest or smallest of several, "runs" where several runs of layers lie side by side in it,
            "gated" where it was multiplied with fewer numbers that come from the image, "ranked" where its numbers were
            sorted by size.
        factor: the number that it has just been multiplied with; 1 after any other function.
        just_joined: a residual connection has just added attention to it; pointwise functions may have followed.
    """

    attended: frozenset[int]
    joined: frozenset[int]
    product: bool
    valid: Tensor | None
    marks: frozenset[str]
    factor: float
    just_joined: bool


class ComparisonTensor(Tensor):
    """The result of a comparison of tokens; its values mean nothing."""


class AttentionTensor(Tensor):
    """The attention matrix of call number `event`; its values mean nothing."""

    event: int


class PlaceTensor(ComparisonTensor):
    """Which of some tokens is the largest, as a number: fine beside an answer, but nothing may be computed from it."""


def token_tensor(values: Tensor, *parents: Any, product: bool = False) -> TokenTensor:
    """Return `values` as tokens that inherit the attention calls of their parents."""
    tokens = values.as_subclass(TokenTensor)
    tokens.attended = frozenset().union(*(p.attended for p in parents))
    tokens.joined = frozenset().union(*(p.joined for p in parents))
    tokens.marks = frozenset().union(*(p.marks for p in parents))
    tokens.product, tokens.valid, tokens.factor, tokens.just_joined = product, None, 1.0, False
    return tokens


def token_tensors(value: Any, parents: list[TokenTensor]) -> Any:
    """Return every floating-point tensor of a result as tokens made of the parents."""
    if isinstance(value, Tensor) and value.is_floating_point():
        tokens = token_tensor(value, *parents, product=any(p.product for p in parents))
        tokens.just_joined = all(p.just_joined for p in parents)
        return tokens
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return type(value)(token_tensors(part, parents) for part in value)
    return comparison(value)


def ranked(sorted_and_places: Any) -> Any:
    """Return what sorting made of tokens, marked as such."""
    sorted_and_places[0].marks |= {"ranked"}
    return sorted_and_places


def attention_tensor(value: Any, event: int) -> Any:
    """Return every floating-point tensor of a result as the attention of call `event`."""
    if isinstance(value, Tensor) and value.is_floating_point():
        probs = value.as_subclass(AttentionTensor)
        probs.event = event
        return probs
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return type(value)(attention_tensor(part, event) for part in value)
    return comparison(value)


def comparison(value: Any) -> Any:
    """Return every boolean or integer tensor of a result as one that depends on the values of tokens."""
    if isinstance(value, Tensor) and not value.is_floating_point():
        return value.as_subclass(ComparisonTensor)
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return type(value)(comparison(part) for part in value)
    return value


def match_dtypes(args: Any, tensors: list[Tensor]) -> Any:
    """Return the arguments with attention cast to the dtype of the other tensors of the call."""
    kinds = [t.dtype for t in tensors if t.is_floating_point() and not isinstance(t, AttentionTensor)]
    return tuple(a.to(kinds[0]) if kinds and isinstance(a, AttentionTensor) else a for a in args)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Iterate over the tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_in(part)


@dataclass
class BackwardPlan:
    """What the backward pass through the averaged network multiplies with; changed between passes.

    Attributes:
        skip, branch: weights of the two ends of a residual connection, `skip * x + branch * f(x)`.
        active: events of the attention calls that take part; a residual around any other call passes everything to its
            skip connection.
        attend: `attend(event, r)` maps weights of that call's queries to weights of its keys.
        query_skips: for each event, a weight of the skip connection for each query, carried forward through the
            network; such a residual uses them in place of `skip`, with a `branch` of 1.
    """

    skip: float = 1.0
    branch: float = 0.0
    active: frozenset[int] = frozenset()
    attend: AttentionBackward = field(default=lambda event, r: r)
    query_skips: Mapping[int, Tensor] = field(default_factory=dict)


class _Residual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, skip: Tensor, branch: Tensor, plan: BackwardPlan, events: frozenset[int]) -> Tensor:
        ctx.plan, ctx.events = plan, events
        ctx.query_skips = branch.detach() if events & plan.query_skips.keys() else None
        return skip.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        plan: BackwardPlan = ctx.plan
        if not ctx.events & plan.active:
            return grads[0], None, None, None
        if ctx.query_skips is not None:
            return ctx.query_skips * grads[0], grads[0], None, None
        return plan.skip * grads[0], plan.branch * grads[0], None, None


class _AverageTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, queries: int, plan: BackwardPlan, event: int) -> Tensor:
        ctx.plan, ctx.event, ctx.shape = plan, event, value.shape
        shape = (*value.shape[:-2], queries, value.shape[-1])
        if event in plan.query_skips:
            return plan.query_skips[event].to(value.dtype).reshape(*shape[:-1], 1).expand(shape)
        return value.mean(-2, keepdim=True).expand(shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        weight = ctx.plan.attend(ctx.event, grads[0].sum(-1))
        return (weight[..., None] / ctx.shape[-1]).expand(ctx.shape), None, None, None


class _FirstAlong(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: int) -> Tensor:
        ctx.axis, ctx.shape = axis, x.shape
        return x.narrow(axis, 0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return (grads[0] / ctx.shape[ctx.axis]).expand(ctx.shape), None


def first_along(x: Tensor, axis: int) -> Tensor:
    """Return the first entry along an axis of equal entries; its gradient goes to all of them in equal parts."""
    out: Tensor = _FirstAlong.apply(x, axis)
    return out


def residual(skip: Tensor, branch: Tensor, plan: BackwardPlan, events: frozenset[int]) -> Tensor:
    """Return `skip`; the backward pass weighs both ends as the plan says."""
    out: Tensor = run_collapsed(lambda a, b: _Residual.apply(a, b, plan, events), skip, branch)
    return out


def average_tokens(value: Tensor, queries: int, plan: BackwardPlan, event: int) -> Tensor:
    """Map `(..., M, D)` to `(..., queries, D)`: the mean forward, the attention of that call backward."""
    out: Tensor = _AverageTokens.apply(value, queries, plan, event)
    return out


def run_collapsed(run: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Run a pointwise function once along the axes where all its tensors repeat one number.

    The channels of tokens are mostly one number, expanded: memory and time are then those of one channel.
    """
    shape = tensors[0].shape
    if any(t.shape != shape for t in tensors):
        return run(*tensors)
    same = [axis for axis, size in enumerate(shape) if size > 1 and not any(t.stride(axis) for t in tensors)]
    for axis in same:
        tensors = tuple(first_along(t, axis) for t in tensors)
    out = run(*tensors)
    return out.expand(shape) if same else out


def parameter_names(model: nn.Module) -> dict[int, str]:
    """Return the names of parameters and buffers by the address of their storage, which views share."""
    named = [*model.named_buffers(), *model.named_parameters()]
    kept = [(name, tensor) for name, tensor in named if not hasattr(tensor, "__tensor_flatten__")]  # no address
    return {tensor.untyped_storage().data_ptr(): name for name, tensor in kept}
