"""Every private or undocumented part of torch that vitscope relies on, each with what happens where torch changes it.

`tests/attention/test_torch_private.py` has a canary for each part, which fails when torch changes it, and tests each
fallback.
"""

import types
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.nn.functional import multi_head_attention_forward

__all__ = ["DisableTensorSubclass", "flash_attention_with_lse", "is_compiled", "traceable", "unwrap_compiled"]

# Part 1: the CPU kernel behind scaled_dot_product_attention, and the function that chooses it.


def flash_attention_with_lse(
    call: tuple[Tensor, Tensor, Tensor], inputs: tuple[Tensor, Tensor, Tensor], scale: float | None
) -> tuple[Tensor, Tensor] | None:
    """Run the kernel that `scaled_dot_product_attention(*call, scale=scale)` would choose on the CPU.

    Called by its own name, the kernel also returns the log-sum-exp of each row, which saves rollout a softmax pass.

    Args:
        call: query, key and value as the model passed them; they decide about the kernel.
        inputs: the same numbers, maybe with other gradients; the kernel runs on these.
        scale: as in the public function.

    Returns:
        The result `(B, H, N, E)` and the log-sum-exp `(B, H, N)`. None where the public function would choose another
        kernel or this torch lacks the kernel: call the public function then, and attention is normalised by a softmax.
    """
    choose = getattr(torch, "_fused_sdp_choice", None)
    kernel = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    if choose is None or kernel is None or any(x.ndim != 4 or x.device.type != "cpu" for x in call):
        return None
    if choose(*call, scale=scale) != SDPBackend.FLASH_ATTENTION.value:
        return None
    out, lse = kernel(*inputs, scale=scale)
    return out, lse


# Part 2: has_torch_function, a global that nn.functional's code looks up when it runs.


def traceable(function: Callable[..., Any] = multi_head_attention_forward) -> Callable[..., Any] | None:
    """Return the same code as `function`, in which an active mode sees each torch call instead of the whole function.

    None where this torch's function is not Python code that asks `has_torch_function`: a mode then sees only the whole
    function, and capture asks it for its attention matrix.
    """
    code = getattr(function, "__code__", None)
    if code is None or "has_torch_function" not in code.co_names:
        return None
    function = cast(types.FunctionType, function)
    names = {**function.__globals__, "has_torch_function": lambda _tensors: False}
    copy = types.FunctionType(code, names, function.__name__, function.__defaults__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


# Part 3: the attributes by which a compiled module is recognised. Without them a compiled model counts as a plain one:
# capture then reports that it made no attention call.


def is_compiled(model: nn.Module) -> bool:
    """Return whether `torch.compile` or `Module.compile` was applied to the model or a part of it."""
    parts = any(getattr(module, "_compiled_call_impl", None) for module in model.modules())
    return parts or unwrap_compiled(model) is not model


def unwrap_compiled(model: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` wrapped, or the model itself."""
    return cast(nn.Module, getattr(model, "_orig_mod", model))


# Part 4: a context in which tensor subclasses are treated as plain tensors. The older name also suspends modes.

DisableTensorSubclass: Any = getattr(torch._C, "DisableTorchFunctionSubclass", None) or torch._C.DisableTorchFunction

# Part 5, without code here: nn.MultiheadAttention and nn.TransformerEncoderLayer leave their fused path while a mode is
# active. Otherwise capture would report that the model made no attention call.
