"""Any `nn.Module` from pixels to an answer: a Vision Transformer of no known library."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vitscope._messages import Message, msg
from vitscope.attention.model_modes import eval_mode
from vitscope.errors import LayoutError, first_line
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.images import Picture, grey_picture
from vitscope.media.volume import VolumeProcessor
from vitscope.models.base import ADAPTERS, ModelAdapter
from vitscope.models.other_media import other_medium, takes_sounds, takes_volumes
from vitscope.models.pixels.bands import (
    BandPreprocessing,
    Normalisation,
    Resizing,
    accepting,
    as_numbers,
    as_photo,
    convolution_channels,
    fitted,
    normalisation,
)
from vitscope.models.pixels.preprocessing import IMAGENET, NeedsMoreError, Preprocessing, squash
from vitscope.models.traced import TracedAdapter
from vitscope.tracing.placement import placement

log = logging.getLogger(__name__)

_SIZE_NAMES = ("img_size", "image_size", "input_size", "input_resolution", "resolution")
# after 224 the largest that works: position embeddings longer than the input are often cut without a warning
_COMMON_SIZES = (224, 518, 512, 448, 384, 336, 256, 192, 160, 144, 128, 112, 96, 64, 56, 48, 32, 28)
_TRIED, _OTHER = (256, 256), (83, 61)


class PreprocessingInside:
    """The preprocessing of a model inside a wrapper, as a function from a Pillow image to pixels."""

    def __init__(self, known: ModelAdapter) -> None:
        self.known = known

    def __call__(self, image: Image.Image) -> Tensor:
        """Return pixels `(C, Hi, Wi)` as the model inside gets them."""
        return self.known.prepare(Picture(np.asarray(image.convert("RGB"))))[0]

    def describe(self) -> Message:
        """Describe what happens to an image."""
        made: Any = self.known.describe()["input"]
        found: Message = made
        return found


class GenericAdapter(TracedAdapter):
    """A module that takes `(B, C, Hi, Wi)` and answers with class logits or features.

    Args:
        model: the module.
        processor: a function from a Pillow image to `(C, Hi, Wi)`, for other channels than one or three from an array
            `(H, W, C)`; without one, the whole image is resized to the size that the model states, and normalised with
            ImageNet's mean and deviation, or for other bands than colours left in 0..1; the provenance says so.
        reference: how the model was named.
        layout: which token is which, where it cannot or should not be traced.
        labels: class names by index.

    Raises:
        CaptureError: no attention was recorded.
        LayoutError: the tokens cannot be traced, or no input size works.
    """

    name = "generic"
    by_caller = False  # the processor is

    def __init__(
        self,
        model: nn.Module,
        processor: Callable[..., Any] | None = None,
        *,
        reference: str = "",
        layout: TokenLayout | None = None,
        labels: Mapping[int, str] | None = None,
    ) -> None:
        self.model, self.processor = model, processor
        self.reference = reference or type(model).__name__
        self.given_layout = layout
        self.labels = labels or {}
        self.channels = self.bands = convolution_channels(model)
        if isinstance(processor, VolumeProcessor):
            raise takes_volumes(model, msg("models.takes-volumes.processor", "its processor is a VolumeProcessor"))
        if hasattr(processor, "sampling_rate"):
            raise takes_sounds(model)
        if processor is not None:
            form, self.bands = accepting(processor, self.channels)
            self._preprocess, self.by_caller = Preprocessing(form, self.options.region), True
            self._bands: BandPreprocessing | Resizing = BandPreprocessing(processor, self.channels, self.options.region)
            trial = grey_picture(_TRIED, 3, 128)
            unmeasured = self.options.region or self.bands not in (1, 3)
            made = self._preprocess.run(trial.pixels) if unmeasured else self._preprocess(trial)[0]
            self.channels, self.input_size = made.shape[0], (made.shape[1], made.shape[2])
            if self.input_size == _TRIED and self._keeps_size():
                self.input_size = self._working_size((self.channels,))
        else:
            self.input_size = self._working_size()
            self._preprocess = Preprocessing(self.default_processor(), self.options.region, known=True)
            self._bands = self.resizing()
            note = msg(
                "models.preprocessing-chosen",
                "preprocessing chosen by vitscope: {preprocessing}",
                preprocessing=self.preprocessing(),
            )
            self.notes = (*self.notes, note)
        log.debug("preprocessing of %s: %s", type(model).__name__, self.preprocessing())
        log.debug("layout of %s: %s", type(model).__name__, f"given, {layout}" if layout else "traced")
        if layout is None:
            self.trace()
        else:
            self.layout()
        self._settle_scores()

    def default_processor(self) -> Callable[..., Any]:
        """Return the preprocessing that is used where no processor is given."""
        return squash(self.input_size, *self.normalisation())

    def normalisation(self) -> Normalisation:
        """Return the mean and the deviation of each channel where no processor is given."""
        found, _ = normalisation(*IMAGENET, self.channels)
        return found

    def resizing(self) -> Resizing:
        """Return the preprocessing of images of other bands than colours where no processor is given."""
        return Resizing(lambda size: self.input_size, None, *self.normalisation())

    def preprocessing(self) -> Message:
        """Describe what happens to an image."""
        if isinstance(self.processor, PreprocessingInside):
            return self.processor.describe()
        if self.processor is not None:
            name = getattr(self.processor, "__name__", type(self.processor).__name__)
            return msg(
                "models.preprocessing.measured",
                "{processor}; the region that its pixels show is measured",
                processor=name,
            )
        height, width = self.input_size
        if self.channels not in (1, 3):
            return msg(
                "models.preprocessing.squashed-bands",
                "the whole image resized to {height} x {width}, {channels} bands from 0 to 1 without normalisation",
                height=height,
                width=width,
                channels=self.channels,
            )
        return msg(
            "models.preprocessing.squashed",
            "the whole image resized to {height} x {width}, ImageNet mean and deviation",
            height=height,
            width=width,
        )

    def prepare(self, picture: Picture, size: int | None = None) -> tuple[Tensor, ImageRegion]:
        """Return pixels as the processor makes them, and the region of the image that they show.

        A photo is given to the processor as a Pillow image of 8 bits; of images of other bands it gets all numbers.
        """
        picture = fitted(picture, self.bands)
        multiple = (1, 1) if size is None else self.traced_patch()
        if as_numbers(picture, self.bands, self.by_caller):
            return self._bands(picture, size, multiple)
        return self._preprocess(as_photo(picture), size, multiple)

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Iterate over input sizes to try, the likeliest first: those that some module states, then common ones."""
        yield from _stated_sizes(self.model)
        yield from ((size, size) for size in _COMMON_SIZES)

    def _keeps_size(self) -> bool:
        """Return whether the processor makes pixels of the image's own size."""
        width, height = _OTHER
        return tuple(self._preprocess.run(grey_picture(_OTHER, 3, 128).pixels).shape[1:]) == (height, width)

    def _working_size(self, channels: tuple[int, ...] = ()) -> tuple[int, int]:
        """Return the first of `sizes` at which the model runs; find out how many channels where that is not known.

        A model that makes grey of colours takes colours.
        """
        tried = channels or tuple(dict.fromkeys((3, self.channels)))
        name = type(self.model).__name__
        if (place := placement(self.model)) is None:
            raise LayoutError(
                msg("models.no-parameters", "{model} has no parameters: it is not a trained model", model=name)
            )
        failure: Exception | None = None
        for size in dict.fromkeys(self.sizes()):
            for count in tried:
                pixels = torch.zeros(1, count, *size, device=place[0], dtype=place[1])
                try:
                    with eval_mode(self.model), torch.no_grad():
                        self.run(pixels)
                except Exception as error:  # whatever a model raises at a size that is not its own
                    failure = error if failure is None else failure
                else:
                    self.channels, self.bands = count, self.bands if channels else count
                    log.debug("input size of %s: %s x %s, the first that it accepts", name, *size)
                    return size
        if (other := other_medium(self.model, failure)) is not None:
            raise other
        words = any(part in str(failure) for part in ("to unpack", "scalar types: Long"))  # ids of words come first
        if words or isinstance(failure, (TypeError, LookupError, AttributeError)):
            assert failure is not None
            raise NeedsMoreError(self.model, failure)
        raise LayoutError.coded(
            "models.no-input-size",
            "{model} accepts none of the usual input sizes: {reason}",
            "pass processor=..., a function from a Pillow image to a (channels, height, width) tensor",
            model=name,
            reason=first_line(failure) if failure else "",
        )


def _stated_sizes(model: nn.Module) -> Iterator[tuple[int, int]]:
    for module in model.modules():
        for name in _SIZE_NAMES:
            value = getattr(module, name, None)
            value = (value, value) if isinstance(value, int) else value
            if isinstance(value, (tuple, list)) and len(value) in (2, 3) and all(isinstance(v, int) for v in value):
                yield int(value[-2]), int(value[-1])


ADAPTERS.add(GenericAdapter.name, GenericAdapter)
