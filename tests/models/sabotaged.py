"""Tiny Vision Transformers with one twist each, and what vitscope must say of each: the true map, or a refusal.

The true map comes from a twin: the same model in float64, whose attention is a plain formula that keeps its matrices,
and a product of these matrices that was written down by hand for each twist.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "HEADS",
    "SABOTAGED",
    "WIDTH",
    "D",
    "Sabotaged",
    "Tiny",
    "back",
    "by_hand",
    "from_cls",
    "grid",
    "rollout",
    "sabotaged",
    "wanted",
]

D, HEADS, WIDTH = 16, 2, 8
Matrices = list[np.ndarray]
Oracle = Callable[[Any, Matrices], np.ndarray]


@dataclass(frozen=True)
class Sabotaged:
    """One model.

    Attributes:
        twist: what is unusual, in words.
        make: the model.
        truth: from the model and its matrices (mean over heads, one for each call) to the map `(gh, gw)`; or the code
            with which it is refused.
        layers: how many layers the model has; None where their number is not checked.
        heads: whether all heads are made by one call, or found to be in a loop.
        note: the code of what the notes must say, as the map leaves something out.
    """

    twist: str
    make: Callable[[], nn.Module]
    truth: Oracle | str
    layers: int | None = 2
    note: str = ""
    heads: bool = True

    def model(self) -> Any:
        torch.manual_seed(sum(map(ord, self.twist)))
        model: Any = self.make().eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "qkv" in name or "in_proj" in name:
                    parameter.mul_(4)
        return model


SABOTAGED: list[Sabotaged] = []


def sabotaged(
    twist: str, truth: Oracle | str, *, layers: int | None = 2, note: str = "", heads: bool = True, **options: Any
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Register a class of models."""

    def add(kind: type[nn.Module]) -> type[nn.Module]:
        SABOTAGED.append(Sabotaged(twist, lambda: kind(**options), truth, layers, note, heads))
        return kind

    return add


class Tiny(nn.Module):
    """A plain Vision Transformer in parts, each of which a twist may change."""

    size, patch, depth, prefix = (32, 32), 8, 2, 1

    def __init__(self, pool: str = "cls", depth: int = 2) -> None:
        super().__init__()
        self.pool, self.depth = pool, depth
        self.stem = nn.Conv2d(3, D, self.patch, self.patch)
        self.cls_token = nn.Parameter(torch.randn(1, self.prefix, D)) if self.prefix else None
        self.norms = nn.ModuleList(nn.LayerNorm(D) for _ in range(depth))
        self.qkv = nn.ModuleList(nn.Linear(D, 3 * D) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(D, D) for _ in range(depth))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(D), nn.Linear(D, D), nn.GELU(), nn.Linear(D, D)) for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, 5)
        self.places = nn.Parameter(torch.randn(1, self.size[0] * self.size[1] // self.patch**2, D) / 2)

    kernel: Any = staticmethod(functional.scaled_dot_product_attention)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(self.blocks(self.tokens(self.embed(x)))))

    def embed(self, x: Tensor) -> Tensor:
        return self.stem(x).flatten(2).mT + self.places

    def tokens(self, x: Tensor) -> Tensor:
        return x if self.cls_token is None else torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)

    def blocks(self, x: Tensor) -> Tensor:
        for layer in range(self.depth):
            x = self.block(layer, x)
        return x

    def block(self, layer: int, x: Tensor) -> Tensor:
        x = x + self.mixed(layer, self.norms[layer](x))
        return x + self.mlp[layer](x)

    def split(self, layer: int, x: Tensor) -> Any:
        return (part.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for part in self.qkv[layer](x).chunk(3, -1))

    def mixed(self, layer: int, x: Tensor) -> Tensor:
        return self.out[layer](self.attend(*self.split(layer, x)).transpose(1, 2).flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.kernel(q, k, v)

    def read(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return x[:, 0] if self.pool == "cls" else x[:, self.prefix :].mean(1)


def by_hand(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Return attention's result and its matrix by the plain formula."""
    scores = torch.einsum("...id,...jd->...ij", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    weights = torch.exp(scores if attn_mask is None else scores + attn_mask)
    matrix = weights / weights.sum(-1, keepdim=True)
    return torch.einsum("...ij,...jd->...id", matrix, v), matrix


def matrices_of(model: Any, pixels: Tensor) -> list[Tensor]:
    """Return the matrices of each attention call of the model in float64, in order."""
    twin, seen = copy.deepcopy(model).double(), []

    def kernel(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        out, matrix = by_hand(q, k, v, **options)
        seen.append(matrix)
        return out

    if hasattr(twin, "twin"):
        twin.twin(seen)
    for part in twin.modules():
        if isinstance(part, Tiny):
            part.kernel = kernel
    with torch.no_grad():
        twin(pixels.double())
    return seen


def wanted(case: Sabotaged, model: Any, pixels: Tensor) -> np.ndarray:
    """Return the true rollout of one image."""
    assert callable(case.truth)
    seen = [m.mean(1).squeeze(0).numpy() if m.ndim == 4 else m.squeeze(0).numpy() for m in matrices_of(model, pixels)]
    return np.asarray(case.truth(model, seen))


def back(row: np.ndarray, matrices: Matrices) -> np.ndarray:
    """Take a row of weights back through layers with residuals, the last one first."""
    for matrix in reversed(matrices):
        row = 0.5 * row + 0.5 * row @ matrix
    return row


def from_cls(matrices: Matrices, cls: int = 0) -> np.ndarray:
    return back(np.eye(matrices[-1].shape[0])[cls], matrices)


def grid(row: np.ndarray) -> np.ndarray:
    """Return the patches of a row whose first token is CLS."""
    return row[1:].reshape(4, 4)


def rollout(model: Any, matrices: Matrices) -> np.ndarray:
    """Plain rollout from CLS, or from the mean of the patches."""
    n, prefix = matrices[-1].shape[0], model.prefix
    row = np.eye(n)[0] if model.pool == "cls" else np.r_[np.zeros(prefix), np.full(n - prefix, 1 / (n - prefix))]
    side = round((n - prefix) ** 0.5)
    return back(row, matrices)[prefix:].reshape(side, side)
