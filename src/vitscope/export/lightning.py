"""Maps of fixed photos while Lightning trains."""

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

__all__ = ["AttentionMaps"]


class AttentionMaps(Callback):  # type: ignore[misc]
    """`Trainer(callbacks=[AttentionMaps(photos, log)])` logs their maps every so many optimiser steps.

    Args:
        photos: what `Scope.explain` takes.
        log: `vitscope.export.tensorboard.logger(writer)`, `vitscope.export.wandb.logger(run)` or a function of yours.
        every: steps between two looks.
        model: from the LightningModule to the Vision Transformer in it; its attribute `model` where None.
        processor: as for `vitscope.load`.
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
        """Open the model, and look before the first step."""
        if trainer.is_global_zero:
            self._scope = self._photos.load_model(self._model(pl_module))
            self._log_maps(trainer.global_step)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *batch: Any, **more: Any) -> None:
        """Look, where it is time; once a step, however many batches a step gathers."""
        if self._photos.due(trainer.global_step) and trainer.global_step != self._last:
            self._log_maps(trainer.global_step)

    def _log_maps(self, step: int) -> None:
        if self._scope is not None:
            self._photos.log_maps(self._scope, step)
            self._last = step
