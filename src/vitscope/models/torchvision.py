"""Vision Transformers of torchvision, with the preprocessing and the class names of their weights."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from vitscope._messages import Message, msg
from vitscope.errors import UnknownNameError, require_package
from vitscope.models.base import ADAPTERS
from vitscope.models.generic import GenericAdapter
from vitscope.models.references.hub import HUB_SECONDS, within
from vitscope.models.weights.weights_file import WeightsFile
from vitscope.models.weights.weights_match import fill, match

_DOWNLOAD_SECONDS = 50 * HUB_SECONDS


class TorchvisionAdapter(GenericAdapter):
    """A torchvision model; loaded as `torchvision:NAME`, it has its weights' preprocessing and classes."""

    name = "torchvision"
    references = msg(
        "models.torchvision-references", "a model of torchvision, such as torchvision:vit_b_16 or torchvision:swin_t"
    )

    @classmethod
    def load_pretrained(cls, name: str) -> tuple[nn.Module, dict[str, Any]]:
        """Load `NAME`, or `NAME/WEIGHTS` for other weights than the default ones."""
        require_package("torchvision", extra="torchvision")
        from torchvision import models

        plain, _, which = name.partition("/")
        if plain not in models.list_models(module=models):
            kind = msg("models.torchvision-model", "torchvision model")
            raise UnknownNameError(kind, plain, models.list_models(module=models))
        weights = getattr(models.get_model_weights(plain), which or "DEFAULT")
        model = within(_DOWNLOAD_SECONDS, lambda: models.get_model(plain, weights=weights))
        labels = dict(enumerate(weights.meta.get("categories", ())))
        return model, {"processor": weights.transforms(), "labels": labels}

    @classmethod
    def load_architecture(
        cls, name: str, weights: WeightsFile
    ) -> tuple[nn.Module, dict[str, Any], tuple[Message, ...]]:
        """Build an architecture with as many classes and as large an input as the weights of a file have."""
        require_package("torchvision", extra="torchvision")
        from torchvision import models

        if name not in models.list_models(module=models):
            kind = msg("models.torchvision-model", "torchvision model")
            raise UnknownNameError(kind, name, models.list_models(module=models))
        with torch.device("meta"):
            own = models.get_model(name, weights=None).state_dict()
        matched = match(weights, own)
        head = [key for key, tensor in own.items() if tensor.ndim == 2 and key.endswith("weight")][-1]
        arguments: dict[str, Any] = {}
        if head in matched.tensors:
            arguments["num_classes"] = len(matched.tensors[head])
        positions, patch = (matched.tensors.get(key) for key in ("encoder.pos_embedding", "conv_proj.weight"))
        if positions is not None and patch is not None:
            arguments["image_size"] = math.isqrt(positions.shape[1] - 1) * patch.shape[-1]
        model = models.get_model(name, weights=None, **arguments)
        fill(model, matched.tensors, weights, f"torchvision:{name}")
        note = msg(
            "models.weights-arguments",
            "{file}: {arguments}, by the shapes of its weights",
            file=weights.path.name,
            arguments=", ".join(f"{key} {value}" for key, value in arguments.items()),
        )
        return model, {}, (*matched.notes, note)

    def default_processor(self) -> Callable[..., Any]:
        """Return torchvision's preset for classification at the model's size: shortest side, then the centre."""
        from torchvision.transforms._presets import ImageClassification

        preset: Callable[..., Any] = ImageClassification(crop_size=self.input_size[0], resize_size=self.input_size[0])
        return preset

    def preprocessing(self) -> Message:
        """Describe what happens to an image."""
        return msg(
            "models.preprocessing.torchvision",
            "torchvision's ImageClassification preset: shortest side and centre crop at {size}",
            size=self.input_size[0],
        )


ADAPTERS.add(TorchvisionAdapter.name, TorchvisionAdapter)
