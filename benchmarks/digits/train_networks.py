"""Train three more small networks on digit scenes: what suits one network need not suit another.

    python benchmarks/digits/train_networks.py [--names registers,mean,swin] [--seed 0] [--out FOLDER]

- `registers`: a ViT with four registers, read at CLS
- `mean`: a ViT without a CLS token, read as the mean of its patches
- `swin`: a Swin of two stages, 20 x 20 and 10 x 10 patches in windows of 5 x 5, read as the mean of its patches

All name the one to three digits of a scene (`vitscope.bench.digit_scenes`). The first two start from the weights of the
embedded `digit-scenes`, whose new readout they learn in two minutes: they are its relatives. The Swin starts from
nothing, and learns as `digit-scenes` did (`train.py`): clutter grows, and in the first 60 % of the steps each of its
last patches is told which digits it lies on. Equal arguments give equal weights on one machine.
`benchmarks/networks.py` measures maps of them; `load(name)` returns one.
"""

import argparse
import json
import math
import time
from pathlib import Path

import timm
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file
from torch import nn
from train import CLUTTERED_FROM, HELD_OUT_SEED, HINTED_SHARE, PATCH, pixels, token_targets

from vitscope.bench.digit_scenes import CLASSES, SIZE, Digits, Scenes, scenes, split_digits
from vitscope.models.bundled.catalogue import shipped_folder

STEPS = {"registers": 250, "mean": 250, "swin": 5000}
NAMES = tuple(STEPS)
FOLDER = Path(".cache/networks")
BATCH, POOL, WIDTH, DEPTH = 32, 512, 128, 6
WARMUP, AVERAGE = 0.05, 0.99


def architecture(name: str) -> nn.Module:
    """Return a network with random weights."""
    given = {"img_size": SIZE, "num_classes": CLASSES, "mlp_ratio": 2}
    if name == "swin":
        sizes = {"patch_size": PATCH // 2, "embed_dim": 48, "depths": (2, 4), "num_heads": (3, 6), "window_size": 5}
        return timm.models.SwinTransformer(**given, **sizes, drop_path_rate=0.0)
    registers = name == "registers"
    own = {"patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": 4, "fc_norm": False}
    read = {"class_token": registers, "reg_tokens": 4 * registers, "global_pool": "token" if registers else "avg"}
    return timm.models.VisionTransformer(**given, **own, **read, no_embed_class=True)


def start_from_digit_scenes(model: nn.Module) -> None:
    """Give a ViT the weights of the embedded model, as far as it has them."""
    theirs = load_file(shipped_folder("digit-scenes") / "model.safetensors")
    parts = {
        "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
        "norm": "vit.layernorm",
        "head": "classifier",
    }
    for number in range(DEPTH):
        ours, block = f"blocks.{number}", f"vit.encoder.layer.{number}"
        parts |= {
            f"{ours}.norm1": f"{block}.layernorm_before",
            f"{ours}.norm2": f"{block}.layernorm_after",
            f"{ours}.attn.proj": f"{block}.attention.output.dense",
            f"{ours}.mlp.fc1": f"{block}.intermediate.dense",
            f"{ours}.mlp.fc2": f"{block}.output.dense",
        }
    given = {f"{a}.{kind}": theirs[f"{b}.{kind}"] for a, b in parts.items() for kind in ("weight", "bias")}
    for number in range(DEPTH):
        for kind in ("weight", "bias"):
            three = [f"vit.encoder.layer.{number}.attention.attention.{n}.{kind}" for n in ("query", "key", "value")]
            given[f"blocks.{number}.attn.qkv.{kind}"] = torch.cat([theirs[one] for one in three])
    place = theirs["vit.embeddings.position_embeddings"]
    given["pos_embed"] = place[:, 1:]
    if model.cls_token is not None:
        given["cls_token"] = theirs["vit.embeddings.cls_token"] + place[:, :1]
    missing, unknown = model.load_state_dict(given, strict=False)
    assert set(missing) <= {"reg_token"}, missing
    assert not unknown, unknown


def load(name: str, folder: Path = FOLDER) -> nn.Module:
    """Return a trained network, for evaluation."""
    model = architecture(name)
    model.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True))
    model.pretrained_cfg = {"input_size": (3, SIZE, SIZE), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, made: Scenes) -> float:
    """Return the share of digits present that are among the scene's k highest logits, k its number of digits."""
    logits = torch.cat([model(pixels(part)) for part in torch.from_numpy(made.images).split(128)])
    targets = torch.from_numpy(made.targets).bool()
    ranks = logits.argsort(1, descending=True).argsort(1)
    return float(((ranks < targets.sum(1)[:, None]) & targets).sum() / targets.sum())


def optimizers(name: str, model: nn.Module, hints: nn.Module) -> list[torch.optim.Optimizer]:
    """AdamW for a relative; for the Swin Muon for the matrices of its blocks and AdamW for everything else."""
    if name != "swin":
        return [torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98))]
    matrices = [p for path, p in model.named_parameters() if p.ndim == 2 and "layers" in path and "bias" not in path]
    taken = {id(p) for p in matrices}
    others = [p for p in (*model.parameters(), *hints.parameters()) if id(p) not in taken]
    return [
        torch.optim.Muon(matrices, lr=3e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def made_for(name: str, digits: Digits, seed: int, progress: float) -> Scenes:
    """Return scenes to train on: of the Swin with little clutter at first, and mostly with three digits."""
    if name != "swin":
        return scenes(digits.images, digits.labels, POOL, seed, warp=1.0)
    shares = (0.1, 0.2, 0.7) if progress < HINTED_SHARE else (1 / 3, 1 / 3, 1 / 3)
    clutter = min(1.0, progress / CLUTTERED_FROM)
    return scenes(digits.images, digits.labels, POOL, seed, warp=1.0, clutter=clutter, shares=shares)


def train(name: str, seed: int, folder: Path) -> dict[str, object]:
    """Train one network and save the moving average of its weights."""
    torch.manual_seed(seed)
    digits, unseen = split_digits()
    held_out = scenes(unseen.images, unseen.labels, 500, HELD_OUT_SEED)
    model, average = architecture(name), architecture(name)
    hints = nn.Linear(model.num_features, CLASSES)
    if name != "swin":
        start_from_digit_scenes(model)
    average.load_state_dict(model.state_dict())
    optims = optimizers(name, model, hints)
    rates = [optim.param_groups[0]["lr"] for optim in optims]
    begun, steps = time.process_time(), STEPS[name]
    for step in range(steps):
        progress = step / steps
        if step % (POOL // BATCH) == 0:
            made = made_for(name, digits, seed * 100_003 + step, progress)
            images, targets, places = torch.from_numpy(made.images), torch.from_numpy(made.targets), token_targets(made)
        part = slice(step * BATCH % POOL, step * BATCH % POOL + BATCH)
        patches = model.forward_features(pixels(images[part]))
        loss = F.binary_cross_entropy_with_logits(model.forward_head(patches), targets[part]) * CLASSES
        shown = loss.item()
        if name == "swin" and progress < HINTED_SHARE:
            hinted = F.binary_cross_entropy_with_logits(hints(patches).flatten(1, 2), places[part]) * CLASSES
            loss = loss + (1 - progress / HINTED_SHARE) * hinted
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = min(1.0, progress / WARMUP, 0.5 + 0.5 * math.cos(math.pi * progress)) + 1e-3
        for optim, highest in zip(optims, rates, strict=True):
            optim.param_groups[0]["lr"] = highest * rate
            optim.step()
            optim.zero_grad()
        with torch.no_grad():
            for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(now, 1 - min(AVERAGE, step / (step + 10)))
        if step % (steps // 5) == steps // 5 - 1:
            print(f"{name} {time.process_time() - begun:5.0f} s  step {step + 1}  loss {shown:.3f}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(average.state_dict(), folder / f"{name}.pt")
    seconds = round(time.process_time() - begun)
    return {"name": name, "steps": steps, "accuracy": accuracy(average.eval(), held_out), "cpu_seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", default=",".join(NAMES))
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the training scenes")
    parser.add_argument("--out", type=Path, default=FOLDER)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.names.split(","):
        print(json.dumps(train(name, given.seed, given.out)), flush=True)


if __name__ == "__main__":
    main()
