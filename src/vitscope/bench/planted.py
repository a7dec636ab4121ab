"""Composes scenes with one planted object whose pixels are known: a cut-out pasted on a background.

A map that finds the object is right by construction: nothing else in the scene was placed on purpose. Cut-outs and
backgrounds are split into two disjoint halves, so that methods are tuned on one and reported on the other.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from vitscope._messages import msg
from vitscope._pillow import FORMATS, decoding
from vitscope.bench import photos
from vitscope.errors import ImageError, UnknownNameError, UsageError
from vitscope.images import load_image

Split: TypeAlias = Literal["tune", "report"]
NamedLoader: TypeAlias = "tuple[str, Callable[[], np.ndarray]]"

AREAS = (0.015, 0.20)  # share of the scene that the object covers: log-uniform between them
SIZES = ("small", "medium", "large")
_CUTS = (0.035, 0.085)  # from which share of the scene an object is medium, and large: thirds of log(AREAS)
_LONGEST = 0.94  # of the scene's side
_CROP = (0.6, 1.0)  # of a background's shorter side
_MIN_PIXELS = 8  # opaque pixels of an object, at least


@dataclass(frozen=True, eq=False)
class Scene:
    """One image with one planted object.

    Attributes:
        image: `(H, W, 3)`.
        mask: the pixels of the object: where its alpha is one half or more.
        size: `small` (below 3.5 % of the scene), `medium` (below 8.5 %) or `large`.
        cutout: name of the object.
        background: name of the background.
        index: number of the scene in its series.
    """

    image: UInt8[np.ndarray, "H W 3"]
    mask: Bool[np.ndarray, "H W"]
    size: str
    cutout: str
    background: str
    index: int

    @property
    def name(self) -> str:
        """The name in tables: number, object, background."""
        return f"{self.index:03d} {self.cutout} on {self.background}"


def scenes(
    count: int,
    *,
    seed: int = 0,
    size: int = 336,
    split: Split | str = "report",
    cutouts: str | Path | None = None,
    backgrounds: str | Path | None = None,
) -> list[Scene]:
    """Compose scenes of one planted object each.

    Equal arguments give equal scenes to the bit, and a smaller count gives the first of a larger.

    In each scene one cut-out, mirrored or not, covers a log-uniform 1.5 to 20 % of a square crop of a background, whole
    and at a uniformly random place; thin ones cover less, where they would leave the scene. Every cut-out appears once
    before any appears again; so do backgrounds.

    Args:
        count: the number of scenes.
        seed: of everything random.
        size: side of a scene in pixels, 32 to 4096.
        split: `tune` or `report`: one of two disjoint halves of each folder, or of the built-in set.
        cutouts: a folder of images with transparency (PNG, WebP, TIFF); None is the built-in set of 11 objects.
        backgrounds: a folder of images; None is the built-in set of 12.

    Raises:
        UsageError: a count or size out of range, a folder with fewer than two images.
        UnknownNameError: an unknown split.
        ImageError: an image that cannot be read, or a cut-out without transparency or almost without opaque pixels.
        MissingDependencyError: the built-in set without scikit-image or scikit-learn (extra `bench`).

    Limits: pasted objects have edges, light and blur of their own, which a model may notice. The built-in objects are
        few: intervals over scenes say nothing about other objects.
    """
    if split not in get_args(Split):
        raise UnknownNameError("split", split, get_args(Split))
    if count < 1 or not 32 <= size <= 4096 or seed < 0:
        raise UsageError.coded(
            "bench.scene-numbers",
            "{@count} must be >= 1, {@size} 32 to 4096 and {@seed} >= 0, got {count}, {size} and {seed}",
            count=count,
            size=size,
            seed=seed,
        )
    things = _loaders(cutouts, split, _cutout_file, photos.CUTOUTS, photos.cutout)
    places = _loaders(backgrounds, split, lambda path: load_image(path).pixels, photos.BACKGROUNDS, photos.background)
    made = []
    for index in range(count):
        rng = np.random.default_rng([seed, get_args(Split).index(split), index])
        thing, load_thing = things[_permuted_choice(index, len(things), seed, 11)]
        place, load_place = places[_permuted_choice(index, len(places), seed, 13)]
        image, mask = _compose(load_thing(), load_place(), size, rng)
        made.append(Scene(image, mask, size_class(mask), thing, place, index))
    return made


def size_class(mask: Bool[np.ndarray, "H W"]) -> str:
    """Return `small`, `medium` or `large`, by the object's share of the image."""
    return SIZES[int(np.searchsorted(_CUTS, mask.mean(), side="right"))]


def image_files(folder: str | Path) -> list[Path]:
    """Return the images of a folder, sorted by name; raise a UsageError without images or folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(msg("bench.not-a-folder", "{path} is not a folder", path=folder))
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in endings and path.is_file())
    if not found:
        raise UsageError(
            msg("bench.no-images", "{path} has no images", path=folder),
            msg("bench.no-images.hint", "readable formats: {formats}", formats=", ".join(FORMATS)),
        )
    return found


def _permuted_choice(index: int, length: int, seed: int, salt: int) -> int:
    """Return the index of an element in a series of permutations."""
    block, within = divmod(index, length)
    return int(np.random.default_rng([seed, salt, block]).permutation(length)[within])


def _loaders(
    folder: str | Path | None,
    split: str,
    opened: Callable[[Path], np.ndarray],
    names: Mapping[str, Sequence[str]],
    built_in: Callable[[str], np.ndarray],
) -> list[NamedLoader]:
    """Return the names of one half, each with a function that loads it, once."""
    if folder is None:
        return [(name, partial(built_in, name)) for name in names[split]]
    found = image_files(folder)
    if len(found) < 2:
        raise UsageError(
            msg("bench.one-image", "{path} has one image, but 'tune' and 'report' need one each", path=folder)
        )
    mixed = sorted(found, key=lambda path: hashlib.sha256(path.name.encode("utf-8", "surrogateescape")).digest())
    half = mixed[get_args(Split).index(split) :: 2]
    return [(path.stem, cache(partial(opened, path))) for path in sorted(half)]


def _cutout_file(path: Path) -> UInt8[np.ndarray, "H W 4"]:
    """Read an image with transparency as RGBA, cropped to its visible part."""
    pixels = load_image(path).pixels  # raises with the reason where the file is broken
    with decoding(str(path)), Image.open(path, formats=FORMATS) as image:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        colours = np.asarray(image.convert("RGBA"))[..., :3]
    hint = msg("bench.cutout.hint", "a cut-out is one object on a transparent background")
    if pixels.shape[:2] != alpha.shape:
        raise ImageError.coded(
            "bench.cutout-rotated", "{path} is rotated by EXIF, so that its transparency does not fit", hint, path=path
        )
    if alpha.min() > 127:
        raise ImageError(msg("bench.cutout-opaque", "{path} has no transparency", path=path), hint)
    if (alpha > 127).sum() < _MIN_PIXELS:
        raise ImageError(
            msg("bench.cutout-empty", "{path} has fewer than {count} opaque pixels", path=path, count=_MIN_PIXELS), hint
        )
    return photos.visible_part(colours, alpha)


def _compose(
    thing: UInt8[np.ndarray, "h w 4"], place: UInt8[np.ndarray, "H W 3"], size: int, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "S S 3"], Bool[np.ndarray, "S S"]]:
    """Return a crop of the background with the object on it, and the object's mask."""
    behind = _crop(place, size, rng)
    share = np.exp(rng.uniform(*np.log(AREAS)))
    solid = float((thing[..., 3] / 255).sum())
    height, width = thing.shape[:2]
    scale = min((share * size * size / solid) ** 0.5, _LONGEST * size / max(height, width))
    wide, tall = max(round(width * scale), 2), max(round(height * scale), 2)
    small = _resize(thing, (wide, tall))
    if rng.random() < 0.5:
        small = small[:, ::-1]
    left, top = int(rng.integers(0, size - wide + 1)), int(rng.integers(0, size - tall + 1))
    alpha = small[..., 3:] / 255
    image, mask = behind.astype(np.float64), np.zeros((size, size), bool)
    part = np.s_[top : top + tall, left : left + wide]
    image[part] += alpha * (small[..., :3] - image[part])
    mask[part] = alpha[..., 0] >= 0.5
    return (image + 0.5).astype(np.uint8), mask


def _crop(place: UInt8[np.ndarray, "H W 3"], size: int, rng: np.random.Generator) -> UInt8[np.ndarray, "S S 3"]:
    """Return a random square of a background, mirrored or not."""
    height, width = place.shape[:2]
    side = max(round(rng.uniform(*_CROP) * min(height, width)), 2)
    left, top = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
    crop = Image.fromarray(np.ascontiguousarray(place[top : top + side, left : left + side]))
    made = np.asarray(crop.resize((size, size), Image.Resampling.LANCZOS if side > size else Image.Resampling.BICUBIC))
    return made[:, ::-1] if rng.random() < 0.5 else made


def _resize(thing: UInt8[np.ndarray, "h w 4"], size: tuple[int, int]) -> np.ndarray:
    """Resize with colours weighted by alpha, so that colours outside the outline do not bleed in."""
    alpha = thing[..., 3].astype(np.float32)
    layers = [thing[..., channel] * alpha for channel in range(3)]
    resized = [np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BILINEAR)) for x in (*layers, alpha)]
    colours = np.stack(resized[:3], 2) / np.maximum(resized[3], 1e-3)[..., None]
    return np.concatenate([np.clip(colours, 0, 255), np.clip(resized[3], 0, 255)[..., None]], 2)
