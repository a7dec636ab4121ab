"""What the averaged network meets on its way: attention calls, merges, and how positions tell tokens from channels."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CallSite", "TokenMerge", "channels_mix", "varies"]


@dataclass(eq=False)
class CallSite:
    """One attention call as the averaged network met it.

    Attributes:
        event: its number among all calls of softmax and fused attention.
        keys: what stands at its keys, `(..., M)`; queries: N.
        joined: a residual has taken its result in; channels: it mixes channels, not tokens.
    """

    event: int
    keys: Tensor
    queries: int
    joined: bool = False
    channels: bool = False
    asked: Tensor | None = None


@dataclass(eq=False)
class TokenMerge:
    """A place where several positions may become one token: `values`, with the channels along `axis`."""

    values: Tensor
    axis: int
    real: bool


def varies(x: Tensor, axis: int) -> bool:
    """Do positions differ along this axis? Probing values are (mass, x, y, leaf) along the batch."""
    if not x.stride(axis):
        return False
    with torch.no_grad():
        for other in range(x.ndim):
            x = x if x.stride(other) else x.narrow(other, 0, 1)
        spread = x.amax(axis) - x.amin(axis)
        return bool((spread > 1e-4 * (1 + x.abs().amax())).any())


def channels_mix(value: Tensor) -> bool:
    """Are these values channels of tokens along the last axis, not tokens along the last but one?"""
    return value.shape[-1] > 1 and varies(value, -1) and not varies(value, -2)
