"""Image towers of open_clip: features, no classes."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from vitscope.families.generic import Generic
from vitscope.geometry import TokenLayout
from vitscope.registry import FAMILIES

__all__ = ["OpenClip"]


class OpenClip(Generic):
    """An open_clip model, of which the image tower is looked at, or an image tower by itself.

    Args:
        model: made by `open_clip.create_model`, or its `visual`.
        processor: a function from a Pillow image to pixels; without one, open_clip's own for the tower.
        reference: how the model was named.
        layout: which token is which, where it shall not be looked for.
    """

    name = "open_clip"
    classes = False

    def __init__(
        self,
        model: nn.Module,
        processor: Callable[..., Any] | None = None,
        *,
        reference: str = "",
        layout: TokenLayout | None = None,
    ) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        visual: Any = getattr(model, "visual", model)
        self._own = processor is None
        if processor is None:
            config = dict(getattr(visual, "preprocess_cfg", None) or {"size": visual.image_size})
            processor = image_transform_v2(PreprocessCfg(**config), is_train=False)
        super().__init__(model, processor, reference=reference, layout=layout)

    @classmethod
    def claims(cls, model: object) -> bool:
        """A module whose class open_clip defines."""
        return isinstance(model, nn.Module) and type(model).__module__.startswith("open_clip.")

    def run(self, pixels: Tensor) -> Any:
        """The image's features."""
        encode = getattr(self.model, "encode_image", self.model)
        return encode(pixels)

    def preprocessing(self) -> str:
        """What happens to a photo, in words."""
        return "open_clip's own for this tower" if self._own else super().preprocessing()


FAMILIES.add(OpenClip.name, OpenClip)
