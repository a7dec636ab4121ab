"""DINOv3, with rotary positions and four registers: the object, the parts that are alike, and what registers collect.

python examples/dinov3.py photo.jpg --model facebook/dinov3-vits16-pretrain-lvd1689m
python examples/dinov3.py photo.jpg --random     # a small one with random weights: shows that it runs, no more
"""

import argparse
from pathlib import Path
from typing import Any

import torch

import vitscope
from vitscope.render.sheets import Cell, sheet


def random_model() -> Any:
    """Return a small DINOv3 with random weights, and what turns a photo into its input."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    torch.manual_seed(0)
    small = DINOv3ViTConfig(
        image_size=64,
        patch_size=16,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        num_register_tokens=4,
    )
    return DINOv3ViTModel(small).eval()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image")
    parser.add_argument("--model", default="facebook/dinov3-vits16-pretrain-lvd1689m")
    parser.add_argument("--random", action="store_true", help="a small model with random weights")
    parser.add_argument("--size", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("out"))
    given = parser.parse_args(arguments)

    scope = vitscope.load(random_model() if given.random else given.model)
    cells = []
    for title, options in {
        "set apart from the rest": {"method": "random-walk"},
        "first direction of the features": {"method": "pca"},
        "attention of the last layer": {"method": "attention"},
    }.items():
        e = scope.explain(given.image, size=given.size, **options)
        cells.append(Cell(e.overlay(), title))
    shares = dict(zip(e.layout.prefix, (float(value) for value in e.prefix), strict=True))
    print("attention on prefix tokens:", {name: round(value, 3) for name, value in shares.items()})
    given.out.mkdir(parents=True, exist_ok=True)
    sheet(cells, Path(given.image).name, columns=3).save(given.out / "dinov3.png")


if __name__ == "__main__":
    main()
