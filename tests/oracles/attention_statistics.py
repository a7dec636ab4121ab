"""Slow dense twins of the attention statistics, in float64, one number at a time, from the papers' formulas.

Each takes one layer's whole attention `(H, N, M)` of one picture. Nothing here imports vitscope.
"""

import copy
import math

import torch
from torch import Tensor, nn


def row_entropy(row: Tensor) -> float:
    """Shannon 1948, in nats; nothing times its logarithm is nothing."""
    return -sum(p * math.log(p) for p in row.double().tolist() if p > 0)


def entropy(a: Tensor) -> list[float]:
    """For each head the mean entropy of its rows."""
    return [sum(row_entropy(row) for row in head) / len(head) for head in a]


def readout_entropy(a: Tensor, readout: Tensor) -> list[float]:
    return [row_entropy(readout.double() @ head.double()) for head in a]


def distance(a: Tensor, prefix: int, grid: tuple[int, int], size: tuple[float, float]) -> list[float]:
    """Dosovitskiy et al. 2021, figure 7: from each patch to all patches, weighed by attention among patches.

    `size` is the height and width that the grid covers.
    """
    places = [
        ((i + 0.5) * size[0] / grid[0], (j + 0.5) * size[1] / grid[1]) for i in range(grid[0]) for j in range(grid[1])
    ]
    means = []
    for head in a.double():
        far = []
        for query, here in enumerate(places):
            weights = head[prefix + query, prefix:]
            weights = (weights / weights.sum()).tolist()
            far.append(sum(w * math.dist(here, there) for w, there in zip(weights, places, strict=True)))
        means.append(sum(far) / len(far))
    return means


def shares(a: Tensor, names: tuple[str, ...]) -> dict[str, list[float]]:
    """Where the attention of patch queries goes, one weight at a time."""
    kinds = ("cls", "registers", "other prefix", "self", "other patches")
    p, n = len(names), a.shape[-1]
    out = {kind: [0.0] * len(a) for kind in kinds}
    for h, head in enumerate(a.double()):
        for i in range(p, n):
            for j in range(n):
                if j >= p:
                    kind = "self" if i == j else "other patches"
                elif names[j] == "cls":
                    kind = "cls"
                else:
                    kind = "registers" if "register" in names[j] else "other prefix"
                out[kind][h] += float(head[i, j]) / (n - p)
    return out


def received(a: Tensor) -> list[float]:
    """Mean over heads and queries of what each key gets."""
    return [float(a[:, :, j].double().mean()) for j in range(a.shape[-1])]


def sinks(got: list[float], prefix: int) -> list[int]:
    """Tokens above median + 6 MAD of the patches, most first; the lower of two middle values is the median."""

    def middle(values: list[float]) -> float:
        return sorted(values)[(len(values) - 1) // 2]

    median = middle(got[prefix:])
    spread = middle([abs(x - median) for x in got[prefix:]])
    return sorted((j for j, x in enumerate(got) if x > median + 6 * spread), key=lambda j: -got[j])


def agreement(a: Tensor) -> list[float]:
    """For each head the mean over the others and over queries of the cosine between their rows."""
    out = []
    for h in range(len(a)):
        cosines = [
            float(a[h, i].double() @ a[g, i].double() / (a[h, i].double().norm() * a[g, i].double().norm()))
            for g in range(len(a))
            if g != h
            for i in range(a.shape[1])
        ]
        out.append(sum(cosines) / len(cosines))
    return out


def effective_ranks(attentions: list[Tensor]) -> list[float]:
    """Roy & Vetterli 2007 of the whole rollout matrix, up to each layer."""
    n = attentions[0].shape[-1]
    eye = torch.eye(n, dtype=torch.float64)
    product, ranks = eye, []
    for a in attentions:
        product = (eye + a.double().mean(0)) / 2 @ product
        values = torch.linalg.eigvalsh(product.T @ product).clamp_min(0).sqrt()
        ranks.append(math.exp(row_entropy(values / values.sum())))
    return ranks


def without_head(model: nn.Module, projection: str, head: int, heads: int) -> nn.Module:
    """A copy in which the output projection does not read one head: `W[:, head's columns] = 0`, its bias stays."""
    changed = copy.deepcopy(model)
    linear = changed.get_submodule(projection)
    assert isinstance(linear, nn.Linear)
    width = linear.in_features // heads
    with torch.no_grad():
        linear.weight[:, head * width : (head + 1) * width] = 0
    return changed
