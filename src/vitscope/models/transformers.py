"""Vision Transformers of Hugging Face transformers.

A model type is one row of a table: the names of its prefix tokens and how it reads its answer out. A type that is not
in the table is traced: its layout is found from what flows.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitscope.attention import AttentionStore
from vitscope.attention.model_modes import eval_mode
from vitscope.attention.recorder import AttentionRecorder
from vitscope.errors import YES, LayoutError, ModelError, Support
from vitscope.geometry import ImageRegion, Pooling, TokenLayout
from vitscope.images import Picture
from vitscope.models.base import ADAPTERS
from vitscope.models.preprocessing import Preprocessing
from vitscope.models.traced import TracedAdapter, answer_of, hash_of

__all__ = ["TransformersAdapter", "known_types"]


@dataclass(frozen=True)
class _Row:
    """One model type: prefix tokens, pooling and `pool_prefix` from its config and the name of its class."""

    prefix: Callable[[Any], tuple[str, ...]]
    pooling: Callable[[Any, str], tuple[Pooling, bool]]
    features_only: bool = False


def _cls(_config: Any) -> tuple[str, ...]:
    return ("cls",)


def _registers(config: Any) -> tuple[str, ...]:
    return ("cls", *(f"register {i + 1}" for i in range(config.num_register_tokens)))


def _first(_config: Any, _architecture: str) -> tuple[Pooling, bool]:
    return "cls", False


def _mean_if_configured(config: Any, _architecture: str) -> tuple[Pooling, bool]:
    return ("mean" if config.use_mean_pooling else "cls"), False


_USUAL_SIZE = 224
_GREY = np.full((83, 61, 3), 128, np.uint8)  # a size that no model is made for
_INTERPOLATE = "interpolate_pos_encoding"
_CLASSIFIER = "ForImageClassification"
_ROWS: Mapping[str, _Row] = {
    "vit": _Row(_cls, _first),
    "deit": _Row(
        lambda _config: ("cls", "distillation"),
        lambda _config, architecture: ("cls", architecture.endswith("WithTeacher")),
    ),
    "vit_msn": _Row(_cls, _first),
    "dinov2": _Row(_cls, _first, features_only=True),  # the classifier reads the mean patch beside CLS
    "dinov2_with_registers": _Row(_registers, _first, features_only=True),
    "beit": _Row(_cls, _mean_if_configured),
    "ijepa": _Row(lambda _config: (), lambda _config, _architecture: ("mean", False)),
}


def known_types() -> tuple[str, ...]:
    """The model types of the table."""
    return tuple(_ROWS)


class TransformersAdapter(TracedAdapter):
    """A transformers vision model with its image processor.

    Args:
        model: a `PreTrainedModel` that takes pixels, or has an image tower.
        processor: its image processor; without one, the library's default for the model type at `config.image_size`.
        reference: how the model was named.
        weights: a revision or hash; without one, the SHA-256 of the parameters in memory is taken when asked for.
        size: with a number, photos keep their aspect ratio and are not cropped, at about `size ** 2` pixels.

    Raises:
        LayoutError: a model whose tokens cannot be followed.
    """

    name = "transformers"

    def __init__(
        self,
        model: nn.Module,
        processor: Any = None,
        *,
        reference: str = "",
        weights: str = "",
        size: int | None = None,
    ) -> None:
        self.model = model
        config: Any = model.config
        self.config = config
        self.architecture = type(model).__name__
        row = _ROWS.get(config.model_type)
        self._row = None if row is None or (row.features_only and _CLASSIFIER in self.architecture) else row
        self.vision: Any = next((c for c in (getattr(config, "vision_config", None),) if c is not None), config)
        self.input_size = _pair(getattr(self.vision, "image_size", None) or self._usual_size())
        self._tokenizer = getattr(processor, "tokenizer", None)
        self.processor = getattr(processor, "image_processor", processor) or self._default_processor()
        self.reference = reference or self.architecture
        self.size = size
        self._weights = weights
        self.multi_label = getattr(config, "problem_type", None) == "multi_label_classification"
        names = (config.id2label or {}) if _CLASSIFIER in self.architecture else {}
        self.labels = {int(i): str(label) for i, label in names.items()}
        if self._row is None:
            self.trace()
        elif self.layout().prefix[:1] == ("cls",) and self.layout().pooling == "cls":
            self.cls_index = 0

    @classmethod
    def claims(cls, model: object) -> bool:
        """A PreTrainedModel that takes pixels."""
        from transformers import PreTrainedModel

        if not isinstance(model, PreTrainedModel):
            return False
        return model.main_input_name == "pixel_values" or hasattr(model, "get_image_features")

    def run(self, pixels: Tensor) -> Any:
        """Call the image tower, with position embeddings interpolated where the size is another than the model's."""
        call: Any = getattr(self.model, "get_image_features", self.model)
        if self._in_patches():
            patches, rows, columns = _cut(pixels, self._patch)
            mask = torch.ones(patches.shape[:2], dtype=torch.long, device=pixels.device)
            shapes = torch.tensor([[rows, columns]] * len(pixels), device=pixels.device)
            return call(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes)
        takes = inspect.signature(getattr(call, "forward", call)).parameters
        other = tuple(pixels.shape[2:]) != self.input_size
        options: dict[str, Any] = {"interpolate_pos_encoding": True} if other and _INTERPOLATE in takes else {}
        if self.config.model_type == "vit_mae":  # no token is masked, and none is shuffled
            tokens = (pixels.shape[2] // self._patch[0]) * (pixels.shape[3] // self._patch[1])
            options["noise"] = torch.arange(tokens, device=pixels.device, dtype=torch.float32).expand(len(pixels), -1)
            return self._unmasked(pixels, options)
        return call(pixel_values=pixels, **options)

    def text_features(self, words: str) -> Float[Tensor, "1 D"]:
        """The features of a text, where the model has a text tower; its tokenizer comes from where the model does."""
        if not hasattr(self.model, "get_text_features"):
            return super().text_features(words)
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            none = ModelError(
                f"{self.reference} brings no tokenizer for the text '{words}'",
                "load the model with processor=AutoProcessor.from_pretrained(...)",
            )
            if self.reference == self.architecture:  # a module: its class's name is none on the Hub
                raise none
            try:
                self._tokenizer = AutoTokenizer.from_pretrained(self.reference)
            except Exception as error:  # no files, or files of another kind
                raise none from error
        siglip = "siglip" in self.config.model_type  # trained on padded texts, and without a mask over the padding
        length = self.config.text_config.max_position_embeddings
        padding = "max_length" if siglip else True
        given = self._tokenizer([words], padding=padding, truncation=True, max_length=length, return_tensors="pt")
        if siglip:
            given.pop("attention_mask", None)
        model: Any = self.model
        with eval_mode(self.model), torch.no_grad():
            return answer_of(model.get_text_features(**given.to(self.model.device)))

    def _unmasked(self, pixels: Tensor, options: dict[str, Any]) -> Any:
        ratio, self.config.mask_ratio = self.config.mask_ratio, 0.0
        try:
            return self.model(pixel_values=pixels, **options)
        finally:
            self.config.mask_ratio = ratio

    @property
    def isotropic(self) -> Support:
        """Whether every layer sees all tokens."""
        return YES if self._row is not None else super().isotropic

    @property
    def depth(self) -> int:
        """The number of encoder layers."""
        return int(self.config.num_hidden_layers) if self._row else super().depth

    @property
    def _patch(self) -> tuple[int, int]:
        """What sizes are multiples of: the patch, or 32 pixels where layers differ in their tokens."""
        if self._row is not None or self.config.model_type == "vit_mae" or self._in_patches():
            return _pair(self.vision.patch_size)
        layout = self.trace().layout
        patch = self.input_size[0] // layout.grid[0], self.input_size[1] // layout.grid[1]
        return patch if self.isotropic else (max(32, patch[0]), max(32, patch[1]))

    def attention(self, recorder: AttentionRecorder, size: tuple[int, int], answer: Tensor) -> AttentionStore:
        """The store of a forward on pictures of that size."""
        if self._row is not None:
            logits = answer if self.classifies(answer) else None
            return recorder.store(self.layout(size), logits=logits, depth=self.depth, answer=answer)
        return super().attention(recorder, size, answer)

    def token_order(self) -> Tensor | None:
        """Where the layout's tokens stand among the model's, where they do not stand in its order."""
        return None if self._row is not None else super().token_order()

    @cached_property
    def weights(self) -> str:  # type: ignore[override]
        """The Hub's revision, a given hash, or the SHA-256 of the parameters in memory."""
        if self._weights:
            return self._weights
        return hash_of(self.model)

    def layout(self, size: tuple[int, int] | None = None) -> TokenLayout:
        """The token layout at an input of `(Hi, Wi)` pixels, by default the one the model was configured for."""
        if self._row is None:
            return super().layout(size)
        height, width = size or self.input_size
        patch = _pair(self.config.patch_size)
        pooling, pool_prefix = self._row.pooling(self.config, self.architecture)
        return TokenLayout(self._row.prefix(self.config), (height // patch[0], width // patch[1]), pooling, pool_prefix)

    def prepare(self, picture: Picture, size: int | None = None) -> tuple[Float[Tensor, "3 Hi Wi"], ImageRegion]:
        """Pixels as the image processor makes them, and where on the photo they come from."""
        width, height = picture.size
        size = size or self.size
        options: dict[str, Any] = {}
        if not self._of_transformers() or self._in_patches():
            return self._measured(picture, size, self._patch)
        if not size and not self._plain_processor():
            return self._measured(picture)
        if size:
            resized = self._covering(height, width, size)
            options = {"size": {"height": resized[0], "width": resized[1]}, "do_resize": True, "do_center_crop": False}
            region = ImageRegion.from_resize_crop(picture.size, resized)
        else:
            region = self._frame(picture)
        batch = self.processor(
            images=picture.pixels.copy(), input_data_format="channels_last", return_tensors="pt", **options
        )
        pixels: Tensor = batch["pixel_values"][0]
        if tuple(pixels.shape[1:]) != region.input:
            raise LayoutError(
                f"{self._processor_name} made {tuple(pixels.shape[1:])} pixels where {region.input} were expected",
                "pass size=..., which replaces the processor's own resizing",
            )
        return pixels, region

    def classifies(self, answer: Tensor) -> bool:
        """Has the model a classifier?"""
        return bool(self.labels)

    def describe(self) -> Mapping[str, str]:
        """ModelAdapter, architecture and sizes, in words."""
        if self._row is None:
            facts = {"adapter": f"transformers, {self.architecture} (model type {self.config.model_type})"}
            return dict(super().describe()) | facts
        patch, image = _pair(self.config.patch_size), self.input_size
        return {
            "adapter": f"transformers, {self.architecture} (model type {self.config.model_type})",
            "layers, heads": f"{self.depth}, {self.config.num_attention_heads} of width "
            f"{self.config.hidden_size // self.config.num_attention_heads}",
            "patch": f"{patch[0]} x {patch[1]} pixels",
            "trained at": f"{image[0]} x {image[1]} pixels",
            "input": self._input(),
            "classes": str(len(self.labels)) if self.labels else "none: a feature model",
            "attention": f"{self.config._attn_implementation}, seen at scaled_dot_product_attention",
        }

    def preprocessing(self) -> str:
        """What happens to a photo, in words."""
        return self._input()

    @property
    def _processor_name(self) -> str:
        return type(self.processor).__name__

    def _input(self) -> str:
        if self.size:
            return f"the whole photo in its own shape, at about {self.size} x {self.size} pixels"
        if not self._plain_processor():
            return f"{self._processor_name}; where its pixels come from is measured"
        size, crop = dict(self.processor.size), self._crop()
        resize = " x ".join(str(v) for v in size.values() if v) if size else "as it is"
        return f"{self._processor_name}: resized to {resize}" + (f", centre {crop} kept" if crop else "")

    def _default_processor(self) -> Any:
        from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
        from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

        if self._in_patches():
            from transformers import Siglip2ImageProcessorPil

            return Siglip2ImageProcessorPil(patch_size=self._patch[0], max_num_patches=self.vision.num_patches)
        choices: Any = IMAGE_PROCESSOR_MAPPING.get(type(self.vision), None) or {}
        made = choices.get("pil") or choices.get("torchvision") or BitImageProcessorPil
        height, width = self.input_size
        size = {"height": height, "width": width}
        try:
            processor = made(size=size, do_center_crop=False, do_pad=False)
            fits = tuple(processor(images=_GREY, return_tensors="pt")["pixel_values"].shape[2:]) == self.input_size
        except Exception:  # a processor that wants its size in other words
            fits = False
        return processor if fits else BitImageProcessorPil(size=size, do_center_crop=False)

    def _plain_processor(self) -> bool:
        """Is the processor one that resizes to what it says and crops from the middle?"""
        try:
            keys = {k for k, v in dict(self.processor.size).items() if v}
        except (AttributeError, TypeError):  # a size of a kind of its own
            return False
        if getattr(self.processor, "do_pad", False):
            return False
        known = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})
        return not getattr(self.processor, "do_resize", False) or keys in known

    def _in_patches(self) -> bool:
        """Does the model take a picture that is already cut into patches, as SigLIP 2 in its NaFlex form does?"""
        return str(self.vision.model_type).startswith("siglip2")

    def _usual_size(self) -> int:
        if not self._in_patches():
            return _USUAL_SIZE
        return int(self.vision.num_patches**0.5) * int(self.vision.patch_size)

    def _of_transformers(self) -> bool:
        """Is the processor one of transformers', and not a function from a Pillow image to a tensor?"""
        return hasattr(self.processor, "model_input_names")

    @cached_property
    def _measured(self) -> Preprocessing:
        if not self._of_transformers():
            return Preprocessing(self.processor)
        if self._in_patches():
            return Preprocessing(lambda image: _joined(self.processor(images=image, return_tensors="pt"), self._patch))
        return Preprocessing(lambda image: self.processor(images=image, return_tensors="pt")["pixel_values"][0])

    def _crop(self) -> tuple[int, int] | None:
        if not getattr(self.processor, "do_center_crop", False):
            return None
        crop = dict(self.processor.crop_size)
        return int(crop["height"]), int(crop["width"])

    def _frame(self, picture: Picture) -> ImageRegion:
        """Follow what the processor says that it does: resize, then crop from the middle."""
        from transformers.image_transforms import get_resize_output_image_size, get_size_with_aspect_ratio

        if getattr(self.processor, "do_pad", False):
            raise LayoutError(f"{self._processor_name} pads pictures: where they lie is not known", "pass size=...")
        width, height = picture.size
        resized = (height, width)
        if self.processor.do_resize:
            size = {k: v for k, v in dict(self.processor.size).items() if v}
            if set(size) == {"height", "width"}:
                resized = (size["height"], size["width"])
            elif set(size) == {"shortest_edge"}:
                resized = get_resize_output_image_size(
                    picture.pixels, size["shortest_edge"], default_to_square=False, input_data_format="channels_last"
                )
            elif set(size) == {"shortest_edge", "longest_edge"}:
                resized = get_size_with_aspect_ratio((height, width), size["shortest_edge"], size["longest_edge"])
            else:
                raise LayoutError(f"{self._processor_name} resizes to {size}: not understood", "pass size=...")
        return ImageRegion.from_resize_crop(picture.size, (int(resized[0]), int(resized[1])), self._crop())

    def _covering(self, height: int, width: int, size: int) -> tuple[int, int]:
        """`(Hi, Wi)` in whole patches, about `size ** 2` pixels, in the photo's own shape."""
        (ph, pw), stretch = self._patch, (height / width) ** 0.5
        return max(round(size * stretch / ph), 1) * ph, max(round(size / stretch / pw), 1) * pw


def _cut(pixels: Tensor, patch: tuple[int, int]) -> tuple[Tensor, int, int]:
    """`(B, 3, Hi, Wi)` as patches `(B, rows * columns, ph * pw * 3)`, row by row, and how many rows and columns."""
    rows, columns = pixels.shape[2] // patch[0], pixels.shape[3] // patch[1]
    apart = pixels.reshape(len(pixels), 3, rows, patch[0], columns, patch[1])
    return apart.permute(0, 2, 4, 3, 5, 1).reshape(len(pixels), rows * columns, -1), rows, columns


def _joined(made: Mapping[str, Any], patch: tuple[int, int]) -> Tensor:
    """The picture `(3, Hi, Wi)` that a processor cut into patches and filled up."""
    rows, columns = (int(n) for n in made["spatial_shapes"][0])
    patches: Tensor = made["pixel_values"][0][: rows * columns]
    whole = patches.reshape(rows, columns, *patch, 3).permute(4, 0, 2, 1, 3)
    return whole.reshape(3, rows * patch[0], columns * patch[1])


def _pair(value: Any) -> tuple[int, int]:
    first, second = value if isinstance(value, (tuple, list)) else (value, value)
    return int(first), int(second)


ADAPTERS.add(TransformersAdapter.name, TransformersAdapter)
