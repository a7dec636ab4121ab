"""Context managers that put a model into a mode and restore what it had: evaluation, no parameter gradients, eager.

Each holds the model meanwhile: no other thread of vitscope runs it or changes it.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from vitscope.attention._torch_private import InferenceMode, compile_stance, set_compile_stance
from vitscope.attention.changes import Changes, Guard, restoring
from vitscope.attention.model_lock import exclusive

__all__ = ["eval_mode", "frozen_parameters", "own_state", "suspend_compiling"]

P = ParamSpec("P")
R = TypeVar("R")

_PLAIN = (bool, int, float, str, tuple)
_CHECKPOINTING = ("grad_checkpointing", "gradient_checkpointing", "use_checkpoint", "use_checkpointing", "with_cp")


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Run the model's own Python code in evaluation mode (no dropout) during the `with`, on this thread alone.

    Gradient checkpointing is off as well: the second forward that it runs in the backward pass is not observed.
    Afterwards each submodule has its own mode again. Its other plain attributes are restored too: some models store the
    size of the last image in them (transformers' Swin shrinks its windows for good when it gets a small image).
    """
    with exclusive(model) as changes:
        modules = list(model.modules())
        for module in modules:
            plain = {name: value for name, value in vars(module).items() if isinstance(value, _PLAIN)}
            changes.on_exit(partial(vars(module).update, plain))
        for module in modules:
            if module.training:
                changes.on_exit(partial(setattr, module, "training", True))
                module.training = False
            for name in _CHECKPOINTING:
                if vars(module).get(name) is True:
                    vars(module)[name] = False
        suspend_compiling(changes)
        yield


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
        changes.on_exit(partial(_EAGER.leave, changes))
        _EAGER.enter(changes)


class _Eager:
    """Suspends `torch.compile` while any thread observes a model.

    The switch belongs to the process. The first thread in saves it, and the last one out restores it.
    """

    def __init__(self) -> None:
        self._guard, self._users, self._before = Guard(), set[object](), None

    def enter(self, user: object) -> None:
        """Suspend it for one more user."""
        with self._guard:
            self._before = self._before if self._users else compile_stance()
            self._users.add(user)
            torch.compiler.set_stance("force_eager")

    def leave(self, user: object) -> None:
        """Restore it after the last user; may be called twice."""
        with self._guard:
            if user in self._users and len(self._users) == 1:
                set_compile_stance(self._before)
            self._users.discard(user)
        self._guard.free()


_EAGER = _Eager()


def own_state(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function with gradients on, outside inference mode and autocast, whatever state of torch the caller has."""

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
