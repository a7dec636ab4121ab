"""The attention of single layers: what a token attends to, and what attends to it."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.attention import AttentionStore, Block, LayerSpec, vecmat
from vitscope.methods.base import method
from vitscope.methods.head_fusion import HeadFusion, fuse_heads


@method(
    "attention",
    passes="1 forward",
    source="Vaswani et al. 2017, equation 1; as a map: Caron et al. 2021, figure 1",
    sums_to_one=True,
)
def attention(
    store: AttentionStore, *, layer: int = -1, head: HeadFusion | int = "mean", query: str = "readout"
) -> Float[Tensor, "B N"]:
    """Show what the readout token, or one patch, attends to in one layer.

    Formula: `m = sum_i s_i A_ij` with s the readout row (CLS: one-hot; mean pooling: 1 / tokens read; attention
    pooling: the attention of the pooling query) and `A = softmax(q k^T / sqrt(D))` of that layer, fused over heads.

    Args:
        store: the attention of one forward.
        layer: from 0, or from the end with negative numbers.
        head: `mean`, `max` or `min` over heads, or one head's number.
        query: `readout`, a prefix token's name such as `cls`, or `row,column` of a patch, from 0.

    In a windowed or hierarchical model, s is carried to that layer, and the result to the finest tokens, along
    residuals. A model with attention pooling and no layer before it has the attention of that pooling as its map.

    Returns:
        `(B, N)`, each in [0, 1], summing to one over all tokens, the prefix included.

    Cost: one forward and one row (with mean pooling: all rows of one layer); memory linear in tokens.
    Limits: class-agnostic. The last layer mixes tokens that are mixtures already: a weight tells which token is read,
        not which part of the image it holds.
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
    """Show how much attention each token receives from all tokens of the chosen layers.

    Formula: `m_j = 1/(L N) sum_l sum_i A_lij`, over the chosen layers and all N queries, fused over heads.

    Args:
        store: the attention of one forward.
        layers: which layers take part; the last by default.
        head: `mean`, `max` or `min` over heads, or one head's number.

    Where layers do not all see the same tokens, each layer's part is divided among the tokens that its keys come from;
    N counts the queries of all windows, padding included.

    Returns:
        `(B, N)`, each in [0, 1], summing to one over all tokens, the prefix included.

    Cost: one forward and all rows of the chosen layers; memory linear in tokens.
    Limits: class-agnostic; queries that the answer never reads count as much as others. High peaks on empty background
        are sinks.
    """
    chosen = store.select(layers)

    def received(block: Block) -> Float[Tensor, "b M"]:
        b, _, n, _ = block.shape
        uniform = torch.full((b, n), store.images / (b * n), device=block.device)
        return vecmat(block, uniform, fuse_heads(block, head))

    return torch.stack(store.received_in_each(chosen, received)).sum(0) / len(chosen)
