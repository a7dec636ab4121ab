"""Raw attention: what the readout row of one layer attends to."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.attention import AttentionStore, Block, LayerSpec, vecmat
from vitscope.methods.base import method
from vitscope.methods.head_fusion import HeadFusion, fuse_heads

__all__ = ["attention", "attention_received"]


@method(
    "attention",
    passes="1 forward",
    source="Vaswani et al. 2017, equation 1; as a map: Caron et al. 2021, figure 1",
    sums_to_one=True,
)
def attention(
    store: AttentionStore, *, layer: int = -1, head: HeadFusion | int = "mean", query: str = "readout"
) -> Float[Tensor, "B N"]:
    """One layer's attention from the readout row, or from one patch, to every token.

    Formula: `m = sum_i s_i A_ij` with s the readout row (CLS: one-hot; mean pooling: 1 / tokens read; attention
    pooling: the pooling query's own attention) and `A = softmax(q k^T / sqrt(D))` of that layer, fused over heads.

    Args:
        store: the attention of one forward.
        layer: from 0, or from the end with negative numbers.
        head: `mean`, `max` or `min` over heads, or one head's number.
        query: `readout`, a prefix token's name such as `cls`, or `row,column` of the patch that asks, from 0.

    In a windowed or hierarchical model s is taken to that layer, and the result to the finest tokens, along residuals.
    A model with an attention pooling and no layer before it has that pooling's attention as its map.

    Returns:
        `(B, N)`, each in [0, 1], summing to one over all tokens, the prefix included.

    Cost: one forward and one row (with mean pooling: all rows of one layer); memory linear in tokens.
    Limits: class-agnostic. The last layer mixes tokens that have already been mixed: a weight says what is read there,
        not what is in it.
    """
    store = store.with_query(query)
    if not len(store) and (layer, head) == (-1, "mean"):
        return store.rollout_from_readout([], vecmat, 0.0, 1.0)
    return store.rollout_from_readout(
        store.select(layer), lambda block, r: vecmat(block, r, fuse_heads(block, head)), 0.0, 1.0
    )


@method(
    "attention-received",
    passes="1 forward",
    source="column sums of Vaswani et al. 2017, equation 1; as sinks: Xiao et al. 2024, Darcet et al. 2024",
    sums_to_one=True,
)
def attention_received(
    store: AttentionStore, *, layers: LayerSpec = "-1", head: HeadFusion | int = "mean"
) -> Float[Tensor, "B N"]:
    """How much attention each token gets from all tokens alike.

    Formula: `m_j = 1/(L N) sum_l sum_i A_lij`, over the chosen layers and all N queries, fused over heads.

    Args:
        store: the attention of one forward.
        layers: which layers take part; the last by default.
        head: `mean`, `max` or `min` over heads, or one head's number.

    Where layers do not all see the same tokens, each layer's part is shared among the tokens that its keys were made
    of; N counts the queries of all windows, padding included.

    Returns:
        `(B, N)`, each in [0, 1], summing to one over all tokens, the prefix included.

    Cost: one forward and all rows of the chosen layers; memory linear in tokens.
    Limits: class-agnostic; it shows what is looked at, by tokens that the answer never reads as well. High peaks on
        empty background are sinks.
    """
    chosen = store.select(layers)

    def seen(block: Block) -> Float[Tensor, "b M"]:
        b, _, n, _ = block.shape
        alike = torch.full((b, n), store.images / (b * n), device=block.device)
        return vecmat(block, alike, fuse_heads(block, head))

    return torch.stack([store.received_attention(layer, seen) for layer in chosen]).sum(0) / len(chosen)
