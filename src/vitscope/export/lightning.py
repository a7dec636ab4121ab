"""Logs the maps of fixed photos while Lightning trains."""

from collections.abc import Callable
from typing import Any

from torch import nn

from vitscope.errors import MissingDependencyError
from vitscope.export._callback import LogFunction, LoggedPhotos
from vitscope.images import ImageLike
from vitscope.scope import Scope

try:
    from lightning.pytorch import Callback
except ImportError:
    raise MissingDependencyError("lightning", "lightning") from None


class AttentionMaps(Callback):  # type: ignore[misc]
    """Lightning callback that logs the maps of photos.

    `Trainer(callbacks=[AttentionMaps(photos, log)])` logs them every `every` optimiser steps.

    Args:
        photos: images that `Scope.explain` takes.
        log: `vitscope.export.tensorboard.logger(writer)`, `vitscope.export.wandb.logger(run)` or your own function.
        every: steps between two logs.
        model: from the LightningModule to its Vision Transformer; None takes its attribute `model`.
        processor: as in `vitscope.load`.
        options: those of `Scope.explain`.
    """

    def __init__(
        self,
        photos: list[ImageLike],
        log: LogFunction,
        every: int = 100,
        model: Callable[[Any], nn.Module] | None = None,
        processor: Any = None,
        **options: Any,
    ) -> None:
        self._photos = LoggedPhotos.read(photos, log, every, options, processor)
        self._model = model or (lambda module: module.model)
        self._scope: Scope | None = None
        self._last = -1

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Log maps before the first step."""
        if trainer.is_global_zero:
            self._scope = self._photos.load_model(self._model(pl_module))
            self._log_maps(trainer.global_step)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *batch: Any, **more: Any) -> None:
        """Log maps where due, once a step, also with accumulated batches."""
        if self._photos.due(trainer.global_step) and trainer.global_step != self._last:
            self._log_maps(trainer.global_step)

    def _log_maps(self, step: int) -> None:
        if self._scope is not None:
            self._photos.log_maps(self._scope, step)
            self._last = step
