"""Use one model in eight threads by every method and compare with a single thread."""

import numpy as np
from benchmarks.soak.counts import Counts
from tests.engine.toys_families import MAKERS, make
from tests.helpers.model_state import differences, model_state, surroundings
from tests.helpers.threads import everything, in_threads

import vitscope
from vitscope.methods.base import METHODS

__all__ = ["run"]

_THREADS = 8


def run(count: int, seed: int) -> Counts:
    """Make `count` answers and up to one work more, of one family after another."""
    counts, chance = Counts(), np.random.default_rng(seed)
    families = list(MAKERS)
    while counts.tried < count:
        family = families[counts.figures.get("rounds", 0) % len(families)]
        counts.figures["rounds"] = counts.figures.get("rounds", 0) + 1
        model = make(family)
        scope = vitscope.load(model)
        works = everything(scope, [name for name, _ in METHODS if scope.supports(name)])
        left = -(-(count - counts.tried) // _THREADS)
        names = [str(name) for name in chance.permutation(list(works))][: max(1, min(left, -(-count // 24)))]
        before, around = model_state(model), surroundings()
        wrong = in_threads({name: works[name] for name in names}, _THREADS)
        counts.tried += _THREADS * len(names)
        counts.right += _THREADS * len(names) - len(wrong)
        for thread, name, found in wrong:
            counts.mark("wrong", f"{family}, {name}, thread {thread} {found}".strip())
        for name in differences(before, model_state(model)) + differences(around, surroundings()):
            counts.mark("left_changed", f"{family}: {name}")
    return counts
