"""How far apart two models' tokens of one image are, layer by layer."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class LayerDistance:
    """The distance of two models' patch tokens after one block.

    Attributes:
        cka: 1 - linear CKA, in [0, 1]: 0 where one model's tokens are the other's, up to rotation, scale and shift. It
            compares models of any width. Of tokens that do not differ from each other it is 1.
        relative: length of the difference over the first model's length (Frobenius); None where the widths differ. It
            says something of two models that were one once, such as a checkpoint and what was trained on from it.
    """

    cka: float
    relative: float | None


@dataclass(frozen=True)
class LayerDistances:
    """The distances of two models on one image, first block first; by `Scope.compare_layers`.

    Attributes:
        models: their references.
        layers: one distance for each block.
    """

    models: tuple[str, str]
    layers: tuple[LayerDistance, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {"models": list(self.models), "layers": [asdict(one) for one in self.layers]}

    def __repr__(self) -> str:
        told = ", ".join(f"{one.cka:.2f}" for one in self.layers)
        return f"<LayerDistances of {' and '.join(self.models)}: {told}>"


def layer_distance(one: Float[np.ndarray, "P D"], other: Float[np.ndarray, "P E"]) -> LayerDistance:
    """Return the distance of two models' tokens of the same patches.

    Linear CKA is `|Y'X|² / (|X'X| |Y'Y|)` with Frobenius norms of centred tokens (Kornblith et al. 2019, equation 4).
    """
    one, other = one.astype(np.float64), other.astype(np.float64)
    relative = None
    if one.shape[1] == other.shape[1]:
        relative = _ratio(float(np.linalg.norm(one - other)), float(np.linalg.norm(one)))
    x, y = one - one.mean(0), other - other.mean(0)
    both = float(np.linalg.norm(y.T @ x) ** 2)
    own = float(np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    return LayerDistance(max(0.0, 1 - both / own) if own else 1.0, relative)


def layer_distances(
    models: tuple[str, str],
    one: Sequence[Float[np.ndarray, "P D"]],
    other: Sequence[Float[np.ndarray, "P E"]],
) -> LayerDistances:
    """Return the distances of equally many layers."""
    return LayerDistances(models, tuple(layer_distance(a, b) for a, b in zip(one, other, strict=True)))


def _ratio(difference: float, length: float) -> float | None:
    return difference / length if length else None
