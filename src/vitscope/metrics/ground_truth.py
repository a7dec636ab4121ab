"""Compare one map with one known object, beside random maps and a blob in the middle. Numpy only."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from vitscope._messages import join_messages, msg
from vitscope.explanation import Explanation, require_image
from vitscope.metrics.faithfulness import MeasureResult
from vitscope.metrics.localisation import localise
from vitscope.metrics.measurement import Number, compare_with_random
from vitscope.metrics.ranking import rank_map, shuffled_maps
from vitscope.metrics.verdict_text import better_by, none_of, worse_by

_NAMES = {"auc": "pixel-auc", "ap": "average-precision", "pointing": "pointing", "inside": "mass-inside"}
_DRAWS = 39  # random maps; the second least and the second largest are the ends of their range
_SIGMA = 0.25  # of the blob in the middle, in sides of the image


@dataclass(frozen=True)
class MaskComparison:
    """How well one map finds one object.

    Attributes:
        numbers: `pixel-auc`, `average-precision`, `pointing` and `mass-inside`, which `Localisation` defines, each
            compared with that of random maps; `detail["centre"]` is that of a blob in the middle.
        share: the object's share of the photo.
    """

    numbers: tuple[Number, ...]
    share: float

    def __getitem__(self, name: str) -> Number:
        return next(number for number in self.numbers if number.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        numbers = [number.to_dict() for number in self.numbers]
        return {"object_share": self.share, "numbers": numbers, "sentence": self.sentence()}

    def sentence(self) -> str:
        """Sum up the numbers in one sentence."""
        better = [n.name for n in self.numbers if n.verdict == "better than random"]
        worse = [n.name for n in self.numbers if n.verdict == "worse than random"]
        above = [n.name for n in self.numbers if n.value > n.detail["centre"]]
        count = len(self.numbers)
        findings = [say(names, count) for say, names in ((better_by, better), (worse_by, worse)) if names]
        if not findings:
            findings.append(none_of(count))
        findings.append(
            msg(
                "metrics.above-blob",
                "above a blob in the middle in {number} ({names})",
                number=len(above),
                names=", ".join(above),
            )
            if above
            else msg("metrics.not-above-blob", "above a blob in the middle in none")
        )
        return msg("metrics.on-object", "on the object: {findings}.", findings=join_messages("; ", findings))


def compare_with_mask(explanation: Explanation, mask: Bool[np.ndarray, "H W"], seed: int = 0) -> MaskComparison:
    """Compare a map, upsampled to its photo, with an object's mask.

    The 39 random maps are this map's values at other patches, upsampled as the map is. The blob is a Gaussian in the
    middle, its standard deviation a quarter of each side.

    Raises:
        UsageError: a mask of another size, or without object or background in the region that the model saw.

    Cost: some 80 sorts of the photo's pixels; no forwards.
    Limits: one object of one photo, and no other object's mask: the map may lie on something else that matters.
    """
    require_image(explanation)
    region, grid = explanation.region, explanation.layout.grid
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
    """Return a Gaussian in the middle, where objects mostly are, whatever the image shows."""
    down, across = ((np.arange(n) + 0.5) / n - 0.5 for n in grid)
    return np.exp(-(down[:, None] ** 2 + across**2) / (2 * _SIGMA**2)).astype(np.float32)
