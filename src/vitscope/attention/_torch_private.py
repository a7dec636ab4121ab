"""Every private or undocumented part of torch that vitscope relies on, each with what happens where torch changes it.

`tests/attention/test_torch_private.py` has a canary for each part, which fails when torch changes it, and tests each
fallback.
"""

import itertools
import types
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.nn.functional import multi_head_attention_forward
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode

# Part 1: the CPU kernel behind scaled_dot_product_attention, and the function that chooses it.


def flash_kernels() -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """Return the kernel and its backward, or None where this torch lacks one of them.

    Called by its own name, the kernel also returns the log-sum-exp of each row, which saves rollout a softmax pass.
    """
    name = "_scaled_dot_product_flash_attention_for_cpu"
    kernel, backward = (getattr(torch.ops.aten, name + end, None) for end in ("", "_backward"))
    return None if kernel is None or backward is None else (kernel, backward)


def flash_is_chosen(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> bool:
    """Return whether `scaled_dot_product_attention` would run that kernel.

    False where the public function would choose another kernel or this torch lacks the kernel: call the public function
    then, and attention is normalised by a softmax.
    """
    choose = getattr(torch, "_fused_sdp_choice", None)
    if choose is None or flash_kernels() is None:
        return False
    if any(x.ndim != 4 or x.device.type != "cpu" for x in (query, key, value)):
        return False
    return bool(choose(query, key, value, scale=scale) == SDPBackend.FLASH_ATTENTION.value)


# Part 1b: the kernels behind it on CUDA, by the choice, with what they are given after query, key and value.

CUDA_KERNELS: dict[int, tuple[str, tuple[Any, ...]]] = {
    SDPBackend.FLASH_ATTENTION.value: ("_scaled_dot_product_flash_attention", ()),
    SDPBackend.EFFICIENT_ATTENTION.value: ("_scaled_dot_product_efficient_attention", (None, True)),
    SDPBackend.CUDNN_ATTENTION.value: ("_scaled_dot_product_cudnn_attention", (None, True)),
}
_CUDA = "cuda"
_returns_lse: dict[tuple[int, torch.dtype], bool] = {}  # of kernels that have run: whether it is what it should be


def cuda_attention_with_lse(
    call: tuple[Tensor, Tensor, Tensor], inputs: tuple[Tensor, Tensor, Tensor], scale: float | None
) -> tuple[Tensor, Tensor] | None:
    """Run the kernel that `scaled_dot_product_attention(*call, scale=scale)` would choose on CUDA.

    A kernel's first result in a process, for each dtype, is compared with scores of the first and the last query:
    vitscope was not run on CUDA by its developers, and another log-sum-exp would make another map.

    Args:
        call: query, key and value as the model passed them; they decide about the kernel.
        inputs: the same numbers, maybe with other gradients; the kernel runs on these.
        scale: as in the public function.

    Returns:
        The result `(B, H, N, E)` and the log-sum-exp `(B, H, N)`. None where the public function would choose another
        kernel, pad the heads, or the kernel returns no log-sum-exp: call the public function then.
    """
    choose = getattr(torch, "_fused_sdp_choice", None)
    if choose is None or any(x.ndim != 4 or x.device.type != _CUDA or x.shape[-1] % 8 for x in call):
        return None
    query, key, _ = inputs
    chosen = choose(*call, scale=scale)
    name, options = CUDA_KERNELS.get(chosen, ("", ()))
    kernel = getattr(torch.ops.aten, name, None) if name else None
    seen = _returns_lse.get((chosen, query.dtype))
    if kernel is None or seen is False:
        return None
    out, lse = kernel(*inputs, *options, scale=scale)[:2]
    lse = lse.flatten(2)[..., : query.shape[2]]  # one of them pads it
    if seen is None:
        some = query.detach()[:, :, :: max(1, query.shape[2] - 1)].float()
        scores = some @ key.detach().float().mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        expected = scores.logsumexp(-1)
        found = lse[..., :: max(1, query.shape[2] - 1)]
        seen = found.shape == expected.shape and torch.allclose(found.float(), expected, rtol=1e-3, atol=1e-2)
        _returns_lse[chosen, query.dtype] = seen
    return (out, lse) if seen else None


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
    made = types.FunctionType(code, names, function.__name__, function.__defaults__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


# Part 3: the attribute by which a compiled module is recognised, without which it counts as a module of its own around
# the plain one; and the behaviour of torch.compile that a caller has set, without which the default is restored.


def unwrap_compiled(model: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` wrapped, or the model itself."""
    return cast(nn.Module, getattr(model, "_orig_mod", model))


def compile_stance() -> Any:
    """Return how `torch.compile` behaves in this process; None where this torch does not say."""
    return getattr(torch._dynamo.eval_frame, "_stance", None)


def set_compile_stance(stance: Any) -> None:
    """Make `torch.compile` behave as `compile_stance` returned; as by default for None."""
    if stance is None:
        torch.compiler.set_stance("default")
    else:
        torch._dynamo.eval_frame._set_stance(stance)


# Part 4: a context in which tensor subclasses are treated as plain tensors. The older name also suspends modes.

DisableTensorSubclass: Any = getattr(torch._C, "DisableTorchFunctionSubclass", None) or torch._C.DisableTorchFunction

# Part 5, without code here: nn.MultiheadAttention and nn.TransformerEncoderLayer leave their fused path while a mode is
# active. Otherwise capture would report that the model made no attention call.

# Part 6: the dictionaries of a module's hooks. Torch's own functions may give two threads the same number, and the
# handle that removes a hook is lost where an interrupt comes before its assignment. Without these, both functions raise
# an AttributeError.

hook_numbers = itertools.count(-1, -1)  # torch counts up
_HOOKS = (
    *("_forward_pre_hooks", "_forward_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs"),
    "_forward_hooks_always_called",
)


def add_hook(
    module: nn.Module,
    number: int,
    hook: Callable[..., Any],
    *,
    before: bool,
    with_kwargs: bool = False,
    always_call: bool = False,
) -> None:
    """Register a forward hook, or a pre-hook if `before`; the options are those of `register_forward_hook`."""
    if with_kwargs:
        (module._forward_pre_hooks_with_kwargs if before else module._forward_hooks_with_kwargs)[number] = True
    if always_call:
        module._forward_hooks_always_called[number] = True
    (module._forward_pre_hooks if before else module._forward_hooks)[number] = _Hook(hook)


class _Hook:
    """A hook whose copies do nothing: another thread may copy or pickle the module while the hook is there."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __reduce__(self) -> Any:
        return getattr, (nullcontext(), "__exit__")  # a method that takes anything, and returns None


def remove_hook(module: nn.Module, number: int) -> None:
    """Remove a forward hook or pre-hook, if it is registered; the hook itself first."""
    for name in _HOOKS:
        getattr(module, name).pop(number, None)


# Part 7: the stack of function modes of a thread. `with mode:` would leave it there where an interrupt comes before its
# end.


def outer_modes() -> list[TorchFunctionMode]:
    """Return the modes of torch functions that are active on this thread, within one those around it."""
    return list(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]


def remove_mode(mode: TorchFunctionMode) -> None:
    """Take a mode from this thread's stack, with those entered after it that were left there; it may be gone.

    Those whose `ended` is false stay: another task of the thread will end them.
    """
    while mode in (stack := outer_modes()):
        above = [one for one in stack[stack.index(mode) + 1 :] if getattr(one, "ended", True) is False]
        for _ in stack[stack.index(mode) :]:
            _pop_mode()  # type: ignore[no-untyped-call]
        for one in above:
            _push_mode(one)  # type: ignore[no-untyped-call]


# Part 8: inference mode as a context manager in C, which no interrupt can leave between two of its lines.

InferenceMode: Any = getattr(torch._C, "_InferenceMode", None) or torch.inference_mode

# Part 9: what `torch.utils.checkpoint.checkpoint` calls by name, both ways. Without these names, gradient checkpointing
# inside a model's own forward is not passed by, and its gradient methods end with an error of torch.

_GENERATORS = ("_checkpoint_without_reentrant_generator_impl", "_checkpoint_without_reentrant_generator")  # new, old
_CHECKPOINTS = (
    "CheckpointFunction",
    next((name for name in _GENERATORS if hasattr(torch.utils.checkpoint, name)), _GENERATORS[0]),
)


def checkpoint_functions() -> dict[str, Any]:
    """Return them by name, as they are now."""
    return {name: value for name, value in vars(torch.utils.checkpoint).items() if name in _CHECKPOINTS}


def set_checkpoint_functions(functions: dict[str, Any]) -> None:
    """Replace them."""
    vars(torch.utils.checkpoint).update(functions)


def passing_by(functions: dict[str, Any], applies: Callable[[], bool]) -> dict[str, Any]:
    """Return functions in place of `functions` that run the module plainly on threads where `applies()` is true."""
    if len(functions) < len(_CHECKPOINTS):
        return functions
    reentrant, generator = (functions[name] for name in _CHECKPOINTS)

    class Plain:
        @staticmethod
        def apply(run: Callable[..., Any], preserve: bool, *args: Any) -> Any:
            return run(*args) if applies() else reentrant.apply(run, preserve, *args)

    def plain(*args: Any, **kwargs: Any) -> Any:
        if applies():
            yield
        else:
            yield from generator(*args, **kwargs)

    return dict(zip(_CHECKPOINTS, (Plain, plain), strict=True))


# Part 10: whether a transformation of torch.func or fake tensors are at work around a call. Without these, what happens
# inside one ends with an error of torch.


def in_torch_func() -> bool:
    """Return whether the caller runs under a transformation of `torch.func`, such as vmap."""
    functions = getattr(torch._C, "_functorch", None)
    return getattr(functions, "peek_interpreter_stack", lambda: None)() is not None


def transformed() -> bool:
    """Return whether the caller runs under `torch.func` (vmap, grad) or with fake tensors, which hold no numbers."""
    key = getattr(getattr(torch._C, "_TorchDispatchModeKey", None), "FAKE", None)
    return in_torch_func() or (key is not None and torch._C._get_dispatch_mode(key) is not None)


# Part 11: the code by which a module is called, in the frames of Python. Without it, what is called within a forward
# that vitscope runs is not refused, and ends in an error of something else.

MODULE_CALL: types.CodeType | None = getattr(getattr(nn.Module, "_call_impl", None), "__code__", None)
