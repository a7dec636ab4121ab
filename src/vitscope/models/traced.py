"""Base class for adapters whose token layout is inferred by tracing."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope._cached import cached_property
from vitscope._messages import Message, msg
from vitscope.attention import AttentionStore, CallSite
from vitscope.attention.capture import capture
from vitscope.attention.model_lock import exclusive
from vitscope.attention.model_modes import eval_mode, own_state, precise_floats
from vitscope.attention.recorder import AttentionRecorder
from vitscope.errors import YES, CaptureError, LayoutError, Support, UnsupportedError
from vitscope.geometry import TokenLayout
from vitscope.models.answers.answers import AnswerReader, tokens_read
from vitscope.models.answers.class_scores import ClassScores
from vitscope.models.base import image_size
from vitscope.models.other_media import failure_on_pixels
from vitscope.models.pixels.preprocessing import random_state, size_refused
from vitscope.models.traced_description import DIFFERENTIAL, describe_kernels, describe_trace
from vitscope.models.weights.weights import hash_of
from vitscope.tracing.block_finder import find_block_map
from vitscope.tracing.block_io import BlockMap
from vitscope.tracing.chain import OperatorChain, graph_outputs, layer_blocks, operator_chain
from vitscope.tracing.effect import check_effect, check_images, check_recorded, check_repeats
from vitscope.tracing.given_layout import place_given
from vitscope.tracing.loops import Loop, join_recorded
from vitscope.tracing.trace import Trace
from vitscope.tracing.trace import trace as trace_model

log = logging.getLogger(__name__)

_RUNS_OF_RANDOM = 8  # forwards of a model that draws numbers, which may be alike by chance

_READS_APART = msg(
    "models.reads-apart",
    "this model's answer is not made of the tokens after its last layer alone, or its layers are not one after another "
    "(it reads the tokens of several layers, or layers stand side by side)",
)


class TracedAdapter(ClassScores):
    """An adapter whose layouts come from running the averaged network once for each input size.

    Attributes:
        given_layout: a layout from the caller; then nothing is traced.
        cls_index: place of the CLS token in the answer of a model that answers with all its tokens.
        channel_axis: the axis of the channels in the model's answer; 0 for a map of one number for each place.
    """

    given_layout: TokenLayout | None = None
    cls_index: int | None = None
    channel_axis: int = -1

    @cached_property
    def reader(self) -> AnswerReader:
        """What reads the answer from the model's output, as the caller chose."""
        return AnswerReader(self.options.output)

    @property
    def dense(self) -> bool:  # type: ignore[override]
        """Whether an answer has scores at many places: it is called so, or has a channel for each label."""
        shape, name = self.reader.shape, self.reader.name.rpartition(".")[2]
        named = name.endswith(("logits", "depth")) or (bool(self.labels) and len(self.labels) in shape[1:])
        return len(shape) > 2 and self.cls_index is None and named

    def run(self, pixels: Tensor) -> Any:
        """Call the model on pixels; adapters of models with other arguments override this."""
        return self.model(pixels)

    @own_state
    def trace(self, size: tuple[int, int] | None = None) -> Trace:
        """Return what the model does with an input of that size; traced the first time.

        Raises:
            CaptureError: no attention was recorded.
            LayoutError: a step on the way is not supported.
            UsageError: the model does not take that size.
        """
        size = size or self.input_size
        known: dict[tuple[int, int], Trace] = self.__dict__.setdefault("_traces", {})
        if size in known:
            return known[size]
        with exclusive(self.model), precise_floats():
            recorder = self._record_forward(size)
            traced = partial(
                trace_model,
                self._answer_together,
                self.model,
                size,
                recorder.recorded_calls,
                self.channels,
                made=recorder._event + 1,
            )
            found = traced()
            if self.channel_axis < 0:
                self.channel_axis = found.channel_axis
            if self.cls_index is None and self._answers_with_tokens(found):
                cls = found.layout.prefix.index("cls")
                self.cls_index = cls if found.order is None else int(found.order[cls])
                log.debug("readout of %s: the CLS token of its answer", type(self.model).__name__)
                found = traced()
            self.__dict__.setdefault("_kernels", describe_kernels(found, recorder))
            self.supports_batches = found.per_image
            effect = check_effect(
                self._answer_together, self.model, self.example(size, torch.randn), found, recorder.recorded_calls
            )
            notes = (*([DIFFERENTIAL] if found.differential else []), *found.notes, *effect)
            self.notes = (*self.notes, *(note for note in notes if note not in self.notes))
            known[size] = found
        return known[size]

    @cached_property
    def _given_loops(self) -> tuple[Loop, ...]:
        """Loops over heads or queries in a model whose layout is given; none where it cannot be traced."""
        try:
            calls = self._record_forward(self.input_size).recorded_calls
            traced = trace_model(self._answer_together, self.model, self.input_size, calls, self.channels)
        except LayoutError as error:
            log.debug("%s has a given layout and is not searched for loops: %s", type(self.model).__name__, error)
            return ()
        return traced.loops

    @own_state
    @torch.random.fork_rng(devices=())
    def _placed(self, size: tuple[int, int], layout: TokenLayout) -> tuple[TokenLayout, tuple[Message, ...]]:
        """Return a given layout with the cells of its patches at that size, and notes; found the first time.

        Raises:
            LayoutError: the tokens of an input of that size are not those of the layout.
        """
        known: dict[tuple[int, int], tuple[TokenLayout, tuple[Message, ...]]]
        known = self.__dict__.setdefault("_placed_layouts", {})
        if size not in known:
            with exclusive(self.model):
                noise = [self.example(size, torch.randn) for _ in range(2)]
                known[size] = (layout, ()) if layout.planes else place_given(self.run, self.model, noise, layout)
        return known[size]

    @torch.random.fork_rng(devices=())
    def _record_forward(self, size: tuple[int, int]) -> AttentionRecorder:
        """Capture one forward on noise, and check that another one answers alike."""
        pixels, before = self.example(size, torch.randn), random_state()
        with eval_mode(self.model), torch.no_grad(), capture(self.model) as recorder:
            try:
                output = self.run(pixels)
            except (RuntimeError, AssertionError, ValueError, TypeError, AttributeError) as error:
                if size != self.input_size:
                    raise size_refused(size, error) from error
                if (problem := failure_on_pixels(self.model, size, error)) is None:
                    raise
                raise problem from error
        answer = self.reader(output)  # raises where it is not known what is explained
        check_recorded(recorder)
        _ = recorder.blocks or recorder.store()  # raises where nothing was recorded
        for _ in range(_RUNS_OF_RANDOM if random_state() != before else 1):
            with eval_mode(self.model), torch.no_grad(), capture(self.model) as again:
                repeated = self.reader(self.run(self.example(size, torch.randn)))
            first, second = ([block.rows(slice(0, 1)) for block in one.blocks] for one in (recorder, again))
            check_repeats(self.model, [answer, *first], [repeated, *second])
        return recorder

    def _answers_with_tokens(self, found: Trace) -> bool:
        """Return whether the model answers with all tokens of the layout, a CLS token among them."""
        if "cls" not in found.layout.prefix or not found.isotropic or self.reader.name == "pooler_output":
            return False
        with eval_mode(self.model), torch.no_grad():
            answer = self._answer_together(self.example())
        return answer.ndim == 3 and answer.shape[1] == found.layout.tokens

    @property
    def isotropic(self) -> Support:
        """Whether every layer sees all tokens; else how many queries and keys one attention of each layer has."""
        if self.given_layout is not None or self.trace().isotropic:
            return YES
        found = self.trace()
        kinds = list(dict.fromkeys(found.sizes))
        if kinds == [(found.layout.tokens,) * 2]:
            return Support.no(_READS_APART)
        sizes = ", ".join([*(f"{n} x {m}" for n, m in kinds[:6]), *(["..."] if len(kinds) > 6 else [])])
        return Support.no(
            msg(
                "models.layers-differ",
                "this model's layers do not all see the same tokens (windows, merging or reduced keys): expected "
                "{tokens} queries x {tokens} keys in each, found {sizes}",
                tokens=found.layout.tokens,
                sizes=sizes or msg("models.layers-differ.none", "no attention with a residual"),
            )
        )

    def block_map(self, size: tuple[int, int] | None = None) -> BlockMap:
        """Return the blocks and the grids of their tokens at that size; found the first time.

        Raises:
            UnsupportedError: where the blocks' tokens lie on the image is not known.
        """
        if self.given_layout is not None:
            raise UnsupportedError(
                msg("models.blocks-of-given-layout", "the layout was given by the caller, so nothing was traced")
            )
        known: dict[tuple[int, int], BlockMap | str] = self.__dict__.setdefault("_block_maps", {})
        size = size or self.input_size
        if size not in known:
            try:
                known[size] = find_block_map(self._answer_together, self.model, size, self.trace(size), self.channels)
            except UnsupportedError as error:
                known[size] = error.message
        found = known[size]
        if isinstance(found, str):
            raise UnsupportedError(found)
        return found

    def traced_patch(self) -> tuple[int, int]:
        """Return the pixels that sizes are multiples of: the patch, or at least 32 where layers differ in tokens."""
        layout = self.layout()
        patch = self.input_size[0] // layout.grid[0], self.input_size[1] // layout.grid[1]
        return patch if self.isotropic else (max(32, patch[0]), max(32, patch[1]))

    @property
    def depth(self) -> int:
        """The number of attention layers with a residual; 0 with a layout from the caller."""
        return 0 if self.given_layout else len(self.trace().layers)

    @property
    def weights(self) -> str:  # type: ignore[override]
        """The SHA-256 of the parameters in memory."""
        return self.name_weights(lambda: hash_of(self.model))

    def notes_at(self, size: tuple[int, int]) -> tuple[str, ...]:
        """Return what must be said of maps at that size, such as position embeddings that are fitted to it."""
        return self.trace(size).size_notes if self.given_layout is None else self._placed(size, self.given_layout)[1]

    def token_order(self) -> Tensor | None:
        """Return the places of the layout's tokens among the model's, or None where they are in order."""
        return None if self.given_layout else self.trace().order

    def layout(self, size: tuple[int, int] | None = None) -> TokenLayout:
        """Return the token layout at an input of `(Hi, Wi)` pixels."""
        if self.given_layout is not None:
            return self._placed(size or self.input_size, self.given_layout)[0]
        return self.trace(size).layout

    def answer(self, pixels: Float[Tensor, "B C Hi Wi"]) -> Tensor:
        """Return class logits, pooled features, or tokens; the CLS token of a model that answers with all tokens."""
        if len(pixels) > 1 and not self.supports_batches:
            return torch.cat([self._answer_together(pixels[i : i + 1]) for i in range(len(pixels))])
        return self._answer_together(pixels)

    def _answer_together(self, pixels: Tensor) -> Tensor:
        answer = _channels_placed(self.reader(self.run(pixels), len(pixels)), self.channel_axis)
        return answer if self.cls_index is None or answer.ndim != 3 else answer[:, self.cls_index]

    def read_query(self, store: AttentionStore, size: tuple[int, int], index: int) -> AttentionStore:
        """Return the attention of a forward, read from one query of the answer instead of all of them."""
        if self.given_layout is not None:
            return super().read_query(store, size, index)

        def answer_of_query(pixels: Tensor) -> Tensor:
            return self._answer_together(pixels)[:, index]

        whole = self.trace(size)
        known: dict[tuple[tuple[int, int], int], Trace] = self.__dict__.setdefault("_query_traces", {})
        if (size, index) not in known:
            known[size, index] = trace_model(answer_of_query, self.model, size, whole.events, self.channels)
        found = known[size, index]
        if (found.layers, found.layout.grid, found.leaf_sizes) != (whole.layers, whole.layout.grid, whole.leaf_sizes):
            return super().read_query(store, size, index)
        if isinstance(store.chain, OperatorChain):
            batch = len(store.chain.averages.out)
            chain = operator_chain(
                answer_of_query, self.model, (batch, self.channels, *size), found, store.chain.recorded
            )
            return replace(store, chain=chain.with_blocks(store.blocks))
        row = torch.from_numpy(found.readout / found.readout.sum()).float()
        return replace(store, pool=None, readout=row.to(store.blocks[0].device)) if store.blocks else store

    def reads(self) -> Message:
        """Say which part of the model's output is explained, from which tokens it is made, and after which layer."""
        if not self.reader.shape:
            with eval_mode(self.model), torch.no_grad():
                self._answer_together(self.example())
        name = self.reader.name or msg("models.reads.output", "the output")
        shape = " x ".join(map(str, ("B", *self.reader.shape[1:])))
        if self.given_layout is not None:
            return msg("models.reads.given", "{name} ({shape})", name=name, shape=shape)
        unread = self.trace().unread if "_traces" in self.__dict__ else 0
        facts = {"name": name, "shape": shape, "read": self.depth, "layers": self.depth + unread}
        facts["tokens"] = tokens_read(self.layout(), self.trace().readout if "_traces" in self.__dict__ else None)
        if self.isotropic:
            return msg(
                "models.reads",
                "{name} ({shape}), made of the tokens after {read} of {layers} layers: {tokens}",
                **facts,
            )
        return msg(
            "models.reads.up-to", "{name} ({shape}), made of tokens up to layer {read} of {layers}: {tokens}", **facts
        )

    def attention(self, recorder: AttentionRecorder, size: tuple[int, int], answer: Tensor) -> AttentionStore:
        """Return the store of a captured forward on images of that size: plain blocks, or a chain of operators."""
        logits = answer if self.classifies(answer) else None
        if self.given_layout is not None:
            recorder.recorded_calls = join_recorded(recorder.recorded_calls, self._given_loops)
            check_images(recorder.blocks, len(answer), self.given_layout.tokens)
            return recorder.store(self.layout(size), logits=logits, answer=answer)
        found = self.trace(size)
        missing = set(found.layers) - set(recorder.recorded_calls)
        if missing:
            raise CaptureError.coded(
                "models.calls-missing",
                "{missing} of {count} attention calls were not recorded in this forward",
                missing=len(missing),
                count=len(found.layers),
            )
        logits = None if logits is None else logits.detach()
        recorded = join_recorded(recorder.recorded_calls, found.loops)
        sources = graph_outputs(found, recorded)
        calls = tuple(CallSite(event, found.heads[event]) for event in found.layers) if not found.loops else ()
        if not found.isotropic:
            chain = operator_chain(
                self._answer_together, self.model, (len(answer), self.channels, *size), found, recorder.recorded_calls
            )
            return AttentionStore(chain.blocks, found.layout, logits, None, chain, None, answer, sources, calls)
        blocks, pool = layer_blocks(found, recorded)
        for block in blocks:
            found.layout.check(block.shape[2], f"{block.name} (with batch_size=1, too?)")
        row = found.readout / found.readout.sum() if found.queries is None else found.queries
        known = found.exact and found.queries is None
        readout = None if known else torch.from_numpy(row).float().to(blocks[0].device)
        return AttentionStore(blocks, found.layout, logits, pool, None, readout, answer, sources, calls)

    def describe(self) -> Mapping[str, str]:
        """Return architecture and sizes."""
        found = None if self.given_layout else self.trace()
        facts = {
            "adapter": f"{self.name}, {type(self.model).__name__}",
            "input": self.preprocessing(),
            "made for": image_size(self.input_size),
            "classes": self._describe_classes(),
        }
        if found is None:
            return facts
        kernels: dict[str, str] = self.__dict__.get("_kernels", {})
        return facts | kernels | describe_trace(found)

    def preprocessing(self) -> Message:
        """Describe what happens to an image."""
        return msg("models.preprocessing.given", "the processor from the caller")


def _channels_placed(answer: Tensor, axis: int) -> Tensor:
    """Return a map as `(B, C, H, W)`, and tokens as `(B, N, D)`, whatever the order of the model's axes is."""
    if axis < 0:
        return answer
    if answer.ndim == 4:
        return answer.movedim(axis, 1)
    return answer if answer.ndim != 3 else answer[:, None] if axis == 0 else answer.movedim(axis, 2)
