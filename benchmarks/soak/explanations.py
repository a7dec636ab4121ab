"""Explain again and again with one Scope, and watch the memory in use."""

import ctypes
import gc
from contextlib import suppress

import numpy as np
import psutil
from benchmarks.soak.counts import Counts
from tests.engine.toys_families import PHOTOS, make
from tests.helpers.model_state import differences, model_state, surroundings
from tests.helpers.threads import explain

import vitscope
from vitscope.methods.base import METHODS

__all__ = ["run"]

_KB_EACH = 2.0  # a kept map, layer of attention or graph of this model is larger
_SLACK = 8e6  # bytes that an allocator keeps or gives back at its own time


def _give_back() -> None:
    """Have the allocator return what is free to the system: pieces of it that stay would count as memory in use."""
    with suppress(OSError, AttributeError):  # another system's, or another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def run(count: int, seed: int) -> Counts:
    """Explain `count` times, all methods in turn; the first quarter warms the allocator up."""
    counts, own = Counts(), psutil.Process()
    model = make("transformers").eval()
    scope = vitscope.load(model)
    names = [name for name, _ in METHODS if scope.supports(name)]
    before, around = model_state(model), surroundings()
    first: dict[tuple[str, int], bytes] = {}
    resident: list[tuple[int, int]] = []
    for number in range(count):
        name, photo = names[(number + seed) % len(names)], number // len(names) % len(PHOTOS)
        found = explain(scope, name, photo).tobytes()
        same = first.setdefault((name, photo), found) == found
        counts.count("right" if same else "wrong", "" if same else f"{name}, the {number}th")
        if number >= count // 4 and number % max(1, count // 200) == 0:
            gc.collect()
            _give_back()
            resident.append((number, own.memory_info().rss))
    numbers, sizes = np.array(resident, float).T
    slope = float(np.polyfit(numbers, sizes, 1)[0])
    counts.figures = {"kB each": round(slope / 1e3, 3), "MB at the end": round(sizes[-1] / 1e6, 1)}
    if slope > _KB_EACH * 1e3 and slope * (numbers[-1] - numbers[0]) > _SLACK:
        counts.mark("left_changed", f"{slope / 1e3:.1f} kB more with each explanation")
    for name in differences(before, model_state(model)) + differences(around, surroundings()):
        counts.mark("left_changed", name)
    return counts
