"""How much rollout can still tell tokens apart: its effective rank, depth by depth."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.attention import AttentionStore, query_chunks
from vitscope.errors import MethodError

__all__ = ["MAX_TOKENS", "effective_rank", "effective_ranks"]

MAX_TOKENS = 640
_ALPHA = 0.5


def effective_rank(values: Float[Tensor, " k"]) -> float:
    """The exponential of the entropy of singular values that were made to sum to one.

    Formula: `exp(-sum_i p_i log p_i)`, `p_i = s_i / sum_j s_j`; in [1, k]: k equal values give k.

    Source: Roy & Vetterli 2007, definition 1.
    """
    share = values.double() / values.double().sum()
    return float(torch.special.entr(share).sum().exp())


def effective_ranks(store: AttentionStore) -> list[float]:
    """The effective rank of `Â_l ... Â_1` for each layer l, `Â = (I + mean_h A_h) / 2` as in rollout.

    Args:
        store: one picture's attention, in layers that all see the same tokens.

    Returns:
        One number for each layer, in [1, N]; float64.

    Raises:
        MethodError: more than 640 tokens. All singular values need the whole N x N product; random projections to
            fewer directions were tried, and were wrong by a factor of two where the rank is low.

    Cost: all rows once, and the singular values of an N x N matrix a layer.

    Source: Abnar & Zuidema 2020, equation 1; Roy & Vetterli 2007.
    """
    tokens = store[0].shape[2]
    if tokens > MAX_TOKENS:
        raise MethodError(
            f"the effective rank needs whole matrices: {tokens} tokens are more than {MAX_TOKENS}",
            "ask for a smaller input with size=",
        )
    product = torch.eye(tokens, dtype=torch.float64)
    ranks = []
    for block in store:
        mixed = [block.rows(queries).mean(1)[0].cpu().double() @ product for queries in query_chunks(block)]
        product = _ALPHA * product + (1 - _ALPHA) * torch.cat(mixed)
        ranks.append(effective_rank(torch.linalg.svdvals(product)))
    return ranks
