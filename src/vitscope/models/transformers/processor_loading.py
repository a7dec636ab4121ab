"""Find the image processor of a model of transformers: its own, the one that was named, or that of its base model."""

import logging
from pathlib import Path
from typing import Any

from vitscope._messages import Message, msg
from vitscope.errors import ModelError, first_line, require_package
from vitscope.models.references.hub import not_loaded, reach_hub, remote_code
from vitscope.models.transformers.types import AUDIO_TYPES, VIDEO_TYPES

log = logging.getLogger(__name__)

_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


def load_processor(reference: str, *, trust_remote_code: bool = False) -> Any:
    """Load an image processor of transformers from a folder or the Hub.

    Raises:
        ModelError: no such folder, or no image processor in it.
    """
    from transformers import AutoImageProcessor

    path = Path(reference).expanduser()
    hint = msg(
        "models.processor-not-loaded.hint",
        "{@processor} expects a folder or a Hub id with a preprocessor_config.json",
    )
    try:
        local = path.is_dir() or not reach_hub(reference, None, _FILES[0])
    except ModelError as error:  # whose hint is about the model
        raise ModelError(error.message, hint) from error
    source = str(path) if path.is_dir() else reference
    try:
        return AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            source, local_files_only=local, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # broken files make the loaders raise anything
        if "trust_remote_code" in str(error):
            raise remote_code(reference) from error
        problem = msg(
            "models.processor-not-loaded",
            "no image processor can be loaded from {reference}: {reason}",
            reference=reference,
            reason=first_line(error),
        )
        raise ModelError(problem, hint) from error


def processor_of(
    path: str, reference: str, keywords: dict[str, Any], config: dict[str, Any]
) -> tuple[Any, tuple[Message, ...]]:
    """Return a model's own image processor; without one, that of the model that it was trained from.

    Args:
        path: a folder or a Hub id.
        reference: how the model was named.
        keywords: of `from_pretrained`.
        config: config.json as it is written.

    Returns:
        The processor, or None for the library's default for the model type; and a note where it is not the model's own.

    Raises:
        ModelError: a processor that cannot be loaded.
    """
    folder = Path(path)
    if not folder.is_dir() or any((folder / name).is_file() for name in _FILES):
        try:
            return _own_processor(path, keywords, config.get("model_type")), ()
        except Exception as error:  # broken files make the loaders raise anything
            if folder.is_dir() or not any(name in str(error) for name in _FILES):
                raise not_loaded(reference, error) from error
    base = str(config.get("_name_or_path") or "")
    if base and base != path:
        try:
            processor = load_processor(base)
        except ModelError as error:
            log.debug("%s: no processor of its base model %s: %s", reference, base, error)
        else:
            return processor, (
                msg(
                    "models.processor-of-base",
                    "{reference} has no preprocessor_config.json: the image processor of {base}, which it was trained "
                    "from, is used ({@processor} names another)",
                    reference=reference,
                    base=base,
                ),
            )
    return None, (
        msg(
            "models.processor-default",
            "{reference} has no preprocessor_config.json: vitscope chose the preprocessing by the model type "
            "{model_type} and the config's image size ({@processor} names another)",
            reference=reference,
            model_type=str(config.get("model_type", "its type")),
        ),
    )


def _own_processor(path: str, keywords: dict[str, Any], model_type: str | None) -> Any:
    """Load the processor that a folder or repository has, of the kind that the model type takes."""
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoVideoProcessor

    if model_type in AUDIO_TYPES:
        return AutoFeatureExtractor.from_pretrained(path, **keywords)  # type: ignore[no-untyped-call]
    if model_type in VIDEO_TYPES:
        require_package("torchvision", extra="video")
        try:
            return AutoVideoProcessor.from_pretrained(path, **keywords)  # type: ignore[no-untyped-call]
        except (ValueError, OSError):  # made when these had image processors
            log.debug("%s has no video processor", path)
    return AutoImageProcessor.from_pretrained(path, **keywords)  # type: ignore[no-untyped-call]
