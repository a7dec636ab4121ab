"""Does a map of class a land on digit a, where digit b stands beside it?

    python benchmarks/digits/planted.py [--scenes 300] [--methods relevance,gradcam:at=input] [--gradient-rule libra]

Scenes of two different digits, unseen in training, are explained once for each digit by the embedded model
`digit-scenes`. Per method:

- share: of the positive mass that lies on the two digits' pixels, the part on the digit that was asked for, mean;
- pointing: how often the hotter of the two digits (by the hottest patch whose centre lies in its box) is that one;
- inside: of all positive mass on patches, the part on the asked digit's pixels, mean.

Chance is .5 for the first two: a method that ignores the class scores just that, since each scene is asked both ways.
Scenes in which the model does not score both digits above all others are left out, and counted.
"""

import argparse
import time

import numpy as np

import vitscope
from vitscope.bench.digit_scenes import scenes, split_digits

SEED = 2_000_003


def two_digits(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images, the two classes, boxes and masks of held-out scenes with two digits."""
    _, unseen = split_digits()
    made = scenes(unseen.images, unseen.labels, count, SEED, shares=(0.0, 1.0, 0.0))
    return made.images, made.labels[:, :2], made.boxes[:, :2], made.masks[:, :2]


def figures(heat: np.ndarray, boxes: np.ndarray, masks: np.ndarray, asked: int) -> tuple[float, float, float]:
    """Share, pointing and inside of one map `(gh, gw)`."""
    gh, gw = heat.shape
    height, width = masks.shape[1:]
    positive = np.clip(heat, 0, None).repeat(height // gh, 0).repeat(width // gw, 1)
    on = [float(positive[mask].sum()) for mask in masks]
    share = on[asked] / sum(on) if sum(on) > 0 else 0.5
    rows, columns = (np.arange(gh) + 0.5) * height / gh, (np.arange(gw) + 0.5) * width / gw
    top = []
    for left, upper, right, lower in boxes:
        here = heat[np.ix_((rows >= upper) & (rows < lower), (columns >= left) & (columns < right))]
        top.append(float(here.max()) if here.size else -np.inf)
    pointing = 0.5 if top[0] == top[1] else float(top[asked] == max(top))
    return share, pointing, on[asked] / max(float(positive.sum()), 1e-30)


def measure(
    scope: vitscope.Scope, count: int, method: str, gradient_rule: str = "plain", **params: object
) -> np.ndarray:
    """Return the three figures, and how many maps they are the mean of."""
    images, labels, boxes, masks = two_digits(count)
    found = []
    for asked in (0, 1):
        for digit in range(10):  # pictures that are asked for the same class go through together
            rows = np.flatnonzero(labels[:, asked] == digit)
            options = {"method": method, "target": digit, "batch_size": 32, "gradient_rule": gradient_rule, **params}
            for row, e in zip(rows, scope.explain([images[r] for r in rows], **options), strict=True):
                named = {int(label) for label, _ in e.predictions[:2]}
                if named == set(labels[row].tolist()):
                    found.append(figures(e.map, boxes[row], masks[row], asked))
    return np.array([*np.mean(found, 0), len(found)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--methods", default="", help="names with commas, each with options: rollout:layers=last3")
    parser.add_argument(
        "--gradient-rule", default="plain", help="plain, libra or attnlrp, for methods that leave it open"
    )
    options = parser.parse_args()
    scope = vitscope.load("embedded:digit-scenes")
    names = options.methods.split(",") if options.methods else [method.name for method in scope.methods() if method]
    print("| method | share | pointing | inside | maps | seconds |\n|---|---|---|---|---|---|")
    for text in names:
        name, *rest = text.split(":")
        pairs = [part.partition("=") for part in rest]
        params = {key: int(value) if value.lstrip("-").isdigit() else value for key, _, value in pairs}
        began = time.perf_counter()
        share, pointing, inside, maps = measure(scope, options.scenes, name, options.gradient_rule, **params)
        seconds = time.perf_counter() - began
        print(f"| {text} | {share:.3f} | {pointing:.3f} | {inside:.3f} | {maps:.0f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
