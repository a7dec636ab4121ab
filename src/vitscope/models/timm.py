"""Models of timm, with the preprocessing and the class names of their own configuration."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from torch import nn

from vitscope.geometry import TokenLayout
from vitscope.models.base import ADAPTERS
from vitscope.models.generic import GenericAdapter

__all__ = ["TimmAdapter"]


class TimmAdapter(GenericAdapter):
    """A timm model.

    Args:
        model: made by `timm.create_model`.
        processor: a function from a Pillow image to pixels; without one, timm's own for the model's data config.
        reference: how the model was named.
        layout: which token is which, where it shall not be looked for.
    """

    name = "timm"

    def __init__(
        self,
        model: nn.Module,
        processor: Callable[..., Any] | None = None,
        *,
        reference: str = "",
        layout: TokenLayout | None = None,
    ) -> None:
        from timm.data import create_transform, resolve_model_data_config

        self._own = processor is None
        self._config = resolve_model_data_config(model)
        made_for = getattr(getattr(model, "patch_embed", None), "img_size", None)
        if isinstance(made_for, (tuple, list)) and len(made_for) == 2 and not getattr(model, "dynamic_img_size", False):
            self._config["input_size"] = (self._config["input_size"][0], *made_for)
        processor = processor or create_transform(**self._config, is_training=False)
        super().__init__(model, processor, reference=reference, layout=layout, labels=_labels(model))
        self.classes = getattr(model, "num_classes", 0) > 0

    @classmethod
    def claims(cls, model: object) -> bool:
        """A module whose class timm defines."""
        return isinstance(model, nn.Module) and type(model).__module__.startswith("timm.")

    @cached_property
    def weights(self) -> str:  # type: ignore[override]
        """The SHA-256 of the parameters in memory, with timm's tag of them."""
        tag = (getattr(self.model, "pretrained_cfg", None) or {}).get("tag") or ""
        return " ".join(part for part in (tag, super().weights) if part)

    def preprocessing(self) -> str:
        """What happens to a photo, in words."""
        if not self._own:
            return super().preprocessing()
        c = self._config
        size = " x ".join(str(v) for v in c["input_size"][1:])
        return f"timm's own: {c['crop_mode']} crop {c['crop_pct']}, {c['interpolation']}, {size}"

    def describe(self) -> Mapping[str, str]:
        """Architecture and sizes, in words."""
        pool = getattr(self.model, "global_pool", None)
        return {**super().describe(), **({"global_pool": str(pool)} if isinstance(pool, str) else {})}


def _labels(model: Any) -> dict[int, str]:
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(model)
    if not subset:
        return {}
    info = ImageNetInfo(subset)
    return {i: info.index_to_description(i) for i in range(model.num_classes)}


ADAPTERS.add(TimmAdapter.name, TimmAdapter)
