"""Any `nn.Module` from pixels to an answer: a Vision Transformer of no known library."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitscope._messages import Message, msg
from vitscope.attention.model_modes import eval_mode
from vitscope.errors import LayoutError, first_line
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.images import Picture
from vitscope.models.base import ADAPTERS
from vitscope.models.preprocessing import Preprocessing, squash
from vitscope.models.traced import TracedAdapter

__all__ = ["GenericAdapter"]

log = logging.getLogger(__name__)

_SIZE_NAMES = ("img_size", "image_size", "input_size", "input_resolution", "resolution")
# after 224 the largest that works: position embeddings longer than the input are often cut without a warning
_COMMON_SIZES = (224, 518, 512, 448, 384, 336, 256, 192, 160, 144, 128, 112, 96, 64, 56, 48, 32, 28)
_GREY = np.full((256, 256, 3), 128, np.uint8)


class GenericAdapter(TracedAdapter):
    """A module that takes `(B, 3, Hi, Wi)` and answers with class logits or features.

    Args:
        model: the module.
        processor: a function from a Pillow image to `(3, Hi, Wi)`; without one, the whole image is resized to the size
            that the model states, and normalised with ImageNet's mean and deviation; the provenance says so.
        reference: how the model was named.
        layout: which token is which, where it cannot or should not be traced.
        labels: class names by index.

    Raises:
        CaptureError: no attention was recorded.
        LayoutError: the tokens cannot be traced, or no input size works.
    """

    name = "generic"

    def __init__(
        self,
        model: nn.Module,
        processor: Callable[..., Any] | None = None,
        *,
        reference: str = "",
        layout: TokenLayout | None = None,
        labels: Mapping[int, str] | None = None,
    ) -> None:
        self.model = model
        self.reference = reference or type(model).__name__
        self.given_layout = layout
        self.labels = labels or {}
        if processor is not None:
            self._preprocess = Preprocessing(processor)
            made = self._preprocess(Picture(_GREY))[0]
            self.input_size = (made.shape[1], made.shape[2])
            self.notes: tuple[str, ...] = ()
        else:
            self.input_size = self._working_size()
            self._preprocess = Preprocessing(self.default_processor())
            note = msg(
                "models.preprocessing-chosen",
                "preprocessing chosen by vitscope: {preprocessing}",
                preprocessing=self.preprocessing(),
            )
            self.notes = (note,)
        log.debug("preprocessing of %s: %s", type(model).__name__, self.preprocessing())
        log.debug("layout of %s: %s", type(model).__name__, f"given, {layout}" if layout else "traced")
        if layout is None:
            self.trace()
        self._settle_scores()

    def default_processor(self) -> Callable[..., Any]:
        """Return the preprocessing that is used where no processor is given."""
        return squash(self.input_size)

    def preprocessing(self) -> Message:
        """Describe what happens to an image."""
        return msg(
            "models.preprocessing.squashed",
            "the whole image resized to {height} x {width}, ImageNet mean and deviation",
            height=self.input_size[0],
            width=self.input_size[1],
        )

    def prepare(self, picture: Picture, size: int | None = None) -> tuple[Tensor, ImageRegion]:
        """Return pixels as the processor makes them, and the region of the image that they show."""
        return self._preprocess(picture) if size is None else self._preprocess(picture, size, self.traced_patch())

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Iterate over input sizes to try, the likeliest first: those that some module states, then common ones."""
        yield from _stated_sizes(self.model)
        yield from ((size, size) for size in _COMMON_SIZES)

    def _working_size(self) -> tuple[int, int]:
        """Return the first of `sizes` at which the model runs."""
        name = type(self.model).__name__
        first = next(self.model.parameters(), None)
        if first is None:
            raise LayoutError(
                msg("models.no-parameters", "{model} has no parameters: it is not a trained model", model=name)
            )
        failure: Exception | None = None
        for size in dict.fromkeys(self.sizes()):
            pixels = torch.zeros(1, 3, *size, dtype=first.dtype, device=first.device)
            try:
                with eval_mode(self.model), torch.no_grad():
                    self.run(pixels)
            except Exception as error:  # whatever a model raises at a size that is not its own
                failure = failure or error
            else:
                log.debug("input size of %s: %s x %s, the first that it accepts", name, *size)
                return size
        raise LayoutError(
            msg(
                "models.no-input-size",
                "{model} accepts none of the usual input sizes: {reason}",
                model=name,
                reason=first_line(failure) if failure else "",
            ),
            msg(
                "models.no-input-size.hint",
                "pass processor=..., a function from a Pillow image to a (3, height, width) tensor",
            ),
        )


def _stated_sizes(model: nn.Module) -> Iterator[tuple[int, int]]:
    for module in model.modules():
        for name in _SIZE_NAMES:
            value = getattr(module, name, None)
            value = (value, value) if isinstance(value, int) else value
            if isinstance(value, (tuple, list)) and len(value) in (2, 3) and all(isinstance(v, int) for v in value):
                yield int(value[-2]), int(value[-1])


ADAPTERS.add(GenericAdapter.name, GenericAdapter)
