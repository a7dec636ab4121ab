"""Model references: a name or a folder, perhaps with a file of weights, becomes a ModelAdapter.

`embedded:NAME` · a Hub id or a local folder of transformers, timm or peft · `timm:NAME` · `torchvision:NAME` ·
`open_clip:ARCH/PRETRAINED` (or `ARCH/FILE`) · `ADAPTER:NAME` of a plug-in.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitscope._messages import Message
from vitscope.errors import VitscopeError
from vitscope.models.base import ADAPTERS, ModelAdapter
from vitscope.models.bundled import catalogue, wheel
from vitscope.models.bundled.dinov2 import load_dinov2
from vitscope.models.options import ModelOptions
from vitscope.models.references.early_check import check_reference, no_such_folder, no_such_scheme
from vitscope.models.references.hub import fetch_folder, not_loaded, reached
from vitscope.models.references.suggestions import file_alone, require_scheme
from vitscope.models.timm.adapter import TimmAdapter
from vitscope.models.timm.classes import class_names
from vitscope.models.timm.files import WEIGHT_FILES, is_timm_config, load_folder
from vitscope.models.transformers.adapter import TransformersAdapter
from vitscope.models.transformers.loading import Source, adapted, load_transformers
from vitscope.models.transformers.processor_loading import processor_of
from vitscope.models.weights.foreign_files import WEIGHT_SUFFIXES, foreign_folder
from vitscope.models.weights.peft_folder import base_of, is_peft_folder, load_merged
from vitscope.models.weights.weights_file import WeightsFile, read_weights

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class LoadRequest:
    """How a reference is loaded.

    Attributes:
        processor: the image processor; None takes the model's own.
        device: where the model goes.
        dtype: of its parameters.
        options: what the caller said of the model.
        revision: branch, tag or commit on the Hub.
        weights: a file of weights, or a folder of peft, for the architecture that the reference names.
        progress: called with (stage, done, total) while weights are fetched.
    """

    processor: Any
    device: torch.device
    dtype: torch.dtype
    options: ModelOptions
    revision: str | None = None
    weights: str | Path | None = None
    progress: Progress | None = None

    def with_file(self, file: WeightsFile) -> "LoadRequest":
        """Return the request with the hash of its file of weights in what the provenance says."""
        return replace(self, options=self.options.and_said(weights_sha256=file.sha256))


def open_reference(reference: str, request: LoadRequest) -> ModelAdapter:
    """Load the model that a reference names.

    Raises:
        UsageError: a file or a bare name that is no reference, with the one that was probably meant.
        ModelError: not found, unreachable or broken.
        MissingDependencyError: the library that the reference names is not installed.
        LayoutError: loaded, but the tokens cannot be traced.
    """
    check_reference(reference)
    folder = _adapter_folder(request.weights)
    file = None if folder or request.weights is None else read_weights(request.weights)
    if file is not None:
        request = request.with_file(file)
    scheme, colon, name = reference.partition(":")
    if colon and scheme == "embedded":
        embedded, extra = _embedded(name, request.progress)
        if name in catalogue.TABLE and file is None and request.processor is None and request.options.output is None:
            model, processor = load_dinov2(catalogue.about(name), Path(embedded))
            extra |= {"reference": reference, "processor": processor}
            return _bound(TransformersAdapter, model, request, extra, ())
        extra = {} if file else extra
        return _of_transformers(Source(embedded, reference, local=True), request, file, extra=extra)
    if colon and (named := dict(ADAPTERS).get(scheme)) and named.references:
        return _of_library(named, name, request, file)
    path = Path(reference).expanduser()
    if colon and len(scheme) > 1 and not path.exists():
        ADAPTERS.require_intact(scheme)
        schemes = [f"{adapter_name}:" for adapter_name, adapter in ADAPTERS if adapter.references]
        raise no_such_scheme(scheme, schemes)
    if path.is_file() or (path.suffix.lower() in WEIGHT_SUFFIXES and not path.is_dir()):
        raise file_alone(path)
    source = _source(reference, path, request)
    if folder is not None:
        return _of_adapter(folder, source, request)
    if source.local and is_peft_folder(path) and not (path / "config.json").is_file():
        base, revision = base_of(path)
        here = Path(base).expanduser()
        found = _source(base, here, replace(request, revision=revision))
        return _of_adapter(path, found, request, reference=reference)
    return _of_source(source, request, file)


def _source(reference: str, path: Path, request: LoadRequest) -> Source:
    """Find out whether a reference is a folder or an id that the Hub or its cache has."""
    trust = request.options.trust_remote_code
    if path.is_dir():
        return Source(str(path), reference, local=True, trust_remote_code=trust)
    no_such_folder(reference)
    require_scheme(reference)
    local = not reached(reference, request.revision)
    return Source(reference, reference, local, request.revision, trust)


def _of_source(source: Source, request: LoadRequest, file: WeightsFile | None) -> ModelAdapter:
    """Load a folder, or a model of the Hub, of transformers or of timm."""
    folder = Path(source.path)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise foreign_folder(folder)
    if is_timm_config(source.config()):
        if not folder.is_dir():
            folder = fetch_folder(source.path, source.revision, WEIGHT_FILES, local=source.local)
        made, notes = load_folder(folder, source.reference, file)
        extra: dict[str, Any] = {"reference": source.reference}
        if file is None and source.reference.startswith("timm/"):  # of timm's own, whose names are known
            extra["labels"] = class_names(made, pretrained=True)
        return _bound(TimmAdapter, made, request, extra, notes)
    return _of_transformers(source, request, file)


def _of_transformers(
    source: Source, request: LoadRequest, file: WeightsFile | None, *, extra: dict[str, Any] | None = None
) -> ModelAdapter:
    return load_transformers(
        source, request.processor, request.device, request.dtype, request.options, weights=file, extra=extra
    )


def _of_library(adapter: type[ModelAdapter], name: str, request: LoadRequest, file: WeightsFile | None) -> ModelAdapter:
    """Load `ADAPTER:NAME`: with its pretrained weights, or filled with those of a file."""
    notes: tuple[Message, ...] = ()
    try:
        if file is None:
            made, extra = adapter.load_pretrained(name)
        else:
            made, extra, notes = adapter.load_architecture(name, file)
            notes = (*file.notes, *notes)
    except VitscopeError:
        raise
    except Exception as error:  # whatever a broken connection or an unknown name raises in there
        raise not_loaded(f"{adapter.name}:{name}", error) from error
    return _bound(adapter, made, request, {"reference": f"{adapter.name}:{name}"} | extra, notes)


def _of_adapter(folder: Path, base: Source, request: LoadRequest, *, reference: str = "") -> ModelAdapter:
    """Load a base model with an adapter of peft merged into it."""
    model, notes = load_merged(folder, base, request.dtype)
    processor = request.processor
    if processor is None:
        processor, chosen = processor_of(base.path, base.reference, base.keywords, base.config())
        notes = (*notes, *chosen)
    source = replace(base, reference=reference or base.reference)
    return adapted(source, model, processor, request.device, request.options, notes, own_weights=False)


def _bound(
    adapter: type[ModelAdapter], made: nn.Module, request: LoadRequest, extra: dict[str, Any], notes: Iterable[Message]
) -> ModelAdapter:
    extra |= {"processor": request.processor} if request.processor else {}
    made = made.to(request.device, request.dtype).eval()
    return adapter.bound(made, extra.pop("processor", None), request.options, notes, **extra)


def _adapter_folder(weights: str | Path | None) -> Path | None:
    """Return the folder of peft that was given as weights, or None."""
    folder = None if weights is None else Path(weights).expanduser()
    return folder if folder is not None and is_peft_folder(folder) else None


def _embedded(name: str, progress: Progress | None) -> tuple[str, dict[str, Any]]:
    """Return the folder of embedded weights, and keywords for their adapter."""
    if name in catalogue.SHIPPED:
        return str(catalogue.shipped_folder(name)), {"weights": catalogue.shipped_id(name)}
    folder = wheel.folder(name, progress=progress)
    return str(folder), {"weights": catalogue.weights_id(name), "size": catalogue.about(name).image_size}
