"""Measurements: numbers of one map, each compared with the same number of random maps. Numpy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from vitscope._messages import join_messages, json_text, msg
from vitscope.errors import UnknownNameError
from vitscope.metrics.faithfulness import POWER, Better, MeasureResult
from vitscope.metrics.table_files import write_table
from vitscope.metrics.verdict_text import leading, number_text, sanity_text

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
Bounds: TypeAlias = tuple[float | None, float | None]
_ALIKE: Mapping[int, Verdict] = {
    1: "more alike than chance",
    0: "as unlike as chance",
    -1: "more opposite than chance",
}
Group = Literal["faithfulness", "stability", "sanity", "localisation"]
LEVEL = 0.05  # how often a random map may be called better than random, and how often worse
RANDOM_MAPS = 19  # the fewest of which one in twenty can be told: the map is the best of 20


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
        low: the `rank`-th least random map, the lower end of the range that a verdict goes by.
        high: the `rank`-th largest.
        draws: the number of random maps.
        planned: the number that settles any verdict; fewer are drawn where a verdict is settled sooner.
        rank: a map is beyond one end of the random maps where fewer than so many of `planned` are as far out.
        above: how many random maps have a number as large as the map's or larger.
        below: how many have one as small or smaller.
        possible: the least and the largest possible number; None where there is no bound.
        x: the points of the curve, as fractions; empty for a number without a curve.
        y: the curve.
        around: mean, least and largest of the random maps' curves at each x, where they have any.
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
    planned: int
    rank: int
    above: int
    below: int
    possible: Bounds = (None, None)
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    around: tuple[tuple[float, float, float], ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def beaten(self) -> int:
        """How many random maps the map is better than."""
        return self.draws - (self.above if self.better == "higher" else self.below)

    @property
    def lost(self) -> int:
        """How many random maps the map is worse than."""
        return self.draws - (self.below if self.better == "higher" else self.above)

    @property
    def far(self) -> bool:
        """Whether the map is farther from the random maps' range than the range is wide."""
        return max(self.value - self.high, self.low - self.value) > self.high - self.low

    @property
    def beatable(self) -> bool:
        """Whether any map could be better than these random ones: too few have the best possible number."""
        best = self.possible[self.better == "higher"]
        if best is None:
            return True
        slack = _slack(self.low, self.high)
        return self.high < best - slack if self.better == "higher" else self.low > best + slack

    @property
    def power(self) -> float | None:
        """How many right maps the measure called better than random, on scenes of two networks; None if not known."""
        return POWER.get(self.name)

    @property
    def sentence(self) -> str:
        """What the number means, in one sentence; empty where it is not of faithfulness."""
        return number_text(self)

    @property
    def needed(self) -> int:
        """How many more random maps, at most, it takes to tell; 0 where the verdict stands."""
        return self.planned - self.draws if self._end is None else 0

    @property
    def _end(self) -> int | None:
        """1 where the map is above the random maps, -1 below, 0 within, None where more random maps have to tell.

        The number of random maps as far out can grow by those that are not drawn yet: a verdict stands where all of
        `planned` would give the same. So drawing stops early without changing any verdict.
        """
        left = self.planned - self.draws
        if self.above + left < self.rank or self.below + left < self.rank:
            return 1 if self.above + left < self.rank else -1
        return 0 if min(self.above, self.below) >= self.rank else None

    @property
    def verdict(self) -> Verdict:
        """Whether the map is among the best or the worst of itself and the random maps, or neither.

        `undecided`: there are not enough random maps to tell (`needed`), or those that there are have the best possible
        number, so that no map could be better. Sanity compares the map of changed weights with maps about something
        else: above them it is more alike than by chance, below them more opposite.
        """
        if self.group == "sanity":
            return _ALIKE[self._end or 0]
        if not self._end:
            return "no better than random" if self._end == 0 and self.beatable else "undecided"
        return "better than random" if (self._end > 0) == (self.better == "higher") else "worse than random"

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        listed = {"x": list(self.x), "y": list(self.y), "around": [list(at) for at in self.around]}
        listed |= {"possible": list(self.possible), "detail": dict(self.detail)}
        derived = ("beaten", "needed", "power", "verdict", "sentence")
        return fields | listed | {name: getattr(self, name) for name in derived}


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
        return json_text(self.to_dict())

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
        """Plot the curves of deletion and insertion over the random maps' mean, least and largest at each step.

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
            plotted.append(Curve(best, words, number.x, number.y, np.asarray(number.around)))
        return curves(plotted, self.score, f"{self.method} of {Path(self.picture).name}; replaced by: {self.baseline}")

    def sentence(self, brief: bool = False) -> str:
        """Say what the numbers mean, in a sentence for each question: hiding, showing alone, predicting, and so on.

        Args:
            brief: leave out values, baseline and score.
        """
        numbers = leading(self.numbers)
        findings = [*(number.sentence for number in numbers), self._stability(), self._sanity()]
        if not any(findings):
            return msg("metrics.nothing-measured", "{method}: nothing was measured.", method=self.method)
        details = "" if brief or not numbers else self._details(numbers)
        findings = [part for part in (*findings, details) if part]
        return msg(
            "metrics.sentence", "{method}: {findings}", method=self.method, findings=join_messages(" ", findings)
        )

    def _details(self, numbers: Sequence[Number]) -> str:
        values = [
            msg(
                "metrics.against",
                "{name} {value} against {random}",
                name=n.name,
                value=f"{n.value:.3g}",
                random=f"{n.random:.3g}",
            )
            for n in numbers
        ]
        return msg(
            "metrics.details",
            "In numbers: {values} (score: {score}; replaced patches: {baseline}).",
            values=join_messages(", ", values),
            score=self.score,
            baseline=self.baseline,
        )

    def _stability(self) -> str:
        number = next((n for n in self.numbers if n.name == "stability"), None)
        if number is None:
            return ""
        value = f"{number.value:.2f}"
        return msg("metrics.under-noise", "Its maps under small noise have a rank correlation of {value}.", value=value)

    def _sanity(self) -> str:
        number = next((n for n in self.numbers if n.name == "sanity-cascading"), None)
        return "" if number is None else sanity_text(number.verdict, number.value)


def compare_with_random(
    name: str,
    group: Group,
    better: Better,
    result: MeasureResult,
    randoms: Sequence[float],
    *,
    planned: int = 0,
    level: float = LEVEL,
    possible: Bounds = (None, None),
    curves: Sequence[Sequence[float]] = (),
) -> Number:
    """Compare a number with those of random maps.

    If the map were itself a random one, each of the `planned + 1` places among them would be as likely: it is among the
    `level` best, or worst, as often as that, whatever the distribution (a permutation test).

    Args:
        name: the measure.
        group: its question, as in `Number`.
        better: the direction that is better.
        result: the map's number and curve.
        randoms: the number of each random map that is drawn.
        planned: how many random maps can be drawn; at least 19 and as many as are drawn.
        level: how often chance alone may put a map beyond one end.
        possible: the least and the largest possible number.
        curves: the random maps' curves, over the same x.
    """
    planned, slack = max(planned, len(randoms), RANDOM_MAPS), _slack(result.value, *randoms)
    rank = int(level * (planned + 1) + 1e-9)
    mean, low, high = random_range(randoms, min(rank, (len(randoms) + 1) // 2))
    above, below = (sum(sign * (r - result.value) >= -slack for r in randoms) for sign in (1, -1))
    around = tuple(random_range(at) for at in zip(*curves, strict=True)) if curves and result.x else ()
    place = mean, low, high, len(randoms), planned, rank, above, below, possible
    return Number(name, group, result.value, better, *place, result.x, result.y, around, dict(result.detail))


def random_range(values: Sequence[float], rank: int = 1) -> tuple[float, float, float]:
    """Return the mean of values, the `rank`-th least and the `rank`-th largest."""
    ordered = np.sort(np.asarray(values, np.float64))
    mean = np.clip(ordered.mean(), ordered[0], ordered[-1])  # the mean of equal numbers is rounded
    return float(mean), float(ordered[rank - 1]), float(ordered[-rank])


def _slack(*values: float) -> float:
    return 1e-9 * max(map(abs, values))  # rounding is no verdict
