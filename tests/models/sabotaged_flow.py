"""Sabotaged models, part 4: what happens between blocks and after them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.models.sabotaged import WIDTH, D, Matrices, Tiny, back, from_cls, grid, rollout, sabotaged


@sabotaged("attention's result is thrown away", "tracing.nothing-read")
class Discarded(Tiny):
    def mixed(self, layer: int, x: Tensor) -> Tensor:
        super().mixed(layer, x)
        return self.out[layer](x)


@sabotaged("attention's result times zero", "tracing.no-effect")
class Zeroed(Tiny):
    def mixed(self, layer: int, x: Tensor) -> Tensor:
        return super().mixed(layer, x) * 0


@sabotaged("attention's result of one layer is thrown away", lambda m, a: rollout(m, a[1:]), layers=1)
class HalfDiscarded(Tiny):
    def mixed(self, layer: int, x: Tensor) -> Tensor:
        y = super().mixed(layer, x)
        return y if layer else self.out[layer](x)


@sabotaged("a layer scale of zero in one layer", rollout, note="tracing.idle-layers")
class LayerScale(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.0, 1.0]))

    def mixed(self, layer: int, x: Tensor) -> Tensor:
        return super().mixed(layer, x) * self.scale[layer]


@sabotaged("attention of the first layer used again in the second", lambda m, a: grid(from_cls([a[0], a[0]])))
class Again(Tiny):
    seen: Any = None

    def twin(self, seen: list[Tensor]) -> None:
        self.seen = seen

    def blocks(self, x: Tensor) -> Tensor:
        q, k, v = self.split(0, self.norms[0](x))
        matrix = (q @ k.mT / WIDTH**0.5).softmax(-1)
        if self.seen is not None:
            self.seen.append(matrix)
        for layer in range(2):
            v = list(self.split(layer, self.norms[layer](x)))[2]
            x = x + self.out[layer]((matrix @ v).transpose(1, 2).flatten(2))
            x = x + self.mlp[layer](x)
        return x


@sabotaged("attention and MLP side by side", rollout)
class Parallel(Tiny):
    def block(self, layer: int, x: Tensor) -> Tensor:
        y = self.norms[layer](x)
        return x + self.mixed(layer, y) + self.mlp[layer](y)


@sabotaged("norms after the residual", rollout)
class PostNorm(Tiny):
    def block(self, layer: int, x: Tensor) -> Tensor:
        x = self.norms[layer](x + self.mixed(layer, x))
        return x + self.mlp[layer](x)


@sabotaged("layers run in another order than they are listed", rollout)
class Backwards(Tiny):
    def blocks(self, x: Tensor) -> Tensor:
        for layer in (1, 0):
            x = self.block(layer, x)
        return x


@sabotaged("one layer applied three times", rollout, layers=3)
class Shared(Tiny):
    def blocks(self, x: Tensor) -> Tensor:
        for layer in (0, 1, 0):
            x = self.block(layer, x)
        return x


@sabotaged("layers skipped where the answer is sure already", "tracing.decided-by-values")
class EarlyExit(Tiny):
    def blocks(self, x: Tensor) -> Tensor:
        x = self.block(0, x)
        if float(self.head(self.norm(x)[:, 0]).softmax(-1).max()) > 0.21:
            return x
        return self.block(1, x)


@sabotaged("no residual around attention", lambda m, a: grid(a[1][0] @ a[0]), layers=0)
class NoResidual(Tiny):
    def block(self, layer: int, x: Tensor) -> Tensor:
        x = self.mixed(layer, self.norms[layer](x))
        return x + self.mlp[layer](x)


@sabotaged("no residual around attention in one layer", lambda m, a: grid(from_cls(a[1:]) @ a[0]), layers=1)
class HalfResidual(Tiny):
    def block(self, layer: int, x: Tensor) -> Tensor:
        return super().block(layer, x) if layer else self.mixed(layer, self.norms[layer](x))


@sabotaged("the residual is subtracted", rollout)
class Negative(Tiny):
    def block(self, layer: int, x: Tensor) -> Tensor:
        x = self.mixed(layer, self.norms[layer](x)) - x
        return x + self.mlp[layer](x)


@sabotaged("the residual is rolled by one token", lambda m, a: rolled(a, 0.5, 0.5))
class RolledResidual(Tiny):
    def block(self, layer: int, x: Tensor) -> Tensor:
        x = x.roll(1, 1) + self.mixed(layer, self.norms[layer](x))
        return x + self.mlp[layer](x)


def rolled(a: Matrices, residual: float, attention: float) -> np.ndarray:
    row = np.eye(17)[0]
    for matrix in reversed(a):
        row = residual * np.roll(row, -1) + attention * row @ matrix
    return grid(row)


@sabotaged(
    "cross attention to latents that are learned",
    lambda m, a: (0.5 * back(np.full(4, 0.25), a[1:]) @ a[0]).reshape(4, 4),
)
class Perceiver(Tiny):
    prefix = 0

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, 4, D))

    def block(self, layer: int, x: Tensor) -> Tensor:
        if layer:
            return super().block(layer, x)
        latents = self.latents.expand(len(x), -1, -1)
        q = next(self.split(0, latents))
        _, k, v = self.split(0, x)
        return latents + self.out[0](self.kernel(q, k, v).transpose(1, 2).flatten(2))

    def read(self, x: Tensor) -> Tensor:
        return self.norm(x).mean(1)


@sabotaged("class attention: CLS alone attends in the last layer", lambda m, a: class_attention(a))
class ClassAttention(Tiny):
    def block(self, layer: int, x: Tensor) -> Tensor:
        if not layer:
            return super().block(layer, x)
        q, k, v = self.split(1, self.norms[1](x))
        cls = x[:, :1] + self.out[1](self.kernel(q[:, :, :1], k, v).transpose(1, 2).flatten(2))
        return torch.cat([cls + self.mlp[1](cls), x[:, 1:]], 1)


def class_attention(a: Matrices) -> np.ndarray:
    row = 0.5 * np.eye(17)[0] + 0.5 * a[1][0]
    return grid(back(row, a[:1]))


class Windows(Tiny):
    prefix, shift = 0, 0

    def __init__(self) -> None:
        super().__init__("mean")

    def gather(self) -> Tensor:
        return (
            torch.arange(16)
            .reshape(4, 4)
            .roll((-self.shift, -self.shift), (0, 1))
            .unflatten(0, (2, 2))
            .unflatten(2, (2, 2))
            .transpose(1, 2)
            .reshape(4, 4)
        )

    def mixed(self, layer: int, x: Tensor) -> Tensor:
        order = self.gather()
        q, k, v = self.split(layer, x)
        q, k, v = (part[:, :, order.flatten()].unflatten(2, (4, 4)).movedim(2, 1).flatten(0, 1) for part in (q, k, v))
        out = self.kernel(q, k, v).unflatten(0, (-1, 4)).movedim(1, 2).flatten(2, 3)
        return self.out[layer](out[:, :, order.flatten().argsort()].transpose(1, 2).flatten(2))

    def read(self, x: Tensor) -> Tensor:
        return self.norm(x).mean(1)


def windowed(model: Any, a: Matrices) -> np.ndarray:
    """Windows as whole matrices with zeros outside of them."""
    whole = []
    for layer, parts in enumerate(a):
        model.columns = layer
        matrix, order = np.zeros((16, 16)), model.gather().numpy()
        for places, part in zip(order, parts, strict=True):
            matrix[np.ix_(places, places)] = part
        whole.append(matrix)
    return back(np.full(16, 1 / 16), whole).reshape(4, 4)


@sabotaged("windows", windowed)
class Plain(Windows):
    pass


@sabotaged("windows with a cyclic shift", windowed)
class Shifted(Windows):
    shift = 1


@sabotaged("windows of every second token", windowed)
class Dilated(Windows):
    def gather(self) -> Tensor:
        return torch.arange(16).reshape(2, 2, 2, 2).permute(1, 3, 0, 2).reshape(4, 4)


@sabotaged("rows in one layer, columns in the next", windowed)
class Axial(Windows):
    def mixed(self, layer: int, x: Tensor) -> Tensor:
        self.columns = layer
        return super().mixed(layer, x)

    def gather(self) -> Tensor:
        return torch.arange(16).reshape(4, 4).T if self.columns else torch.arange(16).reshape(4, 4)


@sabotaged("attention called twice, its second result used", lambda m, a: rollout(m, a[1::2]))
class Twice(Tiny):
    def mixed(self, layer: int, x: Tensor) -> Tensor:
        super().mixed(layer, x + 1)
        return super().mixed(layer, x)


@sabotaged("two towers, one of them ignored", lambda m, a: rollout(m, a[2:]))
class Ignored(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.other = Tiny()

    def forward(self, x: Tensor) -> Tensor:
        self.other(x)
        return super().forward(x)


@sabotaged("two towers, their answers averaged", lambda m, a: (rollout(m, a[:2]) + rollout(m, a[2:])) / 2, layers=4)
class Ensemble(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.other = Tiny()

    def forward(self, x: Tensor) -> Tensor:
        return (self.other(x) + super().forward(x)) / 2


@sabotaged("a text tower runs first", lambda m, a: rollout(m, a[1:]))
class TextFirst(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Parameter(torch.randn(1, 6, D))

    def forward(self, x: Tensor) -> Tensor:
        super().block(0, self.words)
        return super().forward(x)


@sabotaged("patches attend to words that are learned", "tracing.values-not-from-image")
class Fusion(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Parameter(torch.randn(1, 6, D))

    def block(self, layer: int, x: Tensor) -> Tensor:
        q = next(self.split(layer, x))
        _, k, v = self.split(layer, self.words.expand(len(x), -1, -1))
        x = x + self.out[layer](self.kernel(q, k, v).transpose(1, 2).flatten(2))
        return super().block(layer, x)


@sabotaged("experts mixed for each token", rollout)
class Experts(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(D, 2), nn.ModuleList(nn.Linear(D, D) for _ in range(2))

    def block(self, layer: int, x: Tensor) -> Tensor:
        x = super().block(layer, x)
        share = self.gate(x).softmax(-1)
        return x + sum(share[..., i : i + 1] * expert(x) for i, expert in enumerate(self.experts))


@sabotaged("tokens sent to the expert of their largest gate", "tracing.unsupported-function")
class Routed(Experts):
    def block(self, layer: int, x: Tensor) -> Tensor:
        x = Tiny.block(self, layer, x)
        best = self.gate(x).argmax(-1)
        y = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            y[best == i] = expert(x[best == i])
        return x + y


@sabotaged("the patches twice", lambda m, a: from_cls(a)[1:].reshape(2, 4, 4).sum(0))
class Doubled(Tiny):
    def tokens(self, x: Tensor) -> Tensor:
        return torch.cat([super().tokens(x), x], 1)
