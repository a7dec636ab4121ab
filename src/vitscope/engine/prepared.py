"""An image made ready for the model ahead of time."""

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from vitscope.geometry import ImageRegion
from vitscope.images import Picture


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image made ready for the model ahead of time, by `Scope.prepare`; `explain_many` takes it as an image.

    Attributes:
        picture: the photo.
        pixels: `(C, Hi, Wi)`, as the model wants them.
        region: which part of the photo they are.
        size: the `size` they were prepared with.
    """

    picture: Picture
    pixels: Tensor
    region: ImageRegion
    size: int | None = None

    @property
    def nbytes(self) -> int:
        """Memory that it takes while it waits, in bytes."""
        return self.picture.nbytes + self.pixels.nbytes

    def without_photo(self) -> "Prepared":
        """Return the same for making the map only: the photo keeps its size and frees its memory."""
        width, height = self.picture.size
        blank = np.broadcast_to(np.uint8(0), (height, width, 3))
        return replace(self, picture=replace(self.picture, pixels=blank, data=None))
