"""Raw attention: what the readout row of one layer attends to."""

from jaxtyping import Float
from torch import Tensor

from vitscope.methods.fusion import Fusion, fuse_heads
from vitscope.registry import method
from vitscope.store import AttentionStore, pull

__all__ = ["attention"]


@method(
    "attention",
    passes="1 forward",
    source="Vaswani et al. 2017, equation 1; as a map: Caron et al. 2021, figure 1",
    sums_to_one=True,
)
def attention(store: AttentionStore, *, layer: int = -1, head: Fusion | int = "mean") -> Float[Tensor, "B N"]:
    """One layer's attention from the readout row to every token.

    Formula: `m = sum_i s_i A_ij` with s the readout row (CLS: one-hot; mean pooling: 1 / tokens read; attention
    pooling: the pooling query's own attention) and `A = softmax(q k^T / sqrt(D))` of that layer, fused over heads.

    Args:
        store: the attention of one forward.
        layer: from 0, or from the end with negative numbers.
        head: `mean`, `max` or `min` over heads, or one head's number.

    In a windowed or hierarchical model s is taken to that layer, and the result to the finest tokens, along residuals.

    Returns:
        `(B, N)`, each in [0, 1], summing to one over all tokens, the prefix included.

    Cost: one forward and one row (with mean pooling: all rows of one layer).
    Limits: class-agnostic. The last layer mixes tokens that have already been mixed: a weight says what is read there,
        not what is in it.
    """
    return store.carry(store.select(layer), lambda block, r: pull(block, r, fuse_heads(block, head)), 0.0, 1.0)
