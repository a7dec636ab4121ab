"""Heads switched off: the result of one attention call weighed head by head, before the model goes on with it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitscope.attention import CallSite, GraphOutput
from vitscope.attention.capture import capture
from vitscope.errors import MethodError

__all__ = ["scale_heads"]


@contextmanager
def scale_heads(model: nn.Module, call: CallSite, weights: Float[Tensor, "B H"]) -> Iterator[None]:
    """The heads of one attention call count by these weights for the length of a `with`: 0 silences, 1 changes nothing.

    Formula: `O_bh <- w_bh (A_bh V_bh)`, before the heads are put side by side and projected. Under a fused kernel, in
    `nn.MultiheadAttention` and after a softmax of the model's own alike. Where a model mixes heads after the softmax
    (talking heads), it is the mixed head that is weighed.

    Args:
        model: the model; nothing of it is changed.
        call: which of the forward's attention calls, as `AttentionStore.calls` has it.
        weights: one row for each row of the forward's batch.

    Raises:
        MethodError: the forward does not make that call, or its result is not that of a head for each picture.
    """
    met: list[int] = []

    def edit(events: frozenset[int], lead: tuple[int, ...], source: GraphOutput | None) -> None:
        if call.event in events:
            met.append(call.event)
            if source is None:
                raise MethodError("an attention call mixes its heads with the values: they cannot be silenced apart")
            _weigh(source, _placed(weights, lead, call.axis))

    with torch.no_grad(), capture(model, edit=edit):
        yield
    if not met:
        raise MethodError("the attention call whose heads are silenced was not made in this forward")


def _placed(weights: Float[Tensor, "B H"], lead: tuple[int, ...], axis: int) -> Float[Tensor, "b h 1 1"]:
    """The weights on the axes before `(N, D)` as the model has them, folded as blocks fold them."""
    batch, heads = weights.shape
    if lead == (batch * heads,):  # heads folded into the batch
        return weights.reshape(-1, 1, 1, 1)
    first = 1 if axis == 0 else 0
    fits = axis < 0 or lead[axis] == heads
    if not fits or (batch > 1 and (first >= len(lead) or lead[first] != batch)):
        raise MethodError(f"attention over axes {lead} is not that of {heads} heads for each of {batch} pictures")
    shape = [1] * len(lead)
    if batch > 1:
        shape[first] = batch
    if axis >= 0:
        shape[axis] = heads
    whole = (weights.T if axis == 0 else weights).reshape(shape).expand(lead)
    return whole.reshape(-1, 1, 1, 1) if len(lead) == 1 else whole.reshape(-1, lead[-1], 1, 1)


def _weigh(source: GraphOutput, factor: Float[Tensor, "b h 1 1"]) -> None:
    """Multiply the result in place, wherever the model has its heads."""
    out = source.out
    where = source.place(torch.arange(out.numel(), device=out.device).reshape(out.shape))
    factors = torch.ones(out.numel(), dtype=out.dtype, device=out.device)
    factors[where] = factor.to(factors).expand(where.shape)
    out.mul_(factors.reshape(out.shape))
