"""The ranges of options that can be checked without torch and numpy, and what becomes of an input size."""

from numbers import Integral
from typing import TYPE_CHECKING, Any

from vitscope._messages import Message, msg
from vitscope.errors import UsageError

if TYPE_CHECKING:
    from vitscope.geometry import ImageRegion


def check_size(size: Any) -> None:
    """Raise a UsageError for an input size that is neither None nor an integer between 16 and 8192."""
    if size is not None and not (is_integer(size) and 16 <= size <= 8192):
        raise UsageError(
            msg("engine.size", "{@size} is an integer between 16 and 8192 pixels, not {size}", size=repr(size))
        )


def check_batch_size(images: Any) -> None:
    """Raise a UsageError for a number of images in one forward that is no integer of at least 1."""
    if not (is_integer(images) and images >= 1):
        raise UsageError(
            msg(
                "engine.batch-size",
                "{@batch_size} is an integer of at least 1, not {batch_size}",
                batch_size=repr(images),
            )
        )


def is_integer(value: object) -> bool:
    """Return whether a value is an integer, numpy's too, and no boolean."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def rounded_size(size: int, region: "ImageRegion", grid: tuple[int, int]) -> Message | None:
    """Return the note for an input size that whole patches do not fill; None where the input is as asked.

    Args:
        size: as asked: about `size ** 2` pixels in the image's own shape.
        region: what the pixels show of the image.
        grid: rows and columns of patches.
    """
    stretch = (region.size[1] / region.size[0]) ** 0.5
    wanted = (size * stretch, size / stretch)
    cells = [side // count for side, count in zip(region.input, grid, strict=True)]
    if all(
        size % cell == 0 and abs(side - ideal) <= cell
        for cell, side, ideal in zip(cells, region.input, wanted, strict=True)
    ):
        return None
    return msg(
        "engine.size-rounded",
        "{@size={size}} is not filled by whole patches: the input has {height} x {width} pixels",
        size=size,
        height=region.input[0],
        width=region.input[1],
    )
