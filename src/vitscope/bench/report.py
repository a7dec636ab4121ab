"""Renders a benchmark's report as one self-contained HTML page without scripts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from vitscope._version import __version__
from vitscope.bench.runner import PRIORS
from vitscope.bench.summary import BenchmarkSummary, MethodScore, format_number
from vitscope.metrics.resampling import Estimate
from vitscope.render.html import data_url, render_template
from vitscope.render.scores import Dot, dots, scatter

_LINE = (0, 255, 128)
_THUMB = 224


@dataclass(frozen=True, eq=False)
class WorstCase:
    """A case with a low score: its name, and (caption, image) pairs from left to right."""

    name: str
    pictures: Sequence[tuple[str, Image.Image]]


def outline_mask(image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"]) -> Image.Image:
    """Return the image with a line around the mask."""
    wide = max(1, round(min(mask.shape) / 160))
    inner = mask.copy()
    for _ in range(wide):
        padded = np.pad(inner, 1)
        inner &= padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    drawn = image.copy()
    drawn[mask & ~inner] = _LINE
    return Image.fromarray(drawn)


def render_report(summary: BenchmarkSummary, worst: Sequence[WorstCase]) -> str:
    """Return the report as HTML, with the worst cases, the worst first."""
    info, shown = summary.info, summary.shown()
    axes = "cost of one map, in plain forwards (with preprocessing)", info.metrics[info.headline]
    return render_template(
        "vitscope.bench",
        "report.html",
        summary=summary,
        info=info,
        shown=shown,
        lead=_lead(summary, sum(summary.groups.values())),
        rows=[_row(score, line) for score, line in zip(summary.scores, summary.table(), strict=True)],
        reading=_reading(summary),
        numbers=data_url(dots(_panels(summary)), "PNG", optimize=True),
        cost=data_url(scatter(_dots(summary, info.headline), *axes), "PNG", optimize=True) if summary.timed else "",
        groups=_groups(summary, shown) if len(summary.groups) > 1 else [],
        worst=[
            (case.name, [(caption, data_url(one, longest=2 * _THUMB, quality=88)) for caption, one in case.pictures])
            for case in worst
        ],
        thumb=_THUMB,
        options={"vitscope": __version__, **summary.options},
    )


def _lead(summary: BenchmarkSummary, cases: int) -> str:
    info = summary.info
    groups = ", ".join(f"{count} {group}" for group, count in summary.groups.items() if group)
    named = f" ({groups})" if len(summary.groups) > 1 else ""
    return (
        f"{summary.options.get('model', '')}: {cases} cases{named}, sorted by {info.metrics[info.headline]}. "
        f"Chance: {info.chance}."
    )


def _reading(summary: BenchmarkSummary) -> str:
    cost = "cost in plain forwards, median with its interval" if summary.timed else "median seconds of one map"
    return (
        "Brackets: 95 % bootstrap intervals over the cases. Difference: from "
        f"{summary.reference} on the same cases; p by random signs, corrected for the number of methods (Holm). "
        f"Last column: {cost}."
    )


def _row(score: MethodScore, line: Sequence[str]) -> dict[str, object]:
    """Return one line of the main table, each number apart from its interval."""
    cells = [cell.partition(" [") for cell in line[1:]]
    return {
        "method": line[0],
        "resolved": "" if score.resolved == score.method else score.resolved,
        "prior": score.method in PRIORS,
        "cells": [(number, interval.removesuffix("]")) for number, _, interval in cells],
    }


def _groups(summary: BenchmarkSummary, shown: Sequence[str]) -> list[tuple[str, int, list[tuple[str, list[str]]]]]:
    """Return each group with its size and, for each method, its numbers."""
    return [
        (
            group,
            count,
            [
                (score.method, [format_number(numbers[name]) if name in numbers else "" for name in shown])
                for score in summary.scores
                for numbers in [score.groups.get(group, {})]
            ],
        )
        for group, count in summary.groups.items()
    ]


def _panels(summary: BenchmarkSummary) -> list[tuple[str, list[Dot]]]:
    return [(summary.info.metrics[name], _dots(summary, name)) for name in summary.shown()]


def _dots(summary: BenchmarkSummary, name: str) -> list[Dot]:
    return [_dot(score, score.numbers[name], summary.reference) for score in summary.scores if name in score.numbers]


def _dot(score: MethodScore, number: Estimate, reference: str) -> Dot:
    prior, ratio = score.method in PRIORS, score.ratio
    cost = (ratio.value, ratio.low, ratio.high) if ratio and not prior else (0.0, 0.0, 0.0)
    return Dot(score.method, number.value, number.low, number.high, *cost, prior, score.method == reference)
