"""Cases of photos with masks: two folders, or the file of the ImageNet segmentation test (Guillaumin et al. 2014)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from vitscope._messages import msg
from vitscope._pillow import FORMATS, decoding
from vitscope.bench.cases import Case, mask_judge
from vitscope.bench.planted import image_files
from vitscope.errors import ImageError, UsageError, require_package
from vitscope.images import load_image

T = TypeVar("T")

PROTOCOL_SIZE = 224  # side of images and masks in Chefer, Gur, Wolf 2021
_LOSSY = ("JPEG", "MPO")


def folder_cases(images: str | Path, masks: str | Path, count: int | None = None, seed: int = 0) -> list[Case]:
    """Return a case for each image that has a mask of the same stem.

    In a mask every value but 0 is the object; in a palette image 255 (Pascal VOC's border) is background, too.

    Args:
        images: folder of images.
        masks: folder of masks in the images' sizes; no JPEG files, whose edges are smeared.
        count: the number of cases, drawn at random; None is all.
        seed: of the draw.

    Raises:
        UsageError: not folders, two files of one stem, or no pair at all.
        ImageError: a mask that cannot be read, or has another size than its image; raised when the case is loaded.
    """
    of_stem: dict[str, Path] = {}
    for path in image_files(masks):
        if path.stem in of_stem:
            raise UsageError(msg("bench.two-masks", "{path} has two masks named {name}", path=masks, name=path.stem))
        of_stem[path.stem] = path
    photos = image_files(images)
    if len({path.stem for path in photos}) < len(photos):
        twice = next(p.stem for i, p in enumerate(photos) if p.stem in {q.stem for q in photos[:i]})
        raise UsageError(msg("bench.two-images", "{path} has two images named {name}", path=images, name=twice))
    pairs = [(path, of_stem[path.stem]) for path in photos if path.stem in of_stem]
    if not pairs:
        problem = msg(
            "bench.no-pairs", "no image in {images} has a mask of the same name in {masks}", images=images, masks=masks
        )
        raise UsageError(problem, msg("bench.no-pairs.hint", "such as photo.jpg and photo.png"))
    cases = []
    for image, mask in _sample(pairs, count, seed):

        def load(image: Path = image, mask: Path = mask) -> tuple[UInt8[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
            pixels, truth = load_image(image).pixels, read_mask(mask)
            if truth.shape != pixels.shape[:2]:
                problem = msg(
                    "bench.mask-size",
                    "{path} has {mask} pixels, but its image has {image}",
                    path=mask,
                    mask=f"{truth.shape[1]} x {truth.shape[0]}",
                    image=f"{pixels.shape[1]} x {pixels.shape[0]}",
                )
                raise ImageError(problem, msg("bench.mask-size.hint", "a mask must have its image's size"))
            return pixels, truth

        cases.append(Case(image.stem, "", load, mask_judge))
    return cases


def imagenet_cases(path: str | Path, count: int | None = None, seed: int = 0) -> list[Case]:
    """Return the cases of `gtsegs_ijcv.mat`, resized to 224 x 224.

    Images are resized bilinearly, masks by nearest neighbour, as in the paper.

    Args:
        path: the file, a MATLAB file of version 7.3, which is HDF5.
        count: the number of cases out of 4,276, drawn at random; None is all.
        seed: of the draw.

    Raises:
        MissingDependencyError: h5py (extra `bench`) is not installed.
        UsageError: another file.
    """
    require_package("h5py", extra="bench")
    import h5py

    try:
        with h5py.File(path, "r") as file:
            total = len(file["/value/img"])
    except (OSError, KeyError) as error:
        problem = msg(
            "bench.not-gtsegs",
            "{path} is not the file of the ImageNet segmentation test: {reason}",
            path=path,
            reason=str(error),
        )
        raise UsageError(problem, msg("bench.not-gtsegs.hint", "the file is called gtsegs_ijcv.mat")) from error

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
    """Read a mask file as defined in `folder_cases`."""
    load_image(path)  # raises with the reason where the file is broken
    with decoding(str(path)), Image.open(path, formats=FORMATS) as image:
        if image.format in _LOSSY:
            raise ImageError(
                msg("bench.mask-jpeg", "{path} is a JPEG, whose compression smears a mask's edges", path=path),
                msg("bench.mask-jpeg.hint", "save masks as PNG"),
            )
        if image.mode == "P":
            numbers = np.asarray(image)
            return np.asarray((numbers > 0) & (numbers < 255))
        values = np.asarray(image if image.mode.startswith("I") else image.convert("RGB"))
        return np.asarray((values > 0).reshape(*values.shape[:2], -1).max(2), bool)


def _sample(items: Sequence[T], count: int | None, seed: int) -> Sequence[T]:
    if count is None or count >= len(items):
        return items
    return [items[i] for i in sorted(np.random.default_rng(seed).choice(len(items), count, replace=False))]
