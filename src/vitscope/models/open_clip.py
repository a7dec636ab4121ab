"""Image towers of open_clip: features, no classes."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from vitscope.attention.model_modes import eval_mode
from vitscope.errors import ModelError
from vitscope.geometry import TokenLayout
from vitscope.models.base import ADAPTERS
from vitscope.models.generic import GenericAdapter

__all__ = ["OpenClipAdapter"]

_CLIP_WORDS = 49408


class OpenClipAdapter(GenericAdapter):
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
        """The features of a text, where the whole model was loaded.

        Raises:
            ModelError: the model's tokenizer is not known, or out of reach.
        """
        if not hasattr(self.model, "encode_text"):
            return super().text_features(words)
        device, model = next(self.model.parameters()).device, cast(Any, self.model)
        tokens = self._tokenizer()([words])
        with eval_mode(self.model), torch.no_grad():
            features: Tensor = model.encode_text(tokens.to(device))
        return features

    def _tokenizer(self) -> Callable[[list[str]], Tensor]:
        """The tokenizer that the model was trained with: by its name, or CLIP's where the vocabulary is CLIP's."""
        import open_clip

        architecture = self.reference.removeprefix("open_clip:").partition("/")[0]
        if self.reference.startswith("open_clip:") and architecture in open_clip.list_models():
            try:
                return cast(Callable[[list[str]], Tensor], open_clip.get_tokenizer(architecture))
            except Exception as error:  # some come from the Hub
                raise ModelError(f"the tokenizer of {architecture} could not be loaded: {error}") from error
        text: Any = getattr(self.model, "text", self.model)
        length = getattr(text, "context_length", None) or getattr(self.model, "context_length", None)
        if getattr(text, "vocab_size", None) != _CLIP_WORDS:
            raise ModelError(
                "it is not known which tokenizer this module's texts need",
                "load it by name, open_clip:ARCH/PRETRAINED, or give features: vitscope.text(words).known(features)",
            )
        return cast(Callable[[list[str]], Tensor], open_clip.SimpleTokenizer(context_length=length or 77))

    def preprocessing(self) -> str:
        """What happens to a photo, in words."""
        return "open_clip's own for this tower" if self._own else super().preprocessing()


ADAPTERS.add(OpenClipAdapter.name, OpenClipAdapter)
