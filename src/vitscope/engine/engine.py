"""One model at work: options settled, images explained in batches, one result for each image and target."""

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitscope._messages import msg
from vitscope.attention import AttentionStore
from vitscope.attention.changes import Changes
from vitscope.engine.auto import MethodChoice, choose_method
from vitscope.engine.calibrated import CalibrationOfModel
from vitscope.engine.capabilities import Capabilities
from vitscope.engine.finite import NOT_FINITE
from vitscope.engine.options import OPTION_NAMES, Failure, Options, Progress, explained, target_of
from vitscope.engine.prepared import Prepared
from vitscope.engine.provenance import provenance
from vitscope.engine.request import Request, Tick, relevances, ticks_of
from vitscope.engine.runner import Forward, ModelRunner, alone
from vitscope.engine.vanishing import VANISHING
from vitscope.errors import MethodError, Support, UnsupportedError, UsageError, VitscopeError
from vitscope.explanation import Explanation
from vitscope.images import ImageLike, Picture
from vitscope.methods.base import METHODS
from vitscope.methods.places import RegionTarget
from vitscope.methods.targets import Target
from vitscope.models.base import ModelAdapter
from vitscope.models.options import refuse_load_options
from vitscope.models.weights.fingerprint import Fingerprint, fingerprint

Model: TypeAlias = str | Path | nn.Module

log = logging.getLogger(__name__)


class _Sharing(threading.local):
    """Whether a thread shares forwards, and the last one with what the model was then."""

    on = False
    kept: tuple[Fingerprint, Forward] | None = None


class Engine(ModelRunner):
    """A model with everything that explains its images.

    Attributes:
        capabilities: what it supports.
        calibration: what was measured of it, which `auto` follows.
    """

    def __init__(self, adapter: ModelAdapter, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(adapter, device, dtype)
        self.capabilities = Capabilities(self)
        self.calibration = CalibrationOfModel(adapter)
        self._sharing = _Sharing()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle adapter and calibration; all else is found out again where it is unpickled."""
        return type(self), (self.adapter, self.device, self.dtype), {"calibration": self.calibration}

    def refresh(self) -> bool:
        """Look at the model again; return whether what was known of it had to be found out anew."""
        if renewed := super().refresh():
            self.capabilities = Capabilities(self)
        return renewed

    @contextmanager
    def shared_forwards(self) -> Iterator[None]:
        """Run the model once within the `with` for all that needs no gradient of the same pixels, on this thread.

        What runs while weights or hooks are others (callbacks may measure, the sanity check replaces weights) has
        forwards of its own.
        """
        with Changes() as changes:
            changes.set(self._sharing, "on", True)
            changes.set(self._sharing, "kept", None)
            yield

    def forward(self, pixels: Float[Tensor, "B C Hi Wi"], **kept: Any) -> Forward:
        """Run the model once and capture its attention, or give what `shared_forwards` keeps; see `ModelRunner`."""
        if not self._sharing.on or kept.get("gradients") or kept.get("values"):
            return super().forward(pixels, **kept)
        model, given = fingerprint(self.model), pixels.to(self.device, self.dtype)
        made_of, shared = self._sharing.kept or (None, None)
        if (
            shared is None
            or made_of != model
            or (kept.get("tokens") and shared.states is None)
            or shared.pixels.shape != given.shape
            or not torch.equal(shared.pixels, given)
        ):
            shared = super().forward(pixels, **kept)
            self._sharing.kept = model, shared
        return shared

    @alone
    def supports(self, name: str) -> Support:
        """Answer whether the model supports a method or capability; see `Scope.supports`."""
        return self.capabilities.supports(name)

    @alone
    def methods(self) -> list[Support]:
        """Return every method by name, with the reason where it does not apply, or not at the model's own size."""
        return [self.capabilities.at_own_size(method) for _, method in METHODS]

    @alone
    def recommend(self, options: Options) -> MethodChoice:
        """Choose the method that `auto` stands for, with the reason."""
        supports = self.capabilities.method
        choice = choose_method(self.adapter, options, supports)
        choice = self.calibration.settle(self.adapter, options, supports, choice)
        log.debug("method for %s: %s (%s)", self.adapter.reference, choice, choice.reason)
        return choice

    @alone
    def resolve(self, options: Options) -> Request:
        """Settle the method and its own options; what `auto` chooses, given options override.

        Raises:
            UsageError: a method or option that does not exist or does not fit.
            UnsupportedError: a method that does not apply to this model.
        """
        choice = self.recommend(options) if options.method == "auto" else None
        method = METHODS.get(choice.method if choice else options.method)
        if not (support := self.capabilities.method(method)):
            raise UnsupportedError.coded(
                "engine.method",
                "the method '{method}' does not apply: {reason}",
                "these do: {methods}",
                method=method.name,
                reason=support.reason,
                methods=", ".join(s.name for s in self.methods() if s),
            )
        if options.refine != "none" and not (support := self.capabilities.hidden_states):
            raise UnsupportedError(msg("engine.refine", "refine does not apply: {reason}", reason=support.reason))
        chosen = dict(choice.method_options) if choice else {}
        if "start_layer" in options.method_options:
            chosen.pop("layers", None)
        if choice and options.gradient_rule == "plain":
            options = replace(options, gradient_rule=choice.gradient_rule)
        if choice and options.refine == "none":
            options = replace(options, refine=choice.refine)
        refuse_load_options(options.method_options.keys() - method.options.keys())
        return Request(options, method, method.check(chosen | dict(options.method_options), OPTION_NAMES), choice)

    @alone
    def validate(self, options: Options) -> Request:
        """Settle the options, and every target on a grey image; see `Scope.validate`."""
        request = self.resolve(options)
        if request.follows_target:
            pixels, region = self.prepare_pixels(self.adapter.blank(), options.size)
            answer, grid = self.answer(pixels[None]), self.adapter.layout(region.input).grid
            for target in options.all_targets:
                self.scorer(target.anywhere(grid) if isinstance(target, RegionTarget) else target, answer)
        return request

    def explain(
        self, image: ImageLike | Prepared, options: Options, progress: Progress | None = None
    ) -> list[Explanation]:
        """Explain one image, once for each target.

        Raises:
            VitscopeError: what would be a Failure among several images.
        """
        (found,) = self.explain_many([image], options, progress)
        return explained(found)

    def explain_many(
        self, images: Iterable[ImageLike | Prepared], options: Options, progress: Progress | None = None
    ) -> Iterator[list[Explanation] | Failure]:
        """Explain images as they come, in their order; see `Scope.explain_many`.

        Yields:
            One explanation for each target, or what went wrong with the image.
        """
        if isinstance(images, (str, bytes)):  # its characters are no images
            problem = msg(
                "engine.one-image", "explain_many takes several images, not one {type}", type=type(images).__name__
            )
            raise UsageError(problem, msg("engine.one-image.hint", "pass a list, or one image to explain"))
        request, count = self.resolve(options), 0
        tick = ticks_of(request, progress)
        if isinstance(images, Sized):
            options.check_count(len(images))
        waiting = iter(images)
        while window := list(islice(waiting, 2 * options.batch_size)):
            first, count = count, count + len(window)
            options.check_count(count, all_of_them=False)
            outcomes: dict[int, list[Explanation] | Failure] = {}
            groups: dict[tuple[int, int], dict[int, Prepared]] = {}
            for position, image in enumerate(window, first):
                try:
                    ready = self.prepare(image, size=options.size)
                except VitscopeError as error:
                    outcomes[position] = Failure(_name(image), error)
                else:
                    groups.setdefault(ready.region.input, {})[position] = ready
            for group in groups.values():
                waiting_in_group = iter(group.items())
                most = options.batch_size if self.adapter.supports_batches else 1
                while part := dict(islice(waiting_in_group, most)):
                    found = self.explain_batch(list(part.values()), request, options.runs(list(part)), tick)
                    outcomes |= zip(part, found, strict=True)
            yield from (outcomes[position] for position in range(first, count))
        options.check_count(count)

    @alone
    def explain_batch(
        self,
        batch: Sequence[Prepared],
        request: Request,
        targets: "Sequence[Target | list[Target]]",
        tick: Tick = lambda done, total: None,
    ) -> list[list[Explanation] | Failure]:
        """Explain images of one input size in one forward; each by itself where one has no number or no gradient.

        Args:
            batch: the images.
            request: what to compute.
            targets: each for all images, or a list with one for each.
            tick: called with (done, total) while the method runs many forwards.

        Returns:
            One outcome for each image: an explanation for each of `targets`, or what went wrong.
        """
        try:
            return self._explain_together(batch, request, targets, tick)
        except MethodError as error:
            if error.code not in (*NOT_FINITE, *VANISHING):
                raise
            if len(batch) == 1:
                return [Failure(batch[0].picture.source, error)]
        return [
            outcome
            for row, image in enumerate(batch)
            for outcome in self.explain_batch([image], request, [target_of(target, row) for target in targets], tick)
        ]

    def _explain_together(
        self,
        batch: Sequence[Prepared],
        request: Request,
        targets: "Sequence[Target | list[Target]]",
        tick: Tick,
    ) -> list[list[Explanation] | Failure]:
        """Explain a batch in one forward; a number that is none stops all of it."""
        targets = [self.placed(target, [image.region for image in batch]) for target in targets]
        forward = request.forward(self, torch.stack([image.pixels for image in batch]))
        explained: list[list[Explanation]] = [[] for _ in batch]
        failed: dict[int, Failure] = {}
        for target, found in zip(targets, relevances(self, request, forward, targets, tick), strict=True):
            values, scores = found.values.float().cpu().numpy(), found.score.float().tolist()
            for row, image in enumerate(batch):
                record = self.provenance(request, image.picture, target_of(target, row), image.region.input)
                if found.target is not None:
                    record["target"], record["score"] = found.target[row], scores[row]
                record["notes"] += found.notes[row]
                try:
                    explained[row].append(self.explanation(request, forward.store, values[row], row, image, record))
                except VitscopeError as error:  # a map that is not finite, say
                    failed.setdefault(row, Failure(image.picture.source, error))
        return [failed.get(row, made) for row, made in enumerate(explained)]

    def explanation(
        self,
        request: Request,
        store: AttentionStore,
        relevance: np.ndarray,
        row: int,
        image: Prepared,
        record: dict[str, Any],
    ) -> Explanation:
        """Make the result of one image of a batch from the relevance `(N,)` of its tokens.

        Raises:
            MethodError: relevance that is not finite.
        """
        assert store.layout is not None
        if store.answer is not None:
            record["activation"] = self.activation(store.answer)
        return self.adapter.result(
            map=np.ascontiguousarray(store.layout.patches(relevance), dtype=np.float32),
            prefix=np.array(relevance[: len(store.layout.prefix)], dtype=np.float32),
            method=request.method.name,
            layout=store.layout,
            region=image.region.covered(store.layout),
            predictions=[] if store.answer is None else self.predictions(store.answer, row),
            target=record.get("target") if "target" in request.method.requires else None,
            score=record.get("score"),
            provenance=record,
            picture=image.picture,
        )

    def provenance(
        self, request: Request, picture: Picture, target: Target = None, size: tuple[int, int] | None = None
    ) -> dict[str, Any]:
        """Return what made a map of an input of `(Hi, Wi)` pixels, in plain values."""
        return provenance(self.adapter, self.device, self.dtype, request, picture, target, size)


def _name(image: ImageLike | Prepared) -> str:
    """Return what an image is called in messages."""
    if isinstance(image, Prepared):
        return image.picture.source
    return str(image) if isinstance(image, (str, Path)) else type(image).__name__
