"""Damage every kind of file that vitscope reads back, and read it.

In memory where the system has a folder for that: on a disk, most of the time goes into making and removing files.
"""

import tempfile
from pathlib import Path

from benchmarks.soak.counts import Counts
from tests.helpers.mutations import Mutations
from tests.helpers.result_files import KINDS

__all__ = ["run"]

_MEMORY = Path("/dev/shm")


def run(count: int, seed: int) -> Counts:
    """Try `count` mutations, kind after kind in turn; of a kind that has seals, every fourth is sealed anew."""
    counts, names = Counts(), list(KINDS)
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        mutations = Mutations(Path(folder))
        for number in range(count):
            name, nth = names[number % len(names)], number // len(names)
            forged = nth % 4 == 3 and KINDS[name].seal is not None
            outcome, note = mutations.attempt(name, (seed, nth), forged=forged)
            counts.count(outcome, note if outcome == "wrong" else "")
    return counts
