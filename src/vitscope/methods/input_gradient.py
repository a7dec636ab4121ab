"""The score's gradient with respect to the pixels, times what stands there, in one place or averaged over several."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.errors import UsageError
from vitscope.methods.base import method
from vitscope.methods.context import MethodContext

__all__ = ["input_x_gradient", "integrated_gradients", "smoothgrad"]

_TOKENS = 2048  # of all rows that go through the model together: each keeps a graph


@method(
    "input-x-gradient",
    passes="1 forward, 1 backward",
    source="Shrikumar et al. 2017, section 3.1; Ancona et al. 2018, table 1",
    requires={"gradient"},
)
def input_x_gradient(context: MethodContext) -> Float[Tensor, "B N"]:
    """Each pixel times the score's gradient there, added up over the patch.

    Formula: `m_j = sum_{p in patch j, c} x_pc dy/dx_pc`, x the normalised pixels that the model gets.

    Returns:
        `(B, N)`, signed, in units of the score; the prefix gets 0. For a model without biases whose parts are all
        linear it sums to the score; `gradient_rule="libra"` brings a transformer near that.

    Cost: one forward and one backward, and their memory.
    Limits: a pixel at the mean (normalised 0) gets nothing whatever it means.
    """
    (grad,) = context.gradients([context.pixels])
    return context.whole(context.per_patch((context.pixels.detach() * grad).sum(1)))


@method(
    "integrated-gradients",
    passes="1 + steps forwards, steps backwards",
    source="Sundararajan, Taly, Yan 2017, equations 1 and 3",
    requires={"own-gradient"},
)
def integrated_gradients(context: MethodContext, *, steps: int = 32, baseline: float = 0.0) -> Float[Tensor, "B N"]:
    """Gradients added up on the straight way from a flat picture to this one, times the difference.

    Formula: `m_j = sum_{p in patch j, c} (x - b)_pc 1/S sum_s dy/dx_pc(b + (s - 1/2)/S (x - b))`, the midpoint rule.

    Args:
        context: the images, the model and the target.
        steps: S, points on the way.
        baseline: b, one value of the normalised pixels everywhere; 0 is the mean colour of the training pictures.

    Returns:
        `(B, N)`, signed, in units of the score; over the patches it sums to `y(x) - y(b)` as S grows.

    Raises:
        UsageError: fewer than one step.

    Cost: `steps` forwards and backwards, at most `batch_size` and 2,048 tokens at a time; memory of so many.
    Limits: what looks like the baseline gets nothing; on Transformers the way passes through unlikely pictures.
    """
    if steps < 1:
        raise UsageError(f"steps is at least 1, not {steps}")
    x = context.pixels.detach()
    way = x - baseline
    total = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))  # half would lose sums
    places = ((torch.arange(steps, device=x.device) + 0.5) / steps).to(x.dtype)
    for rows, grad in _gradients(context, steps, lambda b, s: baseline + places[s][:, None, None, None] * way[b]):
        total.index_add_(0, rows, grad.to(total.dtype))
    return context.whole(context.per_patch((way * total / steps).sum(1)))


@method(
    "smoothgrad",
    passes="1 + samples forwards, samples backwards",
    source="Smilkov et al. 2017, equation 1; times the picture, their section 3.3",
    requires={"own-gradient"},
)
def smoothgrad(context: MethodContext, *, samples: int = 16, noise: float = 0.15) -> Float[Tensor, "B N"]:
    """The mean gradient over noisy copies of the picture, times the picture.

    Formula: `m_j = sum_{p in patch j, c} x_pc 1/S sum_s dy/dx_pc(x + n_s)`, `n_s ~ N(0, (noise (max x - min x))^2)`.

    Args:
        context: the images, the model and the target.
        samples: S, noisy copies; `seed` chooses the noise, the same for each picture.
        noise: its standard deviation as a share of the picture's range of values.

    Returns:
        `(B, N)`, signed, in units of the score; its sum says nothing; the prefix gets 0.

    Raises:
        UsageError: fewer than one sample, or negative noise.

    Cost: `samples` forwards and backwards, at most `batch_size` and 2,048 tokens at a time; memory of so many.
    Limits: as for one gradient; noise hides fine structure.
    """
    if samples < 1 or noise < 0:
        raise UsageError(f"samples is at least 1 and noise at least 0, not {samples} and {noise}")
    x = context.pixels.detach()
    spread = noise * (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))
    drawn = torch.randn(samples, *x.shape[1:], generator=torch.Generator().manual_seed(context.seed)).to(x)
    total = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))  # half would lose sums
    for rows, grad in _gradients(context, samples, lambda b, s: x[b] + spread[b][:, None, None, None] * drawn[s]):
        total.index_add_(0, rows, grad.to(total.dtype))
    return context.whole(context.per_patch((x * total / samples).sum(1)))


def _gradients(context: MethodContext, count: int, made: object) -> Iterator[tuple[Tensor, Tensor]]:
    """Picture numbers and the score's gradients at `made(pictures, numbers)`, for `count` points of each picture."""
    device, pictures = context.pixels.device, len(context.pixels)
    work = torch.arange(pictures * count, device=device)
    most = min(context.batch, max(1, _TOKENS // context.layout.tokens))
    for part in torch.split(work, most):
        rows, numbers = part // count, part % count
        pixels = made(rows, numbers).requires_grad_()  # type: ignore[operator]
        (grad,) = torch.autograd.grad(context.scores(pixels, rows).sum(), pixels)
        context.tick(int(part[-1]) + 1, pictures * count)
        yield rows, grad
