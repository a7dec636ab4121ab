"""The record of one forward's attention calls, from which its AttentionStore is made."""

import ctypes
import mmap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from vitscope._messages import msg
from vitscope.attention._torch_private import in_torch_func
from vitscope.attention.backward import GraphOutput
from vitscope.attention.blocks import Dense, Factored
from vitscope.attention.softmax_tracking import as_4d
from vitscope.attention.store import AttentionStore, CallSite
from vitscope.errors import CaptureError
from vitscope.geometry import TokenLayout

OutputEdit: TypeAlias = Callable[[frozenset[int], tuple[int, ...], GraphOutput | None], None]


_LARGE, _HUGE = 2**20, 6 * 2**20  # bytes
_FROM_HEAP, _RESERVED = 31 * 2**20, 256 * 2**20  # at a time; glibc takes blocks of 32 MB from the system each time


class KeptTensors:
    """Memory for large tensors that a forward leaves behind, apart from what it allocates and frees meanwhile.

    Left among the forward's own, they would cut its free memory into pieces too small for the next layer; and queries
    and keys that are views would hold what they are views of, such as the values. A copy costs about a hundredth of
    the attention of so many tokens. Memory is reserved for many at once: for huge tensors from the system, which gives
    it back, and for others in blocks that the allocator may keep for the next forward, as new memory costs a tenth of a
    forward at 518 pixels where a virtual machine gives it slowly.
    """

    def __init__(self) -> None:
        self._rest: dict[torch.dtype, Tensor] = {}

    def keep(self, x: Tensor) -> Tensor:
        """Return a copy of a large tensor on the CPU, and any other as it is."""
        if x.device.type != "cpu" or x.nbytes < _LARGE:
            return x
        rest = self._rest.get(x.dtype)
        if rest is None or len(rest) < x.numel():
            huge = x.nbytes >= _HUGE
            reserved = (_RESERVED if huge else _FROM_HEAP) // x.element_size()
            rest = torch.empty(max(reserved, x.numel()), dtype=x.dtype)
            if huge:
                _use_large_pages(rest)
        self._rest[x.dtype] = rest[x.numel() :]
        return rest[: x.numel()].view(x.shape).copy_(x)


def _use_large_pages(x: Tensor) -> None:
    """Let Linux give memory that was not written to yet in pages of 2 MB, where it does so on demand.

    The first write to each of 500 pages of 4 kB takes longer together than the copy of what is written.
    """
    number = getattr(mmap, "MADV_HUGEPAGE", None)
    if number is not None and (advise := getattr(ctypes.CDLL(None), "madvise", None)) is not None:
        first = -(-x.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        advise(ctypes.c_void_p(first), ctypes.c_size_t(x.data_ptr() + x.nbytes - first), number)


@dataclass(frozen=True, eq=False)
class RecordedCall:
    """One attention call of the forward.

    Attributes:
        block: its attention, the axes before the heads folded into one.
        lead: the sizes of the axes before `(N, D)` as the model had them, `(B, H)` as a rule.
        output: the call's result in the autograd graph, where gradients are captured.
    """

    block: Factored | Dense
    lead: tuple[int, ...]
    output: GraphOutput | None = None


class AttentionRecorder:
    """What `capture` yields; `attention` is the AttentionStore of the forward that ran in the `with`.

    Attributes:
        recorded_calls: each attention call by its event number: its number among the forward's softmaxes and attention
            calls. A call with several softmaxes is listed under each of them.
        gradients: whether values and results are kept for `AttentionStore.differentiate`.
        nested: the module that computed attention of nested tensors last; empty for none.
        on_values: called with the values `(B, H, M, E)` of each attention call as it is recorded, with their graph.
    """

    nested: str = ""
    on_values: Callable[[Tensor], None] | None = None

    def __init__(
        self,
        model: nn.Module,
        layout: TokenLayout | None = None,
        gradients: bool = False,
        values: bool = False,
        edit: OutputEdit | None = None,
    ) -> None:
        self._model, self._layout, self._values, self.gradients = model, layout, values, gradients
        self._edit = edit
        self._kept_tensors = KeptTensors()
        self._unprojected: tuple[tuple[int, ...], Tensor] | None = None  # the last call's events and result
        self.recorded_calls: dict[int, RecordedCall] = {}
        self._event = -1
        self._modules: list[str] = []  # the modules whose forward is running, outermost first
        self._forwards = 0
        self.cut_short = False  # it was ended before its own `with`
        self._refused: list[str] = []  # modules whose attention was seen, but is not what a layer attends to

    @property
    def attention(self) -> AttentionStore:
        """The attention of the forward that ran in the `with`.

        Raises:
            CaptureError: no attention call was made, or more than one forward ran.
            LayoutError: the layout given to `capture` does not have as many tokens as the attention.
        """
        return self.store()

    def store(
        self,
        layout: TokenLayout | None = None,
        *,
        logits: Tensor | None = None,
        depth: int | None = None,
        answer: Tensor | None = None,
    ) -> AttentionStore:
        """Return the attention of the forward that ran in the `with`, together with what else is known of it.

        Args:
            layout: which token is which; by default the layout given to `capture`. Without one the store gives rows of
                attention, but no maps.
            logits: the model's class scores, stored beside the attention.
            depth: how many self-attention calls the model must have made.
            answer: the model's answer with its graph, from which scores are made.

        Raises:
            CaptureError: no attention call was made, not `depth` calls were made, or more than one forward ran.
            LayoutError: the layout does not have as many tokens as the attention.
        """
        layout, blocks, model = layout or self._layout, self.blocks, type(self._model).__name__
        self.check()
        if self._forwards > 1:
            raise CaptureError(
                msg("attention.several-forwards", "{count} forwards ran inside one capture", count=self._forwards),
                msg("attention.several-forwards.hint", "use one `with` for each forward"),
            )
        if not blocks and not self._forwards:
            raise CaptureError(
                msg("attention.no-forward", "no forward of {model} ran inside the capture", model=model),
                msg("attention.no-forward.hint", "call the model inside the `with`"),
            )
        if not blocks:
            raise CaptureError.coded(
                "attention.no-call",
                """{model} made no attention call that is recognised:
                    torch.nn.functional.scaled_dot_product_attention, nn.MultiheadAttention, or a softmax over the last
                    axis of three or more, multiplied with values as it is""",
                """vitscope explains models that compute attention in one of these ways, as Vision Transformers do
                    and convolutional networks do not; a transformers model needs
                    model.set_attn_implementation('sdpa')""",
                model=model,
            )
        if depth is not None and len(blocks) != depth:
            raise CaptureError.coded(
                "attention.wrong-depth",
                "{model} made {count} attention calls, but {depth} were expected",
                "the calls came from {names}",
                model=model,
                count=len(blocks),
                depth=depth,
                names=", ".join(block.name for block in blocks),
            )
        if layout is not None:
            for block in blocks:
                layout.check(block.shape[2], block.name)
        outputs = tuple(call.output for call in self.recorded_calls.values() if call.output is not None)
        return AttentionStore(
            blocks,
            layout,
            None if logits is None else logits.detach(),
            answer=answer,
            outputs=outputs if len(outputs) == len(blocks) else (),
            call_sites=self.call_sites,
        )

    def check(self) -> None:
        """Raise a CaptureError where attention was seen that cannot be recorded, or was not seen to the end."""
        if self.cut_short:
            raise CaptureError.coded(
                "attention.cut-short",
                "a capture that began earlier ended inside the `with` of this one, and ended it too",
                "end captures in the reverse order of their beginnings, or run each in a task or thread of its own",
            )
        if self._refused:
            raise CaptureError.coded(
                "attention.reweighted",
                "{module} changes single weights after its softmax and does not normalise them again: its rows no "
                "longer sum to one, so what it attends to is not known",
                "mask the scores before the softmax, or divide the rows by their sums after it",
                module=self._refused[0],
            )

    @property
    def blocks(self) -> tuple[Factored | Dense, ...]:
        """The blocks recorded so far, in the order of their calls."""
        return tuple({id(call.block): call.block for _, call in sorted(self.recorded_calls.items())}.values())

    @property
    def call_sites(self) -> tuple[CallSite, ...]:
        """The call site of each block."""
        first: dict[int, CallSite] = {}
        for event, call in sorted(self.recorded_calls.items()):
            first.setdefault(id(call.block), CallSite(event, len(call.lead) - 1))
        return tuple(first.values())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self._model).__name__}, {len(self.blocks)} attention calls)"

    def _record_projection(self, x: Tensor, weight: Tensor) -> None:
        """Record a linear map's weight if its input is the last call's result, heads side by side."""
        assert self._unprojected is not None
        events, out = self._unprojected
        h, e = out.shape[1], out.shape[3]
        if x.shape[-1] != h * e or x.numel() != out.numel():
            return
        if torch.equal(x.reshape(-1, h * e)[0], out[0, :, 0].reshape(-1)):
            for event in events:
                call = self.recorded_calls[event]
                self.recorded_calls[event] = replace(call, block=replace(call.block, project=weight.detach()))
        self._unprojected = None

    @property
    def _module(self) -> str:
        """The name of the module whose forward is running."""
        return self._modules[-1] or type(self._model).__name__

    def keep(self, x: Tensor) -> Tensor:
        """Return queries or keys in a form that may outlive the forward; a graph holds them in any case."""
        return x if self.gradients or self._edit is not None else self._kept_tensors.keep(x)

    def _refuse(self, module: str) -> None:
        self._refused.append(module)

    def require_numbers(self) -> None:
        """Raise a CaptureError inside torch.func."""
        if in_torch_func():
            raise CaptureError.coded(
                "attention.in-torch-func",
                "{module} computes attention inside torch.func (vmap, grad), where its numbers cannot be read",
                "compute it for all heads and images at once, without vmap",
                module=self._module,
            )

    def _next_event(self) -> int:
        self.require_numbers()
        self._event += 1
        return self._event

    def _record(
        self,
        events: Iterable[int],
        block: Factored | Dense,
        lead: Any,
        value: Tensor | None,
        output: GraphOutput | None,
        softmax: Tensor | None = None,
    ) -> None:
        """Record one attention call, or let `edit` change its result.

        Args:
            events: the numbers of its softmaxes.
            block: its attention.
            lead: the sizes of the axes before `(N, D)`.
            value: its values `(B, H, M, E)`; None where heads share them.
            output: its result in the graph.
            softmax: the softmax that the block holds, where no value belongs to one head, as in a model that mixes
                heads after the softmax: the gradient is then that of the softmax itself.
        """
        if self.on_values is not None and value is not None:
            self.on_values(value)
        if self._edit is not None:
            self._edit(frozenset(events), tuple(lead), output)
            return
        if softmax is not None:
            output = None
            if self.gradients and softmax.requires_grad:
                identity = torch.eye(softmax.shape[-1], dtype=softmax.dtype, device=softmax.device)
                block = replace(block, v=identity.expand(*block.shape[:2], -1, -1))
                output = GraphOutput((softmax,), as_4d)
        elif self.gradients and value is not None and output is not None and output.tensors[0].requires_grad:
            block = replace(block, v=value.detach())
        else:
            block = replace(block, v=value.detach()) if self._values and value is not None else block
            self._unprojected = None
            if self._values and output is not None:
                self._unprojected = tuple(events), output.arrange(*output.tensors)
            output = None
        for event in events:
            self.recorded_calls[event] = RecordedCall(block, tuple(lead), output)
