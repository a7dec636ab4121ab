"""Find where a model takes its input and in which number format: quantised and offloaded models as well."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def placement(model: nn.Module) -> tuple[torch.device, torch.dtype] | None:
    """Return the device and the number format of a model's input; None for a model without parameters.

    Quantised parameters are integers, and the input has the format of the others, float32 where there are none.
    Offloaded parameters are nowhere until they are needed; the input goes to the device that they are moved to.
    """
    if next(_held(model), None) is None and not any(hasattr(module, "_packed_params") for module in model.modules()):
        return None
    floats = (tensor.dtype for tensor in _held(model) if tensor.is_floating_point())
    here = next((tensor.device for tensor in _held(model) if not tensor.is_meta), None)
    hooks = (vars(module).get("_hf_hook") for module in model.modules())
    moved = next((place for hook in hooks for place in _executed_on(hook)), None)
    return moved or here or torch.device("cpu"), next(floats, torch.float32)


def _held(model: nn.Module) -> Iterator[torch.Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def quantised_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules whose own weights are integers or packed."""
    return [module for module in model.modules() if hasattr(module, "_packed_params") or _holds_integers(module)]


def _holds_integers(module: nn.Module) -> bool:
    held = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return any(hasattr(t, "__tensor_flatten__") or (t.ndim > 1 and t.dtype in (torch.int8, torch.uint8)) for t in held)


def input_device(model: nn.Module) -> torch.device:
    """Return the device that a model takes its input on."""
    found = placement(model)
    return torch.device("cpu") if found is None else found[0]


def hooks_of(hook: Any) -> Iterator[Any]:
    """Iterate over the hooks of accelerate that one stands for."""
    if hook is not None:
        yield hook
        for inner in getattr(hook, "hooks", ()):
            yield from hooks_of(inner)


def _executed_on(hook: Any) -> Iterator[torch.device]:
    for one in hooks_of(hook):
        place = getattr(one, "execution_device", None)
        if place is not None:
            yield torch.device("cuda", place) if isinstance(place, int) else torch.device(place)
