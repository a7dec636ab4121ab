"""Class activation maps on patch tokens: activations weighed by what their gradients say of the target.

Where layers do not all see the same tokens (windows, merging), the map is made on the grid that the chosen layer has,
the last stage's by default, and each of its tokens drawn on the patches that it stands for; the result's notes say so.
"""

from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.attention.transformer_blocks import HookPoint, TokenActivations
from vitscope.errors import UsageError
from vitscope.methods.base import method
from vitscope.methods.context import MethodContext

__all__ = ["eigencam", "gradcam", "gradcam_plus_plus", "hirescam", "layercam"]

Named: TypeAlias = tuple[Float[Tensor, "B N"], list[str]]
_TINY = 1e-7


def _patches(
    context: MethodContext, layer: int, at: HookPoint
) -> tuple[TokenActivations, Float[Tensor, "B gh gw D"], Float[Tensor, "B gh gw D"]]:
    """Activations of the patches, and the score's gradient there."""
    spot = context.spot(layer, at)
    (grad,) = context.gradients([spot.raw])
    return spot, spot.patches(), spot.patches(grad)


def _named(context: MethodContext, patches: Tensor, spot: TokenActivations) -> tuple[Tensor, list[str]]:
    """The map of all tokens, and for each picture a note that names the layer."""
    told = [f"activations taken at the {spot.location}", context.brought(spot.grid)]
    return context.whole(patches), ["; ".join(part for part in told if part)] * len(patches)


@method(
    "gradcam",
    passes="1 forward, 1 backward",
    source="Selvaraju et al. 2017, equations 1 and 2, on patch tokens",
    requires={"gradient", "token-grids"},
)
def gradcam(context: MethodContext, *, layer: int = -1, at: HookPoint = "norm") -> Named:
    """Channels of the patch tokens, each weighed by its mean gradient.

    Formula: `m_j = relu(sum_d w_d z_jd)`, `w_d = 1/P sum_j dy/dz_jd`, z the patch tokens at the chosen place.

    Args:
        context: the images, the model and the target.
        layer: block, from 0, or from the end with negative numbers.
        at: what its first `norm` gives (its input, where there is none), its `input`, or its `output`. After the last
            block only what is read out has a gradient: with a CLS readout, no patch.

    Returns:
        `(B, N)`, not negative, in units of the score; its sum says nothing; the prefix gets 0.

    Raises:
        UsageError: no patch has a gradient there.

    Cost: one forward and one backward, and their memory; no backward below the chosen layer.
    Limits: one weight for a channel everywhere; made for pooled convolutions, where that is exact.
    """
    spot, z, grad = _patches(context, layer, at)
    _reached(grad, layer, at)
    return _named(context, (z * grad.mean((1, 2), keepdim=True)).sum(-1).clamp_min(0), spot)


@method(
    "gradcam++",
    passes="1 forward, 1 backward",
    source="Chattopadhay et al. 2018, equations 5, 6 and 19, on patch tokens",
    requires={"gradient", "token-grids"},
)
def gradcam_plus_plus(context: MethodContext, *, layer: int = -1, at: HookPoint = "norm") -> Named:
    """Grad-CAM whose channel weights favour gradients at places where the channel is strong.

    Formula: `m_j = relu(sum_d w_d z_jd)`, `w_d = sum_j a_jd relu(g_jd)`, `a_jd = g_jd^2 / (2 g_jd^2 + S_d g_jd^3)`,
    `g = dy/dz`, `S_d = sum_j z_jd`; a is 0 where g is.

    Args:
        context: the images, the model and the target.
        layer: block, from 0, or from the end with negative numbers.
        at: `norm`, `input` or `output` of it, as for `gradcam`.

    Returns:
        `(B, N)`, not negative, in units of the score; its sum says nothing; the prefix gets 0.

    Raises:
        UsageError: no patch has a gradient there.

    Cost: one forward and one backward, and their memory; no backward below the chosen layer.
    Limits: its weights assume activations that are not negative, which tokens are not: a changes its sign, and is
        cut off where its denominator is 0.
    """
    spot, z, g = _patches(context, layer, at)
    _reached(g, layer, at)
    below = 2 + z.sum((1, 2), keepdim=True) * g  # both sides of a divided by g^2, which may be too small to square
    share = torch.where((g != 0) & (below.abs() > _TINY), 1 / below, torch.zeros_like(g))
    weights = (share * g.clamp_min(0)).sum((1, 2), keepdim=True)
    return _named(context, (z * weights).sum(-1).clamp_min(0), spot)


@method(
    "hirescam",
    passes="1 forward, 1 backward",
    source="Draelos & Carin 2020, equation 5, on patch tokens",
    requires={"gradient", "token-grids"},
)
def hirescam(context: MethodContext, *, layer: int = -1, at: HookPoint = "norm") -> Named:
    """Each patch token times the score's gradient at it.

    Formula: `m_j = relu(sum_d z_jd dy/dz_jd)`.

    Args:
        context: the images, the model and the target.
        layer: block, from 0, or from the end with negative numbers.
        at: `norm`, `input` or `output` of it, as for `gradcam`.

    Returns:
        `(B, N)`, not negative, in units of the score; its sum says nothing; the prefix gets 0.

    Raises:
        UsageError: no patch has a gradient there.

    Cost: one forward and one backward, and their memory; no backward below the chosen layer.
    Limits: negative evidence is cut off, as in Grad-CAM.
    """
    spot, z, grad = _patches(context, layer, at)
    _reached(grad, layer, at)
    return _named(context, (z * grad).sum(-1).clamp_min(0), spot)


@method(
    "layercam",
    passes="1 forward, 1 backward",
    source="Jiang et al. 2021, equations 6 to 8, on patch tokens",
    requires={"gradient", "token-grids"},
)
def layercam(context: MethodContext, *, layer: int = -1, at: HookPoint = "norm") -> Named:
    """Each patch token times the positive part of the gradient at it.

    Formula: `m_j = relu(sum_d z_jd relu(dy/dz_jd))`.

    Args:
        context: the images, the model and the target.
        layer: block, from 0, or from the end with negative numbers.
        at: `norm`, `input` or `output` of it, as for `gradcam`.

    Returns:
        `(B, N)`, not negative, in units of the score; its sum says nothing; the prefix gets 0.

    Raises:
        UsageError: no patch has a gradient there.

    Cost: one forward and one backward, and their memory; no backward below the chosen layer.
    Limits: a channel that is negative and should be more so counts for nothing, though it may raise the score.
    """
    spot, z, grad = _patches(context, layer, at)
    _reached(grad, layer, at)
    return _named(context, (z * grad.clamp_min(0)).sum(-1).clamp_min(0), spot)


@method(
    "eigencam",
    passes="1 forward",
    source="Muhammad & Yeasin 2020, equations 4 and 5, on patch tokens",
    requires={"token-grids"},
)
def eigencam(context: MethodContext, *, layer: int = -1, at: HookPoint = "norm") -> Named:
    """The patch tokens along their first right singular vector.

    Formula: `m_j = sum_d z_jd v_d`, v the first right singular vector of the `(P, D)` matrix z, its mean not removed;
    its sign is that by which the map's mean is positive.

    Args:
        context: the images, the model and the target.
        layer: block, from 0, or from the end with negative numbers.
        at: `norm`, `input` or `output` of it, as for `gradcam`.

    Returns:
        `(B, N)`, signed, in units of the tokens, its sum not negative; the prefix gets 0.

    Cost: one forward, and one D x D eigenvector of each picture; memory linear in tokens.
    Limits: class-agnostic: the strongest common direction, whatever it means. For its mean removed see `pca`.
    """
    spot = context.spot(layer, at)
    z = spot.patches()
    flat = z.flatten(1, 2)
    direction = torch.linalg.eigh(flat.transpose(1, 2) @ flat).eigenvectors[..., -1]
    projected = (z * direction[:, None, None]).sum(-1)
    sign = torch.where(projected.mean((1, 2), keepdim=True) < 0, -1.0, 1.0)
    return _named(context, projected * sign.to(projected.dtype), spot)


def _reached(grad: Tensor, layer: int, at: HookPoint) -> None:
    if not bool(grad.any()):
        raise UsageError(
            f"no patch has a gradient at the {at} of block {layer}: nothing reads the patches there",
            "ask at='norm' or 'input', or for an earlier layer",
        )
