"""What attention does to weights of tokens, chunk by chunk: taken back to the keys, or brought to the queries."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitscope.attention.blocks import TILE_QUERIES, Block, RelevanceTile, budget, slices

__all__ = [
    "Fuse",
    "Weigh",
    "matrix",
    "matvec",
    "positive_relevance",
    "positive_relevance_sums",
    "query_chunks",
    "vecmat",
    "vecmat_heads",
    "vecmat_positive_relevance",
    "vecmat_positive_relevance_normalised",
]

Fuse: TypeAlias = Callable[[Float[Tensor, "B H n M"]], Float[Tensor, "B n M"]]
Weigh: TypeAlias = Callable[[Float[Tensor, "B H n M"], Float[Tensor, "B H n M"]], Float[Tensor, "B n M"]]


def vecmat(
    block: Block, r: Float[Tensor, "B N"], fuse: Fuse | None = None, *, weigh: Weigh | None = None
) -> Float[Tensor, "B M"]:
    """Take a weighting of queries to a weighting of keys: `r A`, with A fused over heads.

    Args:
        block: one layer's attention.
        r: weights of the query tokens, any sign; queries that weigh nothing in the whole batch are never computed.
        fuse: from rows `(B, H, n, M)` to `(B, n, M)`; None is the mean over heads, which is also the fastest.
        weigh: from rows and their gradients, both `(B, H, n, M)`, to `(B, n, M)`; instead of `fuse`.

    A block of one picture takes several weightings at once, a row of `r` for each.

    Cost: at most one attention without its value product; O(chunk M) memory beyond the block.
    """
    active = _active(r)
    if block.shape[0] == 1 < len(r):
        fuse = fuse or (lambda rows: rows.mean(1))
    if fuse is None and weigh is None:
        folded = block.mean_vecmat(r) if len(active) > TILE_QUERIES // 2 else None
        return vecmat_heads(block, r).mean(1) if folded is None else folded
    out = r.new_zeros(r.shape[0], block.shape[3])
    for chunk in torch.split(active, _chunk(block)):
        rows = block.rows(chunk)
        fused = weigh(rows, block.grad_rows(chunk)) if weigh else fuse(rows) if fuse else rows.mean(1)
        part = r[:, chunk].to(fused.dtype)
        out = out + (part @ fused[0] if len(fused) == 1 else torch.bmm(part[:, None], fused).squeeze(1))
    return out


def vecmat_positive_relevance(block: Block, r: Float[Tensor, "B N"]) -> Float[Tensor, "B M"]:
    """`r mean_h relu(A * dy/dA)`: taken back along the attention that raises the score; as `vecmat` in all else.

    Cost: at most one attention and its gradient, no softmax pass where the kernel gave the log-sum-exp.
    """
    if not _many(block, r):
        return vecmat(block, r, weigh=positive_relevance)
    out = r.new_zeros(len(r), block.shape[3])
    for pictures, queries, rows in _positive_relevance_tiles(block):
        out[pictures] += _times(r[pictures, queries], rows)
    return out


def vecmat_positive_relevance_normalised(
    block: Block, r: Float[Tensor, "B N"]
) -> tuple[Float[Tensor, "B M"], Float[Tensor, "B N"]]:
    """`r D mean_h relu(A * dy/dA)` and the diagonal of D, which divides each row of `I + mean_h ...` by its sum.

    D is 1 for queries that weigh nothing in the whole batch. Cost: that of `vecmat_positive_relevance`.
    """
    shares = r.new_ones(r.shape)
    if not _many(block, r):
        active = _active(r)
        sums = [
            positive_relevance(block.rows(part), block.grad_rows(part)).sum(-1)
            for part in torch.split(active, _chunk(block))
        ]
        if sums:
            shares[:, active] = (1 / (1 + torch.cat(sums, 1))).to(r.dtype)
        return vecmat(block, r * shares, weigh=positive_relevance), shares
    out = r.new_zeros(len(r), block.shape[3])
    for pictures, queries, rows in _positive_relevance_tiles(block):
        shares[pictures, queries] = 1 / (1 + rows.sum(-1))
        out[pictures] += _times(r[pictures, queries] * shares[pictures, queries], rows)
    return out, shares


def positive_relevance_sums(block: Block) -> Float[Tensor, "B N"]:
    """`sum_j mean_h relu(A * dy/dA)_hij`: how much attention that raises the score each query holds; cost as above."""
    sums = None
    for pictures, queries, rows in _positive_relevance_tiles(block):
        sums = rows.new_zeros(block.shape[0], block.shape[2]) if sums is None else sums
        sums[pictures, queries] = rows.sum(-1)
    assert sums is not None
    return sums


def _positive_relevance_tiles(block: Block) -> Iterator[RelevanceTile]:
    """All rows of `mean_h relu(A * dy/dA)`, tile by tile where that is possible, else by chunks of rows."""
    tiles = block.positive_relevance()
    if tiles is not None:
        yield from tiles
        return
    for queries in query_chunks(block):
        yield slice(0, block.shape[0]), queries, positive_relevance(block.rows(queries), block.grad_rows(queries))


def _times(r: Float[Tensor, "b n"], rows: Float[Tensor, "b n M"]) -> Float[Tensor, "b M"]:
    return torch.bmm(r[:, None].to(rows.dtype), rows)[:, 0]


def _many(block: Block, r: Float[Tensor, "B N"]) -> bool:
    """Do most queries count, so that nothing is saved by choosing among them?"""
    return len(_active(r)) > TILE_QUERIES // 2 and len(r) == block.shape[0]


def positive_relevance(rows: Float[Tensor, "B H n M"], grads: Float[Tensor, "B H n M"]) -> Float[Tensor, "B n M"]:
    """The attention that raises the score, mean over heads: `mean_h relu(A * dy/dA)`."""
    return (rows * grads).clamp_min(0).mean(1)


def vecmat_heads(block: Block, r: Float[Tensor, "B N"]) -> Float[Tensor, "B H M"]:
    """`r A` for each head by itself."""
    b, h, _, m = block.shape
    out = r.new_zeros(b, h, m)
    for chunk in torch.split(_active(r), _chunk(block)):
        rows = block.rows(chunk)
        out = out + torch.matmul(r[:, None, None, chunk].to(rows.dtype), rows).squeeze(2)
    return out


def query_chunks(block: Block) -> Iterator[slice]:
    """All queries, first to last, as many at a time as fit the cache."""
    return slices(block.shape[2], _chunk(block))


def matrix(block: Block, most: int = 1024) -> tuple[Float[Tensor, "B H n m"], int]:
    """All rows, for looking at: at most `most` on a side, by the mean over k x k entries; and that k."""
    b, h, n, m = block.shape
    k = -(-max(n, m) // most)
    rows = [_columns_pooled(block.rows(queries).mean(2), k) for queries in slices(n, k)] if k > 1 else [block.rows()]
    return torch.cat([row.reshape(b, h, -1, row.shape[-1]) for row in rows], 2), k


def matvec(block: Block, v: Float[Tensor, "B M"], fuse: Fuse | None = None) -> Float[Tensor, "B N"]:
    """Take values of the keys to the queries: `A v`, with A fused over heads; a column of a product from its right."""
    parts = []
    for queries in query_chunks(block):
        rows = block.rows(queries)
        fused = rows.mean(1) if fuse is None else fuse(rows)
        parts.append(torch.bmm(fused, v[..., None].to(fused.dtype)).squeeze(2))
    return torch.cat(parts, 1)


def _chunk(block: Block) -> int:
    b, h, _, m = block.shape
    return block.chunk or max(1, budget(block.device) // (b * h * m))


def _active(r: Float[Tensor, "B N"]) -> Int[Tensor, " n"]:
    return (r != 0).any(0).nonzero().squeeze(1)


def _columns_pooled(rows: Float[Tensor, "B H M"], k: int) -> Float[Tensor, "B H m"]:
    return torch.nn.functional.avg_pool1d(rows, k, ceil_mode=True, count_include_pad=False)
