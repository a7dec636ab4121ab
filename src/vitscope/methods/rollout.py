"""Attention rollout: the attention of all layers multiplied, residuals included."""

from jaxtyping import Float
from torch import Tensor

from vitscope._messages import msg
from vitscope.attention import AttentionStore, Block, LayerSpec, vecmat
from vitscope.errors import UsageError
from vitscope.methods.base import method
from vitscope.methods.head_fusion import HeadFusion, fuse_heads


@method("rollout", passes="1 forward", source="Abnar & Zuidema 2020, equation 1", sums_to_one=True)
def rollout(
    store: AttentionStore,
    *,
    layers: LayerSpec = None,
    start_layer: int | None = None,
    residual_weight: float = 0.5,
    head_fusion: HeadFusion | int = "mean",
    discard_ratio: float = 0.0,
    normalise: bool = True,
    query: str = "readout",
) -> Float[Tensor, "B N"]:
    """Trace attention from the readout back to the input tokens through all layers.

    Formula: `m = s Â_L ... Â_2 Â_1` with `Â_l = w I + (1 - w) A_l`, s the readout row, w the `residual_weight` and A_l
    fused over heads: how much of each input token would reach the readout if attention alone mixed tokens. The later
    layer stands on the left; only the row s is carried, from the last layer to the first. In windowed and hierarchical
    models A_l is block-diagonal and the chain has further operators (windows, merging, pooling: the mean over what they
    read); the map lies on the finest tokens.

    Args:
        store: the attention of one forward.
        layers: the layers that count, such as `0-11` or `last3`; all by default.
        start_layer: the first layer that counts, instead of `layers`.
        residual_weight: w, the weight of the residual path, in [0, 1]; 0.5 in the paper.
        head_fusion: `mean` (as in the paper), `max` or `min` over heads, or one head's number.
        discard_ratio: share of the weakest patches that each row of attention drops; `fuse_heads` defines it.
        normalise: divide rows by their sums after `max`, `min` or discarding, before the identity is added; without it
            the map need not sum to one.
        query: `readout`, or the last-layer token to start from: a prefix token's name, or `row,column` of a patch.

    Returns:
        `(B, N)`, each in [0, 1], summing to one over all tokens, the prefix included.

    Raises:
        UsageError: `residual_weight` or `discard_ratio` out of range, both `layers` and `start_layer`, or no such layer
            or head.

    Cost: one forward; with mean fusion and no discarding at most one more attention per layer but the last, and memory
        linear in tokens. Other fusions and discarding make all rows, chunk by chunk.
    Limits: class-agnostic; ignores values, MLPs and signs. Over many layers it drifts to the tokens that every layer
        attends to (sinks).
    """
    check_residual_weight(residual_weight)
    chosen = store.select(from_layer(layers, start_layer))
    store = store.with_query(query)
    prefix = len(store.layout.prefix) if store.layout and store.chain is None else 0

    def attend(block: Block, r: Tensor) -> Tensor:
        return vecmat(
            block, r, fuse_heads(block, head_fusion, discard_ratio=discard_ratio, prefix=prefix, normalise=normalise)
        )

    return store.rollout_from_readout(chosen, attend, residual_weight, 1 - residual_weight)


def from_layer(layers: LayerSpec, start_layer: int | None) -> LayerSpec:
    """Return the layers that `layers` or `start_layer` choose; raise a UsageError where both are given."""
    if start_layer is None:
        return layers
    if layers is not None:
        raise UsageError.coded(
            "methods.two-layer-choices", "{@layers} and {@start_layer} exclude each other", "give one of them"
        )
    return f"{start_layer}--1"


def check_residual_weight(weight: float) -> None:
    """Raise a UsageError for a weight of the residual path outside [0, 1]."""
    if not 0 <= weight <= 1:
        raise UsageError(
            msg("methods.bad-residual-weight", "{@residual_weight} must be in [0, 1], not {value}", value=weight)
        )
