"""What the outputs of a timm model mean: the names of its classes, as far as its weights are known to have them.

timm gives a model of random or of the user's own weights the configuration of pretrained ones, so a configuration alone
proves nothing: 1,000 outputs may be any 1,000 classes.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)


def class_names(model: Any, pretrained: bool = False) -> dict[int, str]:
    """Return the names of a model's classes, empty where they are not known.

    Args:
        model: of timm.
        pretrained: its weights are those of its configuration; else this is found out, without the network.
    """
    config, count = _config(model), getattr(model, "num_classes", 0)
    names, described = config.get("label_names"), config.get("label_descriptions") or {}
    if isinstance(names, Mapping):
        names = [name for _, name in sorted((int(index), name) for index, name in names.items())]
    if names and len(names) == count:
        said = described if isinstance(described, Mapping) else dict(zip(names, described, strict=False))
        return {index: str(said.get(name, name)) for index, name in enumerate(names)}
    if names or count != config.get("num_classes") or answers_with_clip_features(model):
        return {}
    if not pretrained and not _has_pretrained_head(model, config):
        log.debug("%s: its classifier is not known to be that of its pretrained weights: no names", type(model))
        return {}
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(model)
    return dict(enumerate(ImageNetInfo(subset).label_descriptions())) if subset else {}


def is_headless(model: Any) -> bool:
    """Return whether a model was made without a classifier, and has none."""
    find = getattr(model, "get_classifier", None)
    return not getattr(model, "num_classes", 0) and (find is None or isinstance(find(), nn.Identity))


def answers_with_clip_features(model: Any) -> bool:
    """Return whether what timm calls the classifier is CLIP's projection to the features that texts have, too."""
    config = _config(model)
    name, tag = str(config.get("architecture") or ""), str(config.get("tag") or "")
    trained = "_ft_" in tag or "in1k" in tag or "in12k" in tag
    return "clip" in name and not trained and getattr(model, "num_classes", 0) == config.get("num_classes") != 1000


def _config(model: Any) -> dict[str, Any]:
    config = getattr(model, "pretrained_cfg", None) or {}
    return config if isinstance(config, dict) else config.to_dict()


def _has_pretrained_head(model: Any, config: Mapping[str, Any]) -> bool:
    """Return whether the classifier's weights are those of the pretrained file in the local cache."""
    layers = config.get("classifier") or ()
    keys = [f"{layer}.weight" for layer in ((layers,) if isinstance(layers, str) else layers)]
    return bool(keys) and not config.get("label_offset") and _are_cached(model, config, keys)


def pretrained_tag(model: Any) -> str:
    """Return timm's tag of the pretrained weights where all layers have those of its file in the local cache."""
    config = _config(model)
    layers = [key for key in model.state_dict() if key.endswith("weight")]
    return str(config.get("tag") or "") if _are_cached(model, config, layers) else ""


def _are_cached(model: Any, config: Mapping[str, Any], keys: list[str]) -> bool:
    """Return whether a model has these weights, and they are those of the pretrained file in the local cache."""
    own, stored = model.state_dict(), _cached_weights(config, keys)
    return all(
        key in own
        and key in stored
        and stored[key].shape == own[key].shape
        and torch.equal(stored[key].to(own[key]), own[key])
        for key in keys
    )


def _cached_weights(config: Mapping[str, Any], keys: list[str]) -> dict[str, Tensor]:
    """Return weights of the file that the configuration names, where it is in the cache; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache
    from safetensors import safe_open

    hub_id, given = str(config.get("hf_hub_id") or ""), config.get("file")
    if hub_id.endswith("/"):
        hub_id += f"{config.get('architecture')}.{config.get('tag')}".removesuffix(".")
    path = given or (try_to_load_from_cache(hub_id, "model.safetensors") if hub_id.count("/") == 1 else None)
    if not isinstance(path, (str, Path)) or not str(path).endswith(".safetensors") or not Path(path).is_file():
        return {}
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in keys if key in file.keys()}  # noqa: SIM118
