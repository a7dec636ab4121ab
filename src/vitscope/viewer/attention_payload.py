"""Attention packed for a page within a budget of bytes.

Precision is given up first, then layers, the first ones before the later. In the room that is left, the largest weights
are corrected one by one (`score_corrections`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from vitscope._messages import msg
from vitscope.attention import AttentionStore, Factored
from vitscope.errors import YES, Support
from vitscope.viewer.attention_quantisation import (
    FactorisedHead,
    QuantisedHead,
    factorise,
    fit_queries,
    is_factored,
    quantise,
)
from vitscope.viewer.packed import Packed, zigzag
from vitscope.viewer.score_corrections import ScoreCorrections, find_corrections, reconstruction_error

_FINEST, _COARSEST = 0.002, 0.05  # root mean square error of a score, in nats
_FOR_CORRECTIONS = 0.015  # of the budget, at least
_CERTAIN = 0.998  # of the budget: fitting queries, which takes the time, changes sizes by a thousandth
_HALVINGS = 7  # of the last step towards an error that fits
Factors: TypeAlias = Sequence[Sequence[FactorisedHead]]  # by layer, then by head


@dataclass(frozen=True)
class PackedAttention:
    """The attention that goes into a page.

    Attributes:
        layers: one dict for each layer, for the header; `rank` is None where the layer is left out.
        arrays: its packed arrays.
        error: `score_rms`, of a score before corrections, in nats; `head_rms`, `head_max` and `head_beyond` (the share
            off by over 1 %), of the 20 largest weights of all rows, relative to themselves; the same for the mean over
            heads; `corrected`, how many weights were corrected, and `uncorrected`, how many had no room.
        dropped: layers that did not fit.
    """

    layers: list[dict[str, Any]]
    arrays: dict[str, Packed]
    error: dict[str, float] = field(default_factory=dict)
    dropped: tuple[int, ...] = ()


def supports_rows(store: AttentionStore) -> Support:
    """Answer whether a page can compute rows of this attention."""
    if store.chain is not None or not len(store):
        return Support.no(msg("viewer.layers-differ", "its layers do not all see the same tokens"))
    if not all(is_factored(block) for block in store):
        return Support.no(
            msg(
                "viewer.attention-not-plain",
                "its attention has a bias or its own rule, which queries and keys alone do not give",
            )
        )
    return YES


def without_rows(store: AttentionStore) -> PackedAttention:
    """Pack no rows of attention."""
    return PackedAttention([_entry(block) for block in store], {})


def pack_attention(store: AttentionStore, budget: float | int) -> PackedAttention:
    """Pack as much of the attention as fits into `budget` characters.

    The error of scores starts at 0.002 nats and grows until the quantised factors fit; then queries are fitted, once.
    At 0.05 nats the first layers are left out. Of each row's 20 largest weights, those that are still inaccurate are
    corrected, the worst first, in the room that is left: at least 1.5 % of the budget.
    """
    if not supports_rows(store):
        return without_rows(store)
    factors = [factorise(block) for block in store if isinstance(block, Factored)]
    depth = len(factors)
    whole, budget = budget, (1 - _FOR_CORRECTIONS) * budget
    budget -= 2.04 * sum(block.shape[1] * block.shape[2] for block in store)  # their rows' sums, 16 bits each
    for first in range(depth):
        layers = range(first, depth)
        error = _smallest_error(factors, layers, _CERTAIN * budget, _FINEST)
        if error is None:
            continue
        packed, heads = _pack(factors, layers, error)
        while (size := _size(packed)) > budget and error < _COARSEST:
            error = _next_error(error, size, budget, factors, layers)
            packed, heads = _pack(factors, layers, error)
        if size <= budget:
            return _with_corrections(store, heads, packed, first, error, budget - size + _FOR_CORRECTIONS * whole)
    return PackedAttention([_entry(block) for block in store], {}, dropped=tuple(range(depth)))


def _smallest_error(factors: Factors, layers: Sequence[int], budget: float | int, error: float) -> float | None:
    """Return about the smallest error, from `error` on, at which these layers fit; None beyond the coarsest."""

    def size_at(error: float) -> int:
        return _size(_pack(factors, layers, error, quantise)[0])

    low = error
    while (size := size_at(error)) > budget:
        if error >= _COARSEST:
            return None
        low, error = error, _next_error(error, size, budget, factors, layers)
    for _ in range(_HALVINGS if low < error else 0):
        middle = (low * error) ** 0.5
        low, error = (low, middle) if size_at(middle) <= budget else (middle, error)
    return error


def _next_error(error: float, size: int, budget: float | int, factors: Factors, layers: Sequence[int]) -> float:
    """Return an error that should fit: a number takes one bit less at twice the error."""
    numbers = 2 * sum(head.left.numel() for layer in layers for head in factors[layer])
    return min(error * max(2 ** ((size - budget) * 8 / numbers * 1.1), 1.02), _COARSEST)


def _quantise_best(head: FactorisedHead, error: float) -> QuantisedHead:
    quantised = quantise(head, error)
    return fit_queries(head, quantised) if error > _FINEST else quantised


def _size(arrays: Mapping[str, Packed]) -> int:
    return sum(one.nbytes for one in arrays.values())


def _pack(
    factors: Factors,
    layers: Sequence[int],
    error: float,
    make: Callable[[FactorisedHead, float], QuantisedHead] = _quantise_best,
) -> tuple[dict[str, Packed], dict[int, list[QuantisedHead]]]:
    arrays, quantised = {}, {}
    for number in layers:
        heads = quantised[number] = [make(head, error) for head in factors[number]]
        arrays[f"q.{number}"] = Packed.of(zigzag(np.concatenate([head.q.ravel() for head in heads])))
        arrays[f"k.{number}"] = Packed.of(zigzag(np.concatenate([head.k.ravel() for head in heads])))
        arrays[f"weight.{number}"] = Packed.of(np.concatenate([head.weight for head in heads]))
    return arrays, quantised


def _with_corrections(
    store: AttentionStore,
    quantised: dict[int, list[QuantisedHead]],
    arrays: dict[str, Packed],
    first: int,
    error: float,
    room: float | int,
) -> PackedAttention:
    """Add the corrections that have room, each row's sum and the errors that remain."""
    blocks = [(n, block) for n, block in enumerate(store) if n in quantised and isinstance(block, Factored)]
    needed = {number: find_corrections(block, quantised[number]) for number, block in blocks}
    corrections, packed = _fit_corrections(needed, room)
    entries, errors = [_entry(block) for block in store], []
    for number, block in blocks:
        heads = quantised[number]
        found = reconstruction_error(block, heads, corrections[number])
        low, step = float(found.lse.min()), max(float(np.ptp(found.lse)), 1e-6) / 65535
        arrays[f"lse.{number}"] = Packed.of(((found.lse - low) / step).round().astype(np.uint16))
        entries[number] |= {"rank": [len(head.weight) for head in heads], "lse": [low, step]}
        errors.append((found.single.ravel(), found.mean.ravel()))
    summary = {"score_rms": error}
    for name, parts in zip(("head", "mean"), zip(*errors, strict=True), strict=True):
        values = np.concatenate(parts)
        summary |= {f"{name}_rms": float(np.sqrt(np.square(values, dtype=np.float64).mean()))}
        summary |= {f"{name}_max": float(values.max()), f"{name}_beyond": float((values > 0.01).mean())}
    summary["corrected"] = sum(map(len, corrections.values()))
    summary["uncorrected"] = sum(map(len, needed.values())) - summary["corrected"]
    return PackedAttention(entries, arrays | packed, summary, tuple(range(first)))


def _fit_corrections(
    needed: Mapping[int, ScoreCorrections], room: float | int
) -> tuple[dict[int, ScoreCorrections], dict[str, Packed]]:
    """Return as many corrections as there is room for, the largest first, and their arrays."""
    corrections, arrays = dict(needed), _pack_corrections(needed)
    while (size := _size(arrays)) > room and any(map(len, corrections.values())):
        changes = np.sort(np.abs(np.concatenate([one.by for one in corrections.values()])))[::-1]
        count = min(int(len(changes) * max(room, 0) / size), len(changes) - 1)
        least = changes[count]
        corrections = {n: one.largest(int((np.abs(one.by) > least).sum())) for n, one in corrections.items()}
        arrays = _pack_corrections(corrections)
    return corrections, arrays


def _pack_corrections(corrections: Mapping[int, ScoreCorrections]) -> dict[str, Packed]:
    arrays = {}
    for number, one in corrections.items():
        if len(one):
            arrays[f"correction.row.{number}"] = Packed.of(np.diff(one.row, prepend=0).astype(np.uint32))
            arrays[f"correction.key.{number}"] = Packed.of(one.key.astype(np.uint32))
            arrays[f"correction.by.{number}"] = Packed.of(one.by.astype(np.float16))
    return arrays


def _entry(block: Any) -> dict[str, Any]:
    return {"name": block.name, "heads": block.shape[1], "rank": None}
