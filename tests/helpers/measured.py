"""Measurements on the command line."""

import re

import pytest

from vitscope.metrics.faithfulness import DEFAULT

NAMES = list(DEFAULT)
FILES = {"measure.json", "measure.parquet", "curves.png", "statistics.json", "by-depth.png"}
FEW = ("--n-random-maps", "2", "--steps", "4")
MARKS = {"better than random": "▲ better", "no better than random": "= no better"}
MARKS |= {"worse than random": "▼ worse", "undecided": "? undecided"}


def measured(scope, photo, method="rollout", **options):
    """The same in Python."""
    e = scope.explain(photo, method=method)
    return e, scope.measure(e, n_random_maps=2, steps=4, **options)


def table(said):
    """The rows of the table of measures, cell by cell."""
    lines = [line.rstrip() for line in said.splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("measure  "))
    rows = []
    for line in lines[start + 1 :]:
        if not line.strip() or line.startswith("questions "):
            break
        rows.append(re.fullmatch(r"(\S+) +(low|high) +(\S+) +(\S+) +(\S+ ?\.\. ?\S+) +(. .+)", line).groups())
    return rows


def alike(got, wanted):
    """The same document but for rounding: where arrays lie in memory decides the order of some sums."""
    if isinstance(wanted, dict):
        assert set(got) == set(wanted)
        for name in wanted:
            alike(got[name], wanted[name])
    elif isinstance(wanted, list):
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            alike(one, other)
    elif isinstance(wanted, float):
        assert got == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    else:
        assert got == wanted
