"""Known models inside wrappers: what hands pixels on to one model, and its answer back, is that model."""

import logging
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from vitscope._messages import msg
from vitscope.attention._torch_private import unwrap_compiled
from vitscope.attention.changes import Changes
from vitscope.attention.model_modes import eval_mode
from vitscope.errors import ModelError, VitscopeError
from vitscope.images import Picture
from vitscope.models.base import ModelAdapter
from vitscope.models.generic import GenericAdapter
from vitscope.models.options import ModelOptions
from vitscope.tracing.token_tensor import tensors_in

__all__ = ["adapter_inside", "without_wrappers"]

log = logging.getLogger(__name__)


def without_wrappers(model: nn.Module) -> nn.Module:
    """Return the module inside those that compile it, spread it over devices, or put adapters of peft into it."""
    inner = unwrap_compiled(model)
    if isinstance(inner, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        inner = inner.module
    elif type(inner).__module__.startswith("peft.") and hasattr(inner, "get_base_model"):
        inner = cast(Any, inner).get_base_model()
    return inner if inner is model else without_wrappers(inner)


def adapter_inside(
    model: nn.Module, processor: Any, options: ModelOptions, adapter_of: Callable[[nn.Module], type[ModelAdapter]]
) -> ModelAdapter | None:
    """Return the adapter for a module around one known model, which has all its parameters.

    The wrapper is run once on noise. Where it gives the model the pixels as they are, or normalised as the model's own
    preprocessing does, and returns the model's answer, the model itself is explained. Where it changes the answer alone
    (a softmax), the wrapper is explained, with the model's preprocessing and class names.

    Returns:
        None where there is no such model inside, or the wrapper does not run on pixels alone.

    Raises:
        ModelError: the wrapper changes the pixels in another way, and there is no processor for it.
    """
    inner = _only_part(model, adapter_of)
    if inner is None:
        return None
    try:
        known = adapter_of(inner).bound(inner, processor, options)
    except VitscopeError as error:
        log.debug("%s inside %s: %s", type(inner).__name__, type(model).__name__, error)
        return None
    size = getattr(known, "input_size", None) or (224, 224)
    first = next(inner.parameters())
    noise = torch.rand(1, known.channels, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    pixels = noise.to(first)
    try:
        given, answer, result = _run(model, inner, pixels)
    except NotImplementedError:  # a LightningModule without a forward
        return known
    except Exception as error:  # it takes something else than pixels
        log.debug("%s does not run on pixels: %s", type(model).__name__, error)
        return None
    as_given = given is not None and _near(given, pixels)
    same_answer = answer is not None and result is not None and _near(answer, result)
    if same_answer and (
        as_given or (processor is None and given is not None and _near(given, _normalised(known, pixels)))
    ):
        log.debug("%s hands pixels on to %s, which is explained", type(model).__name__, type(inner).__name__)
        return known
    if processor is None and not as_given:
        raise ModelError(
            msg(
                "models.wrapper-changes-pixels",
                "{wrapper} changes the pixels before they reach the {model} in it, and what it expects is not known",
                wrapper=type(model).__name__,
                model=type(inner).__name__,
            ),
            msg(
                "models.wrapper-changes-pixels.hint",
                "pass the model inside, or {@processor=...}: a function from a Pillow image to the wrapper's pixels",
            ),
        )
    own = processor or (lambda image: known.prepare(Picture(np.asarray(image.convert("RGB"))))[0])
    log.debug("%s is explained, with the preprocessing of %s", type(model).__name__, type(inner).__name__)
    return GenericAdapter.bound(model, own, options, labels=known.labels)


def _only_part(model: nn.Module, adapter_of: Callable[[nn.Module], type[ModelAdapter]]) -> nn.Module | None:
    """Return the known model inside that has all parameters of the module, or None."""
    own, part = {id(parameter) for parameter in model.parameters()}, model
    while own:
        parts = [child for child in part.children() if {id(parameter) for parameter in child.parameters()} == own]
        if len(parts) != 1:
            return None
        part = without_wrappers(parts[0])
        if adapter_of(part) is not GenericAdapter:
            return part
    return None


def _run(model: nn.Module, inner: nn.Module, pixels: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Run the wrapper; return what the model inside was given and answered, and what the wrapper answered."""
    calls: list[tuple[Tensor | None, Tensor | None]] = []

    def watch(_module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        calls.append((next(tensors_in((args, kwargs)), None), _answer(out)))

    with eval_mode(model), torch.no_grad(), Changes() as changes:
        changes.hook(inner, watch, with_kwargs=True)
        result = _answer(model(pixels))
    return (*calls[0], result) if len(calls) == 1 else (calls[0][0] if calls else None, None, result)


def _answer(output: Any) -> Tensor | None:
    return next(tensors_in(getattr(output, "logits", output)), None)


def _normalised(known: ModelAdapter, pixels: Tensor) -> Tensor:
    """Return pixels of 0 to 1 as the model's preprocessing normalises them, by channel."""
    low, high = (known.prepare(Picture(np.full((64, 64, 3), value, np.uint8)))[0] for value in (0, 255))
    if low.shape[0] != pixels.shape[1]:
        return pixels
    black, white = (made.to(pixels).mean((1, 2))[None, :, None, None] for made in (low, high))
    return black + pixels * (white - black)


def _near(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.float(), other.float(), rtol=1e-4, atol=1e-4)
