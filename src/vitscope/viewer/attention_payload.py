"""How much attention fits into a page: precision is given up first, then layers, the first ones before the later.

What coarse factors do to the largest weights is then mended one by one, as far as there is room (`mending`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from vitscope._messages import msg
from vitscope.attention import AttentionStore, Factored
from vitscope.viewer.attention_quantisation import Head, QuantisedHead, factorised, fitted, plain, rounded
from vitscope.viewer.packed import Packed, zigzag
from vitscope.viewer.score_corrections import ScoreCorrections, drawn, mended

__all__ = ["Shipped", "shipped", "why_not", "without"]

_FINEST, _COARSEST = 0.002, 0.05  # root mean square error of a score, in nats
Known: TypeAlias = Sequence[Sequence[Head]]
_MENDS = 0.015  # of the budget: what single weights may take at least
_SURE = 0.998  # of the budget: fitting queries, which takes the time, changes sizes by a thousandth
_HALVINGS = 7  # of the last step towards an error that fits


@dataclass(frozen=True)
class Shipped:
    """The attention that goes into a page.

    Attributes:
        layers: one dict for each layer, for the header; `rank` is None where the layer is not shipped.
        arrays: its packed arrays.
        error: `score_rms`, of a score before mending, in nats; `head_rms`, `head_max` and `head_beyond` (the share off
            by over 1 %), of the 20 largest weights of all rows, relative to themselves; the same for the mean over
            heads; `mends`, how many weights were mended, and `left`, how many should have been but had no room.
        dropped: layers that did not fit.
    """

    layers: list[dict[str, Any]]
    arrays: dict[str, Packed]
    error: dict[str, float] = field(default_factory=dict)
    dropped: tuple[int, ...] = ()


def why_not(store: AttentionStore) -> str:
    """Why rows of this attention cannot be made in a page; empty where they can."""
    if store.chain is not None or not len(store):
        return msg("viewer.layers-differ", "its layers do not all see the same tokens")
    if not all(plain(block) for block in store):
        return msg(
            "viewer.attention-not-plain",
            "its attention has a bias or its own rule, which queries and keys alone do not give",
        )
    return ""


def without(store: AttentionStore) -> Shipped:
    """No rows of attention."""
    return Shipped([_entry(block) for block in store], {})


def shipped(store: AttentionStore, budget: float | int) -> Shipped:
    """As much of the attention as fits into `budget` characters.

    The error of scores starts at 0.002 nats and grows until it fits, as rounded; then queries are fitted, once. At 0.05
    nats the first layers are left out. What is still off among each row's 20 largest weights is mended, the worst
    first, in the room that is left: 1.5 % of the budget are kept for it.
    """
    if why_not(store):
        return without(store)
    known = [factorised(block) for block in store if isinstance(block, Factored)]
    depth = len(known)
    whole, budget = budget, (1 - _MENDS) * budget
    budget -= 2.04 * sum(block.shape[1] * block.shape[2] for block in store)  # their rows' sums, 16 bits each
    for first in range(depth):
        layers = range(first, depth)
        error = _within(known, layers, _SURE * budget, _FINEST)
        if error is None:
            continue
        packed, ints = _packed(known, layers, error)
        while (size := _size(packed)) > budget and error < _COARSEST:
            error = _coarser(error, size, budget, known, layers)
            packed, ints = _packed(known, layers, error)
        if size <= budget:
            return _told(store, ints, packed, first, error, budget - size + _MENDS * whole)
    return Shipped([_entry(block) for block in store], {}, dropped=tuple(range(depth)))


def _within(known: Known, layers: Sequence[int], budget: float | int, error: float) -> float | None:
    """About the smallest error from this one on at which these layers fit as rounded; None beyond the coarsest."""

    def size_at(error: float) -> int:
        return _size(_packed(known, layers, error, rounded)[0])

    low = error
    while (size := size_at(error)) > budget:
        if error >= _COARSEST:
            return None
        low, error = error, _coarser(error, size, budget, known, layers)
    for _ in range(_HALVINGS if low < error else 0):
        middle = (low * error) ** 0.5
        low, error = (low, middle) if size_at(middle) <= budget else (middle, error)
    return error


def _coarser(error: float, size: int, budget: float | int, known: Known, layers: Sequence[int]) -> float:
    """An error that should fit: a number takes one bit less at twice the error."""
    numbers = 2 * sum(head.left.numel() for layer in layers for head in known[layer])
    return min(error * max(2 ** ((size - budget) * 8 / numbers * 1.1), 1.02), _COARSEST)


def _best(head: Head, error: float) -> QuantisedHead:
    made = rounded(head, error)
    return fitted(head, made) if error > _FINEST else made


def _size(arrays: Mapping[str, Packed]) -> int:
    return sum(one.nbytes for one in arrays.values())


def _packed(
    known: Known, layers: Sequence[int], error: float, make: Callable[[Head, float], QuantisedHead] = _best
) -> tuple[dict[str, Packed], dict[int, list[QuantisedHead]]]:
    arrays, ints = {}, {}
    for number in layers:
        made = ints[number] = [make(head, error) for head in known[number]]
        arrays[f"q.{number}"] = Packed.of(zigzag(np.concatenate([head.q.ravel() for head in made])))
        arrays[f"k.{number}"] = Packed.of(zigzag(np.concatenate([head.k.ravel() for head in made])))
        arrays[f"weight.{number}"] = Packed.of(np.concatenate([head.weight for head in made]))
    return arrays, ints


def _told(
    store: AttentionStore,
    ints: dict[int, list[QuantisedHead]],
    arrays: dict[str, Packed],
    first: int,
    error: float,
    room: float | int,
) -> Shipped:
    blocks = [(number, block) for number, block in enumerate(store) if number in ints and isinstance(block, Factored)]
    wanted = {number: mended(block, ints[number]) for number, block in blocks}
    mends, carried = _fitting(wanted, room)
    entries, off = [_entry(block) for block in store], []
    for number, block in blocks:
        heads = ints[number]
        made = drawn(block, heads, mends[number])
        low, step = float(made.lse.min()), max(float(np.ptp(made.lse)), 1e-6) / 65535
        arrays[f"lse.{number}"] = Packed.of(((made.lse - low) / step).round().astype(np.uint16))
        entries[number] |= {"rank": [len(head.weight) for head in heads], "lse": [low, step]}
        off.append((made.single.ravel(), made.fused.ravel()))
    told = {"score_rms": error}
    for name, parts in zip(("head", "mean"), zip(*off, strict=True), strict=True):
        values = np.concatenate(parts)
        told |= {f"{name}_rms": float(np.sqrt(np.square(values, dtype=np.float64).mean()))}
        told |= {f"{name}_max": float(values.max()), f"{name}_beyond": float((values > 0.01).mean())}
    told["mends"] = sum(map(len, mends.values()))
    told["left"] = sum(map(len, wanted.values())) - told["mends"]
    return Shipped(entries, arrays | carried, told, tuple(range(first)))


def _fitting(
    wanted: Mapping[int, ScoreCorrections], room: float | int
) -> tuple[dict[int, ScoreCorrections], dict[str, Packed]]:
    """As many mends as there is room for, those that change most first, and their arrays."""
    mends, carried = dict(wanted), _carried(wanted)
    while (size := _size(carried)) > room and any(map(len, mends.values())):
        changes = np.sort(np.abs(np.concatenate([one.by for one in mends.values()])))[::-1]
        count = min(int(len(changes) * max(room, 0) / size), len(changes) - 1)
        least = changes[count]
        mends = {number: one.largest(int((np.abs(one.by) > least).sum())) for number, one in mends.items()}
        carried = _carried(mends)
    return mends, carried


def _carried(mends: Mapping[int, ScoreCorrections]) -> dict[str, Packed]:
    arrays = {}
    for number, one in mends.items():
        if len(one):
            arrays[f"mend.row.{number}"] = Packed.of(np.diff(one.row, prepend=0).astype(np.uint32))
            arrays[f"mend.key.{number}"] = Packed.of(one.key.astype(np.uint32))
            arrays[f"mend.by.{number}"] = Packed.of(one.by.astype(np.float16))
    return arrays


def _entry(block: Any) -> dict[str, Any]:
    return {"name": block.name, "heads": block.shape[1], "rank": None}
