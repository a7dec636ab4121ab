"""Sabotaged models, part 5: what the head reads, and what mixes tokens outside of attention."""

import numpy as np
import torch
from torch import Tensor, nn

from tests.models.sabotaged import D, Matrices, Tiny, back, from_cls, grid, rollout, sabotaged


def mean_of_patches(model: Tiny, a: Matrices) -> np.ndarray:
    """Rollout from all patches alike, which the note says."""
    return grid(back(np.r_[0, np.full(16, 1 / 16)], a))


@sabotaged("the head reads the layer before the last", lambda m, a: grid(from_cls(a[:1])), layers=1)
class Earlier(Tiny):
    def blocks(self, x: Tensor) -> Tensor:
        first = self.block(0, x)
        self.block(1, first)
        return first


@sabotaged("the head reads two layers", lambda m, a: two_depths(a))
class TwoDepths(Tiny):
    def blocks(self, x: Tensor) -> Tensor:
        first = self.block(0, x)
        return (first + self.block(1, first)) / 2


def two_depths(a: Matrices) -> np.ndarray:
    return grid(back((np.eye(17)[0] + from_cls(a[1:])) / 2, a[:1]))


@sabotaged("the head reads two layers side by side", lambda m, a: two_depths(a))
class SideBySide(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(2 * D, D)

    def blocks(self, x: Tensor) -> Tensor:
        first = self.block(0, x)
        return self.both(torch.cat([first, self.block(1, first)], -1))


@sabotaged("the head reads a single patch", lambda m, a: grid(from_cls(a, 7)))
class OnePatch(Tiny):
    def read(self, x: Tensor) -> Tensor:
        return self.norm(x)[:, 7]


@sabotaged(
    "the head reads four patches in the middle", lambda m, a: grid(np.mean([from_cls(a, i) for i in (6, 7, 10, 11)], 0))
)
class Middle(Tiny):
    def read(self, x: Tensor) -> Tensor:
        return self.norm(x)[:, [6, 7, 10, 11]].mean(1)


@sabotaged("the head reads the maximum over patches", mean_of_patches, note="tracing.note-extreme")
class Maximum(Tiny):
    def read(self, x: Tensor) -> Tensor:
        return self.norm(x)[:, 1:].max(1).values


@sabotaged("the head reads the second largest of the patches", "tracing.unsupported-function")
class SecondBest(Tiny):
    def read(self, x: Tensor) -> Tensor:
        return self.norm(x)[:, 1:].topk(2, 1).values[:, 1]


@sabotaged("the head reads all tokens side by side", "tracing.mixed-outside")
class Flat(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Linear(16 * D, D)

    def read(self, x: Tensor) -> Tensor:
        return self.flat(self.norm(x)[:, 1:].flatten(1))


@sabotaged("the head weighs patches by learned numbers", "tracing.weighted-tokens")
class Learned(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.rand(16))

    def read(self, x: Tensor) -> Tensor:
        return (self.norm(x)[:, 1:] * self.share[:, None]).sum(1)


@sabotaged("the head pools by a softmax of learned scores", "tracing.weighted-tokens")
class Pooled(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(D, 1)

    def read(self, x: Tensor) -> Tensor:
        x = self.norm(x)[:, 1:]
        return (self.score(x).softmax(1) * x).sum(1)


@sabotaged("the head reads CLS minus the mean of the patches", "tracing.subtracted")
class Minus(Tiny):
    def read(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return x[:, 0] - x[:, 1:].mean(1)


@sabotaged("a convolution between tokens in the MLP", rollout, note="tracing.note-convolution")
class LocallyEnhanced(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.local = nn.Conv2d(D, D, 3, padding=1, groups=D)

    def block(self, layer: int, x: Tensor) -> Tensor:
        x = super().block(layer, x)
        patches = self.local(x[:, 1:].mT.unflatten(2, (4, 4))).flatten(2).mT
        return torch.cat([x[:, :1], x[:, 1:] + patches], 1)


@sabotaged("a large convolution between tokens", rollout, note="tracing.note-convolution")
class LargeConvolution(LocallyEnhanced):
    def __init__(self) -> None:
        super().__init__()
        self.local = nn.Conv2d(D, D, 7, padding=3)


@sabotaged("Fourier mixing in one layer", "tracing.unsupported-function")
class Fourier(Tiny):
    def mixed(self, layer: int, x: Tensor) -> Tensor:
        return super().mixed(layer, x) if layer else torch.fft.fft2(x).real


@sabotaged("an MLP over tokens in one layer", "tracing.mixed-outside")
class Mixer(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.tokens_mlp = nn.Linear(17, 17)

    def mixed(self, layer: int, x: Tensor) -> Tensor:
        return super().mixed(layer, x) if layer else self.tokens_mlp(x.mT).mT


@sabotaged("an MLP over tokens beside attention", "tracing.mixed-outside")
class MixerBeside(Mixer):
    def mixed(self, layer: int, x: Tensor) -> Tensor:
        return Tiny.mixed(self, layer, x) + self.tokens_mlp(x.mT).mT


@sabotaged("a matrix from the left that is learned and no attention", "tracing.tokens-lost")
class LeftProduct(Mixer):
    def mixed(self, layer: int, x: Tensor) -> Tensor:
        return Tiny.mixed(self, layer, x) + (self.tokens_mlp.weight @ x)


@sabotaged("the mean of all tokens added to each", "tracing.added-elsewhere")
class MeanAdded(Tiny):
    def block(self, layer: int, x: Tensor) -> Tensor:
        return super().block(layer, x) + x.mean(1, keepdim=True)


@sabotaged("tokens gated by the mean of all", "tracing.beside-attention")
class Squeezed(Tiny):
    def block(self, layer: int, x: Tensor) -> Tensor:
        return super().block(layer, x) * x.mean(1, keepdim=True).sigmoid()


@sabotaged("normalised over tokens", "tracing.added-elsewhere")
class OverTokens(Tiny):
    def block(self, layer: int, x: Tensor) -> Tensor:
        x = super().block(layer, x)
        return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)


@sabotaged("tokens shifted by one between blocks", lambda m, a: shifted(a))
class ShiftedTokens(Tiny):
    def block(self, layer: int, x: Tensor) -> Tensor:
        x = super().block(layer, x)
        return torch.cat([x[:, :1], x[:, 1:].roll(1, 1)], 1)


@sabotaged("half of the channels shifted by one token", lambda m, a: half_shifted(a))
class ShiftedChannels(Tiny):
    def block(self, layer: int, x: Tensor) -> Tensor:
        x = super().block(layer, x)
        return x if layer else torch.cat([x[..., :8], x[..., 8:].roll(1, 1)], -1)


def half_shifted(a: Matrices) -> np.ndarray:
    row = from_cls(a[1:])
    return grid(back((row + np.roll(row, -1)) / 2, a[:1]))


def shifted(a: Matrices) -> np.ndarray:
    row = np.eye(17)[0]
    for matrix in reversed(a):
        row = back(np.r_[row[0], np.roll(row[1:], -1)], [matrix])
    return grid(row)


@sabotaged("a running sum over tokens", "tracing.running-sum")
class Cumulative(Tiny):
    def block(self, layer: int, x: Tensor) -> Tensor:
        x = super().block(layer, x)
        return x + x.cumsum(1) / 17


@sabotaged("a recurrent layer over tokens", "tracing.unsupported-function")
class Recurrent(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(D, D, batch_first=True)

    def block(self, layer: int, x: Tensor) -> Tensor:
        x = super().block(layer, x)
        return x + self.gru(x)[0]


class GatedResult(Tiny):
    """A gate multiplies each token's result with numbers of the same token: it moves none."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(D, D)

    def opened(self, x: Tensor) -> Tensor:
        return self.gate(x).sigmoid()

    def mixed(self, layer: int, x: Tensor) -> Tensor:
        return super().mixed(layer, x) * self.opened(x)


@sabotaged("attention's result times a sigmoid of the tokens", rollout)
class Sigmoid(GatedResult):
    pass


@sabotaged("attention's result times a swish of the tokens, as in RetNet", rollout)
class Swish(GatedResult):
    def opened(self, x: Tensor) -> Tensor:
        return nn.functional.silu(self.gate(x))
