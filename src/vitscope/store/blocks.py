"""One layer's attention, by rows: rebuilt from queries and keys (`Factored`), or held (`Dense`).

Letters: B images, H heads, N query tokens, M key tokens, D head width.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitscope.errors import MethodError, UsageError

__all__ = ["TILE_QUERIES", "Block", "Dense", "Factored", "Selection", "budget", "index_of", "slices"]

Selection: TypeAlias = slice | int | Sequence[int] | Int[Tensor, " n"]

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

    def fold(self, r: Float[Tensor, "B N"], *, raising: bool = False) -> Float[Tensor, "B M"] | None:
        """`r` times the mean over heads of A, or of `relu(A * dy/dA)`; None where only rows can be had."""
        ...

    def fold_rows(self) -> Float[Tensor, "B N"] | None:
        """The sums of the rows of `mean_h relu(A * dy/dA)`; None where only rows can be had."""
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

    def fold(self, r: Float[Tensor, "B N"], *, raising: bool = False) -> Float[Tensor, "B M"] | None:
        """`sum_i r_i mean_h A_hij`, from `A_ij = exp(scale q_i.k_j - lse_i)`: no softmax pass, tile by tile.

        With `raising`, of `relu(A * dy/dA) = A * relu(dy/dA)` instead of A, in a store that was differentiated.

        Powers of two are taken instead of e, which costs half on a CPU. Weights below 2^-80 count as 2^-80: far below
        the resolution of the sum, and it keeps denormal numbers out, which are slow.
        """
        if self.lse is None or self.bias is not None:
            return None
        b, h, n, m = self.shape
        weight = r.to(_precise(self.q).dtype)[:, None].expand(b, h, n).reshape(b * h, 1, n)
        out = weight.new_zeros(b * h, 1, m)
        for heads, queries, keys, tile in self._tiles(self.lse, raising):
            out[heads, :, keys].baddbmm_(weight[heads, :, queries], tile)
        return out.view(b, h, m).mean(1)

    def fold_rows(self) -> Float[Tensor, "B N"] | None:
        """`sum_j mean_h relu(A * dy/dA)_hij`: the rows' sums of what `fold` takes with `raising`, made as there."""
        if self.lse is None or self.bias is not None:
            return None
        b, h, n, _ = self.shape
        out = _precise(self.q).new_zeros(b * h, n)
        for heads, queries, _, tile in self._tiles(self.lse, True):
            out[heads, queries] += tile.sum(-1)
        return out.view(b, h, n).mean(1)

    def _tiles(self, lse: Tensor, raising: bool) -> Iterator[tuple[slice, slice, slice, Tensor]]:
        """Attention, or that which raises the score, a tile that fits the cache at a time; each overwrites the last."""
        b, h, n, m = self.shape
        q, k = _precise(self.q).flatten(0, 1), _precise(self.k).flatten(0, 1).transpose(1, 2)
        shift = (_precise(lse) * -_LOG2_E).to(q.dtype).reshape(b * h, n, 1)
        grad, v = (x.flatten(0, 1) for x in _gradient(self)) if raising else (None, None)
        tall = -(-n // -(-n // (self.chunk or TILE_QUERIES)))  # none much smaller than the others
        wide = _TILE_KEYS if self.device.type == "cpu" else m
        group = max(1, budget(self.device) // (tall * min(wide, m) * (1 + raising)))
        tiles = q.new_empty(1 + raising, min(group, b * h) * tall * min(wide, m))
        for heads in slices(b * h, group):
            for keys in slices(m, wide):
                part = k[heads, :, keys]
                for queries in slices(n, tall):
                    here = q[heads, queries]
                    shape = (*here.shape[:2], part.shape[2])
                    a = tiles[0, : math.prod(shape)].view(shape)
                    torch.baddbmm(shift[heads, queries], here, part, alpha=self.scale * _LOG2_E, out=a)
                    a.clamp_(min=-80).exp2_()
                    if grad is not None and v is not None:
                        rise = tiles[1, : a.numel()].view(shape)
                        torch.bmm(grad[heads, queries], v[heads, :, keys], out=rise)
                        a.mul_(rise.clamp_(min=0))
                    yield heads, queries, keys, a


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

    def fold(self, r: Float[Tensor, "B N"], *, raising: bool = False) -> None:
        """Nothing cheaper than rows here."""
        return

    def fold_rows(self) -> None:
        """There is nothing to save either."""


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
