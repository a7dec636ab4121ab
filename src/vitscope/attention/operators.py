"""Products of weights of tokens with attention, from the queries to the keys or back, chunk by chunk of queries."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitscope.attention.blocks import Block, RowTile, budget, slices
from vitscope.attention.tiles import TILE_QUERIES, aligned, aligned_length

FuseHeads: TypeAlias = Callable[[Float[Tensor, "B H n M"]], Float[Tensor, "B n M"]]
FuseWithGradient: TypeAlias = Callable[[Float[Tensor, "B H n M"], Float[Tensor, "B H n M"]], Float[Tensor, "B n M"]]


def vecmat(
    block: Block,
    r: Float[Tensor, "B N"],
    fuse: FuseHeads | None = None,
    *,
    fuse_with_gradient: FuseWithGradient | None = None,
) -> Float[Tensor, "B M"]:
    """Take weights of queries to weights of keys: `r A`, with A fused over heads.

    Args:
        block: one layer's attention.
        r: weights of the queries, of any sign; queries with weight 0 in the whole batch are not computed. A block of
            one image takes several rows.
        fuse: from rows `(B, H, n, M)` to `(B, n, M)`; by default the mean over heads, which is also the fastest.
        fuse_with_gradient: from rows and their gradients, both `(B, H, n, M)`, to `(B, n, M)`; instead of `fuse`.

    Cost: at most one attention without its value product; O(chunk M) memory beyond the block.
    """
    active = _active(r)
    several_rows, many = block.shape[0] == 1 < len(r), len(active) > TILE_QUERIES // 2
    if fuse is None and fuse_with_gradient is None:
        if not several_rows:
            folded = block.mean_vecmat(r) if many else None
            return vecmat_heads(block, r).mean(1) if folded is None else folded
        if many and (tiles := block.mean_rows()) is not None:
            return _sum_of_products(r, tiles, block.shape[3])
    out = r.new_zeros(r.shape[0], block.shape[3])
    for chunk in torch.split(active, _chunk(block)):
        rows = block.rows(chunk)
        if fuse_with_gradient:
            fused = fuse_with_gradient(rows, block.grad_rows(chunk))
        else:
            fused = fuse(rows) if fuse else rows.mean(1)
        part = r[:, chunk].to(fused.dtype)
        out = out + (part @ fused[0] if len(fused) == 1 else torch.bmm(part[:, None], fused).squeeze(1))
    return out


def _sum_of_products(r: Float[Tensor, "Q N"], tiles: Iterator[RowTile], keys: int) -> Float[Tensor, "Q M"]:
    """Return `r` times rows of one image."""
    single = _single_weights(r)
    out = None
    for _, queries, rows in tiles:
        r = r.to(rows.dtype)
        if out is None:
            memory = rows.new_zeros(len(r) * aligned_length(keys))
            out = aligned(memory, len(r), keys)
        if single is None:
            out.addmm_(r[:, queries], rows[0])
        else:
            (here,) = ((single >= queries.start) & (single < queries.stop)).nonzero(as_tuple=True)
            out[here] = r[here, single[here]][:, None] * rows[0, single[here] - queries.start]
    assert out is not None
    return out


def _single_weights(r: Float[Tensor, "Q N"]) -> Int[Tensor, " Q"] | None:
    """Return where each row has its only weight; None where rows have several, as all do beyond the last layer."""
    if int(r[0].count_nonzero()) > 1 or int(r.count_nonzero(1).amax()) > 1:
        return None
    return r.abs().argmax(1)


def vecmat_positive_relevance(block: Block, r: Float[Tensor, "B N"]) -> Float[Tensor, "B M"]:
    """Return `r mean_h relu(A * dy/dA)`: `vecmat` along the attention that raises the score.

    Cost: at most one attention and its gradient, without a softmax where the kernel returned the log-sum-exp.
    """
    if not _many(block, r):
        return vecmat(block, r, fuse_with_gradient=positive_relevance)
    if (product := block.positive_relevance_vecmat(r)) is not None:
        return product
    out = r.new_zeros(len(r), block.shape[3])
    for images, queries, rows in _positive_relevance_tiles(block):
        out[images] += _times(r[images, queries], rows)
    return out


def vecmat_positive_relevance_normalised(
    block: Block, r: Float[Tensor, "B N"]
) -> tuple[Float[Tensor, "B M"], Float[Tensor, "B N"]]:
    """Return `r D mean_h relu(A * dy/dA)` and the diagonal of D, which divides each row of `I + mean_h ...` by its sum.

    D is 1 for queries with weight 0 in the whole batch. Cost: that of `vecmat_positive_relevance`.
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
        return vecmat(block, r * shares, fuse_with_gradient=positive_relevance), shares
    out = r.new_zeros(len(r), block.shape[3])
    for images, queries, rows in _positive_relevance_tiles(block):
        shares[images, queries] = 1 / (1 + rows.sum(-1))
        out[images] += _times(r[images, queries] * shares[images, queries], rows)
    return out, shares


def positive_relevance_sums(block: Block) -> Float[Tensor, "B N"]:
    """Return `sum_j mean_h relu(A * dy/dA)_hij` of each query, at the cost of `vecmat_positive_relevance`."""
    sums = None
    for images, queries, rows in _positive_relevance_tiles(block):
        sums = rows.new_zeros(block.shape[0], block.shape[2]) if sums is None else sums
        sums[images, queries] = rows.sum(-1)
    assert sums is not None
    return sums


def _positive_relevance_tiles(block: Block) -> Iterator[RowTile]:
    """Yield all rows of `mean_h relu(A * dy/dA)`, in tiles where the block has them, else in chunks of rows."""
    tiles = block.positive_relevance()
    if tiles is not None:
        yield from tiles
        return
    for queries in query_chunks(block):
        yield slice(0, block.shape[0]), queries, positive_relevance(block.rows(queries), block.grad_rows(queries))


def _times(r: Float[Tensor, "b n"], rows: Float[Tensor, "b n M"]) -> Float[Tensor, "b M"]:
    return torch.bmm(r[:, None].to(rows.dtype), rows)[:, 0]


def _many(block: Block, r: Float[Tensor, "B N"]) -> bool:
    """Return whether so many queries have weight that to select them saves nothing."""
    return len(_active(r)) > TILE_QUERIES // 2 and len(r) == block.shape[0]


def positive_relevance(rows: Float[Tensor, "B H n M"], grads: Float[Tensor, "B H n M"]) -> Float[Tensor, "B n M"]:
    """Return the attention that raises the score, averaged over heads: `mean_h relu(A * dy/dA)`."""
    return (rows * grads).clamp_min(0).mean(1)


def vecmat_heads(block: Block, r: Float[Tensor, "B N"]) -> Float[Tensor, "B H M"]:
    """Return `r A` of each head."""
    b, h, _, m = block.shape
    out = r.new_zeros(b, h, m)
    for chunk in torch.split(_active(r), _chunk(block)):
        rows = block.rows(chunk)
        out = out + torch.matmul(r[:, None, None, chunk].to(rows.dtype), rows).squeeze(2)
    return out


def query_chunks(block: Block) -> Iterator[slice]:
    """Yield slices of all queries, first to last, as many at a time as fit the cache."""
    return slices(block.shape[2], _chunk(block))


def pooled_matrix(block: Block, max_side: int = 1024) -> tuple[Float[Tensor, "B H n m"], int]:
    """Return all rows for display, averaged over k x k entries so that no side exceeds `max_side`, and k."""
    b, h, n, m = block.shape
    k = -(-max(n, m) // max_side)
    rows = [_columns_pooled(block.rows(queries).mean(2), k) for queries in slices(n, k)] if k > 1 else [block.rows()]
    return torch.cat([row.reshape(b, h, -1, row.shape[-1]) for row in rows], 2), k


def matvec(block: Block, v: Float[Tensor, "B M"], fuse: FuseHeads | None = None) -> Float[Tensor, "B N"]:
    """Take values of keys to values of queries: `A v`, with A fused over heads (by default, averaged)."""
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
    weighted = r[0] != 0 if len(r) else r.any(0)
    return (weighted if bool(weighted.all()) else r.any(0)).nonzero().squeeze(1)


def _columns_pooled(rows: Float[Tensor, "B H M"], k: int) -> Float[Tensor, "B H m"]:
    return torch.nn.functional.avg_pool1d(rows, k, ceil_mode=True, count_include_pad=False)
