"""Folders that peft wrote: an adapter, applied to the base model that it names and merged into its weights."""

import json
import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vitscope._messages import Message, msg
from vitscope.errors import ModelError, first_line, require_package
from vitscope.models.transformers.loading import Source, load_module
from vitscope.models.weights.weights_file import read_weights

log = logging.getLogger(__name__)

_CONFIG = "adapter_config.json"
_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_START = "base_model.model."
# of an adapter's config: what peft takes for regular expressions, and how much of one it is given
_PATTERNS = (
    "target_modules",
    "exclude_modules",
    "target_parameters",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
)
_LONGEST_PATTERN, _MOST_REPETITIONS = 5000, 6


def is_peft_folder(folder: Path) -> bool:
    """Return whether a folder holds an adapter of peft, and no whole model."""
    return (folder / _CONFIG).is_file()


def base_of(folder: Path) -> tuple[str, str | None]:
    """Return the reference and the revision of the base model that an adapter names.

    Raises:
        ModelError: an adapter_config.json that names none.
    """
    config = _config(folder)
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(
            msg("models.peft-base", "{file} names no base model", file=folder / _CONFIG),
            msg("models.peft-base.hint", "name it: {@model=BASE} and {@weights={folder}}", folder=folder),
        )
    revision = config.get("revision")
    return base, revision if isinstance(revision, str) else None


def load_merged(folder: Path, base: Source, dtype: torch.dtype) -> tuple[Any, tuple[Message, ...]]:
    """Load a base model, apply the adapter of a folder and merge it: the plain class, with other weights.

    The classifier that was trained with the adapter is put in the base's place, with as many classes as it has.

    Raises:
        MissingDependencyError: peft is not installed.
        ModelError: a base that cannot be loaded, or weights of the adapter that have no place in it.
    """
    require_package("peft", extra="peft")
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict

    config = _config(folder)
    file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if file is None:
        raise ModelError.coded(
            "models.peft-weights",
            "{folder} has an {config}, but no adapter_model.safetensors",
            "get the whole folder that save_pretrained of peft wrote",
            folder=folder,
            config=_CONFIG,
        )
    _check_patterns(folder, config)
    weights = read_weights(file)
    saved = config.get("auto_mapping")
    name = str(saved.get("base_model_class") or "") if isinstance(saved, Mapping) else ""
    whole = {key.removeprefix(_START): tensor for key, tensor in weights.tensors.items() if "lora_" not in key}
    classes = next((len(tensor) for key, tensor in whole.items() if key == "classifier.weight"), 0)
    if classes and not name:
        name = "AutoModelForImageClassification"
    model, notes = load_module(base, dtype, class_name=name, labels=classes, supplied=tuple(whole))
    own = Source(str(folder), str(folder), local=True).config().get("id2label")
    if classes and isinstance(own, Mapping) and len(own) == classes:
        model.config.id2label = {int(number): str(label) for number, label in own.items()}
    try:
        with warnings.catch_warnings():  # of names that transformers is about to drop, and of another base
            warnings.simplefilter("ignore")
            wrapped = get_peft_model(model, PeftConfig.from_pretrained(str(folder)))
            result: Any = set_peft_model_state_dict(wrapped, dict(weights.tensors))
    except Exception as error:  # kinds of adapters and targets that do not fit the model
        raise ModelError.coded(
            "models.peft-apply",
            "the adapter {folder} does not fit {base}: {reason}",
            folder=folder,
            base=base.reference,
            reason=first_line(error),
        ) from error
    lacking = [key for key in result.missing_keys if "lora_" in key or "modules_to_save" in key]
    if result.unexpected_keys or lacking:
        wrong = [*result.unexpected_keys, *lacking]
        raise ModelError.coded(
            "models.peft-differ",
            "the adapter {folder} is not of {base}: {count} weights have no counterpart, such as {name}",
            folder=folder,
            base=base.reference,
            count=len(wrong),
            name=wrong[0],
        )
    if not hasattr(wrapped, "merge_and_unload"):
        raise ModelError.coded(
            "models.peft-kind",
            "the adapter {folder} is of the kind {kind}, which cannot be merged",
            "load it in Python and pass the module to vitscope.load",
            folder=folder,
            kind=config.get("peft_type"),
        )
    merged = wrapped.merge_and_unload()
    note = msg(
        "models.peft-merged",
        "adapter {kind} of {folder} merged into {base}",
        kind=config.get("peft_type", "of peft"),
        folder=folder.name,
        base=base.reference,
    )
    return merged, (*notes, *weights.notes, note)


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / _CONFIG).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError.coded(
            "models.peft-config", "{file} cannot be read: {reason}", file=folder / _CONFIG, reason=first_line(error)
        ) from error
    return found if isinstance(found, dict) else {}


def _check_patterns(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise a ModelError where a regular expression that chooses modules can take for ever over a single name."""
    for name in _PATTERNS:
        value = config.get(name)
        for pattern in [value] if isinstance(value, str) else value if isinstance(value, (list, Mapping)) else []:
            if _is_costly(str(pattern)):
                raise ModelError.coded(
                    "models.peft-pattern",
                    "the adapter {folder} chooses modules by a pattern that can take for ever: {pattern}",
                    "list the modules by their names in adapter_config.json",
                    folder=folder,
                    pattern=str(pattern)[:200],
                )


def _is_costly(pattern: str) -> bool:
    """Return whether a repeated group holds repetitions or alternatives, or there are many repetitions."""
    text = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "x", pattern)
    many = len(pattern) > _LONGEST_PATTERN or len(re.findall(r"[*+{]", text)) > _MOST_REPETITIONS
    while not many and (group := re.search(r"\(([^()]*)\)", text)):
        inside, after = re.search(r"[*+{|]", group[1]), text[group.end() :]
        if inside and after.startswith(("*", "+", "{")):
            return True
        text = text[: group.start()] + ("x|" if inside else "x") + after
    return many
