"""Slow twins of chance, in plain Python: intervals and random maps. Nothing here imports vitscope."""

import math
from itertools import permutations


def ranks_interval(values):
    """From the k-th least to the k-th largest: outside on one side lie k of n + 1 places where the next can come."""
    ordered, n = sorted(values), len(values)
    k = max(k for k in range(1, n) if k / (n + 1) <= 0.025 + 1e-12)
    return ordered[k - 1], ordered[-k]


def saco_of_every_order(m, costs):
    """SaCo of a map with these group means, for each order in which the costs can stand beside them."""
    found = []
    for order in permutations(costs):
        pairs = [(i, j) for i in range(len(m)) for j in range(i + 1, len(m))]
        total = math.fsum(abs(m[i] - m[j]) for i, j in pairs)
        found.append(math.fsum((m[i] - m[j]) * (1 if order[i] >= order[j] else -1) for i, j in pairs) / total)
    return found
