"""Models understood by what flows: the base of every family that has no table of its own."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitscope._messages import msg
from vitscope.attention import AttentionStore, CallSite, Dense, Factored
from vitscope.attention.capture import capture
from vitscope.attention.model_modes import eval_mode
from vitscope.attention.recorder import AttentionRecorder
from vitscope.errors import YES, CaptureError, LayoutError, Support, UnsupportedError, first_line
from vitscope.geometry import TokenLayout
from vitscope.models.base import ModelAdapter
from vitscope.models.preprocessing import checked_size
from vitscope.tracing.block_finder import find_block_map
from vitscope.tracing.block_io import BlockMap
from vitscope.tracing.chain import graph_outputs, layer_blocks, operator_chain
from vitscope.tracing.trace import Trace
from vitscope.tracing.trace import trace as trace_model

__all__ = ["TracedAdapter", "answer_of", "hash_of"]

_ANSWERS = ("logits", "image_embeds", "pooler_output", "last_hidden_state", "image_features", "x_norm_clstoken")
_DIFFERENTIAL = "one attention is subtracted from another: averages over heads count both alike, as if they were added"


class TracedAdapter(ModelAdapter):
    """A family whose layouts come from running the averaged network once for each input size.

    Attributes:
        input_size: `(Hi, Wi)`, the size that the model was made for.
        given_layout: a layout that the caller stated; then nothing is traced.
    """

    input_size: tuple[int, int]
    given_layout: TokenLayout | None = None
    classes: bool = True
    cls_index: int | None = None  # of a model that answers with all its tokens: where its CLS token stands

    def run(self, pixels: Tensor) -> Any:
        """Call the model on pixels; families with other arguments override this."""
        return self.model(pixels)

    def trace(self, size: tuple[int, int] | None = None) -> Trace:
        """What the model does with an input of that size; one forward the first time.

        Raises:
            CaptureError: no attention was seen.
            LayoutError: something on the way is not understood.
            UsageError: the model does not take that size.
        """
        size = size or self.input_size
        known: dict[tuple[int, int], Trace] = self.__dict__.setdefault("_traces", {})
        if size not in known:
            first = next(self.model.parameters())
            pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(first)
            with eval_mode(self.model), torch.no_grad(), capture(self.model) as recorder:
                try:
                    self.run(pixels)
                except (RuntimeError, AssertionError, ValueError, TypeError, AttributeError) as error:
                    if size == self.input_size:
                        if isinstance(error, RuntimeError):  # the model's own trouble, not a missing argument
                            raise
                        raise LayoutError(
                            f"{type(self.model).__name__} cannot be run on pixels alone: {first_line(error)}",
                            "vitscope.capture(model) around a forward of your own gives raw attention",
                        ) from error
                    raise checked_size(size, error) from error
            _ = recorder.blocks or recorder.store()  # raises where nothing was seen
            self.__dict__.setdefault("_seen_as", _seen_as(recorder))
            known[size] = trace_model(self._at_once, self.model, size, recorder.recorded_calls)
            if self.cls_index is None and self._answers_with_tokens(known[size]):
                prefix, order = known[size].layout.prefix, known[size].order
                self.cls_index = prefix.index("cls") if order is None else int(order[prefix.index("cls")])
                known[size] = trace_model(self._at_once, self.model, size, recorder.recorded_calls)
            self.supports_batches = known[size].per_image
            if known[size].differential and _DIFFERENTIAL not in self.notes:
                self.notes = (*self.notes, _DIFFERENTIAL)
        return known[size]

    def _answers_with_tokens(self, found: Trace) -> bool:
        """Does the model answer with all tokens of the layout, a CLS token among them?"""
        if "cls" not in found.layout.prefix or not found.isotropic:
            return False
        first = next(self.model.parameters())
        with eval_mode(self.model), torch.no_grad():
            answer = answer_of(self.run(torch.zeros(1, 3, *self.input_size).to(first)))
        return answer.ndim == 3 and answer.shape[1] == found.layout.tokens

    @property
    def isotropic(self) -> Support:
        """Whether every layer sees all tokens; else how many queries and keys one attention of each layer has."""
        if self.given_layout is not None or self.trace().isotropic:
            return YES
        found = self.trace()
        tokens, kinds = found.layout.tokens, list(dict.fromkeys(found.sizes))
        seen = ", ".join(f"{n} x {m}" for n, m in kinds[:6]) + (" and others" if len(kinds) > 6 else "")
        return Support.no(
            msg(
                "models.layers-differ",
                "this model's layers do not all see the same tokens (windows, merging or reduced keys): expected "
                "{tokens} queries x {tokens} keys in each, seen {sizes}",
                tokens=tokens,
                sizes=seen or "no attention in a residual",
            )
        )

    @property
    def depth(self) -> int:
        """The number of attention layers with a residual; 0 where a layout was stated and nothing traced."""
        return 0 if self.given_layout else len(self.trace().layers)

    @cached_property
    def weights(self) -> str:  # type: ignore[override]
        """The SHA-256 of the parameters in memory."""
        return hash_of(self.model)

    def block_map(self, size: tuple[int, int] | None = None) -> BlockMap:
        """Return the blocks and the grids of their tokens at that size; found the first time."""
        if self.given_layout is not None:
            raise UnsupportedError(
                msg("models.blocks-of-given-layout", "the layout was given by the caller: nothing was traced")
            )
        known: dict[tuple[int, int], BlockMap | UnsupportedError] = self.__dict__.setdefault("_block_maps", {})
        size = size or self.input_size
        if size not in known:
            try:
                known[size] = find_block_map(self._at_once, self.model, size, self.trace(size))
            except UnsupportedError as error:
                known[size] = error
        found = known[size]
        if isinstance(found, UnsupportedError):
            raise found
        return found

    def token_order(self) -> Tensor | None:
        """Where the layout's tokens stand among the model's, where they do not stand in its order."""
        return None if self.given_layout else self.trace().order

    def layout(self, size: tuple[int, int] | None = None) -> TokenLayout:
        """The token layout at an input of `(Hi, Wi)` pixels."""
        return self.given_layout or self.trace(size).layout

    def answer(self, pixels: Float[Tensor, "B 3 Hi Wi"]) -> Tensor:
        """What the model answers: class logits, pooled features, or tokens; of all tokens the CLS token."""
        if len(pixels) > 1 and not self.supports_batches:
            return torch.cat([self._at_once(pixels[i : i + 1]) for i in range(len(pixels))])
        return self._at_once(pixels)

    def _at_once(self, pixels: Tensor) -> Tensor:
        answer = answer_of(self.run(pixels))
        return answer if self.cls_index is None or answer.ndim != 3 else answer[:, self.cls_index]

    def classifies(self, answer: Tensor) -> bool:
        """Is this answer class logits?"""
        return self.classes and answer.ndim == 2

    def attention(self, recorder: AttentionRecorder, size: tuple[int, int], answer: Tensor) -> AttentionStore:
        """The store of a forward on pictures of that size: plain blocks, or a chain of operators."""
        logits = answer if self.classifies(answer) else None
        if self.given_layout is not None:
            return recorder.store(self.given_layout, logits=logits, answer=answer)
        found = self.trace(size)
        missing = set(found.layers) - set(recorder.recorded_calls)
        if missing:
            raise CaptureError(f"{len(missing)} of {len(found.layers)} attention calls were not seen in this forward")
        logits = None if logits is None else logits.detach()
        sources = graph_outputs(found, recorder.recorded_calls)
        calls = tuple(CallSite(event, found.heads[event]) for event in found.layers)
        if found.isotropic:
            blocks, pool = layer_blocks(found, recorder.recorded_calls)
            for block in blocks:
                found.layout.check(block.shape[2], f"{block.name} (with batch_size=1, too?)")
            row = found.readout / found.readout.sum() if found.queries is None else found.queries
            known = found.exact and found.queries is None
            start = None if known else torch.from_numpy(row).float().to(blocks[0].device)
            return AttentionStore(blocks, found.layout, logits, pool, None, start, answer, sources, calls)
        chain = operator_chain(self._at_once, self.model, (len(answer), *size), found, recorder.recorded_calls)
        return AttentionStore(chain.blocks, found.layout, logits, None, chain, None, answer, sources, calls)

    def describe(self) -> Mapping[str, str]:
        """Architecture and sizes, in words."""
        found = None if self.given_layout else self.trace()
        seen: dict[str, str] = self.__dict__.get("_seen_as", {})
        facts = {
            "adapter": f"{self.name}, {type(self.model).__name__}",
            "input": self.preprocessing(),
            "made for": f"{self.input_size[0]} x {self.input_size[1]} pixels",
            "classes": str(len(self.labels)) if self.labels else "none known",
        }
        if found is not None:
            facts |= seen
            facts["layers"] = str(len(found.layers)) + (", then attention pooling" if found.pool is not None else "")
            facts["tokens"] = "every layer sees all" if found.isotropic else "windows, merging or reduced keys: a chain"
            if found.differential:
                facts["differential attention"] = _DIFFERENTIAL
            if found.channels:
                facts["channel attention"] = f"{len(found.channels)} calls, left out: it mixes channels, not tokens"
        return facts

    def preprocessing(self) -> str:
        """What happens to a photo, in words."""
        return "the processor that was given"


def answer_of(output: Any) -> Tensor:
    """The tensor that a model's answer is: logits, else pooled features, else the tokens; the CLS token of several."""
    for name in _ANSWERS:
        value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(value, Tensor):
            return value
    while isinstance(output, (tuple, list, Mapping)) and output:
        output = next(iter(output.values())) if isinstance(output, Mapping) else output[0]
    if not isinstance(output, Tensor):
        raise LayoutError(f"the model answers with a {type(output).__name__}: no tensor in it is understood")
    return output


def hash_of(model: nn.Module) -> str:
    """The SHA-256 of all parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return f"sha256:{digest.hexdigest()}"


def _seen_as(recorder: AttentionRecorder) -> dict[str, str]:
    """Heads, and how attention is seen, in words."""
    blocks = recorder.blocks
    heads = " ".join(dict.fromkeys(str(block.shape[1]) for block in blocks))
    fused = sum(isinstance(block, Factored) and block.lse is not None for block in blocks)
    dense = sum(isinstance(block, Dense) for block in blocks)
    kinds = (
        (len(blocks) - dense, f"as queries and keys{f' ({fused} with the kernel sums)' if fused else ''}"),
        (dense, "as the matrix that the model makes"),
    )
    return {"heads": heads, "attention": ", ".join(f"{n} calls seen {how}" for n, how in kinds if n)}
