"""A forward as a chain of operators on tokens: windows, merging and pooling are the model's own code."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitscope.attention import Block, Chain, Dense, Factored, GraphOutput, vecmat
from vitscope.attention.model_modes import own_state
from vitscope.attention.recorder import RecordedCall
from vitscope.errors import LayoutError, UsageError
from vitscope.tracing.averaged import Run, run_averaged
from vitscope.tracing.placement import input_device
from vitscope.tracing.token_grid import prefix_weights
from vitscope.tracing.token_tensor import BackwardPlan
from vitscope.tracing.trace import NO_HEADS, Trace


@dataclass(frozen=True, eq=False)
class AveragedRun:
    """One run of the averaged network: its answer, the tensors of its finest tokens, and its prefix tokens."""

    out: Tensor
    tensors: list[tuple[Tensor, int]]
    leaves: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class OperatorChain:
    """The averaged network of one forward, ready for any number of backward passes.

    `vecmat` starts from the tokens that the answer is read from and goes back, operator by operator, to the finest
    tokens: through windows, merging and pooling as the model's own code has them, and through each layer's residual
    connection with the given weights. Attention without a residual (a pooling, LeViT between its stages) takes the mean
    of its heads.
    """

    trace: Trace
    plan: BackwardPlan
    averages: AveragedRun
    rerun: Callable[[BackwardPlan], AveragedRun]
    blocks: tuple[Block, ...]
    recorded: dict[int, RecordedCall]

    def vecmat(
        self,
        layers: Sequence[int],
        attention_vecmat: Callable[[Block, Tensor], Tensor],
        residual_weight: float | Callable[[Block], Tensor],
        attention_weight: float,
    ) -> Float[Tensor, "B N"]:
        """Return weights of the finest tokens, prefix first.

        At each of `layers`: `r <- residual_weight r + attention_weight attention_vecmat(block, r)`. A residual weight
        for each query is carried forward to its residual connection: another run of the averaged network.
        """
        numbers = {event: i for i, event in enumerate(self.trace.layers)}
        active = frozenset(self.trace.layers[layer] for layer in layers)

        def attend_event(event: int, r: Tensor) -> Tensor:
            if event in numbers and event not in active:  # its residual passes everything to the skip connection
                return r.new_zeros(*r.shape[:-1], self.recorded[event].block.shape[3])
            heads = self._head_axes(event)
            if event in numbers:
                keys = attention_vecmat(self.blocks[numbers[event]], heads.sum(r)).to(r.dtype)
            else:  # a pooling at the end, or tokens that only attention makes: weights follow the attention
                keys = vecmat(_heads_second(self.recorded[event], heads.axis), heads.sum(r)).to(r.dtype)
            return heads.repeat(keys / heads.count).reshape(*r.shape[:-1], keys.shape[-1])

        plan, averages = self.plan, self.averages
        if callable(residual_weight):
            if attention_weight != 1.0:
                raise UsageError.coded(
                    "tracing.query-residual-weights",
                    "a residual weight for each query needs an attention weight of 1, got {weight}",
                    weight=attention_weight,
                )
            skips = {
                event: self._head_axes(event).repeat(residual_weight(self.blocks[numbers[event]])) for event in active
            }
            plan = BackwardPlan(1.0, 1.0, active, attend_event, skips)
            averages = self.rerun(plan)
        else:
            plan.skip, plan.branch, plan.active, plan.attend = residual_weight, attention_weight, active, attend_event
        with torch.inference_mode(False), torch.enable_grad():
            tensors = [*(values for values, _ in averages.tensors), *averages.leaves]
            grads = torch.autograd.grad(averages.out.sum(), tensors, retain_graph=True, allow_unused=True)
        batch, count = len(averages.out), len(averages.tensors)
        patches = self.trace.finest.weights(grads[:count], averages.tensors, batch)
        prefix = [prefix_weights(g, leaf, batch) for g, leaf in zip(grads[count:], averages.leaves, strict=True)]
        return torch.cat([*prefix, patches], 1)

    def _head_axes(self, event: int) -> "_HeadAxes":
        return _HeadAxes(self.recorded[event].lead, self.trace.heads[event])

    def with_blocks(self, blocks: tuple[Block, ...]) -> Chain:
        """Return the same chain with other blocks."""
        return replace(self, blocks=blocks)


@dataclass(frozen=True)
class _HeadAxes:
    """Converts between one number for each of a block's queries `(b, n)` and the leading axes that the model has."""

    lead: tuple[int, ...]
    axis: int

    @property
    def count(self) -> int:
        """The number of heads."""
        return 1 if self.axis == NO_HEADS else self.lead[self.axis]

    @property
    def _shape(self) -> tuple[tuple[int, ...], int]:
        """The leading axes with one for heads, and its position."""
        return ((*self.lead, 1), len(self.lead)) if self.axis == NO_HEADS else (self.lead, self.axis)

    def sum(self, r: Tensor) -> Float[Tensor, "b n"]:
        """Sum over the heads."""
        shape, axis = self._shape
        return r.reshape(*shape, r.shape[-1]).movedim(axis, -2).reshape(-1, self.count, r.shape[-1]).sum(1)

    def repeat(self, r: Float[Tensor, "b n"]) -> Tensor:
        """Repeat for each head: `(*lead, n)`, with one more axis where there are no heads."""
        shape, axis = self._shape
        others = [size for i, size in enumerate(shape) if i != axis]
        spread = r[:, None].expand(-1, self.count, -1).reshape(*others, self.count, r.shape[-1])
        return spread.movedim(-2, axis)


def operator_chain(
    run: Run, model: nn.Module, size: tuple[int, int, int, int], found: Trace, recorded: dict[int, RecordedCall]
) -> OperatorChain:
    """Make the chain of one forward of `(B, C, Hi, Wi)` pixels from its recorded attention calls.

    Cost: one forward of the averaged network.

    Raises:
        LayoutError: the model took another path with this batch than when it was traced.
    """

    @own_state
    def rerun(plan: BackwardPlan) -> AveragedRun:
        pixels = torch.zeros(*size, device=input_device(model))
        network, start, out = run_averaged(run, model, pixels, plan, recorded, channels=found.channels)
        if len(network.merges) <= max(found.finest.merges, default=0) or len(network.leaves) != len(found.leaf_sizes):
            raise LayoutError.coded(
                "tracing.other-path",
                "{model} took another path with this batch than with the image it was traced with",
                model=type(model).__name__,
            )
        leaves = tuple(leaf for (_, leaf), count in zip(network.leaves, found.leaf_sizes, strict=True) if count)
        return AveragedRun(out / found.kept, found.finest.tensors(network.merges, start), leaves)

    blocks = tuple(_heads_second(recorded[event], found.heads[event]) for event in found.layers)
    plan = BackwardPlan()
    return OperatorChain(found, plan, rerun(plan), rerun, blocks, recorded)


def layer_blocks(found: Trace, recorded: dict[int, RecordedCall]) -> tuple[tuple[Block, ...], Block | None]:
    """Return the layers' blocks with prefix tokens first, and the pooling block, where all layers see all tokens."""
    pool = None if found.pool is None else recorded[found.pool].block
    return tuple(_in_order(recorded[event].block, found.order) for event in found.layers), pool


def graph_outputs(found: Trace, recorded: dict[int, RecordedCall]) -> tuple[GraphOutput, ...]:
    """Return the layers' results in the graph, in the shape of their blocks; none where one has no graph."""

    def output_of(call: RecordedCall, axis: int) -> GraphOutput | None:
        if call.output is None:
            return None
        first, order = call.output.arrange, found.order

        def place(*tensors: Tensor) -> Tensor:
            x = _move_heads(first(*tensors), call.lead, axis)
            return x if order is None else x[:, :, order]

        return GraphOutput(call.output.tensors, place)

    outputs = [output_of(recorded[event], found.heads[event]) for event in found.layers]
    return tuple(output for output in outputs if output is not None) if None not in outputs else ()


def _move_heads(x: Tensor, lead: tuple[int, ...], axis: int) -> Tensor:
    """Move the heads of `(B', H', ...)`, whose leading axes were `lead`, to the second axis."""
    if axis == NO_HEADS:
        return x.reshape(-1, 1, *x.shape[2:])
    if len(lead) < 2 or axis == len(lead) - 1:
        return x
    return x.reshape(*lead, *x.shape[2:]).movedim(axis, len(lead) - 1).reshape(-1, lead[axis], *x.shape[2:])


def _heads_second(call: RecordedCall, axis: int) -> Block:
    """Return the block of a call with heads as its second axis, whatever the order of the leading axes was."""
    block, lead = call.block, call.lead
    if axis == len(lead) - 1 or block.shape[1] == len(lead) == 1:
        return block

    def moved(x: Tensor) -> Tensor:
        return _move_heads(x, lead, axis)

    v = None if block.v is None else moved(block.v)
    if isinstance(block, Dense):
        return replace(block, probs=moved(block.probs), v=v)
    bias = block.bias
    if bias is not None and bias.shape[0] != 1:
        bias = moved(bias.expand(bias.shape[0], block.shape[1], *bias.shape[2:]))
    lse = None if block.lse is None else moved(block.lse)
    return replace(block, q=moved(block.q), k=moved(block.k), bias=bias, lse=lse, v=v)


def _in_order(block: Factored | Dense, order: Tensor | None) -> Block:
    """Return the block with its tokens in the layout's order."""
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
