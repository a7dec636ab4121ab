"""Attention that is no fused call: a softmax of a model's own, and what happens inside `nn.MultiheadAttention`.

A softmax over the last axis is attention once its result is multiplied with values. Where the scores are visibly
`scale * q k^T + bias`, queries and keys are kept and one row is checked; else the matrix is.
"""

import string
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import multi_head_attention_forward

from vitscope.attention import Dense, Factored, GraphOutput

__all__ = ["SoftmaxTracker", "four", "multi_head_inside", "spelled", "split_heads"]


def _functions(*names: str) -> frozenset[Any]:
    places = (torch, torch.Tensor, nn.functional)
    return frozenset(getattr(place, name) for place in places for name in names if hasattr(place, name))


_SOFTMAX = _functions("softmax")
_PRODUCT = _functions("matmul", "__matmul__", "bmm")
_EINSUM = _functions("einsum")
_BADDBMM = _functions("baddbmm")
_TIMES = _functions("mul", "mul_", "__mul__", "__imul__", "__rmul__", "multiply")
_OVER = _functions("div", "div_", "__truediv__", "__itruediv__", "divide")
_PLUS = _functions("add", "add_", "__add__", "__iadd__", "__radd__")
_TURN = _functions("transpose", "swapaxes", "swapdims")
_SAME = _functions("dropout", "to", "type_as", "contiguous", "clone", "float", "half", "bfloat16", "double", "detach")
_AFTER_SCORES = _TIMES | _OVER | _PLUS
_MOST_PENDING = 4
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


@dataclass(frozen=True, eq=False)
class _Scores:
    """The product `scale * q k^T + bias`, as the tensor `made`."""

    made: Tensor
    q: Tensor
    k: Tensor
    scale: float = 1.0
    bias: Tensor | None = None


@dataclass(frozen=True, eq=False)
class _Pending:
    """The result of a softmax on its way to the values: `now` is what `soft` has become."""

    events: frozenset[int]
    soft: Tensor
    now: Tensor
    scores: _Scores | None
    same: bool = True
    turned: bool = False


class SoftmaxTracker:
    """Follows scores to their softmax, and the softmax to its values.

    Args:
        number: gives the next event number.
        where: the name of the module that is running.
        keep: called with events, block and leading axes for each attention found.
        run: calls a function with its arguments.
    """

    def __init__(
        self, number: Callable[[], int], where: Callable[[], str], keep: Callable[..., None], run: Callable[..., Any]
    ) -> None:
        self._number, self._where, self._keep, self._run = number, where, keep, run
        self._scores: _Scores | None = None
        self._pending: list[_Pending] = []

    def __call__(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run one torch function and see what it means."""
        if self._pending:
            for value in _operands(func, args):
                for pending in self._pending:
                    if value is pending.now:
                        return self._follow(pending, func, args, kwargs)
        out = self._run(func, args, kwargs)
        if func in _SOFTMAX:
            self._softened(args, kwargs, out)
        elif func in _PRODUCT or func in _BADDBMM or func in _EINSUM:
            self._multiplied(func, args, out)
        elif self._scores is not None and func in _AFTER_SCORES:
            self._adjusted(func, args, out)
        return out

    def _multiplied(self, func: Any, args: Any, out: Tensor) -> None:
        a, b = args[-2:] if len(args) > 1 and func not in _EINSUM else (None, None)
        bias = args[0] if func in _BADDBMM else None
        self._scores = None
        if not isinstance(a, Tensor) or not isinstance(b, Tensor) or not a.ndim == b.ndim == out.ndim:
            return
        if out.ndim in (3, 4) and a.shape[:-2] == b.shape[:-2]:
            self._scores = _Scores(out, a, b.transpose(-1, -2), 1.0, bias)

    def _adjusted(self, func: Any, args: Any, out: Tensor) -> None:
        scores = self._scores
        assert scores is not None
        other: Any = next((a for a in args if a is not scores.made), None)
        if not any(a is scores.made for a in args) or not isinstance(out, Tensor) or out.shape != scores.made.shape:
            return
        number = other is not None and (not isinstance(other, Tensor) or not other.ndim)
        if func in _PLUS and isinstance(other, Tensor):
            self._scores = replace(scores, made=out, bias=other if scores.bias is None else scores.bias + other)
        elif number and func not in _PLUS:
            factor = float(other) if func in _TIMES else 1 / float(other)
            bias = None if scores.bias is None else scores.bias * factor
            self._scores = replace(scores, made=out, scale=scores.scale * factor, bias=bias)
        else:
            self._scores = None

    def _softened(self, args: Any, kwargs: Any, out: Tensor) -> None:
        event = self._number()
        x = args[0] if args else kwargs["input"]
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        if out.ndim < 3 or dim not in (-1, out.ndim - 1):
            return
        scores = self._scores if self._scores is not None and self._scores.made is x else None
        self._scores = None
        self._pending = [*self._pending[1 - _MOST_PENDING :], _Pending(frozenset({event}), out, out, scores)]

    def _follow(self, pending: _Pending, func: Any, args: Any, kwargs: Any) -> Any:
        out = self._run(func, args, kwargs)
        if func in _SOFTMAX:
            self._number()
        operands = _operands(func, args)
        if func in _EINSUM:
            self._contracted(pending, args[0], operands, out)
            return out
        if func in _PRODUCT:
            if operands[0] is pending.now and not pending.turned:
                self._found(pending, pending.now, operands[1], GraphOutput(out, four))
            elif operands[1] is pending.now and pending.turned:
                turned = GraphOutput(out, lambda x: four(x.transpose(-1, -2)))
                self._found(pending, pending.now.transpose(-1, -2), operands[0].transpose(-1, -2), turned)
            else:
                self._pending.remove(pending)
            return out
        if isinstance(out, Tensor) and out.numel() == pending.now.numel() and out.is_floating_point():
            if func in _TURN and sorted(d % out.ndim for d in args[1:]) == [out.ndim - 2, out.ndim - 1]:
                step = replace(pending, now=out, turned=not pending.turned)
            else:
                step = replace(pending, now=out, same=pending.same and func in _SAME)
            others = [p for p in self._pending if p is not pending and any(a is p.now for a in args)]
            for other in others:
                step = replace(step, events=step.events | other.events)
            self._pending = [p for p in self._pending if p is not pending and p not in others]
            self._pending.append(step)
        return out

    def _contracted(self, pending: _Pending, equation: str, operands: Sequence[Any], result: Tensor) -> None:
        """`einsum` of attention with values: which letters are queries and keys, and which come before them."""
        if "." in equation:
            equation = spelled(equation, [x.ndim for x in operands])
        left, _, out = equation.replace(" ", "").partition("->")
        terms = left.split(",")
        if len(operands) != 2 or not out:
            return
        which = 0 if operands[0] is pending.now else 1
        probs, value = terms[which], terms[1 - which]
        key = [c for c in probs if c in value and c not in out]
        query = [c for c in probs if c not in value and c in out]
        if len(key) == len(query) == 1:
            lead = [c for c in probs if c not in (*key, *query)]
            width = [c for c in value if c not in probs]
            matrix = pending.now.permute([probs.index(c) for c in (*lead, *query, *key)])
            plain = len(width) == 1 and set(lead) <= set(value) and set(out) == {*lead, *query, *width}
            if not plain:
                self._found(pending, matrix, None, None)
                return
            values = operands[1 - which].permute([value.index(c) for c in (*lead, *key, *width)])
            back = [out.index(c) for c in (*lead, *query, *width)]
            self._found(pending, matrix, values, GraphOutput(result, lambda x: four(x.permute(back))))

    def _found(self, pending: _Pending, matrix: Tensor, value: Tensor | None, source: GraphOutput | None) -> None:
        self._pending.remove(pending)
        scores, matrix = pending.scores, matrix.detach()
        lead = matrix.shape[:-2]
        value = None if value is None else four(value.expand(*lead, *value.shape[-2:]))
        mixed = None
        if not pending.same and not _stochastic(matrix):  # heads are mixed after their softmax: rows as before
            mixed = pending.soft if pending.soft.shape == matrix.shape else None
            matrix = matrix if mixed is None else mixed.detach()
        elif pending.same and scores is not None and not pending.turned:
            factored = _factored(self._where(), scores, matrix)
            if factored is not None:
                self._keep(pending.events, factored, lead, value, source)
                return
        self._keep(pending.events, Dense(self._where(), four(matrix)), lead, value, source, mixed)


def _operands(func: Any, args: Any) -> Sequence[Any]:
    if func in _EINSUM:
        return args[1] if isinstance(args[1], (tuple, list)) else args[1:]
    return args[0] if args and isinstance(args[0], (tuple, list)) else args


def spelled(equation: str, dims: Sequence[int]) -> str:
    """An equation of `einsum` with letters for `...`, for operands of so many dimensions."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    rest = [max(n - len(term.replace("...", "")), 0) for term, n in zip(terms, dims, strict=True)]
    most = max((n for n, term in zip(rest, terms, strict=True) if "..." in term), default=0)
    letters = "".join(c for c in string.ascii_uppercase if c not in equation)[:most]
    terms = [term.replace("...", letters[most - n :]) for n, term in zip(rest, terms, strict=True)]
    return ",".join(terms) + arrow + out.replace("...", letters)


def _factored(name: str, scores: _Scores, matrix: Tensor) -> Factored | None:
    """Queries and keys, if their first row is the matrix's."""
    q, k = (x.detach() if x.ndim == 4 else x.detach()[:, None] for x in (scores.q, scores.k))
    bias = scores.bias
    if bias is not None:
        bias = bias.detach().float() if bias.dtype != torch.float64 else bias.detach()
        bias = bias[:, None] if scores.q.ndim == 3 and bias.ndim == 3 else bias
        bias = bias.reshape((1,) * (4 - bias.ndim) + bias.shape) if bias.ndim < 4 else bias
        sizes = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        if bias.ndim != 4 or any(have not in (1, want) for have, want in zip(bias.shape, sizes, strict=True)):
            return None
    block = Factored(name, q, k, scores.scale, bias)
    row = matrix[..., :1, :] if matrix.ndim == 4 else matrix[:, None, :1]
    tolerance = _TOLERANCE.get(matrix.dtype, 2e-2)
    return block if torch.allclose(block.rows([0]).to(row.dtype), row, rtol=0, atol=tolerance) else None


def four(x: Tensor) -> Tensor:
    """Leading axes folded into one, or one made, so that there are four."""
    return x.reshape(-1, *x.shape[-3:]) if x.ndim >= 4 else x.unsqueeze(-3).reshape(-1, 1, *x.shape[-2:])


def _stochastic(matrix: Tensor) -> bool:
    tolerance = _TOLERANCE.get(matrix.dtype, 2e-2)
    return bool((matrix.sum(-1) - 1).abs().max() < tolerance) and bool(matrix.min() >= -tolerance)


def _open(function: types.FunctionType) -> Callable[..., Any]:
    """The same code, in which every torch call is seen by an active mode, instead of the function as a whole."""
    names = {**function.__globals__, "has_torch_function": lambda _tensors: False}
    opened = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__)
    opened.__kwdefaults__ = function.__kwdefaults__
    return opened


multi_head_inside = _open(cast(types.FunctionType, multi_head_attention_forward))


def split_heads(block: Factored | Dense, heads: int) -> Factored | Dense:
    """A block whose heads are folded into the batch, `(B*H, 1, N, M)`, as `(B, H, N, M)`."""

    def split(x: Tensor) -> Tensor:
        return x.reshape(-1, heads, *x.shape[2:])

    v = None if block.v is None else split(block.v)
    if isinstance(block, Dense):
        return replace(block, probs=split(block.probs), v=v)
    bias = block.bias if block.bias is None or block.bias.shape[0] == 1 else split(block.bias)
    return replace(block, q=split(block.q), k=split(block.k), bias=bias, v=v)
