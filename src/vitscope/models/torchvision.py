"""Vision Transformers of torchvision, with the preprocessing and class names of their weights."""

from collections.abc import Callable
from typing import Any

from torch import nn

from vitscope.models.base import ADAPTERS
from vitscope.models.generic import GenericAdapter

__all__ = ["TorchvisionAdapter"]


class TorchvisionAdapter(GenericAdapter):
    """A torchvision model; made by `load("torchvision:NAME")` it knows its weights' preprocessing and classes."""

    name = "torchvision"

    @classmethod
    def claims(cls, model: object) -> bool:
        """A module whose class torchvision defines."""
        return isinstance(model, nn.Module) and type(model).__module__.startswith("torchvision.")

    def default_processor(self) -> Callable[..., Any]:
        """Torchvision's preset for classification at the model's size: shortest side, then the centre."""
        from torchvision.transforms._presets import ImageClassification

        preset: Callable[..., Any] = ImageClassification(crop_size=self.input_size[0], resize_size=self.input_size[0])
        return preset

    def preprocessing(self) -> str:
        """What happens to a photo, in words."""
        return f"torchvision's ImageClassification preset: shortest side and centre crop at {self.input_size[0]}"


ADAPTERS.add(TorchvisionAdapter.name, TorchvisionAdapter)
