"""Interrupt each kind of work at places all over it.

A place costs a run, or a fork where a run takes longer. `GLIBC_TUNABLES=glibc.malloc.hugetlb=1 PYTHONMALLOC=malloc`
halves what a fork takes.
"""

from itertools import product

from benchmarks.soak.counts import Counts
from tests.engine.toys_families import MAKERS
from tests.helpers.interrupts import WORKS, check_quickly

__all__ = ["run"]


def run(count: int, seed: int) -> Counts:
    """Interrupt `count` times, the same number of times in each work of each family."""
    counts = Counts()
    works = list(product(MAKERS, WORKS))
    for number, (family, work) in enumerate(works):
        share = count // len(works) + (number < count % len(works))
        if not share:
            continue
        interrupts, left = check_quickly(family, work, share, first=1 + seed)
        counts.tried += interrupts
        counts.right += interrupts - len(left)
        for place, (frames, changed) in left.items():
            counts.mark("left_changed", f"{family}, {work}, place {place} ({frames[-1]}): {', '.join(changed)}")
    return counts
