"""Preprocess images of any number of bands: what a model of so many channels gets of a Picture."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped
from PIL import Image
from torch import Tensor, nn

from vitscope._messages import Message, msg
from vitscope.attention.model_modes import plain_defaults
from vitscope.errors import ImageError, LayoutError, UsageError
from vitscope.geometry import ImageRegion
from vitscope.images import Picture
from vitscope.models.pixels.preprocessing import Preprocessing, covering_size
from vitscope.models.region import Region

log = logging.getLogger(__name__)

_RGB = 3
_PROBED = (83, 61)  # pixels of the image that a processor is tried on
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


def first_convolution(model: nn.Module) -> nn.Conv2d | nn.Conv3d | None:
    """Return a model's first convolution of pixels."""
    return next((m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d)) and m.groups == 1), None)


def convolution_channels(model: nn.Module) -> int:
    """Return the channels of a model's first convolution; 3 where it has none."""
    first = first_convolution(model)
    return _RGB if first is None else first.in_channels


def fitted(picture: Picture, bands: int) -> Picture:
    """Return the picture that is given to a model of images of so many bands, with a note where colours become grey.

    Raises:
        ImageError: the image has other bands.
    """
    colours = _RGB if picture.data is None or picture.alpha else picture.bands
    if picture.alpha and bands == picture.bands:
        seen = msg(
            "models.alpha-seen", "transparency is the last band that the model sees, and laid on white in pictures"
        )
        kept = (note for note in picture.notes if getattr(note, "code", "") != "images.transparency")
        return replace(picture, notes=(seen, *kept))
    if bands == picture.bands or (bands == _RGB and colours in (1, _RGB)):
        return picture
    if bands == 1 and colours == _RGB:
        grey = (picture.pixels[..., :1] == picture.pixels).all()
        note = msg("models.to-grey", "its colours became grey (ITU-R 601), as the model has one channel")
        noted = () if grey or note in picture.notes else (note,)
        return Picture(picture.pixels, picture.name, picture.source, (*picture.notes, *noted))
    raise ImageError.coded(
        "models.other-bands",
        "the model takes images of {bands} bands, {source} has {given}",
        "pass an array (H, W, {bands}), or a TIFF of so many bands or pages",
        bands=bands,
        source=picture.source,
        given=picture.bands,
    )


def as_photo(picture: Picture) -> Picture:
    """Return an image of one or three bands as a photo of 8 bits."""
    if picture.data is None or picture.alpha or picture.bands == 1:
        return Picture(picture.pixels, picture.name, picture.source, picture.notes)
    pixels = (picture.unit() * 255).round().astype(np.uint8)
    return Picture(pixels, picture.name, picture.source, picture.notes)


def as_numbers(picture: Picture, bands: int, own_processor: bool) -> bool:
    """Return whether a model gets an image's numbers, rather than an 8-bit photo made of them.

    A caller's processor for photos gets photos: of 8 bits, black and white at the ends of the window.
    """
    if picture.data is None or (bands == _RGB and (picture.alpha or picture.bands == 1)):
        return False
    if bands not in (1, _RGB) or picture.window is None:
        return True
    return bands == 1 and not own_processor and picture.data.dtype != np.uint8


def grey_of(image: Image.Image | np.ndarray) -> Image.Image:
    """Return an RGB image as grey (ITU-R 601)."""
    return (image if isinstance(image, Image.Image) else Image.fromarray(image)).convert("L")


def accepting(process: Callable[..., Any], channels: int) -> tuple[Callable[[Image.Image], Any], int]:
    """Return a caller's function so that it takes RGB images, and the bands of the images that it is made for.

    It is tried on an RGB image, for one channel on a grey one, and for others on an array `(H, W, channels)` of uint8;
    the first from which it makes pixels of so many channels is what it gets.
    """
    probe = Image.new("RGB", _PROBED, (128, 128, 128))
    forms: list[tuple[int, Callable[[Image.Image], Any]]] = [(_RGB, lambda image: image)]
    if channels != _RGB:
        forms.append((channels, grey_of if channels == 1 else lambda image: _repeated(image, channels)))
    for bands, form in forms:
        try:
            shape = tuple(getattr(_pixels(process(form(probe))), "shape", ()))
        except Exception as error:  # whatever a caller's function raises at an image that is not for it
            log.debug("the processor takes no image of %d bands: %s", bands, error)
            continue
        if len(shape) >= 3 and shape[-3] == channels:
            log.debug("the processor is given images of %d bands", bands)
            return (process if bands == _RGB else _composed(process, form)), bands
    return process, _RGB


def _composed(process: Callable[..., Any], form: Callable[[Image.Image], Any]) -> Callable[[Image.Image], Any]:
    return lambda image: process(form(image))


def normalisation(
    mean: tuple[float, ...], std: tuple[float, ...], channels: int
) -> tuple[Normalisation, Message | None]:
    """Return mean and deviation of so many channels, and a note where those of three colours do not carry over.

    One value for all colours is that of every band; grey gets the mean of the three; other bands stay in 0..1.
    """
    if len(mean) == len(std) == channels:
        return (tuple(mean), tuple(std)), None
    if len(set(mean)) == 1 and len(set(std)) == 1:
        return ((mean[0],) * channels, (std[0],) * channels), None
    if channels == 1:
        note = msg("models.grey-normalisation", "normalised by the mean over its colours of mean and deviation")
        return ((sum(mean) / len(mean),), (sum(std) / len(std),)), note
    note = msg(
        "models.no-normalisation",
        "no mean and deviation is known for {channels} bands: they are from 0 to 1 ({@processor} gives others)",
        channels=channels,
    )
    return ((0.0,) * channels, (1.0,) * channels), note


@dataclass(frozen=True)
class Resizing:
    """A processor's steps: resize, crop from the middle, normalise.

    Attributes:
        resized: from the image's `(W, H)` to the height and width before the crop.
        crop: height and width that are kept, or None.
        mean: subtracted from numbers in 0..1.
        std: what they are divided by then.
        scale: what numbers in 0..1 are multiplied by first.
        resample: Pillow's filter.
    """

    resized: Callable[[tuple[int, int]], tuple[int, int]]
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1.0
    resample: int = Image.Resampling.BICUBIC

    @plain_defaults
    def __call__(
        self, picture: Picture, size: int | None, multiple: tuple[int, int]
    ) -> tuple[Float[Tensor, "C Hi Wi"], ImageRegion]:
        """Return the pixels of an image of numbers, computed in floats, and the region that they show."""
        made = self.resized(picture.size) if size is None else covering_size(picture, size, multiple)
        crop = self.crop if size is None else None
        unit = _resized(picture.unit(), made, self.resample)
        height, width = crop or made
        top, left = (made[0] - height) // 2, (made[1] - width) // 2
        if top < 0 or left < 0:
            raise UsageError(
                msg("models.bands-padded", "this processor pads, which is not known for images of numbers"),
                msg("models.bands-padded.hint", "pass processor=..., a function from an array (H, W, bands) to pixels"),
            )
        part = torch.from_numpy(np.ascontiguousarray(unit[top : top + height, left : left + width]))
        pixels = (part * self.scale - torch.tensor(self.mean)) / torch.tensor(self.std)
        return pixels.permute(2, 0, 1), ImageRegion.from_resize_crop(picture.size, made, crop)


class BandPreprocessing:
    """A caller's function from an array `(H, W, C)` to pixels, with the regions that they show.

    The array holds the numbers as they were read; with a window, float32 from 0 to 1.

    Args:
        process: the function.
        channels: of the model.
        region: from the caller, see `Preprocessing`.
    """

    def __init__(self, process: Callable[..., Any], channels: int, region: Region | None = None) -> None:
        self.process, self.channels, self.region = process, channels, region
        self._regions: dict[tuple[int, int], ImageRegion] = {}

    @plain_defaults
    def __call__(
        self, picture: Picture, size: int | None, multiple: tuple[int, int]
    ) -> tuple[Float[Tensor, "C Hi Wi"], ImageRegion]:
        """Return pixels and the region that they show.

        Raises:
            LayoutError: the result is not one image of so many channels, or its region is not known.
        """
        array, (low, high) = self._input(picture)
        if size is not None:
            made = covering_size(picture, size, multiple)
            dark, bright = (self._flat(value, array) for value in (low, high))
            unit = _resized(((array.astype(np.float64) - low) / (high - low)).astype(np.float32), made)
            part = torch.from_numpy(unit).permute(2, 0, 1)
            return dark + part * (bright - dark), ImageRegion.from_resize_crop(picture.size, made)
        pixels = self._run(array.copy())
        if picture.size not in self._regions or self.region is not None:
            photo = Preprocessing(lambda image: self._run(_spread(image, low, high, array)), self.region)
            self._regions[picture.size] = photo(Picture(picture.pixels))[1]
        region = self._regions[picture.size]
        if region.input != tuple(pixels.shape[1:]):
            raise LayoutError.coded(
                "models.band-processor-sizes",
                "the processor made {first} pixels, then {second} pixels of an image of the same size",
                first=tuple(pixels.shape[1:]),
                second=region.input,
            )
        return pixels, region

    def _input(self, picture: Picture) -> tuple[Shaped[np.ndarray, "H W C"], tuple[float, float]]:
        """Return the array that the function gets, and the numbers that are black and white in it."""
        data = picture.data
        assert data is not None
        if data.dtype == np.uint8 and picture.window == (0.0, 255.0):
            return data, (0.0, 255.0)
        if picture.window is not None:
            return picture.unit(), (0.0, 1.0)
        low, high = float(data.min()), float(data.max())
        return data, (low, high if high > low else low + 1)

    def _run(self, array: np.ndarray) -> Tensor:
        made = _pixels(self.process(array))
        pixels = made if isinstance(made, Tensor) else torch.as_tensor(np.asarray(made))
        pixels = pixels[0] if pixels.ndim == 4 and len(pixels) == 1 else pixels
        if pixels.ndim != 3 or pixels.shape[0] != self.channels or not pixels.is_floating_point():
            raise LayoutError.coded(
                "models.band-processor-shape",
                "the processor made {shape} of {dtype}, expected ({channels}, height, width) floats",
                "pass a function from an array (H, W, bands) to such a tensor",
                shape=tuple(pixels.shape),
                dtype=pixels.dtype,
                channels=self.channels,
            )
        return pixels

    def _flat(self, value: float, like: np.ndarray) -> Float[Tensor, "C 1 1"]:
        made = self._run(np.full((64, 64, like.shape[2]), value, like.dtype))
        return made[:, made.shape[1] // 2, made.shape[2] // 2, None, None].float()


def _pixels(made: Any) -> Any:
    """Return the pixels of what a processor made, which may be a dict."""
    return made.get("pixel_values", made.get("image", made)) if hasattr(made, "get") else made


def _repeated(image: Image.Image, channels: int) -> np.ndarray:
    return np.repeat(np.asarray(grey_of(image))[..., None], channels, 2)


def _spread(image: Image.Image, low: float, high: float, like: np.ndarray) -> np.ndarray:
    """Return a photo as numbers of the range, format and bands of an array."""
    grey = _repeated(image, like.shape[2]).astype(np.float64)
    return (low + grey / 255 * (high - low)).astype(like.dtype)


def _resized(
    unit: Float32[np.ndarray, "H W C"], size: tuple[int, int], resample: int = Image.Resampling.BICUBIC
) -> Float32[np.ndarray, "h w C"]:
    """Resize each band in floats; what a filter makes of 0..1 beyond that range is clipped, as of 8-bit images."""
    if unit.shape[:2] == size:
        return unit
    bands = [
        np.asarray(Image.fromarray(np.ascontiguousarray(unit[..., b])).resize((size[1], size[0]), resample))
        for b in range(unit.shape[2])
    ]
    return np.stack(bands, 2).clip(0, 1)
