"""How fast a collection is explained, beside the plain model on tensors in memory (= 1); and that memory stays flat.

    python benchmarks/batch.py                 the three ratios of docs/scale.md
    python benchmarks/batch.py --memory        the peak at 200 and at 5,000 small images

`plain` is the model alone, as users run it: evaluation mode, `inference_mode`, the same batch size and the same
threads, pixels ready in memory; with `relevance` it is forward and backward to the pixels, parameters frozen. `batch`
is everything: JPEG files read, hashed, decoded, resized, explained, rows written and synced. The two take turns within
one process, a block of each at a time, so that what else the machine does hits both alike; the ratio is of the medians
over the blocks, and each block's own ratio is given too. `cpu_ratio` is the same in processor seconds of all threads:
what a machine with other work on it can still tell.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vitscope.batch.run import run
from vitscope.batch.types import BatchPlan
from vitscope.cli.malloc import keep_freed_memory
from vitscope.scope import Scope, load

TOKENS = 4096


def photos(folder: Path, count: int, size: tuple[int, int]) -> None:
    """JPEG files cut from real photos."""
    from skimage import data

    draw = np.random.default_rng(0)
    whole = [Image.fromarray(f()) for f in (data.astronaut, data.chelsea, data.coffee, data.rocket)]
    folder.mkdir(parents=True)
    for number in range(count):
        image = whole[number % 4]
        share = draw.uniform(0.6, 1)
        left, top = (int(draw.uniform(0, side * (1 - share))) for side in image.size)
        box = (left, top, left + int(image.width * share), top + int(image.height * share))
        image.crop(box).resize(size).save(folder / f"{number:06d}.jpg", quality=90)


def vit_large() -> Scope:
    """ViT-L/32 at 384 pixels, random weights."""
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(0)
    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=384, patch_size=32, num_labels=1000)).eval()
    return load(model, processor=ViTImageProcessorPil(size={"height": 384, "width": 384}))


def plain(scope: Scope, pixels: torch.Tensor, batch: int, backward: bool) -> Callable[[], None]:
    """Run the model alone over all pixels."""

    def forward() -> None:
        with torch.inference_mode():
            for part in pixels.split(batch):
                scope.adapter.answer(part)

    def both() -> None:
        for part in pixels.split(batch):
            scope.adapter.answer(part.detach().requires_grad_()).amax(-1).sum().backward()

    return both if backward else forward


def compare(
    name: str, scope: Scope, method: str, images: int, blocks: int, size: int | None, **how: Any
) -> dict[str, Any]:
    """Blocks of plain and batch in turn."""
    scope.model.requires_grad_(False)
    with tempfile.TemporaryDirectory(prefix="vitscope-bench-") as work:
        folder = Path(work) / "photos"
        photos(folder, images, (500, 375))
        first = scope.prepare(folder / "000000.jpg", size=size)
        batch = max(TOKENS // scope.adapter.layout(first.region.input).tokens, 1)
        alone = plain(scope, first.pixels.expand(images, -1, -1, -1).contiguous(), batch, method == "relevance")
        plan = BatchPlan(name, methods=(method,), size=size, batch_tokens=TOKENS, **how)
        times: dict[str, list[float]] = {"plain": [], "batch": []}
        spent: dict[str, list[float]] = {"plain": [], "batch": []}
        for block in range(blocks + 1):  # the first warms up
            for which in ("plain", "batch"):
                begun, cpu = time.perf_counter(), time.process_time()
                if which == "plain":
                    alone()
                else:
                    run(str(folder), Path(work) / f"out{block}", plan, scope=scope)
                if block:
                    times[which].append(time.perf_counter() - begun)
                    spent[which].append(time.process_time() - cpu)
        medians = {which: statistics.median(values) for which, values in times.items()}
        return {
            "case": name,
            "method": method,
            "images": images,
            "batch_size": batch,
            "threads": torch.get_num_threads(),
            "plain_images_per_second": round(images / medians["plain"], 2),
            "batch_images_per_second": round(images / medians["batch"], 2),
            "ratio": round(medians["plain"] / medians["batch"], 3),
            "cpu_ratio": round(statistics.median(spent["plain"]) / statistics.median(spent["batch"]), 3),
            "ratios": [round(p / b, 3) for p, b in zip(times["plain"], times["batch"], strict=True)],
        }


CASES: dict[str, Callable[[int], dict[str, Any]]] = {
    "rollout-large": lambda blocks: compare("ViT-L/32@384, random", vit_large(), "rollout", 28, blocks, None),
    "rollout-small": lambda blocks: compare("embedded ViT-S/14@224", load(), "rollout", 64, blocks, 224),
    "relevance-small": lambda blocks: compare("embedded ViT-S/14@224", load(), "relevance", 32, blocks, 224),
    "relevance-large": lambda blocks: compare("ViT-L/32@384, random", vit_large(), "relevance", 28, blocks, None),
}


def peak(images: int) -> None:
    """In a process of its own: the peak memory of explaining so many small images with a tiny model."""
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=64, patch_size=16, num_labels=3)).eval()
    scope = load(model, processor=ViTImageProcessorPil(size={"height": 64, "width": 64}))
    with tempfile.TemporaryDirectory(prefix="vitscope-bench-") as work:
        photos(Path(work) / "photos", images, (96, 64))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run(
            str(Path(work) / "photos"),
            Path(work) / "out",
            BatchPlan("tiny", methods=("rollout",), shard_size=100),
            scope=scope,
        )
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"images": images, "peak_mb": round(after / 1024, 1), "before_mb": round(before / 1024, 1)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        peak(given.peak)
        return
    if given.memory:
        for images in (200, 5000):
            subprocess.run([sys.executable, __file__, "--peak", str(images)], check=True)
        return
    keep_freed_memory()  # as the command line does, for both sides
    for case in given.case or CASES:
        print(json.dumps(CASES[case](given.blocks)), flush=True)


if __name__ == "__main__":
    main()
