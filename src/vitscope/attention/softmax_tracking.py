"""Recognise attention that is written out: scores, a softmax over the last axis, and its product with values.

Where the scores are a recognised `scale * q k^T + bias`, queries and keys are recorded, after one row made from them is
compared with the softmax; otherwise the matrix is recorded.
"""

import string
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vitscope.attention.backward import GraphOutput
from vitscope.attention.blocks import Dense, Factored


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
_CHANGES = _functions(
    "mul", "mul_", "__mul__", "__imul__", "__rmul__", "multiply", "masked_fill", "masked_fill_", "where", "pow",
    "__pow__", "square", "relu", "threshold", "clamp", "clamp_min", "maximum", "view", "reshape", "exp", "sqrt",
)  # fmt: skip
_NEUTRAL = _functions(
    "dropout", "to", "type_as", "contiguous", "clone", "float", "half", "bfloat16", "double", "detach"
)
_AFTER_SCORES = _TIMES | _OVER | _PLUS
_BEGINNINGS = _SOFTMAX | _PRODUCT | _BADDBMM | _EINSUM
_MOST_PENDING = 4
_USES = 10**6  # more than the events of any forward
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


@dataclass(frozen=True, eq=False)
class _Scores:
    """The tensor `product = scale * q k^T + bias`."""

    product: Tensor
    q: Tensor
    k: Tensor
    scale: float = 1.0
    bias: Tensor | None = None


@dataclass(frozen=True, eq=False)
class _Pending:
    """A softmax that has not been multiplied with its values yet.

    Attributes:
        events: its number, and those of the softmaxes that were combined with it.
        softmaxes: its result, and those of the softmaxes that were combined with it.
        current: that result after the functions applied to it since.
        scores: its input, where that was recognised.
        unchanged: those functions changed no weight.
        reweighted: some of them changed single weights, or their order.
        transposed: queries and keys are swapped in `current`.
    """

    events: frozenset[int]
    softmaxes: tuple[Tensor, ...]
    current: Tensor
    scores: _Scores | None
    unchanged: bool = True
    reweighted: bool = False
    transposed: bool = False


@dataclass(eq=False)
class _Used:
    """Attention that was multiplied with values, for models that do so again in a later layer.

    Attributes:
        matrix: the matrix, as long as the model keeps it.
        events, block, lead: as they were recorded.
        times: how many times it was used since.
    """

    matrix: "weakref.ref[Tensor]"
    events: frozenset[int]
    block: Factored | Dense
    lead: Any
    times: int = 0


def used_again(event: int, times: int) -> int:
    """Return the number of an attention call that uses the weights of call `event` again, `times` times so far."""
    return event + times * _USES


class SoftmaxTracker:
    """Follows scores to their softmax, and the softmax to its values.

    Args:
        next_event: returns the next event number.
        module: returns the name of the module whose forward is running.
        record: called for each attention, as `AttentionRecorder` records it.
        refuse: called with the reason where a product is no attention that can be recorded.
        run: calls a function with its arguments.
    """

    def __init__(
        self,
        next_event: Callable[[], int],
        module: Callable[[], str],
        record: Callable[..., None],
        refuse: Callable[[str], None],
        run: Callable[..., Any],
    ) -> None:
        self._next_event, self._module, self._record, self._run = next_event, module, record, run
        self._refuse = refuse
        self._scores: _Scores | None = None
        self._product: Tensor | None = None
        self._pending: list[_Pending] = []
        self._used: list[_Used] = []

    def __call__(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run one torch function and follow its result."""
        if func not in _BEGINNINGS and not self._pending and (self._product is None or func not in _AFTER_SCORES):
            return self._run(func, args, kwargs)
        if self._pending:
            for value in _operands(func, args):
                for pending in self._pending:
                    if value is pending.current:
                        return self._follow(pending, func, args, kwargs)
        used = self._used_in(args) if self._used and func in _PRODUCT else None
        out = self._run(func, args, kwargs)
        if used is not None:
            used.times += 1
            events = [used_again(event, used.times) for event in used.events]
            value = as_4d(args[1].expand(*used.lead, *args[1].shape[-2:]))
            self._record(events, replace(used.block, v=None), used.lead, value, GraphOutput((out,), as_4d))
            return out
        if func in _SOFTMAX:
            self._on_softmax(args, kwargs, out)
        elif func in _PRODUCT or func in _BADDBMM or func in _EINSUM:
            self._on_product(func, args, out)
        elif func in _AFTER_SCORES and self._product is not None:
            if any(a is self._product for a in args) and isinstance(out, Tensor) and out.shape == self._product.shape:
                self._product = out
            if self._scores is not None:
                self._on_scaled_scores(func, args, out)
        return out

    def _used_in(self, args: Any) -> "_Used | None":
        """Return the attention matrix that a product uses again."""
        self._used = [used for used in self._used if used.matrix() is not None][-_MOST_PENDING:]
        first = args[0] if len(args) > 1 else None
        return next((used for used in self._used if used.matrix() is first), None)

    def _on_product(self, func: Any, args: Any, out: Tensor) -> None:
        a, b = args[-2:] if len(args) > 1 and func not in _EINSUM else (None, None)
        bias = args[0] if func in _BADDBMM else None
        self._scores, self._product = None, out
        if not isinstance(a, Tensor) or not isinstance(b, Tensor) or not a.ndim == b.ndim == out.ndim:
            return
        if out.ndim in (3, 4) and a.shape[:-2] == b.shape[:-2]:
            self._scores = _Scores(out, a, b.transpose(-1, -2), 1.0, bias)

    def _on_scaled_scores(self, func: Any, args: Any, out: Tensor) -> None:
        scores = self._scores
        assert scores is not None
        other: Any = next((a for a in args if a is not scores.product), None)
        if (
            not any(a is scores.product for a in args)
            or not isinstance(out, Tensor)
            or out.shape != scores.product.shape
        ):
            return
        number = other is not None and (not isinstance(other, Tensor) or not other.ndim)
        if func in _PLUS and isinstance(other, Tensor):
            self._scores = replace(scores, product=out, bias=other if scores.bias is None else scores.bias + other)
        elif number and func not in _PLUS:
            factor = float(other) if func in _TIMES else 1 / float(other)
            bias = None if scores.bias is None else scores.bias * factor
            self._scores = replace(scores, product=out, scale=scores.scale * factor, bias=bias)
        else:
            self._scores = None

    def _on_softmax(self, args: Any, kwargs: Any, out: Tensor) -> None:
        event = self._next_event()
        x = args[0] if args else kwargs["input"]
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        scores = self._scores if self._scores is not None and self._scores.product is x else None
        product = self._product is x
        self._scores = self._product = None
        if out.ndim < 2 or dim is None:
            return
        axis = dim - out.ndim if dim >= 0 else dim
        if out.ndim == 2 and axis != -1:
            return
        if axis == -1:
            found = _Pending(frozenset({event}), (out,), out, scores)
        elif axis == -2 and (product or out.shape[-1] == 1):  # keys before queries, or the weights of one query
            found = _Pending(frozenset({event}), (out.transpose(-1, -2),), out, None, transposed=True)
        else:
            return
        self._pending = [*self._pending[1 - _MOST_PENDING :], found]

    def _follow(self, pending: _Pending, func: Any, args: Any, kwargs: Any) -> Any:
        out = self._run(func, args, kwargs)
        if func in _SOFTMAX:
            self._next_event()
        operands = _operands(func, args)
        if func in _EINSUM:
            self._on_einsum(pending, args[0], operands, out)
            return out
        if func in _PRODUCT:
            if pending.current.ndim == 2:  # of classes, say: weights of tokens have an axis of images that values share
                self._pending.remove(pending)
            elif operands[0] is pending.current and not pending.transposed:
                self._record_attention(pending, pending.current, operands[1], GraphOutput((out,), as_4d))
            elif operands[1] is pending.current and pending.transposed:
                output = GraphOutput((out,), lambda x: as_4d(x.transpose(-1, -2)))
                self._record_attention(
                    pending, pending.current.transpose(-1, -2), operands[0].transpose(-1, -2), output
                )
            else:
                self._pending.remove(pending)
            return out
        if isinstance(out, Tensor) and out.numel() == pending.current.numel() and out.is_floating_point():
            if _is_transposed(out, pending.current):
                step = replace(pending, current=out, transposed=not pending.transposed)
            else:
                unchanged = pending.unchanged and func in _NEUTRAL
                changed = pending.reweighted or (func in _CHANGES and not _same_in_row(func, args, pending.current))
                step = replace(pending, current=out, unchanged=unchanged, reweighted=changed)
            others = [p for p in self._pending if p is not pending and any(a is p.current for a in args)]
            for other in others:
                events, softmaxes = step.events | other.events, step.softmaxes + other.softmaxes
                step = replace(step, events=events, softmaxes=softmaxes)
            aside = out is not pending.current  # the weights themselves may go on, beside what a hook keeps of them
            self._pending = [p for p in self._pending if (p is not pending or aside) and p not in others]
            self._pending.append(step)
        return out

    def _on_einsum(self, pending: _Pending, equation: str, operands: Sequence[Any], result: Tensor) -> None:
        """Record an `einsum` of attention with values: find the letters of queries and keys, and those before them."""
        if "." in equation:
            equation = expand_ellipsis(equation, [x.ndim for x in operands])
        left, _, out = equation.replace(" ", "").partition("->")
        terms = left.split(",")
        if len(operands) != 2 or not out:
            return
        which = 0 if operands[0] is pending.current else 1
        probs, value = terms[which], terms[1 - which]
        key = [c for c in probs if c in value and c not in out]
        query = [c for c in probs if c not in value and c in out]
        if out[-2:] == probs[-2:] and not set(out[-2:]) & set(value):  # heads are mixed
            self._pending.remove(pending)
            self._pending.append(replace(pending, current=result, unchanged=False))
        elif len(key) == 1 and (len(query) == 1 or (not query and len(probs) == 2)):
            lead = [c for c in probs if c not in (*key, *query)]
            width = [c for c in value if c not in probs]
            matrix = pending.current.permute([probs.index(c) for c in (*lead, *query, *key)])
            matrix = matrix if query else matrix.unsqueeze(-2)  # the weights of one query, which has no letter
            if pending.unchanged and not _stochastic(matrix):  # summed over its queries: no attention
                return
            plain = len(width) == 1 and set(lead) <= set(value) and set(out) == {*lead, *query, *width}
            if not plain and not query:
                return
            if not plain:
                self._record_attention(pending, matrix, None, None)
                return
            values = operands[1 - which].permute([value.index(c) for c in (*lead, *key, *width)])
            back = [out.index(c) for c in (*lead, *query, *width)]

            def arranged(x: Tensor) -> Tensor:
                return as_4d(x.permute(back) if query else x.permute(back).unsqueeze(-2))

            self._record_attention(pending, matrix, values, GraphOutput((result,), arranged))

    def _record_attention(
        self, pending: _Pending, matrix: Tensor, value: Tensor | None, output: GraphOutput | None
    ) -> None:
        self._pending = [other for other in self._pending if not other.events & pending.events]
        scores, matrix = pending.scores, matrix.detach()
        lead = matrix.shape[:-2]
        value = None if value is None else as_4d(value.expand(*lead, *value.shape[-2:]))
        softmax = None
        if not pending.unchanged and not _stochastic(matrix):  # heads are mixed after their softmax: rows as before
            alike = [one for one in pending.softmaxes if one.shape == matrix.shape]
            if pending.reweighted and not (len(alike) == 1 and _rows_scaled(matrix, alike[0])):
                self._refuse(self._module())
                return
            softmax = alike[0] if alike else None
            matrix = torch.stack([one.detach() for one in alike]).mean(0) if alike else matrix
        elif pending.unchanged and scores is not None and not pending.transposed:
            factored = _factored(self._module(), scores, matrix)
            if factored is not None:
                self._record(pending.events, factored, lead, value, output)
                self._used.append(_Used(weakref.ref(pending.current), pending.events, factored, lead))
                return
        dense = Dense(self._module(), as_4d(matrix))
        self._record(pending.events, dense, lead, value, output, softmax)
        if softmax is None and not pending.transposed:
            self._used.append(_Used(weakref.ref(pending.current), pending.events, dense, lead))


def _operands(func: Any, args: Any) -> Sequence[Any]:
    if func in _EINSUM:
        return args[1] if isinstance(args[1], (tuple, list)) else args[1:]
    return args[0] if args and isinstance(args[0], (tuple, list)) else args


def expand_ellipsis(equation: str, dims: Sequence[int]) -> str:
    """Return an `einsum` equation with letters for `...`; `dims` are its operands' numbers of axes."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    rest = [max(n - len(term.replace("...", "")), 0) for term, n in zip(terms, dims, strict=True)]
    most = max((n for n, term in zip(rest, terms, strict=True) if "..." in term), default=0)
    letters = "".join(c for c in string.ascii_uppercase if c not in equation)[:most]
    terms = [term.replace("...", letters[most - n :]) for n, term in zip(rest, terms, strict=True)]
    return ",".join(terms) + arrow + out.replace("...", letters)


def _factored(name: str, scores: _Scores, matrix: Tensor) -> Factored | None:
    """Return queries and keys, if the first row made from them is the first of `matrix`."""
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


def as_4d(x: Tensor) -> Tensor:
    """Reshape to four axes: fold leading axes into one, or add one."""
    return x.reshape(-1, *x.shape[-3:]) if x.ndim >= 4 else x.unsqueeze(-3).reshape(-1, 1, *x.shape[-2:])


def _is_transposed(out: Tensor, before: Tensor) -> bool:
    """Return whether `out` is a view of `before` whose last two axes are swapped."""
    if out.ndim != before.ndim or out.ndim < 2 or out.data_ptr() != before.data_ptr():
        return False
    swapped = before.transpose(-1, -2)
    moved = out.stride() != before.stride() or out.shape != before.shape
    return out.shape == swapped.shape and out.stride() == swapped.stride() and moved


def _same_in_row(func: Any, args: Any, matrix: Tensor) -> bool:
    """Return whether a function multiplies all weights of a row with one number."""
    others = [value for value in args if isinstance(value, Tensor) and value is not matrix]
    return func in _TIMES and all(not value.ndim or value.shape[-1] == 1 for value in others)


def _rows_scaled(matrix: Tensor, softmax: Tensor) -> bool:
    """Return whether each row of a matrix is a multiple of the softmax's, so that its weights are in the same ratio."""
    if matrix.shape != softmax.shape:
        return False
    total = matrix.sum(-1, keepdim=True)
    return torch.allclose(matrix, softmax.detach() * total, rtol=1e-3, atol=_TOLERANCE.get(matrix.dtype, 2e-2))


def _stochastic(matrix: Tensor) -> bool:
    tolerance = _TOLERANCE.get(matrix.dtype, 2e-2)
    return bool((matrix.sum(-1) - 1).abs().max() < tolerance) and bool(matrix.min() >= -tolerance)


def split_heads(block: Factored | Dense, heads: int) -> Factored | Dense:
    """Return a block whose heads are folded into the batch, `(B*H, 1, N, M)`, as `(B, H, N, M)`."""

    def split(x: Tensor) -> Tensor:
        return x.reshape(-1, heads, *x.shape[2:])

    v = None if block.v is None else split(block.v)
    if isinstance(block, Dense):
        return replace(block, probs=split(block.probs), v=v)
    bias = block.bias if block.bias is None or block.bias.shape[0] == 1 else split(block.bias)
    return replace(block, q=split(block.q), k=split(block.k), bias=bias, v=v)
