"""Capture the attention of one forward under any kernel, without a change to the model or its output.

A `TorchFunctionMode` is active during the `with`, on the calling thread only. It sees each call of
`scaled_dot_product_attention` and of `nn.MultiheadAttention`, and each softmax whose result is multiplied with values,
however the model imported them. It records queries and keys (or the matrix, where there are none) and passes the call
on to the same kernel, so the model's output is the same to the last bit. Forward hooks find out which module called;
they are removed at the end, also after an interrupt. Two threads, or two tasks of asyncio, never see each other's
attention, and a forward inside the `with` waits until no other thread of vitscope is at work on the model.
"""

import inspect
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, multi_head_attention_forward, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from vitscope._messages import msg
from vitscope.attention._torch_private import (
    cuda_attention_with_lse,
    flash_is_chosen,
    outer_modes,
    remove_mode,
    traceable,
)
from vitscope.attention.backward import FlashAttention, GraphOutput
from vitscope.attention.blocks import Dense, Factored
from vitscope.attention.changes import Changes
from vitscope.attention.gradient_rules import GradientRule
from vitscope.attention.model_lock import ModelHold
from vitscope.attention.model_modes import suspend_checkpointing, suspend_compiling
from vitscope.attention.recorder import AttentionRecorder, OutputEdit
from vitscope.attention.softmax_tracking import SoftmaxTracker, as_4d, split_heads
from vitscope.errors import CaptureError, UsageError
from vitscope.geometry import TokenLayout

_MULTI_HEAD = inspect.signature(multi_head_attention_forward)
_traceable_multi_head = traceable(multi_head_attention_forward)


def capture(
    model: nn.Module,
    *,
    layout: TokenLayout | None = None,
    gradients: bool = False,
    gradient_rule: GradientRule | None = None,
    values: bool = False,
    edit: OutputEdit | None = None,
) -> AbstractContextManager[AttentionRecorder]:
    """Capture the attention of one forward of any module.

        with vitscope.capture(model) as captured:
            model(pixels)
        captured.attention[-1].rows(slice(None))        # (B, H, N, M) of the last layer, made on demand

    Args:
        model: any `nn.Module`; its output, weights, hooks and modes stay as they are.
        layout: which token is which, for methods that make maps.
        gradients: also keep values and results, for `AttentionStore.differentiate`; the forward must make a graph.
        gradient_rule: the rule by which the graph is made; by default each function has its own gradient.
        values: also keep values, and the weights of the projection that follows attention.
        edit: called with the event numbers, the axes before `(N, D)` and the result of each attention call; may change
            the result in place before the model goes on with it. Nothing is recorded then.

    Cost: no more than the forward itself. Queries and keys of each layer are kept, O(L N D); the matrix of a layer is
    kept only where the model makes it in a way that no queries and keys explain.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(
            msg(
                "attention.not-a-module", "attention is captured of a module, not of {type}", type=type(model).__name__
            ),
            msg("attention.not-a-module.hint", "pass the nn.Module itself: of a Scope its `model`"),
        )
    recorder = AttentionRecorder(model, layout, gradients, values, edit)
    return _captured(_Capture(model, recorder, _CaptureMode(recorder, gradient_rule or GradientRule("plain"))))


@contextmanager
def _captured(capture: "_Capture") -> Iterator[AttentionRecorder]:
    """Undo a capture in a generator: an interrupt where a `with` calls its `__exit__` only delays that."""
    enabled = torch.is_grad_enabled()
    try:
        try:
            yield capture.__enter__()
            capture.ending = True
        except GeneratorExit:  # collected, at any time later: the gradient mode of that time is not its own
            capture.ending = True
            raise
        except BaseException:
            capture.ending = True
            capture.on_exit(partial(torch.set_grad_enabled, enabled))
            raise
        finally:
            capture.undo()
    finally:
        capture.undo()


class _Capture(Changes):
    """The hooks and the mode of one capture; each forward of its thread holds the model until it ends."""

    def __init__(self, model: nn.Module, recorder: AttentionRecorder, mode: "_CaptureMode") -> None:
        super().__init__()
        self._model, self._recorder, self._capture_mode, self._thread = model, recorder, mode, threading.get_ident()
        self._hold, self.ending = ModelHold(model), False

    def undo(self) -> None:
        """End it; the recorder is told where that is not at the end of its own `with`."""
        if not self.ending and self.is_open:
            self._recorder.cut_short = True
        super().undo()

    def __enter__(self) -> AttentionRecorder:  # type: ignore[override]
        try:
            super().__enter__()
            self._begin()
            return self._recorder  # noqa: TRY300 - an interrupt before it leaves the hooks
        except BaseException:
            self.undo()
            raise

    def _begin(self) -> None:
        self.on_exit(self._hold.release)
        self.on_exit(self._recorder._modules.clear)  # a mode that an interrupt in torch left does nothing
        self.on_exit(partial(setattr, self._capture_mode, "ended", True))
        while (modes := outer_modes()) and getattr(modes[-1], "ended", False):  # another thread ended that capture
            remove_mode(modes[-1])
        for name, module in self._model.named_modules():
            if name and next(module.children(), None) is None:
                continue  # a linear layer or a norm; where such a module does call the kernel, its parent is named
            self.hook(module, partial(self._enter, name), before=True)
            self.hook(module, self._leave, always_call=True)
        suspend_compiling(self)
        if self._recorder.gradients:
            suspend_checkpointing(self)
        self.mode(self._capture_mode)

    def _enter(self, name: str, _module: nn.Module, _args: Any) -> None:
        """Note, as a forward pre-hook, that this module's forward begins."""
        if threading.get_ident() == self._thread and self.is_open:
            if not self._recorder._modules:
                self._hold.acquire()
            self._recorder._forwards += not name
            self._recorder._modules.append(name)

    def _leave(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        """Note, as a forward hook, that this module's forward ends."""
        if threading.get_ident() == self._thread and self.is_open:
            self._recorder._modules.pop()
            if not self._recorder._modules:
                self._hold.release()


class _CaptureMode(TorchFunctionMode):
    """Passes every torch function on, and records the inputs of attention calls."""

    ended = False

    def __init__(self, recorder: AttentionRecorder, gradient_rule: GradientRule) -> None:
        super().__init__()
        self._recorder, self._gradient_rule = recorder, gradient_rule
        self._softmax_tracker = SoftmaxTracker(
            recorder._next_event, lambda: recorder._module, recorder._record, recorder._refuse, gradient_rule
        )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._recorder._modules:
            return func(*args, **kwargs)
        if func is scaled_dot_product_attention:
            return self._fused(*args, **kwargs)
        if func is multi_head_attention_forward:
            return self._multi_head(args, kwargs)
        if func is linear and self._recorder._unprojected is not None:
            self._recorder._record_projection(args[0], args[1])
        return self._softmax_tracker(func, args, kwargs)

    def _multi_head(self, args: Any, kwargs: Any) -> Any:
        if _traceable_multi_head is None:
            return self._opaque_multi_head(args, kwargs)
        with self:  # the calls inside are recorded one by one
            out = _traceable_multi_head(*args, **kwargs)
        heads = args[4] if len(args) > 4 else kwargs["num_heads"]
        for recorder in (self._recorder, *_outer_recorders()):
            mine = recorder is self._recorder  # an outer one also sees the softmaxes by which this one checks its own
            event = recorder._event if mine else max(recorder.recorded_calls, default=-1)
            call = recorder.recorded_calls.get(event)
            if call is not None and len(call.lead) == 1:
                block, output = split_heads(call.block, heads), call.output
                if output is not None:
                    output = GraphOutput(output.tensors, lambda x: x.reshape(-1, heads, *x.shape[-2:]))
                recorder._record((event,), block, block.shape[:2], block.v, output)
        return out

    def _opaque_multi_head(self, args: Any, kwargs: Any) -> Any:
        """Record the matrix that the function returns, where its code cannot be traced."""
        if self._recorder.gradients or self._gradient_rule.name != "plain":
            raise CaptureError.coded(
                "attention.opaque-multi-head",
                "gradients inside nn.MultiheadAttention cannot be followed with torch {version}",
                "choose a method without gradients or another version of torch",
                version=torch.__version__,
            )
        options = _MULTI_HEAD.bind(*args, **kwargs)
        options.apply_defaults()
        need_weights, mean = options.arguments["need_weights"], options.arguments["average_attn_weights"]
        options.arguments |= {"need_weights": True, "average_attn_weights": False}
        out, weights = multi_head_attention_forward(*options.args, **options.kwargs)
        assert weights is not None
        block = Dense(self._recorder._module, as_4d(weights).detach())
        self._recorder._record((self._recorder._next_event(),), block, block.shape[:2], None, None)
        return out, (weights.mean(-3) if mean else weights) if need_weights else None

    def _nested(self, query: Tensor, key: Tensor, value: Tensor, *options: Any, **more: Any) -> Tensor:
        """Run the kernel on nested tensors, as NaViT does, and record plain ones of the same numbers.

        Raises:
            CaptureError: images of several sizes, or gradients, whose graph would be that of other tensors.
        """
        recorder = self._recorder
        plain = [_one_length(x.detach()) for x in (query, key, value)]
        if any(x is None for x in plain) or options[0] is not None or recorder.gradients or recorder._edit is not None:
            raise CaptureError.coded(
                "attention.nested",
                "{module} computes attention of nested tensors, which is known of images of one size, without "
                "gradients",
                "give it images of one size, and record attention without gradients",
                module=recorder._module,
            )
        recorder.nested = recorder._module
        self._fused(*cast(Any, plain), *options, **more)
        return scaled_dot_product_attention(query, key, value, *options, **more)

    def _fused(
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
        self._recorder.require_numbers()
        name = self._recorder._module
        if query.is_nested:
            return self._nested(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        if dropout_p:
            problem = msg(
                "attention.dropout",
                "{module} drops attention weights with probability {probability}: the model is in training mode",
                module=name,
                probability=f"{dropout_p:g}",
            )
            raise CaptureError(problem, msg("attention.dropout.hint", "call model.eval() first"))
        if is_causal and attn_mask is None:  # as in AIM and iGPT; torch takes no other mask beside it
            attn_mask, is_causal = query.new_ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril(), False
        q, k, v = self._gradient_rule.attention_inputs(query, key, value)
        plain = attn_mask is None and not enable_gqa and not torch.is_autocast_enabled(query.device.type)
        plain = plain and not _outer_recorders()  # which see the function, and not the kernel
        out: Tensor
        lse: Tensor | None = None
        if plain and flash_is_chosen(query, key, value, scale):  # the caller's tensors decide about the kernel
            out, lse = cast(tuple[Tensor, Tensor], FlashAttention.apply(q, k, v, scale))
        elif plain and (found := cuda_attention_with_lse((query, key, value), (q, k, v), scale)) is not None:
            out, lse = found
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
            q=self._recorder.keep(as_4d(query.detach())),
            k=self._recorder.keep(as_4d(key.expand(*lead, *key.shape[-2:]).detach())),
            scale=query.shape[-1] ** -0.5 if scale is None else scale,
            bias=None if bias is None else as_4d(bias),
            lse=None if lse is None else lse.detach(),
        )
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3) if enable_gqa else value
        value = as_4d(value.expand(*lead, *value.shape[-2:]))
        self._recorder._record((self._recorder._next_event(),), block, lead, value, GraphOutput((out,), as_4d))
        return out


def _one_length(nested: Tensor) -> Tensor | None:
    """Return a nested tensor as a plain one; None where its parts are not of one length."""
    parts = nested.unbind()
    return torch.stack(parts) if len({part.shape for part in parts}) == 1 else None


def _outer_recorders() -> list[AttentionRecorder]:
    """Return the recorders of the captures around this one, on this thread, whose model is at work."""
    outer = [mode._recorder for mode in outer_modes() if isinstance(mode, _CaptureMode)]
    return [recorder for recorder in outer if recorder._modules]


def _additive(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """Return a mask as a float bias, with as many axes as `query`."""
    if mask is None:
        return None
    mask = mask.detach()
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, float("-inf"))
    mask = mask.reshape((1,) * (query.ndim - mask.ndim) + mask.shape)
    return mask if mask.dtype == torch.float64 else mask.float()
