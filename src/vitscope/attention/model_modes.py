"""Context managers that put a model into a mode and restore what it had: evaluation, no parameter gradients, eager.

Each holds the model meanwhile: no other thread of vitscope runs it or changes it.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from vitscope._messages import msg
from vitscope.attention._torch_private import (
    InferenceMode,
    checkpoint_functions,
    compile_stance,
    passing_by,
    set_checkpoint_functions,
    set_compile_stance,
    transformed,
)
from vitscope.attention.changes import Changes, Guard, restoring
from vitscope.attention.model_lock import exclusive, require_no_forward
from vitscope.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")

_PLAIN = (bool, int, float, str, tuple)
_NEVER_PLAIN = {name for name, value in vars(nn.Module()).items() if not isinstance(value, _PLAIN)}
_CHECKPOINTING = {"grad_checkpointing", "gradient_checkpointing", "use_checkpoint", "use_checkpointing", "with_cp"}


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Run the model's own Python code in evaluation mode (no dropout) during the `with`, on this thread alone.

    Gradient checkpointing is off as well: the second forward that it runs in the backward pass is not observed.
    Afterwards each submodule has its own mode again. Its other plain attributes are restored too: some models store the
    size of the last image in them (transformers' Swin shrinks its windows for good when it gets a small image).

    Raises:
        UsageError: at the end, where another thread has switched the model to training mode, and it stays so: what was
            computed may hold dropout.
    """
    with exclusive(model) as changes:
        modules = list(model.modules())
        for module in modules:
            own = vars(module)
            plain = {name: own[name] for name in own.keys() - _NEVER_PLAIN if isinstance(own[name], _PLAIN)}
            changes.on_exit(partial(_put_back, own, plain))
            if module.training:
                changes.on_exit(partial(setattr, module, "training", True))
                module.training = False
            for name in plain.keys() & _CHECKPOINTING:
                if own[name] is True:
                    own[name] = False
        suspend_compiling(changes)
        suspend_checkpointing(changes)
        yield
        if any(vars(module).get("training") is True for module in modules):
            raise UsageError(
                msg(
                    "attention.switched-to-training",
                    "the model was switched to training mode while it was explained, so that dropout may be in the map",
                ),
                msg(
                    "attention.switched-to-training.hint",
                    "explain a copy of the model, or wait until its training pauses",
                ),
            )


def _put_back(own: dict[str, Any], plain: dict[str, Any]) -> None:
    """Put a module's plain attributes back, but not a training mode that another thread has switched on."""
    own.update(plain if own.get("training") is not True else {**plain, "training": True})


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """Turn off `requires_grad` of all parameters during the `with`, so that only the pixels carry a graph.

    Parameters and buffers that were made in inference mode cannot be part of a graph: copies take their place.
    """
    with exclusive(model) as changes:
        for module in model.modules():
            for values in (module._parameters, module._buffers):
                for name, tensor in list(values.items()):
                    if tensor is not None and tensor.is_inference():
                        changes.set_item(values, name, _copy(tensor))
        for parameter in model.parameters():
            if parameter.requires_grad:
                changes.on_exit(partial(parameter.requires_grad_, True))
                parameter.requires_grad_(False)
        yield


def suspend_compiling(changes: Changes) -> None:
    """Run the Python code of compiled modules and functions until the changes end: hooks see no other code."""
    if "torch._dynamo" in sys.modules:
        _EAGER.switch(changes)


def suspend_checkpointing(changes: Changes) -> None:
    """Run what `torch.utils.checkpoint` wraps plainly on this thread until the changes end, with its whole graph."""
    _CHECKPOINTS.switch(changes)


class _Switch:
    """A switch of the process that is on while any thread needs it.

    The first one in saves how it was, the last one out restores it.

    Args:
        read: returns how it is set.
        turn_on: sets it, given how it was.
        restore: sets it as it was; may be called twice.
    """

    def __init__(self, read: Callable[[], Any], turn_on: Callable[[Any], object], restore: Callable[[Any], object]):
        self._read, self._turn_on, self._restore = read, turn_on, restore
        self._guard, self._before = Guard(), None
        self.users: dict[Changes, int] = {}  # with the thread of each

    def switch(self, changes: Changes) -> None:
        """Have it on until the changes end."""
        changes.on_exit(partial(self._leave, changes))
        with self._guard:
            if not self.users:
                self._before = self._read()
            self.users[changes] = threading.get_ident()
            if len(self.users) == 1:
                self._turn_on(self._before)

    def _leave(self, changes: Changes) -> None:
        with self._guard:
            if changes in self.users and len(self.users) == 1:
                self._restore(self._before)
            self.users.pop(changes, None)
        self._guard.free()


def _is_plain() -> bool:
    """Return whether this thread runs a model in `eval_mode`."""
    return threading.get_ident() in tuple(_CHECKPOINTS.users.values())


_EAGER = _Switch(compile_stance, lambda _: torch.compiler.set_stance("force_eager"), set_compile_stance)
_CHECKPOINTS = _Switch(
    checkpoint_functions,
    lambda functions: set_checkpoint_functions(passing_by(functions, _is_plain)),
    set_checkpoint_functions,
)

_FLOATS = _Switch(torch.get_default_dtype, lambda _: torch.set_default_dtype(torch.float32), torch.set_default_dtype)


_RANDOM = _Switch(torch.get_rng_state, lambda _: None, torch.set_rng_state)


@contextmanager
def kept_random_numbers() -> Iterator[None]:
    """Leave torch's random numbers on the CPU as they were, once the last of several threads is done."""
    with Changes() as changes:
        _RANDOM.switch(changes)
        yield


@contextmanager
def precise_floats() -> Iterator[None]:
    """Have new tensors of float32 where the default is a type of 16 bits, too coarse to compare places with."""
    with Changes() as changes:
        if torch.get_default_dtype().itemsize < torch.float32.itemsize:
            _FLOATS.switch(changes)
        yield


def plain_defaults(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function with float32 and the CPU as the defaults of new tensors, whatever defaults the caller has set.

    For preprocessing, which makes the same pixels then. A model keeps the caller's defaults, which it may rely on.
    """

    @wraps(function)
    @restoring
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with Changes() as changes:
            _FLOATS.switch(changes)
            if torch.get_default_device().type == "cpu":
                return function(*args, **kwargs)
            with torch.device("cpu"):
                return function(*args, **kwargs)

    return run


def own_state(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function with gradients on, outside inference mode and autocast, whatever state of torch the caller has.

    The function raises a UsageError under a transformation of torch.func, with fake tensors, or in a forward that
    vitscope runs.
    """

    @restoring
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with Changes() as changes:
            changes.on_exit(partial(torch.set_grad_enabled, torch.is_grad_enabled()))
            for device in dict.fromkeys(("cpu", "cuda", "mps" if torch.backends.mps.is_available() else "cpu")):
                if torch.is_autocast_enabled(device):
                    changes.on_exit(partial(torch.set_autocast_enabled, device, True))
                    torch.set_autocast_enabled(device, False)
            torch.set_grad_enabled(True)
            return function(*args, **kwargs)

    @wraps(function)
    def outside_inference_mode(*args: P.args, **kwargs: P.kwargs) -> R:
        if transformed():
            raise UsageError(
                msg(
                    "attention.transformed",
                    "inside torch.func (vmap, grad) or with fake tensors there are no numbers to explain",
                ),
                msg("attention.transformed.hint", "call vitscope outside of it"),
            )
        require_no_forward(sys._getframe(1))
        if not torch.is_inference_mode_enabled():
            return run(*args, **kwargs)
        with InferenceMode(False):
            return run(*args, **kwargs)

    return outside_inference_mode


def _copy(tensor: Tensor) -> Tensor:
    """Return a tensor outside inference mode with the same numbers."""
    with InferenceMode(False):
        copy = tensor.detach().clone()
    return nn.Parameter(copy, requires_grad=False) if isinstance(tensor, nn.Parameter) else copy
