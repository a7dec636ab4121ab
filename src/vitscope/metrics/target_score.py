"""The score that a measurement follows: a map's target as a number, fixed on the whole image."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope._messages import msg
from vitscope.errors import UsageError
from vitscope.explanation import Activation
from vitscope.methods.class_names import class_name, class_number, contrast_numbers
from vitscope.methods.places import place_of_text
from vitscope.methods.targets import Scorer, SimilarTo, Target, Text, feature_of

ScoreKind = Literal["probability", "logit"]
_SHARE, _COSINE = (0.0, 1.0), (-1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Score:
    """The score that a measurement follows.

    Attributes:
        words: the score in words.
        from_answer: from the model's answer for n images to n scores, float64.
        target: the target with which a method makes the map again.
        logit: of a class, its logit for the whole image.
        possible: the least and the largest possible score; None where it is unbounded.
    """

    words: str
    from_answer: Callable[[Tensor], Float[Tensor, " n"]]
    target: Target
    logit: float | None = None
    possible: tuple[float, float] | None = None


def make_score(
    target: Target,
    kind: ScoreKind,
    answer: Tensor,
    *,
    labels: Mapping[int, str],
    activation: Activation | None,
    make_scorer: Callable[[Target], Scorer],
    previous: float | None = None,
) -> Score:
    """Fix a score by the model's answer for one image.

    Args:
        target: as for `Scope.explain`; None is the predicted class, and for a model without classes the cosine between
            an image's feature and that of the whole image.
        kind: for a class, `probability`: softmax over the classes, or the class's own sigmoid, or what the model gives,
            and of a regression its value; or `logit`. Other targets are scores themselves: a contrast is a difference
            of logits, a text or an image a cosine, a function its result.
        answer: the model's answer for the whole image `(1, ...)`.
        labels: class names by number.
        activation: how class scores become probabilities; None for an answer that is no class scores.
        make_scorer: makes the scorer of any other target.
        previous: the score when the map was made, which distinguishes classes of the same name.

    Raises:
        UsageError: a class, or a logit, of a model without classes.
        UnknownNameError: no class has that name.
    """
    classifies = activation is not None
    if kind == "logit" and activation in ("given", "value"):
        raise UsageError(
            msg("metrics.not-logits", "this model answers with probabilities or values, not with logits"),
            msg("metrics.no-logits.hint", "leave {@score} out"),
        )
    if not classifies and kind == "logit":
        raise UsageError.coded(
            "metrics.no-logits", "this model has no classes and therefore no logits", "leave {@score} out"
        )
    if target is None and not classifies:
        make_scorer(None)  # raises for an answer of many places
        whole = feature_of(answer.double())
        words = msg("metrics.cosine-to-whole", "cosine to the whole image's feature")
        return Score(
            words,
            lambda answer: torch.cosine_similarity(feature_of(answer.double()), whole, dim=-1),
            None,
            None,
            _COSINE,
        )
    number = _class_of(target, answer, labels, previous) if classifies else None
    if number is None:
        scorer = make_scorer(target)
        possible = _COSINE if isinstance(target, (Text, SimilarTo)) else None
        return Score(scorer.words[0], lambda answer: scorer(answer, _first(answer)).double(), target, None, possible)
    name, logit = class_name(number, labels), float(answer[0, number])
    if kind == "logit":
        words = msg("metrics.logit", "logit of {name}", name=name)
        return Score(words, lambda answer: answer[:, number].double(), number, logit)
    assert activation is not None
    words = {
        "softmax": msg("metrics.softmax", "probability of {name} (softmax)", name=name),
        "sigmoid": msg("metrics.sigmoid", "probability of {name} (sigmoid)", name=name),
        "given": msg("metrics.given", "probability of {name} (as the model gives it)", name=name),
        "value": msg("metrics.value", "value of {name} (a regression, no probability)", name=name),
    }[activation]
    possible = None if activation == "value" else _SHARE
    return Score(words, lambda answer: activated(answer.double(), activation)[:, number], number, logit, possible)


def activated(scores: Tensor, activation: Activation) -> Tensor:
    """Return what is shown of class scores `(..., C)`: probabilities, or the values of a regression."""
    if activation == "softmax":
        return scores.softmax(-1)
    return scores.sigmoid() if activation == "sigmoid" else scores


def target_from_text(words: str | None, classifies: bool) -> Target:
    """Return the target of an explanation from its text.

    Raises:
        UsageError: text that does not determine it: a function, an image that is no file.
    """
    if words is None or (words == "the feature's own norm" and not classifies):
        return None
    if found := re.fullmatch("the text '(.*)'", words, re.DOTALL):
        return Text(found[1])
    if words.startswith("similar to ") and Path(words.removeprefix("similar to ")).exists():
        return SimilarTo(words.removeprefix("similar to "))
    if not classifies and (place := place_of_text(words)) is not None:
        return place
    if not classifies or words.startswith("similar to "):
        raise UsageError(
            msg("metrics.target-not-restorable", "the target '{words}' cannot be restored from its text", words=words),
            msg("metrics.target-not-restorable.hint", "pass it: {@target}"),
        )
    return words


def _class_of(target: Target, answer: Tensor, labels: Mapping[int, str], previous: float | None) -> int | None:
    """Return the class of a target; None for a target that is not one class."""
    if target is None:
        return int(answer[0].argmax())
    if not isinstance(target, (int, str)):
        return None
    alike = [number for number, label in labels.items() if label == target]
    if len(alike) > 1 and previous is not None:  # two classes of ImageNet are called crane
        return min(alike, key=lambda number: abs(float(answer[0, number]) - previous))
    if isinstance(target, str) and contrast_numbers(target, labels, answer.shape[-1]) is not None:
        return None
    return class_number(target, labels, answer.shape[-1])


def _first(answer: Tensor) -> Tensor:
    """Return the image number of each row of an answer: all belong to the first."""
    return torch.zeros(len(answer), dtype=torch.long, device=answer.device)
