"""What to explain: a class, the contrast of two, a feature, the likeness to another picture, or any function.

A target turns the model's answer `(B, C)` or `(B, N, D)` into one score per picture, whose gradient methods follow.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.errors import MethodError, UnknownName, UsageError

__all__ = ["SimilarTo", "Target", "score_of", "similar_to"]

_CONTRAST = " - "


@dataclass(frozen=True, eq=False)
class SimilarTo:
    """The cosine between this picture's features and another picture's. Made by `similar_to`."""

    image: Any
    features: Tensor | None = None

    def __str__(self) -> str:
        return f"similar to {self.image if isinstance(self.image, str) else type(self.image).__name__}"


Target: TypeAlias = "int | str | SimilarTo | Callable[[Tensor], Tensor] | None"


def similar_to(image: Any) -> SimilarTo:
    """The target "like this other picture": which regions make the two alike.

    Args:
        image: a path, a Pillow image or an array.
    """
    return SimilarTo(str(image) if hasattr(image, "__fspath__") else image)


def score_of(
    target: Target, answer: Tensor, labels: Mapping[int, str], classifies: bool
) -> tuple[Float[Tensor, " B"], list[str]]:
    """One score per picture, and what it is in words, picture by picture.

    Args:
        target: a class by number or name, `"tabby - tiger"`, `similar_to(...)`, a function from the answer to `(B,)`;
            None is the predicted class, and for a feature model the feature's own squared norm `<f, f> / 2`.
        answer: the model's answer with its graph.
        labels: class names by number.
        classifies: the answer is class logits.

    Raises:
        UnknownName: a class that the model does not have, with the nearest spelling.
        UsageError: a class asked of a feature model, or a function that does not give one number per picture.
    """
    if isinstance(target, SimilarTo):
        if target.features is None:
            raise MethodError(
                "the other picture has not been looked at", "use Scope.explain(..., target=similar_to(...))"
            )
        feature = _feature(answer)
        score = torch.cosine_similarity(feature, target.features.to(feature), dim=-1)
        return score, [str(target)] * len(score)
    if callable(target):
        score = target(answer)
        if not isinstance(score, Tensor) or score.shape != (len(answer),):
            raise UsageError(f"a target function gives one number per picture, ({len(answer)},), from the answer")
        return score, [getattr(target, "__name__", "a function")] * len(answer)
    if target is None and not classifies:
        return _feature(answer).pow(2).sum(-1) / 2, ["the feature's own norm"] * len(answer)
    if not classifies:
        raise UsageError(
            f"the target {target!r} is a class, and this model has none",
            "leave the target out, or use vitscope.similar_to(image) or a function of the answer",
        )
    if target is None:
        best = answer.argmax(-1)
        return answer.gather(-1, best[:, None])[:, 0], [_name(int(i), labels) for i in best]
    if isinstance(target, str) and _CONTRAST in target and target not in labels.values():
        first, second = (_number(part.strip(), labels, answer.shape[-1]) for part in target.split(_CONTRAST, 1))
        words = f"{_name(first, labels)}{_CONTRAST}{_name(second, labels)}"
        return answer[:, first] - answer[:, second], [words] * len(answer)
    number = _number(target, labels, answer.shape[-1])
    return answer[:, number], [_name(number, labels)] * len(answer)


def _feature(answer: Tensor) -> Tensor:
    """The features of one picture as one vector: of several tokens the mean."""
    return answer.flatten(2).mean(2) if answer.ndim == 4 else answer.mean(1) if answer.ndim == 3 else answer


def _number(target: int | str, labels: Mapping[int, str], classes: int) -> int:
    if isinstance(target, int) or target.lstrip("-").isdigit():
        if not 0 <= int(target) < classes:
            raise UsageError(f"there is no class {target}", f"classes are 0 to {classes - 1}")
        return int(target)
    wanted = target.lower()
    for number, label in labels.items():
        if wanted == label.lower() or wanted in (part.strip() for part in label.lower().split(",")):
            return number
    raise UnknownName("class", target, labels.values())


def _name(number: int, labels: Mapping[int, str]) -> str:
    return labels.get(number, f"class {number}")
