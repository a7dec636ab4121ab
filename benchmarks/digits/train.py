"""Train a small Vision Transformer from scratch to name the handwritten digits in a cluttered scene.

    python benchmarks/digits/train.py --out digit-scenes [--minutes 60] [--steps 5000] [--seed 0]

The scenes are those of `vitscope.bench.digit_scenes`, made while training goes on; no scene is seen twice. The result
is a plain `ViTForImageClassification` with ten logits, one sigmoid each, and its image processor, in a folder that
`AutoModelForImageClassification.from_pretrained` reads.

What helps a small transformer along in so little time:

- the position embedding starts as sines and cosines of row and column;
- in the first four blocks each head starts by attending to one neighbouring token;
- the matrices of the blocks are trained by Muon, everything else by AdamW;
- in the first quarter of the training clutter and colour grow from none to what held-out scenes have;
- in the first 60 % of the training a second head, thrown away afterwards, names at each token of an intermediate layer
  the digit whose box the token's centre lies in; its weight falls from one to zero over that time;
- over the same time most scenes have three digits, and the model gets two thirds of the tokens, those of the digits
  and random ones of the clutter.

The shipped weights are the moving average at the end of the training; nothing is chosen by the held-out figures. The
schedule follows the steps; if `--minutes` would run out first, it follows the clock, so that training always ends on
the lowest learning rate, at the price of weights that depend on the machine.

Needs scikit-learn beside the package's own requirements.
"""

import argparse
import copy
import json
import math
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from vitscope.bench.digit_scenes import CLASSES, SIZE, Digits, Scenes, scenes, split_digits

PATCH = 6
HINTED_LAYER = 4
HINTED_SHARE = 0.6  # of the training, in which tokens are told their digits
KEPT_TOKENS = 66  # of 100, in that time; three digits seldom cover more than 50
CLUTTERED_FROM = 0.25  # of the training; until then clutter grows
BATCH = 32
POOL = 1024  # scenes made at a time
HELD_OUT_SEED = 1_000_003
DIAGONALS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
WARMUP = 0.05
AVERAGE = 0.998


def new_model() -> ViTForImageClassification:
    """Return the untrained model."""
    config = ViTConfig(
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=256,
        image_size=SIZE,
        patch_size=PATCH,
        num_labels=CLASSES,
        id2label={number: str(number) for number in range(CLASSES)},
        label2id={str(number): number for number in range(CLASSES)},
        problem_type="multi_label_classification",
        attn_implementation="eager",  # for so few tokens faster than the fused kernel; not kept in the saved model
    )
    model = ViTForImageClassification(config)
    embeddings = model.vit.embeddings
    with torch.no_grad():
        embeddings.position_embeddings[0, 1:] = sines(SIZE // PATCH, config.hidden_size)
        embeddings.patch_embeddings.projection.weight.mul_(3)
        for number, layer in enumerate(model.vit.layers[:HINTED_LAYER]):
            look_beside(layer.attention, ((-1, 0), (1, 0), (0, -1), (0, 1)) if number % 2 == 0 else DIAGONALS)
    return model


def wavelengths(side: int, width: int) -> Tensor:
    """Angles by which the position embedding's sines turn from one token to the next."""
    return math.pi / side * 2 ** torch.linspace(0, math.log2(side), width // 4)


def sines(side: int, width: int) -> Tensor:
    """Sines and cosines of row and column at several wavelengths, one row per token."""
    angles = torch.arange(side)[:, None] * wavelengths(side, width)
    line = torch.cat([angles.sin(), angles.cos()], 1)
    return torch.cat([line.repeat_interleave(side, 0), line.repeat(side, 1)], 1)


def look_beside(attention: nn.Module, offsets: tuple[tuple[int, int], ...], gain: float = 1.2) -> None:
    """Set queries and keys so that each head starts by attending to the token at its offset (rows, columns).

    Shifting a place turns the sine and cosine of each wavelength by a fixed angle; the queries are turned so, the keys
    are not, and their product is highest where both name the same place. Each head takes every fourth wavelength.
    """
    width = attention.q_proj.in_features
    rates = wavelengths(SIZE // PATCH, width)
    quarter, every = len(rates), len(offsets)
    attention.q_proj.weight.zero_()
    attention.k_proj.weight.zero_()
    row = 0
    for head, offset in enumerate(offsets):
        for axis, distance in enumerate(offset):
            for wave in range(head % every, quarter, every):
                sine, cosine = 2 * axis * quarter + wave, (2 * axis + 1) * quarter + wave
                turn = rates[wave] * distance
                attention.k_proj.weight[row, sine] = attention.k_proj.weight[row + 1, cosine] = gain
                attention.q_proj.weight[row, sine] = attention.q_proj.weight[row + 1, cosine] = gain * turn.cos()
                attention.q_proj.weight[row, cosine] = gain * turn.sin()
                attention.q_proj.weight[row + 1, sine] = -gain * turn.sin()
                row += 2


def pixels(images: Tensor) -> Tensor:
    """Prepare uint8 images B×H×W×3 as the image processor does."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def token_targets(made: Scenes) -> Tensor:
    """B×tokens×10: one for the class of each digit whose box the token's centre lies in."""
    boxes, labels = torch.from_numpy(made.boxes), torch.from_numpy(made.labels)
    centres = torch.arange(PATCH / 2, SIZE, PATCH)
    left, top, right, bottom = boxes[..., None].unbind(2)
    columns, rows = (centres >= left) & (centres < right), (centres >= top) & (centres < bottom)
    inside = (rows[..., :, None] & columns[..., None, :]).flatten(2).float()
    classes = F.one_hot(labels.clamp(min=0), CLASSES).float()
    return torch.einsum("bst,bsc->btc", inside, classes).clamp(max=1)


def forward(model: ViTForImageClassification, inputs: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the logits and the patch tokens after the hinted layer, only the `kept` (B×K) if given."""
    hidden = model.vit.embeddings(inputs)
    if kept is not None:
        index = F.pad(kept + 1, (1, 0))
        hidden = hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1]))
    for number, layer in enumerate(model.vit.layers, start=1):
        hidden = layer(hidden)
        if number == HINTED_LAYER:
            middle = hidden[:, 1:]
    return model.classifier(model.vit.layernorm(hidden[:, 0])), middle


@torch.no_grad()
def evaluate(model: ViTForImageClassification, made: Scenes) -> dict[str, float]:
    """How well the model names the digits of the scenes.

    Returns:
        `per_digit_accuracy`: the share of digits present that are among the scene's k highest logits, k being its
        number of digits; `recall` and `precision` of the decisions logit > 0 over all digits; `exact_top_k`: the share
        of scenes whose k highest logits are just their digits; `exact`: of scenes with all ten decisions right; and
        the first of these by number of digits.
    """
    model.eval()
    logits = torch.cat([model(pixel_values=pixels(part)).logits for part in torch.from_numpy(made.images).split(128)])
    targets = torch.from_numpy(made.targets).bool()
    number = targets.sum(1)
    ranks = logits.argsort(1, descending=True).argsort(1)
    found = (ranks < number[:, None]) & targets
    decided = logits > 0
    right = (decided & targets).sum()
    figures = {
        "per_digit_accuracy": found.sum() / number.sum(),
        "recall": right / number.sum(),
        "precision": right / decided.sum().clamp(min=1),
        "exact_top_k": (found.sum(1) == number).float().mean(),
        "exact": (decided == targets).all(1).float().mean(),
    }
    for count in (1, 2, 3):
        figures[f"per_digit_accuracy_{count}"] = found[number == count].sum() / (count * (number == count).sum())
    return {name: round(value.item(), 4) for name, value in figures.items()}


def pool(digits: Digits, seed: int, progress: float) -> Scenes:
    """Scenes to train on at this point of the training."""
    torch.set_num_threads(1)
    shares = (0.1, 0.2, 0.7) if progress < HINTED_SHARE else (1 / 3, 1 / 3, 1 / 3)
    clutter = min(1.0, progress / CLUTTERED_FROM)
    return scenes(digits.images, digits.labels, POOL, seed, warp=1.0, clutter=clutter, shares=shares)


def optimizers(model: ViTForImageClassification, hints: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for everything else."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and ".layer" in name]
    taken = {id(p) for p in matrices}
    others = [p for _, p in named if id(p) not in taken] + list(hints.parameters())
    return [
        torch.optim.Muon(matrices, lr=3e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def save(model: ViTForImageClassification, folder: Path) -> None:
    """Write the model and its image processor."""
    model.save_pretrained(folder)
    side = {"height": SIZE, "width": SIZE}
    ViTImageProcessor(size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)


def train(digits: Digits, held_out: Scenes, steps: int, minutes: float, seed: int, out: Path) -> dict[str, object]:
    """Train, saving the average of the weights every few hundred steps; returns the figures at the end."""
    torch.manual_seed(seed)
    model = new_model()
    hints = nn.Sequential(nn.LayerNorm(model.config.hidden_size), nn.Linear(model.config.hidden_size, CLASSES))
    average = copy.deepcopy(model)
    optims = optimizers(model, hints)
    rates = [optim.param_groups[0]["lr"] for optim in optims]
    begun, progress, step = time.monotonic(), 0.0, 0
    maker = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    coming = maker.submit(pool, digits, seed * 100_003, progress)

    while progress < 1:
        made = coming.result()
        coming = maker.submit(pool, digits, seed * 100_003 + step + POOL // BATCH, progress)
        images, targets = torch.from_numpy(made.images), torch.from_numpy(made.targets)
        places = token_targets(made)
        model.train()
        for part in torch.arange(POOL).split(BATCH):
            hint = max(0.0, 1 - progress / HINTED_SHARE)
            rate = min(1.0, progress / WARMUP, 0.5 + 0.5 * math.cos(math.pi * progress)) + 1e-3
            for optim, highest in zip(optims, rates, strict=True):
                for group in optim.param_groups:
                    group["lr"] = highest * rate
            here, kept = places[part], None
            if hint:
                kept = (here.amax(-1) + torch.rand(here.shape[:2])).topk(KEPT_TOKENS).indices
                here = here.gather(1, kept[..., None].expand(-1, -1, CLASSES))
            with torch.autocast("cpu", torch.bfloat16):
                logits, middle = forward(model, pixels(images[part]), kept)
                named = hints(middle) if hint else None
            loss = F.binary_cross_entropy_with_logits(logits.float(), targets[part]) * CLASSES
            shown = loss.item()
            if named is not None:
                hinted = F.binary_cross_entropy_with_logits(named.float(), here) * CLASSES
                shown_hint = hinted.item()
                loss = loss + hint * hinted
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optim in optims:
                optim.step()
                optim.zero_grad()
            step += 1
            with torch.no_grad():
                decay = min(AVERAGE, step / (step + 10))
                for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                    mean.lerp_(now, 1 - decay)
            progress = max(step / steps, (time.monotonic() - begun) / 60 / minutes)
            if progress >= 1:
                break
        if step % 512 == 0 or progress >= 1:
            part = Scenes(**{name: value[:512] for name, value in vars(held_out).items()})
            seconds = time.monotonic() - begun
            print(
                f"{seconds:5.0f} s  step {step}  loss {shown:.3f} {shown_hint:.3f}  {evaluate(average, part)}",
                flush=True,
            )
            save(average, out)

    maker.shutdown(cancel_futures=True)
    wall = time.monotonic() - begun
    cpu = sum(resource.getrusage(who).ru_utime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    figures: dict[str, object] = dict(evaluate(average, held_out))
    return figures | {"steps": step, "wall_minutes": round(wall / 60, 1), "user_cpu_minutes": round(cpu / 60, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the trained model")
    parser.add_argument("--minutes", type=float, default=60.0, help="at most this long, by the clock")
    parser.add_argument("--steps", type=int, default=5000, help=f"of {BATCH} scenes each")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the training scenes")
    parser.add_argument("--held-out", type=int, default=3000, help="scenes of unseen digits for the figures")
    options = parser.parse_args()

    torch.set_num_threads(1)  # a second thread mostly waits in operations this small; the scenes take its core
    digits, unseen = split_digits()
    held_out = scenes(unseen.images, unseen.labels, options.held_out, HELD_OUT_SEED)
    figures = train(digits, held_out, options.steps, options.minutes, options.seed, options.out)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
