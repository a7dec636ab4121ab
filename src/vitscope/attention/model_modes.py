"""Context managers that put a model into a mode and restore what it had: evaluation, no parameter gradients, eager."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from vitscope.attention._torch_private import is_compiled

__all__ = ["eval_mode", "frozen_parameters", "uncompiled"]

_PLAIN = (bool, int, float, str, tuple)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode (no dropout) during the `with`; restore each submodule's own mode after it.

    Other plain attributes of the submodules are restored as well: some models store the size of the last image in them
    (transformers' Swin shrinks its windows for good when it gets a small image).
    """
    plain = {module: {k: v for k, v in vars(module).items() if isinstance(v, _PLAIN)} for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, attributes in plain.items():
            vars(module).update(attributes)


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """Turn off `requires_grad` of all parameters during the `with`, so that only the pixels carry a graph."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Run a compiled model's own Python code during the `with`: hooks and modes do not see compiled code."""
    with ExitStack() as stack:
        if is_compiled(model) and "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield
