"""Models of timm from files: an architecture filled with a file of weights, and folders as the Hub has them."""

import logging
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitscope._messages import Message, msg
from vitscope.errors import ModelError, VitscopeError, first_line, require_package
from vitscope.models.weights.weights_file import WeightsFile, read_weights
from vitscope.models.weights.weights_match import fill, match

log = logging.getLogger(__name__)

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def fill_architecture(name: str, weights: WeightsFile) -> tuple[nn.Module, tuple[Message, ...]]:
    """Build an architecture of timm as large as the weights of a file are, and fill it with them.

    The number of classes is taken from the file's classifier, the input size from its position embeddings, and the
    pooling from the place of its last norm. A file without a classifier gives a model without one.

    Returns:
        The model, and what was read off the file.

    Raises:
        ModelError: weights of another architecture.
    """
    plain = _create(name, {}, meta=True)
    matched = match(weights, plain.state_dict())
    arguments, notes = _arguments(plain, matched.tensors, weights)
    model = _create(name, arguments)
    tensors, converted = _converted(model, matched.tensors)
    fill(model, tensors, weights, f"timm:{name}")
    tag = (model.pretrained_cfg or {}).get("tag") or name
    model.pretrained_cfg = {**(model.pretrained_cfg or {}), "tag": ""}  # these are not its weights
    notes.append(
        msg(
            "models.weights-preprocessing",
            "{file} says nothing of preprocessing: that of timm's {tag} is used ({@processor} names another)",
            file=weights.path.name,
            tag=tag,
        )
    )
    _state_size(model)
    if converted:
        notes.append(msg("models.weights-converted", "{file}: names converted by timm", file=weights.path.name))
    return model, (*matched.notes, *notes)


def is_timm_config(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json is that of a timm model, as `timm.models.save_for_hf` writes it."""
    return isinstance(config.get("architecture"), str) and config.get("model_type") in (None, "timm_wrapper")


def load_folder(
    folder: Path, reference: str, weights: WeightsFile | None = None
) -> tuple[nn.Module, tuple[Message, ...]]:
    """Load the model of a timm folder: with its classifier, its class names and its own input size.

    Args:
        folder: with config.json and weights.
        reference: how the model was named.
        weights: a file whose weights are taken instead of the folder's.

    Returns:
        The model, and what was read off the file.

    Raises:
        MissingDependencyError: timm is not installed.
        ModelError: no weights, or weights that are not of the folder's config.
    """
    require_package("timm", extra="timm")
    try:
        model = _create(f"local-dir:{folder}", {})
    except VitscopeError:
        raise
    except Exception as error:  # a config of an unknown architecture, or with arguments that it does not take
        raise ModelError.coded(
            "models.timm-folder",
            "{reference}: timm cannot build the model of config.json: {reason}",
            reference=reference,
            reason=first_line(error),
        ) from error
    names = [name for name in WEIGHT_FILES if (folder / name).is_file()]
    if not names and weights is None:
        raise ModelError.coded(
            "models.timm-folder-weights",
            "{reference} has the config of a timm model, but neither {files}",
            "get the whole folder, or name a file with {@weights}",
            reference=reference,
            files=" nor ".join(WEIGHT_FILES),
        )
    weights = weights or read_weights(folder / names[0])
    matched = match(weights, model.state_dict())
    tensors, _ = _converted(model, matched.tensors)
    fill(model, tensors, weights, reference)
    _state_size(model)
    return model, matched.notes


def _state_size(model: Any) -> None:
    """Make the model's data config say the input size that its position embeddings are of."""
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    config = dict(model.pretrained_cfg or {})
    if isinstance(size, (tuple, list)) and len(size) == 2 and config.get("input_size"):
        model.pretrained_cfg = config | {"input_size": (config["input_size"][0], *size)}


def _create(name: str, arguments: Mapping[str, Any], *, meta: bool = False) -> Any:
    """Build a model without pretrained weights; one that takes other input sizes where timm can interpolate."""
    import timm

    with torch.device("meta" if meta else "cpu"):
        try:
            return timm.create_model(name, pretrained=False, dynamic_img_size=True, **arguments)
        except TypeError:  # not one of those that take other input sizes
            return timm.create_model(name, pretrained=False, **arguments)
        except RuntimeError:  # timm before 1.0.21 computes numbers as it builds, which the meta device has not
            if not meta:
                raise
    return _create(name, arguments)


def _arguments(model: Any, tensors: Mapping[str, Tensor], weights: WeightsFile) -> tuple[dict[str, Any], list[Message]]:
    """Return what of an architecture the shapes of weights decide, and notes on it."""
    config, own = dict(model.pretrained_cfg or {}), model.state_dict()
    arguments: dict[str, Any] = {}
    notes: list[Message] = []
    heads = [config["classifier"]] if isinstance(config.get("classifier"), str) else [*(config.get("classifier") or ())]
    head = next((f"{name}.weight" for name in heads if f"{name}.weight" in own), None)
    if head is not None and head in tensors:
        arguments["num_classes"] = len(tensors[head])
        notes.append(
            msg(
                "models.weights-classes",
                "{file}: {count} classes, by the shape of {name}",
                file=weights.path.name,
                count=len(tensors[head]),
                name=head,
            )
        )
    elif head is not None:
        arguments["num_classes"] = 0
        notes.append(
            msg(
                "models.weights-headless",
                "{file} has no classifier ({name}): the model's features are explained",
                file=weights.path.name,
                name=head,
            )
        )
    if (first := f"{config.get('first_conv')}.weight") in tensors and first in own:
        channels = tensors[first].shape[1]
        arguments |= {"in_chans": channels} if channels != own[first].shape[1] else {}
    if "fc_norm.weight" in tensors and "fc_norm.weight" not in own and "norm.weight" not in tensors:
        arguments["global_pool"] = "avg"
        notes.append(
            msg("models.weights-pooled", "{file}: patches are averaged, by the name fc_norm", file=weights.path.name)
        )
    if side := _side(model, own, tensors):
        arguments["img_size"] = side
        notes.append(
            msg(
                "models.weights-size",
                "{file}: input of {side} x {side} pixels, by the shape of pos_embed",
                file=weights.path.name,
                side=side,
            )
        )
    log.debug("%s: %s", weights.path, arguments)
    return arguments, notes


def _side(model: Any, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> int | None:
    """Return the input size that position embeddings `(1, N, D)` were trained at, where it is not the default."""
    name = "pos_embed"
    if name not in own or name not in tensors or tensors[name].ndim != 3 or own[name].shape == tensors[name].shape:
        return None
    prefix = 0 if getattr(model, "no_embed_class", False) else getattr(model, "num_prefix_tokens", 0)
    patches = tensors[name].shape[1] - prefix
    grid = math.isqrt(max(patches, 0))
    return grid * int(model.patch_embed.patch_size[0]) if grid * grid == patches else None


def _converted(model: Any, tensors: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], bool]:
    """Return tensors under timm's names, and whether timm converted them from those of the original release."""
    own = model.state_dict()
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None or own.keys() == tensors.keys():
        return tensors, False
    if any(name in own and own[name].shape != tensor.shape for name, tensor in tensors.items()):
        return tensors, False  # timm would interpolate
    try:
        made: dict[str, Tensor] = convert(dict(tensors), model)
    except Exception as error:  # not names that timm knows
        log.debug("timm converts none of these names: %s", first_line(error))
        return tensors, False
    fits = made.keys() == own.keys() and all(made[name].shape == own[name].shape for name in own)
    return (made, True) if fits else (tensors, False)
