"""Seeing attention under any kernel, and leaving no trace.

A `TorchFunctionMode` is active for the length of a `with`, on the calling thread only. It sees each call of
`scaled_dot_product_attention` and of `nn.MultiheadAttention`, and each softmax whose result is multiplied with values,
however the model imported them; it keeps queries and keys (or, where there are none, the matrix) and passes the call on
to the same kernel, so the model's output is the same to the last bit. Forward hooks tell which module called; they are
removed on the way out, also after an exception. Nothing process-wide is changed, so two threads never see each other's
attention.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.nn.functional import linear, multi_head_attention_forward, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from vitscope.attention import AttentionStore, CallSite, Dense, Factored, GraphOutput
from vitscope.attention.gradient_rules import GradientRule
from vitscope.attention.softmax_tracking import SoftmaxTracker, four, multi_head_inside, split_heads
from vitscope.errors import CaptureError
from vitscope.geometry import TokenLayout

__all__ = ["AttentionRecorder", "OutputEdit", "RecordedCall", "capture", "evaluating", "frozen", "uncompiled"]


OutputEdit: TypeAlias = Callable[[frozenset[int], tuple[int, ...], GraphOutput | None], None]


@dataclass(frozen=True, eq=False)
class RecordedCall:
    """One attention call of the forward.

    Attributes:
        block: its attention, the axes before the heads folded into one.
        lead: the axes before `(N, D)` as the model had them, `(B, H)` as a rule.
        source: where its result stands in the graph, where gradients are wanted.
    """

    block: Factored | Dense
    lead: tuple[int, ...]
    source: GraphOutput | None = None


class AttentionRecorder:
    """What a capture saw: call it to get the AttentionStore."""

    def __init__(
        self,
        model: nn.Module,
        layout: TokenLayout | None = None,
        gradients: bool = False,
        values: bool = False,
        edit: OutputEdit | None = None,
    ) -> None:
        self._model, self._layout, self._gradients, self._values = model, layout, gradients, values
        self._edit = edit
        self._last: tuple[tuple[int, ...], Tensor] | None = None
        self.seen: dict[int, RecordedCall] = {}
        self._event = -1
        self._inside: list[str] = []
        self._forwards = 0

    def __call__(
        self,
        layout: TokenLayout | None = None,
        *,
        logits: Tensor | None = None,
        depth: int | None = None,
        answer: Tensor | None = None,
    ) -> AttentionStore:
        """The attention of the one forward that ran inside the `with`.

        Args:
            layout: which token is which, where the `with` was not told; without it rows can be had, but no maps.
            logits: the model's class scores, kept beside the attention.
            depth: how many self-attention calls the model must have made.
            answer: what scores are made from, with its graph.

        Raises:
            CaptureError: nothing was seen, not `depth` calls were seen, or more than one forward ran.
            LayoutError: the layout does not have as many tokens as the attention.
        """
        layout = layout or self._layout
        if self._forwards > 1:
            raise CaptureError(f"{self._forwards} forwards ran inside one capture", "use one `with` for each forward")
        blocks = self.blocks
        if not blocks:
            raise CaptureError(
                f"no attention was seen in {type(self._model).__name__}: it called neither "
                "torch.nn.functional.scaled_dot_product_attention nor nn.MultiheadAttention, and multiplied no softmax "
                "with values",
                "run the forward inside the `with`; a transformers model needs model.set_attn_implementation('sdpa')",
            )
        if depth is not None and len(blocks) != depth:
            raise CaptureError(
                f"{len(blocks)} attention calls were seen in {type(self._model).__name__}, {depth} were expected",
                f"seen: {', '.join(block.name for block in blocks)}",
            )
        if layout is not None:
            for block in blocks:
                layout.check(block.shape[2], block.name)
        sources = tuple(seen.source for seen in self.seen.values() if seen.source is not None)
        logits = None if logits is None else logits.detach()
        return AttentionStore(
            blocks,
            layout,
            logits,
            answer=answer,
            sources=sources if len(sources) == len(blocks) else (),
            calls=self.calls,
        )

    @property
    def blocks(self) -> tuple[Factored | Dense, ...]:
        """The attention seen so far, in the order of its calls."""
        return tuple({id(seen.block): seen.block for _, seen in sorted(self.seen.items())}.values())

    @property
    def calls(self) -> tuple[CallSite, ...]:
        """Which calls they were."""
        first: dict[int, CallSite] = {}
        for event, seen in sorted(self.seen.items()):
            first.setdefault(id(seen.block), CallSite(event, len(seen.lead) - 1))
        return tuple(first.values())

    def _projected(self, given: Tensor, weight: Tensor) -> None:
        """A linear map: keep its weight if what it is given are the last heads' results, side by side."""
        assert self._last is not None
        events, out = self._last
        h, e = out.shape[1], out.shape[3]
        if given.shape[-1] != h * e or given.numel() != out.numel():
            return
        first = given.reshape(-1, h * e)[0]
        if torch.equal(first, out[0, :, 0].reshape(-1)):
            for event in events:
                seen = self.seen[event]
                self.seen[event] = replace(seen, block=replace(seen.block, project=weight.detach()))
        self._last = None

    @property
    def _where(self) -> str:
        return self._inside[-1] or type(self._model).__name__

    def _next(self) -> int:
        self._event += 1
        return self._event

    def _keep(
        self,
        events: Iterable[int],
        block: Factored | Dense,
        lead: Any,
        value: Tensor | None,
        source: GraphOutput | None,
        mixed: Tensor | None = None,
    ) -> None:
        """One attention call; `mixed` is the softmax that the block holds, where heads are mixed after it."""
        if self._edit is not None:
            self._edit(frozenset(events), tuple(lead), source)
            return
        if mixed is not None:  # no value belongs to one of these heads: the gradient is taken of the softmax itself
            source = None
            if self._gradients and mixed.requires_grad:
                own = torch.eye(mixed.shape[-1], dtype=mixed.dtype, device=mixed.device)
                block = replace(block, v=own.expand(*block.shape[:2], -1, -1))
                source = GraphOutput(mixed, four)
        elif self._gradients and value is not None and source is not None and source.out.requires_grad:
            block = replace(block, v=value.detach())
        else:
            block = replace(block, v=value.detach()) if self._values and value is not None else block
            self._last = None
            if self._values and source is not None:
                self._last = tuple(events), source.place(source.out)
            source = None
        for event in events:
            self.seen[event] = RecordedCall(block, tuple(lead), source)


@contextmanager
def capture(
    model: nn.Module,
    *,
    layout: TokenLayout | None = None,
    gradients: bool = False,
    correction: GradientRule | None = None,
    values: bool = False,
    edit: OutputEdit | None = None,
) -> Iterator[AttentionRecorder]:
    """See the attention of one forward of any module.

        with vitscope.capture(model) as store_of:
            model(pixels)
        store_of()[-1].rows(slice(None))        # (B, H, N, M) of the last layer, made on demand

    Args:
        model: any `nn.Module`; its output, weights, hooks and modes are as they were.
        layout: which token is which, for methods that draw maps.
        gradients: also keep values and results, for `AttentionStore.differentiate`; the forward must make a graph.
        values: also keep values, and the weights of the projection that follows attention.
        correction: rules by which that graph is made; none are the functions' own gradients.
        edit: called with the event numbers, the axes before `(N, D)` and the result of each attention call, which it
            may change in place before the model goes on with it; then nothing is kept.

    Cost: no more than the forward itself; queries and keys of each layer are kept, O(L N D). Only where the model makes
    its attention matrix in a way that no queries and keys explain, the matrix itself is kept.
    """
    store_of = AttentionRecorder(model, layout, gradients, values, edit)
    thread = threading.get_ident()
    handles = []

    try:
        for name, module in model.named_modules():
            if name and next(module.children(), None) is None:
                continue  # a linear layer or a norm; where such a module does call the kernel, its parent is named
            handles.append(module.register_forward_pre_hook(partial(_enter, store_of, thread, name)))
            handles.append(module.register_forward_hook(partial(_leave, store_of, thread), always_call=True))
        with uncompiled(model), _Watch(store_of, correction or GradientRule("plain")):
            yield store_of
    finally:
        for handle in handles:
            handle.remove()


def _enter(store_of: AttentionRecorder, thread: int, name: str, _module: nn.Module, _args: Any) -> None:
    """A forward pre-hook: the model's forward is inside this module now."""
    if threading.get_ident() == thread:
        store_of._forwards += not name
        store_of._inside.append(name)


def _leave(store_of: AttentionRecorder, thread: int, _module: nn.Module, _args: Any, _output: Any) -> None:
    """A forward hook: and outside again."""
    if threading.get_ident() == thread:
        store_of._inside.pop()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for gradients for the length of a `with`, so that only the pixels carry a graph."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


_PLAIN = (bool, int, float, str, tuple)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) for the length of a `with`; each submodule gets its own mode back.

    So are its other plain attributes: some models note the size of the last picture in them (transformers' Swin makes
    its windows smaller for good when it sees a small picture).
    """
    plain = {module: {k: v for k, v in vars(module).items() if isinstance(v, _PLAIN)} for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, attributes in plain.items():
            vars(module).update(attributes)


class _Watch(TorchFunctionMode):
    """Passes every torch function on, and keeps what attention calls were given."""

    def __init__(self, store_of: AttentionRecorder, correction: GradientRule) -> None:
        super().__init__()
        self._store_of, self._correction = store_of, correction
        self._explicit = SoftmaxTracker(store_of._next, lambda: store_of._where, store_of._keep, correction)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._store_of._inside:
            return func(*args, **kwargs)
        if func is scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func is multi_head_attention_forward:
            return self._multi_head(args, kwargs)
        if func is linear and self._store_of._last is not None:
            self._store_of._projected(args[0], args[1])
        return self._explicit(func, args, kwargs)

    def _multi_head(self, args: Any, kwargs: Any) -> Any:
        with self:  # what happens inside is one of the calls that are seen
            out = multi_head_inside(*args, **kwargs)
        event, heads = self._store_of._event, args[4] if len(args) > 4 else kwargs["num_heads"]
        seen = self._store_of.seen.get(event)
        if seen is not None and len(seen.lead) == 1:
            block, source = split_heads(seen.block, heads), seen.source
            if source is not None:
                source = GraphOutput(source.out, lambda x: x.reshape(-1, heads, *x.shape[-2:]))
            self._store_of._keep((event,), block, block.shape[:2], block.v, source)
        return out

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        name = self._store_of._where
        if is_causal or dropout_p:
            raise CaptureError(
                f"{name} attends {'causally' if is_causal else f'with dropout {dropout_p}'}: "
                "that is not the attention of a Vision Transformer being evaluated",
                "call model.eval() first" if dropout_p else "capture the image tower alone",
            )
        plain = attn_mask is None and not enable_gqa and not torch.is_autocast_enabled(query.device.type)
        out: Tensor
        lse: Tensor | None = None
        q, k, v = self._correction.attended(query, key, value)
        if plain and query.ndim == 4 and query.device.type == "cpu" and _would_flash(query, key, value, scale):
            # the kernel that the public function would choose here; called by its own name it also gives the
            # log-sum-exp of each row, which saves rollout a softmax pass
            kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            out, lse = kernel(q, k, v, scale=scale)
        else:
            out = scaled_dot_product_attention(
                q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3) if enable_gqa else key
        bias, lead = _additive(attn_mask, query), query.shape[:-2]
        if query.ndim > 4 and bias is not None:
            bias = bias.expand(*lead, *bias.shape[-2:])
        block = Factored(
            name=name,
            q=four(query.detach()),
            k=four(key.expand(*lead, *key.shape[-2:]).detach()),
            scale=query.shape[-1] ** -0.5 if scale is None else scale,
            bias=None if bias is None else four(bias),
            lse=None if lse is None else lse.detach(),
        )
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3) if enable_gqa else value
        value = four(value.expand(*lead, *value.shape[-2:]))
        self._store_of._keep((self._store_of._next(),), block, lead, value, GraphOutput(out, four))
        return out


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """A compiled model runs its own Python code meanwhile: compiled code cannot be watched."""
    with ExitStack() as stack:
        compiled = any(getattr(m, "_compiled_call_impl", None) for m in model.modules()) or hasattr(model, "_orig_mod")
        if compiled and "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def _would_flash(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> bool:
    choice: int = torch._fused_sdp_choice(query, key, value, scale=scale)
    return choice == SDPBackend.FLASH_ATTENTION.value


def _additive(mask: Tensor | None, query: Tensor) -> Tensor | None:
    if mask is None:
        return None
    mask = mask.detach()
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, float("-inf"))
    mask = mask.reshape((1,) * (query.ndim - mask.ndim) + mask.shape)
    return mask if mask.dtype == torch.float64 else mask.float()
