"""Image towers of open_clip: features, no classes."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from vitscope.capturing import evaluating
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

    def text_features(self, words: str) -> Tensor:
        """The features of a text, where the whole model was loaded."""
        if not hasattr(self.model, "encode_text"):
            return super().text_features(words)
        import open_clip

        architecture = self.reference.removeprefix("open_clip:").partition("/")[0]
        known = self.reference.startswith("open_clip:") and architecture in open_clip.list_models()
        tokenize = open_clip.get_tokenizer(architecture) if known else open_clip.tokenize
        device, model = next(self.model.parameters()).device, cast(Any, self.model)
        with evaluating(self.model), torch.no_grad():
            features: Tensor = model.encode_text(tokenize([words]).to(device))
        return features

    def preprocessing(self) -> str:
        """What happens to a photo, in words."""
        return "open_clip's own for this tower" if self._own else super().preprocessing()


FAMILIES.add(OpenClip.name, OpenClip)
