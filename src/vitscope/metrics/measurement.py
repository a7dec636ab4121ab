"""What a measurement is: numbers of one map, each beside the same number of random maps. Numpy only."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from vitscope.errors import UnknownNameError
from vitscope.metrics.faithfulness import Better, MeasureResult
from vitscope.metrics.table_files import write_table

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Measurement", "Number", "Verdict", "compare_with_random", "prediction_interval", "student_quantile"]

Verdict = Literal[
    "better than random",
    "no better than random",
    "worse than random",
    "undecided",
    "more alike than chance",
    "as unlike as chance",
    "more opposite than chance",
]
Interval: TypeAlias = Literal["t", "ranks", "percentiles"]
Bounds: TypeAlias = tuple[float | None, float | None]
Group = Literal["faithfulness", "stability", "sanity", "localisation"]
_OUTSIDE = 0.025  # how often a random map lies beyond one end of its own interval
_RANKS = 39  # random maps of which the least and the largest are the ends of a 95 % interval


@dataclass(frozen=True)
class Number:
    """One number of a map beside that of random maps.

    Attributes:
        name: which measure.
        group: `faithfulness`: does the score follow the map. `stability`: does the map stay under small noise.
            `sanity`: does the map change when the model's weights do. `localisation`: does it lie on a known object.
        value: the map's.
        better: which direction is better.
        random: the mean over the random maps.
        low: lower end of the 95 % interval of one random map.
        high: its upper end.
        draws: how many random maps.
        interval: how it was made (`band`): `t` from a mean and a standard deviation, `ranks` from the k-th least and
            the k-th largest random map, `percentiles` from the 2.5th and the 97.5th.
        possible: the least and the largest number possible; None where there is no end.
        x: where the curve was read, as a fraction; empty for a number without a curve.
        y: the curve.
        around: mean, low and high of the random maps' curves at each x, where they have any.
        detail: other numbers by name.
    """

    name: str
    group: Group
    value: float
    better: Better
    random: float
    low: float
    high: float
    draws: int
    interval: Interval = "t"
    possible: Bounds = (None, None)
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    around: tuple[tuple[float, float, float], ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> tuple[float, float]:
        """The interval as far as numbers can be there: for people; verdicts use the whole of it."""
        least, most = self.possible
        cut = [max(end, least) if least is not None else end for end in (self.low, self.high)]
        low, high = (min(end, most) if most is not None else end for end in cut)
        return low, high

    @property
    def beatable(self) -> bool:
        """Could any map be better than these random ones? Not where their interval holds the best possible number."""
        best = self.possible[self.better == "higher"]
        if best is None:
            return True
        return self.high < best - self._slack if self.better == "higher" else self.low > best + self._slack

    @property
    def _slack(self) -> float:
        return 1e-9 * max(abs(self.low), abs(self.high))  # rounding is no verdict

    @property
    def verdict(self) -> Verdict:
        """Where the value lies: outside the random maps' interval on the good or the bad side, or inside.

        Inside an interval that holds the best possible number it is `undecided`: no map could have been better.
        Sanity asks another question: how the map of changed weights compares with maps about something else. Above
        their interval it is more alike than chance has it, below it the same turned over.
        """
        above, below = self.value > self.high + self._slack, self.value < self.low - self._slack
        if self.group == "sanity":
            return (
                "more alike than chance" if above else "more opposite than chance" if below else "as unlike as chance"
            )
        if not above and not below:
            return "no better than random" if self.beatable else "undecided"
        return "better than random" if above == (self.better == "higher") else "worse than random"

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        listed = {"x": list(self.x), "y": list(self.y), "around": [list(at) for at in self.around]}
        listed |= {"possible": list(self.possible), "shown": list(self.shown)}
        return fields | listed | {"detail": dict(self.detail), "verdict": self.verdict}


@dataclass(frozen=True)
class Measurement:
    """How far one map can be believed, in numbers.

    Attributes:
        method: whose map it is.
        picture: what was explained.
        model: which model.
        score: what is asked of the model, in words.
        whole: that score of the whole picture.
        empty: that score with every patch replaced; None where nothing was replaced.
        baseline: what stood where a patch was.
        numbers: the numbers.
        forwards: how many pictures went through the model for the scores.
        explanations: how many times the map was made again, each at its method's own cost.
        options: everything else that the numbers depend on.
        notes: what was chosen or found on the way.
    """

    method: str
    picture: str
    model: str
    score: str
    whole: float
    empty: float | None
    baseline: str
    numbers: tuple[Number, ...]
    forwards: int
    explanations: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Number:
        for number in self.numbers:
            if number.name == name:
                return number
        raise UnknownNameError("number of this measurement", name, [number.name for number in self.numbers])

    def __repr__(self) -> str:
        numbers = ", ".join(f"{n.name} {n.value:.3g} ({n.verdict})" for n in self.numbers)
        return f"<Measurement {self.method!r} of {Path(self.picture).name}: {numbers or 'no numbers'}>"

    def _repr_html_(self) -> str:
        from vitscope.render.html import numbers_html

        curves = any(number.name in ("deletion", "insertion") for number in self.numbers)
        return numbers_html(self.sentence(), self.rows(), self.plot() if curves else None, "curves beside random maps")

    def rows(self) -> list[dict[str, Any]]:
        """One row for each number: name, value, better, random, low, high, draws, verdict."""
        columns = ("name", "value", "better", "random", "low", "high", "draws", "verdict")
        return [{column: getattr(number, column) for column in columns} for number in self.numbers]

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return fields | {
            "numbers": [number.to_dict() for number in self.numbers],
            "options": dict(self.options),
            "notes": list(self.notes),
            "sentence": self.sentence(),
        }

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write a file: `.json` holds everything (`to_dict`), `.parquet` the table (`rows`).

        Args:
            path: where; its folder is made.
            force: replace a file that is already there.

        Raises:
            UsageError: another ending.
            MissingDependencyError: Parquet without pyarrow.
            ResultError: something is already there, or it cannot be written.
        """
        return write_table(Path(path), "measurements", self.to_dict(), self.rows(), without=("numbers",), force=force)

    def plot(self) -> "Image.Image":
        """Deletion and insertion as curves, over those of random maps: their mean and 95 % interval at each step.

        Raises:
            UsageError: neither of the two was measured.
        """
        from vitscope.render.plots import Curve, curves

        drawn = []
        for number in (n for n in self.numbers if n.name in ("deletion", "insertion")):
            best = (
                f"{number.name}: area {number.value:.3f}, random maps {number.random:.3f} ({number.better} is better)"
            )
            words = "patches replaced, highest first" if number.name == "deletion" else "patches shown, highest first"
            around = (
                np.clip(np.array(number.around), *number.possible) if None not in number.possible else number.around
            )
            drawn.append(Curve(best, words, number.x, number.y, np.asarray(around)))
        return curves(drawn, self.score, f"{self.method} of {Path(self.picture).name}; replaced by: {self.baseline}")

    def sentence(self, brief: bool = False) -> str:
        """One sentence of verdict, made from the verdicts of the numbers alone.

        Args:
            brief: without the two best known numbers and what was asked, for where they stand beside it.

        Of m measures of faithfulness a random map lies beyond the good end of `0.025 m` on average, so at most
        `0.025 m / k` of random maps (Markov's inequality, however the measures hang together) do so by k or more. Where
        that is above 5 % the sentence says so.
        """
        said = [part for part in (self._faithfulness(brief), self._stability(), self._sanity()) if part]
        return f"{self.method}: {'; '.join(said)}." if said else f"{self.method}: nothing was measured."

    def _faithfulness(self, brief: bool) -> str:
        of = [number for number in self.numbers if number.group == "faithfulness"]
        if not of:
            return ""
        draws, count = sorted({number.draws for number in of}), len(of)
        maps = " to ".join(map(str, dict.fromkeys((draws[0], draws[-1]))))
        words = [f"{n.name} {n.value:.3g} against {n.random:.3g}" for n in of if n.name in ("deletion", "insertion")]
        words += [f"replaced patches: {self.baseline}", f"score: {self.score}", f"{maps} random maps"]
        words = [] if brief else words
        by = {verdict: [n.name for n in of if n.verdict == verdict] for verdict in get_args(Verdict)}
        better, worse, same = (by[f"{how} than random"] for how in ("better", "worse", "no better"))
        open_, reach = by["undecided"], "random maps reach the best possible value"
        if not better and not worse:
            words += [f"for {', '.join(open_)} {reach}"] if open_ else []
            return f"no measure of {count} tells the map from random maps{_in_brackets(words)}"
        parts = [_counted(kind, names, count) for kind, names in (("better", better), ("worse", worse)) if names]
        if better and same:
            parts.append(f"no better by {len(same)} ({', '.join(same)})")
        if open_:
            parts.append(f"undecided by {len(open_)} ({', '.join(open_)}: {reach})")
        return f"{', '.join(parts)}{_in_brackets(words)}"

    def _stability(self) -> str:
        found = next((n for n in self.numbers if n.name == "stability"), None)
        return "" if found is None else f"rank correlation of its maps under small noise {found.value:.2f}"

    def _sanity(self) -> str:
        found = next((n for n in self.numbers if n.name == "sanity-cascading"), None)
        if found is None:
            return ""
        return f"with all weights drawn anew its map is {found.verdict} (rank correlation {found.value:.2f})"


def _in_brackets(words: Sequence[str]) -> str:
    return f" ({'; '.join(words)})" if words else ""


def _counted(kind: str, names: Sequence[str], count: int) -> str:
    """How many measures say so, and how often chance does where that is more than one random map in twenty."""
    chance = min(1.0, _OUTSIDE * count / len(names))
    told = f"{kind} than random maps by {len(names)} of {count} measures ({', '.join(names)})"
    return told if chance <= 2 * _OUTSIDE else f"{told}, which chance alone gives to up to {chance:.0%} of random maps"


def compare_with_random(
    name: str,
    group: Group,
    better: Better,
    found: MeasureResult,
    randoms: Sequence[float],
    interval: Interval | None = None,
    *,
    possible: Bounds = (None, None),
    curves: Sequence[Sequence[float]] = (),
) -> Number:
    """A number beside its random counterparts, two at least.

    Args:
        name: which measure.
        group: what it asks, as in `Number`.
        better: which direction is better.
        found: the map's own number and curve.
        randoms: the number of each random map.
        interval: how their interval is made; None: `ranks` from 39 on, else `t`.
        possible: the least and the largest number possible.
        curves: random maps' curves, over the same x.
    """
    kind: Interval = interval or ("ranks" if len(randoms) >= _RANKS else "t")
    mean, low, high = prediction_interval(randoms, kind)
    around = tuple(prediction_interval(at) for at in zip(*curves, strict=True)) if curves and found.x else ()
    return Number(
        name,
        group,
        found.value,
        better,
        mean,
        low,
        high,
        len(randoms),
        kind,
        possible,
        found.x,
        found.y,
        around,
        dict(found.detail),
    )


def prediction_interval(values: Sequence[float], interval: Interval = "t") -> tuple[float, float, float]:
    """Mean of n values, and where one more such value lies with 95 % probability.

    `t`: mean ± t(.975, n - 1) s sqrt(1 + 1/n), if values are normally distributed; it can reach beyond what is
    possible. `ranks`: from the k-th least to the k-th largest, k = .025 (n + 1) rounded down: with 95 % or more however
    they are distributed (Wilks 1941), for 39 values and more. `percentiles`: the 2.5th to the 97.5th of the values.
    """
    x = np.asarray(values, np.float64)
    mean, n = float(x.mean()), x.size
    if interval == "percentiles":
        low, high = np.percentile(x, [2.5, 97.5])
        return mean, float(low), float(high)
    if interval == "ranks":
        k = int(_OUTSIDE * (n + 1) + 1e-9)
        ordered = np.sort(x)
        return mean, float(ordered[k - 1]), float(ordered[n - k])
    half = student_quantile(1 - _OUTSIDE, n - 1) * float(x.std(ddof=1)) * (1 + 1 / n) ** 0.5
    return mean, mean - half, mean + half


@lru_cache
def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t, for probabilities in [0.5, 1): exact to about 1e-6.

    With `t = sqrt(f) tan(a)` its density is proportional to `cos(a) ** (f - 1)`: summed up on a fine grid of angles.
    """
    angle = np.linspace(0, np.pi / 2, 200_001)
    density = np.cos(angle) ** (freedom - 1)
    mass = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(freedom**0.5 * np.tan(np.interp(2 * probability - 1, mass / mass[-1], angle)))
