"""Attention statistics of one image: the record that `attention_streaming` computes. Numpy only."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float

from vitscope._messages import msg
from vitscope.errors import UsageError
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.metrics.head_kinds import NUMBERS
from vitscope.metrics.table_files import write_table

if TYPE_CHECKING:
    from PIL import Image

SCHEMA = 1
SHARES = ("cls", "registers", "other prefix", "self", "other patches")
PerHead: TypeAlias = Float[np.ndarray, " H"]
_PER_HEAD = (
    "entropy",
    "entropy_normalised",
    "readout_entropy",
    "readout_entropy_normalised",
    "distance",
    "distance_photo",
    "agreement",
    "importance",
    *NUMBERS,
)


@dataclass(frozen=True)
class Sink:
    """A token that collects attention: more than 6 median absolute deviations above the median patch.

    Attributes:
        token: its number in the layout's order.
        name: the prefix token's name, or `row,column` of the patch.
        place: row and column of the patch; None for a prefix token.
        received: its share of all attention, mean over heads and queries, in [0, 1].
        factor: `received` over the uniform share 1 / N.
        norm: the token's length at the input of the block; None where blocks are not known.
        norm_factor: that length over the median patch's.
    """

    token: int
    name: str
    place: tuple[int, int] | None
    received: float
    factor: float
    norm: float | None = None
    norm_factor: float | None = None


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """One layer's attention in numbers; None where the model does not allow to compute one.

    Attributes:
        name: the module that called attention.
        queries: queries of a head (of one window, where there are windows).
        keys: keys of a head, likewise.
        entropy: of an attention row in nats, mean over queries, in [0, log keys].
        entropy_normalised: `entropy` over log keys, in [0, 1].
        readout_entropy: the entropy of the row that the answer reads, `s A_h`.
        readout_entropy_normalised: the same over log keys.
        distance: mean attention distance of patch queries in pixels of the model's input.
        distance_photo: the same in pixels of the photo.
        shares: of the attention of patch queries, by destination (`SHARES`): each in [0, 1], together one.
        agreement: mean cosine between the head's rows and the other heads' rows, in [0, 1]; None with one head.
        importance: the score's drop when the head is silenced, where requested.
        kinds: what each head does on this image (`HeadKinds`, which has the numbers as well).
        sink_share: of all attention of patches, on the prefix and three patches.
        near_share: of a patch's attention on patches, in its neighbourhood.
        position_share: of the variance of those weights, what the offset alone foretells.
        object_ratio: attention to an object's patch over that to its background's; None without an object.
        own_ratio: attention to the asking patch's own side over that to the other; None without an object, or where
            patches of one side alone ask.
        effective_rank: of rollout up to this layer, in [1, N].
        received: each token's share of all attention, `(N,)`, summing to one.
        norms: each token's length at the input of the block, `(N,)`.
        sinks: tokens that collect attention in this layer, most first.
    """

    name: str
    queries: int
    keys: int
    entropy: PerHead
    entropy_normalised: PerHead
    readout_entropy: PerHead | None = None
    readout_entropy_normalised: PerHead | None = None
    distance: PerHead | None = None
    distance_photo: PerHead | None = None
    shares: Mapping[str, PerHead] = field(default_factory=dict)
    agreement: PerHead | None = None
    importance: PerHead | None = None
    kinds: tuple[str, ...] | None = None
    sink_share: PerHead | None = None
    near_share: PerHead | None = None
    position_share: PerHead | None = None
    object_ratio: PerHead | None = None
    own_ratio: PerHead | None = None
    effective_rank: float | None = None
    received: Float[np.ndarray, " N"] | None = None
    norms: Float[np.ndarray, " N"] | None = None
    sinks: tuple[Sink, ...] = ()

    @property
    def heads(self) -> int:
        """The number of heads, H."""
        return len(self.entropy)

    @property
    def head_agreement(self) -> float | None:
        """The mean cosine over all pairs of heads; None with one head."""
        return None if self.agreement is None else float(self.agreement.mean())

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "name": self.name,
            "heads": self.heads,
            "queries": self.queries,
            "keys": self.keys,
            **{name: _listed(getattr(self, name)) for name in _PER_HEAD},
            "kinds": None if self.kinds is None else list(self.kinds),
            "shares": {name: _listed(values) for name, values in self.shares.items()},
            "head_agreement": self.head_agreement,
            "effective_rank": self.effective_rank,
            "received": _listed(self.received),
            "norms": _listed(self.norms),
            "sinks": [asdict(sink) for sink in self.sinks],
        }


@dataclass(frozen=True, eq=False)
class Statistics:
    """The attention of one image in numbers, layer by layer and head by head. Made by `Scope.statistics`.

    Attributes:
        layers: first layer first.
        sinks: tokens that collect attention in the mean over all layers, most first; their `norm` is the largest over
            the layers' inputs.
        layout: which token is which.
        region: where patches lie on the photo.
        target: the target that `importance` scores, in words; None where it was not requested.
        score: the score of the whole model.
        unavailable: the reason for each number that could not be computed, by its name.
        provenance: model, weights, versions, size, seed and notes.
    """

    layers: tuple[LayerStatistics, ...]
    sinks: tuple[Sink, ...]
    layout: TokenLayout
    region: ImageRegion
    target: str | None = None
    score: float | None = None
    unavailable: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        heads = "/".join(dict.fromkeys(str(layer.heads) for layer in self.layers))
        return f"<Statistics {len(self.layers)} layers x {heads} heads, {len(self.sinks)} sinks>"

    def _repr_html_(self) -> str:
        from vitscope.render.html import numbers_html

        rows = [
            {
                "layer": number,
                "heads": layer.heads,
                "entropy": float(layer.entropy.mean()),
                "distance": None if layer.distance is None else float(layer.distance.mean()),
                "effective rank": layer.effective_rank,
            }
            for number, layer in enumerate(self.layers)
        ]
        return numbers_html(f"attention by layer, {len(self.sinks)} sinks", rows, self.plot(), "every head by depth")

    def by_head(self, name: str) -> list[Float[np.ndarray, " _"]]:
        """Return one number per head, layer by layer.

        Args:
            name: `entropy`, `distance`, `importance`, ..., or a share such as `self`.

        Raises:
            UsageError: no such number, or not for this model or call.
        """
        if name not in (*_PER_HEAD, *SHARES):
            raise UsageError(
                msg("metrics.no-such-statistic", "there is no statistic '{name}'", name=name),
                msg("metrics.no-such-statistic.hint", "choices: {names}", names=", ".join((*_PER_HEAD, *SHARES))),
            )
        found = [layer.shares.get(name) if name in SHARES else getattr(layer, name) for layer in self.layers]
        known = [values for values in found if values is not None]
        if len(known) < len(found):
            kind = "shares" if name in SHARES else name
            single = msg("metrics.single-head", "a layer has a single head")
            raise UsageError.coded(
                "metrics.unavailable",
                "{name} is not available: {reason}",
                name=name,
                reason=self.unavailable.get(kind, single),
            )
        return known

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict for each layer and head, all with the same keys: a table."""
        table: list[dict[str, Any]] = []
        for number, layer in enumerate(self.layers):
            for head in range(layer.heads):
                row: dict[str, Any] = {"layer": number, "head": head, "module": layer.name}
                row |= {"queries": layer.queries, "keys": layer.keys}
                row |= {name: _one(getattr(layer, name), head) for name in _PER_HEAD}
                row |= {f"share_{name.replace(' ', '_')}": _one(layer.shares.get(name), head) for name in SHARES}
                row["kind"] = None if layer.kinds is None else layer.kinds[head]
                table.append(row | {"effective_rank": layer.effective_rank})
        return table

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON; None for numbers that are not available."""
        return {
            "schema": SCHEMA,
            "kind": "attention statistics",
            "target": self.target,
            "score": self.score,
            "sinks": [asdict(sink) for sink in self.sinks],
            "layers": [layer.to_dict() for layer in self.layers],
            "unavailable": dict(self.unavailable),
            "layout": asdict(self.layout),
            "region": asdict(self.region),
            "provenance": dict(self.provenance),
        }

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write a file: `.json` holds everything (`to_dict`), `.parquet` the table (`rows`).

        Args:
            path: the file; missing folders are made.
            force: replace a file that is already there.

        Raises:
            UsageError: another ending.
            MissingDependencyError: Parquet without pyarrow.
            ResultError: the path is taken, or cannot be written.
        """
        return write_table(Path(path), self.to_dict(), self.rows(), without=("layers",), force=force)

    def plot(self) -> "Image.Image":
        """Plot attention distance and entropy by depth, one dot per head (Dosovitskiy et al. 2021, figure 7).

        Where available, also the effective rank of rollout by depth and each head's importance.
        """
        from vitscope.render.plots import Panel, by_depth

        panels = []
        if "distance" not in self.unavailable:
            top = math.hypot(*self.region.input)
            panels.append(Panel("mean attention distance", "pixels of the input", self.by_head("distance"), top=top))
        limits = [math.log(layer.keys) for layer in self.layers]
        panels.append(Panel("entropy of attention rows", "nats", self.by_head("entropy"), limits, "uniform attention"))
        if all(layer.importance is not None for layer in self.layers):
            panels.append(Panel("importance of heads", f"score drop ({self.target})", self.by_head("importance")))
        ranks = [layer.effective_rank for layer in self.layers]
        if all(rank is not None for rank in ranks):
            most = [float(self.layout.tokens)] * len(ranks)
            points = [np.array([rank]) for rank in ranks]
            panels.append(Panel("effective rank of rollout", "dimensions", points, most, "number of tokens"))
        title = f"{self.provenance.get('model', '')}: {Path(str(self.provenance.get('source', ''))).name}"
        return by_depth(panels, title.strip(": "))


def _one(values: Sequence[float] | np.ndarray | None, head: int) -> float | None:
    return None if values is None else float(values[head])


def _listed(values: Iterable[float] | None) -> list[float] | None:
    return None if values is None else [float(value) for value in values]
