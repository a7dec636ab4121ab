"""What a batch found, in numbers and examples: one pass over its rows, in memory that grows by 12 bytes a row."""

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from vitscope.batch.results import finished_shards, read_plan, row_batches
from vitscope.errors import ResultError

__all__ = ["NUMBERS", "SINK_FACTOR", "Overview", "SinkCounts", "overview"]

SINK_FACTOR = 10  # times its even share: what a patch holds to be counted among the sinks
NUMBERS = ("effective_share", "largest_share", "prefix_share")
_TOLD = 3  # examples of each kind of failure


@dataclass
class SinkCounts:
    """Where on a grid weight gathers.

    Attributes:
        hot: for each patch, in how many maps it holds more than `HOT` times its even share.
        maps: how many maps have this grid.
    """

    counts: Int[np.ndarray, "gh gw"]
    maps: int = 0

    @property
    def border(self) -> tuple[float, float]:
        """The share of hot patches that lie on the border of the grid, and the border's share of all patches."""
        edge = np.ones(self.counts.shape, bool)
        edge[1:-1, 1:-1] = False
        return float(self.counts[edge].sum() / max(self.counts.sum(), 1)), float(edge.mean())


@dataclass
class Overview:
    """Everything that the report shows.

    Attributes:
        plan: what the run is.
        images: pictures in finished shards; failed: those that could not be explained; rows: of the data set.
        seconds: spent on finished shards, added up over workers.
        failures: how many rows of each kind, with the first few messages.
        numbers: by method, the values of each of `NUMBERS` over all its maps.
        broad: rows of the least concentrated maps, the broadest first; narrow: of the most concentrated.
        sample: rows chosen by the hash that their ids are: the same in each report, related to nothing.
        places: by grid, where weight gathers.
    """

    plan: dict[str, Any]
    images: int = 0
    failed: int = 0
    rows: int = 0
    seconds: float = 0.0
    failures: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    numbers: dict[str, dict[str, Float[np.ndarray, " n"]]] = field(default_factory=dict)
    broad: list[dict[str, Any]] = field(default_factory=list)
    narrow: list[dict[str, Any]] = field(default_factory=list)
    sample: list[dict[str, Any]] = field(default_factory=list)
    sinks: dict[tuple[int, int], SinkCounts] = field(default_factory=dict)


class _Best:
    """The rows with the largest keys, of any number."""

    def __init__(self, many: int) -> None:
        self.many = many
        self.heap: list[tuple[Any, str, int, Any]] = []

    def offer(self, keys: Iterable[Any], ids: Iterable[str], part: Any) -> None:
        """Rows of a part, each with its key; only those that stay are taken out of it."""
        for at, (key, name) in enumerate(zip(keys, ids, strict=True)):
            if len(self.heap) < self.many:
                heapq.heappush(self.heap, (key, name, at, part.slice(at, 1).to_pylist()[0]))
            elif (key, name) > self.heap[0][:2]:
                heapq.heapreplace(self.heap, (key, name, at, part.slice(at, 1).to_pylist()[0]))

    def rows(self) -> list[dict[str, Any]]:
        """Largest key first."""
        return [row for *_, row in sorted(self.heap, key=lambda kept: kept[:2], reverse=True)]


def overview(out: str | Path, *, cards: int = 8, sheet: int = 24) -> Overview:
    """Read a run of `vitscope batch` that is finished, or as far as it is.

    Args:
        out: its folder.
        cards: examples at each end.
        sheet: examples chosen at random.

    Raises:
        ResultError: no run, nothing finished in it, or a shard that cannot be read.
    """
    folder = Path(out)
    seen = Overview(read_plan(folder))
    for entry in finished_shards(folder):
        seen.images, seen.failed = seen.images + entry["images"], seen.failed + entry["failed"]
        seen.rows, seen.seconds = seen.rows + entry["rows"], seen.seconds + entry.get("seconds", 0.0)
    if not seen.rows:
        raise ResultError(f"{folder} has no finished shard yet", "vitscope batch ... --resume goes on with it")
    broad, narrow, sample = _Best(cards), _Best(cards), _Best(sheet)
    kinds: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    collected: dict[str, dict[str, list[np.ndarray]]] = {}
    for part in row_batches(folder):
        broken = part.filter(pc.is_valid(part["error"]))
        for kind, words in zip(broken["error_kind"].to_pylist(), broken["error"].to_pylist(), strict=True):
            kinds[kind] += 1
            if len(told := examples.setdefault(kind, [])) < _TOLD and words not in told:
                told.append(words)
        fine = part.filter(pc.is_null(part["error"]))
        if not fine.num_rows:
            continue
        ids = fine["id"].to_pylist()
        shares = _numbers(fine, collected)
        broad.offer(shares, ids, fine)
        narrow.offer(-shares, ids, fine)
        sample.offer([_lowest_first(name) for name in ids], ids, fine)
        _gather(fine, seen.sinks)
    seen.failures = {kind: (count, examples[kind]) for kind, count in kinds.most_common()}
    seen.numbers = {m: {n: np.concatenate(v) for n, v in values.items()} for m, values in sorted(collected.items())}
    seen.broad, seen.narrow, seen.sample = broad.rows(), narrow.rows(), sample.rows()
    return seen


def _lowest_first(name: str) -> int:
    return -int(name, 16)


def _column(part: Any, name: str) -> np.ndarray:
    return np.asarray(part[name].to_numpy(zero_copy_only=False), np.float32)


def _numbers(part: Any, into: dict[str, dict[str, list[np.ndarray]]]) -> Float[np.ndarray, " n"]:
    """Add the part's numbers; the share of patches that each map spreads over."""
    values: dict[str, np.ndarray] = {
        "effective_share": _column(part, "effective_patches")
        / (_column(part, "grid_rows") * _column(part, "grid_columns")),
        "largest_share": _column(part, "largest_share"),
        "prefix_share": _column(part, "prefix_share"),
    }
    methods = np.array(part["method"].to_pylist())
    for method in np.unique(methods):
        for name in NUMBERS:
            into.setdefault(str(method), {}).setdefault(name, []).append(values[name][methods == method])
    return np.asarray(values["effective_share"])


def _gather(part: Any, sinks: dict[tuple[int, int], SinkCounts]) -> None:
    """Count the hot patches of each map, grid by grid."""
    grids = np.stack([_column(part, "grid_rows"), _column(part, "grid_columns")], 1).astype(int)
    for gh, gw in np.unique(grids, axis=0).tolist():
        same = part.filter(pa.array((grids == (gh, gw)).all(1)))
        maps = same["map"].flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, gh, gw)
        weight = np.clip(maps, 0, None)
        even = weight.mean((1, 2), keepdims=True)
        here = sinks.setdefault((gh, gw), SinkCounts(np.zeros((gh, gw), np.int64)))
        here.counts += (weight > SINK_FACTOR * even).sum(0)
        here.maps += len(maps)
