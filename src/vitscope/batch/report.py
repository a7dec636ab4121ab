"""Summarises a batch in numbers and examples by one pass over its rows; memory grows by 12 bytes a row."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vitscope._messages import msg
from vitscope.batch._arrow import pa, pc
from vitscope.batch.results import finished_shards, read_plan, row_batches
from vitscope.errors import ResultError
from vitscope.methods.base import METHODS

SINK_FACTOR = 10  # a patch with more than so many times its even share counts as a sink
SHORT_ID = 12  # characters of an image's id that name it for people
NUMBERS = ("effective_share", "largest_share", "prefix_share")
_EXAMPLES = 3  # messages shown for each kind of failure


@dataclass
class SinkCounts:
    """How often each patch of a grid is a sink.

    Attributes:
        counts: for each patch, the number of maps in which it holds more than `SINK_FACTOR` times its even share.
        maps: the number of maps with this grid.
    """

    counts: Int[np.ndarray, "gh gw"]
    maps: int = 0

    @property
    def border(self) -> tuple[float, float]:
        """The border's share of all sinks, and its share of all patches."""
        edge = np.ones(self.counts.shape, bool)
        edge[1:-1, 1:-1] = False
        return float(self.counts[edge].sum() / max(self.counts.sum(), 1)), float(edge.mean())


@dataclass
class Overview:
    """The content of the report.

    Attributes:
        plan: what rows depend on.
        images: images in finished shards.
        failed: those of them without an explanation.
        rows: rows of the dataset.
        seconds: time spent on finished shards, summed over workers.
        failures: by kind of error, the number of rows and the first few messages.
        numbers: by method, the values of each of `NUMBERS` over all its maps.
        broad: by method, rows of the least concentrated maps, the broadest first.
        narrow: by method, rows of the most concentrated maps, the narrowest first.
        sample: all rows of the images with the smallest ids, image by image; ids are hashes, so this is a random
            choice, equal in every report.
        sinks: by grid, how often each patch is a sink, in maps whose weights are attention.
        views: pages of the viewer in the folder `views`, by the start of an image's id.
    """

    plan: dict[str, Any]
    images: int = 0
    failed: int = 0
    rows: int = 0
    seconds: float = 0.0
    failures: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    numbers: dict[str, dict[str, Float[np.ndarray, " n"]]] = field(default_factory=dict)
    broad: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    narrow: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    sample: list[list[dict[str, Any]]] = field(default_factory=list)
    sinks: dict[tuple[int, int], SinkCounts] = field(default_factory=dict)
    views: dict[str, Path] = field(default_factory=dict)


class _TopRows:
    """The rows with the largest keys of all rows offered."""

    def __init__(self, many: int) -> None:
        self.many = many
        self.heap: list[tuple[Any, str, int, Any]] = []

    def offer(self, keys: Iterable[Any], ids: Iterable[str], part: Any) -> None:
        """Offer the rows of a record batch with their keys. Only rows that stay are copied."""
        for at, (key, name) in enumerate(zip(keys, ids, strict=True)):
            if len(self.heap) < self.many:
                heapq.heappush(self.heap, (key, name, at, part.slice(at, 1).to_pylist()[0]))
            elif (key, name) > self.heap[0][:2]:
                heapq.heapreplace(self.heap, (key, name, at, part.slice(at, 1).to_pylist()[0]))

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows, largest key first."""
        return [row for *_, row in sorted(self.heap, key=lambda entry: entry[:2], reverse=True)]


class _ImageSample:
    """All rows of the images with the smallest ids of those offered."""

    def __init__(self, many: int) -> None:
        self.many = many
        self.found: dict[str, list[dict[str, Any]]] = {}

    def offer(self, ids: Iterable[str], part: Any) -> None:
        """Offer the rows of a record batch. An image that was dropped is larger than all that stay."""
        for at, name in enumerate(ids):
            if name not in self.found:
                if len(self.found) == self.many:
                    largest = max(self.found)
                    if name > largest:
                        continue
                    del self.found[largest]
                self.found[name] = []
            self.found[name] += part.slice(at, 1).to_pylist()

    def images(self) -> list[list[dict[str, Any]]]:
        """Return the rows image by image, the smallest id first."""
        return [self.found[name] for name in sorted(self.found)]


def overview(out: str | Path, *, cards: int = 8, sheet: int = 24) -> Overview:
    """Summarise the finished shards of a run.

    Args:
        out: the output folder.
        cards: the number of most, and of least, concentrated maps of each method.
        sheet: the number of images chosen at random.

    Raises:
        ResultError: no run, no finished shard, or a shard that cannot be read.
    """
    folder = Path(out)
    found = Overview(read_plan(folder))
    for shard in finished_shards(folder):
        found.images, found.failed = found.images + shard.images, found.failed + shard.failed
        found.rows, found.seconds = found.rows + shard.rows, found.seconds + shard.seconds
    if not found.rows:
        raise ResultError(
            msg("batch.nothing-finished", "{path} has no finished shard yet", path=folder),
            msg("batch.nothing-finished.hint", "{@resume=True} continues the batch"),
        )
    broad, narrow = (defaultdict[str, _TopRows](lambda: _TopRows(cards)) for _ in range(2))
    sample = _ImageSample(sheet)
    attention = {name for name, method in METHODS if method.sums_to_one}
    kinds: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    collected: dict[str, dict[str, list[np.ndarray]]] = {}
    for part in row_batches(folder):
        broken = part.filter(pc.is_valid(part["error"]))
        for kind, message in zip(broken["error_kind"].to_pylist(), broken["error"].to_pylist(), strict=True):
            kinds[kind] += 1
            if len(messages := examples.setdefault(kind, [])) < _EXAMPLES and message not in messages:
                messages.append(message)
        fine = part.filter(pc.is_null(part["error"]))
        if not fine.num_rows:
            continue
        ids = fine["id"].to_pylist()
        shares, methods = _numbers(fine, collected), np.array(fine["method"].to_pylist())
        sample.offer(ids, fine)
        for method in np.unique(methods).tolist():
            of = methods == method
            rows, names = fine.filter(pa.array(of)), [name for name, same in zip(ids, of, strict=True) if same]
            broad[method].offer(shares[of], names, rows)
            narrow[method].offer(-shares[of], names, rows)
            if method in attention:
                _count_sinks(rows, found.sinks)
    found.failures = {kind: (count, examples[kind]) for kind, count in kinds.most_common()}
    found.numbers = {m: {n: np.concatenate(v) for n, v in values.items()} for m, values in sorted(collected.items())}
    found.broad, found.narrow = ({m: one.rows() for m, one in sorted(of.items())} for of in (broad, narrow))
    found.sample = sample.images()
    found.views = {path.stem: path.resolve() for path in sorted((folder / "views").glob("*.html"))}
    return found


def _column(part: Any, name: str) -> np.ndarray:
    return np.asarray(part[name].to_numpy(zero_copy_only=False), np.float32)


def _numbers(part: Any, into: dict[str, dict[str, list[np.ndarray]]]) -> Float[np.ndarray, " n"]:
    """Collect the numbers of a record batch; return the effective share of each map."""
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


def _count_sinks(part: Any, sinks: dict[tuple[int, int], SinkCounts]) -> None:
    """Count the sinks of each map, grid by grid."""
    grids = np.stack([_column(part, "grid_rows"), _column(part, "grid_columns")], 1).astype(int)
    for gh, gw in np.unique(grids, axis=0).tolist():
        same = part.filter(pa.array((grids == (gh, gw)).all(1)))
        maps = same["map"].flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, gh, gw)
        weight = np.clip(maps, 0, None)
        even = weight.mean((1, 2), keepdims=True)
        here = sinks.setdefault((gh, gw), SinkCounts(np.zeros((gh, gw), np.int64)))
        here.counts += (weight > SINK_FACTOR * even).sum(0)
        here.maps += len(maps)
