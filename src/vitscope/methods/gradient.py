"""Attention weighed by gradients: where attention went that mattered to the score."""

from jaxtyping import Float
from torch import Tensor

from vitscope.errors import UsageError
from vitscope.registry import method
from vitscope.store import AttentionStore, Block, LayerSpec, pull, pull_raising, raising

__all__ = ["attention_gradcam", "grad_rollout", "grad_sam", "relevance"]


def _layers(layers: LayerSpec, start: int | None) -> LayerSpec:
    if start is None:
        return layers
    if layers is not None:
        raise UsageError("layers and start both say where to begin", "give one of them")
    return f"{start}--1"


@method(
    "relevance",
    passes="1 forward, 1 backward",
    source="Chefer, Gur, Wolf 2021 (ICCV), equations 5, 6, 13",
    needs_gradient=True,
    uses_target=True,
)
def relevance(store: AttentionStore, *, layers: LayerSpec = None, start: int | None = None) -> Float[Tensor, "B N"]:
    """Attention that raises the score, accumulated through the layers.

    Formula: `R <- R + Ā_l R` from the first layer to the last, starting with `R = I`, where
    `Ā_l = mean_h relu(dy/dA_l * A_l)`; the map is `s R` with s the readout row. Only that row is carried, from the last
    layer to the first: `r <- r + r Ā_l`.

    Args:
        store: a store that was differentiated.
        layers: which layers take part; all by default.
        start: the first layer that takes part, instead of `layers`.

    Returns:
        `(B, N)`, not negative, in units of the score; its sum says nothing. The readout token itself holds at least 1.

    Cost: one forward and one backward, then each layer's rows once, chunk by chunk; memory linear in tokens.
    Limits: negative evidence is cut off in each head; values and MLPs count through the gradient alone.
    """
    chosen = store.select(_layers(layers, start))
    return store.carry(chosen, pull_raising, 1.0, 1.0)


@method(
    "grad-rollout",
    passes="1 forward, 1 backward",
    source="after Gildenblat 2020 and Chefer, Gur, Wolf 2021 (CVPR), equation 13; order of Abnar & Zuidema 2020",
    needs_gradient=True,
    uses_target=True,
    whole=True,
)
def grad_rollout(store: AttentionStore, *, layers: LayerSpec = None, start: int | None = None) -> Float[Tensor, "B N"]:
    """Rollout of the attention that raises the score.

    Formula: `m = s Â_L ... Â_1` with `Â_l = rownormalise(I + mean_h relu(dy/dA_l * A_l))`: each row divided by its own
    sum, after the identity is added.

    Args:
        store: a store that was differentiated.
        layers: which layers take part; all by default.
        start: the first layer that takes part, instead of `layers`.

    Returns:
        `(B, N)`, each in [0, 1], summing to one over all tokens, the prefix included.

    Cost: one forward and one backward, then each layer's rows once, chunk by chunk; memory linear in tokens.
    Limits: gradients of attention are small beside the identity, so that most weight stays with the readout token: look
        at the patches alone.
    """

    def attend(block: Block, r: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        def weigh(rows: Float[Tensor, "B H n M"], grads: Float[Tensor, "B H n M"]) -> Float[Tensor, "B n M"]:
            positive = raising(rows, grads)
            return positive / (1 + positive.sum(-1, keepdim=True))

        pulled = pull(block, r, weigh=weigh)
        # what a row does not hand on it keeps: 1 / (1 + sum) of its weight
        kept = r * (1 - _row_sums(block, weigh))
        return kept + pulled

    return store.carry(store.select(_layers(layers, start)), attend, 0.0, 1.0)


def _row_sums(block: Block, weigh: object) -> Float[Tensor, "B N"]:
    import torch

    b, h, n, m = block.shape
    step = block.chunk or max(1, 2**20 // (b * h * m))
    parts = []
    for begin in range(0, n, step):
        sel = slice(begin, min(begin + step, n))
        parts.append(weigh(block.rows(sel), block.grad_rows(sel)).sum(-1))  # type: ignore[operator]
    return torch.cat(parts, 1)


@method(
    "grad-sam",
    passes="1 forward, 1 backward",
    source="Barkan et al. 2021, equation 4",
    needs_gradient=True,
    uses_target=True,
    whole=True,
)
def grad_sam(store: AttentionStore, *, layers: LayerSpec = None) -> Float[Tensor, "B N"]:
    """How much attention each token receives that raises the score, over all layers, heads and queries.

    Formula: `m_j = 1 / (L H N) sum_lhi A_lhij relu(dy/dA_lhij)`.

    Args:
        store: a store that was differentiated.
        layers: which layers take part; all by default.

    Returns:
        `(B, N)`, not negative, in units of the score.

    Cost: one forward and one backward, then each layer's rows once; memory linear in tokens.
    Limits: layers are added, not composed: it tells where tokens are read, at any depth, not what reaches the answer.
    """
    chosen = store.select(layers)
    first = store[chosen[0]]
    r = store.seed().new_full((first.shape[0], first.shape[2]), 1 / first.shape[2])
    parts = [pull_raising(store[layer], r) for layer in chosen]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total / len(parts)


@method(
    "attention-gradcam",
    passes="1 forward, 1 backward",
    source="Selvaraju et al. 2017, equations 1, 2, on attention; Chefer, Gur, Wolf 2021 (CVPR), section 4",
    needs_gradient=True,
    uses_target=True,
    whole=True,
)
def attention_gradcam(store: AttentionStore, *, layer: int = -1) -> Float[Tensor, "B N"]:
    """One layer's attention from the readout row, each head weighed by its mean gradient.

    Formula: `m_j = relu(sum_h w_h sum_i s_i A_hij)` with `w_h = mean_j sum_i s_i dy/dA_hij` over all tokens j.

    Args:
        store: a store that was differentiated.
        layer: from 0, or from the end with negative numbers.

    Returns:
        `(B, N)`, not negative, in units of the score.

    Cost: one forward and one backward, and one row (with mean pooling: all rows of one layer).
    Limits: of the last layer only; a head's sign is one number for all patches.
    """
    block, r = store[layer], store.seed()
    chosen = (r != 0).any(0).nonzero().squeeze(1)
    weights = r[:, None, chosen, None]
    attention = (weights * block.rows(chosen)).sum(2)
    heads = (weights * block.grad_rows(chosen)).sum(2).mean(-1, keepdim=True)
    return (heads * attention).sum(1).clamp_min(0)
