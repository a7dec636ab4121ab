"""One map against one known object: where it lies, beside random maps and a blob in the middle. Numpy only."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from vitscope.explanation import Explanation
from vitscope.metrics.faithfulness import MeasureResult
from vitscope.metrics.localisation import localise
from vitscope.metrics.measurement import Number, compare_with_random
from vitscope.metrics.ranking import rank_map, shuffled_maps

__all__ = ["MaskComparison", "centre_prior", "compare_with_mask"]

_NAMES = {"auc": "pixel-auc", "ap": "average-precision", "pointing": "pointing", "inside": "mass-inside"}
_DRAWS = 39  # their least and largest are the ends of a 95 % interval
_SIGMA = 0.25  # of the blob in the middle, in sides of the picture


@dataclass(frozen=True)
class MaskComparison:
    """How well one map finds one object.

    Attributes:
        numbers: `pixel-auc`, `average-precision`, `pointing` and `mass-inside` (`Localisation` says what they are),
            each beside that of random maps; `detail["centre"]` is that of a blob in the middle.
        share: the object's share of the photo.
    """

    numbers: tuple[Number, ...]
    share: float

    def __getitem__(self, name: str) -> Number:
        return next(number for number in self.numbers if number.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        numbers = [number.to_dict() for number in self.numbers]
        return {"object_share": self.share, "numbers": numbers, "sentence": self.sentence()}

    def sentence(self) -> str:
        """What the numbers say, and no more."""
        better = [n.name for n in self.numbers if n.verdict == "better than random"]
        worse = [n.name for n in self.numbers if n.verdict == "worse than random"]
        above = [n.name for n in self.numbers if n.value > n.detail["centre"]]
        of = len(self.numbers)
        said = [
            f"{kind} than random maps by {len(names)} of {of} numbers ({', '.join(names)})"
            for kind, names in (("better", better), ("worse", worse))
            if names
        ]
        said = said or [f"no number of {of} tells the map from random maps"]
        than = f"above a blob in the middle in {len(above)} ({', '.join(above)})" if above else ""
        return f"on the object: {'; '.join([*said, than or 'above a blob in the middle in none'])}."


def compare_with_mask(explanation: Explanation, mask: Bool[np.ndarray, "H W"], seed: int = 0) -> MaskComparison:
    """Compare a map, laid on its photo, with an object's mask.

    Random maps are this map's values in other places, 39 of them: they are laid on the photo as the map is, patches
    smoothed into each other. Their least and largest value are the ends of the interval. The blob is a Gaussian in the
    middle, its standard deviation a quarter of each side.

    Raises:
        UsageError: a mask of another size, or without object or ground in what the model saw.

    Cost: some 80 sorts of the photo's pixels; no forwards.
    Limits: one object of one photo, and no other object's mask: the map may lie on something else that counts.
    """
    region, grid = explanation.region, explanation.map.shape
    own = localise(explanation.heat(), mask)
    middle = localise(region.upsample(centre_prior(grid)), mask)
    randoms = [
        localise(region.upsample(other.values.reshape(grid).astype(np.float32)), mask)
        for other in shuffled_maps(rank_map(explanation.map, seed), _DRAWS, seed)
    ]
    numbers = tuple(
        compare_with_random(
            name,
            "localisation",
            "higher",
            MeasureResult(getattr(own, field), detail={"centre": getattr(middle, field)}),
            [getattr(one, field) for one in randoms],
            possible=(0.0, 1.0),
        )
        for field, name in _NAMES.items()
    )
    return MaskComparison(numbers, float(mask.mean()))


def centre_prior(grid: tuple[int, int]) -> Float[np.ndarray, "gh gw"]:
    """A Gaussian in the middle: where things mostly are, with no look at the picture."""
    down, across = ((np.arange(n) + 0.5) / n - 0.5 for n in grid)
    return np.exp(-(down[:, None] ** 2 + across**2) / (2 * _SIGMA**2)).astype(np.float32)
