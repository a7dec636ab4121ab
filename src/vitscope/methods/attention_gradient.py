"""Attention weighted by the score's gradients: the attention that raises the score."""

from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.attention import (
    AttentionStore,
    Block,
    LayerSpec,
    budget,
    positive_relevance_sums,
    vecmat_positive_relevance,
    vecmat_positive_relevance_normalised,
)
from vitscope.methods.base import method
from vitscope.methods.rollout import from_layer


@method(
    "relevance",
    passes="1 forward, 1 backward",
    source="Chefer, Gur, Wolf 2021 (ICCV), equations 5, 6, 13",
    requires={"gradient"},
)
def relevance(
    store: AttentionStore, *, layers: LayerSpec = None, start_layer: int | None = None
) -> Float[Tensor, "B N"]:
    """Trace the attention that raises the score back through all layers.

    Formula: `R <- R + Ā_l R` from the first layer to the last, starting with `R = I`, where
    `Ā_l = mean_h relu(dy/dA_l * A_l)`; the map is `s R` with s the readout row. Only that row is carried, from the last
    layer to the first: `r <- r + r Ā_l`. In windowed and hierarchical models Ā_l is block-diagonal, and merging and
    pooling stand between the layers: `R <- M R`, M the mean over what they read, as for `rollout`.

    Args:
        store: the attention of one forward, with the score's gradient.
        layers: the layers that count; all by default.
        start_layer: the first layer that counts, instead of `layers`.

    Returns:
        `(B, N)`, not negative, in units of the score; its sum has no meaning. The readout token itself has at least 1.

    Cost: one forward and one backward, then each layer's rows once, chunk by chunk; memory linear in tokens.
    Limits: negative evidence is cut off in each head; values and MLPs count through the gradient alone. The readout row
        itself is part of the map: with mean pooling a floor under every patch, which hides small gradients.
    """
    chosen = store.select(from_layer(layers, start_layer))
    return store.rollout_from_readout(chosen, vecmat_positive_relevance, 1.0, 1.0)


@method(
    "grad-rollout",
    passes="1 forward, 1 backward",
    source="after Gildenblat 2020 and Chefer, Gur, Wolf 2021 (CVPR), equation 13; order of Abnar & Zuidema 2020",
    requires={"gradient"},
)
def grad_rollout(
    store: AttentionStore, *, layers: LayerSpec = None, start_layer: int | None = None
) -> Float[Tensor, "B N"]:
    """Roll out only the attention that raises the score.

    Formula: `m = s Â_L ... Â_1` with `Â_l = rownormalise(I + mean_h relu(dy/dA_l * A_l))`: each row divided by its own
    sum, after the identity is added. In windowed and hierarchical models Â_l stands between the operators of merging
    and pooling, as for `rollout`.

    Args:
        store: the attention of one forward, with the score's gradient.
        layers: the layers that count; all by default.
        start_layer: the first layer that counts, instead of `layers`.

    Returns:
        `(B, N)`, each in [0, 1], summing to one over all tokens, the prefix included.

    Cost: one forward and one backward, then each layer's rows once, chunk by chunk; memory linear in tokens.
    Limits: gradients of attention are small beside the identity, so that most weight stays with the readout token:
        compare the patches alone.
    """
    shares: WeakKeyDictionary[Block, Float[Tensor, "B N"]] = WeakKeyDictionary()  # of the residual, known with its rows

    def residual_share(block: Block) -> Float[Tensor, "B N"]:
        if block not in shares:
            shares[block] = 1 / (1 + positive_relevance_sums(block))
        return shares[block]

    def attend(block: Block, r: Float[Tensor, "B N"]) -> Float[Tensor, "B M"]:
        if block in shares:  # where windows and merging need the residual first
            return vecmat_positive_relevance(block, r * shares[block])
        product, shares[block] = vecmat_positive_relevance_normalised(block, r)
        return product

    return store.rollout_from_readout(store.select(from_layer(layers, start_layer)), attend, residual_share, 1.0)


@method("grad-sam", passes="1 forward, 1 backward", source="Barkan et al. 2021, equation 4", requires={"gradient"})
def grad_sam(store: AttentionStore, *, layers: LayerSpec = None) -> Float[Tensor, "B N"]:
    """Add up the attention to each token that raises the score.

    Formula: `m_j = 1 / (L H N) sum_lhi A_lhij relu(dy/dA_lhij)`, over layers l, heads h and queries i.

    Args:
        store: the attention of one forward, with the score's gradient.
        layers: the layers that count; all by default.

    Where layers do not all see the same tokens, each layer's part is divided among the tokens that its keys come from;
    N counts the queries of all windows, padding included.

    Returns:
        `(B, N)`, not negative, in units of the score; its sum has no meaning.

    Cost: one forward and one backward, then each layer's rows once; memory linear in tokens. Through windows or merging
        also a short pass back through the averaged network for each layer.
    Limits: layers are added, not composed: the map shows what is read at any depth, not what reaches the answer.
    """
    chosen = store.select(layers)

    def received(block: Block) -> Float[Tensor, "b M"]:
        b, _, n, _ = block.shape
        uniform = torch.full((b, n), store.images / (b * n), device=block.device)
        return vecmat_positive_relevance(block, uniform)

    parts = store.received_in_each(chosen, received)
    return torch.stack(parts).sum(0) / len(parts)


@method(
    "attention-gradcam",
    passes="1 forward, 1 backward",
    source="Selvaraju et al. 2017, equations 1, 2, on attention; Chefer, Gur, Wolf 2021 (CVPR), section 4",
    requires={"gradient"},
)
def attention_gradcam(store: AttentionStore, *, layer: int = -1) -> Float[Tensor, "B N"]:
    """Weight one layer's attention heads by their mean gradient and add them up.

    Formula: `m_j = relu(sum_h w_h sum_i s_i A_hij)` with `w_h = mean_j sum_i s_i dy/dA_hij` over all tokens j.

    Args:
        store: the attention of one forward, with the score's gradient.
        layer: from 0, or from the end with negative numbers.

    Where layers do not all see the same tokens, s is carried to that layer along residuals, j counts the keys of all
    its windows, and the result is divided among the tokens that these keys come from.

    Returns:
        `(B, N)`, not negative, in units of the score; its sum has no meaning.

    Cost: one forward and one backward, and one row (with mean pooling: all rows of one layer); memory linear in tokens.
    Limits: one layer only; a head has one weight, of one sign, for all patches.
    """

    def attend(block: Block, r: Float[Tensor, "b N"]) -> Float[Tensor, "b M"]:
        queries = (r != 0).any(0).nonzero().squeeze(1)
        b, h, _, m = block.shape
        attention, slopes = r.new_zeros(b, h, m), r.new_zeros(b, h, m)
        for part in torch.split(queries, block.chunk or max(1, budget(block.device) // (b * h * m))):
            weights = r[:, None, part, None]
            attention = attention + (weights * block.rows(part)).sum(2)
            slopes = slopes + (weights * block.grad_rows(part)).sum(2)
        heads = slopes.mean(-1).reshape(store.images, -1, h).mean(1, keepdim=True)
        per_image = heads.expand(-1, b // store.images, -1).reshape(b, h, 1)
        return (per_image * attention).sum(1).clamp_min(0)

    (number,) = store.select(layer)
    return store.layer_vecmat(number, attend)
