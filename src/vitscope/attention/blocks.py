"""One layer's attention, row by row: made from queries and keys (`Factored`), or stored (`Dense`).

Letters: B images, H heads, N query tokens, M key tokens, D head width.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitscope._cached import cached_property
from vitscope._messages import msg
from vitscope.attention.tile_gradients import AttentionGradient, InputGradients
from vitscope.attention.tiles import LOWEST, TILE_KEYS, TILE_QUERIES, aligned, aligned_length, attention_tiles
from vitscope.errors import MethodError, UsageError

Selection: TypeAlias = slice | int | Sequence[int] | Int[Tensor, " n"]

GradientOut: TypeAlias = Float[Tensor, "B H N E"] | Callable[[], Float[Tensor, "B H N E"]] | None

RowTile: TypeAlias = tuple[slice, slice, Float[Tensor, "b n M"]]  # images, queries, and their rows

_CHUNK_ELEMENTS = {"cpu": 2**20, "other": 2**25}


@runtime_checkable
class Block(Protocol):
    """One layer's attention, row by row."""

    @property
    def name(self) -> str:
        """The name of the module that called the attention kernel."""
        ...

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(B, H, N, M)`."""
        ...

    @property
    def chunk(self) -> int | None:
        """Queries at a time; None for as many as fit the cache."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
        ...

    def rows(self, sel: Selection = ...) -> Float[Tensor, "B H n M"]:
        """Return the attention of the selected queries; each row sums to one."""
        ...

    def log2_rows(self, step: int) -> Iterator[tuple[slice, Float[Tensor, "B H n M"]]]:
        """Yield the base-2 logarithms of all rows, `step` queries at a time; each may overwrite the last one's memory.

        None is below -126: powers of less are denormal numbers.
        """
        ...

    def grad_rows(self, sel: Selection = ...) -> Float[Tensor, "B H n M"]:
        """Return the gradient of the score with respect to the selected rows, in a differentiated store."""
        ...

    def mean_vecmat(self, r: Float[Tensor, "B N"]) -> Float[Tensor, "B M"] | None:
        """Return `r` times the mean over heads of A; None where that needs all rows."""
        ...

    def positive_relevance_vecmat(self, r: Float[Tensor, "B N"]) -> Float[Tensor, "B M"] | None:
        """Return `r` times `mean_h relu(A * dy/dA)`; None where that needs all rows."""
        ...

    def mean_rows(self) -> Iterator[RowTile] | None:
        """Yield all rows of the mean over heads of A, tile by tile; None where tiles need all rows."""
        ...

    def positive_relevance(self) -> Iterator[RowTile] | None:
        """Yield all rows of `mean_h relu(A * dy/dA)`, tile by tile; None where tiles need all rows."""
        ...


@dataclass(frozen=True, eq=False)
class Factored:
    """Attention stored as queries and keys: `A = softmax(scale * q k^T + bias)`.

    Attributes:
        name: the module that called the attention kernel.
        q: queries `(B, H, N, D)`.
        k: keys `(B, H, M, D)`, grouped heads expanded.
        scale: the factor of the scores, `1 / sqrt(D)` as a rule.
        bias: additive mask or position bias, broadcastable to `(B, H, N, M)`, or None.
        lse: the log-sum-exp of each query's scores `(B, H, N)`, where the kernel returned it.
        chunk: queries at a time; None for as many as fit the cache.
        v: values `(B, H, M, E)`, where gradients or values were captured.
        grad_out: the gradient of a score with respect to the result `A v`, `(B, H, N, E)`, or a function that computes
            it.
        project: the weight `(W, H E)` of the linear map after the heads are put side by side, where values were
            captured.
        inputs: within a backward, where gradients of q, k and v are added up.

    Memory: O(B H (N + M) D); rows are made on demand and not kept.
    """

    name: str
    q: Float[Tensor, "B H N D"]
    k: Float[Tensor, "B H M D"]
    scale: float
    bias: Float[Tensor, "#B #H #N #M"] | None = None
    lse: Float[Tensor, "B H N"] | None = None
    chunk: int | None = None
    v: Float[Tensor, "B H M E"] | None = None
    grad_out: GradientOut = None
    project: Float[Tensor, "W C"] | None = None
    inputs: InputGradients | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(B, H, N, M)`."""
        return self.q.shape[0], self.q.shape[1], self.q.shape[2], self.k.shape[2]

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
        return self.q.device

    def rows(self, sel: Selection = slice(None)) -> Float[Tensor, "B H n M"]:
        """Return the attention of the queries `sel` (a slice, an index, or several), in float32 or better."""
        return torch.softmax(self._scores(query_index(sel, self.shape[2])), -1)

    def _scores(self, sel: slice | Tensor) -> Float[Tensor, "B H n M"]:
        self._require_keys(sel)
        scores = torch.matmul(_precise(self.q[:, :, sel]) * self.scale, _precise(self.k).transpose(-1, -2))
        if self.bias is not None:
            scores = scores + (self.bias if self.bias.shape[2] == 1 else self.bias[:, :, sel])
        return scores

    def _require_keys(self, sel: slice | Tensor) -> None:
        """Raise a MethodError where the mask hides every key of a selected query: its softmax is NaN."""
        if self.bias is None or self._without_keys is None:
            return
        hidden = self._without_keys if len(self._without_keys) == 1 else self._without_keys[sel]
        if bool(hidden.any()):
            problem = msg(
                "attention.no-keys",
                "the attention of {layer} holds NaN: its mask hides every key of token {token}",
                layer=self.name,
                token=int(self._without_keys.nonzero()[0]),
            )
            hint = msg("attention.no-keys.hint", "let the mask leave each token one key, such as its own")
            raise MethodError(problem, hint)

    @cached_property
    def _without_keys(self) -> Bool[Tensor, " n"] | None:
        """Return the queries of which a mask hides every key, `(N,)` or `(1,)` for all; None where it hides none so."""
        assert self.bias is not None
        hidden = (self.bias.amax(-1) == -math.inf).flatten(0, 1).any(0).cpu()
        return hidden if bool(hidden.any()) else None

    def log2_rows(self, step: int) -> Iterator[tuple[slice, Float[Tensor, "B H n M"]]]:
        """Yield the base-2 logarithms of all rows, `step` queries at a time, none below -126.

        With the log-sum-exp of each row known, each overwrites the last one's memory.
        """
        b, h, n, m = self.shape
        if self.lse is None or self.bias is not None:
            for queries in slices(n, step):
                yield queries, torch.log_softmax(self._scores(queries), -1).div_(math.log(2)).clamp_(min=LOWEST)
            return
        q, k = _precise(self.q).flatten(0, 1), _precise(self.k).flatten(0, 1)
        tiles = attention_tiles(q, k, self._lse(self.lse).flatten(0, 1), self.scale)
        into = q.new_empty(b * h * min(step, n) * m)
        for queries in slices(n, step):
            yield queries, tiles.exponents(slice(0, b * h), queries, slice(0, m), into, gaps=False).view(b, h, -1, m)

    def grad_rows(self, sel: Selection = slice(None)) -> Float[Tensor, "B H n M"]:
        """Return the gradient of the score with respect to the selected rows: `dy/dA = (dy/dO) v^T`, exactly."""
        return _grad_rows(self, sel)

    def mean_vecmat(self, r: Float[Tensor, "B N"]) -> Float[Tensor, "B M"] | None:
        """Return `sum_i r_i mean_h A_hij`, tile by tile from the log-sum-exp of each row, without a softmax."""
        return None if self.lse is None or self.bias is not None else self._mean_vecmat(self.lse, r)

    def positive_relevance_vecmat(self, r: Float[Tensor, "B N"]) -> Float[Tensor, "B M"] | None:
        """Return `sum_i r_i mean_h A_hij relu(dy/dA_hij)`, in a differentiated store, as `mean_vecmat` does."""
        return None if self.lse is None or self.bias is not None else self._mean_vecmat(self.lse, r, self._gradient())

    def _mean_vecmat(self, lse: Tensor, r: Tensor, gradient: AttentionGradient | None = None) -> Float[Tensor, "B M"]:
        b, h, n, m = self.shape
        q, k = _precise(self.q).flatten(0, 1), _precise(self.k).flatten(0, 1)
        tiles = attention_tiles(q, k, self._lse(lse).flatten(0, 1), self.scale)
        weight = r.to(q.dtype)[:, None].expand(b, h, n).reshape(b * h, 1, n)
        out = q.new_zeros(b * h, 1, m)
        arrays = 1 if gradient is None else gradient.arrays
        tall, wide, group = self._tile(arrays)
        into = q.new_empty(arrays, min(group, b * h) * tall * aligned_length(wide))
        for heads in slices(b * h, group):
            for keys in slices(m, wide):
                for queries in slices(n, tall):
                    tile = tiles.tile(heads, queries, keys, into[0])
                    if gradient is not None:
                        tile = gradient.positive_relevance(tile, heads, queries, keys, into[1:])
                    out[heads, :, keys].baddbmm_(weight[heads, :, queries], tile)
        if gradient is not None:
            gradient.end()
        return out.view(b, h, m).mean(1)

    def mean_rows(self) -> Iterator[RowTile] | None:
        """Yield all rows of the mean over heads of A. Each tile overwrites the last one's memory."""
        return None if self.lse is None or self.bias is not None else self._row_tiles(self.lse)

    def positive_relevance(self) -> Iterator[RowTile] | None:
        """Yield all rows of `mean_h relu(A * dy/dA) = mean_h A * relu(dy/dA)`, in a differentiated store.

        Rows are made as in `mean_vecmat`, heads added up tile by tile. Each tile overwrites the last one's memory.
        """
        return None if self.lse is None or self.bias is not None else self._row_tiles(self.lse, self._gradient())

    def _row_tiles(self, lse: Tensor, gradient: AttentionGradient | None = None) -> Iterator[RowTile]:
        b, h, n, m = self.shape
        q, k = _precise(self.q).flatten(0, 1), _precise(self.k).flatten(0, 1)
        arrays = 1 if gradient is None else gradient.arrays
        tall, wide, group = self._tile(arrays)
        group = min(group, h)
        into = q.new_empty(arrays, group * tall * aligned_length(wide))
        rows = q.new_empty(tall * aligned_length(m))
        tiles = attention_tiles(q, k, self._lse(lse).flatten(0, 1) + math.log(h), self.scale)  # the mean over heads
        for image in range(b):
            for queries in slices(n, tall):
                total = aligned(rows, 1, queries.stop - queries.start, m)
                for own, keys in itertools.product(slices(h, group), slices(m, wide)):
                    heads = slice(image * h + own.start, image * h + own.stop)
                    a, part = tiles.tile(heads, queries, keys, into[0]), total[0, :, keys]
                    if gradient is not None:
                        a = gradient.positive_relevance(a, heads, queries, keys, into[1:], float(h))
                    if own.start == 0:
                        torch.sum(a, 0, out=part)
                    else:
                        part.add_(a.sum(0))
                yield slice(image, image + 1), queries, total
        if gradient is not None:
            gradient.end()

    def _gradient(self) -> AttentionGradient:
        grad, v = (x.flatten(0, 1) for x in _gradient(self))
        return AttentionGradient(grad, v, self.inputs if self.inputs is not None and self.inputs.begin() else None)

    def _lse(self, lse: Tensor) -> Float[Tensor, "B H N"]:
        return _precise(lse).to(_precise(self.q).dtype)

    def __repr__(self) -> str:
        return _repr(self, self.q.dtype)

    def _tile(self, arrays: int = 1) -> tuple[int, int, int]:
        """Return a tile's queries and keys (no tile much smaller than the others), and the tiles at a time."""
        _, _, n, m = self.shape
        wide = aligned_length(-(-m // -(-m // TILE_KEYS))) if self.device.type == "cpu" else m
        tall = -(-n // -(-n // (self.chunk or TILE_QUERIES)))
        return tall, wide, max(1, budget(self.device) // (arrays * tall * wide))


@dataclass(frozen=True, eq=False)
class Dense:
    """Attention stored as a matrix, `probs (B, H, N, M)`: of models with a softmax of their own, and in tests."""

    name: str
    probs: Float[Tensor, "B H N M"]
    chunk: int | None = None
    v: Float[Tensor, "B H M E"] | None = None
    grad_out: GradientOut = None
    project: Float[Tensor, "W C"] | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(B, H, N, M)`."""
        b, h, n, m = self.probs.shape
        return b, h, n, m

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
        return self.probs.device

    def rows(self, sel: Selection = slice(None)) -> Float[Tensor, "B H n M"]:
        """Return the attention of the queries `sel`, in float32 or better."""
        return _precise(self.probs[:, :, query_index(sel, self.shape[2])])

    def log2_rows(self, step: int) -> Iterator[tuple[slice, Float[Tensor, "B H n M"]]]:
        """Yield the base-2 logarithms of all rows, `step` queries at a time, none below -126."""
        for queries in slices(self.shape[2], step):
            yield queries, self.rows(queries).log2().clamp_(min=LOWEST)

    def grad_rows(self, sel: Selection = slice(None)) -> Float[Tensor, "B H n M"]:
        """Return the gradient of the score with respect to the selected rows: `dy/dA = (dy/dO) v^T`, exactly."""
        return _grad_rows(self, sel)

    def mean_vecmat(self, r: Float[Tensor, "B N"]) -> None:
        """Return None: a matrix has nothing cheaper than its rows."""
        return

    def positive_relevance_vecmat(self, r: Float[Tensor, "B N"]) -> None:
        """Return None: a matrix has nothing cheaper than its rows."""
        return

    def mean_rows(self) -> None:
        """Return None: a matrix has nothing cheaper than its rows."""

    def positive_relevance(self) -> None:
        """Return None: a matrix has nothing cheaper than its rows."""

    def __repr__(self) -> str:
        return _repr(self, self.probs.dtype)


def _repr(block: Factored | Dense, dtype: torch.dtype) -> str:
    about = f"'{block.name}', shape={block.shape}, dtype={str(dtype).removeprefix('torch.')}, device='{block.device}'"
    return f"{type(block).__name__}({about})"


def _grad_rows(block: Factored | Dense, sel: Selection) -> Tensor:
    grad, v = _gradient(block)
    return torch.matmul(grad[:, :, query_index(sel, block.shape[2])], v)


def _gradient(block: Factored | Dense) -> tuple[Float[Tensor, "B H N E"], Float[Tensor, "B H E M"]]:
    """Return the two factors of `dy/dA`."""
    if block.v is None or block.grad_out is None:
        raise MethodError(
            msg("attention.no-gradient", "no gradient is known for the attention of {block}", block=block.name),
            msg("attention.no-gradient.hint", "call store.differentiate(score) first"),
        )
    grad = block.grad_out() if callable(block.grad_out) else block.grad_out
    return _precise(grad), _precise(block.v).transpose(-1, -2)


def query_index(sel: Selection, length: int) -> slice | Tensor:
    """Return a selection of queries as an index; raise a UsageError for a number beyond the `length` queries."""
    if isinstance(sel, slice):
        return sel
    index = torch.as_tensor([sel] if isinstance(sel, int) else sel, dtype=torch.long, device="cpu")
    if len(index) and not (-length <= int(index.min()) and int(index.max()) < length):
        raise UsageError(
            msg(
                "attention.no-such-query",
                "query {index} is not one of the {count} tokens",
                index=index.tolist(),
                count=length,
            )
        )
    return index


def budget(device: torch.device) -> int:
    """Return how many numbers a chunk may have on a device."""
    return _CHUNK_ELEMENTS["cpu" if device.type == "cpu" else "other"]


def slices(length: int, step: int) -> Iterator[slice]:
    """Yield slices of `step` that together cover `length`; the last may be shorter."""
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _precise(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
