"""One model as the engine runs it: images made ready, forwards with and without attention, targets settled."""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitscope._cached import cached_property
from vitscope._messages import msg
from vitscope.attention import AttentionStore
from vitscope.attention.capture import capture
from vitscope.attention.changes import restoring
from vitscope.attention.gradient_rules import GradientRule
from vitscope.attention.model_lock import exclusive
from vitscope.attention.model_modes import eval_mode, frozen_parameters, own_state
from vitscope.attention.transformer_blocks import HiddenStates, TransformerBlocks, find_blocks
from vitscope.engine.finite import require_finite_answer, require_finite_attention
from vitscope.engine.prepared import Prepared
from vitscope.engine.ranges import check_size, rounded_size
from vitscope.errors import LayoutError, Support, UnsupportedError, UsageError
from vitscope.explanation import Activation
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.images import ImageLike, Picture
from vitscope.methods.class_names import class_name
from vitscope.methods.places import QueryTarget, RegionTarget, placed
from vitscope.methods.targets import Scorer, SimilarTo, Target, Text, feature_of, scorer_of, scorer_of_each
from vitscope.metrics.target_score import activated
from vitscope.models.base import ModelAdapter
from vitscope.models.loading import pick_device
from vitscope.models.pixels.thin_images import bounded, check_made
from vitscope.tracing.block_io import BlockMap, StagedHiddenStates
from vitscope.tracing.placement import placement

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)
_TOP = 5
_TRIED = 8  # patches a side
ONE_AT_A_TIME = msg("engine.one-at-a-time", "the model joins the tokens of all images in one sequence")


@dataclass(frozen=True, eq=False)
class Forward:
    """What one forward of a batch leaves behind.

    Attributes:
        store: its attention.
        pixels: the batch `(B, C, Hi, Wi)`, on the model's device.
        answer: the model's answer, with its graph where gradients are wanted.
        states: the tokens between the blocks, where they were requested and are known.
    """

    store: AttentionStore
    pixels: Float[Tensor, "B C Hi Wi"]
    answer: Tensor
    states: HiddenStates | StagedHiddenStates | None

    def tokens(self) -> Float[Tensor, "B N D"]:
        """Return the tokens after the last block."""
        assert isinstance(self.states, HiddenStates)
        return self.states.at(len(self.states.tokens) - 1).detach()


def alone(function: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Run a function of what has a `model` while no other thread runs one on it, in a torch state of its own.

    Modes and hooks of the model are its own: those of two threads at work at once would mix, and so would their maps.
    """

    @wraps(function)
    @own_state
    def run(owner: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with exclusive(owner.model, pristine=True) as changes:
            runner: ModelRunner = getattr(owner, "engine", owner)
            if not getattr(runner.thread, "at_work", False):  # a model changes between calls, not during one
                runner.refresh()
                changes.set(runner.thread, "at_work", True)
            return function(owner, *args, **kwargs)

    return run


class ModelRunner:
    """A model with the stages that everything else is made of; each leaves the model as it was.

    Attributes:
        adapter: what vitscope knows of the model.
        device, dtype: of the model's parameters.
        thread: of the thread that asks: whether it is `at_work`, during which the model is taken to be as it was.
        on_forward: called before each run of the model; what it raises ends the call, so that hosts can cancel.
    """

    def __init__(self, adapter: ModelAdapter, device: torch.device, dtype: torch.dtype) -> None:
        self.adapter, self.device, self.dtype, self.thread = adapter, device, dtype, threading.local()
        self.on_forward: Callable[[], None] = lambda: None

    @property
    def model(self) -> nn.Module:
        """The model itself."""
        return self.adapter.model

    def refresh(self) -> bool:
        """Look at the model again; return whether what was known of it had to be found out anew."""
        renewed = self.adapter.refresh()
        if renewed:
            self.__dict__.pop("_blocks", None)
        self.device, self.dtype = device_and_dtype(self.model, self.device)
        return renewed

    @property
    @alone
    def layout(self) -> TokenLayout:
        """The token layout at the size that the model was made for."""
        return self.adapter.layout()

    @cached_property
    @alone
    def _blocks(self) -> TransformerBlocks | Support:
        if not self.adapter.supports_batches:
            return Support.no(ONE_AT_A_TIME)
        if not self.adapter.isotropic:
            return self.adapter.isotropic
        pixels = self.trial_pixels()
        names = [block.name for block in self.forward(pixels[:1]).store.blocks]
        layout = self.adapter.layout((pixels.shape[2], pixels.shape[3]))
        order, prefix = self.adapter.token_order(), len(layout.prefix)
        try:
            found = find_blocks(names, self.model, lambda: self.answer(pixels), layout.tokens, order, prefix)
        except UnsupportedError as error:
            log.debug("%s: no blocks: %s", self.adapter.reference, error.message)
            return Support.no(error.message)
        log.debug("%s: %d blocks, the first is %s", self.adapter.reference, len(names), names[0])
        return found

    @property
    def blocks(self) -> TransformerBlocks | None:
        """The blocks that tokens go through, found by two forwards on noise; None where they were not found."""
        return None if isinstance(self._blocks, Support) else self._blocks

    def require_blocks(self) -> TransformerBlocks:
        """Return the blocks that tokens go through.

        Raises:
            UnsupportedError: they were not found.
        """
        if isinstance(self._blocks, Support):
            raise UnsupportedError(self._blocks.reason)
        return self._blocks

    @alone
    def block_map(self, size: tuple[int, int] | None = None) -> BlockMap:
        """Return the blocks of a model whose layers do not all see the same tokens, for an input of `(Hi, Wi)` pixels.

        Raises:
            UnsupportedError, LayoutError: they were not found.
        """
        if not self.adapter.supports_batches:
            raise UnsupportedError(ONE_AT_A_TIME)
        return self.adapter.block_map(size)

    def trial_pixels(self) -> Float[Tensor, "2 C Hi Wi"]:
        """Return two images of noise to try the model on; of few patches where it takes any number of them."""
        height, width = getattr(self.adapter, "input_size", None) or (224, 224)
        if getattr(self.adapter, "size", None):
            rows, columns = self.layout.grid
            height, width = height // rows * min(rows, _TRIED), width // columns * min(columns, _TRIED)
        shape = (2, self.adapter.channels, height, width)
        made = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu")
        return made.to(self.device, self.dtype)

    def prepare(self, image: ImageLike | Prepared, *, size: int | None = None) -> Prepared:
        """Read an image and make its pixels ready, in any thread; one made ready already is returned as it is.

        Raises:
            UsageError: it was made ready at another size.
        """
        if isinstance(image, Prepared):
            if image.size == size:
                return image
            raise UsageError.coded(
                "engine.prepared-size",
                "an image prepared at size {prepared} cannot be explained at size {size}",
                prepared=image.size,
                size=size,
            )
        check_size(size)
        picture = self.adapter.load(image)
        pixels, region = self.prepare_pixels(picture, size)
        if size is not None and picture.medium == "image":
            note = rounded_size(size, region, self.layout_at(region.input).grid)
            picture = replace(picture, notes=tuple(dict.fromkeys((*picture.notes, note)))) if note else picture
        return Prepared(picture, pixels, region, size)

    def prepare_pixels(self, picture: Picture, size: int | None = None) -> tuple[Tensor, ImageRegion]:
        """Return the pixels `(C, Hi, Wi)` that the model gets of an image, and their region of it.

        Raises:
            ImageError: a thin image, of which far more pixels would be made than it has.
            UsageError: a size that the model does not take.
        """
        with bounded(picture):
            pixels, region = self.adapter.prepare(picture, size)
        check_made(picture, pixels)
        if size is not None:
            self.layout_at(region.input)
        return pixels, region

    @alone
    def layout_at(self, size: tuple[int, int]) -> TokenLayout:
        """Return the token layout at an input of `(Hi, Wi)` pixels."""
        return self.adapter.layout(size)

    @restoring
    def run(self, pixels: Float[Tensor, "B C Hi Wi"]) -> Tensor:
        """Run the model in evaluation mode, in the caller's gradient mode."""
        self.on_forward()
        with eval_mode(self.model):
            given = pixels.to(self.device, self.dtype)
            answer = self.adapter.answer(given)
            require_finite_answer(self.model, answer, given, lambda: self.adapter.answer(given))
        return answer

    @restoring
    def answer(self, pixels: Float[Tensor, "B C Hi Wi"]) -> Tensor:
        """Return the model's answer without a graph and without its attention."""
        with torch.no_grad():
            return self.run(pixels)

    @alone
    def forward(
        self,
        pixels: Float[Tensor, "B C Hi Wi"],
        *,
        gradients: bool = False,
        rule: GradientRule | None = None,
        tokens: bool = False,
        values: bool = False,
    ) -> Forward:
        """Run the model once and capture its attention.

        Args:
            pixels: the batch, on any device.
            gradients: keep the graph.
            rule: how gradients go back through that graph.
            tokens: also keep the tokens between the blocks, where they are known.
            values: also keep the values that attention weighs.

        Raises:
            UnsupportedError: several images for a model that takes one at a time.
            CaptureError: attention that was not captured.
        """
        if len(pixels) > 1 and not self.adapter.supports_batches:
            raise UnsupportedError(ONE_AT_A_TIME, msg("engine.one-at-a-time.hint", "explain one image at a time"))
        pixels = pixels.clone() if pixels.is_inference() and gradients else pixels  # a graph cannot start at such
        pixels = pixels.to(self.device, self.dtype).detach().requires_grad_(gradients)
        size, states = (pixels.shape[2], pixels.shape[3]), None
        with ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(gradients))
            if gradients:
                stack.enter_context(frozen_parameters(self.model))
            if tokens:
                states = self._watch_tokens(stack, size)
            recorder = stack.enter_context(capture(self.model, gradients=gradients, gradient_rule=rule, values=values))
            answer = self.run(pixels)
        store = self.adapter.attention(recorder, size, answer)
        require_finite_attention(self.model, store)
        return Forward(store, pixels, answer, states)

    def _watch_tokens(self, stack: ExitStack, size: tuple[int, int]) -> HiddenStates | StagedHiddenStates | None:
        """Keep the tokens of the next forward on images of that size, where they are known."""
        if self.blocks is not None:
            return stack.enter_context(self.blocks.record_states())
        try:
            found = self.block_map(size)
        except (UnsupportedError, LayoutError):
            return None
        return stack.enter_context(found.watched(self.model))

    @alone
    def scorer(
        self, target: "Target | list[Target]", answer: Tensor, regions: Sequence[ImageRegion] | None = None
    ) -> Scorer:
        """Settle a target for the batch that gave this answer; of a list each image gets its own.

        Args:
            target: as for `Scope.explain`.
            answer: the model's answer.
            regions: what part of its photo each image shows, for targets that name a part and were not `placed`.

        Raises:
            UsageError: a target that does not fit the model.
        """
        if regions is not None:
            target = self.placed(target, regions)
        if isinstance(target, list):
            distinct = list(dict.fromkeys(target))
            return scorer_of_each([self.scorer(one, answer) for one in distinct], [distinct.index(t) for t in target])
        if isinstance(target, SimilarTo) and target.features is None:
            pixels, _ = self.prepare_pixels(self.adapter.load(target.image))
            target = target.with_features(feature_of(self.answer(pixels[None])))
        elif isinstance(target, Text) and target.features is None:
            target = target.with_features(self.adapter.text_features(target.words))
        dense = self.adapter.dense
        return scorer_of(target, answer, self.adapter.labels, self.adapter.classifies(answer), dense)

    def placed(self, target: "Target | list[Target]", regions: Sequence[ImageRegion]) -> "Target | list[Target]":
        """Return a target that knows which part of its photo each image of a batch shows."""
        named = target if isinstance(target, list) else [target]
        if not any(isinstance(one, RegionTarget) for one in named):
            return target
        found: Target | list[Target] = placed(target, regions, self.adapter.layout(regions[0].input).grid)
        return found

    def read_from(self, store: AttentionStore, target: "Target | list[Target]", forward: Forward) -> AttentionStore:
        """Return attention read from the query that a target names; any other target leaves it as it is.

        Raises:
            UsageError: no such query, or several of them in one batch.
            UnsupportedError: which token a query is is not known.
        """
        named = target if isinstance(target, list) else [target]
        indices = {one.index if isinstance(one, QueryTarget) else None for one in named}
        if indices == {None}:
            return store
        if len(indices) > 1:
            raise UsageError(
                msg("engine.several-queries", "the images of one batch are read from one query"),
                msg("engine.several-queries.hint", "{@batch_size=1} explains each from its own"),
            )
        for one in named:
            assert isinstance(one, QueryTarget)
            one.read(forward.answer)
        (index,) = indices
        return self.adapter.read_query(store, (forward.pixels.shape[2], forward.pixels.shape[3]), index or 0)

    def activation(self, answer: Tensor) -> Activation | None:
        """Return how an answer becomes predictions; None where it is no class scores."""
        return self.adapter.activation(answer.shape[-1]) if self.adapter.classifies(answer) else None

    def predictions(self, answer: Tensor, row: int = 0) -> list[tuple[str, float]]:
        """Return the most probable classes of one image of a batch, five at most; none for a feature model.

        A regression has values instead, in the order of its outputs.
        """
        return [(class_name(number, self.adapter.labels), share) for number, share in self.top_classes(answer, row)]

    def top_classes(self, answer: Tensor, row: int = 0) -> list[tuple[int, float]]:
        """Return the numbers of the classes that `predictions` names."""
        activation = self.activation(answer)
        if activation is None:
            return []
        numbers = activated(answer[row].detach().double(), activation)
        if activation == "value":
            return list(enumerate(numbers[:_TOP].tolist()))
        shares, classes = numbers.topk(min(_TOP, len(numbers)))
        return list(zip(classes.tolist(), shares.tolist(), strict=True))


def device_and_dtype(model: nn.Module, device: str | torch.device = "auto") -> tuple[torch.device, torch.dtype]:
    """Return those of a model's input; of a model without parameters the given device, and float32."""
    return placement(model) or (pick_device(device), torch.float32)
