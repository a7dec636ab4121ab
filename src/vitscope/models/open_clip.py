"""Image towers of open_clip: features, no classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vitscope._messages import Message, msg
from vitscope.attention.model_modes import eval_mode
from vitscope.errors import ModelError, UnknownNameError, first_line, require_package
from vitscope.geometry import TokenLayout
from vitscope.models.base import ADAPTERS, text_too_long
from vitscope.models.generic import GenericAdapter
from vitscope.models.weights.weights_file import WeightsFile
from vitscope.models.weights.weights_match import fill, match

_CLIP_VOCABULARY = 49408
_ROOM = 8


class OpenClipAdapter(GenericAdapter):
    """An open_clip model, of which the image tower is examined, or an image tower by itself.

    Args:
        model: made by `open_clip.create_model`, or its `visual`.
        processor: a function from a Pillow image to pixels; without one, open_clip's own for the tower.
        reference: how the model was named.
        layout: which token is which, where it should not be traced.
    """

    name = "open_clip"
    references = msg(
        "models.open-clip-references",
        "an image tower as ARCH/PRETRAINED, such as open_clip:ViT-B-32/laion2b_s34b_b79k, or ARCH/FILE",
    )
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
        self._own_processor = processor is None
        if processor is None:
            config = dict(getattr(visual, "preprocess_cfg", None) or {"size": visual.image_size})
            processor = image_transform_v2(PreprocessCfg(**config), is_train=False)
        super().__init__(model, processor, reference=reference, layout=layout)

    @classmethod
    def load_pretrained(cls, name: str) -> tuple[nn.Module, dict[str, Any]]:
        """Load `ARCH/PRETRAINED`, or `ARCH/FILE` for weights that torch.save wrote."""
        require_package("open_clip", "open_clip_torch", extra="open_clip")
        import open_clip

        architecture, _, tag = name.partition("/")
        if architecture not in open_clip.list_models():
            kind = msg("models.open-clip-architecture", "open_clip architecture")
            raise UnknownNameError(kind, architecture, open_clip.list_models())
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        if tag not in tags and (file := Path(tag).expanduser()).is_file():
            tag = str(file)
        elif tag not in tags and "/" in tag:
            raise ModelError(
                msg("models.no-weights-file", "the file of weights {file} does not exist", file=tag),
                msg("models.no-weights-file.hint", "open_clip:ARCH/FILE takes a file that torch.save wrote"),
            )
        elif tag not in tags:
            kind = msg("models.open-clip-weights", "pretrained tag of {architecture}", architecture=architecture)
            raise UnknownNameError(kind, tag or "(none)", tags)
        model, process = open_clip.create_model_from_pretrained(architecture, pretrained=tag)
        return model, {"processor": process}

    @classmethod
    def load_architecture(
        cls, name: str, weights: WeightsFile
    ) -> tuple[nn.Module, dict[str, Any], tuple[Message, ...]]:
        """Build an architecture and fill it with the weights of a file."""
        require_package("open_clip", "open_clip_torch", extra="open_clip")
        import open_clip

        if name not in open_clip.list_models():
            kind = msg("models.open-clip-architecture", "open_clip architecture")
            raise UnknownNameError(kind, name, open_clip.list_models())
        model = open_clip.create_model(name, pretrained=None)
        matched = match(weights, model.state_dict())
        fill(model, matched.tensors, weights, f"open_clip:{name}")
        return model, {}, matched.notes

    def run(self, pixels: Tensor) -> Any:
        """Return the image's features."""
        encode = getattr(self.model, "encode_image", self.model)
        return encode(pixels)

    def text_features(self, text: str) -> Tensor:
        """Return the features of a text, where the whole model was loaded.

        Raises:
            UnsupportedError: this is an image tower alone.
            UsageError: the text has more tokens than the model has positions.
            ModelError: the model's tokenizer is not known, or unreachable.
        """
        if not hasattr(self.model, "encode_text"):
            return super().text_features(text)
        device, model = next(self.model.parameters()).device, cast(Any, self.model)
        tokens = _whole_tokens(self._tokenizer(), text)
        with eval_mode(self.model), torch.no_grad():
            features: Tensor = model.encode_text(tokens.to(device))
        return features

    def _tokenizer(self) -> Callable[[list[str]], Tensor]:
        """Return the tokenizer of the architecture's name, or CLIP's where the vocabulary is CLIP's."""
        import open_clip

        architecture = self.reference.removeprefix("open_clip:").partition("/")[0]
        if self.reference.startswith("open_clip:") and architecture in open_clip.list_models():
            try:
                return cast(Callable[[list[str]], Tensor], open_clip.get_tokenizer(architecture))
            except Exception as error:  # some come from the Hub
                raise ModelError.coded(
                    "models.tokenizer-not-loaded",
                    "the tokenizer of {architecture} cannot be loaded: {reason}",
                    architecture=architecture,
                    reason=first_line(error),
                ) from error
        encoder: Any = getattr(self.model, "text", self.model)
        length = getattr(encoder, "context_length", None) or getattr(self.model, "context_length", None)
        if getattr(encoder, "vocab_size", None) != _CLIP_VOCABULARY:
            hint = msg(
                "models.tokenizer-unknown.hint",
                "load it by name, open_clip:ARCH/PRETRAINED, or pass vitscope.text(text).with_features(features)",
            )
            raise ModelError(msg("models.tokenizer-unknown", "the tokenizer of this module is not known"), hint)
        return cast(Callable[[list[str]], Tensor], open_clip.SimpleTokenizer(context_length=length or 77))

    def preprocessing(self) -> Message:
        """Describe what happens to an image."""
        if not self._own_processor:
            return super().preprocessing()
        return msg("models.preprocessing.open-clip", "open_clip's own for this tower")


def _whole_tokens(tokenizer: Callable[..., Tensor], text: str) -> Tensor:
    """Return the tokens `(1, L)` of a text; open_clip's tokenizers cut what is longer, which more room shows."""
    tokens = tokenizer([text])
    limit = tokens.shape[1]
    room = tokenizer([text], context_length=_ROOM * limit)[0]
    written = (room != room[-1]).nonzero()
    count = int(written.max()) + 1 if len(written) else 0
    if count > limit or (count == limit and not torch.equal(tokens[0], room[:limit])):
        raise text_too_long(text, max(count, limit + 1), limit)
    return tokens


ADAPTERS.add(OpenClipAdapter.name, OpenClipAdapter)
