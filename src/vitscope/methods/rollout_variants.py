"""Rollout with other weights: the length of the values, or attention to sinks counted as staying in place."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitscope._messages import Message, msg
from vitscope.attention import Block, LayerSpec, matvec, vecmat
from vitscope.errors import YES, Support
from vitscope.geometry import TokenLayout
from vitscope.methods.base import method
from vitscope.methods.context import MethodContext
from vitscope.methods.rollout import check_residual_weight

_SINK_DEVIATIONS = 6


@method(
    "value-rollout",
    passes="1 forward",
    source="Kobayashi et al. 2020, equation 4, in the rollout of Abnar & Zuidema 2020, equation 1",
    requires={"values"},
    sums_to_one=True,
)
def value_rollout(
    context: MethodContext, *, layers: LayerSpec = None, residual_weight: float = 0.5
) -> Float[Tensor, "B N"]:
    """Roll out attention weighted by the length of the vector that each token passes on.

    Formula: `m = s Â_L ... Â_1`, `Â_l = w I + (1 - w) rownormalise(sum_h A_lhij ||v_lhj W_lh||)`, v_h W_h the
    value of token j in head h after that head's part of the output projection.

    Args:
        context: the images, the model and the target.
        layers: the layers that count; all by default.
        residual_weight: w, the weight of the residual path, in [0, 1].

    Returns:
        `(B, N)`, each in [0, 1], summing to one over all tokens, the prefix included.

    Raises:
        UnsupportedError: the projection after the attention is not known.

    Cost: one forward; all rows of each layer but the last, chunk by chunk; memory linear in tokens.
    Limits: class-agnostic; the heads' lengths are added as if the heads never cancelled each other.
    """
    check_residual_weight(residual_weight)

    def attend(block: Block, r: Float[Tensor, "b N"]) -> Float[Tensor, "b M"]:
        lengths = transformed_lengths(block)

        def fuse(rows: Float[Tensor, "B H n M"]) -> Float[Tensor, "B n M"]:
            weighted = (rows * lengths[:, :, None]).sum(1)
            return weighted / weighted.sum(-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)

        return vecmat(block, r, fuse)

    store = context.store
    return store.rollout_from_readout(store.select(layers), attend, residual_weight, 1 - residual_weight)


def knows_values(block: Block) -> Support:
    """Return whether the lengths of a block's projected values are known."""
    v, weight = block.v, block.project  # type: ignore[attr-defined]
    if v is not None and weight is not None and weight.shape[1] == v.shape[1] * v.shape[3]:
        return YES
    return Support.no(
        msg(
            "methods.no-value-lengths",
            "the projection after the attention of {block} was not captured: the lengths of its values are not known",
            block=block.name,
        )
    )


def transformed_lengths(block: Block) -> Float[Tensor, "B H M"]:
    """Return `||v_hj W_h||` for each head and token, from `v^T (W W^T) v`: no tensor of the model's width is made."""
    knows_values(block).require(msg("methods.no-value-lengths.hint", "use rollout"))
    v, weight = block.v, block.project  # type: ignore[attr-defined]
    h, e = v.shape[1], v.shape[3]
    per_head = weight.float().reshape(weight.shape[0], h, e).permute(1, 0, 2)
    gram = per_head.transpose(1, 2) @ per_head
    return torch.einsum("bhme,hef,bhmf->bhm", v.float(), gram, v.float()).clamp_min(0).sqrt()


@method(
    "sink-rollout",
    passes="1 forward",
    source="Abnar & Zuidema 2020, equation 1; sinks after Darcet et al. 2024, section 2, and Xiao et al. 2024",
    requires={"hidden-states"},
    sums_to_one=True,
)
def sink_rollout(
    context: MethodContext,
    *,
    layers: LayerSpec = None,
    residual_weight: float = 0.5,
    by: Literal["attention", "both"] = "attention",
) -> tuple[Float[Tensor, "B N"], list[str]]:
    """Roll out attention with attention to sink tokens counted as staying in place.

    Formula: `m = s Â_L ... Â_1`, `Â_l = w I + (1 - w) (A_l with a_ij moved to a_ii for each sink j)`. A patch
    is a sink where the attention that it receives (mean over the chosen layers and all queries) lies more than 6 median
    absolute deviations above the median of the patches. A note lists the sinks, and how many of them have a token
    whose length after some chosen layer lies as far out: large models show such tokens, small ones often do not.

    Args:
        context: the images, the model and the target.
        layers: the layers that count; all by default.
        residual_weight: w, the weight of the residual path, in [0, 1].
        by: `attention`, or `both`: only patches whose tokens are outliers in length as well.

    Returns:
        `(B, N)`, each in [0, 1], summing to one over all tokens; and for each image a note that names its sinks.

    Cost: one forward, all rows of the chosen layers once, and the rollout; memory linear in tokens.
    Limits: class-agnostic. A sink may also carry meaning: compare with `rollout`.
    """
    check_residual_weight(residual_weight)
    store, prefix = context.store, len(context.layout.prefix)
    chosen = store.select(layers)
    with torch.no_grad():
        uniform = torch.full_like(store.readout_weights(), 1 / store.readout_weights().shape[1]).contiguous()
        received = torch.stack([vecmat(store[layer], uniform) for layer in chosen]).mean(0)
        after = [context.hidden_states.at(layer + 1).float().norm(dim=-1) for layer in chosen]
        long = torch.stack([_outlying(lengths, prefix) for lengths in after]).any(0)
        sinks = _outlying(received, prefix)
        sinks = sinks & long if by == "both" else sinks
        others = (~sinks).to(received.dtype)

        def attend(block: Block, r: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
            return vecmat(block, r) * others + r * _to_sinks(block, 1 - others)

        relevance = store.rollout_from_readout(chosen, attend, residual_weight, 1 - residual_weight)
    return relevance, [
        _note(row, other, context.layout) for row, other in zip(sinks[:, prefix:], long[:, prefix:], strict=True)
    ]


def _to_sinks(block: Block, sinks: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """Return how much of each query's attention goes to sinks."""
    return matvec(block, sinks) if bool(sinks.any()) else sinks


def outlier_threshold(patches: Float[Tensor, "B P"]) -> Float[Tensor, "B 1"]:
    """Return the value above which a patch is a sink: 6 median absolute deviations above the median."""
    middle = patches.median(1, keepdim=True).values
    spread = (patches - middle).abs().median(1, keepdim=True).values
    return middle + _SINK_DEVIATIONS * spread


def _outlying(x: Float[Tensor, "B N"], prefix: int) -> Bool[Tensor, "B N"]:
    patches = x[:, prefix:]
    out = torch.zeros_like(x, dtype=torch.bool)
    out[:, prefix:] = patches > outlier_threshold(patches)
    return out


def _note(sinks: Bool[Tensor, " P"], long: Bool[Tensor, " P"], layout: TokenLayout) -> Message:
    positions = [layout.patch_name(int(i)) for i in sinks.nonzero()[:, 0]]
    if not positions:
        return msg("methods.no-sinks", "no sinks were found: this is plain rollout")
    given = {"count": len(positions), "positions": " ".join(positions[:8]), "long": int((sinks & long).sum())}
    if len(positions) > 8:
        return msg(
            "methods.many-sinks",
            "{count} sinks (row,column): {positions} and {more} more; {long} of them with outlying token lengths",
            **given,
            more=len(positions) - 8,
        )
    return msg(
        "methods.sinks", "{count} sinks (row,column): {positions}; {long} of them with outlying token lengths", **given
    )
