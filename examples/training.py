"""Maps while a model trains: a small ViT with random weights learns in which half a square lies.

    python examples/training.py --out out/training

Writes an overlay of two fixed photos every so many steps, and shows how their maps concentrate.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from vitscope.explanation import Explanation
from vitscope.export.trainer import AttentionMaps
from vitscope.metrics.concentration import concentration

SIZE = 48


def scene(side: int, generator: np.random.Generator) -> np.ndarray:
    """Return a photo of noise with a bright square in its left (0) or right (1) half."""
    pixels = generator.integers(0, 90, (SIZE, SIZE, 3), dtype=np.uint8)
    row, column = generator.integers(0, SIZE - 12), generator.integers(0, SIZE // 2 - 12) + side * SIZE // 2
    pixels[row : row + 12, column : column + 12] = 255
    return pixels


def prepared(image: Image.Image) -> torch.Tensor:
    """Turn a photo into the model's input."""
    values = np.asarray(image.convert("RGB").resize((SIZE, SIZE)), np.float32) / 127.5 - 1
    return torch.from_numpy(values.transpose(2, 0, 1).copy())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--every", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("out/training"))
    given = parser.parse_args(arguments)

    generator = np.random.default_rng(0)
    examples = [
        {"pixel_values": prepared(Image.fromarray(scene(n % 2, generator))), "labels": n % 2} for n in range(256)
    ]
    photos = [Image.fromarray(scene(side, generator)) for side in (0, 1)]
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(image_size=SIZE, patch_size=8, num_labels=2, **small))

    def log(tag: str, e: Explanation, step: int) -> None:
        path = given.out / f"{tag.replace('/', '-')}-{step:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        e.overlay().resize((192, 192)).save(path)
        print(f"step {step:4}  {tag}: {concentration(e)['effective_patches']:.1f} effective patches of {e.map.size}")

    maps = AttentionMaps(photos, log, every=given.every, processor=prepared, method="rollout")
    settings = TrainingArguments(
        output_dir=str(given.out),
        max_steps=given.steps,
        per_device_train_batch_size=16,
        learning_rate=2e-3,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=0,
    )
    Trainer(model=model, args=settings, train_dataset=examples, callbacks=[maps]).train()


if __name__ == "__main__":
    main()
