"""Fusion of heads (mean, maximum, minimum, or one head) and discarding of weak attention."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope._messages import msg
from vitscope.attention import Block, FuseHeads
from vitscope.errors import UsageError

HeadFusion = Literal["mean", "max", "min"]


def fuse_heads(
    block: Block, heads: HeadFusion | int, *, discard_ratio: float = 0.0, prefix: int = 0, normalise: bool = True
) -> FuseHeads | None:
    """Return how the rows of a block's heads become one distribution over its keys.

    Args:
        block: the layer, whose number of heads decides which heads exist.
        heads: `mean`, `max` or `min` over heads, entry by entry, or the number of one head. After `max` and `min` each
            row is divided by its sum, so that it is a distribution again.
        discard_ratio: the *discard ratio*, in [0, 1). In each row by itself, after the heads are fused and before any
            residual is added, the floor(discard_ratio * patches) smallest entries among the patch columns become zero
            (of equal ones the earlier patch first); prefix columns (CLS, registers) are never discarded; then the row
            is divided by its sum. Other tools drop a share of the whole matrix, or count the residual in, or protect
            one entry: under this name their maps differ.
        prefix: the number of prefix columns.
        normalise: without it the divisions by row sums are left out.

    Returns:
        A function from rows `(B, H, n, M)` to `(B, n, M)`; None for the plain mean, which needs no rows.

    Raises:
        UsageError: no such head, or a discard ratio outside [0, 1).
    """
    count = block.shape[1]
    if not 0 <= discard_ratio < 1:
        raise UsageError(
            msg("methods.bad-discard-ratio", "{@discard_ratio} must be in [0, 1), not {value}", value=discard_ratio)
        )
    if isinstance(heads, int) and not -count <= heads < count:
        hint = msg(
            "methods.no-such-head.hint",
            "heads are 0 to {last}, or -{count} to -1 from the end",
            last=count - 1,
            count=count,
        )
        raise UsageError(msg("methods.no-such-head", "head {head} does not exist", head=heads), hint)
    if heads == "mean" and not discard_ratio:
        return None

    rescaled = _normalised if normalise else lambda rows: rows

    def fuse(rows: Float[Tensor, "B H n M"]) -> Float[Tensor, "B n M"]:
        if isinstance(heads, int):
            fused = rows[:, heads]
        elif heads == "mean":
            fused = rows.mean(1)
        else:
            fused = rescaled(rows.amax(1) if heads == "max" else rows.amin(1))
        weakest = int(discard_ratio * (fused.shape[-1] - prefix))
        if weakest:
            order = fused[..., prefix:].sort(dim=-1, stable=True).indices[..., :weakest] + prefix
            fused = rescaled(fused.scatter(-1, order, 0.0))
        return fused

    return fuse


def _normalised(rows: Float[Tensor, "B n M"]) -> Float[Tensor, "B n M"]:
    return rows / rows.sum(-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
