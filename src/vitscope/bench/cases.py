"""Cases of a benchmark: an image, the target to explain, and how its map is scored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, UInt8

from vitscope.bench import planted
from vitscope.explanation import Explanation
from vitscope.metrics.localisation import inside, localise, pointing

if TYPE_CHECKING:
    import torch

    from vitscope.engine.engine import Engine
    from vitscope.errors import Support
    from vitscope.models.base import ModelAdapter

Numbers = Mapping[str, Any]


@runtime_checkable
class Explainer(Protocol):
    """What a benchmark uses of a `Scope`, which itself offers `calibrate` and so stands above this folder."""

    @property
    def engine(self) -> "Engine":
        """The model at work."""

    @property
    def adapter(self) -> "ModelAdapter":
        """What vitscope knows of the model."""

    @property
    def device(self) -> "torch.device":
        """The device of the model's parameters."""

    @property
    def dtype(self) -> "torch.dtype":
        """The type of the model's parameters."""

    @property
    def explain(self) -> Callable[..., Any]:
        """Explain one image, or several as a batch."""

    def methods(self) -> "list[Support]":
        """Return every method by name: whether it applies, and why not."""


@dataclass(frozen=True, eq=False)
class Case:
    """An image for which the right map is known.

    Attributes:
        name: unique in its benchmark.
        group: the group that it is counted in; empty means the object's size class.
        load: returns the image `(H, W, 3)` and the mask of the right answer `(H, W)`, made or read on demand.
        judge: from an explanation and the mask to numbers by name; raises UsageError where no number is defined.
        target: the target to explain.
    """

    name: str
    group: str
    load: Callable[[], tuple[UInt8[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]]
    judge: Callable[[Explanation, Bool[np.ndarray, "H W"]], Numbers]
    target: Any = None


@dataclass(frozen=True)
class BenchmarkInfo:
    """The texts and metrics of a benchmark's table.

    Attributes:
        title: the benchmark's title.
        metrics: the headings of the metrics by name, in the table's order.
        headline: the metric by which methods are compared and sorted.
        pooled: metrics over the pixels of all images together, not means over images.
        chance: the scores of an uninformed method, as text.
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
    """Score a map as it is drawn, bicubic between patch centres."""
    return localise(explanation.heat(), mask).to_dict()


def planted_cases(scenes: list[planted.Scene]) -> list[Case]:
    """Return a case for each scene, grouped by the object's size."""
    return [
        Case(scene.name, "", lambda scene=scene: (scene.image, scene.mask), mask_judge)  # type: ignore[misc]
        for scene in scenes
    ]


def pair_judge(other: Bool[np.ndarray, "H W"]) -> Callable[[Explanation, Bool[np.ndarray, "H W"]], Numbers]:
    """Return a judge that compares the target object with the other.

    Patches are flat blocks.

    `share`: the target's part of the positive mass on both objects. `hotter`: 1 where the highest value on the target
    is above that on the other, 0.5 where they are equal. `inside`: the target's part of all positive mass.

    Args:
        other: the pixels of the other object.
    """

    def judge(explanation: Explanation, mask: Bool[np.ndarray, "H W"]) -> Numbers:
        heat = explanation.heat(smooth=False)
        ours, theirs = float(heat[mask].max()), float(heat[other].max())
        positive = np.clip(heat, 0, None)
        on_target, on_other = float(positive[mask].sum()), float(positive[other].sum())
        return {
            "share": on_target / (on_target + on_other) if on_target + on_other > 0 else 0.5,
            "hotter": 0.5 if ours == theirs else float(ours > theirs),
            "inside": inside(heat, mask),
        }

    return judge


def cell_mask(grid: UInt8[np.ndarray, "H W 3"], cell: int) -> Bool[np.ndarray, "H W"]:
    """Return the mask of one of the four cells of a square grid, row by row from 0."""
    mask, half, (row, column) = np.zeros(grid.shape[:2], bool), len(grid) // 2, divmod(cell, 2)
    mask[row * half : (row + 1) * half, column * half : (column + 1) * half] = True
    return mask


def grid_judge(explanation: Explanation, mask: Bool[np.ndarray, "H W"]) -> Numbers:
    """Score the grid pointing game (Böhle et al. 2021, equation 9): positive mass in the target's cell, and a hit."""
    heat = explanation.heat(smooth=False)
    return {"cell share": inside(heat, mask), "cell pointing": pointing(heat, mask)}
