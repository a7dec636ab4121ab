"""Cases for a model that classifies digits: scenes of two digits, and 2 x 2 grids of four images."""

import numpy as np

from vitscope._messages import msg
from vitscope.bench.cases import Case, Explainer, cell_mask, grid_judge, pair_judge
from vitscope.bench.digit_scenes import scenes as digit_scenes
from vitscope.bench.digit_scenes import split_digits
from vitscope.errors import UsageError

MODEL = "embedded:digit-scenes"
_PAIRS, _CELLS = 2_000_003, 3_000_017  # seeds far from those of training


def names_digits(scope: Explainer) -> bool:
    """Return whether a model has classes named 0 to 9."""
    return {str(digit) for digit in range(10)} <= set(scope.adapter.labels.values())


def digit_cases(scope: Explainer, count: int, seed: int = 0) -> tuple[list[Case], int]:
    """Make cases of two digits, and of grids of four.

    Each of `count` scenes of two digits has a case for each digit, each of `count` grids one for one of its cells.

    Digits are held out: no training scene shows them. Scenes whose digits the model does not rank above all others are
    left out: a map cannot show what the model does not recognise.

    Args:
        scope: a model whose classes are named 0 to 9, such as `embedded:digit-scenes`.
        count: scenes of each sort.
        seed: of everything random.

    Returns:
        The cases, and the number of scenes left out.

    Raises:
        UsageError: a model without these classes, or one that recognises none of the scenes.
    """
    if not names_digits(scope):
        raise UsageError(
            msg("bench.no-digit-classes", "{model} has no classes named 0 to 9", model=scope.adapter.reference),
            msg("bench.no-digit-classes.hint", "leave {@model} out: {default} is trained for it", default=MODEL),
        )
    _, unseen = split_digits()
    pairs = digit_scenes(unseen.images, unseen.labels, count, _PAIRS + seed, shares=(0.0, 1.0, 0.0))
    cells = digit_scenes(unseen.images, unseen.labels, 16 * count, _CELLS + seed, size=30, shares=(1.0, 0.0, 0.0))
    cases: list[Case] = []
    used = 0
    top_classes = _top_classes(scope, list(pairs.images), 2)
    for number, (image, labels, masks) in enumerate(zip(pairs.images, pairs.labels, pairs.masks, strict=True)):
        if top_classes[number] != {str(label) for label in labels[:2]} or not masks[:2].any((1, 2)).all():
            continue
        used += 1
        for digit in (0, 1):
            name = f"pair {number:03d} {labels[digit]} not {labels[1 - digit]}"
            load = lambda image=image, mask=masks[digit]: (image, mask)  # noqa: E731
            cases.append(Case(name, "two digits", load, pair_judge(masks[1 - digit]), str(labels[digit])))
    grids = [_grid(cells.images, cells.labels[:, 0], row) for row in range(0, 16 * count, 16)]
    top_classes = _top_classes(scope, [image for image, _ in grids], 4)
    rng = np.random.default_rng([seed, _CELLS])
    for number, (image, four) in enumerate(grids):
        place = int(rng.integers(4))
        if top_classes[number] != {str(label) for label in four}:
            continue
        used += 1
        mask = cell_mask(image, place)
        load = lambda image=image, mask=mask: (image, mask)  # noqa: E731
        cases.append(
            Case(f"grid {number:03d} {four[place]} in cell {place}", "grid", load, grid_judge, str(four[place]))
        )
    if not cases:
        problem = msg(
            "bench.no-digits-recognised",
            "{model} recognises the digits of none of {count} scenes",
            model=scope.adapter.reference,
            count=2 * count,
        )
        raise UsageError(problem, msg("bench.no-digits-recognised.hint", "choose a larger {@count}"))
    return cases, 2 * count - used


def _grid(images: np.ndarray, labels: np.ndarray, first: int) -> tuple[np.ndarray, list[int]]:
    """Join four images of different classes, the first such of sixteen, to a 2 x 2 grid; return it and the classes."""
    chosen: list[int] = []
    for row in range(first, first + 16):
        if labels[row] not in labels[chosen] and len(chosen) < 4:
            chosen.append(row)
    chosen += [row for row in range(first, first + 16) if row not in chosen][: 4 - len(chosen)]
    a, b, c, d = images[chosen]
    return np.concatenate([np.concatenate([a, b], 1), np.concatenate([c, d], 1)], 0), [int(v) for v in labels[chosen]]


def _top_classes(scope: Explainer, images: list[np.ndarray], most: int) -> list[set[str]]:
    """Return the most probable classes of each image."""
    found = scope.explain(images, method="attention", batch_size=32)
    return [{label for label, _ in e.predictions[:most]} for e in found]
