"""The score that a measurement follows: the target of a map as a bounded number, settled on the whole picture."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.errors import UsageError
from vitscope.methods.targets import Scorer, SimilarTo, Target, Text, class_number, feature_of

__all__ = ["Score", "ScoreKind", "make_score", "target_from_text"]

ScoreKind = Literal["probability", "logit"]
_SHARE, _COSINE = (0.0, 1.0), (-1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Score:
    """What is asked of the model.

    Attributes:
        words: it in words.
        from_answer: from the model's answer to n pictures to n scores, float64.
        target: the target with which a method makes the map again.
        logit: of a class, its logit for the whole picture.
        possible: the least and the largest score possible; None where there is no end to it.
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
    classifies: bool,
    independent: bool,
    settle: Callable[[Target], Scorer],
    was: float | None = None,
) -> Score:
    """Settle a score on one picture's answer.

    Args:
        target: as for `Scope.explain`; None is the predicted class, and for a model without classes the cosine between
            a picture's feature and that of the whole picture.
        kind: of a class: `probability`: softmax over the classes, or the class's own sigmoid where classes are
            `independent`; `logit`: as the model gives it. Other targets are their own score: a contrast is a difference
            of logits, a text or a likeness a cosine, a function what it gives.
        answer: the model's answer to the whole picture `(1, ...)`.
        labels: class names by number.
        classifies: the answer is class logits.
        independent: several classes can be right at once.
        settle: what makes a scorer of the other targets.
        was: the score when the map was made, which tells classes of one name apart.

    Raises:
        UsageError: a class, or a logit, of a model without classes.
        UnknownNameError: no class is called so.
    """
    if not classifies and kind == "logit":
        raise UsageError("this model has no classes, and so no logits", "leave score out")
    if target is None and not classifies:
        whole = feature_of(answer.double())
        words = "cosine to the whole picture's feature"
        return Score(
            words,
            lambda answer: torch.cosine_similarity(feature_of(answer.double()), whole, dim=-1),
            None,
            None,
            _COSINE,
        )
    number = _class_of(target, answer, labels, was) if classifies else None
    if number is None:
        scorer = settle(target)
        possible = _COSINE if isinstance(target, (Text, SimilarTo)) else None
        return Score(scorer.words[0], lambda answer: scorer(answer, _first(answer)).double(), target, None, possible)
    name, logit = labels.get(number, f"class {number}"), float(answer[0, number])
    if kind == "logit":
        return Score(f"logit of {name}", lambda answer: answer[:, number].double(), number, logit)
    if independent:
        words = f"probability of {name} (sigmoid)"
        return Score(words, lambda answer: answer[:, number].double().sigmoid(), number, logit, _SHARE)
    words = f"probability of {name} (softmax)"
    return Score(words, lambda answer: answer.double().softmax(-1)[:, number], number, logit, _SHARE)


def target_from_text(words: str | None, classifies: bool) -> Target:
    """The target that an explanation was made for, from its words.

    Raises:
        UsageError: words that do not say it: a function, a picture that is no file.
    """
    if words is None or (words == "the feature's own norm" and not classifies):
        return None
    if found := re.fullmatch("the text '(.*)'", words, re.DOTALL):
        return Text(found[1])
    if words.startswith("similar to ") and Path(words.removeprefix("similar to ")).exists():
        return SimilarTo(words.removeprefix("similar to "))
    if not classifies or words.startswith("similar to "):
        raise UsageError(f"the target '{words}' cannot be made again from its words", "pass it: measure(..., target=)")
    return words


def _class_of(target: Target, answer: Tensor, labels: Mapping[int, str], was: float | None) -> int | None:
    """The class of a target; None for a target that is not one class."""
    if target is None:
        return int(answer[0].argmax())
    if not isinstance(target, (int, str)):
        return None
    alike = [number for number, label in labels.items() if label == target]
    if len(alike) > 1 and was is not None:  # two classes of ImageNet are called crane
        return min(alike, key=lambda number: abs(float(answer[0, number]) - was))
    if isinstance(target, str) and not alike and " - " in target:
        return None
    if isinstance(target, str) and not alike and (found := re.fullmatch(r"class (\d+)", target)):
        target = int(found[1])
    return class_number(target, labels, answer.shape[-1])


def _first(answer: Tensor) -> Tensor:
    """All rows of an answer belong to the one picture."""
    return torch.zeros(len(answer), dtype=torch.long, device=answer.device)
