"""Maps of fixed photos while transformers' `Trainer` trains."""

from typing import Any

from transformers import TrainerCallback

from vitscope.export._callback import LogFunction, LoggedPhotos
from vitscope.images import ImageLike
from vitscope.scope import Scope

__all__ = ["AttentionMaps"]


class AttentionMaps(TrainerCallback):
    """`Trainer(..., callbacks=[AttentionMaps(photos, log)])` logs their maps every so many steps.

    Args:
        photos: what `Scope.explain` takes.
        log: `vitscope.export.tensorboard.logger(writer)`, `vitscope.export.wandb.logger(run)` or a function of yours.
        every: steps between two looks.
        processor: the model's image processor; the Trainer's `processing_class` where None.
        options: those of `Scope.explain`.
    """

    def __init__(
        self, photos: list[ImageLike], log: LogFunction, every: int = 100, processor: Any = None, **options: Any
    ) -> None:
        self._photos = LoggedPhotos.read(photos, log, every, options, processor)
        self._scope: Scope | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
        """Open the model, and look before the first step."""
        if state.is_world_process_zero:
            self._scope = self._photos.load_model(model, more.get("processing_class"))
            self._photos.log_maps(self._scope, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Look, where it is time."""
        if self._scope is not None and self._photos.due(state.global_step):
            self._photos.log_maps(self._scope, state.global_step)
