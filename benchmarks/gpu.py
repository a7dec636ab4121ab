"""What vitscope computes and costs on an accelerator: one run of under ten minutes that needs nothing from outside.

    python -m benchmarks.gpu [--device cuda] [--minutes 9] [--out gpu.json]
    python -m benchmarks.gpu --device cpu --small        a rehearsal: the same code on a tiny model
    python -m benchmarks.gpu --table gpu.json

The models are transformers' ViTs with random weights, queries sharpened so that attention is not even. There are five
parts, each of which takes its share of the minutes; what does not run says why, in the device's words:

- **values**: every method's map against the same map on the CPU in float64, as the largest difference by the largest
  value, in float32, with TF32, in bfloat16, float16 and under autocast, and of a compiled model;
- **kernels**: rollout and relevance under each of torch's attention kernels (flash, efficient, cuDNN, math);
- **costs**: seconds and peak memory of the plain forward, of rollout, of relevance beside forward and backward, and of
  rollout by eager attention with `output_attentions`, for ViT-S/B/L from 197 to 16,385 tokens. Median of interleaved
  runs, synchronised; memory is what the device allocated beyond the weights;
- **batch**: photos a second of `vitscope.batch` with two decoding threads, and of the plain model on pixels in memory;
- **serve**: seconds from a request to the map, of the web application with the model on the device.
"""

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.batch import photos
from tests.helpers.uploads import encoded, uploaded
from tests.helpers.webserver import entered, explained, serving
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import ViTConfig, ViTForImageClassification

import vitscope
from vitscope.methods.base import METHODS

SIZES = {  # width, layers, heads
    "tiny": (32, 2, 2),
    "ViT-S/16": (384, 12, 6),
    "ViT-B/16": (768, 12, 12),
    "ViT-L/16": (1024, 24, 16),
}
SIDES = {197: 224, 577: 384, 1025: 512, 4097: 1024, 16385: 2048}  # tokens at 16 pixels a patch
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
QUICKER = {"rise": {"masks": 64}, "integrated-gradients": {"steps": 8}, "smoothgrad": {"samples": 4}}
QUICKER |= {"token-removal": {"samples": 32}}
MANY_FORWARDS = {"occlusion"}  # one for each place of a square
SHARES = {"values": 0.35, "kernels": 0.1, "costs": 0.35, "batch": 0.1, "serve": 0.1}
REPEATS = 5


class TimeIsUp(Exception):
    """A part's share of the minutes is over."""


def vit(name: str, side: int, attention: str = "sdpa") -> ViTForImageClassification:
    """Return a ViT with random weights and sharpened queries, the same for the same name."""
    width, layers, heads = SIZES[name]
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    torch.manual_seed(0)
    config = ViTConfig(
        **sizes,
        intermediate_size=4 * width,
        image_size=side,
        patch_size=16,
        num_labels=1000,
        attn_implementation=attention,
    )
    model = ViTForImageClassification(config).eval().requires_grad_(False)
    for part, module in model.named_modules():
        if part.endswith(("q_proj", "query")):
            module.weight.mul_(8)
    return model


def said(error: BaseException) -> str:
    """Return an error's first line, and its kind."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:200]


def values(device: torch.device, small: bool, check: Callable[[], None]) -> dict[str, Any]:
    """Return for each method and way of computing the largest difference from float64 on the CPU."""
    name, side = ("tiny", 64) if small else ("ViT-S/16", 224)
    photo = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    exact = vitscope.load(vit(name, side).double())
    ways: dict[str, tuple[torch.dtype, Callable[[], Any], bool]] = {
        "float32": (torch.float32, contextlib.nullcontext, False),
        "tf32": (torch.float32, tensor_float_32, False),
        "bfloat16": (torch.bfloat16, contextlib.nullcontext, False),
        "float16": (torch.float16, contextlib.nullcontext, False),
        "autocast": (torch.float32, lambda: torch.autocast(device.type, torch.bfloat16), False),
        "compiled": (torch.float32, contextlib.nullcontext, True),
    }
    scopes: dict[str, Any] = {}
    for way, (dtype, _, compiled) in ways.items():
        model = vit(name, side).to(device, dtype)
        scopes[way] = vitscope.load(torch.compile(model) if compiled else model)
    found: dict[str, Any] = {}
    for method, _ in METHODS:
        if method in MANY_FORWARDS:
            continue
        try:
            wanted = exact.explain(photo, method=method, **QUICKER.get(method, {})).map
        except vitscope.VitscopeError as error:
            found[method] = {"refused": error.message}
            continue
        found[method] = {}
        for way, (_, around, _) in ways.items():
            check()
            try:
                with around():
                    got = scopes[way].explain(photo, method=method, **QUICKER.get(method, {})).map
                found[method][way] = difference(got, wanted)
            except (vitscope.VitscopeError, RuntimeError) as error:
                found[method][way] = said(error)
    return found


def difference(got: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest difference by the largest value; of a map of zeros the difference itself."""
    return float(np.abs(got - wanted).max() / (np.abs(wanted).max() or 1))


@contextlib.contextmanager
def tensor_float_32() -> Iterator[None]:
    """Let matrix products of float32 run in TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def kernels(device: torch.device, small: bool, check: Callable[[], None]) -> dict[str, Any]:
    """Return the largest differences of rollout and relevance under each kernel, and whether its log-sum-exp serves."""
    name, side = ("tiny", 64) if small else ("ViT-S/16", 384)
    photo = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    exact = vitscope.load(vit(name, side).double())
    found: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        scope = vitscope.load(vit(name, side).to(device, dtype))
        for kernel, backend in KERNELS.items():
            for method in ("rollout", "relevance"):
                check()
                wanted = exact.explain(photo, method=method).map
                try:
                    with sdpa_kernel(backend):
                        got = scope.explain(photo, method=method).map
                    answer: Any = difference(got, wanted)
                except (vitscope.VitscopeError, RuntimeError) as error:
                    answer = said(error)
                found.setdefault(f"{kernel}, {str(dtype).removeprefix('torch.')}", {})[method] = answer
            pixels = scope.prepare(photo).pixels[None].to(device, dtype)
            try:
                with torch.no_grad(), sdpa_kernel(backend), vitscope.capture(scope.model) as captured:
                    scope.model(pixel_values=pixels)
                used = "used" if captured.attention[-1].lse is not None else "not used"
            except (vitscope.VitscopeError, RuntimeError) as error:
                used = said(error)
            found[f"{kernel}, {str(dtype).removeprefix('torch.')}"]["log-sum-exp"] = used
    return found


def costs(device: torch.device, small: bool, check: Callable[[], None]) -> list[dict[str, Any]]:
    """Return seconds and memory by model, tokens and way."""
    names, sides = (["tiny"], {17: 64}) if small else (["ViT-S/16", "ViT-B/16", "ViT-L/16"], SIDES)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    rows = []
    for name in names:
        for tokens, side in sides.items():
            rows.append(row := {"model": name, "tokens": tokens, "dtype": str(dtype).removeprefix("torch.")})
            pixels = torch.randn(1, 3, side, side, dtype=dtype).to(device)
            scope = vitscope.load(vit(name, side).to(device, dtype))
            eager = vit(name, side, "eager").to(device, dtype)
            for way, run in ways_of(scope, eager, pixels).items():
                check()
                try:
                    row[way] = timed(run, device)
                except (RuntimeError, vitscope.VitscopeError) as error:  # out of memory is a RuntimeError
                    row[way] = said(error)
            del scope, eager
            empty(device)
    return rows


def ways_of(scope: vitscope.Scope, eager: torch.nn.Module, pixels: Tensor) -> dict[str, Callable[[], Any]]:
    """Return what is timed: the plain model, vitscope, and attention as matrices."""

    @torch.no_grad()
    def forward() -> None:
        scope.model(pixel_values=pixels)

    def backward() -> None:
        scope.model(pixel_values=pixels.detach().requires_grad_()).logits.amax(-1).sum().backward()

    @torch.no_grad()
    def dense() -> Tensor:
        product = None
        for attention in eager(pixel_values=pixels, output_attentions=True).attentions:
            mixed = (attention.mean(1) + torch.eye(attention.shape[-1], device=pixels.device)) / 2
            product = mixed if product is None else mixed @ product
        assert product is not None
        return product[:, 0]

    return {
        "forward": forward,
        "rollout": lambda: scope.attribute(pixels, method="rollout"),
        "forward and backward": backward,
        "relevance": lambda: scope.attribute(pixels, method="relevance"),
        "eager rollout": dense,
    }


def timed(run: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Return the median seconds of a run and its peak memory in MB, after one run to warm up."""
    run()
    synchronise(device)
    before = reset_peak(device)
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        synchronise(device)
        seconds.append(time.perf_counter() - began)
    made = {"seconds": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}
    return made | ({} if before is None else {"MB": (torch.cuda.max_memory_allocated(device) - before) / 1e6})


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def reset_peak(device: torch.device) -> int | None:
    """Return what is allocated now, and forget the peak; None where the device does not count."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def empty(device: torch.device) -> None:
    """Give unused memory back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def batch(device: torch.device, small: bool, check: Callable[[], None]) -> dict[str, float]:
    """Return photos a second of a batch run, and of the plain model."""
    from vitscope.batch.run import run
    from vitscope.batch.types import BatchPlan

    name, side, count = ("tiny", 64, 8) if small else ("ViT-S/16", 224, 1024)
    scope = vitscope.load(vit(name, side).to(device))
    with tempfile.TemporaryDirectory(prefix="vitscope-bench-") as work:
        photos(Path(work) / "photos", count, (500, 375))
        check()
        began = time.perf_counter()
        plan = BatchPlan(name, methods=("rollout",), batch_tokens=50_000, workers=2)
        summary = run(str(Path(work) / "photos"), Path(work) / "out", plan, scope=scope)
        took = time.perf_counter() - began
    pixels = torch.randn(min(count, 256), 3, side, side).to(device)
    with torch.inference_mode():
        plain = timed(lambda: scope.model(pixel_values=pixels), device)["seconds"] / len(pixels)
    return {"photos": float(summary.images), "a second": summary.images / took, "plain, a second": 1 / plain}


def serve(device: torch.device, small: bool, check: Callable[[], None]) -> dict[str, float]:
    """Return the seconds from a request over HTTP to the answer with a map, the median of several photos."""
    name, side = ("tiny", 64) if small else ("ViT-B/16", 224)
    scope = vitscope.load(vit(name, side).to(device))
    seconds = []
    with serving(scope) as (address, _), entered(address) as client:
        for number in range(REPEATS + 1):
            check()
            photo = np.random.default_rng(number).integers(0, 256, (300, 400, 3), dtype=np.uint8)
            began = time.perf_counter()
            asked = {"photo": uploaded(client, encoded(photo, "JPEG")), "methods": ["rollout"], "top": 1}
            _, answer = explained(client, asked, patience=120)
            assert len(answer.json()["header"]["maps"]) >= 1, answer.text
            seconds.append(time.perf_counter() - began)
    return {"first": seconds[0], "seconds": statistics.median(seconds[1:])}


PARTS: dict[str, Callable[[torch.device, bool, Callable[[], None]], Any]] = {
    "values": values,
    "kernels": kernels,
    "costs": costs,
    "batch": batch,
    "serve": serve,
}


def measured(device: torch.device, small: bool, minutes: float, out: Path) -> dict[str, Any]:
    """Run all parts, writing what there is after each."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    document: dict[str, Any] = {"device": card, "torch": torch.__version__, "cuda": torch.version.cuda, "small": small}
    began = time.monotonic()
    share = 0.0
    for name, part in PARTS.items():
        share += SHARES[name]
        until = began + 60 * minutes * share  # what a part leaves, the next one has

        def check(until: float = until) -> None:
            if time.monotonic() > until:
                raise TimeIsUp

        found: dict[str, Any] = {}
        try:
            found["result"] = part(device, small, check)
        except (TimeIsUp, RuntimeError, vitscope.VitscopeError) as error:
            found["stopped"] = said(error)
        document[name] = found
        out.write_text(json.dumps(document, indent=1))
        print(name, found.get("stopped", "done"), f"{time.monotonic() - began:.0f} s", flush=True)
    return document


def cell(value: Any) -> str:
    """Write a number, a timing or a reason for a table."""
    if isinstance(value, dict):
        memory = f", {value['MB']:,.0f} MB" if "MB" in value else ""
        return f"{1000 * value['seconds']:.1f} ms{memory}"
    return f"{value:.1e}" if isinstance(value, float) else str(value)


def rows(table: dict[str, dict[str, Any]], corner: str) -> str:
    """Write a table of rows by name."""
    heads = list(dict.fromkeys(head for row in table.values() for head in row))
    lines = [f"| {corner} | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(cell(row.get(h, '-')) for h in heads)} |" for name, row in table.items()]
    return "\n".join(lines)


def table(document: dict[str, Any]) -> str:
    """Write what was measured as Markdown."""
    parts = [f"{document['device']}, torch {document['torch']}, CUDA {document['cuda']}"]
    parts += [f"{name}: {document[name]['stopped']}" for name in PARTS if "stopped" in document.get(name, {})]
    of = {name: document.get(name, {}).get("result") for name in SHARES}
    if of["values"]:
        parts.append(
            "Largest difference from float64 on the CPU, by the largest value:\n\n" + rows(of["values"], "method")
        )
    if of["kernels"]:
        parts.append(rows(of["kernels"], "kernel"))
    if of["costs"]:
        named = {f"{r['model']}, {r['tokens']} tokens, {r['dtype']}": r for r in of["costs"]}
        ways = {at: {k: v for k, v in r.items() if k not in ("model", "tokens", "dtype")} for at, r in named.items()}
        parts.append(rows(ways, "model"))
    for name in (name for name in ("batch", "serve") if of[name]):
        parts += [f"{name}: " + ", ".join(f"{what} {value:.3g}" for what, value in of[name].items())]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    print(
        table(
            json.loads(given.table.read_text())
            if given.table
            else measured(torch.device(given.device), given.small, given.minutes, given.out)
        )
    )


if __name__ == "__main__":
    main()
