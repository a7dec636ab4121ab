"""Photos with masks: a folder of each, or the file of the ImageNet segmentation test (Guillaumin et al. 2014)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from vitscope._pillow import FORMATS
from vitscope.bench.cases import Case, mask_judge
from vitscope.bench.planted import image_files
from vitscope.errors import ImageError, UsageError, require_package
from vitscope.images import load_image

__all__ = ["PROTOCOL_SIZE", "folder_cases", "imagenet_cases", "read_mask"]

T = TypeVar("T")

PROTOCOL_SIZE = 224  # pixels to which pictures and masks are brought in Chefer, Gur, Wolf 2021
_LOSSY = ("JPEG", "MPO")


def folder_cases(images: str | Path, masks: str | Path, count: int | None = None, seed: int = 0) -> list[Case]:
    """One case for each picture whose mask has the same stem.

    In a mask every value but 0 is the object; in one with a palette also 255 (Pascal VOC's border) is ground.

    Args:
        images: folder of pictures.
        masks: folder of masks, of the pictures' sizes; no JPEG, which smears edges.
        count: so many of them, drawn at random; None is all.
        seed: of the draw.

    Raises:
        UsageError: not folders, two pictures of one stem, no pair at all.
        ImageError: a mask that cannot be load_image, or is of another size than its picture; when its turn comes.
    """
    of_stem: dict[str, Path] = {}
    for path in image_files(masks):
        if path.stem in of_stem:
            raise UsageError(f"{masks} has two masks called {path.stem}")
        of_stem[path.stem] = path
    pictures = image_files(images)
    if len({path.stem for path in pictures}) < len(pictures):
        twice = next(p.stem for i, p in enumerate(pictures) if p.stem in {q.stem for q in pictures[:i]})
        raise UsageError(f"{images} has two pictures called {twice}")
    pairs = [(path, of_stem[path.stem]) for path in pictures if path.stem in of_stem]
    if not pairs:
        raise UsageError(f"no picture of {images} has a mask of the same name in {masks}", "photo.jpg, photo.png")
    cases = []
    for image, mask in _sample(pairs, count, seed):

        def load(image: Path = image, mask: Path = mask) -> tuple[UInt8[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
            pixels, truth = load_image(image).pixels, read_mask(mask)
            if truth.shape != pixels.shape[:2]:
                raise ImageError(
                    f"{mask} is {truth.shape[1]} x {truth.shape[0]} pixels and its picture "
                    f"{pixels.shape[1]} x {pixels.shape[0]}",
                    "a mask has its picture's size",
                )
            return pixels, truth

        cases.append(Case(image.stem, "", load, mask_judge))
    return cases


def imagenet_cases(path: str | Path, count: int | None = None, seed: int = 0) -> list[Case]:
    """The cases of `gtsegs_ijcv.mat`: pictures (bilinear) and masks (nearest) brought to 224 x 224 as in the paper.

    Args:
        path: the file, a MATLAB file of version 7.3, which is HDF5.
        count: so many of the 4,276, drawn at random; None is all.
        seed: of the draw.

    Raises:
        MissingDependencyError: without h5py (extra `bench`).
        UsageError: not such a file.
    """
    require_package("h5py", extra="bench")
    import h5py

    try:
        with h5py.File(path, "r") as file:
            total = len(file["/value/img"])
    except (OSError, KeyError) as error:
        raise UsageError(
            f"{path} is not the file of the ImageNet segmentation test: {error}", "gtsegs_ijcv.mat"
        ) from error

    def load(index: int) -> tuple[UInt8[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
        with h5py.File(path, "r") as file:  # MATLAB's axes are the other way round
            pixels = np.asarray(file[file["/value/img"][index, 0]])
            truth = np.asarray(file[file[file["/value/gt"][index, 0]][0, 0]]).T
        pixels = np.stack([pixels.T] * 3, 2) if pixels.ndim == 2 else pixels.transpose(2, 1, 0)
        size = (PROTOCOL_SIZE, PROTOCOL_SIZE)
        small = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BILINEAR)
        mask = Image.fromarray((truth > 0).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        return np.asarray(small), np.asarray(mask) > 0

    return [
        Case(f"{index:04d}", "", lambda index=index: load(index), mask_judge)  # type: ignore[misc]
        for index in _sample(list(range(total)), count, seed)
    ]


def read_mask(path: Path) -> Bool[np.ndarray, "H W"]:
    """A mask file as it is defined in `folder_cases`."""
    load_image(path)  # says what is wrong with a broken file
    with Image.open(path, formats=FORMATS) as image:
        if image.format in _LOSSY:
            raise ImageError(f"{path} is a JPEG: compression smears a mask's edges", "save masks as PNG")
        if image.mode == "P":
            numbers = np.asarray(image)
            return np.asarray((numbers > 0) & (numbers < 255))
        values = np.asarray(image if image.mode.startswith("I") else image.convert("RGB"))
        return np.asarray((values > 0).reshape(*values.shape[:2], -1).max(2), bool)


def _sample(items: Sequence[T], count: int | None, seed: int) -> Sequence[T]:
    if count is None or count >= len(items):
        return items
    return [items[i] for i in sorted(np.random.default_rng(seed).choice(len(items), count, replace=False))]
