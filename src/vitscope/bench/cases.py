"""What a benchmark asks: one case is one picture, what is explained on it, and how its map is judged."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from vitscope.bench import planted
from vitscope.explanation import Explanation
from vitscope.metrics.localisation import inside, localise, pointing

__all__ = ["KINDS", "BenchmarkInfo", "Case", "grid_judge", "mask_judge", "pair_judge", "planted_cases"]

Numbers = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Case:
    """One question with a known answer.

    Attributes:
        name: no two cases of a benchmark share it.
        group: what it is counted with; empty for the object's size class.
        load: the picture `(H, W, 3)` and the mask of the right answer `(H, W)`, made or read when it is needed.
        judge: from a map's explanation and the mask to numbers by name; raises UsageError where nothing can be said.
        target: what is explained.
    """

    name: str
    group: str
    load: Callable[[], tuple[UInt8[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]]
    judge: Callable[[Explanation, Bool[np.ndarray, "H W"]], Numbers]
    target: Any = None


@dataclass(frozen=True)
class BenchmarkInfo:
    """What a benchmark's table shows.

    Attributes:
        title: in words.
        metrics: the numbers, in the table's order, and what each is called there.
        headline: the one that methods are compared and sorted by.
        pooled: numbers that are counted over the pixels of all pictures together, not as a mean over pictures.
        chance: what a method that knows nothing scores, in words.
    """

    title: str
    metrics: Mapping[str, str]
    headline: str
    pooled: tuple[str, ...] = ()
    chance: str = ""


_PLANTED = {
    "auc": "pixel AUC",
    "ap": "average precision",
    "pointing": "pointing",
    "inside": "mass inside",
    "iou_best": "IoU, best threshold",
    "iou_mean": "IoU, mean threshold",
}
KINDS: Mapping[str, BenchmarkInfo] = {
    "planted": BenchmarkInfo(
        "planted objects", _PLANTED, "ap", chance="AUC .5; the others near the object's share of pixels"
    ),
    "segmentation": BenchmarkInfo(
        "segmented photos",
        {"accuracy": "pixel accuracy", "miou": "mIoU", "ap_both": "mAP"} | _PLANTED,
        "miou",
        pooled=("accuracy", "miou"),
        chance="AUC .5",
    ),
    "digits": BenchmarkInfo(
        "which digit, which quarter",
        {
            "share": "share on the digit",
            "hotter": "pointing",
            "inside": "mass inside",
            "cell share": "share in the quarter",
            "cell pointing": "quarter pointing",
        },
        "share",
        chance=".5 for share on the digit and pointing, .25 for the quarters",
    ),
    "speed": BenchmarkInfo("accuracy and cost on planted objects", _PLANTED, "ap", chance="AUC .5"),
}


def mask_judge(explanation: Explanation, mask: Bool[np.ndarray, "H W"]) -> Numbers:
    """`metrics.localisation.localise` of the map as it is drawn: bicubic between patch centres."""
    return localise(explanation.heat(), mask).to_dict()


def planted_cases(scenes: list[planted.Scene]) -> list[Case]:
    """One case a scene, grouped by the object's size."""
    return [
        Case(scene.name, "", lambda scene=scene: (scene.image, scene.mask), mask_judge)  # type: ignore[misc]
        for scene in scenes
    ]


def pair_judge(other: Bool[np.ndarray, "H W"]) -> Callable[[Explanation, Bool[np.ndarray, "H W"]], Numbers]:
    """Two objects, one asked for: how much lies on it rather than on the other, patches as flat blocks.

    `share`: of the positive mass on both, the part on the asked one. `hotter`: 1 where the highest value on the asked
    one is above that on the other, a half where they are equal. `inside`: of all positive mass, the part on it.
    """

    def judge(explanation: Explanation, mask: Bool[np.ndarray, "H W"]) -> Numbers:
        heat = explanation.heat(smooth=False)
        ours, theirs = float(heat[mask].max()), float(heat[other].max())
        positive = np.clip(heat, 0, None)
        on, beside = float(positive[mask].sum()), float(positive[other].sum())
        return {
            "share": on / (on + beside) if on + beside > 0 else 0.5,
            "hotter": 0.5 if ours == theirs else float(ours > theirs),
            "inside": inside(heat, mask),
        }

    return judge


def grid_judge(explanation: Explanation, mask: Bool[np.ndarray, "H W"]) -> Numbers:
    """The grid pointing game: positive mass in the asked cell (Böhle, Fritz, Schiele 2021, equation 9), and a hit."""
    heat = explanation.heat(smooth=False)
    return {"cell share": inside(heat, mask), "cell pointing": pointing(heat, mask)}
