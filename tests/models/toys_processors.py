"""Processors as people bring them, small enough for a test."""

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision import transforms

__all__ = ["GEOMETRIES", "centred", "colours_after", "photo", "squared", "tensor"]

SIDE = 32


def tensor(image: Image.Image) -> Tensor:
    """Return an image as floats in [0, 1], `(C, H, W)`."""
    array = np.asarray(image, np.float32) / 255
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return soft colours with a few sharp shapes."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(40, 215, (6, 8, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    array = np.array(small)
    for _ in range(12):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        array[y : y + max(2, height // 10), x : x + max(2, width // 12)] = rng.integers(0, 255, 3, np.uint8)
    return Image.fromarray(array)


def squared(image: Image.Image) -> Image.Image:
    """Pad to a square with one colour, in the middle, as LLaVA does."""
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), (122, 116, 104))
    canvas.paste(image.convert("RGB"), ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def centred(image: Image.Image) -> Image.Image:
    """Resize the shorter edge to 36 and keep the middle 32 x 32."""
    return transforms.CenterCrop(SIDE)(transforms.Resize(36)(image))


def _middle(w, h):
    """The box of `centred`: sizes are cut to whole pixels, offsets rounded."""
    short = min(w, h)
    sizes = [int(36 * side / short) for side in (w, h)]
    starts = [round((size - SIDE) / 2) for size in sizes]
    return tuple(
        (start + end) * side / size
        for end in (0, SIDE)
        for start, side, size in zip(starts, (w, h), sizes, strict=True)
    )


# what a photo of (W, H) shows after each: the boxes are computed by hand
GEOMETRIES = {
    "squash": (lambda image: image.resize((SIDE, SIDE)), lambda w, h: (0, 0, w, h)),
    "nearest": (lambda image: image.resize((SIDE, SIDE), Image.Resampling.NEAREST), lambda w, h: (0, 0, w, h)),
    "wide": (lambda image: image.resize((2 * SIDE, SIDE)), lambda w, h: (0, 0, w, h)),
    "centre": (centred, lambda w, h: _middle(w, h)),
    "letterbox": (
        lambda image: squared(image).resize((SIDE, SIDE)),
        lambda w, h: (
            -((max(w, h) - w) // 2),
            -((max(w, h) - h) // 2),
            max(w, h) - (max(w, h) - w) // 2,
            max(w, h) - (max(w, h) - h) // 2,
        ),
    ),
    "corner": (
        lambda image: image.crop((5, 7, 5 + image.width // 2, 7 + image.height // 2)).resize((SIDE, SIDE)),
        lambda w, h: (5, 7, 5 + w // 2, 7 + h // 2),
    ),
}


def _z_score(pixels: Tensor) -> Tensor:
    return (pixels - pixels.mean()) / (pixels.std() + 1e-6)


# what is done to colours, after the geometry; each makes three channels
colours_after = {
    "plain": tensor,
    "grey": lambda image: tensor(image.convert("L").convert("RGB")),
    "red": lambda image: tensor(image) * torch.tensor([1.0, 0, 0])[:, None, None],
    "bgr": lambda image: tensor(image).flip(0),
    "hsv": lambda image: tensor(image.convert("HSV")),
    "equalised": lambda image: tensor(ImageOps.equalize(image)),
    "stretched": lambda image: tensor(ImageOps.autocontrast(image)),
    "inverted": lambda image: tensor(ImageOps.invert(image)),
    "z-score": lambda image: _z_score(tensor(image)),
    "gamma": lambda image: tensor(image) ** 2.2,
    "blurred": lambda image: tensor(image.filter(ImageFilter.GaussianBlur(0.6))),
    "one channel": lambda image: tensor(image.convert("L")),
    "bytes": lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1),
}
