"""What attention does to weights of tokens, chunk by chunk: taken back to the keys, or brought to the queries."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitscope.store.blocks import TILE_QUERIES, Block, budget, slices

__all__ = ["Fuse", "Weigh", "matrix", "pull", "pull_heads", "pull_raising", "push", "raising", "raising_sums", "walk"]

Fuse: TypeAlias = Callable[[Float[Tensor, "B H n M"]], Float[Tensor, "B n M"]]
Weigh: TypeAlias = Callable[[Float[Tensor, "B H n M"], Float[Tensor, "B H n M"]], Float[Tensor, "B n M"]]


def pull(
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
        folded = block.fold(r) if len(active) > TILE_QUERIES // 2 else None
        return pull_heads(block, r).mean(1) if folded is None else folded
    out = r.new_zeros(r.shape[0], block.shape[3])
    for chunk in torch.split(active, _chunk(block)):
        rows = block.rows(chunk)
        fused = weigh(rows, block.grad_rows(chunk)) if weigh else fuse(rows) if fuse else rows.mean(1)
        part = r[:, chunk].to(fused.dtype)
        out = out + (part @ fused[0] if len(fused) == 1 else torch.bmm(part[:, None], fused).squeeze(1))
    return out


def pull_raising(block: Block, r: Float[Tensor, "B N"]) -> Float[Tensor, "B M"]:
    """`r mean_h relu(A * dy/dA)`: taken back along the attention that raises the score; as `pull` in all else.

    Cost: at most one attention and its gradient, no softmax pass where the kernel gave the log-sum-exp.
    """
    many = len(_active(r)) > TILE_QUERIES // 2 and len(r) == block.shape[0]
    folded = block.fold(r, raising=True) if many else None
    return pull(block, r, weigh=raising) if folded is None else folded


def raising_sums(block: Block) -> Float[Tensor, "B N"]:
    """`sum_j mean_h relu(A * dy/dA)_hij`: how much attention that raises the score each query holds; cost as above."""
    folded = block.fold_rows()
    if folded is not None:
        return folded
    return torch.cat([raising(block.rows(part), block.grad_rows(part)).sum(-1) for part in walk(block)], 1)


def raising(rows: Float[Tensor, "B H n M"], grads: Float[Tensor, "B H n M"]) -> Float[Tensor, "B n M"]:
    """The attention that raises the score, mean over heads: `mean_h relu(A * dy/dA)`."""
    return (rows * grads).clamp_min(0).mean(1)


def pull_heads(block: Block, r: Float[Tensor, "B N"]) -> Float[Tensor, "B H M"]:
    """`r A` for each head by itself."""
    b, h, _, m = block.shape
    out = r.new_zeros(b, h, m)
    for chunk in torch.split(_active(r), _chunk(block)):
        rows = block.rows(chunk)
        out = out + torch.matmul(r[:, None, None, chunk].to(rows.dtype), rows).squeeze(2)
    return out


def walk(block: Block) -> Iterator[slice]:
    """All queries, first to last, as many at a time as fit the cache."""
    return slices(block.shape[2], _chunk(block))


def matrix(block: Block, most: int = 1024) -> tuple[Float[Tensor, "B H n m"], int]:
    """All rows, for looking at: at most `most` on a side, by the mean over k x k entries; and that k."""
    b, h, n, m = block.shape
    k = -(-max(n, m) // most)
    rows = [_columns_pooled(block.rows(queries).mean(2), k) for queries in slices(n, k)] if k > 1 else [block.rows()]
    return torch.cat([row.reshape(b, h, -1, row.shape[-1]) for row in rows], 2), k


def push(block: Block, v: Float[Tensor, "B M"], fuse: Fuse | None = None) -> Float[Tensor, "B N"]:
    """Take values of the keys to the queries: `A v`, with A fused over heads; a column of a product from its right."""
    parts = []
    for queries in walk(block):
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
