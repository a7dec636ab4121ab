"""What to explain: a class, the contrast of two, a text, a feature, the likeness to another picture, or any function.

A target turns the model's answer `(B, C)` or `(B, N, D)` into one score per picture, whose gradient methods follow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitscope.errors import MethodError, UnknownNameError, UsageError

__all__ = [
    "Scorer",
    "SimilarTo",
    "Target",
    "Text",
    "class_number",
    "feature_of",
    "format_target",
    "parse_target",
    "scorer_of",
    "scorer_of_each",
    "similar_to",
    "text",
]

_CONTRAST = " - "


@dataclass(frozen=True, eq=False)
class SimilarTo:
    """The cosine between this picture's features and another picture's. Made by `similar_to`."""

    image: Any
    features: Float[Tensor, "1 D"] | None = None

    def __str__(self) -> str:
        return f"similar to {self.image if isinstance(self.image, str) else type(self.image).__name__}"

    def known(self, features: Float[Tensor, "1 D"]) -> "SimilarTo":
        """The same, with the other picture's features."""
        return replace(self, features=features)


@dataclass(frozen=True, eq=False)
class Text:
    """The cosine between this picture's features and a text's, for models that know both. Made by `text`."""

    words: str
    features: Float[Tensor, "1 D"] | None = None

    def __str__(self) -> str:
        return f"the text '{self.words}'"

    def known(self, features: Float[Tensor, "1 D"]) -> "Text":
        """The same, with the text's features."""
        return replace(self, features=features)


Target: TypeAlias = "int | str | SimilarTo | Text | Callable[[Tensor], Tensor] | None"


def similar_to(image: Any) -> SimilarTo:
    """The target "like this other picture": which regions make the two alike.

    Args:
        image: a path, a Pillow image or an array.
    """
    return SimilarTo(str(image) if hasattr(image, "__fspath__") else image)


def text(words: str) -> Text:
    """The target "what this text says", for models that know pictures and texts (CLIP, SigLIP).

    Args:
        words: such as "a cat on a sofa".

    Raises:
        UsageError: there are none.
    """
    if not words.strip():
        raise UsageError("the target text has no words", "text:a cat; in Python vitscope.text('a cat')")
    return Text(words)


def parse_target(words: str) -> Target:
    """What flags and manifests say: `text:WORDS`, `image:IMAGE`, or a class by number, name or contrast."""
    kind, colon, rest = words.partition(":")
    if colon and kind in ("text", "image"):
        return text(rest.strip()) if kind == "text" else similar_to(rest.strip())
    return words


def format_target(target: Target) -> str | None:
    """What a flag would say for this target, the way back from `parse_target`; None where no flag can."""
    if isinstance(target, Text):
        return f"text:{target.words}"
    if isinstance(target, SimilarTo):
        return f"image:{target.image}" if isinstance(target.image, str) else None
    return str(target) if isinstance(target, (int, str)) else None


@dataclass(frozen=True, eq=False)
class Scorer:
    """A target of one batch, settled: what is scored stays the same when the pictures change.

    Attributes:
        words: the target of each picture, in words.
        score: from an answer and the numbers of the pictures that its rows belong to, to one number per row.
    """

    words: list[str]
    score: Callable[[Tensor, Int[Tensor, " n"]], Float[Tensor, " n"]]

    def __call__(self, answer: Tensor, pictures: Int[Tensor, " n"] | None = None) -> Float[Tensor, " n"]:
        """The scores of an answer, in float32 at least; `pictures` says whose rows they are, where not all in order."""
        if pictures is None:
            pictures = torch.arange(len(answer), device=answer.device)
        precise = answer.float() if answer.dtype in (torch.float16, torch.bfloat16) else answer
        return self.score(precise, pictures)


def scorer_of(target: Target, answer: Tensor, labels: Mapping[int, str], classifies: bool) -> Scorer:
    """Settle a target for a batch of pictures.

    Args:
        target: a class by number or name, `"tabby - tiger"`, `text(...)`, `similar_to(...)`, a function from the answer
            to `(B,)`; None is the predicted class, and for a feature model `<f, f0>`, the feature on itself as it was
            for the whole picture: its squared norm, whose gradient is that of half the squared norm.
        answer: the model's answer to the whole pictures.
        labels: class names by number.
        classifies: the answer is class logits.

    Raises:
        UnknownNameError: a class that the model does not have, with the nearest spelling.
        UsageError: a class asked of a feature model, a class against itself, or a function that does not give one
            number per picture.
    """
    count = len(answer)
    if isinstance(target, (SimilarTo, Text)):
        features = target.features
        if features is None:
            raise MethodError(f"the features of {target} are not known", "use Scope.explain(..., target=...)")
        if features.shape[-1] != (width := feature_of(answer).shape[-1]):
            raise UsageError(f"{target} has {features.shape[-1]} features, a picture has {width}")
        return Scorer(
            [str(target)] * count,
            lambda answer, _: torch.cosine_similarity(feature_of(answer), features.to(feature_of(answer)), dim=-1),
        )
    if callable(target):
        return Scorer([getattr(target, "__name__", "a function")] * count, lambda answer, _: _checked(target, answer))
    if target is None and not classifies:
        own = feature_of(answer).detach()
        return Scorer(
            ["the feature's own norm"] * count,
            lambda answer, pictures: (feature_of(answer) * own[pictures]).sum(-1),
        )
    if not classifies:
        raise UsageError(
            f"the target {target!r} is a class, and this model has none",
            "leave the target out, or write image:IMAGE, or for CLIP and SigLIP text:WORDS; in Python also "
            "vitscope.similar_to(image), vitscope.text(words) or a function of the answer",
        )
    if target is None:
        best = answer.argmax(-1)
        words = [_name(int(i), labels) for i in best]
        return Scorer(words, lambda answer, pictures: answer.gather(-1, best[pictures][:, None])[:, 0])
    if isinstance(target, str) and _CONTRAST in target and target not in labels.values():
        first, second = (class_number(part.strip(), labels, answer.shape[-1]) for part in target.split(_CONTRAST, 1))
        if first == second:
            raise UsageError(f"the target '{target}' is the contrast of a class with itself, which is 0 everywhere")
        words = [f"{_name(first, labels)}{_CONTRAST}{_name(second, labels)}"] * count
        return Scorer(words, lambda answer, _: answer[:, first] - answer[:, second])
    number = class_number(target, labels, answer.shape[-1])
    return Scorer([_name(number, labels)] * count, lambda answer, _: answer[:, number])


def scorer_of_each(scorers: Sequence[Scorer], which: Sequence[int]) -> Scorer:
    """Make one scorer of several: image i of the batch is scored by `scorers[which[i]]`."""
    number = torch.tensor(which)

    def score(answer: Tensor, images: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        scores = torch.stack([scorer.score(answer, images) for scorer in scorers])
        return scores.gather(0, number.to(images.device)[images][None])[0]

    return Scorer([scorers[n].words[image] for image, n in enumerate(which)], score)


def _checked(function: Callable[[Tensor], Tensor], answer: Tensor) -> Tensor:
    score = function(answer)
    if not isinstance(score, Tensor) or score.shape != (len(answer),):
        raise UsageError(f"a target function gives one number per picture, ({len(answer)},), from the answer")
    return score


def feature_of(answer: Tensor) -> Tensor:
    """The features of one picture as one vector: of several tokens the mean."""
    return answer.flatten(2).mean(2) if answer.ndim == 4 else answer.mean(1) if answer.ndim == 3 else answer


def class_number(target: int | str, labels: Mapping[int, str], classes: int) -> int:
    """The number of a class that is said by number, label, or one of its label's names between commas.

    Raises:
        UsageError: there is no class of that number.
        UnknownNameError: none is called so; with the nearest spelling.
    """
    if isinstance(target, int) or target.lstrip("-").isdigit():
        if not 0 <= int(target) < classes:
            raise UsageError(f"there is no class {target}", f"classes are 0 to {classes - 1}")
        return int(target)
    wanted = target.lower()
    for number, label in labels.items():
        if wanted == label.lower() or wanted in _parts(label.lower()):
            return number
    raise UnknownNameError(
        "class", target, labels.values(), [part for label in labels.values() for part in _parts(label)]
    )


def _parts(label: str) -> list[str]:
    """The names in a label such as "tabby, tabby cat"."""
    return [part.strip() for part in label.split(",")]


def _name(number: int, labels: Mapping[int, str]) -> str:
    return labels.get(number, f"class {number}")
