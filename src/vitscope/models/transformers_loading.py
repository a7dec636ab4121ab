"""Loading models of transformers from a folder or the Hub, with their image processor."""

import logging
from pathlib import Path
from typing import Any

import torch

from vitscope._messages import msg
from vitscope.errors import ModelError, first_line, require_package
from vitscope.models.hub import cached_revision, not_loaded, reach_hub
from vitscope.models.options import ModelOptions
from vitscope.models.transformers import TransformersAdapter
from vitscope.models.transformers_types import CLASSIFIER, VIDEO_TYPES
from vitscope.models.transformers_video import VideoAdapter

__all__ = ["load_processor", "load_transformers"]

log = logging.getLogger(__name__)


def load_transformers(
    path: str,
    reference: str,
    processor: Any,
    device: torch.device,
    dtype: torch.dtype,
    options: ModelOptions,
    *,
    local: bool,
    revision: str | None = None,
    trust_remote_code: bool = False,
    extra: dict[str, Any] | None = None,
) -> TransformersAdapter | VideoAdapter:
    """Load a model of transformers.

    Args:
        path: a folder or a Hub id.
        reference: how the model was named.
        processor: an image processor; by default the model's own.
        device: where the model goes.
        dtype: of its parameters.
        options: what the caller said of the model.
        local: use local files only.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: run the code that the repository or folder brings.
        extra: further keywords of the adapter.

    Raises:
        ModelError: broken or incomplete files, or a model that takes no images.
        LayoutError: the tokens cannot be traced.
    """
    import transformers

    source: dict[str, Any] = {
        "local_files_only": local,
        "revision": revision or "main",
        "trust_remote_code": trust_remote_code,  # never left out: transformers would ask on the terminal
    }
    try:
        config = transformers.AutoConfig.from_pretrained(path, **source)
        head, adapter = _kind_of(config)
        classifies = any(head in name for name in config.architectures or [])
        auto = getattr(transformers, f"AutoModel{head if classifies else ''}")
        model, report = auto.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **source,
        )
        processor = processor or _processor(adapter, path, source)
    except Exception as error:  # broken files make the loaders raise anything
        raise not_loaded(reference, error) from error
    _check_weights(reference, report)
    if not adapter.claims(model):
        raise ModelError(
            msg(
                "models.takes-no-images",
                "{reference} is a {architecture}, which takes no images",
                reference=reference,
                architecture=type(model).__name__,
            )
        )
    keywords = {"reference": reference, "weights": cached_revision(reference, revision)} | (extra or {})
    return adapter.bound(model.to(device).eval(), processor, options, **keywords)


def _kind_of(config: Any) -> tuple[str, type[TransformersAdapter] | type[VideoAdapter]]:
    """Return the ending of a model type's classifiers, and its adapter."""
    if config.model_type in VIDEO_TYPES:
        return "ForVideoClassification", VideoAdapter
    return CLASSIFIER, TransformersAdapter


def _processor(adapter: type[TransformersAdapter] | type[VideoAdapter], path: str, source: dict[str, Any]) -> Any:
    """Load the processor that a folder or repository has; of a video model, its video processor before an image one."""
    from transformers import AutoImageProcessor, AutoVideoProcessor

    if adapter is VideoAdapter:
        require_package("torchvision", extra="video")
        try:
            return AutoVideoProcessor.from_pretrained(path, **source)  # type: ignore[no-untyped-call]
        except (ValueError, OSError):  # made when these had image processors
            log.debug("%s has no video processor", path)
    return AutoImageProcessor.from_pretrained(path, **source)  # type: ignore[no-untyped-call]


def load_processor(reference: str, *, trust_remote_code: bool = False) -> Any:
    """Load an image processor of transformers from a folder or the Hub.

    Raises:
        ModelError: no such folder, or no image processor in it.
    """
    from transformers import AutoImageProcessor

    path = Path(reference).expanduser()
    local = path.is_dir() or not reach_hub(reference, None, "preprocessor_config.json")
    source = str(path) if path.is_dir() else reference
    try:
        return AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            source, local_files_only=local, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # broken files make the loaders raise anything
        problem = msg(
            "models.processor-not-loaded",
            "no image processor can be loaded from {reference}: {reason}",
            reference=reference,
            reason=first_line(error),
        )
        hint = msg(
            "models.processor-not-loaded.hint",
            "{@processor} expects a folder or a Hub id with a preprocessor_config.json",
        )
        raise ModelError(problem, hint) from error


def _check_weights(reference: str, report: dict[str, Any]) -> None:
    """Refuse weights that do not fit their config, or that lack parameters."""
    if mismatched := sorted(report["mismatched_keys"]):
        name, in_file, in_config = mismatched[0]
        raise ModelError(
            msg(
                "models.weights-do-not-fit",
                "{count} weights of {reference} do not fit its config, such as {name}: {in_file} in the file, "
                "{in_config} in the config",
                count=len(mismatched),
                reference=reference,
                name=name,
                in_file=tuple(in_file),
                in_config=tuple(in_config),
            ),
            msg("models.weights-do-not-fit.hint", "the folder mixes two models: take config and weights of one"),
        )
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name and "mask_token" not in name)
    if missing:
        raise ModelError(
            msg(
                "models.weights-missing",
                "the weights of {reference} lack {count} parameters, such as {name}",
                reference=reference,
                count=len(missing),
                name=missing[0],
            ),
            msg("models.weights-missing.hint", "these would be random numbers: use a complete checkpoint"),
        )
