"""Running a model's own code as the averaged network: a mode under which torch functions act on shadows by rule."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from vitscope.attention.softmax_tracking import spelled
from vitscope.errors import LayoutError
from vitscope.tracing.records import CallSite, TokenMerge, channels_mix, varies
from vitscope.tracing.rules import (
    AS_IT_IS,
    ASKS,
    BINARY,
    POINTWISE,
    POOLING,
    REDUCTIONS,
    bound,
    conv,
    conv_transposed,
    expanded,
    plain_name,
    pool,
)
from vitscope.tracing.token_tensor import (
    AttentionTensor,
    Plan,
    TokenTensor,
    alike,
    as_probs,
    attend,
    residual,
    shadow_of,
    tensors_in,
    thinly,
    wrapped,
)

__all__ = ["AveragedNetworkMode"]

_JOINS = frozenset({"cat", "concat", "concatenate", "stack", "hstack", "vstack"})
_PRODUCTS = frozenset({"matmul", "bmm", "baddbmm", "mm"})
_MINUS = frozenset({"sub", "subtract"})
_TOKENS = ("cls", "class", "reg", "dist", "detection")
_LIKE = frozenset({"to", "type_as", "view_as", "expand_as", "reshape_as"})


@dataclass
class AveragedNetworkMode(TorchFunctionMode):
    """The mode.

    Attributes:
        plan: weights for the backward pass.
        events: the numbers of the calls that the real forward saw as attention.
        channels: those of them that mix channels.
        named: parameter names by storage, for the leaves.
        parallel: some residual took in several attention calls at once.
        differential: attention was subtracted from attention; the averages count both alike.
        lost: where tokens may have been lost: of use if none reach the answer.
        probing: values are positions, so that merges and channel attention can be told.
    """

    plan: Plan
    events: frozenset[int]
    channels: frozenset[int] = frozenset()
    named: dict[int, str] = field(default_factory=dict)
    probing: bool = False
    calls: list[CallSite] = field(default_factory=list)
    merges: list[TokenMerge] = field(default_factory=list)
    leaves: list[tuple[str, Tensor]] = field(default_factory=list)
    event: int = -1
    parallel: bool = False
    differential: bool = False
    lost: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._known: dict[Any, Tensor] = {}
        self._alive: list[Tensor] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Gradients on, whatever the caller has, and shadows understood."""
        with torch.inference_mode(False), torch.enable_grad(), self:
            yield

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = plain_name(func)
        with torch._C.DisableTorchFunctionSubclass():
            counted = func is scaled_dot_product_attention or name in ("softmax", "multi_head_attention_forward")
            self.event += counted
            given = list(tensors_in((args, kwargs)))
            shadows = [t for t in given if isinstance(t, TokenTensor)]
            if not shadows:
                probs = [t for t in given if isinstance(t, AttentionTensor)]
                with torch.no_grad():
                    result = func(*alike(args, given), **kwargs) if probs else func(*args, **kwargs)
                self.differential |= name in _MINUS and len(probs) > 1
                if name in BINARY:
                    self._name(given, result)
                return as_probs(result, probs[0].event) if probs and name not in ASKS else result
            return self._on_tokens(func, name, args, kwargs, shadows)

    def _on_tokens(  # noqa: C901, PLR0911 - the rules, one after another
        self, func: Any, name: str, args: Any, kwargs: Any, shadows: list[TokenTensor]
    ) -> Any:
        x = shadows[0]
        if name in _LIKE and not isinstance(args[0], TokenTensor):
            return func(*args, **kwargs)  # something else is made like tokens
        if func is scaled_dot_product_attention:
            return self._fused(*args, **kwargs)
        if name == "multi_head_attention_forward":
            return self._multi_head(func, args, kwargs)
        if name == "softmax":
            return self._softmax(x, args, kwargs)
        if name in _PRODUCTS:
            return self._product(*(args[-2:] if name == "baddbmm" else args[:2]), *kwargs.values())
        if name == "einsum":
            operands = args[1] if len(args) == 2 and isinstance(args[1], (list, tuple)) else args[1:]
            return self._einsum(args[0], *operands)
        if name == "linear":
            return self._merged(x, shadow_of(expanded(x, -1, bound(func, args, kwargs, 1, "weight").shape[0]), x), -1)
        if name in ("conv1d", "conv2d", "conv3d"):
            names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
            options = dict(zip(names, args, strict=False)) | kwargs
            weight = options.pop("weight")
            options.pop("input")
            return self._merged(
                x, shadow_of(conv(x, weight, x.valid, **options), x), 1, always=max(weight.shape[2:]) > 1
            )
        if name in ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"):
            order = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
            options = dict(zip(order, args, strict=False)) | kwargs
            options.pop("input")
            return shadow_of(conv_transposed(x, **options), x)
        if name in POOLING:
            mean = pool(name, x, args[1:], kwargs)
            if x.valid is not None:
                mean = mean / pool(name, x.valid, args[1:], kwargs).clamp_min(1e-6)
            pooled = shadow_of(mean, x)
            both = kwargs.get("return_indices") or name.endswith("indices")
            return (pooled, None) if both else self._merged(x, pooled, 1, always=True)
        if name in _JOINS:
            return self._join(func, args, kwargs, shadows)
        if name in BINARY or (name in ("max", "min") and len(shadows) > 1):
            return self._binary(name, args, kwargs)
        if name in REDUCTIONS:
            return self._reduced(name, x, args, kwargs)
        if name in ("sort", "topk") and self._alike_along(name, x, args, kwargs):
            return wrapped(func(*args, **kwargs), shadows)
        if name in POINTWISE:
            return shadow_of(x.clone() if name == "clone" else x.view_as(x), x, product=x.product)
        if name == "fold":
            ones = func(torch.ones_like(args[0]), *args[1:], **kwargs)
            return shadow_of(func(*args, **kwargs) / ones, x)
        if name == "pad" and x.ndim == 4 and x.valid is None:
            around, mode = bound(func, args, kwargs, 1, "pad"), bound(func, args, kwargs, 2, "mode", "constant")
            padded = wrapped(func(x, around, mode), shadows)  # with 0, also where the model pads with -inf
            padded.valid = func(torch.ones_like(x[:1, :1]), around, mode)
            return padded
        if name in AS_IT_IS or name in ("get", "T", "mT"):
            return wrapped(func(*args, **kwargs), shadows)
        if name in ASKS:
            return func(*args, **kwargs)
        if name == "setitem" and isinstance(args[0], TokenTensor) and self._writes_itself(*args):
            return None
        raise LayoutError(
            f"torch's '{name}' is not understood on tokens of shape {tuple(x.shape)}: where they go is not known",
            "vitscope.capture(model) gives raw attention of any model",
        )

    # attention

    def _attended(self, value: TokenTensor, queries: int, event: int, asked: Any = None) -> TokenTensor:
        if value.product:
            return shadow_of(value.mean(-2, keepdim=True).expand(*value.shape[:-2], queries, -1), value, product=True)
        call = CallSite(event, value.mean(-1), queries, asked=asked)
        call.channels = event in self.channels or (self.probing and channels_mix(value))
        self.calls.append(call)
        if call.channels:
            out = value.mean(-2, keepdim=True).expand(*value.shape[:-2], queries, value.shape[-1])
            return shadow_of(out, value)
        shadow = shadow_of(attend(value, queries, self.plan, event), value)
        shadow.marks = value.marks | {event}
        return shadow

    def _fused(
        self,
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: Any = 0,
        is_causal: Any = False,
        **_: Any,
    ) -> Tensor:
        if not isinstance(value, TokenTensor):
            raise LayoutError("an attention call has values that do not come from the picture")
        if value.shape[-3] != query.shape[-3] and query.ndim > 3:
            repeated = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
            value = shadow_of(repeated, value)
        asked = query.mean(-1) if isinstance(query, TokenTensor) else None
        return self._attended(value, query.shape[-2], self.event, asked)

    def _softmax(self, x: TokenTensor, args: Any, kwargs: Any) -> Tensor:
        if self.event not in self.events:
            return shadow_of(x.view_as(x), x, product=x.product)
        probs = torch.zeros((), dtype=x.dtype).expand(x.shape).as_subclass(AttentionTensor)
        probs.event = self.event
        return probs

    def _multi_head(self, func: Any, args: Any, kwargs: Any) -> Any:
        query, value = (bound(func, args, kwargs, i, n) for i, n in ((0, "query"), (2, "value")))
        heads, weight = (bound(func, args, kwargs, i, n) for i, n in ((4, "num_heads"), (11, "out_proj_weight")))
        batched = value.ndim == 3
        tokens = value.mean(-1) if batched else value.mean(-1)[:, None]  # (M, B)
        lead = shadow_of(tokens.t()[:, None, :, None].expand(-1, heads, -1, -1), value)
        asked = query.mean(-1) if isinstance(query, TokenTensor) else None
        if asked is not None:
            asked = (asked if batched else asked[:, None]).t()[:, None].expand(-1, heads, -1)
        mixed = self._attended(lead, query.shape[0], self.event, asked)
        out = mixed.mean((1, 3)).t()[..., None].expand(-1, -1, weight.shape[0])
        wants = bound(func, args, kwargs, 16, "need_weights", True)
        return shadow_of(out if batched else out[:, 0], mixed), (torch.zeros(1) if wants else None)

    def _product(self, a: Any, b: Any, *_: Any) -> Tensor:
        if isinstance(a, AttentionTensor):
            if a.shape[-1] != b.shape[-2]:
                raise LayoutError(f"attention of shape {tuple(a.shape)} is multiplied with {tuple(b.shape)}")
            return self._attended(b, a.shape[-2], a.event)
        if isinstance(b, AttentionTensor):
            mixed = self._attended(wrapped(a.transpose(-1, -2), [a]), b.shape[-1], b.event)
            return shadow_of(mixed.transpose(-1, -2), mixed)
        lead = _broadcast(a.shape[:-2], b.shape[:-2]) if b.ndim > 1 else a.shape[:-2]
        if isinstance(a, TokenTensor) and isinstance(b, TokenTensor):
            stub = torch.zeros((), dtype=a.dtype).expand(*lead, a.shape[-2], b.shape[-1])
            return shadow_of(stub, a, b, product=True)
        if isinstance(a, TokenTensor) and b.ndim > 1:
            out = a.mean(-1, keepdim=True).expand(*lead, a.shape[-2], b.shape[-1]) if a.ndim > 1 else a
            return self._merged(a, shadow_of(out, a, product=a.product), -1)
        # queries from outside with keys from the picture; were it no attention, all that follows would say nothing
        self.lost = self.lost or "tokens are multiplied from the left with something that is not attention"
        columns = b.shape[-1:] if b.ndim > 1 else ()
        stub = torch.zeros((), dtype=b.dtype).expand(*lead, *a.shape[-2:-1], *columns)
        return shadow_of(stub, b, product=True)

    def _einsum(self, equation: str, *operands: Any) -> Tensor:
        if len(operands) != 2 or "->" not in equation:
            raise LayoutError(f"einsum '{equation}' is not understood on tokens")
        left, out = spelled(equation, [x.ndim for x in operands]).split("->")
        terms = left.split(",")
        sizes = {c: n for term, x in zip(terms, operands, strict=True) for c, n in zip(term, x.shape, strict=True)}
        shape = [sizes[c] for c in out]
        shadows = [x for x in operands if isinstance(x, TokenTensor)]
        which = next((i for i, x in enumerate(operands) if isinstance(x, AttentionTensor)), None)
        if which is not None:
            probs, value = terms[which], terms[1 - which]
            event = operands[which].event
            key = [c for c in probs if c in value and c not in out]
            query = [c for c in probs if c not in value and c in out]
            channel = [c for c in value if c not in probs]
            if len(key) != 1 or len(query) != 1:
                raise LayoutError(f"einsum '{equation}' of attention with tokens is not understood")
            lead = [c for c in probs if c not in (*key, *query)]
            order = [*lead, *key, *channel]
            moved = operands[1 - which].permute([value.index(c) for c in order]).flatten(len(lead) + 1)
            moved = moved if channel else moved[..., None]
            mixed = self._attended(shadow_of(moved, *shadows), sizes[query[0]], event)
            result = mixed.reshape(*mixed.shape[:-1], *(sizes[c] for c in channel)) if channel else mixed[..., 0]
            now = [*lead, *query, *channel]
            return shadow_of(result.permute([now.index(c) for c in out]), mixed)
        if len(shadows) == 2:
            return shadow_of(torch.zeros((), dtype=shadows[0].dtype).expand(shape), *shadows, product=True)
        mine = terms[0] if isinstance(operands[0], TokenTensor) else terms[1]
        gone = [i for i, c in enumerate(mine) if c not in out]
        kept = [c for c in mine if c in out]
        x = shadows[0].mean(gone) if gone else shadows[0].view_as(shadows[0])
        x = x.permute([kept.index(c) for c in out if c in kept])
        for i, c in enumerate(out):
            x = x if c in kept else x.unsqueeze(i)
        return shadow_of(x.expand(shape), shadows[0], product=shadows[0].product)

    # the rest

    def _merged(self, before: TokenTensor, after: TokenTensor, axis: int, always: bool = False) -> TokenTensor:
        after.product = before.product
        if not after.marks and not after.product and after.requires_grad:
            merges = always or (self.probing and varies(before, axis))
            self.merges.append(TokenMerge(after, axis % after.ndim, merges))
        return after

    def _join(self, func: Any, args: Any, kwargs: Any, shadows: list[TokenTensor]) -> Any:
        parts = list(args[0] if args else kwargs["tensors"])
        for i, part in enumerate(parts):
            if not isinstance(part, TokenTensor):
                parts[i] = self._leaf(part)
        return wrapped(func(parts, *args[1:], **{k: v for k, v in kwargs.items() if k != "tensors"}), shadows)

    def _name(self, given: list[Tensor], result: Any) -> None:
        """A parameter keeps its name when something is added to it, such as a position to CLS."""
        names = [self.named.get(t.untyped_storage().data_ptr(), "") for t in given]
        name = next((n for n in names if any(part in n.lower() for part in _TOKENS)), "")
        if name and isinstance(result, Tensor):
            self._alive.append(result)
            self.named[result.untyped_storage().data_ptr()] = name

    def _leaf(self, outside: Tensor) -> Tensor:
        """A token that does not come from the picture, once for each parameter."""
        key = (outside.data_ptr(), tuple(outside.shape))
        if key not in self._known:
            leaf = torch.zeros(outside.shape, device=outside.device, requires_grad=True)
            if self.probing:
                with torch.no_grad():
                    leaf[3] = len(self.leaves) + 1
            self.leaves.append((self.named.get(outside.untyped_storage().data_ptr(), ""), leaf))
            self._known[key] = leaf
            self._alive.append(outside)  # or another tensor may get its address
        return self._known[key]

    def _binary(self, name: str, args: Any, kwargs: Any) -> Tensor:  # noqa: PLR0911 - the rules, one after another
        values = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
        pair = [v for v in values if isinstance(v, TokenTensor)]
        shape = _broadcast(*(v.shape for v in values))
        if any(p.product for p in pair):
            if not all(p.product for p in pair):
                self.lost = self.lost or "tokens are weighed with products of tokens that are not attention"
            return shadow_of(torch.zeros((), dtype=pair[0].dtype).expand(shape), *pair, product=True)
        if len(pair) == 1:
            outside = next((v for v in values if v is not pair[0]), None)
            fresh = pair[0].marks - pair[0].settled
            if name != "add" or outside is None or outside.shape != pair[0].shape or not fresh:
                return shadow_of(pair[0].expand(shape), pair[0])
            pair.append(shadow_of(self._leaf(outside)))  # a token from outside, such as CLS, that takes attention in
        a, b = pair[-2:]
        if name not in ("add", *_MINUS) or a.numel() != b.numel():
            if a.numel() != b.numel():
                content = a if a.numel() > b.numel() else b  # the other is a gate
                return shadow_of(content.expand(shape), content)
            return shadow_of(thinly(_mean, a.expand(shape), b.expand(shape)), a, b)
        self.differential |= name in _MINUS and bool(a.marks - a.settled) and bool(b.marks - b.settled)
        skip, branch = (a, b) if a.marks <= b.marks else (b, a)
        new = branch.marks - skip.marks
        if not skip.marks <= branch.marks:  # each has seen what the other has not, as queries and a picture do
            of_a, of_b = a.marks - a.settled - b.marks, b.marks - b.settled - a.marks
            if bool(of_a) == bool(of_b):
                return shadow_of(thinly(_mean, a.expand(shape), b.expand(shape)), a, b)
            skip, branch, new = (b, a, of_a) if of_a else (a, b, of_b)
        if not new:
            return shadow_of(thinly(_mean, a.expand(shape), b.expand(shape)), a, b)
        if new <= branch.settled:  # another branch beside attention, such as an MLP in parallel: tokens stay
            return shadow_of(branch.view_as(branch), branch)
        self.parallel |= sum(call.event in new for call in self.calls) > 1
        for call in self.calls:
            call.joined |= call.event in new
        out = shadow_of(residual(skip, branch, self.plan, new), skip, branch)
        out.settled = out.settled | new
        return out

    def _writes_itself(self, x: TokenTensor, index: Any, value: Any) -> bool:
        """Is a token written where it is already, as channels of it are?"""
        if x.product or not isinstance(value, TokenTensor):
            return x.product
        with torch.no_grad():
            return not self.probing or torch.allclose(x[index], value.expand_as(x[index]), atol=1e-3)

    def _alike_along(self, name: str, x: TokenTensor, args: Any, kwargs: Any) -> bool:
        """Do tokens not differ along the axis that is sorted? Then their order says nothing about places."""
        place = 2 if name == "topk" else 1
        dim = kwargs.get("dim", args[place] if len(args) > place else -1)
        return not (self.probing and varies(x, dim))

    def _reduced(self, name: str, x: TokenTensor, args: Any, kwargs: Any) -> Any:
        rest = [a for a in args[1:] if not isinstance(a, (torch.dtype, str, float))]
        if "norm" in name:
            rest = rest[1:]  # the order of the norm
        dim = kwargs.get("dim", kwargs.get("axis", rest[0] if rest else None))
        keep = kwargs.get("keepdim", rest[1] if len(rest) > 1 and isinstance(rest[1], bool) else False)
        if isinstance(dim, bool) or (dim is None and not rest):
            dim = tuple(range(x.ndim)) if not isinstance(dim, bool) else None
        mean = shadow_of(x.mean(dim, keepdim=keep), x, product=x.product)
        if name in ("var_mean", "std_mean"):
            return mean, mean
        if name in ("max", "min", "median") and isinstance(dim, int):
            return torch.return_types.max((mean, torch.zeros(mean.shape, dtype=torch.long)))
        return mean


def _mean(a: Tensor, b: Tensor) -> Tensor:
    return (a + b) / 2


def _broadcast(*shapes: Any) -> tuple[int, ...]:
    shape: tuple[int, ...] = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    return shape
