"""The effective rank of rollout, depth by depth: how far it still distinguishes tokens."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope._messages import msg
from vitscope.attention import AttentionStore, query_chunks
from vitscope.errors import MethodError

MAX_TOKENS = 640
_RESIDUAL_WEIGHT = 0.5


def effective_rank(values: Float[Tensor, " k"]) -> float:
    """Return the exponential of the entropy of singular values, scaled to sum to one.

    Formula: `exp(-sum_i p_i log p_i)`, `p_i = s_i / sum_j s_j`; in [1, k]: k equal values give k.

    Source: Roy & Vetterli 2007, definition 1.
    """
    share = values.double() / values.double().sum()
    return float(torch.special.entr(share).sum().exp())


def effective_ranks(store: AttentionStore) -> list[float]:
    """Return the effective rank of `Â_l ... Â_1` for each layer l, `Â = (I + mean_h A_h) / 2` as in rollout.

    Args:
        store: one image's attention, in layers that all have the same tokens.

    Returns:
        One number for each layer, in [1, N]; float64.

    Raises:
        MethodError: more than 640 tokens. All singular values need the whole N x N product; random projections to
            fewer directions are wrong by a factor of two where the rank is low.

    Cost: all rows once, and the singular values of an N x N matrix a layer.

    Source: Abnar & Zuidema 2020, equation 1; Roy & Vetterli 2007.
    """
    tokens = store[0].shape[2]
    if tokens > MAX_TOKENS:
        problem = msg(
            "metrics.too-many-tokens",
            "the effective rank needs whole matrices: {tokens} tokens are more than {limit}",
            tokens=tokens,
            limit=MAX_TOKENS,
        )
        raise MethodError(problem, msg("metrics.too-many-tokens.hint", "use a smaller input: {@size}"))
    product = torch.eye(tokens, dtype=torch.float64, device="cpu")
    ranks = []
    for block in store:
        mixed = [block.rows(queries).mean(1)[0].cpu().double() @ product for queries in query_chunks(block)]
        product = _RESIDUAL_WEIGHT * product + (1 - _RESIDUAL_WEIGHT) * torch.cat(mixed)
        ranks.append(effective_rank(torch.linalg.svdvals(product)))
    return ranks
