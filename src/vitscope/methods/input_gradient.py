"""The score's gradient with respect to the pixels, times the pixels: at the image, or averaged over several points."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope._messages import msg
from vitscope.errors import UsageError
from vitscope.methods.base import method
from vitscope.methods.context import MethodContext

_TOKENS = 2048  # in all rows that go through the model together: each row keeps a graph


@method(
    "input-x-gradient",
    passes="1 forward, 1 backward",
    source="Shrikumar et al. 2017, section 3.1; Ancona et al. 2018, table 1",
    requires={"gradient"},
)
def input_x_gradient(context: MethodContext) -> Float[Tensor, "B N"]:
    """Multiply each pixel by the score's gradient and add up over the patch.

    Formula: `m_j = sum_{p in patch j, c} x_pc dy/dx_pc`, x the normalised pixels that the model gets.

    Returns:
        `(B, N)`, signed, in units of the score; the prefix gets 0. For a linear model without biases it sums to the
        score; `gradient_rule="libra"` brings a transformer close to that.

    Cost: one forward and one backward, and their memory.
    Limits: a pixel of the mean colour (normalised 0) gets 0, whatever it means.
    """
    (grad,) = context.gradients([context.pixels])
    return context.to_tokens(context.sum_per_patch((context.pixels.detach() * grad).sum(1)))


@method(
    "integrated-gradients",
    passes="1 + steps forwards, steps backwards",
    source="Sundararajan, Taly, Yan 2017, equations 1 and 3",
    requires={"own-gradient"},
)
def integrated_gradients(context: MethodContext, *, steps: int = 32, baseline: float = 0.0) -> Float[Tensor, "B N"]:
    """Integrate gradients along the line from a flat image to this one.

    Formula: `m_j = sum_{p in patch j, c} (x - b)_pc 1/S sum_s dy/dx_pc(b + (s - 1/2)/S (x - b))`, the midpoint rule.

    Args:
        context: the images, the model and the target.
        steps: S, points on the line.
        baseline: b, one value of the normalised pixels everywhere; 0 is the mean colour of the training images.

    Returns:
        `(B, N)`, signed, in units of the score; its sum over the patches approaches `y(x) - y(b)` as S grows.

    Raises:
        UsageError: fewer than one step.

    Cost: `steps` forwards and backwards, at most `batch_size` and 2,048 tokens at a time, and their memory.
    Limits: parts that look like the baseline get 0; the line passes through images unlike any photo.
    """
    if steps < 1:
        raise UsageError(msg("methods.bad-steps", "{@O:steps} must be at least 1, not {steps}", steps=steps))
    x = context.pixels.detach()
    difference = x - baseline
    total = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))  # half would lose sums
    points = ((torch.arange(steps, device=x.device) + 0.5) / steps).to(x.dtype)
    for rows, grad in _gradients(
        context, steps, lambda b, s: baseline + points[s][:, None, None, None] * difference[b]
    ):
        total.index_add_(0, rows, grad.to(total.dtype))
    return context.to_tokens(context.sum_per_patch((difference * total / steps).sum(1)))


@method(
    "smoothgrad",
    passes="1 + samples forwards, samples backwards",
    source="Smilkov et al. 2017, equation 1; times the image, their section 3.3",
    requires={"own-gradient"},
)
def smoothgrad(context: MethodContext, *, samples: int = 16, noise: float = 0.15) -> Float[Tensor, "B N"]:
    """Average the gradient over noisy copies of the image, times the image.

    Formula: `m_j = sum_{p in patch j, c} x_pc 1/S sum_s dy/dx_pc(x + n_s)`, `n_s ~ N(0, (noise (max x - min x))^2)`.

    Args:
        context: the images, the model and the target.
        samples: S, noisy copies; `seed` chooses the noise, the same for each image.
        noise: its standard deviation as a share of the image's range of values.

    Returns:
        `(B, N)`, signed, in units of the score; its sum has no meaning; the prefix gets 0.

    Raises:
        UsageError: fewer than one sample, or negative noise.

    Cost: `samples` forwards and backwards, at most `batch_size` and 2,048 tokens at a time, and their memory.
    Limits: as for one gradient; noise hides fine structure.
    """
    if samples < 1 or noise < 0:
        raise UsageError.coded(
            "methods.bad-noise",
            "{@O:samples} must be at least 1 and {@O:noise} at least 0, not {samples} and {noise}",
            samples=samples,
            noise=noise,
        )
    x = context.pixels.detach()
    spread = noise * (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))
    draw = torch.Generator().manual_seed(context.seed)
    noises = torch.randn(samples, *x.shape[1:], generator=draw, dtype=torch.float32, device="cpu").to(x)
    total = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))  # half would lose sums
    for rows, grad in _gradients(context, samples, lambda b, s: x[b] + spread[b][:, None, None, None] * noises[s]):
        total.index_add_(0, rows, grad.to(total.dtype))
    return context.to_tokens(context.sum_per_patch((x * total / samples).sum(1)))


def _gradients(
    context: MethodContext, count: int, pixels_of: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield image numbers and the score's gradients at `pixels_of(images, points)`, for `count` points an image."""
    device, images = context.pixels.device, len(context.pixels)
    work = torch.arange(images * count, device=device)
    most = min(context.batch_size, max(1, _TOKENS // context.layout.tokens))
    for part in torch.split(work, most):
        rows, numbers = part // count, part % count
        leaf = pixels_of(rows, numbers).requires_grad_()
        pixels = leaf.view_as(leaf)  # counters of operations cannot follow a gradient at a leaf
        (grad,) = torch.autograd.grad(context.scores(pixels, rows).sum(), pixels)
        context.progress(int(part[-1]) + 1, images * count)
        yield rows, grad
