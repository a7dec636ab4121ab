"""Any `nn.Module` from pixels to an answer: a Vision Transformer that nobody has heard of."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vitscope.attention.model_modes import eval_mode
from vitscope.errors import LayoutError
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.images import Picture
from vitscope.models.base import ADAPTERS
from vitscope.models.preprocessing import Preprocessing, squash
from vitscope.models.traced import TracedAdapter

__all__ = ["GenericAdapter"]

_SIZE_NAMES = ("img_size", "image_size", "input_size", "input_resolution", "resolution")
# after 224 the largest that works: position embeddings longer than the input are often cut without a word
_COMMON_SIZES = (224, 518, 512, 448, 384, 336, 256, 192, 160, 144, 128, 112, 96, 64, 56, 48, 32, 28)


class GenericAdapter(TracedAdapter):
    """A module that takes `(B, 3, Hi, Wi)` and answers with class logits or features.

    Args:
        model: the module.
        processor: a function from a Pillow image to `(3, Hi, Wi)`; without one, the whole photo is resized to the size
            that the model says it wants, and normalised with ImageNet's mean and deviation; the provenance says so.
        reference: how the model was named.
        layout: which token is which, where it cannot be found or shall not be looked for.
        labels: class names by index.

    Raises:
        CaptureError: no attention was seen.
        LayoutError: tokens cannot be followed, or no input size works.
    """

    name = "generic"

    def __init__(
        self,
        model: nn.Module,
        processor: Callable[..., Any] | None = None,
        *,
        reference: str = "",
        layout: TokenLayout | None = None,
        labels: dict[int, str] | None = None,
    ) -> None:
        self.model = model
        self.reference = reference or type(model).__name__
        self.given_layout = layout
        self.labels = labels or {}
        if processor is not None:
            self._preprocess = Preprocessing(processor)
            made = self._preprocess(Picture(_grey()))[0]
            self.input_size = (made.shape[1], made.shape[2])
            self.notes: tuple[str, ...] = ()
        else:
            self.input_size = self._found_size()
            self._preprocess = Preprocessing(self.default_processor())
            self.notes = (f"preprocessing chosen by vitscope: {self.preprocessing()}",)
        if layout is None:
            self.trace()

    @classmethod
    def claims(cls, model: object) -> bool:
        """Any module; asked last."""
        return isinstance(model, nn.Module)

    def default_processor(self) -> Callable[..., Any]:
        """What is done to a photo where no processor is given."""
        return squash(self.input_size)

    def preprocessing(self) -> str:
        """What happens to a photo, in words."""
        return f"the whole photo resized to {self.input_size[0]} x {self.input_size[1]}, ImageNet mean and deviation"

    def prepare(self, picture: Picture, size: int | None = None) -> tuple[Tensor, ImageRegion]:
        """Pixels as the processor makes them, and where on the photo they come from."""
        if size is None:
            return self._preprocess(picture)
        layout = self.layout()
        patch = self.input_size[0] // layout.grid[0], self.input_size[1] // layout.grid[1]
        return self._preprocess(picture, size, patch if self.isotropic else (max(32, patch[0]), max(32, patch[1])))

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Input sizes to try, the likeliest first: those that some module states, then common ones."""
        yield from _stated_sizes(self.model)
        yield from ((size, size) for size in _COMMON_SIZES)

    def _found_size(self) -> tuple[int, int]:
        """The first size that the model says, or that is common, at which its forward runs."""
        first = next(self.model.parameters(), None)
        if first is None:
            raise LayoutError(f"{type(self.model).__name__} has no parameters: it is not a trained model")
        why: Exception | None = None
        for size in dict.fromkeys(self.sizes()):
            pixels = torch.zeros(1, 3, *size, dtype=first.dtype, device=first.device)
            try:
                with eval_mode(self.model), torch.no_grad():
                    self.run(pixels)
            except Exception as error:  # whatever a model raises at a size that is not its own
                why = why or error
            else:
                return size
        raise LayoutError(
            f"{type(self.model).__name__} takes pixels of none of the usual sizes: {why}",
            "pass processor=..., a function from a Pillow image to a (3, height, width) tensor",
        )


def _stated_sizes(model: nn.Module) -> Iterator[tuple[int, int]]:
    for module in model.modules():
        for name in _SIZE_NAMES:
            value = getattr(module, name, None)
            value = (value, value) if isinstance(value, int) else value
            if isinstance(value, (tuple, list)) and len(value) in (2, 3) and all(isinstance(v, int) for v in value):
                yield int(value[-2]), int(value[-1])


def _grey() -> Any:
    import numpy as np

    return np.full((256, 256, 3), 128, np.uint8)


ADAPTERS.add(GenericAdapter.name, GenericAdapter)
