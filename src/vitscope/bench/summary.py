"""Summarises results as a table: means with intervals, by group, each method compared with the first."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from vitscope._messages import msg
from vitscope.bench.cases import BenchmarkInfo
from vitscope.bench.planted import SIZES
from vitscope.bench.run_log import CaseResult
from vitscope.errors import MethodError
from vitscope.metrics.localisation import pool_counts
from vitscope.metrics.resampling import Difference, Estimate, bootstrap, holm, paired

_POOL_DRAWS = 1000


@dataclass(frozen=True)
class MethodScore:
    """One method's row of the table.

    Attributes:
        method: the method's label.
        resolved: the method and options that ran.
        count: cases with numbers.
        failed: cases without numbers for this method.
        numbers: each metric over the cases that have it, with a 95 % bootstrap interval.
        groups: the means by group.
        seconds: median over the cases of the seconds of one map.
        ratio: seconds of one map over those of a plain forward, median over the cases with its interval; None where not
            measured.
        difference: the headline minus the first method's, on the same cases; None for the first itself.
        p: of that difference, corrected by Holm for the number of methods.
    """

    method: str
    resolved: str
    count: int
    failed: int
    numbers: Mapping[str, Estimate]
    groups: Mapping[str, Mapping[str, float]]
    seconds: float
    ratio: Estimate | None = None
    difference: Difference | None = None
    p: float | None = None


@dataclass(frozen=True)
class BenchmarkSummary:
    """A benchmark's table.

    Attributes:
        kind: its name, such as `planted`.
        info: what its table shows.
        scores: a row for each method, the best headline first.
        reference: the method that the others are compared with.
        groups: the number of cases in each group.
        options: everything that the numbers depend on.
        notes: remarks, such as on failed cases.
    """

    kind: str
    info: BenchmarkInfo
    scores: tuple[MethodScore, ...]
    reference: str
    groups: Mapping[str, int]
    options: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def headings(self) -> list[str]:
        """Return the headings of the table's columns."""
        shown = [self.info.metrics[name] for name in self.shown()]
        cost = ["x forward"] if self.timed else ["s"]
        return ["method", *shown, f"{self.info.metrics[self.info.headline]} against {self.reference}", *cost]

    def table(self, intervals: bool = True) -> list[list[str]]:
        """Return the rows; without `intervals`, only the headline has its interval."""
        return [
            [
                score.method,
                *(_cell(score.numbers.get(name), intervals or name == self.info.headline) for name in self.shown()),
                _against(score),
                *([_ratio(score.ratio)] if self.timed else [f"{score.seconds:.2f}"]),
            ]
            for score in self.scores
        ]

    def shown(self) -> list[str]:
        """Return the metrics that any method has."""
        return [name for name in self.info.metrics if any(name in score.numbers for score in self.scores)]

    @property
    def timed(self) -> bool:
        """Whether cost was measured beside a plain forward."""
        return any(score.ratio is not None for score in self.scores)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON values."""
        return {
            "bench": self.kind,
            "reference": self.reference,
            "headline": self.info.headline,
            "scores": [asdict(score) for score in self.scores],
            "groups": dict(self.groups),
            "options": dict(self.options),
            "notes": list(self.notes),
        }


def summarise(
    kind: str,
    info: BenchmarkInfo,
    rows: Sequence[CaseResult],
    options: Mapping[str, Any],
    notes: Sequence[str] = (),
    seed: int = 0,
) -> BenchmarkSummary:
    """Summarise results; the first result's method is the reference.

    Raises:
        MethodError: no method has a number on any case.
    """
    of_method: dict[str, list[CaseResult]] = {}
    for row in rows:
        of_method.setdefault(row.method, []).append(row)
    good = {method: [row for row in own if not row.error] for method, own in of_method.items()}
    if not any(good.values()):
        if not rows:
            raise MethodError(msg("bench.no-cases", "there are no cases"))
        raise MethodError(msg("bench.no-numbers", "no method has a number on any case: {reason}", reason=rows[0].error))
    reference = next(method for method, own in good.items() if own)
    scores = [_score(method, good[method], of_method[method], info, seed) for method in of_method]
    compared = [(score, _difference(good[score.method], good[reference], info, seed)) for score in scores]
    ps = iter(holm([d.p for score, d in compared if d is not None and score.method != reference]))
    finished = [
        score if difference is None or score.method == reference else replace(score, difference=difference, p=next(ps))
        for score, difference in compared
    ]
    best = sorted(finished, key=lambda s: -(s.numbers[info.headline].value if info.headline in s.numbers else -1.0))
    cases = {row.case: row.group for own in good.values() for row in own}
    counts = {group: list(cases.values()).count(group) for group in _ordered(cases.values())}
    notes = [*notes, *_failures(of_method)]
    return BenchmarkSummary(kind, info, tuple(best), reference, counts, dict(options), tuple(notes))


def _score(
    method: str, own: Sequence[CaseResult], everything: Sequence[CaseResult], info: BenchmarkInfo, seed: int
) -> MethodScore:
    numbers = {}
    for name in info.metrics:
        if name in info.pooled:
            counts = np.array([row.numbers["counts"] for row in own], np.float64)
            if len(counts):
                numbers[name] = bootstrap(counts, partial(_pooled, name), seed=seed, draws=_POOL_DRAWS)
        elif values := [float(row.numbers[name]) for row in own if name in row.numbers]:
            numbers[name] = bootstrap(np.array(values), seed=seed)
    groups: dict[str, dict[str, float]] = {}
    for group in _ordered(row.group for row in own):
        part = [row.numbers for row in own if row.group == group]
        groups[group] = {
            name: _mean(part, name, name in info.pooled)
            for name in info.metrics
            if name in info.pooled or any(name in one for one in part)
        }
    costs = np.array([row.seconds / row.forward for row in own if row.forward])
    return MethodScore(
        method,
        next((row.resolved for row in own if row.resolved), ""),
        len(own),
        len(everything) - len(own),
        numbers,
        groups,
        float(np.median([row.seconds for row in own])) if own else 0.0,
        bootstrap(costs, lambda x: float(np.median(x)), seed=seed, draws=_POOL_DRAWS) if len(costs) else None,
    )


def _mean(part: Sequence[Mapping[str, Any]], name: str, together: bool) -> float:
    if together:
        return _pooled(name, np.array([one["counts"] for one in part]))
    return float(np.mean([one[name] for one in part if name in one]))


def _pooled(name: str, counts: np.ndarray) -> float:
    return float(getattr(pool_counts(counts), name))


def _difference(
    ours: Sequence[CaseResult], theirs: Sequence[CaseResult], info: BenchmarkInfo, seed: int
) -> Difference | None:
    """Compare on the cases that both have. Of pooled numbers, each image's own is compared."""
    name = "iou_mean" if info.headline == "miou" else info.headline
    there = {row.case: row.numbers[name] for row in theirs if name in row.numbers}
    pairs = [(row.numbers[name], there[row.case]) for row in ours if name in row.numbers and row.case in there]
    if not pairs:
        return None
    mine, other = np.array(pairs, np.float64).T
    return paired(mine, other, seed=seed)


def _failures(of_method: Mapping[str, Sequence[CaseResult]]) -> list[str]:
    """Return a note for each method with failed cases. One note, where all methods failed alike."""
    failures = {}
    for method, own in of_method.items():
        if bad := [row for row in own if row.error]:
            failures[method] = {"failed": len(bad), "total": len(own), "reason": bad[0].error}
    first = next(iter(failures.values()), {})
    if len(failures) == len(of_method) > 1 and all(one == first for one in failures.values()):
        return [
            msg(
                "bench.failed-for-all",
                "{failed} of {total} cases have no numbers for any method; the first error: {reason}",
                **first,
            )
        ]
    return [
        msg(
            "bench.failed-for-one",
            "{method}: {failed} of {total} cases have no numbers; the first error: {reason}",
            method=method,
            **one,
        )
        for method, one in failures.items()
    ]


def _ordered(groups: Any) -> list[str]:
    """Return the groups: sizes from small to large, others by name."""
    return sorted(set(groups), key=lambda g: (SIZES.index(g) if g in SIZES else len(SIZES), g))


def _cell(estimate: Estimate | None, interval: bool) -> str:
    if estimate is None:
        return ""
    if not interval:
        return format_number(estimate.value)
    return f"{format_number(estimate.value)} [{format_number(estimate.low)} {format_number(estimate.high)}]"


def _against(score: MethodScore) -> str:
    if score.difference is None or score.p is None:
        return ""
    p = f"p {score.p:.2f}" if score.p >= 0.01 else f"p {score.p:.4f}" if score.p >= 0.0001 else "p < .0001"
    return f"{score.difference.value:+.3f}".replace("0.", ".") + f" ({p.replace('0.', '.')})"


def _ratio(ratio: Estimate | None) -> str:
    return "" if ratio is None else f"{ratio.value:.2f} [{ratio.low:.2f} {ratio.high:.2f}]"


def format_number(value: float) -> str:
    """Return a number with three decimals and without a leading zero."""
    text = f"{value:.3f}"
    return text[1:] if text.startswith("0.") else text
