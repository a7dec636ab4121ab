"""What one run of the averaged network records: attention calls, merges of positions into tokens, and its answer."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitscope._messages import msg
from vitscope.errors import LayoutError

CAPTURE_HINT = msg(
    "tracing.use-capture.hint",
    "`with vitscope.capture(model) as captured: model(...)` records the raw attention of any model, captured.attention",
)


def calls_by_image(model: str) -> LayoutError:
    """Return the error of a model that runs on the images of a batch one after another."""
    return LayoutError.coded(
        "tracing.calls-by-image",
        "{model} makes other attention calls for four images than for one, as it does with a loop over images: "
        "tracing runs four at once, so it cannot follow the tokens",
        "pass the layout, layout=vitscope.TokenLayout(prefix=('cls',), grid=(rows, columns)), or call attention "
        "once for the batch",
        model=model or msg("tracing.the-model", "the model"),
    )


@dataclass(eq=False)
class TracedCall:
    """One attention call of the averaged network.

    Attributes:
        event: its number among all calls of softmax and fused attention.
        keys: the positions at its keys, `(..., M)`.
        queries: the number of its queries, N.
        joined: a residual connection added its result.
        channels: it mixes channels, not tokens.
        before: the calls whose results its values hold.
    """

    event: int
    keys: Tensor
    queries: int
    joined: bool = False
    channels: bool = False
    before: frozenset[int] = frozenset()


@dataclass(eq=False)
class TokenMerge:
    """A layer that may merge positions into tokens.

    Attributes:
        values: its result.
        axis: the channels of `values`.
        real: it merged positions that differ.
    """

    values: Tensor
    axis: int
    real: bool


def varies(x: Tensor, axis: int) -> bool:
    """Return whether positions differ along an axis; `x` holds (mass, x, y, leaf) along its batch axis."""
    if not x.stride(axis):
        return False
    with torch.no_grad():
        for other in range(x.ndim):
            x = x if x.stride(other) else x.narrow(other, 0, 1)
        spread = x.amax(axis) - x.amin(axis)
        return bool((spread > 1e-4 * (1 + x.abs().amax())).any())


def channels_mix(value: Tensor) -> bool:
    """Return whether attention over these values `(..., M, D)` mixes channels of tokens, not tokens."""
    return value.shape[-1] > 1 and varies(value, -1) and not varies(value, -2)


def same_places(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors of tokens, of shapes that fit, hold the same positions."""
    with torch.no_grad():
        a, b = a.as_subclass(Tensor), b.as_subclass(Tensor)
        return bool((a - b).abs().amax() < 1e-2 * (1 + a.abs().amax()))


def differs_by_token(factor: object, tokens: Tensor) -> bool:
    """Return whether a factor from outside has another number for each token, along an axis of `tokens`."""
    if not isinstance(factor, Tensor) or factor.ndim > tokens.ndim:
        return False
    with torch.no_grad():
        spread = [
            axis
            for axis in range(1, factor.ndim + 1)
            if factor.shape[-axis] > 1 and bool((factor.amax(-axis) - factor.amin(-axis)).abs().amax() > 1e-6)
        ]
    return any(varies(tokens.as_subclass(Tensor), tokens.ndim - axis) for axis in spread)


def places_along(x: Tensor, axis: int) -> int:
    """Return how many different positions lie along an axis of `x`, which holds (mass, x, y, leaf)."""
    with torch.no_grad():
        rows = x.as_subclass(Tensor).movedim(axis, -1).reshape(4, -1, x.shape[axis])[:, 0]
        return len(torch.unique((rows * 100).round(), dim=1).T)


def ranked_answer() -> LayoutError:
    """Return the error of an answer whose numbers stand by their size, or are the largest of several."""
    return LayoutError.coded(
        "tracing.ranked-answer",
        "the model sorts the numbers of its answer by size, or keeps the largest: which class each one is differs "
        "from image to image",
        "pass the model before that step, with one number for each class",
    )


def check_functions(out: Any, model: nn.Module) -> None:
    """Raise a LayoutError where an autograd.Function of the model's own stands between the image and its answer."""
    waiting = [out.grad_fn] if isinstance(out, Tensor) and out.grad_fn is not None else []
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        function = getattr(node, "_forward_cls", None)
        if function is not None and not function.__module__.startswith("vitscope."):
            raise LayoutError.coded(
                "tracing.autograd-function",
                "{model} runs {function}, an autograd.Function with a backward pass of its own: where tokens go "
                "in it is not known",
                "run the same computation with torch's own functions, such as scaled_dot_product_attention",
                model=type(model).__name__,
                function=function.__name__,
            )
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
