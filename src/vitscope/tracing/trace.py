"""What a model does with tokens, found from one forward and one run of its averaged network on positions.

The input of the run is not a photo but four images that hold 1, x, y and 0. Averages carry positions through the
model's own code: each attention call shows where its keys lie, tokens from outside the image (CLS, registers) stand out
because they hold no position, and what the answer is read from is a gradient.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from vitscope._messages import msg
from vitscope.attention.model_modes import own_state
from vitscope.errors import LayoutError
from vitscope.geometry import TokenLayout
from vitscope.tracing.averaged import Run, run_averaged
from vitscope.tracing.inferred_layout import infer_layout, is_plain_rollout, prefix_names, shared_order
from vitscope.tracing.loops import Loop, find_loops, join_traced
from vitscope.tracing.network import AveragedNetwork
from vitscope.tracing.patch_cells import PatchCells, border_note, find_cells, leaves_out
from vitscope.tracing.placement import input_device
from vitscope.tracing.records import CAPTURE_HINT, TracedCall, calls_by_image, varies
from vitscope.tracing.token_grid import FinestTokens, check_cover, find_finest_tokens, position_images, prefix_weights
from vitscope.tracing.token_tensor import BackwardPlan

log = logging.getLogger(__name__)

NO_HEADS = -1
_KEPT = 0.999  # of a constant's weight passes attention by, where it is no token
_BESIDE = 0.01  # of the answer passes attention by, without a note


@dataclass(frozen=True, eq=False)
class Trace:
    """What a model does with the tokens of an input of one size.

    Attributes:
        layers: events of the attention calls with a residual connection, in order.
        loops: layers that make a call for each head or for each chunk of queries; `layers` has the first call of each.
        loose: events of calls without a residual connection that the answer reads, apart from `pool`.
        pool: event of the call that pools the tokens at the end, or None.
        channels: events that mix channels, not tokens.
        heads: which of the leading axes are heads, by event; NO_HEADS for none.
        finest: the finest tokens, on which maps are drawn.
        leaf_sizes: how many tokens each leaf (CLS, registers) brings; 0 for one that the answer does not read, such as
            tokens joined to keys alone.
        layout: prefix names, grid and pooling.
        exact: `layout` reads the answer exactly as the model does.
        isotropic: every layer sees all tokens of the layout.
        order: places of the layout's tokens among the model's, prefix first; None where they are in order.
        readout: how much of each token of the layout the answer reads along the residual path.
        kept: the share of the answer that is made of these tokens; the rest are constants joined to its channels.
        queries: how much of each pooling query the answer reads, or None.
        differential: the model subtracts one attention from another.
        per_image: each image of a batch has its own answer; else their tokens lie in one row, as Pixtral's do.
        events: all attention calls of a real forward.
        sizes: queries and keys of each layer, in one window.
        unread: how many more layers there are, of which the answer reads nothing.
        channel_axis: the axis of the answer along which positions are the same; 0 where a map has no such axis.
        notes: what the averages leave out, such as convolutions between tokens.
        size_notes: what holds at this input size alone.
    """

    layers: tuple[int, ...]
    loops: tuple[Loop, ...]
    loose: tuple[int, ...]
    pool: int | None
    channels: frozenset[int]
    heads: dict[int, int]
    finest: FinestTokens
    leaf_sizes: tuple[int, ...]
    layout: TokenLayout
    exact: bool
    isotropic: bool
    order: Tensor | None
    readout: np.ndarray
    kept: float
    queries: np.ndarray | None
    differential: bool
    per_image: bool
    events: frozenset[int]
    sizes: tuple[tuple[int, int], ...]
    unread: int
    channel_axis: int
    notes: tuple[str, ...]
    size_notes: tuple[str, ...]


@own_state
def trace(
    run: Run,
    model: nn.Module,
    size: tuple[int, int],
    recorded: Collection[int],
    channels: int = 3,
    made: int | None = None,
) -> Trace:
    """Trace the tokens of a model at an input of `(Hi, Wi)` pixels.

    Args:
        run: from pixels to the tensor that is the answer, `(B, C)` or `(B, N, C)`.
        model: the module that `run` calls.
        size: height and width of the input.
        recorded: events of the attention calls of one captured forward at that size.
        channels: of the input.
        made: how many softmaxes and attention calls that forward of one image made.

    Cost: one forward of the averaged network and four backward passes.

    Raises:
        LayoutError: a step on the way is not supported, or tokens fill no grid.
    """
    images = position_images(size, input_device(model), channels)
    plan = BackwardPlan()
    network, start, out = run_averaged(run, model, images, plan, recorded, probing=True)
    if made is not None and network.event + 1 != made:
        raise calls_by_image(type(model).__name__)
    calls = _token_calls(network, model)
    keys = {call.event: call.keys.shape[-1] for call in calls}
    read = set_uniform_attention(plan, network)
    finest = find_finest_tokens(network.merges, start, out)
    leaves = [leaf for _, leaf in network.leaves]
    reached = torch.autograd.grad(out.sum(), leaves, allow_unused=True, retain_graph=True) if leaves else ()
    tensors = finest.tensors(network.merges, start)
    counts, kept, beside = _leaves_read(plan, network, out, reached, [values for values, _ in tensors])
    _note_beside(network, beside / kept)

    def token_weights() -> np.ndarray:
        """Return the weights of the tokens, prefix first, that one backward pass gives the answer's mean."""
        inputs = [*(values for values, _ in tensors), *leaves]
        grads = torch.autograd.grad(out.sum(), inputs, allow_unused=True, retain_graph=True)
        of_leaves = zip(grads[len(tensors) :], leaves, counts, strict=True)
        prefix = [prefix_weights(g, leaf, 4)[0] for g, leaf, count in of_leaves if count]
        weights: np.ndarray = torch.cat([*prefix, finest.weights(grads[: len(tensors)], tensors, 4)[0]]).cpu().numpy()
        return weights / kept

    token_weights()
    counted = {event for event, r in read.items() if bool((r != 0).any())}
    plan.skip, plan.branch = 1.0, 0.0
    readout = token_weights()
    names = prefix_names([name for name, _ in network.leaves], counts)
    _check_count(model, len(readout), len(names), finest.grid)

    calls, loops, counted = _without_loops(network, calls, counted)
    joined = [call for call in calls if call.joined]
    layers = tuple(call for call in joined if call.event in counted)  # others come after all that the answer reads
    loose = [call for call in calls if not call.joined and call.event in read]
    pool = loose[-1].event if loose and loose[-1].event > max((c.event for c in layers), default=-1) else None
    layout, exact = infer_layout(names, finest.grid, readout, pool is not None)
    cells = find_cells(finest, tensors, start)
    layout = _with_cells(layout, finest, cells, network, size)
    order, isotropic = shared_order(layers, layout, counts)
    parallel = any(sum(call.event in joined for call in layers) > 1 for joined in network.joins)
    if isotropic and not parallel:
        matrices = set_random_attention(plan, layers, loops, layout.tokens)
        if order is not None:
            matrices = [matrix[order][:, order] for matrix in matrices]
        isotropic = is_plain_rollout(readout, token_weights(), matrices, pool is not None)
    isotropic = isotropic and not parallel
    if loops and not isotropic:
        raise _loops_refused(model, network, loops)
    if pool is not None:  # the pooling may leave the prefix out
        isotropic = isotropic and keys[pool] == layout.tokens and order is None
    log.debug(
        "%s at %s x %s pixels, traced: %s, %s layers, %s",
        type(model).__name__,
        *size,
        layout,
        len(layers),
        "all see all tokens" if isotropic else "a chain of operators (windows, merging or reduced keys)",
    )
    log.debug(
        "readout of %s: pooling '%s', %s",
        type(model).__name__,
        layout.pooling,
        "as the layout has it" if exact else "weights of its own, measured by a gradient",
    )
    return Trace(
        layers=tuple(call.event for call in layers),
        loops=loops,
        loose=tuple(call.event for call in loose if call.event != pool),
        pool=pool,
        channels=frozenset(call.event for call in network.calls if call.channels),
        heads={call.event: _head_axis(call) for call in calls},
        finest=finest,
        leaf_sizes=tuple(counts),
        layout=layout,
        exact=exact,
        isotropic=isotropic,
        order=order,
        readout=readout,
        kept=kept,
        queries=None if pool is None else _query_shares(read[pool]),
        differential=network.differential,
        per_image=len(out) == len(images),
        events=frozenset(recorded),
        sizes=tuple((call.queries, keys[call.event]) for call in layers),
        unread=len(joined) - len(layers),
        channel_axis=_channel_axis(network.answer),
        notes=tuple(network.notes.values()),
        size_notes=(*([border_note(cells.elsewhere)] if cells.elsewhere else []), *network.positions.notes()),
    )


def _leaves_read(
    plan: BackwardPlan,
    network: AveragedNetwork,
    out: Tensor,
    reached: Sequence[Tensor | None],
    patches: Sequence[Tensor],
) -> tuple[list[int], float, float]:
    """Return how many tokens each leaf brings, the answer's share of tokens, and that of patches beside attention.

    A leaf that reaches the answer along no attention call and no residual of one is no token, but constants that were
    joined to the answer's channels.

    Args:
        plan: weights of the backward pass; left as they were.
        network: after its run.
        out: its answer for each image.
        reached: gradients of the answer with respect to the leaves.
        patches: the finest tokens.
    """
    before = plan.skip, plan.branch, plan.attend
    keys = {call.event: call.keys.shape[-1] for call in network.calls if not call.channels}
    plan.skip = plan.branch = 0.0
    plan.attend = lambda event, r: r.new_zeros(*r.shape[:-1], keys[event])
    leaves = [leaf for _, leaf in network.leaves]
    grads = torch.autograd.grad(out.sum(), [*patches, *leaves], allow_unused=True, retain_graph=True)
    plan.skip, plan.branch, plan.attend = before
    beside, whole = ([0.0 if g is None else float(g[0].sum()) for g in some] for some in (grads, reached))
    constant = [part > _KEPT * weight > 0 for part, weight in zip(beside[len(patches) :], whole, strict=True)]
    counts = [
        0 if g is None or no_token else leaf.numel() // leaf.shape[-1] // 4
        for g, no_token, leaf in zip(reached, constant, leaves, strict=True)
    ]
    kept = 1 - sum(weight for weight, no_token in zip(whole, constant, strict=True) if no_token)
    return counts, kept, sum(beside[: len(patches)])


def _note_beside(network: AveragedNetwork, share: float) -> None:
    """Note that the answer reads the image beside attention, as convolutions of a second branch do."""
    if share > _BESIDE:
        note = msg(
            "tracing.note-beside",
            "{share} of the answer reads the image beside attention, as by a branch of convolutions: the map counts "
            "that part by what its averages read",
            share=f"{share:.0%}",
        )
        network.notes[note.code] = note


def set_uniform_attention(plan: BackwardPlan, network: AveragedNetwork) -> dict[int, Tensor]:
    """Make attention between tokens uniform, beside a skip connection of the same weight.

    Returns:
        The weights of each call's queries, by event; filled in by the next backward pass.
    """
    keys = {call.event: call.keys.shape[-1] for call in network.calls if not call.channels}
    read: dict[int, Tensor] = {}

    def attend(event: int, r: Tensor) -> Tensor:
        read[event] = r
        return r.sum(-1, keepdim=True).expand(*r.shape[:-1], keys[event]) / keys[event]

    plan.attend, plan.active = attend, frozenset(keys)
    plan.skip, plan.branch = 0.5, 0.5
    return read


def _without_loops(
    network: AveragedNetwork, calls: list[TracedCall], counted: set[int]
) -> tuple[list[TracedCall], tuple[Loop, ...], set[int]]:
    """Return the calls with one in place of each loop, the loops, and which calls the answer reads."""
    loops = find_loops(network.side_by_side, calls)
    loops = tuple(loop for loop in loops if not counted.isdisjoint(loop.events))
    return join_traced(calls, loops), loops, counted | {loop.events[0] for loop in loops}


def _loops_refused(model: nn.Module, network: AveragedNetwork, loops: Sequence[Loop]) -> LayoutError:
    """Return the error of calls for one layer that cannot be joined."""
    name, before = type(model).__name__, {call.event: call.before for call in network.calls}
    if any(before[event] & {*loop.events} for loop in loops for event in loop.events):
        in_turn = msg(
            "tracing.heads-in-turn",
            "{model} gives each head of a layer what the head before it made of the tokens: attention of heads that "
            "follow one another is no mean over heads",
            model=name,
        )
        return LayoutError(in_turn, CAPTURE_HINT)
    problem = msg(
        "tracing.loops-in-parts",
        "{model} makes {count} attention calls for one layer, of tokens that not all layers see: which call is of "
        "which tokens is not known",
        model=name,
        count=len(loops[0].events),
    )
    return LayoutError(problem, CAPTURE_HINT)


def set_random_attention(
    plan: BackwardPlan, layers: Sequence[TracedCall], loops: Sequence[Loop], tokens: int
) -> list[Tensor]:
    """Give each layer a random matrix `(tokens, tokens)` as its attention, in the model's order of tokens.

    Calls of no layer stay as they are.
    """
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.rand(tokens, tokens, generator=generator, dtype=torch.float32, device="cpu") for _ in layers]
    matrices = [(matrix / matrix.sum(-1, keepdim=True)).to(layers[0].keys.device) for matrix in matrices]
    rows = {call.event: matrix for call, matrix in zip(layers, matrices, strict=True)}
    for loop in reversed(loops):
        if loop.events[0] in rows:
            whole = rows[loop.events[0]]
            parts = torch.split(whole, list(loop.queries)) if loop.over == "queries" else [whole] * len(loop.events)
            rows |= dict(zip(loop.events, parts, strict=True))
    before = plan.attend
    plan.attend = lambda event, r: r.to(whole) @ whole if (whole := rows.get(event)) is not None else before(event, r)
    plan.skip, plan.branch = 0.5, 0.5
    return matrices


def _with_cells(
    layout: TokenLayout, finest: FinestTokens, found: PatchCells, network: AveragedNetwork, size: tuple[int, int]
) -> TokenLayout:
    cells, seen = found.cells, found.seen
    if cells is None or seen is None or leaves_out(cells, seen, finest.grid, size):
        check_cover(finest, network.merges, size)
    return replace(layout, cells=cells, seen=seen)


def _token_calls(network: AveragedNetwork, model: nn.Module) -> list[TracedCall]:
    calls = [call for call in network.calls if not call.channels]
    if not calls:
        raise LayoutError(
            msg("tracing.no-token-attention", "{model} has no attention between tokens", model=type(model).__name__),
            msg("tracing.no-token-attention.channels", "its attention is between channels")
            if network.calls
            else msg("tracing.no-token-attention.softmax", "it multiplies no softmax with tokens"),
        )
    return calls


def _check_count(model: nn.Module, read: int, prefix: int, grid: tuple[int, int]) -> None:
    rows, columns = grid
    if read != prefix + rows * columns:
        problem = msg(
            "tracing.tokens-not-named",
            "{model} reads {count} numbers from outside the image beside its {rows} x {columns} patches: which "
            "tokens these are is not known",
            model=type(model).__name__,
            count=read - rows * columns,
            rows=rows,
            columns=columns,
        )
        raise LayoutError(problem, CAPTURE_HINT)


def _channel_axis(answer: Tensor | None) -> int:
    """Return the axis of an answer's channels; 0 where positions differ along all axes, as in a map of one number."""
    if answer is None or answer.ndim not in (3, 4) or len(answer) != 4:
        return -1 if answer is None or answer.ndim != 4 else 1
    placed = [varies(answer, axis) for axis in range(1, answer.ndim)]
    if answer.ndim == 4:
        return 3 if placed == [True, True, False] else 1
    return 0 if all(placed) else 1 if placed == [False, True] else 2


def _query_shares(r: Tensor) -> np.ndarray:
    """Return the weights `(4, ..., queries)` of a pooling's queries as shares of the first image."""
    weights = r[:1].reshape(-1, r.shape[-1]).sum(0)
    shares: np.ndarray = (weights / weights.sum()).cpu().numpy()
    return shares


def _head_axis(call: TracedCall) -> int:
    """Return the leading axis along which positions are the same: the heads; NO_HEADS where they differ on each."""
    keys = call.keys.detach().as_subclass(Tensor)
    lead = keys.ndim - 1
    for axis in range(lead - 1, 0, -1):
        if keys.shape[axis] > 1 and torch.allclose(keys, keys.narrow(axis, 0, 1), atol=1e-2):
            return axis
    return next((axis for axis in range(lead - 1, 0, -1) if keys.shape[axis] == 1), NO_HEADS)
