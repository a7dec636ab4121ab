"""A forward as a chain of operators on tokens: what windows, merging and pooling do is the model's own code."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitscope.capturing import Seen
from vitscope.errors import LayoutError
from vitscope.store import Block, Chain, Dense, Factored, Source
from vitscope.tracing.shadow import Plan
from vitscope.tracing.trace import NO_HEADS, Run, Trace, averaged, prefix_tokens

__all__ = ["OperatorChain", "blocks_of", "chain_of", "sources_of"]


@dataclass(frozen=True, eq=False)
class OperatorChain:
    """The averaged network of one forward, ready to be gone through backwards any number of times.

    `pull` starts from what the answer is read from and goes back, operator by operator, to the finest tokens: through
    windows, merging and pooling as the model's own code has them, and through each layer's residual as it is told.
    """

    trace: Trace
    plan: Plan
    out: Tensor
    parts: list[tuple[Tensor, int]]
    leaves: tuple[Tensor, ...]
    blocks: tuple[Block, ...]
    seen: dict[int, Seen]

    def pull(
        self, layers: Sequence[int], attend: Callable[[Block, Tensor], Tensor], keep: float, mix: float
    ) -> Float[Tensor, "B N"]:
        """Weights of the finest tokens, prefix first: `r <- keep r + mix attend(block, r)` at each of `layers`."""
        numbers = {event: i for i, event in enumerate(self.trace.layers)}

        def through(event: int, r: Tensor) -> Tensor:
            lead, axis = self.seen[event].lead, self.trace.heads[event]
            if event in numbers and event not in self.plan.active:  # its residual hands everything to the other end
                return r.new_zeros(*r.shape[:-1], self.seen[event].block.shape[3])
            block = self.blocks[numbers[event]] if event in numbers else _reheaded(self.seen[event], axis)
            heads = block.shape[1]
            apart = (*lead, 1) if axis == NO_HEADS else lead
            flat = r.reshape(*apart, r.shape[-1]).movedim(len(apart) - 1 if axis == NO_HEADS else axis, -2)
            weights = flat.reshape(-1, heads, r.shape[-1]).sum(1)
            pulled = attend(block, weights).to(r.dtype) / heads
            spread = pulled[:, None].expand(-1, heads, -1).reshape(*flat.shape[:-1], pulled.shape[-1])
            return spread.movedim(-2, len(apart) - 1 if axis == NO_HEADS else axis).reshape(
                *r.shape[:-1], pulled.shape[-1]
            )

        self.plan.keep, self.plan.mix, self.plan.attend = keep, mix, through
        self.plan.active = frozenset(self.trace.layers[layer] for layer in layers)
        with torch.inference_mode(False), torch.enable_grad():
            tensors = [*(values for values, _ in self.parts), *self.leaves]
            grads = torch.autograd.grad(self.out.sum(), tensors, retain_graph=True, allow_unused=True)
        batch, count = len(self.out), len(self.parts)
        patches = self.trace.finest.laid(grads[:count], self.parts, batch)
        prefix = [prefix_tokens(g, leaf, batch) for g, leaf in zip(grads[count:], self.leaves, strict=True)]
        return torch.cat([*prefix, patches], 1)

    def with_blocks(self, blocks: tuple[Block, ...]) -> Chain:
        """The same chain with other blocks."""
        return replace(self, blocks=blocks)


@torch.inference_mode(False)
@torch.enable_grad()
def chain_of(
    run: Run, model: nn.Module, size: tuple[int, int, int], found: Trace, seen: dict[int, Seen]
) -> OperatorChain:
    """The chain of one forward of `(B, Hi, Wi)` pixels, whose attention is `seen`."""
    batch, height, width = size
    plan = Plan()
    pixels = torch.zeros(batch, 3, height, width, device=next(model.parameters()).device)
    network, start, out = averaged(run, model, pixels, plan, seen, channels=found.channels)
    if len(network.merges) <= max(found.finest.merges, default=0) or len(network.leaves) != len(found.leaves):
        raise LayoutError("the model did something else with this batch than with the picture it was understood by")
    parts = found.finest.values(network.merges, start)
    leaves = tuple(leaf for (_, leaf), count in zip(network.leaves, found.leaves, strict=True) if count)
    blocks = tuple(_reheaded(seen[event], found.heads[event]) for event in found.layers)
    return OperatorChain(found, plan, out, parts, leaves, blocks, seen)


def blocks_of(found: Trace, seen: dict[int, Seen]) -> tuple[tuple[Block, ...], Block | None]:
    """The layers' blocks with prefix tokens first, and the pooling block, of a model whose layers see all tokens."""
    pool = None if found.pool is None else seen[found.pool].block
    return tuple(_reordered(seen[event].block, found.reorder) for event in found.layers), pool


def sources_of(found: Trace, seen: dict[int, Seen]) -> tuple[Source, ...]:
    """Where the layers' results stand in the graph, in the shape that their blocks have."""

    def of(one: Seen, axis: int) -> Source | None:
        if one.source is None:
            return None
        first = one.source.place
        return Source(one.source.out, lambda x: _in_order(_heads_second(first(x), one.lead, axis), found.reorder))

    sources = [of(seen[event], found.heads[event]) for event in found.layers]
    return tuple(source for source in sources if source is not None) if None not in sources else ()


def _heads_second(x: Tensor, lead: tuple[int, ...], axis: int) -> Tensor:
    """`(B', H', ...)` with the leading axes as they were seen, to the heads' axis second."""
    if axis == NO_HEADS:
        return x.reshape(-1, 1, *x.shape[2:])
    if len(lead) < 2 or axis == len(lead) - 1:
        return x
    return x.reshape(*lead, *x.shape[2:]).movedim(axis, len(lead) - 1).reshape(-1, lead[axis], *x.shape[2:])


def _in_order(x: Tensor, order: Tensor | None) -> Tensor:
    return x if order is None else x[:, :, order]


def _reheaded(seen: Seen, axis: int) -> Block:
    """The block with the heads' axis second, whatever the order of the leading axes was."""
    block, lead = seen.block, seen.lead
    if axis == len(lead) - 1 or block.shape[1] == len(lead) == 1:
        return block

    def moved(x: Tensor) -> Tensor:
        return _heads_second(x, lead, axis)

    v = None if block.v is None else moved(block.v)
    if isinstance(block, Dense):
        return replace(block, probs=moved(block.probs), v=v)
    bias = block.bias
    if bias is not None and bias.shape[0] != 1:
        bias = moved(bias.expand(bias.shape[0], block.shape[1], *bias.shape[2:]))
    lse = None if block.lse is None else moved(block.lse)
    return replace(block, q=moved(block.q), k=moved(block.k), bias=bias, lse=lse, v=v)


def _reordered(block: Factored | Dense, order: Tensor | None) -> Block:
    if order is None:
        return block
    v = None if block.v is None else block.v[:, :, order]
    if isinstance(block, Dense):
        return replace(block, probs=block.probs[:, :, order][..., order], v=v)
    bias = block.bias
    if bias is not None:
        bias = bias if bias.shape[2] == 1 else bias[:, :, order]
        bias = bias if bias.shape[3] == 1 else bias[..., order]
    lse = None if block.lse is None else block.lse[:, :, order]
    return replace(block, q=block.q[:, :, order], k=block.k[:, :, order], bias=bias, lse=lse, v=v)
