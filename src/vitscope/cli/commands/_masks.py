"""Object masks for `vitscope measure --masks`: one file for each image, of the same stem and size."""

from pathlib import Path
from typing import TYPE_CHECKING

from vitscope._messages import msg
from vitscope.errors import ImageError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool


class MaskFolder:
    """A folder of masks: 0 is background, other values the object, and 255 of a palette (VOC's border) background.

    Raises:
        UsageError: not a folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError(
                msg("cli.masks-not-a-folder", "--masks expects a folder, got '{path}'", path=folder),
                msg("cli.masks-not-a-folder.hint", "give a folder with one mask for each image"),
            )
        self._folder = folder
        self._files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))

    def read(self, image: str, size: tuple[int, int]) -> 'Bool[np.ndarray, "H W"]':
        """Return the object of an image of `size` pixels `(W, H)`.

        Raises:
            ImageError: no mask, several masks, one that cannot be read or has another size, or one without object or
                without background.
        """
        from vitscope.bench.segmentation import read_mask

        stem = Path(image).stem
        found = [path for path in self._files if path.stem == stem]
        if len(found) != 1:
            raise ImageError(
                msg("cli.no-mask", "{folder} has no mask named {stem}", folder=self._folder, stem=stem)
                if not found
                else msg(
                    "cli.several-masks",
                    "{folder} has {count} masks named {stem}",
                    folder=self._folder,
                    count=len(found),
                    stem=stem,
                ),
                msg(
                    "cli.no-mask.hint",
                    "put one mask there for each image, under its name, in a format without loss such as PNG",
                ),
            )
        mask = read_mask(found[0])
        if mask.shape != size[::-1]:
            problem = msg(
                "cli.mask-size",
                "mask {path} has {mask_size} pixels, its image {image_size}",
                path=found[0],
                mask_size=f"{mask.shape[1]} x {mask.shape[0]}",
                image_size=f"{size[0]} x {size[1]}",
            )
            raise ImageError(problem, msg("cli.mask-size.hint", "a mask must have its image's size"))
        if not mask.any() or mask.all():
            raise ImageError(
                msg("cli.mask-full", "mask {path} covers the whole image", path=found[0])
                if mask.all()
                else msg("cli.mask-empty", "mask {path} is empty", path=found[0]),
                msg("cli.mask-values.hint", "0 is background, all other values are the object"),
            )
        return mask
