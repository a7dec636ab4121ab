"""One layer's attention, by rows: rebuilt from queries and keys (`Factored`), or held (`Dense`).

Letters: B images, H heads, N query tokens, M key tokens, D head width.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitscope.errors import MethodError, UsageError

__all__ = ["TILE_QUERIES", "Block", "Dense", "Factored", "RelevanceTile", "Selection", "budget", "index_of", "slices"]

Selection: TypeAlias = slice | int | Sequence[int] | Int[Tensor, " n"]

RelevanceTile: TypeAlias = tuple[slice, slice, Float[Tensor, "b n M"]]  # pictures, queries, and their rows

# a tile of attention that stays in one core's second-level cache while it is made, exponentiated and summed
TILE_QUERIES, _TILE_KEYS = 256, 512
_LOG2_E = math.log2(math.e)
_CHUNK_ELEMENTS = {"cpu": 2**20, "other": 2**25}


@runtime_checkable
class Block(Protocol):
    """One layer's attention, by rows."""

    @property
    def name(self) -> str:
        """The module that made it."""
        ...

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(B, H, N, M)`."""
        ...

    @property
    def chunk(self) -> int | None:
        """Queries at a time; None chooses a number that fits the cache."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the numbers are."""
        ...

    def rows(self, sel: Selection = ...) -> Float[Tensor, "B H n M"]:
        """The attention distributions of the chosen queries; each sums to one over M."""
        ...

    def grad_rows(self, sel: Selection = ...) -> Float[Tensor, "B H n M"]:
        """The gradient of the score with respect to the chosen rows, in a store that was differentiated."""
        ...

    def mean_vecmat(self, r: Float[Tensor, "B N"]) -> Float[Tensor, "B M"] | None:
        """`r` times the mean over heads of A; None where only rows can be had."""
        ...

    def positive_relevance(self) -> Iterator[RelevanceTile] | None:
        """All rows of `mean_h relu(A * dy/dA)`, some at a time; None where only rows can be had."""
        ...


@dataclass(frozen=True, eq=False)
class Factored:
    """Attention kept as queries and keys: `A = softmax(scale * q k^T + bias)`.

    Attributes:
        name: the module that called the attention kernel.
        q: queries `(B, H, N, D)`; k: keys `(B, H, M, D)`, grouped heads already expanded.
        scale: what the scores are multiplied by, `1 / sqrt(D)` as a rule.
        bias: additive mask or position bias, broadcastable to `(B, H, N, M)`, or None.
        lse: log of each query's sum of exponentiated scores `(B, H, N)`, where the kernel gave it.
        chunk: queries at a time; None chooses.
        v: values `(B, H, M, E)`, kept where gradients are wanted.
        grad_out: gradient of a score with respect to the result `A v`, `(B, H, N, E)`.
        project: weight `(W, H E)` of the linear map that the heads' results, side by side, go into; where asked for.

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
    grad_out: Float[Tensor, "B H N E"] | None = None
    project: Float[Tensor, "W C"] | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(B, H, N, M)`."""
        return self.q.shape[0], self.q.shape[1], self.q.shape[2], self.k.shape[2]

    @property
    def device(self) -> torch.device:
        """Where the numbers are."""
        return self.q.device

    def rows(self, sel: Selection = slice(None)) -> Float[Tensor, "B H n M"]:
        """The attention distributions of the queries `sel` (a slice, an index, or several), in float32 or better."""
        sel = index_of(sel, self.shape[2])
        scores = torch.matmul(_precise(self.q[:, :, sel]) * self.scale, _precise(self.k).transpose(-1, -2))
        if self.bias is not None:
            scores = scores + (self.bias if self.bias.shape[2] == 1 else self.bias[:, :, sel])
        return torch.softmax(scores, -1)

    def grad_rows(self, sel: Selection = slice(None)) -> Float[Tensor, "B H n M"]:
        """The gradient of the score with respect to those rows of attention: `dy/dA = (dy/dO) v^T`, exactly."""
        return _grad_rows(self, sel)

    def mean_vecmat(self, r: Float[Tensor, "B N"]) -> Float[Tensor, "B M"] | None:
        """`sum_i r_i mean_h A_hij`, from `A_ij = exp(scale q_i.k_j - lse_i)`: no softmax pass, tile by tile.

        Powers of two are taken instead of e, which costs half on a CPU. Weights below 2^-80 count as 2^-80: far below
        the resolution of the sum, and it keeps denormal numbers out, which are slow.
        """
        if self.lse is None or self.bias is not None:
            return None
        b, h, n, m = self.shape
        q, k = _precise(self.q).flatten(0, 1), _precise(self.k).flatten(0, 1).transpose(1, 2)
        shift = self._shift(self.lse).reshape(b * h, n, 1)
        weight = r.to(q.dtype)[:, None].expand(b, h, n).reshape(b * h, 1, n)
        out = weight.new_zeros(b * h, 1, m)
        tall, wide, group = self._tile()
        tiles = q.new_empty(min(group, b * h) * tall * wide)
        for heads in slices(b * h, group):
            for keys in slices(m, wide):
                for queries in slices(n, tall):
                    tile = self._exp(shift[heads, queries], q[heads, queries], k[heads, :, keys], tiles)
                    out[heads, :, keys].baddbmm_(weight[heads, :, queries], tile)
        return out.view(b, h, m).mean(1)

    def positive_relevance(self) -> Iterator[RelevanceTile] | None:
        """All rows of `mean_h relu(A * dy/dA) = mean_h A * relu(dy/dA)`, in a store that was differentiated.

        Made as in `mean_vecmat`, heads added up tile by tile; each that is given overwrites the last.
        """
        return None if self.lse is None or self.bias is not None else self._positive_relevance_tiles(self.lse)

    def _positive_relevance_tiles(self, lse: Tensor) -> Iterator[RelevanceTile]:
        b, h, n, m = self.shape
        q, k = _precise(self.q), _precise(self.k).transpose(2, 3)
        grad, v = _gradient(self)
        shift = (self._shift(lse) - math.log2(h))[..., None]  # the mean over heads is in the exponent
        tall, wide, group = self._tile()
        group = min(max(1, group // 2), b)
        tiles, rows = q.new_empty(2, group * tall * wide), q.new_empty(group * tall * m)
        for pictures in slices(b, group):
            for queries in slices(n, tall):
                count, height = pictures.stop - pictures.start, queries.stop - queries.start
                total = rows[: count * height * m].view(count, height, m).zero_()
                for head, keys in itertools.product(range(h), slices(m, wide)):
                    at = pictures, head, queries
                    a = self._exp(shift[at], q[at], k[pictures, head, :, keys], tiles[0])
                    rise = torch.bmm(grad[at], v[pictures, head, :, keys], out=tiles[1, : a.numel()].view(a.shape))
                    total[:, :, keys].addcmul_(a, rise.clamp_(min=0))
                yield pictures, queries, total

    def _tile(self) -> tuple[int, int, int]:
        """Queries of a tile (none much smaller than the others), its keys, and how many tiles at once."""
        _, _, n, m = self.shape
        wide = min(_TILE_KEYS, m) if self.device.type == "cpu" else m
        tall = -(-n // -(-n // (self.chunk or TILE_QUERIES)))
        return tall, wide, max(1, budget(self.device) // (tall * wide))

    def _shift(self, lse: Tensor) -> Float[Tensor, "B H N"]:
        return _precise(lse).to(_precise(self.q).dtype) * -_LOG2_E

    def _exp(self, shift: Tensor, q: Tensor, k: Tensor, into: Tensor) -> Tensor:
        """One tile of attention."""
        shape = (*q.shape[:2], k.shape[2])
        a = into[: math.prod(shape)].view(shape)
        torch.baddbmm(shift, q, k, alpha=self.scale * _LOG2_E, out=a)
        return a.clamp_(min=-80).exp2_()


@dataclass(frozen=True, eq=False)
class Dense:
    """Attention that is already a matrix, `probs (B, H, N, M)`: for code with a softmax of its own, and for tests."""

    name: str
    probs: Float[Tensor, "B H N M"]
    chunk: int | None = None
    v: Float[Tensor, "B H M E"] | None = None
    grad_out: Float[Tensor, "B H N E"] | None = None
    project: Float[Tensor, "W C"] | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(B, H, N, M)`."""
        b, h, n, m = self.probs.shape
        return b, h, n, m

    @property
    def device(self) -> torch.device:
        """Where the numbers are."""
        return self.probs.device

    def rows(self, sel: Selection = slice(None)) -> Float[Tensor, "B H n M"]:
        """The attention distributions of the queries `sel`."""
        return _precise(self.probs[:, :, index_of(sel, self.shape[2])])

    def grad_rows(self, sel: Selection = slice(None)) -> Float[Tensor, "B H n M"]:
        """The gradient of the score with respect to those rows of attention: `dy/dA = (dy/dO) v^T`, exactly."""
        return _grad_rows(self, sel)

    def mean_vecmat(self, r: Float[Tensor, "B N"]) -> None:
        """Nothing cheaper than rows here."""
        return

    def positive_relevance(self) -> None:
        """Nor here."""


def _grad_rows(block: Factored | Dense, sel: Selection) -> Tensor:
    grad, v = _gradient(block)
    return torch.matmul(grad[:, :, index_of(sel, block.shape[2])], v)


def _gradient(block: Factored | Dense) -> tuple[Float[Tensor, "B H N E"], Float[Tensor, "B H E M"]]:
    """The two factors of `dy/dA`."""
    if block.v is None or block.grad_out is None:
        raise MethodError(f"no gradient is known of {block.name}", "store.differentiate(score) comes first")
    return _precise(block.grad_out), _precise(block.v).transpose(-1, -2)


def index_of(sel: Selection, length: int) -> slice | Tensor:
    """What users write, as what tensors take.

    Raises:
        UsageError: none of `length` queries.
    """
    if isinstance(sel, slice):
        return sel
    index = torch.as_tensor([sel] if isinstance(sel, int) else sel, dtype=torch.long)
    if len(index) and not (-length <= int(index.min()) and int(index.max()) < length):
        raise UsageError(f"query {index.tolist()} is not one of the {length} tokens")
    return index


def budget(device: torch.device) -> int:
    """How many numbers a chunk may have."""
    return _CHUNK_ELEMENTS["cpu" if device.type == "cpu" else "other"]


def slices(length: int, step: int) -> Iterator[slice]:
    """`length` things, `step` at a time."""
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _precise(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
