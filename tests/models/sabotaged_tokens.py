"""Sabotaged models, part 1: the order, number and grid of tokens, and what the image becomes before."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.sabotaged import D, Matrices, Tiny, back, from_cls, rollout, sabotaged

SHUFFLE = torch.tensor([5, 0, 11, 3, 14, 7, 1, 9, 2, 15, 4, 12, 6, 10, 8, 13])
SERPENTINE = torch.tensor([0, 1, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11, 15, 14, 13, 12])
HILBERT = torch.tensor([0, 4, 5, 1, 2, 3, 7, 6, 10, 11, 15, 14, 13, 9, 8, 12])
ZIGZAG = torch.tensor([0, 1, 4, 8, 5, 2, 3, 6, 9, 12, 13, 10, 7, 11, 14, 15])


def ordered(order: Tensor) -> Any:
    """Rollout of tokens that stand in another order: token i shows patch `order[i]`."""

    def truth(model: Any, matrices: Matrices) -> np.ndarray:
        found = np.zeros(16)
        found[order.numpy()] = rollout(model, matrices).ravel()
        return found.reshape(4, 4)

    return truth


class Ordered(Tiny):
    order = torch.arange(16)

    def embed(self, x: Tensor) -> Tensor:
        return self.stem(x).flatten(2).mT[:, self.order] + self.places


for name, order in [
    ("serpentine", SERPENTINE),
    ("a Hilbert curve", HILBERT),
    ("zigzag", ZIGZAG),
    ("reversed", torch.arange(15, -1, -1)),
    ("columns first", torch.arange(16).reshape(4, 4).T.flatten()),
    ("shuffled", SHUFFLE),
]:
    sabotaged(f"patch tokens in another order: {name}", ordered(order))(type("Ordered", (Ordered,), {"order": order}))


@sabotaged("patch tokens in another order, read as their mean", ordered(SHUFFLE), pool="mean")
class OrderedMean(Ordered):
    order = SHUFFLE


@sabotaged("permuted before the blocks and back after them", ordered(SHUFFLE), pool="mean")
class Undone(Tiny):
    def blocks(self, x: Tensor) -> Tensor:
        x = super().blocks(torch.cat([x[:, :1], x[:, 1:][:, SHUFFLE]], 1))
        return torch.cat([x[:, :1], x[:, 1:][:, SHUFFLE.argsort()]], 1)


@sabotaged("another order in each block", lambda m, a: in_second_order(a))
class Reordered(Tiny):
    def block(self, layer: int, x: Tensor) -> Tensor:
        x = torch.cat([x[:, :1], x[:, 1:][:, SHUFFLE]], 1) if layer == 1 else x
        return super().block(layer, x)


def in_second_order(a: Matrices) -> np.ndarray:
    row = from_cls(a[1:])
    first = np.zeros(17)
    first[np.r_[0, 1 + SHUFFLE.numpy()]] = row
    return back(first, a[:1])[1:].reshape(4, 4)


@sabotaged("grid transposed before it is flattened", ordered(torch.arange(16).reshape(4, 4).T.flatten()))
class Transposed(Tiny):
    def embed(self, x: Tensor) -> Tensor:
        return self.stem(x).transpose(2, 3).flatten(2).mT + self.places


@sabotaged("CLS in the middle", lambda m, a: np.delete(from_cls(a, 5), 5).reshape(4, 4))
class Middle(Tiny):
    def tokens(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :5], self.cls_token.expand(len(x), -1, -1), x[:, 5:]], 1)

    def read(self, x: Tensor) -> Tensor:
        return self.norm(x)[:, 5]


@sabotaged("CLS at the end", lambda m, a: from_cls(a, 16)[:16].reshape(4, 4))
class Last(Tiny):
    def tokens(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.cls_token.expand(len(x), -1, -1)], 1)

    def read(self, x: Tensor) -> Tensor:
        return self.norm(x)[:, -1]


@sabotaged("two CLS tokens, the second one read", lambda m, a: from_cls(a, 1)[2:].reshape(4, 4))
class Second(Tiny):
    prefix = 2

    def read(self, x: Tensor) -> Tensor:
        return self.norm(x)[:, 1]


@sabotaged(
    "two CLS tokens, one of them weighted three times",
    lambda m, a: (0.75 * from_cls(a, 0) + 0.25 * from_cls(a, 1))[2:].reshape(4, 4),
)
class Weighted(Tiny):
    prefix = 2

    def read(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return 0.75 * x[:, 0] + 0.25 * x[:, 1]


@sabotaged("registers between the patches", lambda m, a: np.delete(from_cls(a), [0, 9, 10]).reshape(4, 4))
class Registers(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.register_tokens = nn.Parameter(torch.randn(1, 2, D))

    def tokens(self, x: Tensor) -> Tensor:
        return torch.cat(
            [self.cls_token.expand(len(x), -1, -1), x[:, :8], self.register_tokens.expand(len(x), -1, -1), x[:, 8:]], 1
        )


@sabotaged(
    "tokens padded with zeros to a multiple of eight, masked as keys", lambda m, a: from_cls(a)[1:17].reshape(4, 4)
)
class Padded(Tiny):
    def tokens(self, x: Tensor) -> Tensor:
        return functional.pad(super().tokens(x), (0, 0, 0, 7))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = torch.zeros(1, 1, 1, 24, dtype=q.dtype)
        mask[..., 17:] = float("-inf")
        return self.kernel(q, k, v, attn_mask=mask)


@sabotaged("patches with overlapping strides", rollout)
class Overlapping(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, D, 16, 8, 4)


@sabotaged("patches by unfold and a linear map", rollout)
class Unfolded(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(192, D)

    def embed(self, x: Tensor) -> Tensor:
        return self.linear(functional.unfold(x, 8, stride=8).mT) + self.places


@sabotaged("a stem of convolutions", rollout)
class Hybrid(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(8, D, 2, 2),
        )


@sabotaged("patches of 4 pixels, merged two by two before the blocks", rollout)
class Merged(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.merge = nn.Conv2d(3, D, 4, 4), nn.Linear(4 * D, D)

    def embed(self, x: Tensor) -> Tensor:
        return self.merge(functional.pixel_unshuffle(self.stem(x), 2).flatten(2).mT) + self.places


def on_photo(change: Any) -> Any:
    return lambda m, a: np.ascontiguousarray(change(rollout(m, a)))


@sabotaged("the image is flipped inside", on_photo(lambda m: m[:, ::-1]))
class Flipped(Tiny):
    def embed(self, x: Tensor) -> Tensor:
        return super().embed(x.flip(-1))


@sabotaged("the image is rotated inside", on_photo(lambda m: np.rot90(m, -1)))
class Rotated(Tiny):
    def embed(self, x: Tensor) -> Tensor:
        return super().embed(torch.rot90(x, 1, (2, 3)))


@sabotaged("the image is halved in size inside", rollout)
class Halved(Tiny):
    size, patch = (32, 32), 8

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, D, 4, 4)

    def embed(self, x: Tensor) -> Tensor:
        return super().embed(functional.interpolate(x, scale_factor=0.5, mode="bilinear"))


@sabotaged("only the middle of the image is seen", "tracing.cropped")
class Cropped(Tiny):
    def embed(self, x: Tensor) -> Tensor:
        return self.stem(x[:, :, 8:24, 8:24]).flatten(2).mT + self.places[:, :4]


@sabotaged("four tiles of the image in the batch, means of their answers", lambda m, a: tiles(a))
class Tiled(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        tiles = x.unflatten(2, (2, 16)).unflatten(4, (2, 16)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        tiles = functional.interpolate(tiles, scale_factor=2)
        return super().forward(tiles).unflatten(0, (-1, 4)).mean(1)


def tiles(a: Matrices) -> np.ndarray:
    parts = [from_cls([matrix[i] for matrix in a])[1:].reshape(4, 4) / 4 for i in range(4)]
    return np.block([parts[:2], parts[2:]])


@sabotaged(
    "the image with itself flipped, means of both answers",
    lambda m, a: (rollout(m, a[:2]) + rollout(m, a[2:])[:, ::-1]) / 2,
    layers=4,
)
class Averaged(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x) + super().forward(x.flip(-1))) / 2


@sabotaged("normalised by the image's own mean and deviation", rollout)
class OwnStatistics(Tiny):
    def embed(self, x: Tensor) -> Tensor:
        return super().embed((x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True))


@sabotaged("grey and channels swapped inside", rollout)
class Grey(Tiny):
    def embed(self, x: Tensor) -> Tensor:
        return super().embed(
            (x[:, [2, 1, 0]] * torch.tensor([0.1, 0.6, 0.3], dtype=x.dtype)[:, None, None])
            .sum(1, keepdim=True)
            .expand(-1, 3, -1, -1)
        )


@sabotaged("the image is ignored", "tracing.no-path")
class Blind(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.zeros_like(x))


@sabotaged("every answer is not a number", "engine.answer-not-finite")
class NotANumber(Tiny):
    def block(self, layer: int, x: Tensor) -> Tensor:
        return super().block(layer, x) * float("nan")


@sabotaged("half of the tokens dropped by their norm", "tracing.unsupported-function")
class Pruned(Tiny):
    def block(self, layer: int, x: Tensor) -> Tensor:
        if layer == 1:
            keep = x[:, 1:].norm(dim=-1).topk(8, 1).indices
            x = torch.cat([x[:, :1], x[:, 1:].gather(1, keep[..., None].expand(-1, -1, D))], 1)
        return super().block(layer, x)


@sabotaged("tokens sorted by their norm", "tracing.unsupported-function")
class Sorted(Tiny):
    def blocks(self, x: Tensor) -> Tensor:
        order = x[:, 1:].norm(dim=-1).argsort(1)
        return super().blocks(torch.cat([x[:, :1], x[:, 1:].gather(1, order[..., None].expand(-1, -1, D))], 1))


@sabotaged("neighbouring tokens merged in pairs where they are alike", "tracing.unsupported-function")
class Bipartite(Tiny):
    def block(self, layer: int, x: Tensor) -> Tensor:
        if layer == 1:
            a, b = x[:, 1::2], x[:, 2::2]
            best = (a @ b.mT).max(-1).indices
            x = torch.cat([x[:, :1], b.scatter_reduce(1, best[..., None].expand(-1, -1, D), a, "mean")], 1)
        return super().block(layer, x)


@sabotaged("tokens kept by attention's own weights, half after the first block", "tracing.chosen-by-values")
class FastV(Tiny):
    def blocks(self, x: Tensor) -> Tensor:
        x = self.block(0, x)
        q, k, _ = self.split(1, self.norms[1](x))
        keep = (q @ k.mT).mean(1)[:, 0, 1:].topk(8).indices.sort().values
        return self.block(1, torch.cat([x[:, :1], x[:, 1:].gather(1, keep[..., None].expand(-1, -1, D))], 1))
