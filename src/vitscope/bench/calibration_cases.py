"""Cases without labels for any one model: planted objects, and grids of images that the model itself names."""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from vitscope._messages import msg
from vitscope.bench import photos, planted
from vitscope.bench.cases import Case, Explainer, cell_mask, grid_judge, mask_judge
from vitscope.bench.digit_scenes import split_digits
from vitscope.bench.digits import digit_cases, names_digits
from vitscope.bench.planted import Split, image_files
from vitscope.bench.runner import PRIORS
from vitscope.engine.calibration import Cases, Outcome
from vitscope.errors import ImageError, UsageError
from vitscope.evaluation.evaluate import ScoreCache, measure
from vitscope.explanation import Explanation
from vitscope.images import load_image

CONFIDENT = 0.5  # probability of a class from which on the model names an image with confidence
_SCENE = 336  # side of a scene in pixels
_FEWEST = 6  # grids of a split whose target the model rests on
_TRIES = 4  # grids composed for each that is kept, at most


@dataclass(frozen=True, eq=False)
class CaseSet:
    """The cases of one question: those of the search, and others for the report.

    Attributes:
        kind: what is asked.
        tune, report: the cases; both empty where the question cannot be asked.
        images: of grids, the number of images that the model names with confidence.
        problem: why the question cannot be asked.
    """

    kind: Cases
    tune: list[Case]
    report: list[Case]
    images: int = 0
    problem: Outcome | None = None


def object_cases(scope: Explainer, tune: int, report: int, seed: int, faithful: int) -> CaseSet:
    """Make scenes with a planted object: where is it? The score is the mean of AUC, AP, pointing and mass inside."""
    found = {}
    for split, count in (("tune", tune), ("report", report)):
        scenes = planted.scenes(count, seed=seed, size=_SCENE, split=split)
        found[split] = [
            Case(f"{split} {scene.name}", "", lambda scene=scene: (scene.image, scene.mask), _object_numbers)  # type: ignore[misc]
            for scene in scenes
        ]
    return CaseSet("planted", found["tune"], _with_faithfulness(scope, found["report"], faithful))


def evidence_cases(
    scope: Explainer,
    tune: int,
    report: int,
    seed: int,
    faithful: int,
    images: str | Path | None = None,
    on_note: Callable[[str], None] = lambda words: None,
) -> CaseSet:
    """Make cases of several classes: which part is evidence for this one? The score is the mean of share and pointing.

    Of the caller's images, of the bundled photos, of digits and patterns the first are taken of which the model names
    enough with confidence; a model of the classes 0 to 9 gets scenes and grids of digits.
    """
    if scope.adapter.dense:
        return CaseSet("photos", [], [], problem="dense")
    if images is None and names_digits(scope):
        with suppress(UsageError):  # it recognises none of them
            halves = {}
            for number, (split, count) in enumerate({"tune": tune, "report": report}.items()):
                made = _mixed(digit_cases(scope, -(-count // 2), seed + number)[0])[:count]
                halves[split] = [
                    replace(case, name=f"{split} {case.name}", judge=_evidence_judge(case.judge)) for case in made
                ]
            return CaseSet("digits", halves["tune"], _with_faithfulness(scope, halves["report"], faithful))
    sources: dict[Cases, Callable[[], Mapping[str, np.ndarray]]] = {
        **({} if images is None else {"images": lambda: _own_images(images, on_note)}),
        "photos": photos.sample_photos,
        "patterns": _patterns,
    }
    problem: Outcome = "unnamed"
    for kind, load in sources.items():
        found = load()
        named = _named(scope, found)
        halves_of_images = [named[number::2] for number in (0, 1)]
        note = msg(
            "bench.calibrate-named",
            "{count} of {total} images ({kind}) are named with confidence",
            count=len(named),
            total=len(found),
            kind=kind,
        )
        on_note(note)
        if any(len({image.number for image in half}) < 2 for half in halves_of_images):
            continue
        cases = [
            _grids(scope, half, count, seed, split)
            for half, count, split in zip(halves_of_images, (tune, report), get_args(Split), strict=True)
        ]
        if all(len(half) >= min(count, _FEWEST) for half, count in zip(cases, (tune, report), strict=True)):
            return CaseSet(kind, cases[0], _with_faithfulness(scope, cases[1], faithful), len(named))
        problem = "ignored"
    return CaseSet("photos", [], [], problem=problem)


def _object_numbers(explanation: Explanation, mask: np.ndarray) -> dict[str, Any]:
    numbers = mask_judge(explanation, mask)
    shown = {name: float(numbers[name]) for name in ("auc", "ap", "pointing", "inside")}
    return {"score": float(np.mean(list(shown.values()))), **shown}


def _evidence_judge(judge: Callable[..., Mapping[str, Any]]) -> Callable[[Explanation, np.ndarray], dict[str, Any]]:
    """Return a judge that calls the target's share and its pointing alike in scenes and in grids."""

    def numbers(explanation: Explanation, mask: np.ndarray) -> dict[str, Any]:
        found = judge(explanation, mask)
        share = float(found.get("share", found.get("cell share", 0.0)))
        pointing = float(found.get("hotter", found.get("cell pointing", 0.0)))
        return {"score": (share + pointing) / 2, "share": share, "pointing": pointing}

    return numbers


def _with_faithfulness(scope: Explainer, cases: list[Case], count: int) -> list[Case]:
    """Return the cases; the first `count` also measure how far the score follows the map, by deletion.

    The number `faithful` is the area under the deletion curve of random maps less that of the map: higher is better.
    `right` is that of the right answer itself: how far the model rests on it.
    """
    baseline: Any = "removal" if scope.engine.supports("patch-dropping") else "mean"
    options: Any = {"metrics": "deletion", "baseline": baseline, "steps": 10, "n_random_maps": 3}

    def judged(case: Case) -> Case:
        scores: ScoreCache = {}
        right: list[float] = []

        def margin(explanation: Explanation) -> float:
            (deletion,) = measure(scope.engine, explanation, **options, score_cache=scores).numbers
            return deletion.random - deletion.value

        def judge(explanation: Explanation, mask: np.ndarray) -> Mapping[str, Any]:
            numbers = dict(case.judge(explanation, mask))
            if explanation.method not in PRIORS:
                right.extend([] if right else [margin(replace(explanation, map=_covered(explanation, mask)))])
                numbers |= {"faithful": margin(explanation), "right": right[0]}
            return numbers

        return replace(case, judge=judge)

    return [judged(case) for case in cases[:count]] + cases[count:]


def _covered(explanation: Explanation, mask: np.ndarray) -> Float[np.ndarray, "gh gw"]:
    """Return the share of each patch that a mask covers."""
    grid = explanation.layout.grid
    numbers = explanation.region.upsample(np.arange(grid[0] * grid[1], dtype=np.float32).reshape(grid), smooth=False)
    seen = np.isfinite(numbers)
    patch = numbers[seen].astype(int)
    pixels = np.bincount(patch, minlength=grid[0] * grid[1])
    covered = np.bincount(patch, mask[seen], grid[0] * grid[1]) / np.maximum(pixels, 1)
    return covered.reshape(grid).astype(np.float32)


def _mixed(cases: list[Case]) -> list[Case]:
    """Return cases of all groups in turn, so that the first of them are of every group."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    rank = {case.name: (number / len(group)) for group in groups.values() for number, case in enumerate(group)}
    return sorted(cases, key=lambda case: rank[case.name])


# --- grids of images that the model names ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _NamedImage:
    """An image that the model names with confidence, and the number of that class."""

    name: str
    pixels: UInt8[np.ndarray, "S S 3"]
    number: int


def _named(scope: Explainer, images: Mapping[str, np.ndarray]) -> list[_NamedImage]:
    """Return the images that the model names with confidence, in the order of their classes."""
    engine, found = scope.engine, []
    for name, pixels in images.items():
        square = _square(pixels, _SCENE // 2)
        answer = _answer(scope, square)
        if engine.activation(answer) in (None, "value"):
            return []
        number, share = engine.top_classes(answer, 0)[0]
        if share >= CONFIDENT:
            found.append(_NamedImage(name, square, number))
    digest = {image.name: hashlib.sha256(image.name.encode("utf-8", "surrogateescape")).digest() for image in found}
    return sorted(found, key=lambda image: (image.number, digest[image.name]))


def _grids(scope: Explainer, images: list[_NamedImage], count: int, seed: int, split: str) -> list[Case]:
    """Compose grids of four images; kept are those whose target's logit falls most where its own cell is greyed."""
    cases: list[Case] = []
    for index in range(_TRIES * count):
        if len(cases) == count:
            break
        rng = np.random.default_rng([seed, get_args(Split).index(split), index, 17])
        target, place = images[index % len(images)], int(rng.integers(4))
        others = [image for image in images if image.number != target.number]
        chosen = [others[i] for i in rng.choice(len(others), 3, replace=len(others) < 3)]
        four = [image.pixels for image in (*chosen[:place], target, *chosen[place:])]
        grid = np.concatenate([np.concatenate(four[:2], 1), np.concatenate(four[2:], 1)], 0)
        masks = [cell_mask(grid, cell) for cell in range(4)]
        grey = grid.mean((0, 1)).astype(np.uint8)
        whole, *without = [
            float(_answer(scope, image)[0, target.number])
            for image in (grid, *(np.where(mask[..., None], grey, grid) for mask in masks))
        ]
        if without[place] < min(whole, *(x for cell, x in enumerate(without) if cell != place)):
            name, mask = f"{split} {index:03d} {target.name} in cell {place}", masks[place]
            load = lambda grid=grid, mask=mask: (grid, mask)  # noqa: E731
            cases.append(Case(name, "grid", load, _evidence_judge(grid_judge), target.number))
    return cases


def _answer(scope: Explainer, pixels: np.ndarray) -> torch.Tensor:
    prepared, _ = scope.engine.prepare_pixels(scope.adapter.load(pixels))
    return scope.engine.answer(prepared[None])


def _square(pixels: np.ndarray, side: int) -> UInt8[np.ndarray, "S S 3"]:
    """Return the largest square in the middle, resized."""
    height, width = pixels.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    crop = Image.fromarray(np.ascontiguousarray(pixels[top : top + edge, left : left + edge, :3]))
    return np.asarray(crop.resize((side, side), Image.Resampling.BICUBIC))


def _own_images(folder: str | Path, on_note: Callable[[str], None]) -> dict[str, np.ndarray]:
    """Return the images of a folder that can be read."""
    found = {}
    for path in image_files(folder):
        try:
            found[path.name] = load_image(path).pixels
        except ImageError as error:
            on_note(
                msg("bench.calibrate-left-out", "{name} is left out: {reason}", name=path.name, reason=error.message)
            )
    return found


def _patterns() -> dict[str, np.ndarray]:
    """Return digits and patterns in several colours, for models that know no photos."""
    images: dict[str, np.ndarray] = {}
    _, unseen = split_digits()
    for digit in range(10):
        for number, row in enumerate(np.flatnonzero(unseen.labels == digit)[:4]):
            grey = (255 * unseen.images[row]).astype(np.uint8)
            images[f"digit {digit} {number}"] = np.stack([255 - grey if number % 2 else grey] * 3, 2)
    down, across = np.mgrid[0:96, 0:96]
    shapes = {
        "rows": down // 12 % 2,
        "columns": across // 12 % 2,
        "checks": (down // 16 + across // 16) % 2,
        "diagonal": (down + across) // 16 % 2,
        "disc": (down - 48) ** 2 + (across - 48) ** 2 < 900,
        "rings": np.hypot(down - 48, across - 48) // 8 % 2,
        "plain": down >= 0,
    }
    colours = {"white": (255, 255, 255), "red": (200, 30, 30), "green": (30, 160, 50), "blue": (40, 60, 200)}
    for name, shape in shapes.items():
        for colour, rgb in colours.items():
            images[f"{colour} {name}"] = (np.asarray(shape)[..., None] * np.array(rgb)).astype(np.uint8)
    return images
