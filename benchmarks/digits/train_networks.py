"""Train two more small networks on digit scenes: what suits one network need not suit another.

    python benchmarks/digits/train_networks.py [--names registers,mean] [--seed 0] [--out FOLDER]

- `registers`: a ViT with four registers, read at CLS
- `mean`: a ViT without a CLS token, read as the mean of its patches

Both name the one to three digits of a scene (`vitscope.bench.digit_scenes`), and start from the weights of the
embedded `digit-scenes`, whose new readout they learn in two minutes: they are its relatives. Equal arguments give
equal weights on one machine. `benchmarks/networks.py` measures maps of them; `load(name)` returns one. A small Swin
that started from nothing had learnt nothing after 400 steps of 32 scenes.
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
from train import HELD_OUT_SEED, PATCH, pixels

from vitscope.bench.digit_scenes import CLASSES, SIZE, Scenes, scenes, split_digits
from vitscope.models.bundled.catalogue import shipped_folder

NAMES = ("registers", "mean")
FOLDER = Path(".cache/networks")
STEPS, BATCH, POOL, WIDTH, DEPTH = 250, 32, 512, 128, 6
WARMUP, AVERAGE = 0.05, 0.99


def architecture(name: str) -> nn.Module:
    """Return a network with random weights."""
    given = {"img_size": SIZE, "num_classes": CLASSES, "mlp_ratio": 2}
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


def train(name: str, seed: int, folder: Path) -> dict[str, object]:
    """Train one network and save the moving average of its weights."""
    torch.manual_seed(seed)
    digits, unseen = split_digits()
    held_out = scenes(unseen.images, unseen.labels, 500, HELD_OUT_SEED)
    model, average = architecture(name), architecture(name)
    start_from_digit_scenes(model)
    average.load_state_dict(model.state_dict())
    optim = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98))
    begun = time.process_time()
    for step in range(STEPS):
        if step % (POOL // BATCH) == 0:
            made = scenes(digits.images, digits.labels, POOL, seed * 100_003 + step, warp=1.0)
            images, targets = torch.from_numpy(made.images), torch.from_numpy(made.targets)
        part = slice(step * BATCH % POOL, step * BATCH % POOL + BATCH)
        loss = F.binary_cross_entropy_with_logits(model(pixels(images[part])), targets[part]) * CLASSES
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        progress = step / STEPS
        optim.param_groups[0]["lr"] = (
            1e-3 * min(1.0, progress / WARMUP, 0.5 + 0.5 * math.cos(math.pi * progress)) + 1e-6
        )
        optim.step()
        optim.zero_grad()
        with torch.no_grad():
            for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(now, 1 - min(AVERAGE, step / (step + 10)))
        if step % 50 == 49:
            print(f"{name} {time.process_time() - begun:5.0f} s  step {step + 1}  loss {loss.item():.3f}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(average.state_dict(), folder / f"{name}.pt")
    seconds = round(time.process_time() - begun)
    return {"name": name, "steps": STEPS, "accuracy": accuracy(average.eval(), held_out), "cpu_seconds": seconds}


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
