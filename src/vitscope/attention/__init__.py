"""Attention as a linear operator on tokens, never a stored matrix.

A block is anything that gives rows of attention on demand: `Factored` rebuilds them from queries and keys, `Dense`
holds them. Methods cannot tell the difference. `vecmat` takes a weighting of queries back to a weighting of keys, chunk
by chunk, so that memory stays linear in the number of tokens:

    r (B, N)  --pull-->  r A (B, M)       with A (B, H, N, M) the block's attention, fused over heads

An `AttentionStore` holds the blocks of one forward, and knows where the answer reads them.

Letters: B images, H heads, N query tokens, M key tokens, D head width.
"""

from vitscope.attention.blocks import Block, Dense, Factored, Selection, budget
from vitscope.attention.operators import (
    Fuse,
    Weigh,
    matrix,
    matvec,
    positive_relevance,
    positive_relevance_sums,
    query_chunks,
    vecmat,
    vecmat_heads,
    vecmat_positive_relevance,
    vecmat_positive_relevance_normalised,
)
from vitscope.attention.store import AttentionStore, CallSite, Chain, GraphOutput, LayerSpec

__all__ = [
    "AttentionStore",
    "Block",
    "CallSite",
    "Chain",
    "Dense",
    "Factored",
    "Fuse",
    "GraphOutput",
    "LayerSpec",
    "Selection",
    "Weigh",
    "budget",
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
