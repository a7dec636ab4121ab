"""Which digit? Cases for a model that names digits: two in one scene, and four pictures in a 2 x 2 grid."""

from typing import TYPE_CHECKING

import numpy as np

from vitscope.bench.cases import Case, grid_judge, pair_judge
from vitscope.bench.digit_scenes import scenes as digit_scenes
from vitscope.bench.digit_scenes import split_digits
from vitscope.errors import UsageError

if TYPE_CHECKING:
    from vitscope.scope import Scope

__all__ = ["MODEL", "digit_cases"]

MODEL = "embedded:digit-scenes"
_PAIRS, _CELLS = 2_000_003, 3_000_017  # seeds far from those of training


def digit_cases(scope: "Scope", count: int, seed: int = 0) -> tuple[list[Case], int]:
    """`count` scenes of two digits, each asked both ways, and `count` grids of four, asked for one cell each.

    Digits are held out: no training scene has shown them. Scenes where the model does not put the digits that are there
    above all others are left out: what it does not see, no map can show.

    Args:
        scope: a model whose classes are called 0 to 9, such as `embedded:digit-scenes`.
        count: scenes of each kind.
        seed: of all that is random.

    Returns:
        The cases, and how many scenes were left out.

    Raises:
        UsageError: a model without these classes, or one that names none of the scenes.
    """
    names = {str(digit) for digit in range(10)}
    if not names <= set(scope.adapter.labels.values()):
        raise UsageError(
            f"{scope.adapter.reference} does not name the digits 0 to 9: it cannot be asked which one",
            f"leave --model out: {MODEL} is trained for it",
        )
    _, unseen = split_digits()
    pairs = digit_scenes(unseen.images, unseen.labels, count, _PAIRS + seed, shares=(0.0, 1.0, 0.0))
    cells = digit_scenes(unseen.images, unseen.labels, 16 * count, _CELLS + seed, size=30, shares=(1.0, 0.0, 0.0))
    cases: list[Case] = []
    kept = 0
    top_classes = _top_classes(scope, list(pairs.images), 2)
    for number, (image, labels, masks) in enumerate(zip(pairs.images, pairs.labels, pairs.masks, strict=True)):
        if top_classes[number] != {str(label) for label in labels[:2]} or not masks[:2].any((1, 2)).all():
            continue
        kept += 1
        for asked in (0, 1):
            name = f"pair {number:03d} {labels[asked]} not {labels[1 - asked]}"
            load = lambda image=image, mask=masks[asked]: (image, mask)  # noqa: E731
            cases.append(Case(name, "two digits", load, pair_judge(masks[1 - asked]), str(labels[asked])))
    grids = [_grid(cells.images, cells.labels[:, 0], row) for row in range(0, 16 * count, 16)]
    top_classes = _top_classes(scope, [image for image, _ in grids], 4)
    rng = np.random.default_rng([seed, _CELLS])
    for number, (image, four) in enumerate(grids):
        place = int(rng.integers(4))
        if top_classes[number] != {str(label) for label in four}:
            continue
        kept += 1
        mask = np.zeros(image.shape[:2], bool)
        half = len(image) // 2
        row, column = divmod(place, 2)
        mask[row * half : (row + 1) * half, column * half : (column + 1) * half] = True
        load = lambda image=image, mask=mask: (image, mask)  # noqa: E731
        cases.append(
            Case(f"grid {number:03d} {four[place]} in cell {place}", "grid", load, grid_judge, str(four[place]))
        )
    if not cases:
        raise UsageError(f"{scope.adapter.reference} names the digits of none of {2 * count} scenes", "raise --count")
    return cases, 2 * count - kept


def _grid(images: np.ndarray, labels: np.ndarray, first: int) -> tuple[np.ndarray, list[int]]:
    """Of sixteen pictures of one digit the first four of different classes, as a 2 x 2 grid."""
    chosen: list[int] = []
    for row in range(first, first + 16):
        if labels[row] not in labels[chosen] and len(chosen) < 4:
            chosen.append(row)
    chosen += [row for row in range(first, first + 16) if row not in chosen][: 4 - len(chosen)]
    a, b, c, d = images[chosen]
    return np.concatenate([np.concatenate([a, b], 1), np.concatenate([c, d], 1)], 0), [int(v) for v in labels[chosen]]


def _top_classes(scope: "Scope", images: list[np.ndarray], most: int) -> list[set[str]]:
    """For each picture the classes that the model finds likeliest."""
    found = scope.explain(images, method="attention", batch_size=32)
    return [{label for label, _ in e.predictions[:most]} for e in found]
