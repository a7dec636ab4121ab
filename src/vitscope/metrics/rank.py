"""How much rollout can still tell tokens apart: its effective rank, depth by depth."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.store import AttentionStore, walk

__all__ = ["PROBES", "effective_rank", "effective_ranks"]

PROBES = 640
_ALPHA = 0.5


def effective_rank(values: Float[Tensor, " k"]) -> float:
    """The exponential of the entropy of singular values that were made to sum to one.

    Formula: `exp(-sum_i p_i log p_i)`, `p_i = s_i / sum_j s_j`; in [1, k]: k equal values give k.

    Source: Roy & Vetterli 2007, definition 1.
    """
    share = values.double() / values.double().sum()
    return float(torch.special.entr(share).sum().exp())


def effective_ranks(store: AttentionStore, seed: int = 0, probes: int = PROBES) -> tuple[list[float], int]:
    """The effective rank of `Â_l ... Â_1` for each layer l, `Â = (I + mean_h A_h) / 2` as in rollout.

    The product itself is never made: it is applied to random orthonormal directions, `Y_l = Â_l Y_{l-1}`, and the
    singular values are those of `Y_l (N, k)`. With as many directions as tokens they are those of the product, exactly;
    with fewer the number is an estimate from below: it cannot exceed k.

    Args:
        store: one picture's attention, in layers that all see the same tokens.
        seed: of the directions; without influence where they are as many as the tokens.
        probes: k, at most; fewer where there are fewer tokens.

    Returns:
        The rank for each layer, in [1, k]; and k.

    Cost: all rows once, N k numbers, and the singular values of an `(N, k)` matrix a layer.

    Source: Abnar & Zuidema 2020, equation 1; Roy & Vetterli 2007; directions as in Halko, Martinsson & Tropp 2011.
    """
    tokens = store[0].shape[2]
    k = min(tokens, probes)
    drawn = torch.randn(tokens, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    y = torch.linalg.qr(drawn).Q
    ranks = []
    for block in store:
        mixed = torch.cat([block.rows(queries).mean(1)[0].cpu().double() @ y for queries in walk(block)])
        y = _ALPHA * y + (1 - _ALPHA) * mixed
        ranks.append(effective_rank(torch.linalg.svdvals(y)))
    return ranks, k
