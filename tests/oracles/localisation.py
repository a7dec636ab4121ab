"""Slow twins of the localisation measures, in plain Python, from their definitions. Nothing here imports vitscope."""

import itertools
import math


def auc(values, truth):
    """Mann-Whitney: over all pairs of one on and one off, ties half."""
    on = [v for v, t in zip(values, truth, strict=True) if t]
    off = [v for v, t in zip(values, truth, strict=True) if not t]
    return sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in on for b in off) / (len(on) * len(off))


def average_precision(values, truth):
    """sum (R_t - R_{t-1}) P_t over distinct values as thresholds, highest first."""
    before, total = 0.0, 0.0
    for t in sorted(set(values), reverse=True):
        chosen = [truth[i] for i in range(len(values)) if values[i] >= t]
        recall, precision = sum(chosen) / sum(truth), sum(chosen) / len(chosen)
        total += (recall - before) * precision
        before = recall
    return total


def iou(chosen, truth):
    both = sum(c and t for c, t in zip(chosen, truth, strict=True))
    return both / sum(c or t for c, t in zip(chosen, truth, strict=True))


def iou_best(values, truth):
    return max(iou([v >= t for v in values], truth) for t in set(values))


def ap_both(values, truth):
    low, high = min(values), max(values)
    x = [(v - low) / (high - low) if high > low else 0.0 for v in values]
    return average_precision(x + [1 - v for v in x], list(truth) + [not t for t in truth])


def pointing(heat, mask, tolerance):
    """Of the highest cells, the share with a cell of the mask within reach; None is what was not seen."""
    cells = [(r, c) for r, row in enumerate(heat) for c, v in enumerate(row) if v is not None]
    top = max(heat[r][c] for r, c in cells)
    highest = [(r, c) for r, c in cells if heat[r][c] == top]
    near = [
        any(m and math.dist(cell, (r, c)) <= tolerance for r, row in enumerate(mask) for c, m in enumerate(row))
        for cell in highest
    ]
    return sum(near) / len(near)


def miou(pairs):
    """Mean over object and ground of IoU over all pixels; pairs of (chosen, truth) lists."""
    chosen = [c for one, _ in pairs for c in one]
    truth = [t for _, one in pairs for t in one]
    return (iou(chosen, truth) + iou([not c for c in chosen], [not t for t in truth])) / 2


def sign_flip(differences):
    """All 2^n choices of signs."""
    seen = abs(sum(differences))
    flipped = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(f >= seen - 1e-9 for f in flipped) / len(flipped)
