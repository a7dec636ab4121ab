"""LeGrad: the sensitivity of each layer's own prediction to its attention."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.attention import LayerSpec, budget
from vitscope.methods.base import method
from vitscope.methods.context import MethodContext


@method(
    "legrad",
    passes="1 forward, 1 short backward for each layer",
    source="Bousselham et al. 2024, equations 5 to 8",
    requires={"gradient", "hidden-states"},
)
def legrad(
    context: MethodContext, *, layers: LayerSpec = None, readout: Literal["mean", "own"] = "mean"
) -> Float[Tensor, "B N"]:
    """Show which tokens' attention each layer's own prediction is sensitive to.

    Formula: `m_j = 1/L sum_l 1/(H N) sum_hi relu(ds_l / dA_lhij)`, where s_l is the target's score when the model's own
    norm and head read the tokens after block l.

    Args:
        context: the images, the model and the target.
        layers: the layers that count; all by default.
        readout: what the head reads of layer l: the `mean` of all tokens (the paper's choice) or the model's `own`.

    Returns:
        `(B, N)`, not negative, in units of the score; its sum has no meaning. Attention itself is not multiplied in.

    Cost: one forward; for each layer the head, a backward through half a block, and that layer's `dy/dA` once, chunk by
        chunk; memory linear in tokens.
    Limits: the head was never trained to read early layers; all queries count equally, also those that nothing reads.
    """
    store, states = context.store, context.hidden_states
    chosen = store.select(layers)
    images = torch.arange(len(context.pixels), device=context.pixels.device)
    total = torch.zeros(len(context.pixels), context.layout.tokens, device=context.pixels.device)
    for layer in chosen:
        tokens = states.at(layer + 1)
        read = tokens.mean(1, keepdim=True).expand_as(tokens) if readout == "mean" else tokens
        with context.blocks.skip(read):
            score = context.scores(context.pixels, images)
        source, block = store.outputs[layer], store[layer]
        # no two layers share a part of the graph: each part can be freed at once
        grads = torch.autograd.grad(
            score.sum(),
            source.tensors,
            retain_graph=not context.last_target,
            allow_unused=True,
            materialize_grads=True,
        )
        assert block.v is not None  # type: ignore[attr-defined]
        total = total + _received(source.arrange(*grads), block.v)  # type: ignore[attr-defined]
    return total / len(chosen)


def _received(grad: Float[Tensor, "B H N E"], v: Float[Tensor, "B H M E"]) -> Float[Tensor, "B M"]:
    """Return `mean_hi relu(grad_i . v_j)`, by chunks of queries."""
    b, h, n, _ = grad.shape
    kind = torch.promote_types(grad.dtype, torch.float32)
    keys, m = v.to(kind).transpose(-1, -2), v.shape[2]
    total = keys.new_zeros(b, m)
    with torch.no_grad():
        for part in torch.split(grad, max(1, budget(grad.device) // (b * h * m)), 2):
            total += torch.matmul(part.to(kind), keys).clamp_(min=0).sum((1, 2))
    return total / (h * n)
