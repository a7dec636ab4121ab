"""Maps of a batch of pixels as tensors, for loops of one's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack, overload

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope._messages import msg
from vitscope.engine.engine import Engine, Model
from vitscope.engine.options import ExplainOptions, Options, Progress, Targets, options_of, target_of
from vitscope.engine.pixel_range import range_notes
from vitscope.engine.provenance import notes_of
from vitscope.engine.request import Relevance, Request, relevances, ticks_of
from vitscope.engine.runner import alone, device_and_dtype
from vitscope.errors import LayoutError, MethodError, UsageError
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.methods.targets import Target
from vitscope.models.loading import open_model


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


@overload
def attribute(model: Model, pixels: Tensor, **options: Unpack[ExplainOptions]) -> Attribution: ...
@overload
def attribute(
    model: Model, pixels: Tensor, *, targets: Targets, **options: Unpack[ExplainOptions]
) -> list[Attribution]: ...


def attribute(model: Model, pixels: Tensor, *, targets: Any = None, **options: Unpack[ExplainOptions]) -> Any:
    """Load a model and make maps of pixels that are ready for it, in one call; see `load` and `Scope.attribute`.

    In a loop, call `load` once and `Scope.attribute` for each batch: loading may run the model to find its tokens.
    """
    adapter = open_model(model)
    engine = Engine(adapter, *device_and_dtype(adapter.model))
    found = attribute_pixels(engine, pixels, options_of(options, targets), options.get("progress"))
    return found[0] if targets is None else found


@alone
def attribute_pixels(
    engine: Engine, pixels: Float[Tensor, "B C Hi Wi"], options: Options, progress: Progress | None = None
) -> list[Attribution]:
    """Make maps of pixels that are ready for the model, once for each target; see `Scope.attribute`."""
    _check_pixels(pixels, options.size, engine.adapter.channels)
    layout = _layout_of(engine, pixels)
    options.check_count(len(pixels))
    request = engine.resolve(options)
    tick = ticks_of(request, progress)
    step = len(pixels) if engine.adapter.supports_batches else 1
    numbers = range(len(pixels))
    height, width = pixels.shape[2:]
    whole = [ImageRegion((width, height), (0, 0, width, height), (height, width))] * step

    def runs(part: slice) -> "list[Target | list[Target]]":
        return [engine.placed(target, whole) for target in options.runs(numbers[part])]

    batches = [
        relevances(engine, request, request.forward(engine, pixels[part]), runs(part), tick)
        for part in (slice(start, start + step) for start in numbers[::step])
    ]
    results = []
    for target, parts in zip(options.runs(numbers), zip(*batches, strict=True), strict=True):
        own = [found for part in parts for found in part.notes]
        told = [notes_of(engine.adapter, request, target_of(target, n), (height, width)) for n in numbers]
        notes = [[*told[n], *range_notes(engine.adapter, pixels[n]), *own[n]] for n in numbers]
        results.append(_attribution_of(request, layout, parts, notes, pixels))
    return results


def _layout_of(engine: Engine, pixels: Float[Tensor, "B C Hi Wi"]) -> TokenLayout:
    """Return the layout at the size of these pixels; raise a UsageError where the model does not take it."""
    try:
        return engine.layout_at((pixels.shape[2], pixels.shape[3]))
    except (UsageError, LayoutError) as error:
        raise UsageError(
            error.message, msg("engine.pixels-size.hint", "resize the pixels to a size that the model takes")
        ) from None


def _check_pixels(pixels: object, size: int | None, channels: int) -> None:
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


def _attribution_of(
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
