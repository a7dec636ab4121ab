"""Where the stages meet: picture -> pixels -> attention -> method -> explanation, as users call it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack, overload

import numpy as np
import torch
from torch import Tensor, nn

from vitscope.attention import AttentionStore
from vitscope.engine import inspection
from vitscope.engine.attribution import Attribution
from vitscope.engine.auto import MethodChoice
from vitscope.engine.engine import Engine
from vitscope.engine.options import ExplainOptions, Failure, Progress, Targets, options_of
from vitscope.engine.request import Request
from vitscope.engine.runner import Prepared
from vitscope.errors import Support
from vitscope.evaluation.evaluate import measure
from vitscope.evaluation.masked import MaskedPrediction, masking
from vitscope.explanation import Explanation
from vitscope.geometry import TokenLayout
from vitscope.images import ImageLike
from vitscope.methods.targets import Target
from vitscope.metrics.attention_statistics import Statistics
from vitscope.metrics.measurement import Measurement
from vitscope.models.base import ModelAdapter
from vitscope.models.bundled.catalogue import DEFAULT_MODEL
from vitscope.models.loading import open_model, pick_device
from vitscope.viewer.view import View, view

__all__ = ["Scope", "attribute", "load"]


class Scope:
    """A model, ready to be looked into. Made by `vitscope.load`; the model is left as it was found after each call.

    Attributes:
        engine: does the work, for code that needs single stages of it.
    """

    def __init__(self, adapter: ModelAdapter, device: torch.device, dtype: torch.dtype) -> None:
        self.engine = Engine(adapter, device, dtype)

    def __repr__(self) -> str:
        return f"<Scope of {self.adapter.reference}: {self.layout}>"

    @property
    def adapter(self) -> ModelAdapter:
        """What vitscope knows of the model: labels, preprocessing, layouts."""
        return self.engine.adapter

    @property
    def model(self) -> nn.Module:
        """The model itself."""
        return self.engine.model

    @property
    def layout(self) -> TokenLayout:
        """The token layout at the size that the model was made for."""
        return self.engine.layout

    @property
    def device(self) -> torch.device:
        """The device of the model's parameters."""
        return self.engine.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model's parameters."""
        return self.engine.dtype

    def supports(self, name: str) -> Support:
        """Answer whether this model supports a method or a capability, and why not.

        Args:
            name: a method's name, or `batches` (several images in one forward), `hidden-states` (tokens between the
                blocks), `token-grids` (patch tokens of single layers), `order-free` (tokens can be left out or moved),
                `patch-dropping` (all patch tokens can be left out), `values` (the values that attention weighs).

        Raises:
            UnknownNameError: neither a method nor a capability.

        Cost: a few forwards on noise, once for each capability.
        """
        return self.engine.supports(name)

    def methods(self) -> list[Support]:
        """Return every method by name: whether it applies to this model, and why not."""
        return self.engine.methods()

    def recommend(self, *, targets: "Targets | None" = None, **options: Unpack[ExplainOptions]) -> MethodChoice:
        """Choose the method that `method="auto"` stands for, given this model and these options of `explain`."""
        return self.engine.recommend(options_of({"targets": targets, **options}))

    def validate(self, *, targets: "Targets | None" = None, **options: Unpack[ExplainOptions]) -> Request:
        """Settle the method and all its options as `explain` would, and every target on a grey image.

        Raises:
            UsageError: a method, option or target that does not exist or does not fit.
            UnsupportedError: a method that does not apply to this model.

        Cost: one forward where there is a target.
        """
        return self.engine.validate(options_of({"targets": targets, **options}))

    @overload  # a str is one image, though it is a sequence of str
    def explain(  # type: ignore[overload-overlap]
        self,
        image: ImageLike,
        *,
        targets: None = ...,
        progress: Progress | None = ...,
        **options: Unpack[ExplainOptions],
    ) -> Explanation: ...
    @overload
    def explain(  # type: ignore[overload-overlap]
        self, image: ImageLike, *, targets: Targets, progress: Progress | None = ..., **options: Unpack[ExplainOptions]
    ) -> list[Explanation]: ...
    @overload
    def explain(
        self,
        image: Sequence[ImageLike],
        *,
        targets: None = ...,
        progress: Progress | None = ...,
        **options: Unpack[ExplainOptions],
    ) -> list[Explanation]: ...
    @overload
    def explain(
        self,
        image: Sequence[ImageLike],
        *,
        targets: Targets,
        progress: Progress | None = ...,
        **options: Unpack[ExplainOptions],
    ) -> list[list[Explanation]]: ...

    def explain(
        self, image: Any, *, targets: Any = None, progress: Progress | None = None, **options: Unpack[ExplainOptions]
    ) -> Any:
        """Explain one image, or several as a batch.

        Args:
            image: a path, a Pillow image or an `(H, W, 3)` uint8 array; a list of them gives a list.
            targets: several targets, each explained for every image, from one forward: a list for each image.
            progress: called with (method, done, total) while a method runs many forwards, once for each batch of them.
            options: the fields of `Options` and the method's own options (`layers=`, `residual_weight=`, ...); `target`
                is one target, or a list with one for each image.

        Raises:
            ImageError: an image that cannot be used; of several, the first such stops the call (see `explain_many`).
            UsageError: a method or option that does not exist or does not fit.
            UnsupportedError: a method that does not apply to this model.
        """
        several = isinstance(image, Sequence) and not isinstance(image, (str, bytes, bytearray))
        images = image if several else [image]
        results = []
        for outcome in self.explain_many(images, targets=targets, progress=progress, **options):
            if isinstance(outcome, Failure):
                raise outcome.error
            results.append(outcome)
        return results if several else results[0]

    @overload
    def explain_many(
        self,
        images: Iterable[ImageLike | Prepared],
        *,
        targets: None = ...,
        progress: Progress | None = ...,
        **options: Unpack[ExplainOptions],
    ) -> Iterator[Explanation | Failure]: ...
    @overload
    def explain_many(
        self,
        images: Iterable[ImageLike | Prepared],
        *,
        targets: Targets,
        progress: Progress | None = ...,
        **options: Unpack[ExplainOptions],
    ) -> Iterator[list[Explanation] | Failure]: ...

    def explain_many(
        self,
        images: Iterable[ImageLike | Prepared],
        *,
        targets: Any = None,
        progress: Progress | None = None,
        **options: Unpack[ExplainOptions],
    ) -> Iterator[Any]:
        """Explain images as they come, in their order; a bad one becomes a Failure and the others go on.

        The arguments are those of `explain`.

        Yields:
            An Explanation, or with `targets` a list of them, or a Failure.
        """
        chosen = options_of({"targets": targets, **options})
        for outcome in self.engine.explain_many(images, chosen, progress):
            yield outcome if isinstance(outcome, Failure) or chosen.several else outcome[0]

    @overload
    def attribute(
        self, pixels: Tensor, *, targets: None = ..., progress: Progress | None = ..., **options: Unpack[ExplainOptions]
    ) -> Attribution: ...
    @overload
    def attribute(
        self, pixels: Tensor, *, targets: Targets, progress: Progress | None = ..., **options: Unpack[ExplainOptions]
    ) -> list[Attribution]: ...

    def attribute(
        self,
        pixels: Tensor,
        *,
        targets: Any = None,
        progress: Progress | None = None,
        **options: Unpack[ExplainOptions],
    ) -> Any:
        """Make maps of pixels that are ready for the model, for loops of your own.

        Args:
            pixels: `(B, 3, H, W)` of any float type on any device, normalised as the model wants them; nothing is
                resized, cropped or normalised. All of them go through the model in one forward.
            targets: several targets, each explained for every image, from one forward.
            progress: called with (method, done, total) while a method runs many forwards.
            options: as for `explain`; `size` does not apply.

        Returns:
            Maps as tensors on the device of the pixels; with `targets` a list, one for each target.

        Raises:
            UsageError: no such pixels, or a method, option or target that does not exist or does not fit.
            UnsupportedError: a method that does not apply to this model.
            MethodError: a map that is not finite.
        """
        found = self.engine.attribute(pixels, options_of({"targets": targets, **options}), progress)
        return found[0] if targets is None else found

    def prepare(self, image: ImageLike, *, size: int | None = None) -> Prepared:
        """Read an image and make its pixels ready, which may be done ahead of the model and in other threads.

        Raises:
            ImageError: an image that cannot be used.
            UsageError: a size that the model does not take.
        """
        return self.engine.prepare(image, size=size)

    def attention(self, image: ImageLike | Sequence[ImageLike], *, size: int | None = None) -> AttentionStore:
        """All attention of one forward: `store[layer].rows(...)`, for one picture or several of one input size."""
        images: Any = image if isinstance(image, Sequence) and not isinstance(image, str) else [image]
        return inspection.attention_store(self.engine, images, size)

    def attention_heads(self, image: ImageLike, layer: int = -1, *, size: int | None = None) -> list[Explanation]:
        """One explanation for each head of a layer: its own attention from the readout row, from a single forward."""
        return inspection.attention_heads(self.engine, image, layer, size)

    def queries(
        self, image: ImageLike, *, method: str = "attention", size: int | None = None, chunk: int = 4096, **params: Any
    ) -> np.ndarray:
        """What every token attends to: one row for each, raw or rolled out; the columns say who attends to a token.

        Args:
            image: one picture.
            method: a method with the option `query`, such as `attention` or `rollout`.
            size: input size, as in `Options`.
            chunk: tokens asked at a time.
            params: the method's own options (`layer=`, `head=`, `layers=`, `residual_weight=`, ...).

        Returns:
            `(N, N)`, prefix tokens first in rows and columns; each row as `explain(..., query=...)` has it.

        Raises:
            UsageError: a method without queries, or a model whose layers do not all see the same tokens.

        Cost: one forward, and all rows of each layer once for every `chunk` tokens; N x N numbers, asked for by name.
        """
        return inspection.queries(self.engine, image, method, size, chunk, params)

    def logit_lens(
        self, image: ImageLike, *, target: Target = None, size: int | None = None, progress: Progress | None = None
    ) -> list[Explanation]:
        """The logit lens at every layer: one explanation each, first block first.

        Its map is that of the method `logit-lens`, its `predictions` and `score` are what the model's own norm and head
        say when they read the tokens after that block.

        Args:
            image: one picture.
            target: whose score is followed; None is what the whole model predicts.
            size: input size, as in `Options`.
            progress: called with (method, done, total) within each layer.

        Raises:
            MethodError: blocks that cannot be told, or layers that do not all see the same tokens.

        Cost: L + 1 forwards and L (N + L + 1) that skip the blocks.
        """
        return inspection.logit_lens(self.engine, image, target, size, progress)

    def compare(
        self, one: ImageLike, other: ImageLike, *, progress: Progress | None = None, **options: Unpack[ExplainOptions]
    ) -> tuple[Explanation, Explanation]:
        """Which regions make two pictures alike: a map on each, whose target is the other's feature.

        Args:
            one: a picture.
            other: another picture.
            progress: as for `explain`.
            options: as for `explain`; the method is `relevance` where none is given.

        Raises:
            UsageError: a method without a target, or a target of one's own.
        """
        return inspection.compare(self.engine, one, other, dict(options), progress)

    def statistics(
        self,
        image: ImageLike,
        *,
        size: int | None = None,
        target: Target = None,
        importance: bool = False,
        seed: int = 0,
        batch_size: int = 8,
        progress: Progress | None = None,
    ) -> Statistics:
        """Attention in numbers, for each layer and head: entropy, distance, shares, sinks, agreement, rank, importance.

        Args:
            image: a path, a Pillow image or an `(H, W, 3)` uint8 array.
            size: input size, as for `explain`.
            target: whose score `importance` follows: None is the predicted class, and for a feature model the cosine
                to the feature of the whole model.
            importance: also silence each head in turn: one forward a head.
            seed: kept in the provenance, as everywhere; none of these numbers is drawn at random.
            batch_size: heads silenced together, one in each row of a batch.
            progress: called with ("importance", done, total) heads.

        Raises:
            ImageError: a picture that cannot be used.
            UsageError: a target without `importance`, or one that does not fit.
            MethodError: attention that is not finite, or heads that cannot be silenced.

        Cost: one forward, and all rows of attention twice, chunk by chunk; memory linear in tokens. The effective rank,
            which needs whole matrices, is given up to 640 tokens.
        """
        return inspection.statistics(
            self.engine,
            image,
            size=size,
            target=target,
            importance=importance,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )

    def measure(self, explanation: Explanation, **options: Any) -> Measurement:
        """How far a map of this model can be believed, in numbers beside those of random maps.

        Args:
            explanation: made by this model.
            options: `metrics` ("default", "all", a name or several), `baseline`, `score`, `steps`, `random`, `seed`,
                `batch_size`, `image`, `target`, `progress` and others: those of `vitscope.evaluation.evaluate.measure`.

        Raises:
            UsageError: made by another model or at another size, without its photo, or an option that does not exist.
            MethodError: a baseline that does not fit the model, or a score that is not finite.
        """
        return measure(self.engine, explanation, **options)

    def predict_without(
        self,
        image: ImageLike,
        patches: Iterable[int],
        mode: str = "fill",
        *,
        size: int | None = None,
        target: Any = None,
    ) -> MaskedPrediction:
        """What the model says when some patches are painted over, or are not there at all.

        Args:
            image: a path, a Pillow image or an `(H, W, 3)` uint8 array.
            patches: the patches, row by row from 0; none asks of the whole picture.
            mode: `fill`: the picture's own mean colour stands there; `drop`: their tokens are left out.
            size: input size, as in `Options`.
            target: whose score is followed; None is the predicted class, and for a model without classes the cosine to
                the whole picture's feature.

        Raises:
            UsageError: a patch that is not there, or several targets.
            MethodError: `drop` where tokens cannot be left out.

        Cost: two forwards; `vitscope.evaluation.masked.masking` prepares a picture once, then each question takes one.
        """
        return masking(self.engine, image, size=size, target=target).without(patches, mode)

    def view(self, image: ImageLike, **options: Any) -> View:
        """Everything that the interactive viewer shows of one photo: `vitscope.viewer.page.page(view.document())`.

        Args:
            image: a path, a Pillow image or an `(H, W, 3)` uint8 array.
            options: `other` (a second photo, to compare), `methods` (names), `target`, `top` (classes with a map of
                their own), `size`, `measure` (deletion and insertion of each map), `max_mb` (of the page), `seed`,
                `seconds` (for measuring: maps that are left after so long stay unmeasured), `progress`.

        Raises:
            ImageError: a picture that cannot be used.
            UsageError: a method, option or target that does not exist or does not fit.
            MethodError: a method asked for by name that does not apply to this model.

        Cost: a few forwards for each map; measuring is up to 40 for a map and 60 for all random maps.
        """
        return view(self.engine, image, **options)


def load(
    model: str | Path | nn.Module = DEFAULT_MODEL,
    *,
    processor: Any = None,
    device: str = "auto",
    dtype: str = "float32",
    revision: str | None = None,
    layout: TokenLayout | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Scope:
    """Load a model to look into.

    Args:
        model: `embedded:dinov2-small` (the default), a Hub id, a local folder of transformers, `timm:NAME`,
            `torchvision:NAME`, `open_clip:ARCH/PRETRAINED`, or any module.
        processor: the image processor, where the model does not bring its own: for modules outside transformers a
            function from a Pillow image to a `(3, height, width)` tensor.
        device: `auto` takes CUDA, then MPS, then the CPU. A module stays where it is.
        dtype: `float32`, `float64`, `bfloat16`, `float16`. A module keeps its own.
        revision: branch, tag or commit on the Hub.
        layout: which token is which, for a module whose tokens cannot be followed.
        progress: called with (stage, done, total) while weights are fetched.

    Raises:
        ModelError: not found, out of reach or broken.
        LayoutError: a model whose tokens are not understood.
    """
    adapter = open_model(
        model, processor=processor, device=device, dtype=dtype, revision=revision, layout=layout, progress=progress
    )
    first = next(adapter.model.parameters(), None)
    if first is None:
        return Scope(adapter, pick_device(device), torch.float32)
    return Scope(adapter, first.device, first.dtype)


@overload
def attribute(
    model: str | Path | nn.Module,
    pixels: Tensor,
    *,
    layout: TokenLayout | None = ...,
    targets: None = ...,
    progress: Progress | None = ...,
    **options: Unpack[ExplainOptions],
) -> Attribution: ...
@overload
def attribute(
    model: str | Path | nn.Module,
    pixels: Tensor,
    *,
    layout: TokenLayout | None = ...,
    targets: Targets,
    progress: Progress | None = ...,
    **options: Unpack[ExplainOptions],
) -> list[Attribution]: ...


def attribute(
    model: str | Path | nn.Module,
    pixels: Tensor,
    *,
    layout: TokenLayout | None = None,
    targets: Any = None,
    progress: Progress | None = None,
    **options: Unpack[ExplainOptions],
) -> Any:
    """Load a model and make maps of pixels that are ready for it, in one call.

    In a loop, call `load` once and `Scope.attribute` for each batch: loading may run the model to find its tokens.

    Args:
        model: as for `load`.
        pixels: as for `Scope.attribute`.
        layout: as for `load`.
        targets: as for `Scope.attribute`.
        progress: as for `Scope.attribute`.
        options: as for `Scope.attribute`.
    """
    scope = load(model, layout=layout)
    return scope.attribute(pixels, targets=targets, progress=progress, **options)
