"""Identify a model's weights by a hash: quantised and offloaded ones as well."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitscope._messages import msg
from vitscope.attention.model_lock import exclusive
from vitscope.errors import ModelError
from vitscope.tracing.placement import hooks_of


def hash_of(model: nn.Module) -> str:
    """Return the SHA-256 of all parameters and buffers, by name; of quantised ones, the integers and their scales.

    Raises:
        ModelError: a parameter that holds no numbers, and that nothing can load.
    """
    digest = hashlib.sha256()
    with exclusive(model):
        for name, value in sorted(model.state_dict().items()):
            for part, found in _parts(name, value, model):
                if isinstance(found, Tensor):
                    digest.update(f"{part} {tuple(found.shape)} {found.dtype}".encode())
                    digest.update(found.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
                else:
                    digest.update(f"{part} {found}".encode())
    return f"sha256:{digest.hexdigest()}"


def require_numbers(model: nn.Module) -> None:
    """Raise a ModelError for a parameter that holds no numbers, and that nothing can load."""
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            _offloaded(name, model)


def _parts(name: str, value: Any, model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Take an entry of a state dict apart into plain tensors and plain values."""
    if isinstance(value, Tensor):
        value = value.detach()
        if value.is_meta:
            value = _offloaded(name, model)
        if value.is_quantized:
            yield name, value.int_repr()
            per_channel = value.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric)
            scales = (value.q_per_channel_scales(), value.q_per_channel_zero_points()) if per_channel else ()
            yield f"{name}.scales", [scale.tolist() for scale in scales] or (value.q_scale(), value.q_zero_point())
        elif hasattr(value, "__tensor_flatten__"):  # a subclass made of others, as those of torchao
            inner, context = value.__tensor_flatten__()
            yield name, type(value).__qualname__
            for attribute in inner:
                yield from _parts(f"{name}.{attribute}", getattr(value, attribute), model)
            yield from _parts(f"{name}.context", context, model)
        else:
            yield name, value
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _parts(f"{name}.{key}", value[key], model)
    elif isinstance(value, (tuple, list)):
        for number, part in enumerate(value):
            yield from _parts(f"{name}.{number}", part, model)
    elif hasattr(value, "__getstate__") and type(value).__module__ == "torch.ScriptObject":
        yield from _parts(name, value.__getstate__(), model)
    elif value is None or isinstance(value, (str, bytes, int, float, torch.dtype, torch.Size, torch.device)):
        yield name, value
    else:
        yield name, type(value).__qualname__  # its representation may hold an address


def _offloaded(name: str, model: nn.Module) -> Tensor:
    """Return the numbers of a parameter that accelerate keeps elsewhere.

    Raises:
        ModelError: it has none.
    """
    path, _, attribute = name.rpartition(".")
    for hook in hooks_of(getattr(model.get_submodule(path), "_hf_hook", None)):
        numbers = getattr(hook, "weights_map", None)
        if numbers is not None and (found := numbers[attribute]) is not None:
            return found if isinstance(found, Tensor) else torch.as_tensor(found)
    raise ModelError(
        msg("models.no-numbers", "the parameter '{name}' is on the device 'meta' and holds no numbers", name=name),
        msg("models.no-numbers.hint", "load the model's weights before it is explained"),
    )
