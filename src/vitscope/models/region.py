"""The part of each image that a processor's pixels show, as callers write it; read without torch."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from vitscope._numbers import number
from vitscope.errors import UsageError
from vitscope.geometry import ImageRegion
from vitscope.images import Picture

Region: TypeAlias = ImageRegion | Callable[[Picture], ImageRegion] | Sequence[float] | str


def read_region(region: Region | None) -> Region | None:
    """Return a region as adapters take it: a box is four numbers.

    Raises:
        UsageError: neither an ImageRegion, a function, `whole`, nor a box.
    """
    if region is None or region == "whole" or isinstance(region, ImageRegion) or callable(region):
        return region
    parts = region.split(",") if isinstance(region, str) else region
    ends = [number(str(part)) for part in parts] if isinstance(parts, Sequence) else []
    if len(ends) == 4 and None not in ends:
        left, top, right, bottom = (float(end) for end in ends if end is not None)
        if left < right and top < bottom:
            return left, top, right, bottom
    raise UsageError.coded(
        "models.region",
        "{@region} is not {given}",
        "write the part of each image that the processor's pixels show, in pixels, left and top first, as in "
        "{@region=0,0,640,480}, or {@region=whole}",
        given=repr(region),
    )
