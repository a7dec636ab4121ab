"""A forward as a chain of operators on tokens: what windows, merging and pooling do is the model's own code."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitscope.attention import Block, Chain, Dense, Factored, GraphOutput, vecmat
from vitscope.attention.capture import RecordedCall
from vitscope.errors import LayoutError, UsageError
from vitscope.tracing.token_tensor import Plan
from vitscope.tracing.trace import NO_HEADS, Run, Trace, averaged, prefix_tokens

__all__ = ["OperatorChain", "blocks_of", "chain_of", "sources_of"]


@dataclass(frozen=True, eq=False)
class Averages:
    """One run of the averaged network: its output, the parts that its finest tokens are, and tokens from outside."""

    out: Tensor
    parts: list[tuple[Tensor, int]]
    leaves: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class OperatorChain:
    """The averaged network of one forward, ready to be gone through backwards any number of times.

    `vecmat` starts from what the answer is read from and goes back, operator by operator, to the finest tokens: through
    windows, merging and pooling as the model's own code has them, and through each layer's residual as it is told.
    Attention in no residual (a pooling's, LeViT's between its stages) is gone through as it is, its heads' mean.
    """

    trace: Trace
    plan: Plan
    averages: Averages
    again: Callable[[Plan], Averages]
    blocks: tuple[Block, ...]
    seen: dict[int, RecordedCall]

    def vecmat(
        self,
        layers: Sequence[int],
        attend: Callable[[Block, Tensor], Tensor],
        keep: float | Callable[[Block], Tensor],
        mix: float,
    ) -> Float[Tensor, "B N"]:
        """Weights of the finest tokens, prefix first: `r <- keep r + mix attend(block, r)` at each of `layers`.

        A `keep` for each query is carried forward to where its residual is: another run of the averaged network.
        """
        numbers = {event: i for i, event in enumerate(self.trace.layers)}
        active = frozenset(self.trace.layers[layer] for layer in layers)

        def through(event: int, r: Tensor) -> Tensor:
            if event in numbers and event not in active:  # its residual hands everything to the other end
                return r.new_zeros(*r.shape[:-1], self.seen[event].block.shape[3])
            rows = self._rows(event)
            if event in numbers:
                pulled = attend(self.blocks[numbers[event]], rows.together(r)).to(r.dtype)
            else:  # a pooling at the end, or tokens that only attention makes: weights go where it looked
                pulled = vecmat(_reheaded(self.seen[event], rows.axis), rows.together(r)).to(r.dtype)
            return rows.apart(pulled / rows.heads).reshape(*r.shape[:-1], pulled.shape[-1])

        plan, averages = self.plan, self.averages
        if callable(keep):
            if mix != 1.0:
                raise UsageError("a weight of the residual path for each query goes with the weight 1 of attention")
            told = {event: self._rows(event).apart(keep(self.blocks[numbers[event]])) for event in active}
            plan = Plan(1.0, 1.0, active, through, told)
            averages = self.again(plan)
        else:
            plan.keep, plan.mix, plan.active, plan.attend = keep, mix, active, through
        with torch.inference_mode(False), torch.enable_grad():
            tensors = [*(values for values, _ in averages.parts), *averages.leaves]
            grads = torch.autograd.grad(averages.out.sum(), tensors, retain_graph=True, allow_unused=True)
        batch, count = len(averages.out), len(averages.parts)
        patches = self.trace.finest.laid(grads[:count], averages.parts, batch)
        prefix = [prefix_tokens(g, leaf, batch) for g, leaf in zip(grads[count:], averages.leaves, strict=True)]
        return torch.cat([*prefix, patches], 1)

    def _rows(self, event: int) -> "_Rows":
        return _Rows(self.seen[event].lead, self.trace.heads[event])

    def with_blocks(self, blocks: tuple[Block, ...]) -> Chain:
        """The same chain with other blocks."""
        return replace(self, blocks=blocks)


@dataclass(frozen=True)
class _Rows:
    """Between numbers for each of a block's queries `(b, n)` and the leading axes that the model has them in."""

    lead: tuple[int, ...]
    axis: int

    @property
    def heads(self) -> int:
        """How many heads the block has."""
        return 1 if self.axis == NO_HEADS else self.lead[self.axis]

    @property
    def _places(self) -> tuple[tuple[int, ...], int]:
        """The leading axes with one for heads, and which it is."""
        return ((*self.lead, 1), len(self.lead)) if self.axis == NO_HEADS else (self.lead, self.axis)

    def together(self, r: Tensor) -> Float[Tensor, "b n"]:
        """Summed over heads."""
        shape, axis = self._places
        return r.reshape(*shape, r.shape[-1]).movedim(axis, -2).reshape(-1, self.heads, r.shape[-1]).sum(1)

    def apart(self, r: Float[Tensor, "b n"]) -> Tensor:
        """The same for each head: `(*lead, n)`, with one more axis where there are no heads."""
        shape, axis = self._places
        others = [size for i, size in enumerate(shape) if i != axis]
        spread = r[:, None].expand(-1, self.heads, -1).reshape(*others, self.heads, r.shape[-1])
        return spread.movedim(-2, axis)


def chain_of(
    run: Run, model: nn.Module, size: tuple[int, int, int], found: Trace, seen: dict[int, RecordedCall]
) -> OperatorChain:
    """The chain of one forward of `(B, Hi, Wi)` pixels, whose attention is `seen`."""

    @torch.inference_mode(False)
    @torch.enable_grad()
    def again(plan: Plan) -> Averages:
        batch, height, width = size
        pixels = torch.zeros(batch, 3, height, width, device=next(model.parameters()).device)
        network, start, out = averaged(run, model, pixels, plan, seen, channels=found.channels)
        if len(network.merges) <= max(found.finest.merges, default=0) or len(network.leaves) != len(found.leaves):
            raise LayoutError("the model did something else with this batch than with the picture it was understood by")
        leaves = tuple(leaf for (_, leaf), count in zip(network.leaves, found.leaves, strict=True) if count)
        return Averages(out, found.finest.values(network.merges, start), leaves)

    blocks = tuple(_reheaded(seen[event], found.heads[event]) for event in found.layers)
    plan = Plan()
    return OperatorChain(found, plan, again(plan), again, blocks, seen)


def blocks_of(found: Trace, seen: dict[int, RecordedCall]) -> tuple[tuple[Block, ...], Block | None]:
    """The layers' blocks with prefix tokens first, and the pooling block, of a model whose layers see all tokens."""
    pool = None if found.pool is None else seen[found.pool].block
    return tuple(_reordered(seen[event].block, found.reorder) for event in found.layers), pool


def sources_of(found: Trace, seen: dict[int, RecordedCall]) -> tuple[GraphOutput, ...]:
    """Where the layers' results stand in the graph, in the shape that their blocks have."""

    def of(one: RecordedCall, axis: int) -> GraphOutput | None:
        if one.source is None:
            return None
        first = one.source.place
        return GraphOutput(one.source.out, lambda x: _in_order(_heads_second(first(x), one.lead, axis), found.reorder))

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


def _reheaded(seen: RecordedCall, axis: int) -> Block:
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
