"""Slow dense twins of the methods, in float64, written from the papers' formulas with whole matrices.

Each takes what the library's own eager path gives: a list of attention matrices (B, H, N, N), first layer first, and
the readout row (N,). Nothing here imports vitscope.
"""

import torch
from torch import Tensor


def fused(attention: Tensor, fusion: str | int, discard: float = 0.0, prefix: int = 0) -> Tensor:
    """(B, H, N, N) -> (B, N, N): heads fused; then in each row the weakest patches forgotten, one row at a time."""
    if isinstance(fusion, int):
        out = attention[:, fusion]
    else:
        out = {"mean": attention.mean(1), "max": attention.max(1).values, "min": attention.min(1).values}[fusion]
    out = out.clone()
    if fusion in ("max", "min"):
        out = out / out.sum(-1, keepdim=True)
    drop = int(discard * (out.shape[-1] - prefix))
    if drop:
        for b in range(out.shape[0]):
            for i in range(out.shape[1]):
                order = sorted(range(prefix, out.shape[-1]), key=lambda j: out[b, i, j].item())
                out[b, i, order[:drop]] = 0
        out = out / out.sum(-1, keepdim=True)
    return out


def rollout(
    attentions: list[Tensor],
    readout: Tensor,
    layers: list[int] | None = None,
    residual_weight: float = 0.5,
    head_fusion: str | int = "mean",
    discard_ratio: float = 0.0,
    prefix: int = 0,
) -> Tensor:
    """Abnar & Zuidema 2020, equation 1: the whole product, each later layer multiplied on from the left."""
    attentions = [a.double() for a in attentions]
    n = attentions[0].shape[-1]
    product = torch.eye(n, dtype=torch.float64).expand(attentions[0].shape[0], n, n)
    for layer, attention in enumerate(attentions):
        if layers is None or layer in layers:
            mixed = residual_weight * torch.eye(n, dtype=torch.float64) + (1 - residual_weight) * fused(
                attention, head_fusion, discard_ratio, prefix
            )
            product = mixed @ product
    return torch.einsum("n,bnm->bm", readout.double(), product)


def attention(attentions: list[Tensor], readout: Tensor, layer: int = -1, head: str | int = "mean") -> Tensor:
    """The readout row of one layer."""
    return torch.einsum("n,bnm->bm", readout.double(), fused(attentions[layer].double(), head))


def notebook_recipe(attentions: list[Tensor]) -> Tensor:
    """The published notebook, line by line: identity added, rows divided by their sums, multiplied in forward order."""
    result = torch.eye(attentions[0].size(-1), dtype=torch.float64)
    for one in attentions:
        heads_together = one.double().mean(dim=1)
        heads_together = heads_together + torch.eye(heads_together.size(-1), dtype=torch.float64)
        heads_together = heads_together / heads_together.sum(dim=-1, keepdim=True)
        result = torch.matmul(result, heads_together)
    return 1 - result[:, :, 0]
