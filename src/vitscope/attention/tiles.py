"""Tiles of attention made from queries, keys and the log-sum-exp of each row, without a softmax.

A tile stays in a core's second-level cache while it is made, exponentiated and summed. Powers of two instead of e cost
half as much on some processors.

Letters: G heads of all images, n of N queries, m of M keys, D head width.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

TILE_QUERIES, TILE_KEYS = 256, 1024
LOWEST = -126.0  # powers of two of less are denormal numbers
ALIGNED = 16  # numbers of 64 bytes: products whose rows all begin there are written in two thirds of the time
_LOG2_E = math.log2(math.e)
_COUNTED = -80.0  # a weight below 2^-80 counts as that, far below the resolution of sums; denormal numbers are slow
_TINY = 1e-9  # a scale by which no shift can be divided: of a model that weighs all keys alike
_MANY = 2**18  # numbers of a head's attention, from which a copy of queries and keys costs less than a pass over them


@dataclass(frozen=True, eq=False)
class AttentionTiles:
    """The attention of several heads, `A_ij = 2^(scale q_i.k_j + shift_i)`, tile by tile.

    Attributes:
        q: queries `(G, N, D)`.
        k: keys `(G, D, M)`.
        scale: of the exponents.
        shift: `(G, N, 1)`; None where queries and keys have one more component, whose product it is.
        low: the heads whose exponents may be those of denormal numbers.
    """

    q: Float[Tensor, "G N D"]
    k: Float[Tensor, "G D M"]
    scale: float
    shift: Float[Tensor, "G N 1"] | None
    low: list[int]

    def tile(self, heads: slice, queries: slice, keys: slice, into: Tensor) -> Float[Tensor, "g n m"]:
        """Compute one tile of attention in the memory of `into`."""
        return self.exponents(heads, queries, keys, into).exp2_()

    def exponents(
        self, heads: slice, queries: slice, keys: slice, into: Tensor, *, gaps: bool = True
    ) -> Float[Tensor, "g n m"]:
        """Compute the base-2 logarithms of one tile in the memory of `into`, none so low that its power is denormal.

        Without `gaps` rows follow each other: where there are few queries, one product of all heads is faster than one
        of each, and needs that.
        """
        q, k = self.q[heads, queries], self.k[heads, :, keys]
        shape = *q.shape[:2], k.shape[2]
        a = aligned(into, *shape) if gaps else into[: math.prod(shape)].view(shape)
        if self.shift is not None:
            return torch.baddbmm(self.shift[heads, queries], q, k, alpha=self.scale, out=a).clamp_(min=_COUNTED)
        a.baddbmm_(q, k, beta=0, alpha=self.scale)
        for head in self.low:
            if heads.start <= head < heads.stop:
                a[head - heads.start].clamp_(min=_COUNTED)
        return a


def aligned_length(length: int) -> int:
    """Return how many numbers a row of `length` numbers takes where the next one begins at a multiple of 64 bytes."""
    return -(-length // ALIGNED) * ALIGNED


def aligned(memory: Tensor, *shape: int) -> Tensor:
    """Return the beginning of flat memory as a tensor of some shape, each of its rows at a multiple of 64 bytes."""
    *lead, length = shape
    wide = aligned_length(length)
    return memory[: math.prod(lead) * wide].view(*lead, wide)[..., :length]


def attention_tiles(
    q: Float[Tensor, "G N D"], k: Float[Tensor, "G M D"], lse: Float[Tensor, "G N"], scale: float
) -> AttentionTiles:
    """Prepare queries, keys and the log-sum-exp of each query's scores."""
    if q.shape[1] * k.shape[1] < _MANY or abs(scale) < _TINY:
        return AttentionTiles(q, k.transpose(1, 2), scale * _LOG2_E, (lse * -_LOG2_E)[..., None], [])
    longest = [torch.linalg.vector_norm(x, dim=-1).amax(-1) for x in (q, k)]
    lowest = -_LOG2_E * (longest[0] * longest[1] * abs(scale) + lse.amax(-1))  # no score exceeds the lengths' product
    q = torch.cat((q, lse[..., None] / -scale), -1)
    k = torch.cat((k, k.new_ones(*k.shape[:2], 1)), -1)
    low = (lowest < LOWEST).nonzero()[:, 0].tolist()
    return AttentionTiles(q, k.transpose(1, 2), scale * _LOG2_E, None, low)
