"""What one run of the averaged network records: attention calls and merges of positions into tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vitscope._messages import msg

__all__ = ["CAPTURE_HINT", "TokenMerge", "TracedCall", "channels_mix", "varies"]

CAPTURE_HINT = msg("tracing.use-capture.hint", "vitscope.capture(model) records the raw attention of any model")


@dataclass(eq=False)
class TracedCall:
    """One attention call of the averaged network.

    Attributes:
        event: its number among all calls of softmax and fused attention.
        keys: the positions at its keys, `(..., M)`.
        queries: the number of its queries, N.
        joined: a residual connection added its result.
        channels: it mixes channels, not tokens.
    """

    event: int
    keys: Tensor
    queries: int
    joined: bool = False
    channels: bool = False


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
