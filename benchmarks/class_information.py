"""How much does a backbone know of classes, layer by layer? Nearest neighbours and a linear probe of its tokens.

    python benchmarks/class_information.py [FOLDER] [--model REFERENCE] [--size 224] [--most 12] [--layers 9,10,11]

FOLDER holds a folder of images for each class, as ImageNet's validation set does. After each block the CLS token and
the mean patch token are taken, after the last one behind the last norm. `neighbour`: how often the most similar other
image, by the cosine, is of the same class. `probe`: the accuracy of a ridge classifier, five-fold cross-validated. In
brackets 95 % bootstrap intervals over images.

DINOv2 ViT-S/14 as Meta published it names 79.0 % of ImageNet's validation images by their neighbours and 81.1 % by a
linear probe (Oquab et al. 2023, table 4), among 1,000 classes and with all of the training set. Run on some images of
ImageNet, this script shows whether a network can be that one: class information that falls in the last layers is not
DINOv2's. Without FOLDER the images are scenes with the 11 cut-outs of `vitscope bench planted` on its 12 backgrounds:
they ask for one object among others, not for a class of objects.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import vitscope
from vitscope.bench import photos
from vitscope.bench.planted import image_files, scenes
from vitscope.images import load_image
from vitscope.metrics.resampling import bootstrap

FOLDS, BATCH = 5, 16
RIDGE = (1e-2, 1.0, 1e2, 1e4)  # of which the best on the training folds is taken


def classes_of(folder: Path, most: int) -> tuple[list[np.ndarray | Path], np.ndarray]:
    """Return the images of a folder of class folders, and the class of each."""
    images: list[np.ndarray | Path] = []
    labels: list[int] = []
    for label, place in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        found = image_files(place)[:most]
        images += found
        labels += [label] * len(found)
    return images, np.array(labels)


def objects(most: int) -> tuple[list[np.ndarray | Path], np.ndarray]:
    """Return scenes with one of eleven objects each."""
    names = sorted([*photos.CUTOUTS["tune"], *photos.CUTOUTS["report"]])
    made = [scene for split in ("tune", "report") for scene in scenes(most * 6, seed=3, size=224, split=split)]
    return [scene.image for scene in made], np.array([names.index(scene.cutout) for scene in made])


def tokens(
    scope: vitscope.Scope, images: Sequence[np.ndarray | Path], size: int, layers: Sequence[int]
) -> dict[str, np.ndarray]:
    """Return features `(images, D)` by layer and kind of token."""
    blocks, found = scope.engine.require_blocks(), dict[str, list[np.ndarray]]()
    prefix = len(scope.layout.prefix)
    for start in range(0, len(images), BATCH):
        pictures = [load_image(image) for image in images[start : start + BATCH]]
        for picture in pictures:  # of any shape, so one at a time
            pixels = scope.prepare(picture, size=size).pixels[None]
            with torch.no_grad(), blocks.record_states() as states:
                answer = scope.engine.answer(pixels)
            for layer in layers:
                after = states.at(layer + 1)[0]
                found.setdefault(f"layer {layer}, CLS", []).append(after[0].float().numpy())
                found.setdefault(f"layer {layer}, mean patch", []).append(after[prefix:].mean(0).float().numpy())
            found.setdefault("answer", []).append(answer[0].float().numpy())
        print(f"\r{min(start + BATCH, len(images))} of {len(images)} images", end="", flush=True)
    print()
    return {name: np.stack(rows) for name, rows in found.items()}


def neighbour(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return, for each image, whether the most similar other one is of its class."""
    unit = features - features.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    similar = unit @ unit.T
    np.fill_diagonal(similar, -np.inf)
    return (labels[similar.argmax(1)] == labels).astype(float)


def probe(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return, for each image, whether a ridge classifier that has not seen it names its class."""
    fold = np.random.default_rng(0).permutation(len(labels)) % FOLDS
    right = np.zeros(len(labels))
    for part in range(FOLDS):
        held = fold == part
        inner = fold == (part + 1) % FOLDS
        best = max(RIDGE, key=lambda ridge: (_ridge(features, labels, ~held & ~inner, inner, ridge)).mean())
        right[held] = _ridge(features, labels, ~held, held, best)
    return right


def _ridge(features: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, ridge: float) -> np.ndarray:
    mean, scale = features[train].mean(0), features[train].std() + 1e-9
    x, y = (features[train] - mean) / scale, np.eye(labels.max() + 1)[labels[train]]
    weights = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ (y - y.mean(0)))
    return (((features[test] - mean) / scale @ weights + y.mean(0)).argmax(1) == labels[test]).astype(float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--most", type=int, default=12, help="images of a class, at most")
    parser.add_argument("--layers", default="2,5,8,9,10,11")
    given = parser.parse_args()
    scope = vitscope.load(given.model)
    layers = [int(text) for text in given.layers.split(",")]
    images, labels = classes_of(given.folder, given.most) if given.folder else objects(given.most)
    count = len(set(labels.tolist()))
    print(f"{scope.adapter.reference}, {scope.adapter.weights}, about {given.size} x {given.size} pixels")
    print(f"{len(images)} images of {count} classes; by chance {1 / count:.2f}\n")
    found = tokens(scope, images, given.size, layers)
    print("\n| features | neighbour | probe |\n|---|---|---|")
    for kind, features in found.items():
        estimates = [bootstrap(one(features, labels)) for one in (neighbour, probe)]
        print(f"| {kind} | {' | '.join(f'{e.value:.3f} [{e.low:.3f} {e.high:.3f}]' for e in estimates)} |")


if __name__ == "__main__":
    main()
