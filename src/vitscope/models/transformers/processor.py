"""Image processors of transformers: the default one of a model, and the region of the image that their pixels show."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from vitscope._cached import cached_property
from vitscope._messages import Message, msg
from vitscope.attention.model_modes import plain_defaults
from vitscope.errors import LayoutError
from vitscope.geometry import ImageRegion
from vitscope.images import Picture
from vitscope.models.bundled.dinov2 import Dinov2Processor
from vitscope.models.pixels.bands import (
    BandPreprocessing,
    Resizing,
    accepting,
    as_numbers,
    as_photo,
    fitted,
    grey_of,
    normalisation,
)
from vitscope.models.pixels.measured_region import Lost, find_box
from vitscope.models.pixels.preprocessing import Preprocessing, covering_size
from vitscope.models.region import Region

log = logging.getLogger(__name__)

_TRIALS = ((160, 120), (96, 96))
_GREY = np.full((83, 61, 3), 128, np.uint8)  # a size that no model is made for
_SIZES = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})


class ProcessorRunner:
    """An image processor, run on images.

    Args:
        processor: an image processor of transformers, a processor that has one, or a function from a Pillow image to
            pixels; None takes the library's default for the model type.
        config: the config of the vision model.
        input_size: `(Hi, Wi)` that the model was made for.
        region: from the caller, see `Preprocessing`.
    """

    def __init__(self, processor: Any, config: Any, input_size: tuple[int, int], region: Region | None = None) -> None:
        self.config, self.input_size, self.region = config, input_size, region
        self.channels = self.bands = int(getattr(config, "num_channels", None) or 3)
        self.processor = getattr(processor, "image_processor", processor) or self._default()
        self._form = self.processor
        if not self._of_transformers:
            self._form, self.bands = accepting(self.processor, self.channels)

    @property
    def name(self) -> str:
        """The class of the processor."""
        return type(self.processor).__name__

    @property
    def is_plain(self) -> bool:
        """Whether the processor resizes to its size and crops from the middle, and does nothing else."""
        try:
            keys = {k for k, v in dict(self.processor.size).items() if v}
        except (AttributeError, TypeError):  # a size of another kind
            return False
        if getattr(self.processor, "do_pad", False) or not self._of_library:
            return False
        return not getattr(self.processor, "do_resize", False) or keys in _SIZES

    def prepare(
        self, picture: Picture, size: int | None, patch: tuple[int, int]
    ) -> tuple[Float[Tensor, "C Hi Wi"], ImageRegion]:
        """Return pixels and the region of the image that they show.

        Args:
            picture: the image.
            size: see `ModelAdapter.prepare`.
            patch: height and width are multiples of it, where `size` is given.

        Raises:
            LayoutError: which part of the image its pixels show cannot be measured.
        """
        picture = fitted(picture, self.bands)
        if as_numbers(picture, self.bands, not self._of_transformers):
            return self._numbers()(picture, size, patch)
        picture = as_photo(picture)
        if not self._of_transformers or takes_patches(self.config):
            return self._measured(picture, size, patch)
        if not size and (self.region is not None or not self.is_plain or not self._keeps_its_word):
            return self._measured(picture)
        options: dict[str, Any] = {}
        if size:
            resized = covering_size(picture, size, patch)
            options = {"size": {"height": resized[0], "width": resized[1]}, "do_resize": True, "do_center_crop": False}
            region = ImageRegion.from_resize_crop(picture.size, resized)
        else:
            region = self._stated(picture.size)
        pixels = self._run(picture.pixels, **options)
        if tuple(pixels.shape[1:]) == region.input:
            return pixels, region
        return self._measured(picture, size, patch)

    @plain_defaults
    def _run(self, photo: UInt8[np.ndarray, "H W 3"], **options: Any) -> Tensor:
        batch = self.processor(
            images=self._array(photo), input_data_format="channels_last", return_tensors="pt", **options
        )
        pixels: Tensor = batch["pixel_values"][0]
        return pixels

    def _array(self, photo: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W C"]:
        """Return a photo as an array of the model's channels."""
        return photo.copy() if self.bands == 3 else np.array(grey_of(photo))[..., None]

    def _numbers(self) -> BandPreprocessing | Resizing:
        """Return the preprocessing of images of other bands than colours, or of more than 8 bits.

        Raises:
            LayoutError: the processor does more than resize, crop and normalise.
        """
        if not self._of_transformers:
            return self._by_caller
        p = self.processor
        if takes_patches(self.config) or not self.is_plain:
            raise LayoutError.coded(
                "models.bands-processor",
                "{processor} does more than resize, crop and normalise: what becomes of {bands} bands is not known",
                "pass processor=..., a function from an array (H, W, bands) to pixels",
                processor=self.name,
                bands=self.bands,
            )
        mean, std = (
            tuple(float(v) for v in values) if getattr(p, "do_normalize", False) else (default,)
            for values, default in ((p.image_mean, 0.0), (p.image_std, 1.0))
        )
        found, _ = normalisation(mean, std, self.bands)
        scale = 255.0 * (float(p.rescale_factor) if getattr(p, "do_rescale", False) else 1.0)
        filters = Image.Resampling(int(getattr(p, "resample", None) or Image.Resampling.BILINEAR))
        return Resizing(self._resized, self._crop(), *found, scale, filters)

    @cached_property
    def _by_caller(self) -> BandPreprocessing:
        return BandPreprocessing(self.processor, self.channels, self.region)

    def describe(self, size: int | None) -> Message:
        """Describe what happens to an image."""
        if size:
            return msg(
                "models.preprocessing.whole-image",
                "the whole image in its own shape, at about {size} x {size} pixels",
                size=size,
            )
        if not self.is_plain:
            return msg(
                "models.preprocessing.measured",
                "{processor}; the region that its pixels show is measured",
                processor=self.name,
            )
        sizes = [str(v) for v in dict(self.processor.size).values() if v]
        if crop := self._crop():
            return msg(
                "models.preprocessing.cropped",
                "{processor}: resized to {size}, centre {crop} kept",
                processor=self.name,
                size=" x ".join(sizes),
                crop=crop,
            )
        return msg(
            "models.preprocessing.resized",
            "{processor}: resized to {size}",
            processor=self.name,
            size=" x ".join(sizes),
        )

    def _default(self) -> Any:
        from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
        from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

        if takes_patches(self.config):
            from transformers import Siglip2ImageProcessorPil

            patch = as_pair(self.config.patch_size)[0]
            return Siglip2ImageProcessorPil(patch_size=patch, max_num_patches=self.config.num_patches)
        choices: Any = IMAGE_PROCESSOR_MAPPING.get(type(self.config), None) or {}
        made = choices.get("pil") or choices.get("torchvision") or BitImageProcessorPil
        height, width = self.input_size
        size = {"height": height, "width": width}
        try:
            processor = made(size=size, do_center_crop=False, do_pad=False)
            self._normalise(processor)
            if self.bands not in (1, 3):
                return processor
            fits = (
                tuple(
                    processor(images=_GREY[..., : self.bands], input_data_format="channels_last", return_tensors="pt")[
                        "pixel_values"
                    ].shape[2:]
                )
                == self.input_size
            )
        except Exception:  # a processor whose size has other keys
            fits = False
        processor = processor if fits else BitImageProcessorPil(size=size, do_center_crop=False)
        self._normalise(processor)
        log.debug("no processor given: %s at %s x %s pixels", type(processor).__name__, height, width)
        return processor

    def _normalise(self, processor: Any) -> None:
        """Give a default processor a mean and a deviation for the model's channels."""
        if self.bands != 3:
            (mean, std), _ = normalisation(tuple(processor.image_mean), tuple(processor.image_std), self.bands)
            processor.image_mean, processor.image_std = list(mean), list(std)

    @property
    def _of_transformers(self) -> bool:
        """Whether the processor is one of transformers', not a function from a Pillow image to a tensor."""
        return hasattr(self.processor, "model_input_names")

    @property
    def _of_library(self) -> bool:
        """Whether the processor's class is the library's own, not one that a user derived from it."""
        return type(self.processor).__module__.startswith(("transformers.", Dinov2Processor.__module__))

    @cached_property
    def _keeps_its_word(self) -> bool:
        """Whether the region that the processor's settings state is the one that is measured, on two trial sizes."""
        for size in _TRIALS:
            stated = self._stated(size)
            try:
                box = find_box(lambda image: self._run(image).double().numpy(), size, stated.input, 1)
            except (Lost, ValueError, IndexError):  # not measured, or pixels of another size
                return False
            per_pixel = (box[2] - box[0]) / stated.input[1], (box[3] - box[1]) / stated.input[0]
            if np.abs((np.array(box) - stated.box) / np.tile(per_pixel, 2)).max() > 1:
                log.debug("%s does not show %s of %s x %s pixels, but %s", self.name, stated.box, *size, box)
                return False
        return True

    @cached_property
    def _measured(self) -> Preprocessing:
        if not self._of_transformers:
            return Preprocessing(self._form, self.region)
        if takes_patches(self.config):
            patch = as_pair(self.config.patch_size)
            return Preprocessing(
                lambda image: _join_patches(self.processor(images=image, return_tensors="pt"), patch),
                self.region,
                known=self._of_library,
            )
        form = (lambda image: image) if self.bands == 3 else grey_of
        return Preprocessing(
            lambda image: self.processor(images=form(image), return_tensors="pt")["pixel_values"],
            self.region,
            known=self._of_library,
        )

    def _crop(self) -> tuple[int, int] | None:
        if not getattr(self.processor, "do_center_crop", False):
            return None
        crop = dict(self.processor.crop_size)
        return int(crop["height"]), int(crop["width"])

    def _stated(self, photo: tuple[int, int]) -> ImageRegion:
        """Return the region that a plain processor's settings leave: resized, then cropped from the middle."""
        return ImageRegion.from_resize_crop(photo, self._resized(photo), self._crop())

    def _resized(self, whole: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width that a plain processor resizes an image of `(W, H)` pixels to."""
        width, height = whole
        if isinstance(self.processor, Dinov2Processor):
            return self.processor.resized((height, width))
        from transformers.image_transforms import get_resize_output_image_size, get_size_with_aspect_ratio

        resized = (height, width)
        if self.processor.do_resize:
            size = {k: v for k, v in dict(self.processor.size).items() if v}
            if set(size) == {"height", "width"}:
                resized = (size["height"], size["width"])
            elif set(size) == {"shortest_edge"}:
                resized = get_resize_output_image_size(
                    np.empty((height, width, 0)),
                    size["shortest_edge"],
                    default_to_square=False,
                    input_data_format="channels_last",
                )
            else:
                resized = get_size_with_aspect_ratio((height, width), size["shortest_edge"], size["longest_edge"])
        return int(resized[0]), int(resized[1])


def takes_patches(config: Any) -> bool:
    """Return whether a model takes images that are already cut into patches, as NaFlex models of SigLIP 2 do."""
    return str(config.model_type).startswith("siglip2")


def cut_patches(pixels: Tensor, patch: tuple[int, int]) -> tuple[Tensor, int, int]:
    """Cut `(B, C, Hi, Wi)` into patches `(B, rows * columns, ph * pw * C)`; also return the rows and columns."""
    rows, columns = pixels.shape[2] // patch[0], pixels.shape[3] // patch[1]
    apart = pixels.reshape(*pixels.shape[:2], rows, patch[0], columns, patch[1])
    return apart.permute(0, 2, 4, 3, 5, 1).reshape(len(pixels), rows * columns, -1), rows, columns


def as_pair(value: Any) -> tuple[int, int]:
    """Return height and width of a size that may be one number."""
    first, second = value if isinstance(value, (tuple, list)) else (value, value)
    return int(first), int(second)


def _join_patches(made: Mapping[str, Any], patch: tuple[int, int]) -> Tensor:
    """Join the image `(3, Hi, Wi)` that a processor has cut into patches and padded."""
    rows, columns = (int(n) for n in made["spatial_shapes"][0])
    patches: Tensor = made["pixel_values"][0][: rows * columns]
    whole = patches.reshape(rows, columns, *patch, 3).permute(4, 0, 2, 1, 3)
    return whole.reshape(3, rows * patch[0], columns * patch[1])
