"""Sabotaged models, part 8: softmaxes over other axes than the last, heads mixed by an einsum, causal kernels."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.sabotaged import HEADS, WIDTH, D, Matrices, Tiny, back, rollout, sabotaged
from tests.models.sabotaged_attention import Formula


@sabotaged("keys before queries: a softmax over the last axis but one", rollout)
class KeysFirst(Formula):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        matrix = (k @ q.mT / WIDTH**0.5).softmax(-2)
        if self.seen is not None:
            self.seen.append(matrix.mT)
        return (v.mT @ matrix).mT


@sabotaged("heads after the keys, in einsums", rollout)
class HeadsLast(Formula):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        matrix = (torch.einsum("bqhd,bkhd->bqkh", q, k) / WIDTH**0.5).softmax(2)
        if self.seen is not None:
            self.seen.append(matrix.permute(0, 3, 1, 2))
        return torch.einsum("bqkh,bkhd->bhqd", matrix, v)


@sabotaged("heads mixed by einsums before and after the softmax", rollout)
class MixedByEinsum(Formula):
    """Averages over heads are those of the softmaxes, as for heads that a linear layer mixes."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = (nn.Parameter(torch.randn(HEADS, HEADS)) for _ in range(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        matrix = torch.einsum("bhij,hg->bgij", q @ k.mT / WIDTH**0.5, self.before).softmax(-1)
        if self.seen is not None:
            self.seen.append(matrix)
        return torch.einsum("bhij,hg->bgij", matrix, self.after) @ v


@sabotaged("causal attention by the kernel", rollout, pool="mean")
class CausalKernel(Formula):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.seen is None:
            return functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        scores = (q @ k.mT / WIDTH**0.5).masked_fill(torch.ones(17, 17).triu(1) > 0, float("-inf"))
        self.seen.append(scores.softmax(-1))
        return self.seen[-1] @ v


@sabotaged("weights summed over the queries by an einsum", "attention.no-call")
class OverQueries(Formula):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.einsum("bhij,bhid->bhjd", self.matrix(q, k), v)


def _pooled(model: Any, matrices: Matrices) -> np.ndarray:
    return back(matrices[-1][0], matrices[:-1]).reshape(4, 4)


@sabotaged("tokens pooled by a softmax over them, as in compact transformers", _pooled)
class SequencePooling(Formula):
    prefix = 0

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Linear(D, 1)
        nn.init.normal_(self.weigh.weight)

    def read(self, x: Tensor) -> Tensor:
        weights = self.weigh(self.norm(x)).softmax(1).mT
        if self.seen is not None:
            self.seen.append(weights)
        return (weights @ x).squeeze(1)


@sabotaged("tokens pooled by a softmax over them in an einsum, as in vit-pytorch's CCT", _pooled)
class EinsumPooling(SequencePooling):
    def read(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        weights = self.weigh(x)[..., 0].softmax(dim=1)
        if self.seen is not None:
            self.seen.append(weights[:, None])
        return torch.einsum("bn,bnd->bd", weights, x)


class Gated(Formula):
    """A gate's softmax over experts, which is no attention."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(D, 4), nn.Parameter(torch.randn(4, D, D) / 4)

    def block(self, layer: int, x: Tensor) -> Tensor:
        return self.mix(super().block(layer, x))


@sabotaged("experts mixed for each token by an einsum of a gate's softmax", "tracing.tokens-lost")
class Experts(Gated):
    def mix(self, x: Tensor) -> Tensor:
        made = torch.stack([x @ expert for expert in self.experts], 2)
        return x + torch.einsum("bne,bned->bnd", self.gate(x).softmax(-1), made)


@sabotaged("experts mixed for all tokens in one row by an einsum of a gate's softmax", rollout)
class ExpertsInOneRow(Gated):
    def mix(self, x: Tensor) -> Tensor:
        row = x.flatten(0, 1)
        made = torch.stack([row @ expert for expert in self.experts], 1)
        return x + torch.einsum("ne,ned->nd", self.gate(row).softmax(-1), made).view_as(x)


@sabotaged("class probabilities times the classes' vectors", rollout)
class ClassVectors(Formula):
    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(5, 7))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(-1) @ self.vectors


@sabotaged("residuals by lerp between vectors of unit length, as in nGPT", rollout)
class Spheres(Tiny):
    """The residual counts as one half, whatever number weighs it, as in any other model."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.full((D,), 0.3))

    def block(self, layer: int, x: Tensor) -> Tensor:
        for change in (self.mixed(layer, x), self.mlp[layer](x)):
            x = functional.normalize(x.lerp(functional.normalize(change, dim=-1), self.step), dim=-1)
        return x
