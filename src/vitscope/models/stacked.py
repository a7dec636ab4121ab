"""A clip or a volume as one tall image, plane under plane: so it goes through everything that is made for images."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from vitscope.errors import LayoutError


@dataclass(frozen=True)
class Stack:
    """How the planes of one input lie in its tall image.

    The rows of the planes that one patch covers are laid together, patch row by patch row: each patch is a rectangle of
    `deep * high` by `wide` pixels, and patches follow each other as tokens do: plane by plane, then row by row.

    Attributes:
        shape: planes, height and width `(T, H, W)` of the input.
        patch: planes, height and width `(deep, high, wide)` of a patch.

    Raises:
        LayoutError: the input is no multiple of the patch.
    """

    shape: tuple[int, int, int]
    patch: tuple[int, int, int]

    def __post_init__(self) -> None:
        if any(n % p for n, p in zip(self.shape, self.patch, strict=True)):
            raise LayoutError.coded(
                "models.not-whole-patches",
                "an input of {shape} is no multiple of the patch {patch}: planes or pixels would be left out",
                shape=" x ".join(map(str, self.shape)),
                patch=" x ".join(map(str, self.patch)),
            )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the tall image."""
        return self.shape[0] * self.shape[1], self.shape[2]

    @property
    def steps(self) -> int:
        """Planes of patches."""
        return self.shape[0] // self.patch[0]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches in the tall image."""
        return self.steps * (self.shape[1] // self.patch[1]), self.shape[2] // self.patch[2]

    def image(self, planes: Float[Tensor, "*B C T H W"]) -> Float[Tensor, "*B C TH W"]:
        """Lay planes out as the tall image."""
        (_, height, width), (deep, high, _) = self.shape, self.patch
        cut = planes.reshape(*planes.shape[:-3], self.steps, deep, height // high, high, width)
        return cut.transpose(-4, -3).reshape(*planes.shape[:-3], -1, width)

    def planes(self, image: Float[Tensor, "*B C TH W"]) -> Float[Tensor, "*B C T H W"]:
        """Undo `image`."""
        (_, height, width), (deep, high, _) = self.shape, self.patch
        cut = image.reshape(*image.shape[:-2], self.steps, height // high, deep, high, width)
        return cut.transpose(-4, -3).reshape(*image.shape[:-2], *self.shape)
