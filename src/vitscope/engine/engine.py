"""One model at work: pixels through it, a target settled on its answer, a method run on what was seen."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitscope.attention import AttentionStore
from vitscope.attention.capture import capture
from vitscope.attention.gradient_rules import GradientRule
from vitscope.attention.model_modes import eval_mode, frozen_parameters
from vitscope.attention.transformer_blocks import HiddenStates, TransformerBlocks, find_blocks
from vitscope.engine.auto import MethodChoice, choose_method
from vitscope.engine.options import Failure, Options, options_of
from vitscope.engine.provenance import padding_share, provenance
from vitscope.errors import LayoutError, MethodError, UnsupportedError, UsageError, VitscopeError
from vitscope.explanation import Explanation
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.images import Picture, load_image
from vitscope.methods.base import METHODS, Method
from vitscope.methods.context import MethodContext
from vitscope.methods.refine import spread
from vitscope.methods.rollout_variants import without_lengths
from vitscope.methods.targets import Scorer, SimilarTo, Target, Text, feature_of, scorer_of
from vitscope.models.base import ModelAdapter
from vitscope.tracing.block_io import BlockMap, StagedHiddenStates

__all__ = ["Engine", "Prepared"]

_TOP = 5
_TRIED = 8  # patches a side
_ONE_ROW = "the model lays the tokens of all pictures in one row"


@dataclass(frozen=True, eq=False)
class _Forward:
    """What one forward of a batch left behind."""

    store: AttentionStore
    pixels: Tensor
    states: HiddenStates | StagedHiddenStates | None

    def tokens(self) -> Tensor:
        """The tokens after the last block."""
        assert isinstance(self.states, HiddenStates)
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
    region: ImageRegion
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


class Engine:
    """What `Scope` stands on: a model with the stages that every explanation goes through."""

    def __init__(self, adapter: ModelAdapter, device: torch.device, dtype: torch.dtype) -> None:
        self.adapter, self.device, self.dtype = adapter, device, dtype
        self._told = partial(provenance, adapter, device, dtype)

    @property
    def model(self) -> nn.Module:
        """The model itself."""
        return self.adapter.model

    @property
    def layout(self) -> TokenLayout:
        """Which token is which, at the size that the model was made for."""
        return self.adapter.layout()

    def methods(self) -> list[tuple[Method, str]]:
        """Every method, with the reason why it does not work on this model, or an empty string where it does."""
        return [(method, self._excuse(method)) for _, method in METHODS]

    def recommend(self, **options: Any) -> MethodChoice:
        """What `method="auto"` takes for this model and these options of `explain`, and why."""
        return choose_method(self.adapter, options_of(options), self._excuse)

    @cached_property
    def body(self) -> TransformerBlocks | str:
        """The blocks that tokens go through, or why they cannot be told."""
        if not self.adapter.supports_batches:
            return _ONE_ROW
        if not self.adapter.isotropic:
            return self.adapter.isotropic.reason
        pixels = self._noise()
        store = self._forward([*pixels]).store
        names = [block.name for block in store.blocks]
        layout = self.adapter.layout((pixels.shape[2], pixels.shape[3]))
        run, order = lambda: self._answer(pixels), self.adapter.token_order()
        return find_blocks(names, self.model, run, layout.tokens, order, len(layout.prefix))

    @cached_property
    def bag(self) -> str:
        """Empty where the blocks know places from the tokens alone, so that tokens can be left out; else why not."""
        if isinstance(self.body, str):
            return self.body
        pixels = self._noise()
        layout = self.adapter.layout((pixels.shape[2], pixels.shape[3]))
        prefix, tokens = len(layout.prefix), layout.tokens
        shuffled = torch.randperm(tokens - prefix, generator=torch.Generator().manual_seed(0))
        order = torch.cat([torch.arange(prefix), prefix + shuffled]).to(self.device)
        plain = feature_of(self._answer(pixels)).float()
        with self.body.select_tokens(order.expand(2, -1)):
            moved = feature_of(self._answer(pixels)).float()
        same = torch.allclose(plain, moved, rtol=1e-2, atol=1e-3 * float(plain.abs().max()))
        kept = (torch.arange(tokens - prefix, device=self.device) % 2 == 0).expand(2, -1)
        try:
            with self.body.keep_patches(kept):
                self._answer(pixels)
        except (RuntimeError, ValueError, IndexError):  # a bias or rotation as long as all tokens
            same = False
        return "" if same else "its blocks know places themselves (position bias or rotation): tokens cannot be dropped"

    @cached_property
    def valueless(self) -> str:
        """Empty where it was seen what each layer does with its values; else where it was not."""
        store = self._forward([*self._noise()[:1]], values=True).store
        return next((reason for block in store.blocks if (reason := without_lengths(block))), "")

    def stages(self, size: tuple[int, int] | None = None) -> BlockMap | str:
        """The blocks of a model whose layers do not all see the same tokens, or why they cannot be told."""
        if not self.adapter.supports_batches:
            return _ONE_ROW
        try:
            return self.adapter.block_map(size)
        except (LayoutError, UnsupportedError) as error:
            return str(error)

    def _noise(self) -> Tensor:
        """Two pictures to try the model on; few patches where it takes any number of them."""
        height, width = getattr(self.adapter, "input_size", None) or (224, 224)
        if getattr(self.adapter, "size", None):
            rows, columns = self.layout.grid
            height, width = height // rows * min(rows, _TRIED), width // columns * min(columns, _TRIED)
        made = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
        return made.to(self.device, self.dtype)

    def _excuse(self, method: Method) -> str:
        reason = method.excuse(self.adapter)
        if not reason and method.needs_tokens:
            reason = self.body if isinstance(self.body, str) else ""
        if not reason and method.needs_patches and isinstance(self.body, str):
            found = self.stages()
            reason = found if isinstance(found, str) else ""
        if not reason and method.needs_values:
            reason = self.valueless
        return reason or (self.bag if method.needs_bag else "")

    def predictions(self, store: AttentionStore, row: int = 0) -> list[tuple[str, float]]:
        """The most probable classes of one picture of a batch, five at most; empty for a feature model."""
        return [] if store.logits is None else self.said(store.logits, row)

    def said(self, answer: Tensor, row: int = 0) -> list[tuple[str, float]]:
        """The same from the model's answer to a batch `(B, C)`."""
        if not self.adapter.classifies(answer):
            return []
        logits = answer[row].float()
        probabilities = logits.sigmoid() if self.adapter.multi_label else logits.softmax(-1)
        values, classes = probabilities.topk(min(_TOP, logits.shape[-1]))
        labels = self.adapter.labels
        pairs = zip(classes.tolist(), values.tolist(), strict=True)
        return [(labels.get(c, f"class {c}"), p) for c, p in pairs]

    def _prepared(self, picture: Picture, size: int | None) -> tuple[Tensor, ImageRegion]:
        """Pixels and frame; a size that the model does not take is an error here, before any batch."""
        pixels, region = self.adapter.prepare(picture, size)
        if size is not None:
            self.adapter.layout(region.input)
        return pixels, region

    def _forward(
        self,
        prepared: Sequence[Tensor],
        gradients: bool = False,
        correction: GradientRule | None = None,
        tokens: bool = False,
        values: bool = False,
    ) -> _Forward:
        """One forward, its attention seen; with a graph, tokens between blocks, and values, where they are wanted."""
        if len(prepared) > 1 and not self.adapter.supports_batches:
            raise UsageError(_ONE_ROW, "ask for one picture at a time")
        pixels = torch.stack(list(prepared)).to(self.device, self.dtype).requires_grad_(gradients)
        model, states = self.adapter.model, None
        with ExitStack() as stack:
            stack.enter_context(eval_mode(model))
            stack.enter_context(torch.set_grad_enabled(gradients))
            if gradients:
                stack.enter_context(frozen_parameters(model))
            if tokens:
                states = self._watched(stack, (pixels.shape[2], pixels.shape[3]))
            recorder = stack.enter_context(capture(model, gradients=gradients, gradient_rule=correction, values=values))
            answer = self.adapter.answer(pixels)
        store = self.adapter.attention(recorder, (pixels.shape[2], pixels.shape[3]), answer)
        return _Forward(store, pixels, states)

    def _watched(self, stack: ExitStack, size: tuple[int, int]) -> HiddenStates | StagedHiddenStates | None:
        """The tokens of the next forward of pictures of that size, where they can be told."""
        if isinstance(self.body, TransformerBlocks):
            return stack.enter_context(self.body.record_states())
        found = self.stages(size)
        return None if isinstance(found, str) else stack.enter_context(found.watched(self.model))

    def _answer(self, pixels: Tensor) -> Tensor:
        """The model's answer, nothing looked at."""
        with eval_mode(self.model), torch.no_grad():
            return self.adapter.answer(pixels)

    def _scorer(self, target: Target, answer: Tensor | None) -> Scorer | None:
        """The target settled for the batch that gave this answer."""
        if answer is None:
            return None
        if isinstance(target, SimilarTo) and target.features is None:
            pixels, _ = self.adapter.prepare(load_image(target.image))
            target = target.known(feature_of(self._answer(pixels[None].to(self.device, self.dtype))))
        elif isinstance(target, Text) and target.features is None:
            target = target.known(self.adapter.text_features(target.words))
        return scorer_of(target, answer, self.adapter.labels, self.adapter.classifies(answer))

    def _resolve(self, options: Options) -> tuple[Options, Method, dict[str, Any], MethodChoice | None]:
        """The options, the method and its own ones; `auto` takes an advice, which given options override."""
        advice = choose_method(self.adapter, options, self._excuse) if options.method == "auto" else None
        method = METHODS.get(advice.method if advice else options.method)
        if reason := self._excuse(method):
            raise MethodError(f"the method '{method.name}' does not apply: {reason}", self._others())
        if options.refine != "none" and isinstance(self.body, str):
            raise UsageError(f"refine does not apply: {self.body}")
        advised = dict(advice.method_options) if advice else {}
        if "start_layer" in options.method_options:
            advised.pop("layers", None)
        if advice and options.gradient_rule == "plain":
            options = replace(options, gradient_rule=advice.gradient_rule)
        return options, method, method.check(advised | dict(options.method_options)), advice

    def _others(self) -> str:
        return f"these do: {', '.join(method.name for method, reason in self.methods() if not reason)}"

    def _explanation(
        self,
        method: Method,
        store: AttentionStore,
        relevance: np.ndarray,
        row: int,
        picture: Picture,
        region: ImageRegion,
        told: Mapping[str, Any],
    ) -> Explanation:
        assert store.layout is not None
        return Explanation(
            map=np.ascontiguousarray(store.layout.patches(relevance), dtype=np.float32),
            prefix=np.array(relevance[: len(store.layout.prefix)], dtype=np.float32),
            method=method.name,
            layout=store.layout,
            region=region,
            predictions=self.predictions(store, row),
            target=told.get("target") if method.uses_target else None,
            score=told.get("score"),
            provenance=told,
            picture=picture,
        )

    def _explained(
        self,
        part: Sequence[tuple[int, Picture, Tensor, ImageRegion]],
        chosen: Options,
        method: Method,
        params: dict[str, Any],
        advice: MethodChoice | None,
        tick: Callable[[int, int], None],
    ) -> list[list[Explanation | Failure]]:
        """One list for each picture of a batch, with one outcome for each target."""
        correction = GradientRule(method.correction or chosen.gradient_rule)  # type: ignore[arg-type]
        tokens = method.needs_tokens or method.needs_patches or chosen.refine != "none"
        graph = method.needs_gradient and not method.own_passes
        forward = self._forward([pixels for _, _, pixels, _ in part], graph, correction, tokens, method.needs_values)
        if method.own_passes:
            forward = replace(forward, store=forward.store.without_blocks())
        results: list[list[Explanation | Failure]] = [[] for _ in part]
        for number, target in enumerate(chosen.targets):
            scorer = self._scorer(target, forward.store.answer) if method.uses_target or method.needs_gradient else None
            last = number == len(chosen.targets) - 1
            store, relevance, scores, notes = self._run(forward, method, params, scorer, chosen, correction, last, tick)
            for row, (_, picture, _, region) in enumerate(part):
                told = self._told(chosen, method, params, advice, picture, target)
                if scorer is not None:
                    told["target"], told["score"] = scorer.words[row], scores[row]
                told["notes"] += notes[row] + padding_share(store, method, relevance[row])
                try:
                    results[row].append(self._explanation(method, store, relevance[row], row, picture, region, told))
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
        correction: GradientRule,
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
                        stack.enter_context(frozen_parameters(self.model))
                        stack.enter_context(capture(self.model, gradient_rule=correction))
                    stack.enter_context(eval_mode(self.model))
                    return scorer(self.adapter.answer(pixels), pictures)

            found = method.run(
                MethodContext(
                    store,
                    forward.pixels,
                    score,
                    run,
                    self._answer,
                    forward.states,
                    self.body if method.needs_tokens and isinstance(self.body, TransformerBlocks) else None,
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
