"""Attention flow: the maximum flow from each token to the readout, with attention weights as capacities."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.attention import AttentionStore, LayerSpec
from vitscope.errors import MethodError, require_package
from vitscope.methods.base import method
from vitscope.methods.head_fusion import HeadFusion, fuse_heads
from vitscope.methods.rollout import check_residual_weight

_MOST_TOKENS = 290
_SCALE = 2**24  # capacities become whole numbers


@method(
    "flow",
    passes="1 forward, up to 290 tokens",
    source="Abnar & Zuidema 2020, section 3.2",
    requires={"same-tokens"},
    most_tokens=_MOST_TOKENS,
)
def flow(
    store: AttentionStore,
    *,
    layers: LayerSpec = None,
    residual_weight: float = 0.5,
    head_fusion: HeadFusion | int = "mean",
) -> Float[Tensor, "B N"]:
    """Compute the maximum flow from each input token to the readout through all layers.

    Formula: `m_j = maxflow((0, j) -> t)` in the graph with an edge `(l-1, k) -> (l, i)` of capacity
    `(w I + (1 - w) A_l)_ik` for each layer, and edges `(L, i) -> t` of capacity s_i, s the readout row.

    Args:
        store: the attention of one forward.
        layers: the layers that count; all by default.
        residual_weight: w, the weight of the residual path, in [0, 1]; 0.5 in the paper.
        head_fusion: `mean`, `max` or `min` over heads, or one head's number.

    Returns:
        `(B, N)`, each in [0, 1]; no distribution: flows of different tokens share edges. Exact up to 2^-24 an edge.

    Raises:
        UsageError: `residual_weight` out of range, or no such layer.
        MethodError: more than 290 tokens: the graph needs all weights of all layers, and a maximum flow for each token.
        MissingDependencyError: scipy is not installed.

    Cost: one forward, then N maximum flows on the CPU: O(L N^2) memory, seconds to minutes an image.
    Limits: class-agnostic; ignores values, MLPs and signs; one edge may carry the flow of several tokens.
    """
    require_package("scipy", extra="flow")
    readout = store.readout_weights()
    check_residual_weight(residual_weight)
    tokens = readout.shape[1]
    if tokens > _MOST_TOKENS:
        raise MethodError.coded(
            "methods.too-many-tokens",
            "flow is exact and slow: {count} tokens are more than {most}",
            "choose a smaller {@size}, or the method rollout",
            count=tokens,
            most=_MOST_TOKENS,
        )
    steps = []
    for layer in store.select(layers):
        fuse = fuse_heads(store[layer], head_fusion)
        rows = store[layer].rows(slice(None))
        a = rows.mean(1) if fuse is None else fuse(rows)
        steps.append(residual_weight * torch.eye(tokens, device=a.device) + (1 - residual_weight) * a)
    weights = torch.stack(steps, 1).double().cpu().numpy()
    flows = [_flows(one, row) for one, row in zip(weights, readout.double().cpu().numpy(), strict=True)]
    return torch.from_numpy(np.stack(flows)).to(readout)


def _flows(weights: Float[np.ndarray, "L N N"], readout: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Return the maximum flow from each token of layer 0 to the sink, the last node."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import maximum_flow

    depth, tokens, _ = weights.shape
    layer, query, key = np.indices(weights.shape, np.int32)  # older releases of scipy take no others
    start, end = (layer * tokens + key).ravel(), ((layer + 1) * tokens + query).ravel()
    sink = (depth + 1) * tokens
    start = np.concatenate([start, depth * tokens + np.arange(tokens, dtype=np.int32)])
    end = np.concatenate([end, np.full(tokens, sink, np.int32)])
    capacity = np.rint(np.concatenate([weights.ravel(), readout]) * _SCALE).astype(np.int32)
    used = capacity > 0
    graph = coo_array((capacity[used], (start[used], end[used])), (sink + 1, sink + 1)).tocsr()
    return np.array([maximum_flow(graph, token, sink).flow_value for token in range(tokens)]) / _SCALE
