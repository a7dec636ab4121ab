"""Layers that make several attention calls, one for each head or for each chunk of queries: their calls become one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from vitscope.attention import Dense, Factored, GraphOutput
from vitscope.attention.recorder import RecordedCall
from vitscope.tracing.records import TracedCall


@dataclass(frozen=True)
class Loop:
    """Attention calls whose results lie side by side in one layer.

    Attributes:
        events: the calls, in order; the first of them stands for all.
        queries: how many queries each call has.
        over: each call is of some `heads` and all queries, or of some `queries` and all heads.
    """

    events: tuple[int, ...]
    queries: tuple[int, ...]
    over: Literal["heads", "queries"]


def find_loops(side_by_side: Iterable[tuple[frozenset[int], ...]], calls: Iterable[TracedCall]) -> tuple[Loop, ...]:
    """Find loops among calls whose results the model put side by side, the innermost first.

    Calls with the same keys are heads where each has as many queries as keys, and chunks of queries where all of them
    together have; anything else, such as branches with windows of their own, is no loop.
    """
    known, loops = {call.event: call for call in calls}, []
    for parts in side_by_side:
        events = [[event for event in part if event in known] for part in parts]
        if any(len(part) != 1 for part in events):
            continue
        members = [known[part[0]] for part in events]
        if len({call.joined for call in members}) > 1 or not _same_keys(members):
            continue
        keys = members[0].keys.shape[-1]
        queries = tuple(call.queries for call in members)
        if set(queries) != {keys} and sum(queries) != keys:
            continue
        loop = Loop(tuple(call.event for call in members), queries, "heads" if set(queries) == {keys} else "queries")
        loops.append(loop)
        for call in members[1:]:
            del known[call.event]
        known[members[0].event] = _joined(members, loop)
    return tuple(loops)


def join_traced(calls: Iterable[TracedCall], loops: Iterable[Loop]) -> list[TracedCall]:
    """Return calls with one in place of each loop."""
    known = {call.event: call for call in calls}
    for loop in loops:
        members = [known.pop(event) for event in loop.events]
        known[loop.events[0]] = _joined(members, loop)
    return [known[event] for event in sorted(known)]


def join_recorded(recorded: Mapping[int, RecordedCall], loops: Iterable[Loop]) -> dict[int, RecordedCall]:
    """Return the recorded calls of a forward with one in place of each loop."""
    known = dict(recorded)
    for loop in loops:
        calls = [known.pop(event) for event in loop.events]
        known[loop.events[0]] = _one_call(calls, loop.over)
    return known


def _same_keys(calls: list[TracedCall]) -> bool:
    first = calls[0].keys.as_subclass(Tensor)
    return all(
        call.keys.shape == first.shape and torch.allclose(call.keys.as_subclass(Tensor), first, atol=1e-2)
        for call in calls[1:]
    )


def _joined(calls: list[TracedCall], loop: Loop) -> TracedCall:
    first = calls[0]
    if loop.over == "queries":
        return replace(first, queries=sum(call.queries for call in calls))
    keys = first.keys.as_subclass(Tensor)
    axis = keys[:, None] if keys.ndim == 2 else keys
    return replace(first, keys=torch.cat([axis] * len(calls), 1))


def _one_call(calls: list[RecordedCall], over: str) -> RecordedCall:
    axis, blocks = (1 if over == "heads" else 2), [call.block for call in calls]
    first, shape = blocks[0], blocks[0].shape
    lead = (shape[0], sum(block.shape[1] for block in blocks)) if over == "heads" else calls[0].lead

    def along(parts: list[Tensor | None]) -> Tensor | None:
        known = [part for part in parts if part is not None]
        return torch.cat(known, axis) if len(known) == len(parts) else None

    v = along([block.v for block in blocks]) if over == "heads" else first.v
    factored = [block for block in blocks if isinstance(block, Factored)]
    alike = len({block.scale for block in factored}) == 1 and len({block.bias is None for block in factored}) == 1
    joined: Factored | Dense
    if len(factored) == len(blocks) and alike:
        biases = [None if b.bias is None else b.bias.expand(*b.shape) for b in factored]
        joined = replace(
            factored[0],
            q=torch.cat([block.q for block in factored], axis),
            k=torch.cat([block.k for block in factored], 1) if over == "heads" else factored[0].k,
            bias=along(biases),
            lse=along([block.lse for block in factored]),
            v=v,
            project=None,
        )
    else:
        joined = Dense(first.name, torch.cat([block.rows() for block in blocks], axis), v=v)
    outputs = [call.output for call in calls if call.output is not None]
    return RecordedCall(joined, lead, _one_output(outputs, axis) if len(outputs) == len(calls) else None)


def _one_output(outputs: list[GraphOutput], axis: int) -> GraphOutput:
    counts = [len(output.tensors) for output in outputs]

    def arrange(*tensors: Tensor) -> Tensor:
        waiting = iter(tensors)
        return torch.cat(
            [output.arrange(*(next(waiting) for _ in range(n))) for output, n in zip(outputs, counts, strict=True)],
            axis,
        )

    return GraphOutput(tuple(tensor for output in outputs for tensor in output.tensors), arrange)
