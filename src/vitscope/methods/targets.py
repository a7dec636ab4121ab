"""Targets: a class, the contrast of two, a place, a text, a feature, the similarity to another image, or a function.

A target turns the model's answer `(B, C)` or `(B, N, D)` into one score for each image; gradient methods differentiate
that score.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitscope._messages import msg
from vitscope.errors import MethodError, UsageError
from vitscope.images import Picture, reusable
from vitscope.methods.class_names import CONTRAST, class_name, class_number, contrast_numbers
from vitscope.methods.places import QueryTarget, RegionTarget, parse_place


@dataclass(frozen=True, eq=False)
class SimilarTo:
    """The cosine between this image's features and another image's; `similar_to` makes it.

    Attributes:
        image: as for `Scope.explain`.
        features: the other image's features; None until a model has computed them.
    """

    image: Any
    features: Float[Tensor, "1 D"] | None = None

    def __str__(self) -> str:
        kind = self.image.source if isinstance(self.image, Picture) else type(self.image).__name__
        image = self.image if isinstance(self.image, str) else kind
        return msg("methods.target-similar", "similar to {image}", image=image)

    def with_features(self, features: Float[Tensor, "1 D"]) -> "SimilarTo":
        """Return the same target with the other image's features."""
        return replace(self, features=features)


@dataclass(frozen=True, eq=False)
class Text:
    """The cosine between this image's features and a text's, for models of both; `text` makes it.

    Attributes:
        words: the text.
        features: its features; None until a model has computed them.
    """

    words: str
    features: Float[Tensor, "1 D"] | None = None

    def __str__(self) -> str:
        return msg("methods.target-text", "the text '{words}'", words=self.words)

    def with_features(self, features: Float[Tensor, "1 D"]) -> "Text":
        """Return the same target with the text's features."""
        return replace(self, features=features)


Target: TypeAlias = "int | str | SimilarTo | Text | RegionTarget | QueryTarget | Callable[[Tensor], Tensor] | None"


def similar_to(image: Any) -> SimilarTo:
    """Make the target "similar to this other image": which regions make the two similar.

    Args:
        image: as for `Scope.explain`.
    """
    return SimilarTo(str(image) if hasattr(image, "__fspath__") else reusable(image))


def text(words: str) -> Text:
    """Make the target "what this text says", for models of images and texts (CLIP, SigLIP).

    Args:
        words: such as "a cat on a sofa".

    Raises:
        UsageError: the text is empty, or is none.
    """
    if not isinstance(words, str):
        raise UsageError(
            msg("methods.text-kind", "a target text is one text, not {kind}", kind=type(words).__name__),
            msg("methods.text-kind.hint", "give several as {@targets}, each of its own: vitscope.text('a cat')"),
        )
    if not words.strip():
        raise UsageError.coded(
            "methods.empty-text", "the target text is empty", "write text:a cat, in Python vitscope.text('a cat')"
        )
    return Text(words)


def parse_target(words: str) -> Target:
    """Parse a target as flags write it: a class by number, name or contrast, or one of the forms with a colon.

    These are `text:WORDS`, `image:PATH`, `region:CLASS:LEFT,TOP,RIGHT,BOTTOM` and `query:INDEX:CLASS`.

    Raises:
        UsageError: an empty text, the contrast of two texts, or a place that is none.
    """
    kind, colon, rest = words.partition(":")
    if colon and kind in ("region", "query"):
        return parse_place(kind, rest)
    if colon and kind == "text" and f"{CONTRAST}text:" in rest:
        raise UsageError(
            msg("methods.text-contrast", "'{words}' is one text, not the contrast of two", words=words),
            msg("methods.text-contrast.hint", "contrasts are of classes; name two targets, and compare their maps"),
        )
    if colon and kind in ("text", "image"):
        return text(rest.strip()) if kind == "text" else similar_to(rest.strip())
    return words


def format_target(target: Target) -> str | None:
    """Write a target as a flag, so that `parse_target` returns it; None where no flag can."""
    if isinstance(target, Text):
        return f"text:{target.words}"
    if isinstance(target, SimilarTo):
        return f"image:{target.image}" if isinstance(target.image, str) else None
    if isinstance(target, QueryTarget):
        return f"query:{target.index}:{target.which}"
    if isinstance(target, RegionTarget):
        return f"region:{target.which}:{','.join(f'{edge:.10g}' for edge in target.box)}" if target.box else None
    return str(target) if isinstance(target, (int, str)) else None


@dataclass(frozen=True, eq=False)
class Scorer:
    """The target of one batch, fixed: the score stays the same function when the pixels change.

    Attributes:
        words: the target of each image, in words.
        score: from an answer, and the number of the image that each of its rows belongs to, to one number per row.
    """

    words: list[str]
    score: Callable[[Tensor, Int[Tensor, " n"]], Float[Tensor, " n"]]

    def __call__(self, answer: Tensor, images: Int[Tensor, " n"] | None = None) -> Float[Tensor, " n"]:
        """Return the scores of an answer, in float32 at least.

        Args:
            answer: the model's answer to n rows.
            images: the image of each row; None where row i is image i.
        """
        if images is None:
            images = torch.arange(len(answer), device=answer.device)
        precise = answer.float() if answer.dtype in (torch.float16, torch.bfloat16) else answer
        return self.score(precise, images)


def scorer_of(
    target: Target, answer: Tensor, labels: Mapping[int, str], classifies: bool, dense: bool = False
) -> Scorer:
    """Fix a target for a batch of images.

    Args:
        target: a class by number or name, `"tabby - tiger"`, `text(...)`, `similar_to(...)`, a function from the answer
            to `(B,)`; None is the predicted class, and for a feature model `<f, f0>`, the feature projected on its
            value for the whole image: its squared norm, whose gradient is that of half the squared norm.
        answer: the model's answer to the whole images.
        labels: class names by number.
        classifies: the answer is class logits.
        dense: the answer has scores at many places: only a target that says where has one score for an image.

    Raises:
        UnknownNameError: a class that the model does not have, with the nearest spelling.
        UsageError: a class for a feature model, the contrast of a class with itself, or a function that does not
            return one number per image.
    """
    count = len(answer)
    if isinstance(target, (RegionTarget, QueryTarget)):
        there = _class_scorer(target.which, target.read(answer), labels)
        return Scorer(
            [target.describe(name) for name in there.words],
            lambda answer, images: there.score(target.read(answer, images), images),
        )
    if isinstance(target, (SimilarTo, Text)):
        features = target.features
        if features is None:
            problem = msg(
                "methods.unknown-features", "the features of the target '{target}' are not known", target=str(target)
            )
            raise MethodError(
                problem, msg("methods.unknown-features.hint", "pass the target to Scope.explain, which computes them")
            )
        if features.shape[-1] != (width := feature_of(answer).shape[-1]):
            raise UsageError.coded(
                "methods.feature-count",
                "the target '{target}' has {count} features, an image has {width}",
                target=str(target),
                count=features.shape[-1],
                width=width,
            )
        return Scorer(
            [str(target)] * count,
            lambda answer, _: torch.cosine_similarity(feature_of(answer), features.to(feature_of(answer)), dim=-1),
        )
    if callable(target):
        name = getattr(target, "__name__", msg("methods.target-function", "a function"))
        return Scorer([name] * count, lambda answer, _: _checked(target, answer))
    if not classifies and (dense or (answer.ndim > 2 and target is not None)):
        raise _many_places(target, answer)
    if target is None and not classifies:
        own = feature_of(answer).detach()
        return Scorer(
            [msg("methods.target-own-norm", "the feature's own norm")] * count,
            lambda answer, images: (feature_of(answer) * own[images]).sum(-1),
        )
    if not classifies:
        raise UsageError.coded(
            "methods.no-classes",
            "the target {target} is a class, and this model has no classes",
            "leave the target out, or write image:PATH, or for CLIP and SigLIP text:WORDS; in Python also "
            "vitscope.similar_to(image), vitscope.text(words) or a function of the answer",
            target=repr(target),
        )
    return _class_scorer(target, answer, labels)


def _many_places(target: Target, answer: Tensor) -> UsageError:
    """Make the error for a target that does not say where, for an answer with scores at many places."""
    return UsageError.coded(
        "methods.many-places",
        "the model's answer ({shape}) has scores at many places, and the target {target} does not say where",
        msg(
            "methods.many-places.map.hint",
            "write region:CLASS:LEFT,TOP,RIGHT,BOTTOM, in Python vitscope.region(class, box=...) or mask=...",
        )
        if answer.ndim == 4
        else msg(
            "methods.many-places.rows.hint",
            "write query:INDEX:CLASS, in Python vitscope.query(index, class); where each patch has a row also "
            "region:CLASS:LEFT,TOP,RIGHT,BOTTOM",
        ),
        shape=" x ".join(map(str, ("B", *answer.shape[1:]))),
        target=repr(target),
    )


def _class_scorer(target: int | str | None, answer: Tensor, labels: Mapping[int, str]) -> Scorer:
    """Fix a class, the contrast of two or the predicted class by class scores `(B, C)`."""
    count = len(answer)
    if target is None:
        best = answer.argmax(-1)
        words = [class_name(int(i), labels) for i in best]
        return Scorer(words, lambda answer, images: answer.gather(-1, best[images][:, None])[:, 0])
    pair = contrast_numbers(target, labels, answer.shape[-1]) if isinstance(target, str) else None
    if pair is not None:
        first, second = pair
        words = [f"{class_name(first, labels)}{CONTRAST}{class_name(second, labels)}"] * count
        return Scorer(words, lambda answer, _: answer[:, first] - answer[:, second])
    number = class_number(target, labels, answer.shape[-1])
    return Scorer([class_name(number, labels)] * count, lambda answer, _: answer[:, number])


def scorer_of_each(scorers: Sequence[Scorer], which: Sequence[int]) -> Scorer:
    """Make one scorer of several: image i of the batch is scored by `scorers[which[i]]`."""
    number = torch.tensor(which, device="cpu")

    def score(answer: Tensor, images: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        scores = torch.stack([scorer.score(answer, images) for scorer in scorers])
        return scores.gather(0, number.to(images.device)[images][None])[0]

    return Scorer([scorers[n].words[image] for image, n in enumerate(which)], score)


def _checked(function: Callable[[Tensor], Tensor], answer: Tensor) -> Tensor:
    score = function(answer)
    if not isinstance(score, Tensor) or score.shape != (len(answer),):
        raise UsageError.coded(
            "methods.target-function-shape",
            "a target function returns one number per image, a tensor of shape ({count},)",
            count=len(answer),
        )
    if answer.requires_grad and torch.is_grad_enabled() and not score.requires_grad:
        raise UsageError(
            msg("methods.target-function-graph", "the target function's result has no gradient"),
            msg("methods.target-function-graph.hint", "compute it from the answer with torch, without detach()"),
        )
    return score


def feature_of(answer: Tensor) -> Tensor:
    """Return the features of each image as one vector: of several tokens the mean."""
    return answer.flatten(2).mean(2) if answer.ndim == 4 else answer.mean(1) if answer.ndim == 3 else answer
