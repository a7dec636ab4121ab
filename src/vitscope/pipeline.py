"""Where the stages meet: picture -> pixels -> attention -> method -> explanation. Only this file knows them all."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from vitscope import looking
from vitscope.body import Body, States, body_of
from vitscope.capturing import capture, evaluating, frozen
from vitscope.correction import Correction
from vitscope.errors import MethodError, UsageError, VitscopeError
from vitscope.geometry import Frame, TokenLayout
from vitscope.images import ImageLike, Picture, read
from vitscope.loading import DEFAULT_MODEL, open_model, pick_device
from vitscope.masking import Masked, masking
from vitscope.measuring import measure
from vitscope.methods.refine import spread
from vitscope.metrics.attention import Statistics
from vitscope.metrics.measure import Measurement
from vitscope.options import Failure, Options, Progress, options_of
from vitscope.provenance import padding_share, provenance
from vitscope.registry import METHODS, Family, Method
from vitscope.result import Explanation
from vitscope.store import AttentionStore
from vitscope.subject import Subject
from vitscope.targets import Scorer, SimilarTo, Target, Text, feature_of, scorer_of
from vitscope.viewing.view import View, view

__all__ = ["Prepared", "Scope", "load"]

_TOP = 5
_ONE_ROW = "the model lays the tokens of all pictures in one row"


@dataclass(frozen=True, eq=False)
class _Forward:
    """What one forward of a batch left behind."""

    store: AttentionStore
    pixels: Tensor
    states: States | None

    def tokens(self) -> Tensor:
        """The tokens after the last block."""
        assert self.states is not None
        return self.states.at(len(self.states.tokens) - 1).detach()


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture made ready for the model ahead of time, by `Scope.prepare`; taken wherever a picture is.

    Attributes:
        picture: the photo.
        pixels: `(3, Hi, Wi)`, as the model wants them.
        frame: which part of the photo they are.
        size: the `size` they were prepared with.
    """

    picture: Picture
    pixels: Tensor
    frame: Frame
    size: int | None = None

    @property
    def nbytes(self) -> int:
        """Memory that waits with it."""
        held = 0 if self.picture.pixels.strides == (0, 0, 0) else self.picture.pixels.nbytes
        return held + self.pixels.nbytes

    def without_photo(self) -> "Prepared":
        """The same for making the map only: the photo keeps its size and gives its memory back."""
        width, height = self.picture.size
        return replace(self, picture=replace(self.picture, pixels=np.broadcast_to(np.uint8(0), (height, width, 3))))


class Scope:
    """A model, ready to be looked into. Made by `vitscope.load`; the model is left as it was found after each call."""

    def __init__(self, family: Family, device: torch.device, dtype: torch.dtype) -> None:
        self.family, self.device, self.dtype = family, device, dtype

    def __repr__(self) -> str:
        return f"<Scope of {self.family.reference}: {self.layout}>"

    @property
    def model(self) -> nn.Module:
        """The model itself."""
        return self.family.model

    @property
    def layout(self) -> TokenLayout:
        """Which token is which, at the size that the model was made for."""
        return self.family.layout()

    def methods(self) -> list[tuple[Method, str]]:
        """Every method, with the reason why it does not work on this model, or an empty string where it does."""
        return [(method, self._excuse(method)) for _, method in METHODS]

    @cached_property
    def body(self) -> Body | str:
        """The blocks that tokens go through, or why they cannot be told."""
        if not self.family.batches:
            return _ONE_ROW
        pixels = self._noise()
        store = self._forward([*pixels]).store
        names = [block.name for block in store.blocks]
        layout = self.layout
        run, order = lambda: self._answer(pixels), self.family.order()
        return body_of(names, self.model, run, layout.tokens, order, len(layout.prefix))

    @cached_property
    def bag(self) -> str:
        """Empty where the blocks know places from the tokens alone, so that tokens can be left out; else why not."""
        if isinstance(self.body, str):
            return self.body
        pixels, prefix, tokens = self._noise(), len(self.layout.prefix), self.layout.tokens
        shuffled = torch.randperm(tokens - prefix, generator=torch.Generator().manual_seed(0))
        order = torch.cat([torch.arange(prefix), prefix + shuffled]).to(self.device)
        plain = feature_of(self._answer(pixels)).float()
        with self.body.entered(order.expand(2, -1)):
            moved = feature_of(self._answer(pixels)).float()
        same = torch.allclose(plain, moved, rtol=1e-2, atol=1e-3 * float(plain.abs().max()))
        kept = (torch.arange(tokens - prefix, device=self.device) % 2 == 0).expand(2, -1)
        try:
            with self.body.keeping(kept):
                self._answer(pixels)
        except (RuntimeError, ValueError, IndexError):  # a bias or rotation as long as all tokens
            same = False
        return "" if same else "its blocks know places themselves (position bias or rotation): tokens cannot be dropped"

    def _noise(self) -> Tensor:
        height, width = getattr(self.family, "input", None) or (224, 224)
        made = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
        return made.to(self.device, self.dtype)

    def _excuse(self, method: Method) -> str:
        reason = method.excuse(self.family)
        if not reason and method.needs_tokens:
            reason = self.body if isinstance(self.body, str) else ""
        return reason or (self.bag if method.needs_bag else "")

    @overload
    def explain(self, image: ImageLike, **options: Any) -> Explanation: ...
    @overload
    def explain(self, image: Sequence[ImageLike], **options: Any) -> list[Explanation]: ...

    def explain(self, image: Any, *, progress: Progress | None = None, **options: Any) -> Any:
        """Explain one picture, or several as a batch.

        Args:
            image: a path, a Pillow image or an `(H, W, 3)` uint8 array; a list of them gives a list.
            progress: called with (method, done, total) while a method runs many forwards, once for each batch of them.
            options: the fields of `Options`, and the method's own options (`layers=`, `alpha=`, ...).

        Raises:
            ImageError: a picture that cannot be used; of several, the first such stops the call (see `explain_many`).
            UsageError: a method or option that does not exist or does not fit.
            MethodError: a method that does not apply to this model.
        """
        several = isinstance(image, Sequence) and not isinstance(image, str)
        results: list[Any] = []
        for outcome in self.explain_many(image if several else [image], progress=progress, **options):
            if isinstance(outcome, Failure):
                raise outcome.error
            results.append(outcome)
        return results if several else results[0]

    def prepare(self, image: ImageLike, *, size: int | None = None) -> Prepared:
        """Read a picture and make its pixels ready, which may be done ahead of the model and in other threads.

        Raises:
            ImageError: a picture that cannot be used.
            UsageError: a size that the model does not take.
        """
        picture = read(image)
        return Prepared(picture, *self._prepared(picture, size), size)

    def check(self, **options: Any) -> tuple[Method, dict[str, Any]]:
        """The method and all its options as `explain` would take them, and every target settled on a grey picture.

        Raises:
            UsageError: a method, option or target that does not exist or does not fit.
            MethodError: a method that does not apply to this model.

        Cost: one forward where there is a target.
        """
        chosen = options_of(options)
        method, params, _ = self._resolve(chosen)
        if method.uses_target or method.needs_gradient:
            pixels, _ = self._prepared(Picture(np.full((64, 64, 3), 127, np.uint8)), chosen.size)
            answer = self._answer(pixels[None].to(self.device, self.dtype))
            for target in chosen.targets:
                self._scorer(target, answer)
        return method, params

    def explain_many(
        self, images: Iterable["ImageLike | Prepared"], *, progress: Progress | None = None, **options: Any
    ) -> Iterator[Any]:
        """Explain pictures as they come, in their order; a bad one becomes a Failure and the others go on.

        The arguments are those of `explain`.

        Yields:
            An Explanation, or with several targets a list of them, or a Failure.
        """
        chosen = options_of(options)
        method, params, advised = self._resolve(chosen)
        tick = partial(progress, method.name) if progress else lambda done, total: None
        waiting = iter(images)
        while window := list(islice(waiting, 2 * chosen.batch_size)):
            outcomes: list[Any] = [None] * len(window)
            groups: dict[tuple[int, int], list[tuple[int, Picture, Tensor, Frame]]] = {}
            for position, image in enumerate(window):
                try:
                    ready = image if isinstance(image, Prepared) else self.prepare(image, size=chosen.size)
                    if ready.size != chosen.size:
                        raise UsageError(
                            f"a picture prepared at size {ready.size} cannot be explained at {chosen.size}"
                        )
                except VitscopeError as error:
                    outcomes[position] = Failure(_called(image), error)
                else:
                    made = position, ready.picture, ready.pixels, ready.frame
                    groups.setdefault(ready.frame.input, []).append(made)
            for group in groups.values():
                most = chosen.batch_size if len(group) == 1 or self.family.batches else 1
                for start in range(0, len(group), most):
                    part = group[start : start + most]
                    for (position, *_), results in zip(
                        part, self._explained(part, chosen, method, params, advised, tick), strict=True
                    ):
                        bad = next((one for one in results if isinstance(one, Failure)), None)
                        outcomes[position] = bad or (results if chosen.several else results[0])
            yield from outcomes

    def _explained(
        self,
        part: Sequence[tuple[int, Picture, Tensor, Frame]],
        chosen: Options,
        method: Method,
        params: dict[str, Any],
        advised: bool,
        tick: Callable[[int, int], None],
    ) -> list[list[Explanation | Failure]]:
        """One list for each picture of a batch, with one outcome for each target."""
        correction = Correction(method.correction or chosen.gradient)  # type: ignore[arg-type]
        tokens = method.needs_tokens or chosen.refine != "none"
        forward = self._forward(
            [pixels for _, _, pixels, _ in part], method.needs_gradient, correction, tokens, method.needs_values
        )
        results: list[list[Explanation | Failure]] = [[] for _ in part]
        for number, target in enumerate(chosen.targets):
            scorer = self._scorer(target, forward.store.answer) if method.uses_target or method.needs_gradient else None
            last = number == len(chosen.targets) - 1
            store, relevance, scores, notes = self._run(forward, method, params, scorer, chosen, correction, last, tick)
            for row, (_, picture, _, frame) in enumerate(part):
                told = self._told(chosen, method, params, advised, picture, target)
                if scorer is not None:
                    told["target"], told["score"] = scorer.words[row], scores[row]
                told["notes"] += notes[row] + padding_share(store, method, relevance[row])
                try:
                    results[row].append(self._explanation(method, store, relevance[row], row, picture, frame, told))
                except VitscopeError as error:  # a map that is not finite, say
                    results[row].append(Failure(picture.source, error))
        return results

    def _run(
        self,
        forward: _Forward,
        method: Method,
        params: dict[str, Any],
        scorer: Scorer | None,
        chosen: Options,
        correction: Correction,
        last: bool,
        tick: Callable[[int, int], None],
    ) -> tuple[AttentionStore, np.ndarray, list[float], list[list[str]]]:
        """The store a method ran on, its relevance `(B, N)`, the scores, and notes on each picture."""
        store, score = forward.store, torch.zeros(len(forward.pixels))
        with torch.set_grad_enabled(method.needs_gradient):
            if scorer is not None and store.answer is not None:
                score = scorer(store.answer)
        if not method.on_subject:
            store = store.differentiate(score, last=last) if method.needs_gradient else store
            with torch.no_grad():
                found = method.run(store, **params)
        else:

            def run(pixels: Tensor, pictures: Tensor) -> Tensor:
                assert scorer is not None
                with ExitStack() as stack:
                    stack.enter_context(torch.set_grad_enabled(pixels.requires_grad))
                    if pixels.requires_grad:
                        stack.enter_context(frozen(self.model))
                        stack.enter_context(capture(self.model, correction=correction))
                    stack.enter_context(evaluating(self.model))
                    return scorer(self.family.answer(pixels), pictures)

            found = method.run(
                Subject(
                    store,
                    forward.pixels,
                    score,
                    run,
                    self._answer,
                    forward.states,
                    self.body if method.needs_tokens and isinstance(self.body, Body) else None,
                    chosen.seed,
                    chosen.batch_size,
                    last,
                    tick,
                ),
                **params,
            )
        relevance, said = found if isinstance(found, tuple) else (found, [])
        notes = [[note] for note in said] or [[] for _ in forward.pixels]
        relevance = relevance.detach()
        if chosen.refine == "affinity":
            prefix, tokens = len(self.layout.prefix), forward.tokens()
            relevance = torch.cat([relevance[:, :prefix], spread(relevance[:, prefix:], tokens[:, prefix:])], 1)
            notes = [[*told, "refined: the method's map is spread along what patches have in common"] for told in notes]
        return store, relevance.float().cpu().numpy(), score.detach().float().tolist(), notes

    def attention(self, image: ImageLike | Sequence[ImageLike], *, size: int | None = None) -> AttentionStore:
        """All attention of one forward: `store[layer].rows(...)`, for one picture or several of one input size."""
        images: Any = image if isinstance(image, Sequence) and not isinstance(image, str) else [image]
        prepared = [self._prepared(read(one), size)[0] for one in images]
        if len({pixels.shape for pixels in prepared}) > 1:
            raise UsageError("the pictures have different input sizes", "ask for one at a time, or crop them alike")
        return self._forward(prepared).store

    def heads(self, image: ImageLike, layer: int = -1, *, size: int | None = None) -> list[Explanation]:
        """One explanation for each head of a layer: its own attention from the readout row, from a single forward."""
        return looking.heads(self, image, layer, size)

    def queries(
        self, image: ImageLike, *, method: str = "attention", size: int | None = None, chunk: int = 4096, **params: Any
    ) -> np.ndarray:
        """What every token attends to: one row for each, raw or rolled out; the columns say who attends to a token.

        Args:
            image: one picture.
            method: a method with the option `query`, such as `attention` or `rollout`.
            size: input size, as in `Options`.
            chunk: tokens asked at a time.
            params: the method's own options (`layer=`, `head=`, `layers=`, `alpha=`, ...).

        Returns:
            `(N, N)`, prefix tokens first in rows and columns; each row as `explain(..., query=...)` has it.

        Raises:
            UsageError: a method without queries, or a model whose layers do not all see the same tokens.

        Cost: one forward, and all rows of each layer once for every `chunk` tokens; N x N numbers, asked for by name.
        """
        return looking.queries(self, image, method, size, chunk, params)

    def lens(
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
        return looking.lens(self, image, target, size, progress)

    def alike(self, one: ImageLike, other: ImageLike, **options: Any) -> tuple[Explanation, Explanation]:
        """Which regions make two pictures alike: a map on each, whose target is the other's feature.

        Args:
            one: a picture.
            other: another picture.
            options: as for `explain`; the method is `relevance` where none is given.

        Raises:
            UsageError: a method without a target, or a target of one's own.
        """
        return looking.alike(self, one, other, options)

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
        return looking.statistics(
            self,
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
                `batch_size`, `image`, `target`, `progress` and others: those of `vitscope.measuring.measure`.

        Raises:
            UsageError: made by another model or at another size, without its photo, or an option that does not exist.
            MethodError: a baseline that does not fit the model, or a score that is not finite.
        """
        return measure(self, explanation, **options)

    def masked(
        self,
        image: ImageLike,
        hidden: Iterable[int],
        how: str = "hide",
        *,
        size: int | None = None,
        target: Any = None,
    ) -> Masked:
        """What the model says when some patches are painted over, or are not there at all.

        Args:
            image: a path, a Pillow image or an `(H, W, 3)` uint8 array.
            hidden: the patches, row by row from 0; none asks of the whole picture.
            how: `hide`: the picture's own mean colour stands there; `drop`: their tokens are left out.
            size: input size, as in `Options`.
            target: whose score is followed; None is the predicted class, and for a model without classes the cosine to
                the whole picture's feature.

        Raises:
            UsageError: a patch that is not there, or several targets.
            MethodError: `drop` where tokens cannot be left out.

        Cost: two forwards; `vitscope.masking.masking` prepares a picture once, and then each question takes one.
        """
        return masking(self, image, size=size, target=target).without(hidden, how)

    def view(self, image: ImageLike, **options: Any) -> View:
        """Everything that the interactive viewer shows of one photo: `vitscope.render.page.page(view.document())`.

        Args:
            image: a path, a Pillow image or an `(H, W, 3)` uint8 array.
            options: `other` (a second photo, to compare), `methods` (names), `target`, `top` (classes with a map of
                their own), `size`, `measure` (deletion and insertion of each map), `max_mb` (of the page), `seed`,
                `progress`.

        Raises:
            ImageError: a picture that cannot be used.
            UsageError: a method, option or target that does not exist or does not fit.
            MethodError: a method asked for by name that does not apply to this model.

        Cost: a few forwards for each map; measuring is up to 40 for a map and 60 for all random maps.
        """
        return view(self, image, **options)

    def predictions(self, store: AttentionStore, row: int = 0) -> list[tuple[str, float]]:
        """The most probable classes of one picture of a batch, five at most; empty for a feature model."""
        return [] if store.logits is None else self.said(store.logits, row)

    def said(self, answer: Tensor, row: int = 0) -> list[tuple[str, float]]:
        """The same from the model's answer to a batch `(B, C)`."""
        if not self.family.classifies(answer):
            return []
        logits = answer[row].float()
        probabilities = logits.sigmoid() if self.family.independent else logits.softmax(-1)
        values, classes = probabilities.topk(min(_TOP, logits.shape[-1]))
        labels = self.family.labels
        pairs = zip(classes.tolist(), values.tolist(), strict=True)
        return [(labels.get(c, f"class {c}"), p) for c, p in pairs]

    def _prepared(self, picture: Picture, size: int | None) -> tuple[Tensor, Frame]:
        """Pixels and frame; a size that the model does not take is an error here, before any batch."""
        pixels, frame = self.family.prepare(picture, size)
        if size is not None:
            self.family.layout(frame.input)
        return pixels, frame

    def _forward(
        self,
        prepared: Sequence[Tensor],
        gradients: bool = False,
        correction: Correction | None = None,
        tokens: bool = False,
        values: bool = False,
    ) -> _Forward:
        """One forward, its attention seen; with a graph, tokens between blocks, and values, where they are wanted."""
        if len(prepared) > 1 and not self.family.batches:
            raise UsageError(_ONE_ROW, "ask for one picture at a time")
        pixels = torch.stack(list(prepared)).to(self.device, self.dtype).requires_grad_(gradients)
        model, states = self.family.model, None
        with ExitStack() as stack:
            stack.enter_context(evaluating(model))
            stack.enter_context(torch.set_grad_enabled(gradients))
            if gradients:
                stack.enter_context(frozen(model))
            if tokens and isinstance(self.body, Body):
                states = stack.enter_context(self.body.watched())
            store_of = stack.enter_context(capture(model, gradients=gradients, correction=correction, values=values))
            answer = self.family.answer(pixels)
        store = self.family.attention(store_of, (pixels.shape[2], pixels.shape[3]), answer)
        return _Forward(store, pixels, states)

    def _answer(self, pixels: Tensor) -> Tensor:
        """The model's answer, nothing looked at."""
        with evaluating(self.model), torch.no_grad():
            return self.family.answer(pixels)

    def _scorer(self, target: Target, answer: Tensor | None) -> Scorer | None:
        """The target settled for the batch that gave this answer."""
        if answer is None:
            return None
        if isinstance(target, SimilarTo) and target.features is None:
            pixels, _ = self.family.prepare(read(target.image))
            target = target.known(feature_of(self._answer(pixels[None].to(self.device, self.dtype))))
        elif isinstance(target, Text) and target.features is None:
            target = target.known(self.family.text_features(target.words))
        return scorer_of(target, answer, self.family.labels, self.family.classifies(answer))

    def _resolve(self, options: Options) -> tuple[Method, dict[str, Any], bool]:
        """The method and its full options; `auto` takes the family's advice, which given options override."""
        advice = dict(self.family.advice) if options.method == "auto" else {"method": options.method}
        method = METHODS.get(advice.pop("method"))
        if reason := self._excuse(method):
            raise MethodError(f"the method '{method.name}' does not apply: {reason}", self._others())
        if options.refine != "none" and isinstance(self.body, str):
            raise UsageError(f"refine does not apply: {self.body}")
        if "start" in options.params:
            advice.pop("layers", None)
        return method, method.check(advice | dict(options.params)), options.method == "auto"

    def _others(self) -> str:
        return f"these do: {', '.join(method.name for method, reason in self.methods() if not reason)}"

    def _explanation(
        self,
        method: Method,
        store: AttentionStore,
        relevance: np.ndarray,
        row: int,
        picture: Picture,
        frame: Frame,
        told: Mapping[str, Any],
    ) -> Explanation:
        assert store.layout is not None
        return Explanation(
            map=np.ascontiguousarray(store.layout.patches(relevance), dtype=np.float32),
            prefix=np.array(relevance[: len(store.layout.prefix)], dtype=np.float32),
            method=method.name,
            layout=store.layout,
            frame=frame,
            predictions=self.predictions(store, row),
            target=told.get("target") if method.uses_target else None,
            score=told.get("score"),
            provenance=told,
            picture=picture,
        )

    def _told(
        self,
        options: Options,
        method: Method,
        params: Mapping[str, Any],
        advised: bool,
        picture: Picture,
        target: Target = None,
    ) -> dict[str, Any]:
        """The provenance of one map."""
        return provenance(self.family, self.device, self.dtype, options, method, params, advised, picture, target)


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
    family = open_model(
        model, processor=processor, device=device, dtype=dtype, revision=revision, layout=layout, progress=progress
    )
    first = next(family.model.parameters(), None)
    if first is None:
        return Scope(family, pick_device(device), torch.float32)
    return Scope(family, first.device, first.dtype)


def _called(image: "ImageLike | Prepared") -> str:
    if isinstance(image, Prepared):
        return image.picture.source
    return str(image) if isinstance(image, (str, Path)) else type(image).__name__
