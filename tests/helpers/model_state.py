"""Everything that vitscope must leave as it was: of a model, of this thread's torch, and of the process."""

import sys
import warnings
from typing import Any

import torch
from torch import nn

from vitscope.attention import _torch_private, changes, model_lock, model_modes

_PLAIN = (bool, int, float, str, tuple, type(None))


def model_state(model: nn.Module) -> dict[str, Any]:
    """Return a value for each property, equal to that of another time if and only if nothing changed."""
    found: dict[str, Any] = {}
    for name, tensor in model.state_dict().items():
        found[f"tensor {name}"] = tensor.detach().clone().cpu().numpy().tobytes(), str(tensor.dtype), tensor.data_ptr()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found[f"parameter {name}"] = id(parameter), parameter.requires_grad, parameter.grad is None
    for name, module in model.named_modules(remove_duplicate=False):
        own = vars(module)
        found[f"mode {name}"] = module.training
        found[f"forward {name}"] = own.get("forward")
        found[f"hooks {name}"] = {key: dict(value) for key, value in own.items() if "hooks" in key and value}
        found[f"attributes {name}"] = {key: value for key, value in own.items() if isinstance(value, _PLAIN)}
        config = own.get("config")
        if config is not None:
            found[f"config {name}"] = dict(vars(config))
    return found


def surroundings() -> dict[str, Any]:
    """Return what belongs to this thread and this process."""
    found: dict[str, Any] = {
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "function modes": torch._C._len_torch_function_stack(),
        "random numbers": torch.get_rng_state().numpy().tobytes(),
        "warnings": list(warnings.filters),
        "default dtype": torch.get_default_dtype(),
        "models held": list(model_lock._TABLE.held),
        "models waited for": list(model_lock._TABLE.waiting),
        "open changes": len(changes._OPEN.get()),
        "locks": (model_lock._TABLE.guard._lock._is_owned(), model_modes._EAGER._guard._lock._is_owned()),
        "switches": [dict(switch.users) for switch in (model_modes._EAGER, model_modes._CHECKPOINTS)],
        "checkpointing": _torch_private.checkpoint_functions(),
    }
    if "torch._dynamo" in sys.modules:
        found["compiling"] = torch._dynamo.eval_frame._stance
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the names of the properties that differ."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
