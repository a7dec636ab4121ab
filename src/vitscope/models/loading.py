"""What `vitscope.load` does: a reference or a module becomes a ModelAdapter, with the options of the caller."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitscope._bands import Reading
from vitscope._messages import msg
from vitscope.attention.model_lock import exclusive
from vitscope.attention.model_modes import kept_random_numbers, own_state
from vitscope.errors import LayoutError, UnknownNameError, UsageError, first_line
from vitscope.geometry import TokenLayout
from vitscope.models.answers.labels import read_labels
from vitscope.models.base import ADAPTERS, ModelAdapter, libraries_of
from vitscope.models.bundled.catalogue import naming_variable
from vitscope.models.bundled.dinov2 import Dinov2Model
from vitscope.models.generic import GenericAdapter
from vitscope.models.options import Labels, LoadOptions, ModelOptions, Output, said_of
from vitscope.models.pixels.preprocessing import NeedsMoreError
from vitscope.models.references.references import LoadRequest, open_reference
from vitscope.models.region import Region, read_region
from vitscope.models.transformers.adapter import TransformersAdapter
from vitscope.models.transformers.processor_loading import load_processor
from vitscope.models.weights.weights import require_numbers
from vitscope.models.wrapped import adapter_inside, without_wrappers, working_part

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}

# held while a library loads: transformers, imported in several threads at once, lacks names, and its loading switches
# torch's defaults
_LOADER = nn.Module()


@own_state  # weights loaded in inference mode could not be differentiated through
@kept_random_numbers()  # a model may draw in its forward
def open_model(
    model: str | Path | nn.Module,
    *,
    processor: Any = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "float32",
    revision: str | None = None,
    weights: str | Path | None = None,
    trust_remote_code: bool = False,
    layout: TokenLayout | None = None,
    output: Output | None = None,
    labels: Labels | None = None,
    multi_label: bool | None = None,
    region: Region | None = None,
    display: Sequence[int] | str | None = None,
    window: Sequence[float | int] | str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> ModelAdapter:
    """Find and load a model, and choose its adapter.

    Args:
        model: a reference (see `models.references`), a module, which is used as it is, or a pipeline or Trainer of
            transformers, whose model and image processor are taken.
        processor: the image processor; by default the model's own.
        device: `auto`, `cpu`, `cuda`, `cuda:0`, `mps`; a module stays where it is.
        dtype: `float32`, `float64`, `bfloat16`, `float16`; a module keeps its own.
        revision: branch, tag or commit on the Hub.
        weights: a file of weights, or a folder of peft, for the architecture that the reference names.
        trust_remote_code: run the code that a repository or folder brings.
        layout: which token is which, for a module whose tokens cannot be traced.
        output: which part of the model's output is explained: a name, an index, or a function of the output.
        labels: class names: a list in the order of the outputs, a mapping from index to name, or a file
            (`models.labels.read_labels`); an empty list says that the numbers are features, not classes.
        multi_label: each class has a probability of its own, or not; by default what the model states.
        region: the region of the image that the processor's pixels show, where it cannot be measured: an ImageRegion,
            a function from a Picture to one, the box of every image in its pixels, or `whole`.
        display: bands of an image, counted from 0, that people see: one, or three as red, green and blue.
        window: the numbers of an image that become 0 and 1, for images of other than 8 bits.
        progress: called with (stage, done, total) while weights are fetched.

    Raises:
        ModelError: not found, unreachable or broken.
        MissingDependencyError: the library that the reference names is not installed.
        LayoutError: loaded, but the tokens cannot be traced.
    """
    said = said_of(
        LoadOptions(
            processor=processor,
            weights=weights,
            trust_remote_code=trust_remote_code,
            output=output,
            labels=labels,
            multi_label=multi_label,
            region=region,
            display=display,
            window=window,
        )
    )
    read = Reading(display=display, window=window)
    given = ModelOptions(
        output,
        read_labels(labels),
        multi_label,
        read_region(region),
        trust_remote_code,
        read.display,
        read.window,
        said,
    )
    if isinstance(processor, (str, os.PathLike)):
        with exclusive(_LOADER):
            processor = load_processor(str(processor), trust_remote_code=trust_remote_code)
    model, processor = _held(model, processor)
    if isinstance(model, nn.Module):
        if weights is not None:
            raise UsageError(
                msg("models.weights-of-module", "{@weights} is for a reference, got a module, which has weights"),
                msg("models.weights-of-module.hint", "load the file into the module yourself"),
            )
        require_numbers(model)
        model = without_wrappers(model)
        if layout is None and adapter_of(model) is GenericAdapter:
            inside = adapter_inside(model, processor, given, adapter_of)
            if inside is not None:
                return inside
        extra: dict[str, Any] = {} if layout is None else {"layout": layout}
        with _naming_a_part(given):
            return adapter_of(model).bound(model, processor, given, **extra)
    if not isinstance(model, (str, os.PathLike)):
        raise UsageError.coded(
            "models.not-a-model",
            "{type} is not a model",
            "pass an nn.Module, a pipeline of transformers, a model reference such as timm:NAME, or a folder",
            type=type(model).__name__,
        )
    if layout is not None:
        raise UsageError(
            msg("models.layout-of-reference", "{@layout} needs a module, got the reference '{model}'", model=model),
            msg("models.layout-of-reference.hint", "load the module yourself and pass it"),
        )
    dtype = str(dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise UnknownNameError(msg("models.dtype", "dtype"), dtype, DTYPES)
    request = LoadRequest(processor, pick_device(device), DTYPES[dtype], given, revision, weights, progress)
    with exclusive(_LOADER), naming_variable(str(model)), _naming_a_part(given):
        return open_reference(str(model), request)


def _held(holder: Any, processor: Any) -> tuple[Any, Any]:
    """Return the module that a pipeline or Trainer of transformers holds, and its processor if none is given."""
    model = getattr(holder, "model", None)
    known = any(kind.__module__.startswith("transformers.") for kind in type(holder).__mro__)
    if isinstance(holder, nn.Module) or not known or not isinstance(model, nn.Module):
        return holder, processor
    names = ("image_processor", "video_processor", "feature_extractor", "processing_class")
    kept = (getattr(holder, name, None) for name in names)
    makers = ("preprocess", "image_processor", "sampling_rate")  # of images, of both, of sounds
    fitting = (one for one in kept if any(hasattr(one, maker) for maker in makers))
    return model, processor or next(fitting, None)


@contextmanager
def _naming_a_part(options: ModelOptions) -> Iterator[None]:
    """Name the part that can be explained of a model that does not run on pixels alone."""
    try:
        yield
    except NeedsMoreError as error:
        part = working_part(error.model, replace(options, output=None), adapter_of)
        told = NeedsMoreError(error.model, error.error, part)
        raise LayoutError(told.message, told.hint) from error.error


def pick_device(device: str | torch.device) -> torch.device:
    """Return a device; `auto` is CUDA, then MPS, then the CPU; raise a UsageError where it is not available."""
    hint = msg("models.device.hint", "use {@device=auto} or {@device=cpu}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        log.debug("device auto: %s", device)
    try:
        torch.device(device)
    except RuntimeError:
        raise UnknownNameError(msg("models.device", "device"), str(device), ("auto", "cpu", "cuda", "mps")) from None
    try:
        found = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error).partition(". ")[0]  # torch goes on about its own build
        if reason.startswith("Could not run"):  # an operator of its own, which nobody asked for
            reason = msg("models.no-backend", "this build of torch does not have it")
        raise UsageError.coded(
            "models.no-such-device", "device '{device}' is not available: {reason}", hint, device=device, reason=reason
        ) from None
    if found.type == "meta":
        raise UsageError(msg("models.meta-device", "device 'meta' is not available: it holds no numbers"), hint)
    return found


def adapter_of(model: nn.Module) -> type[ModelAdapter]:
    """Return the adapter of the library that defines the model's class, or the nearest of its bases."""
    if isinstance(model, Dinov2Model):
        return TransformersAdapter
    adapters = [adapter for _, adapter in ADAPTERS]
    for library in libraries_of(model):
        for adapter in adapters:
            if (adapter.library or adapter.name) == library and _claims(adapter, model):
                log.debug("%s: adapter '%s', because %s defines its class", _name(model), adapter.name, library)
                return adapter
    log.debug("%s: adapter 'generic', because no adapter knows its class or a base of it", _name(model))
    return GenericAdapter


def _claims(adapter: type[ModelAdapter], model: nn.Module) -> bool:
    """Return whether an adapter claims a model; one whose check fails, as a plug-in's may, claims nothing."""
    try:
        return adapter.claims(model)
    except Exception as error:
        log.warning("%s: the adapter '%s' cannot be used: %s", _name(model), adapter.name, first_line(error))
        return False


def _name(model: nn.Module) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"
