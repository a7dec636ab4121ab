"""Slow twins of chance, in plain Python: verdicts and random maps. Nothing here imports vitscope."""

import math
from itertools import permutations


def place(value, values, better, level=0.05):
    """Where one value stands among itself and all the others, by the share of places that are as good or as bad."""
    good = (lambda v: v >= value) if better == "higher" else (lambda v: v <= value)
    bad = (lambda v: v <= value) if better == "higher" else (lambda v: v >= value)
    n = len(values) + 1
    if (1 + sum(map(good, values))) / n <= level + 1e-12:
        return "better than random"
    return "worse than random" if (1 + sum(map(bad, values))) / n <= level + 1e-12 else "no better than random"


def saco_of_every_order(m, costs):
    """SaCo of a map with these group means, for each order in which the costs can stand beside them."""
    found = []
    for order in permutations(costs):
        pairs = [(i, j) for i in range(len(m)) for j in range(i + 1, len(m))]
        total = math.fsum(abs(m[i] - m[j]) for i, j in pairs)
        found.append(math.fsum((m[i] - m[j]) * (1 if order[i] >= order[j] else -1) for i, j in pairs) / total)
    return found
