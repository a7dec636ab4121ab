"""Logs the maps of fixed photos during training: the shared part of the callbacks for Lightning and Trainer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

from vitscope.errors import UsageError
from vitscope.explanation import Explanation
from vitscope.images import ImageLike, Picture, load_image
from vitscope.scope import Scope, load

LogFunction: TypeAlias = Callable[[str, Explanation, int], None]


@dataclass(frozen=True, eq=False)
class LoggedPhotos:
    """Photos whose maps are logged during training.

    Attributes:
        pictures: the photos, read once.
        log: `log(tag, explanation, step)`, such as `vitscope.export.tensorboard.logger(writer)`.
        every: steps between two logs.
        options: those of `Scope.explain`.
        processor: from a photo to the model's input, as in `vitscope.load`; None is the trainer's own.
    """

    pictures: Sequence[Picture]
    log: LogFunction
    every: int
    options: Mapping[str, Any]
    processor: Any = None

    @classmethod
    def read(
        cls,
        photos: Sequence[ImageLike],
        log: LogFunction,
        every: int,
        options: Mapping[str, Any],
        processor: Any = None,
    ) -> "LoggedPhotos":
        """Read the photos.

        Raises:
            UsageError: no photos, or `every` below 1.
            ImageError: a photo that cannot be read.
        """
        if not photos or every < 1:
            raise UsageError.coded(
                "export.photos-and-steps",
                "logging maps needs photos and {@every} >= 1, got {count} photos and {every}",
                count=len(photos),
                every=every,
            )
        return cls([load_image(photo) for photo in photos], log, every, options, processor)

    def load_model(self, model: nn.Module, processor: Any = None) -> Scope:
        """Return the model in training as a Scope; it stays on its device."""
        return load(model, processor=self.processor or processor)

    def due(self, step: int) -> bool:
        """Return whether maps are logged at a step."""
        return step % self.every == 0

    def log_maps(self, scope: Scope, step: int) -> None:
        """Explain every photo and log its map; the model is left unchanged."""
        for tag, picture in zip(self.tags(), self.pictures, strict=True):
            self.log(tag, scope.explain(picture, **self.options), step)

    def tags(self) -> Iterator[str]:
        """Yield `vitscope/NAME` for each photo; a second one of the same name is numbered."""
        names = [picture.name for picture in self.pictures]
        for at, name in enumerate(names):
            before = names[:at].count(name)
            yield f"vitscope/{name}" + (f"-{before + 1}" if before else "")
