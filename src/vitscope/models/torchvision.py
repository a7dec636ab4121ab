"""Vision Transformers of torchvision, with the preprocessing and the class names of their weights."""

from collections.abc import Callable
from typing import Any

from torch import nn

from vitscope._messages import Message, msg
from vitscope.errors import UnknownNameError, require_package
from vitscope.models.base import ADAPTERS
from vitscope.models.generic import GenericAdapter
from vitscope.models.hub import HUB_SECONDS, within

__all__ = ["TorchvisionAdapter"]

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
