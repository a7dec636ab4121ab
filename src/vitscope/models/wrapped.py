"""Known models inside wrappers: what hands pixels on to one model, and its answer back, is that model."""

import copy
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from vitscope._messages import Message, msg
from vitscope.attention._torch_private import in_torch_func, unwrap_compiled
from vitscope.attention.changes import Changes
from vitscope.attention.model_modes import eval_mode
from vitscope.errors import ModelError, VitscopeError
from vitscope.images import Picture
from vitscope.models.answers.answers import AnswerReader
from vitscope.models.around import Around, MediumAdapter
from vitscope.models.base import ModelAdapter
from vitscope.models.generic import GenericAdapter, PreprocessingInside
from vitscope.models.options import ModelOptions
from vitscope.models.pixels.bands import first_convolution
from vitscope.models.pixels.preprocessing import random_state
from vitscope.tracing.token_tensor import tensors_in

log = logging.getLogger(__name__)

_SHARE = 0.2  # of the parameters, a model inside has at least
_MOST = 2
_TRIED = 8  # modules inside
_COLOURS = 3
_NO_FORWARD = 'is missing the required "forward" function'  # as torch says it; any other is the forward's own


def without_wrappers(model: nn.Module) -> nn.Module:
    """Return the module inside those that compile it, spread it, average its weights, or put adapters into it."""
    inner = unwrap_compiled(model)
    if isinstance(inner, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        inner = inner.module
    elif type(inner).__module__.startswith("timm.utils.") and isinstance(getattr(inner, "module", None), nn.Module):
        inner = cast(nn.Module, inner.module)  # an average of weights over the training
    elif type(inner).__module__.startswith("peft.") and hasattr(inner, "get_base_model"):
        inner = cast(Any, inner).get_base_model()
    return inner if inner is model else without_wrappers(inner)


def adapter_inside(
    model: nn.Module, processor: Any, options: ModelOptions, adapter_of: Callable[[nn.Module], type[ModelAdapter]]
) -> ModelAdapter | None:
    """Return the adapter for a module around one known model.

    The wrapper is run once on noise. Where it gives the model the pixels as they are, or normalised as the model's own
    preprocessing does, and returns the model's answer, the model itself is explained. Where it makes another answer of
    what it gave the pixels to (a softmax, a head of its own), the wrapper is explained, with the model's preprocessing,
    and with its class names where the answer still orders the classes as the model does.

    Returns:
        None where there is no such model inside, or the wrapper does not run on pixels alone, or draws random numbers.

    Raises:
        ModelError: the wrapper changes the pixels in another way, and there is no processor for it.
    """
    parts = _known_parts(model, adapter_of)
    found = [known for part in parts if (known := _bound(part, processor, options, adapter_of))]
    for part in parts if not found else ():
        if adapter_of(part).result.medium != "image":
            adapter_of(part).bound(part, processor, options)  # raises what is missing
    ran = [(known, seen) for known in found if (seen := _run(model, known, options)) is not None]
    used = [(known, seen) for known, seen in ran if seen.given is not None or not seen.runs]
    if len(used) != 1:
        return None
    known, seen = used[0]
    whole, name = _has_all(known.model, model), type(known.model).__name__
    image = known.result.medium == "image"
    if image and known.channels != _COLOURS and _takes_colours(model, seen.pixels):  # it may mix them before the model
        return None
    if not seen.runs:  # a LightningModule without a forward
        return known if whole else None
    as_given = _near(seen.given, seen.pixels)
    as_asked = (known.options.output, known.options.labels) == (options.output, options.labels)
    same_answer = seen.once and as_asked and _near(seen.answer, seen.result)
    same_answer = same_answer and _hands_back(model, known.model, seen.pixels.permute(seen.order), options)
    if same_answer and (
        as_given or (processor is None and image and _near(seen.given, _normalised(known, seen.pixels)))
    ):
        log.debug("%s hands pixels on to %s, which is explained", type(model).__name__, name)
        return known
    if processor is None and not as_given:
        raise ModelError.coded(
            "models.wrapper-changes-pixels",
            "{wrapper} changes the pixels before they reach the {model} in it, and what it expects is not known",
            "pass the model inside, or {@processor=...}: a function from a Pillow image to the wrapper's pixels",
            wrapper=type(model).__name__,
            model=name,
        )
    notes: tuple[Message, ...] = ()
    if processor is None and not whole:
        note = msg(
            "models.preprocessing-inside", "preprocessing chosen by vitscope: that of the {model} inside", model=name
        )
        notes = (note,)
    labels = known.labels
    if (
        labels
        and (seen.result is None or seen.result.shape[-1] == len(labels))
        and not _same_order(seen.answer, seen.result)
    ):
        labels = {}
        note = msg(
            "models.other-order",
            "the class names of the {model} inside are left out, because {wrapper} does not order its classes as it "
            "does: {@labels} names them",
            model=name,
            wrapper=type(model).__name__,
        )
        notes = (*notes, note)
    if labels and known.multi_label and options.multi_label is None:
        options = replace(options, multi_label=True)
    log.debug("%s is explained, with the preprocessing of %s", type(model).__name__, name)
    if not image:
        around = Around(known.model, seen.order, labels)
        return type(known).bound(model, processor, options, notes, around=around)
    own = processor or PreprocessingInside(known)
    return GenericAdapter.bound(model, own, options, notes, labels=labels)


def working_part(model: nn.Module, options: ModelOptions, adapter_of: Callable[[nn.Module], type[ModelAdapter]]) -> str:
    """Return the name of the outermost module inside that can be explained, of the first that are tried; or none.

    Cost: a trace of each that is tried.
    """
    names = [name for name, part in model.named_modules() if name and [*part.children()] and first_convolution(part)]
    tried = sorted(names, key=lambda name: name.count("."))[:_TRIED]
    return next((name for name in tried if _bound(model.get_submodule(name), None, options, adapter_of)), "")


def _takes_colours(model: nn.Module, pixels: Tensor) -> bool:
    """Return whether a module runs on pixels of three channels."""
    try:
        with eval_mode(model), torch.no_grad():
            model(pixels[:, :1].expand(-1, _COLOURS, -1, -1))
    except Exception:  # whatever it raises for a number of channels that is not its own
        return False
    return True


def _known_parts(model: nn.Module, adapter_of: Callable[[nn.Module], type[ModelAdapter]]) -> list[nn.Module]:
    """Return the outermost known models inside that may be what a module is around: up to two, each of some size."""
    least = _SHARE * sum(parameter.numel() for parameter in model.parameters())
    found: list[nn.Module] = []
    parts = list(model.children())
    while parts:
        part = without_wrappers(parts.pop(0))
        if sum(parameter.numel() for parameter in part.parameters()) < max(least, 1):
            continue
        if adapter_of(part) is GenericAdapter:
            parts += part.children()
        elif all(part is not other for other in found):
            found.append(part)
    return found if len(found) <= _MOST else []


def _has_all(part: nn.Module, model: nn.Module) -> bool:
    return {id(parameter) for parameter in part.parameters()} == {id(parameter) for parameter in model.parameters()}


def _bound(
    part: nn.Module, processor: Any, options: ModelOptions, adapter_of: Callable[[nn.Module], type[ModelAdapter]]
) -> ModelAdapter | None:
    """Return the adapter of a model inside.

    What the caller says of the wrapper's answer, its part and its classes, is left out where it does not fit.
    """
    fewer = [options, replace(options, output=None), replace(options, labels=None, multi_label=None)]
    fewer.append(replace(fewer[-1], output=None))
    for number, tried in enumerate(fewer):
        if tried in fewer[:number]:
            continue
        try:
            return adapter_of(part).bound(part, processor, tried)
        except Exception as error:  # a layer of a library is no model, and raises anything when it is run on pixels
            log.debug("%s inside a wrapper: %s", type(part).__name__, error)
    return None


@dataclass(frozen=True)
class _Run:
    """What a run of a wrapper showed; None for what was not seen.

    Attributes:
        pixels: that the wrapper was given, in the order of axes that the model inside takes.
        order: in which the wrapper takes them.
        given: pixels that the model inside was given, by a call of it or of a part of it.
        answer: of the model inside to them, the mean of all its calls.
        result: answer of the wrapper; None where it has several, or none.
        once: the model inside was called once, and the wrapper has one answer.
        runs: the wrapper has a forward.
    """

    pixels: Tensor
    given: Tensor | None = None
    answer: Tensor | None = None
    result: Tensor | None = None
    once: bool = True
    runs: bool = True
    order: tuple[int, ...] = (0, 1, 2, 3)


def _run(model: nn.Module, known: ModelAdapter, options: ModelOptions) -> _Run | None:
    """Run the wrapper on noise, in the first order of axes that suits; return None where it does not run on pixels."""
    for order in known.orders if isinstance(known, MediumAdapter) else (tuple(range(4)),):
        seen = _run_in_order(model, known, options, order)
        if seen is not None and (known.result.medium == "image" or not seen.runs or _alike(seen.given, seen.pixels)):
            return seen
    return None


def _run_in_order(model: nn.Module, known: ModelAdapter, options: ModelOptions, order: tuple[int, ...]) -> _Run | None:
    inner = known.model
    size = getattr(known, "input_size", None) or (224, 224)
    shape = (1, known.channels, *size)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu")
    pixels = noise.to(next(inner.parameters()))
    pixels = known.laid_out(pixels) if isinstance(known, MediumAdapter) else pixels
    calls: list[tuple[Tensor | None, Tensor | None]] = []
    inside: list[Tensor] = []

    hidden = False

    def watch(_module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        nonlocal hidden
        hidden |= in_torch_func()  # whose tensors hold no numbers afterwards
        calls.append((next(tensors_in((args, kwargs)), None), _answer(out)))

    def watch_part(_module: nn.Module, args: Any, kwargs: Any, _out: Any) -> None:
        first = next(tensors_in((args, kwargs)), None)
        if first is not None and first.ndim == pixels.ndim and first.shape[1] == pixels.shape[1]:
            inside.append(first)

    try:
        with eval_mode(model), torch.no_grad():
            with Changes() as changes:
                changes.hook(inner, watch, with_kwargs=True)
                for part in inner.modules():
                    if part is not inner:
                        changes.hook(part, watch_part, with_kwargs=True)
                before = random_state()
                output = model(pixels.permute(order))
            if hidden or random_state() != before:  # another run may hand on other pixels
                return None
            result, single = _answer(output), False
            with suppress(VitscopeError):  # several tensors of which any can be meant, or none
                result, single = AnswerReader(options.output)(output), True
            if not calls and inside:  # a part of it was called, as `forward_features` does
                own = cast(Any, known).run(inside[0]) if known.result.medium == "image" else None
                return _Run(pixels, inside[0], _answer(own), result, single, order=order)
    except Exception as error:  # it takes something else than pixels
        if isinstance(error, NotImplementedError) and _NO_FORWARD in str(error):
            return _Run(pixels, runs=False)
        log.debug("%s does not run on pixels: %s", type(model).__name__, error)
        return None
    answers = [answer for _, answer in calls if answer is not None]
    alike = len({answer.shape for answer in answers}) == 1
    mean = torch.stack(answers).mean(0) if alike else None
    return _Run(pixels, calls[0][0] if calls else None, mean, result, single and len(calls) == 1, order=order)


def _hands_back(model: nn.Module, inner: nn.Module, pixels: Tensor, options: ModelOptions) -> bool:
    """Return whether a wrapper returns whatever the model inside answers, tried with an answer of other signs.

    A ReLU or a clamp behind the model changes only some numbers.
    """
    given: list[Tensor | None] = []

    def negate(_module: nn.Module, _args: Any, out: Any) -> Any:
        changed = _negated(out)
        given.append(_answer(changed))
        return changed

    try:
        with eval_mode(model), torch.no_grad(), Changes() as changes:
            changes.hook(inner, negate)
            result = AnswerReader(options.output)(model(pixels))
    except Exception as error:  # numbers that it takes for something else
        log.debug("%s does not run with another answer: %s", type(model).__name__, error)
        return False
    return not given or _near(given[0], result)  # a part of the model was called, not the model


def _negated(out: Any) -> Any:
    """Return an answer with all its numbers negated and moved, in the containers that it came in."""
    if isinstance(out, Tensor):
        return -out - 1 if out.is_floating_point() else out
    if isinstance(out, Mapping):
        made: Any = copy.copy(out)
        for name, part in out.items():
            made[name] = _negated(part)
        return made
    if isinstance(out, (tuple, list)):
        parts = [_negated(part) for part in out]
        return type(out)(*parts) if hasattr(out, "_fields") else type(out)(parts)
    return out


def _same_order(answer: Tensor | None, result: Tensor | None) -> bool:
    """Return whether one answer orders the classes as another does, as a softmax or a temperature leaves them."""
    if answer is None or result is None or answer.shape != result.shape or answer.ndim != 2:
        return False
    steps = result.gather(1, answer.argsort(1)).diff()
    return bool((steps >= -1e-6).all())


def _answer(output: Any) -> Tensor | None:
    return next(tensors_in(getattr(output, "logits", output)), None)


def _normalised(known: ModelAdapter, pixels: Tensor) -> Tensor:
    """Return pixels of 0 to 1 as the model's preprocessing normalises them, by channel."""
    low, high = (known.prepare(Picture(np.full((64, 64, 3), value, np.uint8)))[0] for value in (0, 255))
    if low.shape[0] != pixels.shape[1]:
        return pixels
    black, white = (made.to(pixels).mean((1, 2))[None, :, None, None] for made in (low, high))
    return black + pixels * (white - black)


def _alike(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and one.shape == other.shape


def _near(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return False
    return one.shape == other.shape and torch.allclose(one.float(), other.float(), rtol=1e-4, atol=1e-4)
