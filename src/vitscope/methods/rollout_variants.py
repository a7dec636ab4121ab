"""Rollout with other weights than attention alone: the length of what is carried, or without the sinks."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitscope.attention import Block, LayerSpec, matvec, vecmat
from vitscope.errors import MethodError, UsageError
from vitscope.methods.base import method
from vitscope.methods.context import MethodContext

__all__ = ["outlying_from", "sink_rollout", "value_rollout", "without_lengths"]

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
    """Rollout in which attention to a token counts by the length of the vector that it hands on.

    Formula: `m = s Â_L ... Â_1`, `Â_l = w I + (1 - w) rownormalise(sum_h A_lhij ||v_lhj W_lh||)`, v_h W_h the
    value of token j in head h after that head's part of the output projection.

    Args:
        context: the images, the model and the target.
        layers: which layers take part; all by default.
        residual_weight: weight of the residual path, in [0, 1].

    Returns:
        `(B, N)`, each in [0, 1], summing to one over all tokens, the prefix included.

    Raises:
        MethodError: the projection that follows attention was not seen.

    Cost: one forward; all rows of each layer but the last, chunk by chunk; memory linear in tokens.
    Limits: class-agnostic; lengths of the heads are added, as if they never cancelled each other.
    """
    if not 0 <= residual_weight <= 1:
        raise UsageError(f"residual_weight is a weight in [0, 1], not {residual_weight}")

    def attend(block: Block, r: Float[Tensor, "b N"]) -> Float[Tensor, "b M"]:
        lengths = transformed_lengths(block)

        def fuse(rows: Float[Tensor, "B H n M"]) -> Float[Tensor, "B n M"]:
            weighed = (rows * lengths[:, :, None]).sum(1)
            return weighed / weighed.sum(-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)

        return vecmat(block, r, fuse)

    store = context.store
    return store.rollout_from_readout(store.select(layers), attend, residual_weight, 1 - residual_weight)


def without_lengths(block: Block) -> str:
    """Why the lengths of a block's values are not known, or an empty string where they are."""
    v, weight = block.v, block.project  # type: ignore[attr-defined]
    if v is not None and weight is not None and weight.shape[1] == v.shape[1] * v.shape[3]:
        return ""
    return f"the projection after the attention of {block.name} was not seen: the lengths of values are not known"


def transformed_lengths(block: Block) -> Float[Tensor, "B H M"]:
    """`||v_hj W_h||` for each head and token: from `v^T (W W^T) v`, so that nothing of the model's width is made."""
    if reason := without_lengths(block):
        raise MethodError(reason, "use rollout")
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
    """Rollout in which attention to sinks counts as staying where one is; the sinks found are told.

    Formula: `m = s Â_L ... Â_1`, `Â_l = w I + (1 - w) (A_l with a_ij moved to a_ii for each sink j)`. A patch
    is a sink where the attention it gets (mean over the chosen layers and all queries) lies more than 6 median absolute
    deviations above the median of the patches. The note also says how many of them have a token after some chosen layer
    whose length lies as far out: large models show such tokens, small ones often do not.

    Args:
        context: the images, the model and the target.
        layers: which layers take part; all by default.
        residual_weight: weight of the residual path, in [0, 1].
        by: `attention`, or `both`: only patches whose tokens are that long as well.

    Returns:
        `(B, N)`, each in [0, 1], summing to one over all tokens; and for each picture the patches that are sinks, which
        the result's notes name.

    Cost: one forward, all rows of the chosen layers once, and the rollout; memory linear in tokens.
    Limits: class-agnostic. A sink may also be about something: compare with `rollout`.
    """
    if not 0 <= residual_weight <= 1:
        raise UsageError(f"residual_weight is a weight in [0, 1], not {residual_weight}")
    store, prefix = context.store, len(context.layout.prefix)
    chosen = store.select(layers)
    with torch.no_grad():
        uniform = torch.full_like(store.readout_weights(), 1 / store.readout_weights().shape[1]).contiguous()
        received = torch.stack([vecmat(store[layer], uniform) for layer in chosen]).mean(0)
        after = [context.tokens.at(layer + 1).float().norm(dim=-1) for layer in chosen]
        long = torch.stack([_outlying(lengths, prefix) for lengths in after]).any(0)
        sinks = _outlying(received, prefix)
        sinks = sinks & long if by == "both" else sinks
        kept = (~sinks).to(received.dtype)

        def attend(block: Block, r: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
            pulled = vecmat(block, r) * kept
            return pulled + r * _to_sinks(block, 1 - kept)

        relevance = store.rollout_from_readout(chosen, attend, residual_weight, 1 - residual_weight)
    columns = context.layout.grid[1]
    return relevance, [
        _told(row, other, columns) for row, other in zip(sinks[:, prefix:], long[:, prefix:], strict=True)
    ]


def _to_sinks(block: Block, sinks: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """How much of each query's attention goes to sinks."""
    return matvec(block, sinks) if bool(sinks.any()) else sinks


def outlying_from(patches: Float[Tensor, "B P"]) -> Float[Tensor, "B 1"]:
    """What lies beyond this is a sink: 6 median absolute deviations above the median of the patches."""
    middle = patches.median(1, keepdim=True).values
    spread = (patches - middle).abs().median(1, keepdim=True).values
    return middle + _SINK_DEVIATIONS * spread


def _outlying(x: Float[Tensor, "B N"], prefix: int) -> Bool[Tensor, "B N"]:
    patches = x[:, prefix:]
    out = torch.zeros_like(x, dtype=torch.bool)
    out[:, prefix:] = patches > outlying_from(patches)
    return out


def _told(sinks: Bool[Tensor, " P"], long: Bool[Tensor, " P"], columns: int) -> str:
    places = [f"{int(i) // columns},{int(i) % columns}" for i in sinks.nonzero()[:, 0]]
    if not places:
        return "no sinks were found: this is plain rollout"
    more = f" and {len(places) - 8} more" if len(places) > 8 else ""
    count = int((sinks & long).sum())
    return (
        f"{len(places)} sinks (row,column): {' '.join(places[:8])}{more}; {count} of them with outlying token lengths"
    )
