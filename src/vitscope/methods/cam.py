"""Class activation maps on patch tokens: activations weighted by the gradients of the target's score.

Where layers do not all see the same tokens (windows, merging), the map is computed on the grid of the chosen layer, the
last stage's by default, and each of its tokens drawn on the patches that it stands for; a note of the result says so.
"""

from functools import partial
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope._messages import join_messages, msg
from vitscope.attention.transformer_blocks import HookPoint, TokenActivations
from vitscope.errors import UsageError
from vitscope.methods.base import method
from vitscope.methods.context import MethodContext

NotedMap: TypeAlias = tuple[Float[Tensor, "B N"], list[str]]
_TINY = 1e-7
_of_gradients = partial(method, passes="1 forward, 1 backward", requires={"gradient", "token-grids"})


def patch_gradients(
    context: MethodContext, layer: int, at: HookPoint
) -> tuple[TokenActivations, Float[Tensor, "B gh gw D"], Float[Tensor, "B gh gw D"]]:
    """Return the activations of the patches and the score's gradient there; raise a UsageError where it is 0."""
    activations = context.activations(layer, at)
    gradient = activations.patches(*context.gradients([activations.raw]))
    if not bool(gradient.any()):
        raise UsageError.coded(
            "methods.no-patch-gradient",
            "no patch has a gradient at the {location}: nothing reads the patches there, or the score is at a "
            "limit where it does not change, such as 0 after a ReLU",
            "use {@O:at=norm} or {@O:at=input}, an earlier {@O:layer}, or another target",
            location=activations.location,
        )
    return activations, activations.patches(), gradient


def noted(context: MethodContext, patches: Tensor, activations: TokenActivations) -> NotedMap:
    """Return the map of all tokens, and for each image a note that names the layer."""
    note = msg("methods.activations-at", "activations taken at the {location}", location=activations.location)
    notes = [note, context.grid_note(activations.grid)]
    return context.to_tokens(patches), [join_messages("; ", filter(None, notes))] * len(patches)


@_of_gradients("gradcam", source="Selvaraju et al. 2017, equations 1 and 2, on patch tokens")
def gradcam(context: MethodContext, *, layer: int = -1, at: HookPoint = "norm") -> NotedMap:
    """Weight the channels of the patch tokens by their mean gradient and add them up.

    Formula: `m_j = relu(sum_d w_d z_jd)`, `w_d = 1/P sum_j dy/dz_jd`, z the patch tokens at the chosen place.

    Args:
        context: the images, the model and the target.
        layer: block, from 0, or from the end with negative numbers.
        at: the output of its first `norm` (its input, where it has none), its `input`, or its `output`. After the last
            block only the tokens that are read out have a gradient: with a CLS readout, no patch.

    Returns:
        `(B, N)`, not negative, in units of the score; its sum has no meaning; the prefix gets 0.

    Raises:
        UsageError: no patch has a gradient there.

    Cost: one forward and one backward, and their memory; no backward below the chosen layer.
    Limits: a channel has one weight at all places; that is exact for the pooled convolutions it was made for.
    """
    activations, z, grad = patch_gradients(context, layer, at)
    return noted(context, (z * grad.mean((1, 2), keepdim=True)).sum(-1).clamp_min(0), activations)


@_of_gradients("gradcam++", source="Chattopadhay et al. 2018, equations 5, 6 and 19, on patch tokens")
def gradcam_plus_plus(context: MethodContext, *, layer: int = -1, at: HookPoint = "norm") -> NotedMap:
    """Weight channels as Grad-CAM does, but favour gradients where the channel is strong.

    Formula: `m_j = relu(sum_d w_d z_jd)`, `w_d = sum_j a_jd relu(g_jd)`, `a_jd = g_jd^2 / (2 g_jd^2 + S_d g_jd^3)`,
    `g = dy/dz`, `S_d = sum_j z_jd`; a is 0 where g is.

    Args:
        context: the images, the model and the target.
        layer: block, from 0, or from the end with negative numbers.
        at: `norm`, `input` or `output` of it, as for `gradcam`.

    Returns:
        `(B, N)`, not negative, in units of the score; its sum has no meaning; the prefix gets 0.

    Raises:
        UsageError: no patch has a gradient there.

    Cost: one forward and one backward, and their memory; no backward below the chosen layer.
    Limits: its weights assume activations that are not negative, which tokens are not: a changes its sign, and is
        cut off where its denominator is 0.
    """
    activations, z, g = patch_gradients(context, layer, at)
    below = 2 + z.sum((1, 2), keepdim=True) * g  # both sides of a divided by g^2, which may be too small to square
    share = torch.where((g != 0) & (below.abs() > _TINY), 1 / below, torch.zeros_like(g))
    weights = (share * g.clamp_min(0)).sum((1, 2), keepdim=True)
    return noted(context, (z * weights).sum(-1).clamp_min(0), activations)


@_of_gradients("hirescam", source="Draelos & Carin 2020, equation 5, on patch tokens")
def hirescam(context: MethodContext, *, layer: int = -1, at: HookPoint = "norm") -> NotedMap:
    """Multiply each patch token by the score's gradient at it.

    Formula: `m_j = relu(sum_d z_jd dy/dz_jd)`.

    Args:
        context: the images, the model and the target.
        layer: block, from 0, or from the end with negative numbers.
        at: `norm`, `input` or `output` of it, as for `gradcam`.

    Returns:
        `(B, N)`, not negative, in units of the score; its sum has no meaning; the prefix gets 0.

    Raises:
        UsageError: no patch has a gradient there.

    Cost: one forward and one backward, and their memory; no backward below the chosen layer.
    Limits: negative evidence is cut off, as in Grad-CAM.
    """
    activations, z, grad = patch_gradients(context, layer, at)
    return noted(context, (z * grad).sum(-1).clamp_min(0), activations)


@_of_gradients("layercam", source="Jiang et al. 2021, equations 6 to 8, on patch tokens")
def layercam(context: MethodContext, *, layer: int = -1, at: HookPoint = "norm") -> NotedMap:
    """Multiply each patch token by the positive part of the score's gradient at it.

    Formula: `m_j = relu(sum_d z_jd relu(dy/dz_jd))`.

    Args:
        context: the images, the model and the target.
        layer: block, from 0, or from the end with negative numbers.
        at: `norm`, `input` or `output` of it, as for `gradcam`.

    Returns:
        `(B, N)`, not negative, in units of the score; its sum has no meaning; the prefix gets 0.

    Raises:
        UsageError: no patch has a gradient there.

    Cost: one forward and one backward, and their memory; no backward below the chosen layer.
    Limits: a negative channel whose gradient is negative is ignored, though it raises the score.
    """
    activations, z, grad = patch_gradients(context, layer, at)
    return noted(context, (z * grad.clamp_min(0)).sum(-1).clamp_min(0), activations)


@method(
    "eigencam",
    passes="1 forward",
    source="Muhammad & Yeasin 2020, equations 4 and 5, on patch tokens",
    requires={"token-grids"},
)
def eigencam(context: MethodContext, *, layer: int = -1, at: HookPoint = "norm") -> NotedMap:
    """Project the patch tokens onto their first right singular vector.

    Formula: `m_j = sum_d z_jd v_d`, v the first right singular vector of the `(P, D)` matrix z, its mean not removed;
    its sign is that by which the map's mean is positive.

    Args:
        context: the images, the model and the target.
        layer: block, from 0, or from the end with negative numbers.
        at: `norm`, `input` or `output` of it, as for `gradcam`.

    Returns:
        `(B, N)`, signed, in units of the tokens, its sum not negative; the prefix gets 0.

    Cost: one forward, and one D x D eigenvector an image; memory linear in tokens.
    Limits: class-agnostic: the strongest common direction, whatever it means. `pca` removes the mean first.
    """
    activations = context.activations(layer, at)
    z = activations.patches()
    flat = z.flatten(1, 2)
    direction = torch.linalg.eigh(flat.transpose(1, 2) @ flat).eigenvectors[..., -1]
    projected = (z * direction[:, None, None]).sum(-1)
    sign = torch.where(projected.mean((1, 2), keepdim=True) < 0, -1.0, 1.0)
    return noted(context, projected * sign.to(projected.dtype), activations)
