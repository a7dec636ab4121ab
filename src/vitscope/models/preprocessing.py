"""Preprocessing that is any function of a Pillow image: where its pixels come from on the photo is measured.

A photo whose red says x and whose green says y goes through it; a straight line through what comes out tells which box
of the photo the model saw.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vitscope.errors import LayoutError, UsageError
from vitscope.geometry import ImageRegion
from vitscope.images import Picture

__all__ = ["IMAGENET", "Preprocessing", "squash"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_SMALL = 64
_STRAIGHT = 0.02


def squash(
    size: tuple[int, int], mean: tuple[float, ...] = IMAGENET[0], std: tuple[float, ...] = IMAGENET[1]
) -> Callable[[Image.Image], Tensor]:
    """The plainest preprocessing: the whole photo resized (bicubic) to `(Hi, Wi)`, then normalised."""

    def process(image: Image.Image) -> Tensor:
        resized = image.convert("RGB").resize((size[1], size[0]), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(resized, np.float32) / 255)
        return ((pixels - torch.tensor(mean)) / torch.tensor(std)).permute(2, 0, 1)

    return process


class Preprocessing:
    """A function from a Pillow image to `(3, Hi, Wi)`, together with the frames of its outputs.

    Args:
        process: any deterministic preprocessing that resizes, crops and normalises.
    """

    def __init__(self, process: Callable[[Image.Image], Any]) -> None:
        self.process = process
        self._frames: dict[tuple[int, int], ImageRegion] = {}
        self._range: tuple[Tensor, Tensor] | None = None

    def __call__(
        self, picture: Picture, size: int | None = None, multiple: tuple[int, int] = (1, 1)
    ) -> tuple[Float[Tensor, "3 Hi Wi"], ImageRegion]:
        """Pixels and frame; with `size` the whole photo in its own shape, at about `size ** 2` pixels, normalised so.

        Args:
            picture: the photo.
            size: see above.
            multiple: what height and width are multiples of, where `size` is given.

        Raises:
            LayoutError: what comes out is not one picture, or not a resized box of the photo.
        """
        width, height = picture.size
        if size is None:
            pixels = self._run(Image.fromarray(picture.pixels))
            return pixels, self._frame(width, height, (pixels.shape[1], pixels.shape[2]))
        stretch = (height / width) ** 0.5
        wanted = (
            max(round(size * stretch / multiple[0]), 1) * multiple[0],
            max(round(size / stretch / multiple[1]), 1) * multiple[1],
        )
        resized = Image.fromarray(picture.pixels).resize((wanted[1], wanted[0]), Image.Resampling.BICUBIC)
        low, high = self._extremes()
        part = torch.from_numpy(np.array(resized, np.float32) / 255).permute(2, 0, 1)
        return low[:, None, None] + part * (high - low)[:, None, None], ImageRegion.from_resize_crop(
            picture.size, wanted
        )

    def _run(self, image: Image.Image) -> Tensor:
        made = self.process(image)
        made = made.get("pixel_values", made) if hasattr(made, "get") else made
        pixels = torch.as_tensor(np.asarray(made) if not isinstance(made, Tensor) else made)
        pixels = pixels[0] if pixels.ndim == 4 and pixels.shape[0] == 1 else pixels
        if pixels.ndim != 3 or pixels.shape[0] != 3 or not pixels.is_floating_point():
            raise LayoutError(
                f"the processor made {tuple(pixels.shape)} of {pixels.dtype}, not (3, height, width) floats",
                "pass a function from a Pillow image to such a tensor",
            )
        return pixels

    def _extremes(self) -> tuple[Tensor, Tensor]:
        if self._range is None:
            low, high = (self._run(Image.new("RGB", (_SMALL, _SMALL), (v, v, v))) for v in (0, 255))
            middle = low.shape[1] // 2, low.shape[2] // 2
            self._range = low[:, middle[0], middle[1]].float(), high[:, middle[0], middle[1]].float()
        return self._range

    def _frame(self, width: int, height: int, made: tuple[int, int]) -> ImageRegion:
        if (width, height) not in self._frames:
            larger = max(1, -(-_SMALL // min(width, height)))
            left, top, right, bottom = self._box(width * larger, height * larger, made)
            box = left / larger, top / larger, right / larger, bottom / larger
            self._frames[width, height] = ImageRegion((width, height), box, made)
        return self._frames[width, height]

    def _box(self, width: int, height: int, made: tuple[int, int]) -> tuple[float, float, float, float]:
        ramp = np.zeros((height, width, 3))
        ramp[..., 0] = (np.arange(width) + 0.5) / width * 255
        ramp[..., 1] = ((np.arange(height) + 0.5) / height * 255)[:, None]
        dither = np.random.default_rng(0).random(ramp.shape)
        pixels = self._run(Image.fromarray(np.floor(ramp + dither).clip(0, 255).astype(np.uint8)))
        if tuple(pixels.shape[1:]) != made:
            raise LayoutError(f"the processor made {made} pixels, and {tuple(pixels.shape[1:])} the next time")
        low, high = self._extremes()
        shares = (pixels - low[:, None, None]) / (high - low).clamp_min(1e-6)[:, None, None]
        left, right = _line(shares[0].mean(0).double().numpy(), width)
        top, bottom = _line(shares[1].mean(1).double().numpy(), height)
        return left, top, right, bottom


def _line(shares: np.ndarray, length: int) -> tuple[float, float]:
    """Where the first and the last pixel's outer edges lie, in pixels of the photo."""
    margin = len(shares) // 8
    middle = slice(margin, len(shares) - margin)
    place = np.arange(len(shares))[middle] + 0.5
    slope, start = np.polyfit(place, shares[middle], 1)
    if slope <= 0 or np.abs(shares[middle] - slope * place - start).max() > _STRAIGHT + 2 / len(shares):
        raise LayoutError(
            "the processor does more than resize and crop: where its pixels come from is not known",
            "pass size=..., which replaces the processor's own resizing",
        )
    ends = start * length, (start + slope * len(shares)) * length
    near = max(0.75, 0.004 * length)
    first = 0.0 if abs(ends[0]) < near else round(ends[0] * 2) / 2
    last = float(length) if abs(ends[1] - length) < near else round(ends[1] * 2) / 2
    return first, last


def checked_size(pixels: tuple[int, int], error: Exception) -> UsageError:
    """The model did not take an input of this size."""
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return UsageError(f"the model does not take {pixels[0]} x {pixels[1]} pixels: {first}", "leave size out")
