"""Scenes with one planted object whose every pixel is known: a cut-out pasted on a background.

A map that finds the object is right by construction: nothing else in the scene was put there on purpose. Cut-outs and
backgrounds are split in two halves that share none, so that what is tuned on one half is reported on the other.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from vitscope._pillow import FORMATS
from vitscope.bench import photos
from vitscope.errors import ImageError, UnknownNameError, UsageError
from vitscope.images import load_image

__all__ = ["AREAS", "SIZES", "Scene", "Split", "image_files", "scenes", "size_class"]

Split: TypeAlias = Literal["tune", "report"]
NamedLoader: TypeAlias = "tuple[str, Callable[[], np.ndarray]]"

AREAS = (0.015, 0.20)  # share of the scene that the object covers: log-uniform between them
SIZES = ("small", "medium", "large")
_CUTS = (0.035, 0.085)  # from which share of the scene an object is medium, and large: thirds of log(AREAS)
_LONGEST = 0.94  # of the scene's side
_CROP = (0.6, 1.0)  # of a background's shorter side
_LEAST = 8  # pixels that an object must show


@dataclass(frozen=True, eq=False)
class Scene:
    """One picture with one planted object.

    Attributes:
        image: `(H, W, 3)`.
        mask: the pixels of the object: where its alpha is one half or more.
        size: `small` (below 3.5 % of the scene), `medium` (below 8.5 %) or `large`.
        cutout: name of the object.
        background: name of what stands behind it.
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
        """What the scene is called in tables: number, object, background."""
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
    """Compose scenes; the same arguments give the same scenes to the bit, and fewer of them are the first of more.

    In each scene one cut-out, mirrored or not, covers a log-uniform 1.5 to 20 % of a square crop of a background
    (thin ones less, where they would leave the scene), at a uniformly random place, whole. Every cut-out comes once
    before any comes again; so do backgrounds.

    Args:
        count: how many.
        seed: of all that is random.
        size: side of a scene in pixels.
        split: `tune` or `report`: of each folder, or of the built-in set, one half of the files, never the same ones.
        cutouts: a folder of pictures with transparency (PNG, WebP, TIFF); None is the built-in set of 11 objects.
        backgrounds: a folder of pictures; None is the built-in set of 12.

    Raises:
        UsageError: a count or size out of range, a folder with fewer than two pictures.
        UnknownNameError: a split that does not exist.
        ImageError: a picture that cannot be read, or a cut-out without transparency or almost without opaque pixels.
        MissingDependencyError: the built-in set without scikit-image or scikit-learn (extra `bench`).

    Limits: pasted objects have edges, light and blur of their own, which a model may notice; built-in objects are few:
        intervals over scenes say nothing about other objects.
    """
    if split not in get_args(Split):
        raise UnknownNameError("split", split, get_args(Split))
    if count < 1 or not 32 <= size <= 4096 or seed < 0:
        raise UsageError(
            f"a count is at least 1, a size 32 to 4096, a seed not negative; not {count}, {size} and {seed}"
        )
    things = _loaders(cutouts, split, _cutout_file, photos.CUTOUTS, photos.cutout)
    places = _loaders(backgrounds, split, lambda path: load_image(path).pixels, photos.BACKGROUNDS, photos.background)
    kept: dict[str, np.ndarray] = {}
    made = []
    for index in range(count):
        rng = np.random.default_rng([seed, get_args(Split).index(split), index])
        thing = things[_permuted_choice(index, len(things), seed, 11)]
        place = places[_permuted_choice(index, len(places), seed, 13)]
        if f"cutout {thing[0]}" not in kept:
            kept[f"cutout {thing[0]}"] = thing[1]()
        if f"place {place[0]}" not in kept:
            kept[f"place {place[0]}"] = place[1]()
        image, mask = _compose(kept[f"cutout {thing[0]}"], kept[f"place {place[0]}"], size, rng)
        made.append(Scene(image, mask, size_class(mask), thing[0], place[0], index))
    return made


def size_class(mask: Bool[np.ndarray, "H W"]) -> str:
    """`small`, `medium` or `large`, by the share of the picture that the object covers."""
    return SIZES[int(np.searchsorted(_CUTS, mask.mean(), side="right"))]


def image_files(folder: str | Path) -> list[Path]:
    """The pictures of a folder, by name.

    Raises:
        UsageError: not a folder, or none in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in endings and path.is_file())
    if not found:
        raise UsageError(f"{folder} has no pictures", f"readable are {', '.join(FORMATS)}")
    return found


def _permuted_choice(index: int, length: int, seed: int, salt: int) -> int:
    """The element whose turn it is: one permutation after another."""
    block, within = divmod(index, length)
    return int(np.random.default_rng([seed, salt, block]).permutation(length)[within])


def _loaders(
    folder: str | Path | None,
    split: str,
    opened: Callable[[Path], np.ndarray],
    names: Mapping[str, Sequence[str]],
    built_in: Callable[[str], np.ndarray],
) -> list[NamedLoader]:
    """Names, and how each is opened, of one half."""
    if folder is None:
        return [(name, lambda name=name: built_in(name)) for name in names[split]]  # type: ignore[misc]
    found = image_files(folder)
    if len(found) < 2:
        raise UsageError(f"{folder} has one picture: there are no two halves, 'tune' and 'report', to make of it")
    mixed = sorted(found, key=lambda path: hashlib.sha256(path.name.encode("utf-8", "surrogateescape")).digest())
    half = mixed[get_args(Split).index(split) :: 2]
    return [(path.stem, lambda path=path: opened(path)) for path in sorted(half)]  # type: ignore[misc]


def _cutout_file(path: Path) -> UInt8[np.ndarray, "H W 4"]:
    """A picture with transparency as RGBA, cropped to what is visible."""
    pixels = load_image(path).pixels  # says what is wrong with a broken file
    with Image.open(path, formats=FORMATS) as image:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        colours = np.asarray(image.convert("RGBA"))[..., :3]
    hint = "a cut-out shows one object on a transparent ground"
    if pixels.shape[:2] != alpha.shape:
        raise ImageError(f"{path} is turned by its EXIF orientation: its transparency cannot be laid on it", hint)
    if alpha.min() > 127:
        raise ImageError(f"{path} has no transparency: where the object is cannot be told", hint)
    if (alpha > 127).sum() < _LEAST:
        raise ImageError(f"{path} has fewer than {_LEAST} opaque pixels", hint)
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.concatenate([colours[box], alpha[box][..., None]], axis=2)


def _compose(
    thing: UInt8[np.ndarray, "h w 4"], place: UInt8[np.ndarray, "H W 3"], size: int, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "S S 3"], Bool[np.ndarray, "S S"]]:
    """The background's crop with the object on it, and the object's mask."""
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
    """A random square of a background, mirrored or not."""
    height, width = place.shape[:2]
    side = max(round(rng.uniform(*_CROP) * min(height, width)), 2)
    left, top = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
    crop = Image.fromarray(np.ascontiguousarray(place[top : top + side, left : left + side]))
    made = np.asarray(crop.resize((size, size), Image.Resampling.LANCZOS if side > size else Image.Resampling.BICUBIC))
    return made[:, ::-1] if rng.random() < 0.5 else made


def _resize(thing: UInt8[np.ndarray, "h w 4"], size: tuple[int, int]) -> np.ndarray:
    """Resized with colours weighted by alpha, so that what lies outside the outline does not bleed in."""
    alpha = thing[..., 3].astype(np.float32)
    layers = [thing[..., channel] * alpha for channel in range(3)]
    resized = [np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BILINEAR)) for x in (*layers, alpha)]
    colours = np.stack(resized[:3], 2) / np.maximum(resized[3], 1e-3)[..., None]
    return np.concatenate([np.clip(colours, 0, 255), np.clip(resized[3], 0, 255)[..., None]], 2)
