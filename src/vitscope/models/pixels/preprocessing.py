"""Preprocessing by any function of an image: the region of the image that its pixels show is measured, and checked.

Where the region cannot be measured, it is the caller's to say: nothing is guessed.
"""

import inspect
import logging
import pickle
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from vitscope._messages import msg
from vitscope.errors import LayoutError, UsageError, first_line
from vitscope.geometry import ImageRegion
from vitscope.images import Picture
from vitscope.models.pixels.measured_region import Box, Lost, TurnedError, find_box
from vitscope.models.pixels.processor_call import ProcessorCall
from vitscope.models.pixels.processor_checks import fit_colours, is_known, random_part, shows_region
from vitscope.models.region import Region
from vitscope.tracing.records import CAPTURE_HINT

log = logging.getLogger(__name__)

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
REGION_HINT = msg(
    "models.processor-region.hint",
    "say which part of each image its pixels show, in pixels, as in {@region=0,0,640,480}, or {@region=whole}",
)
_TURNED_HINT = msg(
    "models.processor-region.turned-hint",
    "leave the mirroring or turning out of {@processor=...}, and pass images that are mirrored or turned already: the "
    "map then lies on what the model sees",
)
_OFF = 2.0  # pixels of the input that a region from the caller may lie beside the one that is measured
_OF_SIZE = re.compile(r"size of tensor a \(\d+\) must match the size of tensor b")
_TRIES = 16  # runs of a processor that draws random numbers
_SAME = 1e-4  # of the largest pixel: two runs of a processor that is not random


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
    """A function from an image to `(C, Hi, Wi)`, together with the regions that its outputs show.

    Args:
        process: any deterministic preprocessing that resizes, crops, pads and changes colours; see `ProcessorCall` for
            what it may take and return.
        region: the region that its pixels show, or a function from a Picture to it; by default it is measured.
        known: the function does nothing else, and the same to every image: photos are not checked one by one.
    """

    def __init__(self, process: Callable[..., Any], region: Region | None = None, known: bool = False) -> None:
        self.run, self.region = ProcessorCall(process), region
        self.known = known or is_known(process)
        self._boxes: dict[tuple[tuple[int, int], tuple[int, int]], Box | None] = {}
        self._colours: tuple[Tensor, Tensor] | None = None

    def __call__(
        self, picture: Picture, size: int | None = None, multiple: tuple[int, int] = (1, 1)
    ) -> tuple[Float[Tensor, "C Hi Wi"], ImageRegion]:
        """Return pixels and the region that they show.

        Args:
            picture: the image.
            size: the whole image in its own shape, at about `size ** 2` pixels, its colours changed as the function
                changes them.
            multiple: height and width are multiples of it, where `size` is given.

        Raises:
            LayoutError: the result is not one image, or which part of the image it shows cannot be measured.
            UsageError: a region from the caller that does not fit; a `size`, where the function changes colours by what
                else the image shows.

        Cost: one run of the function, three of one that is not known; six and more for the first image of a size.
        """
        if size is None:
            pixels = self.run(picture.pixels)
            made = (pixels.shape[1], pixels.shape[2])
            if self.region is None:
                return pixels, self._measured(picture, pixels, made)
            region = self._given(picture, made)
            self._check_given(picture, pixels, region)
            return pixels, region
        made = covering_size(picture, size, multiple)
        resized = Image.fromarray(picture.pixels).resize((made[1], made[0]), Image.Resampling.BICUBIC)
        part = torch.from_numpy(np.array(resized, np.float32) / 255)
        matrix, offset = self._affine()
        return (part @ matrix + offset).permute(2, 0, 1), ImageRegion.from_resize_crop(picture.size, made)

    def _given(self, picture: Picture, made: tuple[int, int]) -> ImageRegion:
        """Return the region that the caller states.

        Raises:
            UsageError: it is of another image, or of pixels of another size.
        """
        region: Any = self.region
        if callable(region):
            region = region(picture)
        elif not isinstance(region, ImageRegion):
            region = ImageRegion(picture.size, (0, 0, *picture.size) if region == "whole" else region, made)
        if isinstance(region, ImageRegion) and (region.size, region.input) == (picture.size, made):
            left, top, right, bottom = region.box
            if max(left, 0) < min(right, region.size[0]) and max(top, 0) < min(bottom, region.size[1]):
                return region
        raise UsageError.coded(
            "models.region-given",
            "the region given for an image of {size} (W x H) that becomes {made} (H x W) pixels does not fit: {given}",
            "give ImageRegion(size=(W, H), box=(left, top, right, bottom), input=(Hi, Wi)), or a function that "
            "makes one for each Picture",
            size=" x ".join(map(str, picture.size)),
            made=" x ".join(map(str, made)),
            given=str(region),
        )

    def _check_given(self, picture: Picture, pixels: Tensor, given: ImageRegion) -> None:
        """Check the caller's region where the processor's own is understood; elsewhere the caller's word stands.

        Raises:
            LayoutError: the pixels show the image mirrored or turned, or are another part of it in each run.
            UsageError: they show another part of this image.
        """
        key = picture.size, given.input
        if key not in self._boxes:
            fixed = self.known or self._repeats(picture, pixels)
            try:
                self._boxes[key] = find_box(self._on_arrays, *key, repeats=1 if self.known else 2 if fixed else 4)
            except TurnedError as lost:
                raise self._refused(picture.size, lost) from None
            except Lost as lost:
                if not fixed:
                    raise _random() from None
                log.debug("the caller's region is not checked: %s", lost)
                self._boxes[key] = None
        if (box := self._boxes[key]) is None or given.cells is not None:
            return
        per_pixel = (box[2] - box[0]) / given.input[1], (box[3] - box[1]) / given.input[0]
        off = np.abs((np.array(box) - given.box) / np.tile(per_pixel, 2)).max()
        region = ImageRegion(picture.size, box, given.input)
        if off > _OFF and (
            self.known or shows_region(self._on_arrays, picture.pixels, pixels.double().numpy(), region)
        ):
            raise UsageError.coded(
                "models.region-contradicted",
                "the region given for an image of {size} (W x H) is ({given}), and the processor's pixels show "
                "({measured}) of it",
                "leave {@region} out: the region is measured",
                size=" x ".join(map(str, picture.size)),
                given=", ".join(f"{end:g}" for end in given.box),
                measured=", ".join(f"{end:g}" for end in box),
            )

    def _measured(self, picture: Picture, pixels: Tensor, made: tuple[int, int]) -> ImageRegion:
        """Return the region, measured once for each size of image and checked on each photo.

        Raises:
            LayoutError: it cannot be measured, or differs from photo to photo.
        """
        if not self.known:
            self._check_repeats(picture, pixels)
        key = picture.size, made
        if (box := self._boxes.get(key)) is None:
            try:
                box = self._boxes[key] = find_box(self._on_arrays, *key, repeats=1 if self.known else 2)
            except Lost as lost:
                raise self._refused(picture.size, lost) from None
            log.debug("preprocessing of %s x %s images: box %s becomes %s x %s pixels", *picture.size, box, *made)
        region = ImageRegion(picture.size, box, made)
        if not self.known and not shows_region(self._on_arrays, picture.pixels, pixels.double().numpy(), region):
            raise LayoutError.coded(
                "models.processor-content",
                "small marks put on this image are not found in the processor's pixels where the part that test "
                "images show, ({box}), has them: it follows what the image shows, or its colours hide the marks",
                REGION_HINT,
                box=", ".join(f"{end:g}" for end in region.box),
            )
        return region

    def _on_arrays(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "C Hi Wi"]:
        return self.run(image).double().numpy()

    def _refused(self, size: tuple[int, int], lost: Lost) -> LayoutError:
        """Return the error for a region that cannot be measured: is the processor random?"""
        noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
        first = self.run(noise)
        if any(other.shape != first.shape or not _alike(other, first) for other in (self.run(noise) for _ in range(4))):
            return _random()
        problem = msg(
            "models.processor-region",
            "which part of the image the processor's pixels show cannot be measured: {reason}",
            reason=lost.message,
        )
        return LayoutError(problem, _TURNED_HINT if isinstance(lost, TurnedError) else REGION_HINT)

    def _check_repeats(self, picture: Picture, pixels: Tensor) -> None:
        """Raise a LayoutError where the function makes other pixels of the same photo, or may."""
        if part := random_part(self.run.process):
            raise LayoutError(
                msg("models.processor-random-part", "the processor is random: {part}", part=part), _random().hint
            )
        if not self._repeats(picture, pixels):
            raise _random()

    def _repeats(self, picture: Picture, pixels: Tensor) -> bool:
        """Return whether more runs make the same pixels: one, or many where it drew from a global generator."""
        before = random_state()
        for number in range(_TRIES):
            again = self.run(picture.pixels)
            if again.shape != pixels.shape or not _alike(again, pixels):
                return False
            if number == 0 and random_state() == before:
                break
        return True

    def _affine(self) -> tuple[Tensor, Tensor]:
        """Return how the function changes colours: RGB in [0, 1] times `(3, C)`, plus `(C,)`.

        Raises:
            UsageError: it does not change each pixel by itself.
        """
        if self._colours is None:
            try:
                self._colours = fit_colours(self._on_arrays, known=self.known)
            except Lost as lost:
                problem = msg(
                    "models.size-and-colours",
                    "{@size} replaces the processor's own resizing, but what it does to colours cannot be repeated at "
                    "another size: {reason}",
                    reason=lost.message,
                )
                raise UsageError(problem, msg("models.size-and-colours.hint", "leave {@size} out")) from None
        return self._colours


def _alike(first: Tensor, second: Tensor) -> bool:
    scale = max(float(first.abs().nan_to_num().max()), 1e-12)
    return torch.allclose(first, second, rtol=0, atol=_SAME * scale, equal_nan=True)


def random_state() -> int:
    """Return a number that changes when a global generator of random numbers is drawn from."""
    state = np.random.get_state(legacy=False)  # noqa: NPY002 - that of processors
    return hash((random.getstate(), pickle.dumps(state), torch.random.get_rng_state().numpy().tobytes()))


def _random() -> LayoutError:
    return LayoutError.coded(
        "models.processor-random",
        "the processor is random: two runs on one image made different pixels",
        "pass the preprocessing for evaluation, without random crops, flips and colours",
    )


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


class NeedsMoreError(LayoutError):
    """A model's forward takes something else than pixels, or more."""

    def __init__(self, model: nn.Module, error: Exception, part: str = "") -> None:
        self.model, self.error = model, error
        hint = msg(
            "models.needs-more-than-pixels.hint",
            "wrap it in a module whose forward takes pixels (B, C, H, W) and gives it all that it needs; {capture}",
            capture=CAPTURE_HINT,
        )
        named = msg(
            "models.needs-more-than-pixels.part-hint",
            "explain the part of it that takes pixels, vitscope.load(model.{part}), or wrap it in a module whose "
            "forward takes pixels (B, C, H, W) and gives it all that it needs",
            part=part,
        )
        taken: Any = inspect.signature(getattr(model, "get_image_features", model.forward)).parameters
        names = [n for n, p in taken.items() if p.kind != p.VAR_KEYWORD and not n.startswith(("output_", "return_"))]
        problem = msg(
            "models.needs-more-than-pixels",
            "{model} does not run on pixels (B, C, H, W) alone: it takes {names}, and fails: {reason}",
            model=type(model).__name__,
            names=", ".join(names),
            reason=f"{type(error).__name__}: {first_line(error)}"
            if isinstance(error, LookupError)
            else first_line(error),
        )
        super().__init__(problem, named if part else hint)


def refuses_size(error: Exception) -> bool:
    """Return whether what a model raised is about the size of its pixels."""
    return isinstance(error, AssertionError) or bool(_OF_SIZE.search(str(error)))  # timm's, of no whole patches


def pixels_refused(size: tuple[int, int], error: Exception) -> LayoutError:
    """Make the error for a model that refuses pixels of the size that its own preprocessing makes."""
    return LayoutError.coded(
        "models.pixels-refused",
        "the model refuses the {height} x {width} pixels that its preprocessing makes: {reason}",
        "pass {@processor=...}, which makes pixels of a size that it takes",
        height=size[0],
        width=size[1],
        reason=first_line(error),
    )
