"""Adapters of models that do not state what their numbers are: class scores, probabilities or features."""

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from vitscope._cached import cached_property
from vitscope._messages import msg
from vitscope.attention.model_modes import eval_mode
from vitscope.models.answers.answer_kind import AnswerKind, find_answer_kind
from vitscope.models.answers.labels import check_count
from vitscope.models.base import ModelAdapter
from vitscope.tracing.placement import placement, quantised_modules


class ClassScores(ModelAdapter):
    """What the numbers of an answer mean, by what the caller says of them, or else by the operations before them.

    Attributes:
        input_size: `(Hi, Wi)` that the model was made for.
        classes: answers `(B, C)` are class scores.
    """

    input_size: tuple[int, int]
    classes: bool = True

    @abstractmethod
    def _answer_together(self, pixels: Tensor) -> Tensor:
        """Return the answer to all pixels, from one forward."""

    def example(self, size: tuple[int, int] | None = None, make: Callable[..., Tensor] = torch.rand) -> Tensor:
        """Return an image `(1, C, Hi, Wi)` of random numbers, always the same, where and as the model takes it."""
        device, dtype = placement(self.model) or (torch.device("cpu"), torch.float32)
        shape = (1, self.channels, *(size or self.input_size))
        return make(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu").to(
            device, dtype
        )

    def classifies(self, answer: Tensor) -> bool:
        """Return whether an answer is class scores."""
        return self.classes and answer.ndim == 2

    @cached_property
    def answer_kind(self) -> AnswerKind | None:
        """What the numbers of the answer are, found by one forward on noise; None for an answer that is not (B, C)."""
        return find_answer_kind(self._answer_together, self.model, self.example(make=torch.randn))

    def class_count(self) -> int | None:
        """Return how many class scores the model answers with; None where it answers with none."""
        return self.answer_kind.width if self.classes and self.answer_kind is not None else None

    def _settle_scores(self) -> None:
        """Find out whether the answer is class scores, probabilities or features, where the caller does not say."""
        given = self.options
        said = bool(given.labels) or given.multi_label is not None
        self.classes = (self.classes or said) and given.labels != {}
        kind = self.answer_kind if self.classes else None
        if kind is None or quantised_modules(self.model):  # whose operations leave no graph to read
            return
        if kind.kind == "probabilities":
            self.scores, self.multi_label = "probabilities", not kind.one_sum
        elif kind.kind == "values":
            self.scores = "values"
        elif kind.kind == "features" and not said:
            self.classes, self.labels = False, {}
            note = msg(
                "models.features",
                "its {width} numbers are read as features, not as classes: {reason} ({@labels} names classes)",
                width=kind.width,
                reason=kind.reason,
            )
            self.notes = (*self.notes, note)

    def _settle_labels(self) -> None:
        """Take the caller's class names; those of scores at many places may leave out the last, as "no object"."""
        given = self.options.labels
        if given and self.class_count() is None:
            with eval_mode(self.model), torch.no_grad():
                answer = self._answer_together(self.example())
            count = answer.shape[1] if answer.ndim == 4 else answer.shape[-1]
            check_count(given, count if len(given) != count - 1 else count - 1)
        super()._settle_labels()

    def _describe_classes(self) -> str:
        """Describe the classes: how many, and whether their names are known."""
        count = self.class_count()
        if count is None:
            return f"{len(self.labels)}, at many places" if self.labels else "none: a feature model"
        return f"{count}, {self.activation(count)}" + ("" if self.labels else ", without names")
