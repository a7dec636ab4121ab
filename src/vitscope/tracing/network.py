"""State of one run of the averaged network: attention calls, residuals, merges and tokens from outside the image."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vitscope._messages import msg
from vitscope.tracing.records import TokenMerge, TracedCall, channels_mix, varies
from vitscope.tracing.token_tensor import (
    BackwardPlan,
    TokenTensor,
    average_tokens,
    residual,
    run_collapsed,
    token_tensor,
)

__all__ = ["SUBTRACTIONS", "AveragedNetwork", "broadcast_shape"]

SUBTRACTIONS = frozenset({"sub", "subtract"})
_PREFIX_NAMES = ("cls", "class", "reg", "dist", "detection")


@dataclass
class AveragedNetwork:
    """What one run of a model's own code on tokens has found so far.

    Attributes:
        plan: weights for the backward pass.
        events: numbers of the calls that the real forward recorded as attention.
        channels: those of them that mix channels.
        names: parameter names by storage, for the leaves.
        probing: values are positions, so that merges and attention between channels can be recognised.
        calls, merges: recorded in the order of the run.
        leaves: tokens from outside the image with the names of their parameters.
        event: number of the current call.
        parallel: some residual connection added several attention calls at once.
        differential: attention was subtracted from attention; the averages count both alike.
        lost: where tokens may have been lost; explains why none reach the output.
        answer: the answer's tokens, in its own shape; None before the run.
        joins: the attention calls that each residual connection added.
    """

    plan: BackwardPlan
    events: frozenset[int]
    channels: frozenset[int] = frozenset()
    names: dict[int, str] = field(default_factory=dict)
    probing: bool = False
    calls: list[TracedCall] = field(default_factory=list)
    merges: list[TokenMerge] = field(default_factory=list)
    leaves: list[tuple[str, Tensor]] = field(default_factory=list)
    event: int = -1
    parallel: bool = False
    differential: bool = False
    lost: str = ""
    answer: Tensor | None = None
    joins: list[frozenset[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._known_leaves: dict[Any, Tensor] = {}
        self._alive: list[Tensor] = []

    def attend(self, value: TokenTensor, queries: int, event: int) -> TokenTensor:
        """Average values `(..., M, D)` for each of the queries of an attention call."""
        if value.product:
            shape = (*value.shape[:-2], queries, -1)
            return token_tensor(value.mean(-2, keepdim=True).expand(shape), value, product=True)
        call = TracedCall(event, value.mean(-1), queries)
        call.channels = event in self.channels or (self.probing and channels_mix(value))
        self.calls.append(call)
        if call.channels:
            out = value.mean(-2, keepdim=True).expand(*value.shape[:-2], queries, value.shape[-1])
            return token_tensor(out, value)
        tokens = token_tensor(average_tokens(value, queries, self.plan, event), value)
        tokens.attended = value.attended | {event}
        return tokens

    def merge(self, before: TokenTensor, after: TokenTensor, axis: int, always: bool = False) -> TokenTensor:
        """Note that a layer before any attention may have merged the positions of `before` into tokens."""
        after.product = before.product
        if not after.attended and not after.product and after.requires_grad:
            real = always or (self.probing and varies(before, axis))
            self.merges.append(TokenMerge(after, axis % after.ndim, real))
        return after

    def leaf(self, outside: Tensor) -> Tensor:
        """Return tokens for a tensor that does not come from the image, once for each parameter."""
        key = (outside.data_ptr(), tuple(outside.shape))
        if key not in self._known_leaves:
            leaf = torch.zeros(outside.shape, device=outside.device, requires_grad=True)
            if self.probing:
                with torch.no_grad():
                    leaf[3] = len(self.leaves) + 1
            self.leaves.append((self.names.get(outside.untyped_storage().data_ptr(), ""), leaf))
            self._known_leaves[key] = leaf
            self._alive.append(outside)  # or another tensor may get its address
        return self._known_leaves[key]

    def inherit_name(self, operands: list[Tensor], result: Any) -> None:
        """Name a sum after its parameter, such as CLS with its position embedding added."""
        names = [self.names.get(t.untyped_storage().data_ptr(), "") for t in operands]
        name = next((n for n in names if any(part in n.lower() for part in _PREFIX_NAMES)), "")
        if name and isinstance(result, Tensor):
            self._alive.append(result)
            self.names[result.untyped_storage().data_ptr()] = name

    def binary(self, name: str, args: Any, kwargs: Any) -> Tensor:
        """Combine two tensors: a residual connection, a gate, or a mean."""
        values = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
        pair = [v for v in values if isinstance(v, TokenTensor)]
        shape = broadcast_shape(*(v.shape for v in values))
        if any(p.product for p in pair):
            if not all(p.product for p in pair):
                self.lost = self.lost or msg(
                    "tracing.lost-gate", "tokens are multiplied with products of tokens that are not attention"
                )
            return token_tensor(torch.zeros((), dtype=pair[0].dtype).expand(shape), *pair, product=True)
        if len(pair) == 1:
            outside = next((v for v in values if v is not pair[0]), None)
            fresh = pair[0].attended - pair[0].joined
            if name != "add" or outside is None or outside.shape != pair[0].shape or not fresh:
                return token_tensor(pair[0].expand(shape), pair[0])
            pair.append(token_tensor(self.leaf(outside)))  # a token from outside, such as CLS, that receives attention
        a, b = pair[-2:]
        if a.numel() != b.numel():
            content = a if a.numel() > b.numel() else b  # the other one is a gate
            return token_tensor(content.expand(shape), content)
        if name not in ("add", *SUBTRACTIONS):
            return _mean_of(a, b, shape)
        self.differential |= name in SUBTRACTIONS and bool(a.attended - a.joined) and bool(b.attended - b.joined)
        return self._add(a, b, shape)

    def _add(self, a: TokenTensor, b: TokenTensor, shape: tuple[int, ...]) -> Tensor:
        """Add tokens: a residual connection where one end holds attention calls that the other lacks."""
        skip, branch = (a, b) if a.attended <= b.attended else (b, a)
        new = branch.attended - skip.attended
        if not skip.attended <= branch.attended:  # each holds calls that the other lacks, as queries and an image do
            of_a, of_b = a.attended - a.joined - b.attended, b.attended - b.joined - a.attended
            if bool(of_a) == bool(of_b):
                return _mean_of(a, b, shape)
            skip, branch, new = (b, a, of_a) if of_a else (a, b, of_b)
        if not new:
            return _mean_of(a, b, shape)
        if new <= branch.joined:
            if not any(new <= one for one in self.joins):  # a path around several layers: the tokens of both are read
                return _mean_of(a, b, shape)
            return token_tensor(branch.view_as(branch), branch)  # beside one attention, as a parallel MLP: tokens stay
        self.parallel |= sum(call.event in new for call in self.calls) > 1
        for call in self.calls:
            call.joined |= call.event in new
        self.joins.append(new)
        out = token_tensor(residual(skip, branch, self.plan, new), skip, branch)
        out.joined = out.joined | new
        return out


def broadcast_shape(*shapes: Any) -> tuple[int, ...]:
    """Return the shape that tensors of these shapes broadcast to."""
    shape: tuple[int, ...] = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    return shape


def _mean_of(a: TokenTensor, b: TokenTensor, shape: tuple[int, ...]) -> TokenTensor:
    return token_tensor(run_collapsed(lambda x, y: (x + y) / 2, a.expand(shape), b.expand(shape)), a, b)
