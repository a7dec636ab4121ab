"""Maps of a batch of pixels as tensors, for loops of one's own."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope._messages import msg
from vitscope.engine.request import Relevance, Request
from vitscope.errors import MethodError, UsageError
from vitscope.geometry import TokenLayout


@dataclass(frozen=True, eq=False, repr=False)
class Attribution:
    """The maps of a batch of pixels, as `Scope.attribute` returns them.

    Attributes:
        maps: relevance of each patch, float32, unnormalised: the method's own values; on the device of the pixels.
        prefix: relevance of the P prefix tokens, in the layout's order.
        method: the method's name.
        layout: which token is which.
        target: what was explained of each image, in words; None for a method without a target.
        score: the target's score of each image; None where no target is followed.
        notes: what must be known of the map of each image.
        caveat: one sentence that goes with every map of this method, or empty.
    """

    maps: Float[Tensor, "B gh gw"]
    prefix: Float[Tensor, "B P"]
    method: str
    layout: TokenLayout
    target: Sequence[str] | None
    score: Float[Tensor, " B"] | None
    notes: Sequence[Sequence[str]]
    caveat: str = ""

    def __repr__(self) -> str:
        count = len(self.maps)
        return f"<Attribution of {count} image{'s' * (count != 1)} by {self.method}: {self.layout}>"


def check_pixels(pixels: object, size: int | None, channels: int) -> None:
    """Raise a UsageError for pixels that are no batch of normalised images of so many channels, or for a size."""
    if size is not None:
        raise UsageError(
            msg("engine.attribute-size", "attribute takes pixels as they are: {@size} does not apply"),
            msg("engine.attribute-size.hint", "resize the pixels yourself, or pass images to explain"),
        )
    if (
        isinstance(pixels, Tensor)
        and pixels.ndim == 4
        and len(pixels)
        and pixels.shape[1] == channels
        and pixels.is_floating_point()
    ):
        return
    given = (
        f"{str(pixels.dtype).removeprefix('torch.')} {tuple(pixels.shape)}"
        if isinstance(pixels, Tensor)
        else type(pixels).__name__
    )
    problem = msg(
        "engine.pixels",
        "pixels are a float tensor (B, {channels}, H, W), normalised for the model, not {given}",
        channels=channels,
        given=given,
    )
    hint = msg("engine.pixels.hint", "explain takes images, and prepares them for the model")
    if isinstance(pixels, Tensor) and pixels.ndim == 5:
        hint = msg("engine.pixels.frames-hint", "pixels.flatten(0, 1) makes one batch of frames or views")
    elif isinstance(pixels, Tensor) and pixels.ndim == 4 and pixels.shape[-1] == channels != pixels.shape[1]:
        hint = msg("engine.pixels.last-hint", "their channels are last: pixels.permute(0, 3, 1, 2) brings them forward")
    elif isinstance(pixels, Tensor) and pixels.ndim == 3 and pixels.is_floating_point():
        hint = msg("engine.pixels.one-hint", "pixels[None] makes a batch of one")
    elif isinstance(pixels, Tensor) and not pixels.numel():
        hint = msg("engine.pixels.empty-hint", "the batch holds no image")
    raise UsageError(problem, hint)


def attribution_of(
    request: Request,
    layout: TokenLayout,
    parts: Sequence[Relevance],
    notes: Sequence[Sequence[str]],
    pixels: Float[Tensor, "B C Hi Wi"],
) -> Attribution:
    """Make the result under one target from what a method found, in parts of a batch.

    Raises:
        UsageError: pixels that are not finite.
        MethodError: relevance that is not finite.
    """
    method = request.method
    values = torch.cat([part.values for part in parts]).float().to(pixels.device)
    if not bool(values.isfinite().all()):
        if bad := [n for n, image in enumerate(pixels) if not bool(image.isfinite().all())]:
            raise UsageError(
                msg("engine.pixels-not-finite", "image {number} of the batch holds NaN or infinity", number=bad[0])
            )
        raise MethodError(
            msg("engine.not-finite", "the map of '{method}' holds NaN or infinity", method=method.name),
            msg(
                "engine.map-not-finite.hint", "a wider dtype may help: float32, or float64 where it is float32 already"
            ),
        )
    words = [one for part in parts for one in part.target or ()]
    return Attribution(
        maps=layout.patches(values),
        prefix=values[:, : len(layout.prefix)],
        method=method.name,
        layout=layout,
        target=words if "target" in method.requires else None,
        score=torch.cat([part.score for part in parts]).float().to(pixels.device) if words else None,
        notes=notes,
        caveat=method.caveat,
    )
