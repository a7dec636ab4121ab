"""Vision Transformers of Hugging Face transformers.

A model type with a row in `transformers_types` has a layout known by name. Other types are traced, and so are classes
that a user derives from the library's: their forward may differ.
"""

import inspect
import logging
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitscope._messages import Message, msg
from vitscope.attention import AttentionStore
from vitscope.attention.model_lock import exclusive
from vitscope.attention.model_modes import eval_mode
from vitscope.attention.recorder import AttentionRecorder
from vitscope.errors import YES, ModelError, Support
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.images import Picture
from vitscope.models.answers.answers import answer_of
from vitscope.models.answers.class_scores import ClassScores
from vitscope.models.base import ADAPTERS, ModelAdapter, image_size, text_too_long
from vitscope.models.bundled.dinov2 import Dinov2Model, Dinov2Processor
from vitscope.models.transformers.base import TransformersBase
from vitscope.models.transformers.processor import ProcessorRunner, as_pair, cut_patches, takes_patches
from vitscope.models.transformers.types import AUDIO_TYPES, CLASSIFIER, VIDEO_TYPES, find_type, is_altered
from vitscope.tracing.positions import interpolated

log = logging.getLogger(__name__)

_USUAL_SIZE = 224
_DENSE = ("ForSemanticSegmentation", "ForObjectDetection")
_MAE = "vit_mae"
_NEAR = (
    0.1  # of the number of patches: by default, images keep their shape for the bundled model, which was measured so
)
_POSITIONS = ("use_absolute_position_embeddings", "use_relative_position_bias", "use_shared_relative_position_bias")


class TransformersAdapter(TransformersBase):
    """A vision model of transformers with its image processor.

    Args:
        model: a `PreTrainedModel` that takes pixels, or has an image tower.
        processor: its image processor; without one, the library's default for the model type at `config.image_size`.
        reference: how the model was named.
        weights: a revision or hash; without one, the SHA-256 of the parameters in memory, computed when needed.
        size: if given, images keep their aspect ratio and are not cropped, at about `size ** 2` pixels.

    Raises:
        LayoutError: a model whose tokens cannot be traced.
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
        self.size, library_class = size, _library_class(model)
        config = self._take(model, reference, weights, (library_class or type(model)).__name__)
        known = library_class is type(model) and self.options.output is None
        found = find_type(config.model_type, self.architecture) if known else None
        self._type = None if found and is_altered(model, config.num_hidden_layers) else found
        vision = getattr(config, "vision_config", None)
        self.vision: Any = config if vision is None else vision
        stated = (getattr(one, "image_size", None) for one in (self.vision, getattr(config, "backbone_config", None)))
        self.input_size = as_pair(next(filter(None, stated), None) or self._usual_size())
        self._tokenizer = getattr(processor, "tokenizer", None)
        self._runner = ProcessorRunner(processor, self.vision, self.input_size, self.options.region)
        self.channels, self.bands = self._runner.channels, self._runner.bands
        self._log_decisions()
        if config.model_type == _MAE and config.mask_ratio > 0:
            self.notes = (
                *self.notes,
                msg("models.unmasked", "the model's random mask is left out: it sees all patches"),
            )
        if self._type is None:
            self.trace()
        elif self.layout().prefix[:1] == ("cls",) and self.layout().pooling == "cls":
            self.cls_index = 0
        self.classes = CLASSIFIER in self.architecture or not known
        said = self.options.labels is not None or self.options.multi_label is not None
        if said or (self.classes and not (known and self._own_head())):
            self._settle_scores()  # a class or a head of the user's, or another part of the output
        dense = known and self.architecture.endswith(_DENSE)
        names = config.id2label or {} if self.classes or dense else {}
        self.labels = {int(i): str(label) for i, label in names.items()}

    @classmethod
    def claims(cls, model: nn.Module) -> bool:
        """Return whether a model is a PreTrainedModel that takes pixels."""
        from transformers import PreTrainedModel

        if not isinstance(model, PreTrainedModel) or model.config.model_type in (*VIDEO_TYPES, *AUDIO_TYPES):
            return False
        return model.main_input_name == "pixel_values" or hasattr(model, "get_image_features")

    def run(self, pixels: Tensor) -> Any:
        """Call the image tower; position embeddings are interpolated at another size than the model's."""
        call: Any = getattr(self.model, "get_image_features", self.model)
        if takes_patches(self.vision):
            patches, rows, columns = cut_patches(pixels, self._patch)
            mask = torch.ones(patches.shape[:2], dtype=torch.long, device=pixels.device)
            shapes = torch.tensor([[rows, columns]] * len(pixels), device=pixels.device)
            return call(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes)
        parameters = inspect.signature(getattr(call, "forward", call)).parameters
        interpolates = tuple(pixels.shape[2:]) != self.input_size and "interpolate_pos_encoding" in parameters
        options: dict[str, Any] = {"interpolate_pos_encoding": True} if interpolates else {}
        if getattr(self.config, "return_dict", True) is False:  # names say which tensor is which
            options["return_dict"] = True
        output, takes_any = self.options.output, any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        if "hidden_states" in str(output) or (callable(output) and (takes_any or "output_hidden_states" in parameters)):
            options["output_hidden_states"] = True
        if self.config.model_type == _MAE:  # no token is masked, and none is shuffled
            tokens = (pixels.shape[2] // self._patch[0]) * (pixels.shape[3] // self._patch[1])
            options["noise"] = torch.arange(tokens, device=pixels.device, dtype=torch.float32).expand(len(pixels), -1)
            return self._unmasked(pixels, options)
        return call(pixel_values=pixels, **options)

    def text_features(self, text: str) -> Float[Tensor, "1 D"]:
        """Return the features of a text, where the model has a text tower.

        Raises:
            UnsupportedError: it has none.
            UsageError: the text has more tokens than the model has positions.
            ModelError: its tokenizer is not known, or unreachable.
        """
        if not hasattr(self.model, "get_text_features"):
            return super().text_features(text)
        if self._tokenizer is None:
            self._tokenizer = self._load_tokenizer(text)
        siglip = "siglip" in self.config.model_type  # trained on padded texts, without a mask over the padding
        length = self.config.text_config.max_position_embeddings
        padding = "max_length" if siglip else True
        if (tokens := len(self._tokenizer(text)["input_ids"])) > length:
            raise text_too_long(text, tokens, length)
        inputs = self._tokenizer([text], padding=padding, truncation=True, max_length=length, return_tensors="pt")
        if siglip:
            inputs.pop("attention_mask", None)
        model: Any = self.model
        with eval_mode(self.model), torch.no_grad():
            return answer_of(model.get_text_features(**inputs.to(self.model.device)))

    def _load_tokenizer(self, text: str) -> Any:
        from transformers import AutoTokenizer

        missing = ModelError(
            msg(
                "models.no-tokenizer", "{model} has no tokenizer for the text '{text}'", model=self.reference, text=text
            ),
            msg("models.no-tokenizer.hint", "load the model with processor=AutoProcessor.from_pretrained(...)"),
        )
        if self.reference == self.architecture:  # a module: the name of its class is no reference
            raise missing
        try:
            return AutoTokenizer.from_pretrained(self.reference, trust_remote_code=self.options.trust_remote_code)
        except Exception as error:  # no files, or files of another kind
            raise missing from error

    def _unmasked(self, pixels: Tensor, options: dict[str, Any]) -> Any:
        with exclusive(self.model) as changes:
            changes.set(self.config, "mask_ratio", 0.0)
            return self.model(pixel_values=pixels, **options)

    @property
    def processor(self) -> Any:
        """The image processor."""
        return self._runner.processor

    @property
    def isotropic(self) -> Support:
        """Whether every layer sees all tokens."""
        return YES if self._type is not None else super().isotropic

    @property
    def depth(self) -> int:
        """The number of encoder layers."""
        return int(self.config.num_hidden_layers) if self._type else super().depth

    @property
    def _patch(self) -> tuple[int, int]:
        """The pixels that sizes are multiples of: the patch, or 32 where layers differ in their tokens."""
        if self._type is not None or self.config.model_type == "vit_mae" or takes_patches(self.vision):
            return as_pair(self.vision.patch_size)
        return self.traced_patch()

    def attention(self, recorder: AttentionRecorder, size: tuple[int, int], answer: Tensor) -> AttentionStore:
        """Return the store of a captured forward on images of that size."""
        if self._type is None:
            return super().attention(recorder, size, answer)
        return ModelAdapter.attention(self, recorder, size, answer)

    def notes_at(self, size: tuple[int, int]) -> tuple[str, ...]:
        """Return whether position embeddings are fitted to that size."""
        if self._type is None:
            return super().notes_at(size)
        if not any(getattr(self.config, name, True) for name in _POSITIONS):  # a BEiT without any
            return ()
        patch, built = as_pair(self.config.patch_size), as_pair(self.config.image_size)
        own, used = ((high // patch[0], wide // patch[1]) for high, wide in (built, size))
        near = abs(used[0] * used[1] / (own[0] * own[1]) - 1) < _NEAR
        if own == used or (near and isinstance(self._runner.processor, Dinov2Processor)):
            return ()
        return (interpolated(own, used),)

    def token_order(self) -> Tensor | None:
        """Return the places of the layout's tokens among the model's, or None where they are in order."""
        return None if self._type is not None else super().token_order()

    def layout(self, size: tuple[int, int] | None = None) -> TokenLayout:
        """Return the token layout at `(Hi, Wi)` pixels, by default the size that the model was configured for."""
        if self._type is None:
            return super().layout(size)
        height, width = size or self.input_size
        patch = as_pair(self.config.patch_size)
        pooling, pool_prefix = self._type.pooling(self.config, self.architecture)
        grid = height // patch[0], width // patch[1]
        end = grid[1] * patch[1], grid[0] * patch[0]
        cells = None if end == (width, height) else (0, 0, *end)  # pixels past the last whole patch are not read
        return TokenLayout(self._type.prefix(self.config), grid, pooling, pool_prefix, cells=cells)

    def prepare(self, picture: Picture, size: int | None = None) -> tuple[Float[Tensor, "C Hi Wi"], ImageRegion]:
        """Return pixels as the image processor makes them, and the region of the image that they show."""
        return self._runner.prepare(picture, size or self.size, self._patch)

    def class_count(self) -> int | None:
        """Return how many class scores the model answers with; of the library's own classifiers without a forward."""
        known = self._last_layer() if type(self.model) is _library_class(self.model) else None
        return ClassScores.class_count(self) if known is None or not self.classes else known.out_features

    def _own_head(self) -> bool:
        """Return whether the head of one of the library's classifiers is its own, and was not replaced by another."""
        head = getattr(self.model, "classifier", None)
        return head is None or isinstance(head, nn.Linear) or type(head).__module__.startswith("transformers.")

    def _last_layer(self) -> nn.Linear | None:
        """Return the linear layer that one of the library's classifiers ends in, as far as it is one."""
        last = getattr(self.model, "classifier", None)
        whole = CLASSIFIER in self.architecture and self.options.output is None
        return last if whole and isinstance(last, nn.Linear) else None

    def describe(self) -> Mapping[str, str]:
        """Return adapter, architecture and sizes."""
        if self._type is None:
            return super().describe()
        heads = self.config.num_attention_heads
        return {
            "adapter": self._kind(),
            "layers, heads": f"{self.depth}, {heads} of width {self.config.hidden_size // heads}",
            "patch": image_size(as_pair(self.config.patch_size)),
            "trained at": image_size(self.input_size),
            "input": self.preprocessing(),
            "classes": self._describe_classes(),
            "attention": f"{self.config._attn_implementation}, recorded at scaled_dot_product_attention",
        }

    def preprocessing(self) -> Message:
        """Describe what happens to an image."""
        return self._runner.describe(self.size)

    def _usual_size(self) -> int:
        if not takes_patches(self.vision):
            return _USUAL_SIZE
        return int(self.vision.num_patches**0.5) * int(self.vision.patch_size)

    def _log_decisions(self) -> None:
        kind, name = self.config.model_type, self.architecture
        if self._type is None:
            log.debug(
                "layout of %s: traced, none is known for this class as it is, with the model type '%s'", name, kind
            )
        else:
            log.debug("layout of %s: %s, known for the model type '%s'", name, self.layout(), kind)
            log.debug("readout of %s: pooling '%s', known for the model type", name, self.layout().pooling)
        log.debug("preprocessing of %s: %s", name, self.preprocessing())


def _library_class(model: nn.Module) -> type | None:
    """Return the architecture of the library that a model's class is, or is derived from; None for one outside it."""
    own = ("transformers.models.", Dinov2Model.__module__)  # the same architecture, without the library
    return next((cls for cls in type(model).__mro__ if cls.__module__.startswith(own)), None)


ADAPTERS.add(TransformersAdapter.name, TransformersAdapter)
