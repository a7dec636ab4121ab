"""Interrupt each kind of work at places all over it.

Each place costs a fork. `GLIBC_TUNABLES=glibc.malloc.hugetlb=1 PYTHONMALLOC=malloc` halves what that takes.
"""

from itertools import product

from benchmarks.soak.counts import Counts
from tests.engine.toys_families import MAKERS
from tests.helpers.interrupts import IN_PLACE, WORKS, check, check_forked

__all__ = ["run"]


def run(count: int, seed: int) -> Counts:
    """Interrupt `count` times, the same number of times in each work of each family."""
    counts = Counts()
    works = list(product(MAKERS, WORKS))
    for number, (family, work) in enumerate(works):
        share = count // len(works) + (number < count % len(works))
        if not share:
            continue
        attempt = check if work in IN_PLACE else check_forked
        interrupts, left = attempt(family, work, share, first=1 + seed)
        counts.tried += interrupts
        counts.right += interrupts - len(left)
        for place, (frames, changed) in left.items():
            counts.mark("left_changed", f"{family}, {work}, place {place} ({frames[-1]}): {', '.join(changed)}")
    return counts
