"""The options of a view, the same for each of its images and models, and the command that makes the page again."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitscope.engine.options import Options, Progress
from vitscope.methods.targets import Target, format_target

DEFAULT_METHODS = ("auto", "attention", "rollout", "relevance", "random")
MAX_MB = 20.0  # for each photo, or each model


@dataclass(frozen=True)
class ViewOptions:
    """What was asked for."""

    methods: tuple[str, ...]
    target: Target
    top: int
    size: int | None
    measure: bool
    seed: int
    seconds: float | int | None
    progress: Progress | None
    photos: tuple[str, ...]
    max_mb: float | int
    beside: str | None = None

    @property
    def usual(self) -> float:
        """The size limit where the caller gives none."""
        return MAX_MB * (2 if self.beside else len(self.photos))

    def of(self, method: str) -> Options:
        """Return the options of one method."""
        return Options(method, self.target, size=self.size, seed=self.seed)

    def command(self, model: str, small: bool, flags: Sequence[str] = ()) -> str:
        """Return the command line that makes the page again, without options that change nothing.

        Args:
            model: its reference.
            small: the page fits into the usual size with all its layers, as exact as rows ever are.
            flags: that say how the model is loaded.
        """
        words = [
            "vitscope",
            "view",
            *self.photos,
            "--model",
            model,
            *(["--model", self.beside] if self.beside else []),
            *flags,
        ]
        options: dict[str, tuple[Any, Any]] = {
            "--method": (",".join(self.methods), ",".join(DEFAULT_METHODS)),
            "--target": (format_target(self.target), None),
            "--top": (self.top, 5),
            "--size": (self.size, None),
            "--max-mb": (self.usual if small and self.max_mb > self.usual else self.max_mb, self.usual),
            "--seed": (self.seed, 0),
        }
        for option, (value, usual) in options.items():
            if value != usual:
                words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
        return shlex.join(words if self.measure else [*words, "--no-measure"])
