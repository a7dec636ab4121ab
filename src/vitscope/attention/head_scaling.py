"""Scale or silence heads: multiply one attention call's result head by head before the model goes on with it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitscope._messages import msg
from vitscope.attention import CallSite, GraphOutput
from vitscope.attention.capture import capture
from vitscope.errors import MethodError


@contextmanager
def scale_heads(model: nn.Module, call: CallSite, weights: Float[Tensor, "B H"]) -> Iterator[None]:
    """Scale the heads of one attention call during the `with`: 0 silences a head, 1 changes nothing.

    Formula: `O_bh <- w_bh (A_bh V_bh)`, before the heads are put side by side and projected. It works the same under a
    fused kernel, in `nn.MultiheadAttention` and after a softmax of the model's own. Where a model mixes heads after the
    softmax (talking heads), the mixed heads are scaled.

    Args:
        model: the model; it is not changed.
        call: the attention call, from `AttentionStore.call_sites`.
        weights: one row for each row of the forward's batch.

    Raises:
        MethodError: the forward does not make that call, or its result is not one of `H` heads for each image.
    """
    edited = False

    def edit(events: frozenset[int], lead: tuple[int, ...], output: GraphOutput | None) -> None:
        nonlocal edited
        if call.event in events:
            edited = True
            if output is None:
                raise MethodError.coded(
                    "attention.heads-mixed",
                    "this layer mixes its heads as it multiplies with the values, so single heads have no result",
                )
            _scale(output, _expand_weights(weights, lead, call.axis))

    with capture(model, edit=edit):
        yield
    if not edited:
        raise MethodError(
            msg("attention.call-not-made", "this forward does not make attention call {number}", number=call.event)
        )


def _expand_weights(weights: Float[Tensor, "B H"], lead: tuple[int, ...], axis: int) -> Float[Tensor, "b h 1 1"]:
    """Lay the weights on the axes before `(N, D)` as the model has them, folded as blocks fold them."""
    batch, heads = weights.shape
    if lead == (batch * heads,):  # heads folded into the batch
        return weights.reshape(-1, 1, 1, 1)
    first = 1 if axis == 0 else 0
    fits = axis < 0 or lead[axis] == heads
    if not fits or (batch > 1 and (first >= len(lead) or lead[first] != batch)):
        raise MethodError.coded(
            "attention.heads-mismatch",
            "attention over axes {axes} is not that of {heads} heads for each of {images} images",
            axes=lead,
            heads=heads,
            images=batch,
        )
    shape = [1] * len(lead)
    if batch > 1:
        shape[first] = batch
    if axis >= 0:
        shape[axis] = heads
    whole = (weights.T if axis == 0 else weights).reshape(shape).expand(lead)
    return whole.reshape(-1, 1, 1, 1) if len(lead) == 1 else whole.reshape(-1, lead[-1], 1, 1)


def _scale(output: GraphOutput, factor: Float[Tensor, "b h 1 1"]) -> None:
    """Multiply the result in place, wherever the model has its heads."""
    (out,) = output.tensors
    where = output.arrange(torch.arange(out.numel(), device=out.device).reshape(out.shape))
    factors = torch.ones(out.numel(), dtype=out.dtype, device=out.device)
    factors[where] = factor.to(factors).expand(where.shape)
    out.mul_(factors.reshape(out.shape))
