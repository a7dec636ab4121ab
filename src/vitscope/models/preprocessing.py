"""Preprocessing by any function of a Pillow image: the region of the image that its pixels show is measured.

An image whose red channel holds x and whose green channel holds y is preprocessed; a straight line through the result
gives the box of the image that the model sees.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vitscope._messages import msg
from vitscope.errors import LayoutError, UsageError, first_line
from vitscope.geometry import ImageRegion
from vitscope.images import Picture

__all__ = ["IMAGENET", "SIZE_HINT", "Preprocessing", "covering_size", "size_refused", "squash"]

log = logging.getLogger(__name__)

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIZE_HINT = msg(
    "models.replace-resizing.hint",
    "choose the size yourself, as in {@size=224}: it replaces the processor's own resizing",
)
_SMALL = 64
_STRAIGHT = 0.02


def squash(
    size: tuple[int, int], mean: tuple[float, ...] = IMAGENET[0], std: tuple[float, ...] = IMAGENET[1]
) -> Callable[[Image.Image], Tensor]:
    """Make the plainest preprocessing: the whole image resized (bicubic) to `(Hi, Wi)`, then normalised."""

    def process(image: Image.Image) -> Tensor:
        resized = image.convert("RGB" if len(mean) > 1 else "L").resize((size[1], size[0]), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(resized, np.float32).reshape(*size, -1) / 255)
        return ((pixels - torch.tensor(mean)) / torch.tensor(std)).permute(2, 0, 1)

    return process


def covering_size(picture: Picture, size: int, multiple: tuple[int, int]) -> tuple[int, int]:
    """Return `(Hi, Wi)` in the image's own shape: about `size ** 2` pixels, multiples of `multiple`."""
    width, height = picture.size
    stretch = (height / width) ** 0.5
    return (
        max(round(size * stretch / multiple[0]), 1) * multiple[0],
        max(round(size / stretch / multiple[1]), 1) * multiple[1],
    )


class Preprocessing:
    """A function from a Pillow image to `(3, Hi, Wi)`, together with the regions that its outputs show.

    Args:
        process: any deterministic preprocessing that resizes, crops and normalises.
    """

    def __init__(self, process: Callable[[Image.Image], Any]) -> None:
        self.process = process
        self._regions: dict[tuple[int, int], ImageRegion] = {}
        self._range: tuple[Tensor, Tensor] | None = None

    def __call__(
        self, picture: Picture, size: int | None = None, multiple: tuple[int, int] = (1, 1)
    ) -> tuple[Float[Tensor, "3 Hi Wi"], ImageRegion]:
        """Return pixels and the region that they show.

        Args:
            picture: the image.
            size: the whole image in its own shape, at about `size ** 2` pixels, normalised as the function does.
            multiple: height and width are multiples of it, where `size` is given.

        Raises:
            LayoutError: the result is not one image, or not a resized box of the image.
        """
        if size is None:
            pixels = self._run(Image.fromarray(picture.pixels))
            return pixels, self._region(*picture.size, (pixels.shape[1], pixels.shape[2]))
        made = covering_size(picture, size, multiple)
        resized = Image.fromarray(picture.pixels).resize((made[1], made[0]), Image.Resampling.BICUBIC)
        low, high = self._extremes()
        part = torch.from_numpy(np.array(resized, np.float32) / 255).permute(2, 0, 1)
        pixels = low[:, None, None] + part * (high - low)[:, None, None]
        return pixels, ImageRegion.from_resize_crop(picture.size, made)

    def _run(self, image: Image.Image) -> Tensor:
        made = self.process(image)
        made = made.get("pixel_values", made) if hasattr(made, "get") else made
        pixels = torch.as_tensor(np.asarray(made) if not isinstance(made, Tensor) else made)
        pixels = pixels[0] if pixels.ndim == 4 and pixels.shape[0] == 1 else pixels
        if pixels.ndim != 3 or not pixels.is_floating_point():
            raise LayoutError(
                msg(
                    "models.processor-shape",
                    "the processor made {shape} of {dtype}, expected (channels, height, width) floats",
                    shape=tuple(pixels.shape),
                    dtype=pixels.dtype,
                ),
                msg("models.processor-shape.hint", "pass a function from a Pillow image to such a tensor"),
            )
        return pixels

    def _extremes(self) -> tuple[Tensor, Tensor]:
        """Return the pixels of black and of white `(3,)`."""
        if self._range is None:
            low, high = (self._run(Image.new("RGB", (_SMALL, _SMALL), (v, v, v))) for v in (0, 255))
            middle = low.shape[1] // 2, low.shape[2] // 2
            self._range = low[:, middle[0], middle[1]].float(), high[:, middle[0], middle[1]].float()
        return self._range

    def _region(self, width: int, height: int, made: tuple[int, int]) -> ImageRegion:
        if (width, height) not in self._regions:
            larger = max(1, -(-_SMALL // min(width, height)))
            left, top, right, bottom = self._box(width * larger, height * larger, made)
            box = left / larger, top / larger, right / larger, bottom / larger
            log.debug("preprocessing of %s x %s images: box %s becomes %s x %s pixels", width, height, box, *made)
            self._regions[width, height] = ImageRegion((width, height), box, made)
        return self._regions[width, height]

    def _box(self, width: int, height: int, made: tuple[int, int]) -> tuple[float, float, float, float]:
        ramp = np.zeros((height, width, 3))
        ramp[..., 0] = (np.arange(width) + 0.5) / width * 255
        ramp[..., 1] = ((np.arange(height) + 0.5) / height * 255)[:, None]
        dither = np.random.default_rng(0).random(ramp.shape)
        pixels = self._run(Image.fromarray(np.floor(ramp + dither).clip(0, 255).astype(np.uint8)))
        if tuple(pixels.shape[1:]) != made:
            raise LayoutError(
                msg(
                    "models.processor-not-deterministic",
                    "the processor made {first} pixels, then {second} pixels of an image of the same size",
                    first=made,
                    second=tuple(pixels.shape[1:]),
                )
            )
        low, high = self._extremes()
        shares = (pixels - low[:, None, None]) / (high - low).clamp_min(1e-6)[:, None, None]
        if len(pixels) < 3:
            ramps = [
                Image.fromarray(np.floor(r + dither[..., :1]).clip(0, 255).astype(np.uint8).repeat(3, 2))
                for r in (ramp[..., :1], ramp[..., 1:2])
            ]
            shares = torch.cat([(self._run(r) - low[:, None, None])[:1] / (high - low)[:1, None, None] for r in ramps])
        left, right = _edges(shares[0].mean(0).double().numpy(), width)
        top, bottom = _edges(shares[1].mean(1).double().numpy(), height)
        return left, top, right, bottom


def _edges(shares: np.ndarray, length: int) -> tuple[float, float]:
    """Return where the outer edges of the first and the last pixel lie, in pixels of the image."""
    margin = len(shares) // 8
    middle = slice(margin, len(shares) - margin)
    place = np.arange(len(shares))[middle] + 0.5
    slope, start = np.polyfit(place, shares[middle], 1)
    if slope <= 0 or np.abs(shares[middle] - slope * place - start).max() > _STRAIGHT + 2 / len(shares):
        problem = msg(
            "models.processor-region",
            "the processor does more than resize and crop: the region that its pixels show is not known",
        )
        raise LayoutError(problem, SIZE_HINT)
    ends = start * length, (start + slope * len(shares)) * length
    near = max(0.75, 0.004 * length)
    first = 0.0 if abs(ends[0]) < near else round(ends[0] * 2) / 2
    last = float(length) if abs(ends[1] - length) < near else round(ends[1] * 2) / 2
    return first, last


def size_refused(size: tuple[int, int], error: Exception) -> UsageError:
    """Make the error for a model that refused an input of this size."""
    problem = msg(
        "models.size-refused",
        "the model does not take {height} x {width} pixels: {reason}",
        height=size[0],
        width=size[1],
        reason=first_line(error),
    )
    return UsageError(problem, msg("models.size-refused.hint", "leave {@size} out"))
