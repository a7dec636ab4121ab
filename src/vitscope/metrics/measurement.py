"""Measurements: numbers of one map, each compared with the same number of random maps. Numpy only."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from vitscope._messages import join_messages, msg
from vitscope.errors import UnknownNameError
from vitscope.metrics.faithfulness import Better, MeasureResult
from vitscope.metrics.table_files import write_table
from vitscope.metrics.verdict_text import faithfulness_text, sanity_text

if TYPE_CHECKING:
    from PIL import Image

Verdict = Literal[
    "better than random",
    "no better than random",
    "worse than random",
    "undecided",
    "more alike than chance",
    "as unlike as chance",
    "more opposite than chance",
]
IntervalKind: TypeAlias = Literal["t", "ranks", "percentiles"]
Bounds: TypeAlias = tuple[float | None, float | None]
Group = Literal["faithfulness", "stability", "sanity", "localisation"]
_OUTSIDE = 0.025  # the share of random maps beyond one end of their interval
_RANKS = 39  # with so many random maps, their least and largest are the ends of a 95 % interval


@dataclass(frozen=True)
class Number:
    """One number of a map, compared with that of random maps.

    Attributes:
        name: the measure.
        group: `faithfulness`: does the score follow the map? `stability`: does the map stay under small noise?
            `sanity`: does the map change when the model's weights do? `localisation`: does it lie on a known object?
        value: the map's number.
        better: the direction that is better.
        random: the mean over the random maps.
        low: lower end of the 95 % interval of one random map.
        high: its upper end.
        draws: the number of random maps.
        interval: how it was made (`prediction_interval`): `t` from a mean and a standard deviation, `ranks` from the
            k-th least and the k-th largest random map, `percentiles` from the 2.5th and the 97.5th.
        possible: the least and the largest possible number; None where there is no bound.
        x: the points of the curve, as fractions; empty for a number without a curve.
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
    interval: IntervalKind = "t"
    possible: Bounds = (None, None)
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    around: tuple[tuple[float, float, float], ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> tuple[float, float]:
        """The interval cut to the possible numbers, for display; verdicts use all of it."""
        least, most = self.possible
        cut = [max(end, least) if least is not None else end for end in (self.low, self.high)]
        low, high = (min(end, most) if most is not None else end for end in cut)
        return low, high

    @property
    def beatable(self) -> bool:
        """Whether any map could be better than these random ones: their interval lacks the best possible number."""
        best = self.possible[self.better == "higher"]
        if best is None:
            return True
        return self.high < best - self._slack if self.better == "higher" else self.low > best + self._slack

    @property
    def _slack(self) -> float:
        return 1e-9 * max(abs(self.low), abs(self.high))  # rounding is no verdict

    @property
    def verdict(self) -> Verdict:
        """Whether the value lies outside the random maps' interval, on the better or the worse side, or inside.

        Inside an interval that contains the best possible number it is `undecided`: no map could have been better.
        Sanity compares the map of changed weights with maps about something else: above their interval it is more
        alike than by chance, below it more opposite.
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
        """Return everything, ready for JSON."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        listed = {"x": list(self.x), "y": list(self.y), "around": [list(at) for at in self.around]}
        listed |= {"possible": list(self.possible), "shown": list(self.shown)}
        return fields | listed | {"detail": dict(self.detail), "verdict": self.verdict}


@dataclass(frozen=True)
class Measurement:
    """How far one map can be believed, in numbers.

    Attributes:
        method: the method that made the map.
        picture: the source of the image.
        model: the model's reference.
        score: the score that is followed, in words.
        whole: that score of the whole image.
        empty: that score with every patch replaced; None where nothing was replaced.
        baseline: what patches were replaced by.
        numbers: the numbers.
        forwards: the images that went through the model for the scores.
        explanations: how many times the map was made again, each at its method's own cost.
        options: all other options that the numbers depend on.
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
        kind = msg("metrics.number-kind", "number of this measurement")
        raise UnknownNameError(kind, name, [number.name for number in self.numbers])

    def __repr__(self) -> str:
        numbers = ", ".join(f"{n.name} {n.value:.3g} ({n.verdict})" for n in self.numbers)
        return f"<Measurement {self.method!r} of {Path(self.picture).name}: {numbers or 'no numbers'}>"

    def _repr_html_(self) -> str:
        from vitscope.render.html import numbers_html

        curves = any(number.name in ("deletion", "insertion") for number in self.numbers)
        return numbers_html(self.sentence(), self.rows(), self.plot() if curves else None, "curves beside random maps")

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each number: name, value, better, random, low, high, draws, verdict."""
        columns = ("name", "value", "better", "random", "low", "high", "draws", "verdict")
        return [{column: getattr(number, column) for column in columns} for number in self.numbers]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return fields | {
            "numbers": [number.to_dict() for number in self.numbers],
            "options": dict(self.options),
            "notes": list(self.notes),
            "sentence": self.sentence(),
        }

    def to_json(self) -> str:
        """Return everything as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

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
        return write_table(Path(path), self.to_dict(), self.rows(), without=("numbers",), force=force)

    def plot(self) -> "Image.Image":
        """Plot the curves of deletion and insertion over the random maps' mean and 95 % interval at each step.

        Raises:
            UsageError: neither was measured.
        """
        from vitscope.render.plots import Curve, curves

        plotted = []
        for number in (n for n in self.numbers if n.name in ("deletion", "insertion")):
            best = (
                f"{number.name}: area {number.value:.3f}, random maps {number.random:.3f} ({number.better} is better)"
            )
            words = "patches replaced, highest first" if number.name == "deletion" else "patches shown, highest first"
            around = (
                np.clip(np.array(number.around), *number.possible) if None not in number.possible else number.around
            )
            plotted.append(Curve(best, words, number.x, number.y, np.asarray(around)))
        return curves(plotted, self.score, f"{self.method} of {Path(self.picture).name}; replaced by: {self.baseline}")

    def sentence(self, brief: bool = False) -> str:
        """Sum up the verdicts of the numbers in one sentence.

        Args:
            brief: leave out the two best known numbers, the baseline and the score.

        Of m measures of faithfulness, a random map lies beyond the better end of `0.025 m` on average, so at most
        `0.025 m / k` of random maps do so by k or more (Markov's inequality, however the measures depend on each
        other). Where that is above 5 %, the sentence says so.
        """
        findings = [part for part in (self._faithfulness(brief), self._stability(), self._sanity()) if part]
        if not findings:
            return msg("metrics.nothing-measured", "{method}: nothing was measured.", method=self.method)
        return msg(
            "metrics.sentence", "{method}: {findings}.", method=self.method, findings=join_messages("; ", findings)
        )

    def _faithfulness(self, brief: bool) -> str:
        numbers = [number for number in self.numbers if number.group == "faithfulness"]
        if not numbers:
            return ""
        names: dict[str, list[str]] = {verdict: [] for verdict in get_args(Verdict)}
        for number in numbers:
            names[number.verdict].append(number.name)
        return faithfulness_text(names, [] if brief else self._details(numbers), 2 * _OUTSIDE)

    def _details(self, numbers: Sequence[Number]) -> list[str]:
        """Return the two best known numbers, the baseline, the score and the number of random maps."""
        draws = sorted({number.draws for number in numbers})
        maps = msg("metrics.random-maps", "{number} random maps", number=draws[0])
        if draws[0] != draws[-1]:
            maps = msg("metrics.random-maps-range", "{least} to {most} random maps", least=draws[0], most=draws[-1])
        return [
            *(
                msg(
                    "metrics.against",
                    "{name} {value} against {random}",
                    name=n.name,
                    value=f"{n.value:.3g}",
                    random=f"{n.random:.3g}",
                )
                for n in numbers
                if n.name in ("deletion", "insertion")
            ),
            msg("metrics.replaced-by", "replaced patches: {baseline}", baseline=self.baseline),
            msg("metrics.score", "score: {score}", score=self.score),
            maps,
        ]

    def _stability(self) -> str:
        number = next((n for n in self.numbers if n.name == "stability"), None)
        if number is None:
            return ""
        return msg(
            "metrics.under-noise", "rank correlation of its maps under small noise {value}", value=f"{number.value:.2f}"
        )

    def _sanity(self) -> str:
        number = next((n for n in self.numbers if n.name == "sanity-cascading"), None)
        if number is None:
            return ""
        return sanity_text(number.verdict, number.value)


def compare_with_random(
    name: str,
    group: Group,
    better: Better,
    result: MeasureResult,
    randoms: Sequence[float],
    interval: IntervalKind | None = None,
    *,
    possible: Bounds = (None, None),
    curves: Sequence[Sequence[float]] = (),
) -> Number:
    """Compare a number with those of random maps, two at least.

    Args:
        name: the measure.
        group: its question, as in `Number`.
        better: the direction that is better.
        result: the map's number and curve.
        randoms: the number of each random map.
        interval: how their interval is made; by default `ranks` from 39 maps on, else `t`.
        possible: the least and the largest possible number.
        curves: the random maps' curves, over the same x.
    """
    kind: IntervalKind = interval or ("ranks" if len(randoms) >= _RANKS else "t")
    mean, low, high = prediction_interval(randoms, kind)
    around = tuple(prediction_interval(at) for at in zip(*curves, strict=True)) if curves and result.x else ()
    curve = result.x, result.y, around
    return Number(
        name, group, result.value, better, mean, low, high, len(randoms), kind, possible, *curve, dict(result.detail)
    )


def prediction_interval(values: Sequence[float], interval: IntervalKind = "t") -> tuple[float, float, float]:
    """Return the mean of n values and the interval in which one more lies with 95 % probability.

    `t`: mean ± t(.975, n - 1) s sqrt(1 + 1/n), if values are normally distributed; it can exceed the possible numbers.
    `ranks`: from the k-th least to the k-th largest, k = .025 (n + 1) rounded down: 95 % or more for any distribution
    (Wilks 1941), from 39 values on. `percentiles`: the 2.5th to the 97.5th of the values.
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
    """Return the quantile of Student's t, for probabilities in [0.5, 1), exact to about 1e-6.

    With `t = sqrt(f) tan(a)` the density is proportional to `cos(a) ** (f - 1)`, summed up on a fine grid of angles.
    """
    angle = np.linspace(0, np.pi / 2, 200_001)
    density = np.cos(angle) ** (freedom - 1)
    mass = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(freedom**0.5 * np.tan(np.interp(2 * probability - 1, mass / mass[-1], angle)))
