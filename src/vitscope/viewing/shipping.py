"""How much attention fits into a page: precision is given up first, then layers, the first ones before the later."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from vitscope.render.packed import Packed, zigzag
from vitscope.store import AttentionStore, Factored
from vitscope.viewing.factors import Head, Rounded, factorised, fitted, lse_of, plain, rounded, rows_of

__all__ = ["Shipped", "shipped", "why_not", "without"]

_FINEST, _COARSEST = 0.002, 0.05  # root mean square error of a score, in nats
Known: TypeAlias = Sequence[Sequence[Head]]
_TOP, _SAMPLE = 20, 24
_SURE = 0.998  # of the budget: fitting queries, which takes the time, changes sizes by a thousandth
_HALVINGS = 7  # of the last step towards an error that fits


@dataclass(frozen=True)
class Shipped:
    """The attention that goes into a page.

    Attributes:
        layers: one dict for each layer, for the header; `rank` is None where the layer is not shipped.
        arrays: its packed arrays.
        error: of scores and rows, as measured.
        dropped: layers that did not fit.
    """

    layers: list[dict[str, Any]]
    arrays: dict[str, Packed]
    error: dict[str, float] = field(default_factory=dict)
    dropped: tuple[int, ...] = ()


def why_not(store: AttentionStore) -> str:
    """Why rows of this attention cannot be made in a page; empty where they can."""
    if store.chain is not None or not len(store):
        return "its layers do not all see the same tokens"
    if not all(plain(block) for block in store):
        return "its attention has a bias or a rule of its own that queries and keys do not give"
    return ""


def without(store: AttentionStore) -> Shipped:
    """No rows of attention."""
    return Shipped([_entry(block) for block in store], {})


def shipped(store: AttentionStore, budget: float | int) -> Shipped:
    """As much of the attention as fits into `budget` characters.

    The error of scores starts at 0.002 nats and grows until it fits, as rounded; then queries are fitted, once. At 0.05
    nats the first layers are left out.
    """
    if why_not(store):
        return without(store)
    known = [factorised(block) for block in store if isinstance(block, Factored)]
    depth = len(known)
    budget = budget - 2.04 * sum(block.shape[1] * block.shape[2] for block in store)  # their rows' sums, 16 bits each
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
            return _told(store, ints, packed, first, error)
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


def _best(head: Head, error: float) -> Rounded:
    made = rounded(head, error)
    return fitted(head, made) if error > _FINEST else made


def _size(arrays: Mapping[str, Packed]) -> int:
    return sum(one.nbytes for one in arrays.values())


def _packed(
    known: Known, layers: Sequence[int], error: float, make: Callable[[Head, float], Rounded] = _best
) -> tuple[dict[str, Packed], dict[int, list[Rounded]]]:
    arrays, ints = {}, {}
    for number in layers:
        made = ints[number] = [make(head, error) for head in known[number]]
        arrays[f"q.{number}"] = Packed.of(zigzag(np.concatenate([head.q.ravel() for head in made])))
        arrays[f"k.{number}"] = Packed.of(zigzag(np.concatenate([head.k.ravel() for head in made])))
        arrays[f"weight.{number}"] = Packed.of(np.concatenate([head.weight for head in made]))
    return arrays, ints


def _told(
    store: AttentionStore,
    ints: dict[int, list[Rounded]],
    arrays: dict[str, Packed],
    first: int,
    error: float,
) -> Shipped:
    entries, off = [], []
    for number, block in enumerate(store):
        if number < first:
            entries.append(_entry(block))
            continue
        heads = ints[number]
        lse = lse_of(heads)
        low, step = float(lse.min()), max(float(np.ptp(lse)), 1e-6) / 65535
        arrays[f"lse.{number}"] = Packed.of(((lse - low) / step).round().astype(np.uint16))
        entries.append(_entry(block) | {"rank": [len(head.weight) for head in heads], "lse": [low, step]})
        queries = np.linspace(0, block.shape[2] - 1, min(_SAMPLE, block.shape[2])).round().astype(int).tolist()
        true, made = block.rows(queries)[0].cpu(), rows_of(heads, queries)
        off.append([_relative(true, made), _relative(true.mean(0), made.mean(0))])
    single, fused = (np.concatenate([one[which] for one in off]) for which in (0, 1))
    told = {"score_rms": error}
    for name, values in (("head", single), ("mean", fused)):
        told |= {f"{name}_rms": float(np.sqrt((values**2).mean())), f"{name}_max": float(values.max())}
        told[f"{name}_beyond"] = float((values > 0.01).mean())
    return Shipped(entries, arrays, told, tuple(range(first)))


def _relative(true: Any, made: Any) -> np.ndarray:
    """By how much the largest entries of rows are off, relative to themselves."""
    top = true.topk(min(_TOP, true.shape[-1]), -1)
    off: np.ndarray = ((made.gather(-1, top.indices) - top.values) / top.values).abs().numpy().ravel()
    return off


def _entry(block: Any) -> dict[str, Any]:
    return {"name": block.name, "heads": block.shape[1], "rank": None}
