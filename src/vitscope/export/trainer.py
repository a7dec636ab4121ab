"""Logs the maps of fixed photos while transformers' `Trainer` trains."""

from typing import Any

from transformers import TrainerCallback

from vitscope.export._callback import LogFunction, LoggedPhotos
from vitscope.images import ImageLike
from vitscope.scope import Scope


class AttentionMaps(TrainerCallback):
    """Callback of transformers' Trainer that logs the maps of photos.

    `Trainer(..., callbacks=[AttentionMaps(photos, log)])` logs them every `every` steps.

    Args:
        photos: images that `Scope.explain` takes.
        log: `vitscope.export.tensorboard.logger(writer)`, `vitscope.export.wandb.logger(run)` or your own function.
        every: steps between two logs.
        processor: the model's image processor; None takes the Trainer's `processing_class`.
        options: those of `Scope.explain`.
    """

    def __init__(
        self, photos: list[ImageLike], log: LogFunction, every: int = 100, processor: Any = None, **options: Any
    ) -> None:
        self._photos = LoggedPhotos.read(photos, log, every, options, processor)
        self._scope: Scope | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
        """Log maps before the first step."""
        if state.is_world_process_zero:
            self._scope = self._photos.load_model(model, more.get("processing_class"))
            self._photos.log_maps(self._scope, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Log maps where due."""
        if self._scope is not None and self._photos.due(state.global_step):
            self._photos.log_maps(self._scope, state.global_step)
