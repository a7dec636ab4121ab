"""What the adapters of transformers share: how a model is named, what its scores are, and which weights it has."""

import logging
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from torch import nn

from vitscope.models.answers.class_scores import ClassScores
from vitscope.models.around import MediumAdapter
from vitscope.models.weights.weights import hash_of

log = logging.getLogger(__name__)


class TransformersBase(MediumAdapter):
    """A model of transformers.

    Attributes:
        types: the model types of an adapter that is for a medium.
        head: what the names of its classifiers hold.
    """

    library = "transformers"
    types: ClassVar[Collection[str]] = ()
    head: ClassVar[str] = ""

    @classmethod
    def claims(cls, model: nn.Module) -> bool:
        """Return whether a model is of one of the adapter's model types."""
        return getattr(getattr(model, "config", None), "model_type", None) in cls.types

    def _take(self, model: nn.Module, reference: str, weights: str, architecture: str = "") -> Any:
        """Take over a model, and return its configuration."""
        self.model, self._weights = model, weights
        self.config: Any = (model if self.around is None else self.around.inside).config
        self.architecture = architecture or type(model).__name__
        self.reference = reference or self.architecture
        problem = getattr(self.config, "problem_type", None) if self.around is None else None
        self.multi_label = problem == "multi_label_classification"
        self.scores = "values" if problem == "regression" else "logits"
        return self.config

    def _name_classes_and_trace(self) -> None:
        """Take the names of the classes from the configuration, and trace the model."""
        if self.around is not None:
            self.labels = self.around.labels
            self.trace()
            self._settle_scores()
            return
        self.classes = self.head in self.architecture and self.options.labels != {}
        self.labels = {int(i): str(label) for i, label in (self.config.id2label or {}).items()} if self.classes else {}
        log.debug("preprocessing of %s: %s", self.architecture, self.preprocessing())
        self.trace()

    def class_count(self) -> int | None:
        """Return how many class scores the model answers with; None for a feature model."""
        if self.around is not None:
            return ClassScores.class_count(self)
        return int(self.config.num_labels) if self.classes else None

    @property
    def weights(self) -> str:  # type: ignore[override]
        """The Hub's revision, a given hash, or the SHA-256 of the parameters in memory."""
        loaded = "" if self.weights_changed else self._weights
        return loaded or self.name_weights(lambda: hash_of(self.model))

    def describe(self) -> Mapping[str, str]:
        """Return adapter, architecture and sizes."""
        return dict(super().describe()) | {"adapter": self._kind()}

    def _kind(self) -> str:
        return f"{self.name}, {self.architecture} (model type {self.config.model_type})"
