"""Sabotaged models, part 2: attention that is called in parts, or inside a function that hides it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.models.sabotaged import HEADS, WIDTH, D, Matrices, Tiny, by_hand, rollout, sabotaged


def grouped(calls: int, combine: Any) -> Any:
    """Rollout where each layer makes several calls, which `combine` makes one matrix of."""

    def truth(model: Any, a: Matrices) -> np.ndarray:
        return rollout(model, [combine(a[i : i + calls]) for i in range(0, len(a), calls)])

    return truth


def mean_of(parts: Matrices) -> np.ndarray:
    return np.mean(parts, 0)


@sabotaged("heads in a loop, side by side at last", grouped(HEADS, mean_of))
class HeadLoop(Tiny):
    def mixed(self, layer: int, x: Tensor) -> Tensor:
        q, k, v = self.split(layer, x)
        return self.out[layer](torch.cat([self.kernel(q[:, h], k[:, h], v[:, h]) for h in range(HEADS)], -1))


@sabotaged("heads in a loop, stacked", grouped(HEADS, mean_of))
class HeadStack(Tiny):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.stack([self.kernel(q[:, h], k[:, h], v[:, h]) for h in range(HEADS)], 1)


@sabotaged("heads in a loop with a softmax of their own", grouped(HEADS, mean_of))
class HeadLoopWritten(HeadLoop):
    kernel = staticmethod(lambda q, k, v: (q @ k.mT / WIDTH**0.5).softmax(-1) @ v)


@sabotaged("a list of modules, one for each head", grouped(HEADS, mean_of))
class HeadModules(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.each = nn.ModuleList(nn.ModuleList(nn.Linear(D, 3 * WIDTH) for _ in range(HEADS)) for _ in range(2))

    def mixed(self, layer: int, x: Tensor) -> Tensor:
        return self.out[layer](torch.cat([self.kernel(*head(x).chunk(3, -1)) for head in self.each[layer]], 2))


@sabotaged("heads in a loop, written into an empty tensor", "tracing.unsupported-function")
class HeadWritten(Tiny):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.zeros_like(q)
        for h in range(HEADS):
            out[:, h] = self.kernel(q[:, h], k[:, h], v[:, h])
        return out


@sabotaged("heads in a loop, projected and summed one by one", grouped(HEADS, mean_of), layers=4, heads=False)
class HeadSum(Tiny):
    def mixed(self, layer: int, x: Tensor) -> Tensor:
        q, k, v = self.split(layer, x)
        weights = self.out[layer].weight.unflatten(1, (HEADS, WIDTH))
        return (
            sum(self.kernel(q[:, h], k[:, h], v[:, h]) @ weights[:, h].mT for h in range(HEADS)) + self.out[layer].bias
        )


@sabotaged("pictures in a loop", "tracing.calls-by-image")
class PictureLoop(Tiny):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.cat([self.kernel(q[i : i + 1], k[i : i + 1], v[i : i + 1]) for i in range(len(q))])


@sabotaged("pictures in a loop, without their axis", "tracing.calls-by-image")
class PictureStack(Tiny):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.stack([self.kernel(a, b, c) for a, b, c in zip(q, k, v, strict=True)])


@sabotaged("the whole model once for each picture", "tracing.calls-by-image")
class PictureModel(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super(PictureModel, self).forward(one[None]) for one in x])


def chunks(parts: Matrices) -> np.ndarray:
    return np.concatenate(parts)


@sabotaged("queries in chunks", grouped(5, chunks))
class QueryChunks(Tiny):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.cat([self.kernel(part, k, v) for part in q.split(4, 2)], 2)


@sabotaged("queries in chunks with a softmax of their own", grouped(5, chunks))
class QueryChunksWritten(QueryChunks):
    kernel = staticmethod(lambda q, k, v: (q @ k.mT / WIDTH**0.5).softmax(-1) @ v)


@sabotaged("queries in chunks, written into an empty tensor", "tracing.unsupported-function")
class QueryChunksInto(Tiny):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        for start in range(0, q.shape[2], 4):
            out[:, :, start : start + 4] = self.kernel(q[:, :, start : start + 4], k, v)
        return out


@sabotaged("CLS and patches as queries of two calls", grouped(2, chunks))
class ClsApart(Tiny):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.cat([self.kernel(q[:, :, :1], k, v), self.kernel(q[:, :, 1:], k, v)], 2)


@sabotaged("keys in chunks, joined by their log-sum-exp", "tracing.tokens-lost")
class KeyChunks(Tiny):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = list(zip(k.split(9, 2), v.split(9, 2), strict=True))
        lse = torch.stack([(q @ a.mT / WIDTH**0.5).logsumexp(-1) for a, _ in parts])
        share = lse.softmax(0)
        return sum(self.kernel(q, a, b) * w[..., None] for (a, b), w in zip(parts, share, strict=True))


@sabotaged("keys in chunks with an online softmax", "attention.no-call")
class OnlineSoftmax(Tiny):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        top, total, out = torch.full_like(q[..., :1], -1e9), torch.zeros_like(q[..., :1]), torch.zeros_like(q)
        for a, b in zip(k.split(9, 2), v.split(9, 2), strict=True):
            scores = q @ a.mT / WIDTH**0.5
            new = torch.maximum(top, scores.amax(-1, keepdim=True))
            weights, old = (scores - new).exp(), (top - new).exp()
            total, out, top = total * old + weights.sum(-1, keepdim=True), out * old + weights @ b, new
        return out / total


class Flash(torch.autograd.Function):
    """A kernel with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        matrix = (q @ k.mT / WIDTH**0.5).softmax(-1)
        ctx.save_for_backward(q, k, v, matrix)
        return matrix @ v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, p = ctx.saved_tensors
        dp = grads[0] @ v.mT
        ds = p * (dp - (dp * p).sum(-1, keepdim=True)) / WIDTH**0.5
        return ds @ k, ds.mT @ q, p.mT @ grads[0]


@sabotaged("attention in an autograd.Function", "tracing.autograd-function")
class Function(Tiny):
    kernel = staticmethod(Flash.apply)


@sabotaged("attention of one layer in an autograd.Function", "tracing.autograd-function")
class HalfFunction(Tiny):
    def mixed(self, layer: int, x: Tensor) -> Tensor:
        q, k, v = self.split(layer, x)
        return self.out[layer]((Flash.apply if layer else self.kernel)(q, k, v).transpose(1, 2).flatten(2))


class Silent(torch.autograd.Function):
    """A kernel whose forward pass hides its softmax."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return by_hand(q.detach(), k.detach(), v.detach())[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0], grads[0], grads[0]


@sabotaged("attention of one layer in an autograd.Function without softmax", "tracing.tokens-lost")
class HalfSilent(HalfFunction):
    def mixed(self, layer: int, x: Tensor) -> Tensor:
        q, k, v = self.split(layer, x)
        return self.out[layer]((Silent.apply if layer else self.kernel)(q, k, v).transpose(1, 2).flatten(2))


@sabotaged("blocks under checkpoint", rollout)
class Checkpointed(Tiny):
    def blocks(self, x: Tensor) -> Tensor:
        for layer in range(self.depth):
            x = checkpoint(self.block, layer, x, use_reentrant=False)
        return x


@sabotaged("softmax written as exp over sum", "attention.no-call")
class Written(Tiny):
    kernel = staticmethod(lambda q, k, v: by_hand(q, k, v)[0])


@sabotaged("softmax of one layer written as exp over sum", "tracing.tokens-lost")
class HalfWritten(Tiny):
    def mixed(self, layer: int, x: Tensor) -> Tensor:
        q, k, v = self.split(layer, x)
        return self.out[layer]((by_hand(q, k, v)[0] if layer else self.kernel(q, k, v)).transpose(1, 2).flatten(2))
