"""Attention as a linear operator on tokens instead of a stored matrix.

A block gives rows of attention on demand: `Factored` makes them from queries and keys, `Dense` stores them; methods
treat both alike. `vecmat` takes weights of queries back to weights of keys, chunk by chunk, so that memory stays linear
in the number of tokens:

    r (B, N)  --vecmat-->  r A (B, M)       with A (B, H, N, M) the block's attention, fused over heads

An `AttentionStore` holds the blocks of one forward and the weights of their tokens in the model's answer.

Letters: B images, H heads, N query tokens, M key tokens, D head width.
"""

from vitscope.attention.backward import GraphOutput
from vitscope.attention.blocks import Block, Dense, Factored, Selection, budget
from vitscope.attention.operators import (
    FuseHeads,
    FuseWithGradient,
    matvec,
    pooled_matrix,
    positive_relevance,
    positive_relevance_sums,
    query_chunks,
    vecmat,
    vecmat_heads,
    vecmat_positive_relevance,
    vecmat_positive_relevance_normalised,
)
from vitscope.attention.store import AttentionStore, CallSite, Chain, LayerSpec

__all__ = [
    "AttentionStore",
    "Block",
    "CallSite",
    "Chain",
    "Dense",
    "Factored",
    "FuseHeads",
    "FuseWithGradient",
    "GraphOutput",
    "LayerSpec",
    "Selection",
    "budget",
    "matvec",
    "pooled_matrix",
    "positive_relevance",
    "positive_relevance_sums",
    "query_chunks",
    "vecmat",
    "vecmat_heads",
    "vecmat_positive_relevance",
    "vecmat_positive_relevance_normalised",
]
