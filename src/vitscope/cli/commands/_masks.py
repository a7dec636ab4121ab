"""Masks of objects, for `vitscope measure --masks`: one file for each photo, of the same stem and size."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool

from vitscope.errors import ImageError, UsageError

__all__ = ["Masks"]


class Masks:
    """A folder of masks: every value but 0 is the object; with a palette 255, Pascal VOC's border, is ground.

    Raises:
        UsageError: not a folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder", "--masks is a folder with one mask for each photo")
        self._folder = folder
        self._files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))

    def of(self, image: str, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
        """The object of a photo of so many pixels `(W, H)`.

        Raises:
            ImageError: no mask, two masks, one that cannot be read, has another size, or shows no object or only it.
        """
        from vitscope.bench.segmentation import read_mask

        stem = Path(image).stem
        found = [path for path in self._files if path.stem == stem]
        if len(found) != 1:
            told = f"has {len(found)} masks called {stem}" if found else f"has no mask called {stem}"
            raise ImageError(f"{self._folder} {told}", "one mask for each photo, of the same name but for the ending")
        mask = read_mask(found[0])
        if mask.shape != size[::-1]:
            raise ImageError(
                f"the mask {found[0]} has {mask.shape[1]} x {mask.shape[0]} pixels and its photo {size[0]} x {size[1]}",
                "a mask has its photo's size",
            )
        if not mask.any() or mask.all():
            what = "is empty" if not mask.any() else "covers the whole photo"
            raise ImageError(f"the mask {found[0]} {what}", "0 is ground, everything else is the object")
        return mask
