"""State of one run of the averaged network: attention calls, residuals, merges and tokens from outside the image."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vitscope._messages import Message, msg
from vitscope.attention.softmax_tracking import used_again
from vitscope.errors import LayoutError
from vitscope.tracing.positions import PositionWatch
from vitscope.tracing.records import (
    CAPTURE_HINT,
    TokenMerge,
    TracedCall,
    calls_by_image,
    channels_mix,
    differs_by_token,
    places_along,
    same_places,
    varies,
)
from vitscope.tracing.token_tensor import (
    BackwardPlan,
    ComparisonTensor,
    TokenTensor,
    average_tokens,
    residual,
    run_collapsed,
    token_tensor,
)

CHOOSING = frozenset({"maximum", "minimum", "fmax", "fmin", "max", "min", "where"})
SUBTRACTIONS = frozenset({"sub", "subtract"})
_PRODUCTS = frozenset({"mul", "multiply", "div", "truediv", "divide", "true_divide"})
_ONE_RUN = msg("tracing.one-run.hint", "explain one of them by itself, or their mean")
_MOST_MERGED = 9  # tokens that merging makes one of, 3 x 3 at most
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
        joins: the calls that each residual connection added at once.
        side_by_side: the calls in each part of tensors that were put side by side, as heads or queries in a loop are.
        differential: attention was subtracted from attention; the averages count both alike.
        notes: what the averages leave out, by code.
        positions: whether position embeddings are fitted to the input's size.
        lost: where tokens may have been lost; explains why none reach the output.
        answer: the answer's tokens, in its own shape; None before the run.
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
    joins: list[frozenset[int]] = field(default_factory=list)
    side_by_side: list[tuple[frozenset[int], ...]] = field(default_factory=list)
    differential: bool = False
    notes: dict[str, Message] = field(default_factory=dict)
    positions: PositionWatch = field(default_factory=PositionWatch)
    lost: str = ""
    answer: Tensor | None = None

    def __post_init__(self) -> None:
        super().__init__()
        self._known_leaves: dict[Any, Tensor] = {}
        self._same: dict[Any, Any] = {}
        self._alive: list[Tensor] = []
        self._uses: dict[int, int] = {}

    def attend(self, value: TokenTensor, queries: int, event: int, within: bool = False) -> TokenTensor:
        """Average values `(..., M, D)` for each of the queries of an attention call; `within` says: of one token."""
        if value.product:
            shape = (*value.shape[:-2], queries, -1)
            return token_tensor(value.mean(-2, keepdim=True).expand(shape), value, product=True)
        self._uses[event] = self._uses.get(event, -1) + 1
        if event in value.joined:  # a later layer uses the same weights again
            event = used_again(event, self._uses[event])
        call = TracedCall(event, value.mean(-1), queries, before=value.attended)
        call.channels = event in self.channels or (self.probing and (within or channels_mix(value)))
        self.calls.append(call)
        if call.channels:
            out = value.mean(-2, keepdim=True).expand(*value.shape[:-2], queries, value.shape[-1])
            return token_tensor(out, value)
        tokens = token_tensor(average_tokens(value, queries, self.plan, event), value)
        tokens.attended, tokens.marks = value.attended | {event}, frozenset()
        return tokens

    def merge(self, before: TokenTensor, after: TokenTensor, axis: int, always: bool = False) -> TokenTensor:
        """Note that a layer before any attention may have merged the positions of `before` into tokens."""
        after.product, after.marks = before.product, after.marks - {"runs", "gated", "ranked"}
        if not after.attended and not after.product and after.requires_grad:
            real = always or (self.probing and varies(before, axis))
            self.merges.append(TokenMerge(after, axis % after.ndim, real))
        return after

    def mix(self, before: TokenTensor, after: TokenTensor, axis: int, always: bool = False) -> TokenTensor:
        """Note what a learned map along `axis` makes of tokens; raise a LayoutError where it mixes them all."""
        if self.probing and not before.product:
            count = places_along(before, axis)
            if count > _MOST_MERGED and not any(varies(after.as_subclass(Tensor), i) for i in range(1, after.ndim)):
                raise LayoutError.coded(
                    "tracing.mixed-outside",
                    "a learned map makes one number of {count} tokens at once, outside of attention: how much of "
                    "each the answer reads is not known",
                    CAPTURE_HINT,
                    count=count,
                )
        return self.merge(before, after, axis, always)

    def leaf(self, outside: Tensor) -> Tensor:
        """Return tokens for a tensor that does not come from the image, once for each parameter."""
        key = _place(outside)
        key = self._same.get(key, key)
        if key not in self._known_leaves:
            if self.probing and (not outside.ndim or outside.shape[0] % 4):
                raise calls_by_image("")
            leaf = torch.zeros(outside.shape, device=outside.device, requires_grad=True)
            if self.probing:
                with torch.no_grad():
                    leaf[3] = len(self.leaves) + 1
            self.leaves.append((self.names.get(outside.untyped_storage().data_ptr(), ""), leaf))
            self._known_leaves[key] = leaf
            self._alive.append(outside)  # or another tensor may get its address
        return self._known_leaves[key]

    def follow(self, before: Tensor, after: Any) -> None:
        """Note that tokens from outside the image stay the same tokens, such as CLS after a norm."""
        if isinstance(after, Tensor) and after.shape == before.shape and after.data_ptr() != before.data_ptr():
            self._alive += [before, after]
            self._same[_place(after)] = self._same.get(_place(before), _place(before))
            self.names[after.untyped_storage().data_ptr()] = self.names.get(before.untyped_storage().data_ptr(), "")

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
        if name in CHOOSING and apart(pair) and (name != "where" or isinstance(values[0], ComparisonTensor)):
            raise choice_refused(name)
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
                return self._scaled(name, pair[0], values, args, shape)
            pair.append(token_tensor(self.leaf(outside)))  # a token from outside, such as CLS, that receives attention
        a, b = pair[-2:]
        if a.numel() != b.numel():
            content, gate = (a, b) if a.numel() > b.numel() else (b, a)
            if name == "add" or (name in SUBTRACTIONS and content.attended):
                self.check_same_places(content, gate)
            out = token_tensor(content.expand(shape), content)
            out.marks |= {"weighted"} if "shares" in gate.marks else frozenset()
            out.marks |= {"gated"} if name in ("mul", "multiply") else frozenset()
            return out
        if name in ("mul", "multiply") and (kept := _gated(a, b)) is not None:
            return token_tensor(kept.expand(shape), kept)
        if name not in ("add", *SUBTRACTIONS) and (name != "lerp" or len(pair) > 2):
            return _mean_of(a, b, shape)
        if name in SUBTRACTIONS:
            a.factor, b.factor = abs(a.factor), -abs(b.factor)
        self.differential |= name in SUBTRACTIONS and bool(a.attended - a.joined) and bool(b.attended - b.joined)
        return self._add(a, b, shape)

    def _add(self, a: TokenTensor, b: TokenTensor, shape: tuple[int, ...]) -> Tensor:
        """Add tokens: a residual connection where one end holds attention calls that the other lacks."""
        skip, branch = (a, b) if a.attended <= b.attended else (b, a)
        new = branch.attended - skip.attended
        if not skip.attended <= branch.attended:  # each holds calls that the other lacks, as queries and an image do
            of_a, of_b = a.attended - a.joined - b.attended, b.attended - b.joined - a.attended
            if bool(of_a) == bool(of_b):
                return self._sum(a, b, shape)
            skip, branch, new = (b, a, of_a) if of_a else (a, b, of_b)
        if not new:
            return self._sum(a, b, shape)
        if new <= branch.joined:
            if not branch.just_joined or not any(new <= one for one in self.joins):
                return self._sum(a, b, shape)  # a path around a whole layer or several: the tokens of both are read
            return token_tensor(branch.view_as(branch), branch)  # beside one attention, as a parallel MLP: tokens stay
        for call in self.calls:
            call.joined |= call.event in new
        self.joins.append(new)
        out = token_tensor(residual(skip, branch, self.plan, new), skip, branch)
        out.joined, out.just_joined = out.joined | new, True
        return out

    def _scaled(self, name: str, x: TokenTensor, values: list[Tensor], args: Any, shape: tuple[int, ...]) -> Tensor:
        """Return tokens that something from outside was added to or multiplied with."""
        out = token_tensor(x.expand(shape), x)
        out.just_joined = x.just_joined
        if name in _PRODUCTS:
            others = [v for v in (*args, *values) if v is not x and isinstance(v, (int, float, Tensor))]
            single = [
                float(v.detach()) if isinstance(v, Tensor) else float(v)
                for v in others
                if not isinstance(v, Tensor) or v.numel() == 1
            ]
            if single:
                out.factor = x.factor * (single[0] if name in ("mul", "multiply") else 1 / (single[0] or 1.0))
            elif self.probing and x.attended and any(differs_by_token(v, out) for v in others):
                out.marks |= {"weighted"}
        return out

    def _sum(self, a: TokenTensor, b: TokenTensor, shape: tuple[int, ...]) -> Tensor:
        """Add tokens outside of residual connections: their mean, weighted by the numbers before them."""
        if "gated" in a.marks | b.marks and apart([a, b]):
            raise LayoutError.coded(
                "tracing.weighted-runs",
                "several runs of attention layers, such as views of the image, or models, are weighted with "
                "numbers computed from the image before they are added: how much of each the answer reads is not "
                "known",
                _ONE_RUN,
            )
        if "extreme" in a.marks | b.marks:
            return _mean_of(a, b, shape)
        if min(a.factor, b.factor) > 0:
            return _mean_of(a, b, shape, a.factor / (a.factor + b.factor))
        if a.attended and b.attended and self.probing and (apart([a, b]) or not same_places(a, b)):
            raise LayoutError.coded(
                "tracing.subtracted",
                "tokens are subtracted from tokens of other places: how much of each the answer reads is not known",
                CAPTURE_HINT,
            )
        return _mean_of(a, b, shape)

    def check_same_places(self, content: TokenTensor, other: TokenTensor) -> None:
        """Raise a LayoutError where tokens of other places are added to tokens, which mixes them outside attention."""
        if self.probing and not same_places(content, other):
            raise LayoutError.coded(
                "tracing.added-elsewhere",
                "what is computed from other tokens (such as their mean) is added to tokens of shape {shape}: "
                "information moves between tokens outside of attention",
                CAPTURE_HINT,
                shape=tuple(content.shape),
            )


def _place(tensor: Tensor) -> tuple[int, tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape)


def apart(parts: Sequence[TokenTensor]) -> bool:
    """Return whether parts come from several runs of layers, as those of two views or of two models do."""
    return len(parts) > 1 and all(
        part.joined - frozenset().union(*(other.attended for other in parts if other is not part)) for part in parts
    )


def choice_refused(function: str) -> LayoutError:
    """Return the error of a function that takes the larger of several runs' numbers."""
    return LayoutError.coded(
        "tracing.chosen-run",
        "'{function}' chooses by their values between several runs of attention layers, such as views of the "
        "image, or models: which of them is read differs from class to class and from image to image",
        _ONE_RUN,
        function=function,
    )


def broadcast_shape(*shapes: Any) -> tuple[int, ...]:
    """Return the shape that tensors of these shapes broadcast to."""
    shape: tuple[int, ...] = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    return shape


def _gated(a: TokenTensor, b: TokenTensor) -> TokenTensor | None:
    """Return that of two tensors which is an attention's result, and is multiplied with a gate made without it."""
    of_a, of_b = a.attended - a.joined - b.attended, b.attended - b.joined - a.attended
    if bool(of_a) == bool(of_b):
        return None
    content = a if of_a else b
    return None if "bounded" in content.marks else content


def _mean_of(a: TokenTensor, b: TokenTensor, shape: tuple[int, ...], share: float = 0.5) -> TokenTensor:
    """Return the mean of two tensors, of which the first has that share."""
    mean = run_collapsed(lambda x, y: share * x + (1 - share) * y, a.expand(shape), b.expand(shape))
    return token_tensor(mean, a, b)
