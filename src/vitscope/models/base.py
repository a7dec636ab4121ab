"""What vitscope must know of one library's models: the contract of every adapter."""

import types
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from vitscope._messages import msg
from vitscope._plugins import Registry
from vitscope.errors import YES, MethodError, Support, UnsupportedError
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.images import Picture

if TYPE_CHECKING:
    import torch

    from vitscope.attention import AttentionStore
    from vitscope.attention.recorder import AttentionRecorder
    from vitscope.tracing.block_io import BlockMap

__all__ = ["ADAPTERS", "ModelAdapter"]


class ModelAdapter(ABC):
    """One library's models as vitscope sees them, bound to one model: the contract of `vitscope.models`.

    Attributes:
        model: the caller's module; a family never changes it for good.
        reference: how the model was named, for the provenance.
        weights: a revision or hash that identifies the weights.
        labels: class names by index; empty for a model that does not classify.
        auto_options: `method` and its options, which the method "auto" takes for this model instead of its own choice.
        overlay_options: keywords of `overlay` that suit those maps.
        multi_label: several classes can be right at once: each has a probability of its own.
        notes: what the provenance of every map says about the model, such as preprocessing that was chosen.
        supports_batches: several pictures can go through one forward; else they go one at a time.
    """

    name: ClassVar[str]
    model: "torch.nn.Module"
    reference: str
    weights: str
    labels: Mapping[int, str]
    auto_options: Mapping[str, Any] = types.MappingProxyType({})
    overlay_options: Mapping[str, Any] = types.MappingProxyType({})
    multi_label: bool = False
    notes: tuple[str, ...] = ()
    supports_batches: bool = True

    @classmethod
    @abstractmethod
    def claims(cls, model: object) -> bool:
        """Is this one of this family's models?"""

    @property
    @abstractmethod
    def depth(self) -> int:
        """How many self-attention calls one forward makes; a capture that sees another number fails."""

    @abstractmethod
    def layout(self, size: tuple[int, int] | None = None) -> TokenLayout:
        """The token layout at an input of `(Hi, Wi)` pixels, by default the one the model was made for."""

    @abstractmethod
    def prepare(self, picture: Picture, size: int | None = None) -> tuple["torch.Tensor", ImageRegion]:
        """Pixels `(3, Hi, Wi)` as the model wants them, and their frame.

        With `size`, the photo keeps its aspect ratio, nothing is cropped, and the input has about `size ** 2` pixels.
        """

    @abstractmethod
    def answer(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Run the model on `(B, 3, Hi, Wi)`: class logits `(B, C)`, pooled features `(B, D)`, or tokens."""

    def forward(self, pixels: "torch.Tensor") -> "torch.Tensor | None":
        """Class logits `(B, C)`, or None where the model does not classify."""
        answer = self.answer(pixels)
        return answer if self.classifies(answer) else None

    @property
    def isotropic(self) -> Support:
        """Whether every layer sees all tokens of the layout; else how the layers differ."""
        return YES

    def block_map(self, size: tuple[int, int] | None = None) -> "BlockMap":
        """Return the blocks and the grids of their tokens at an input of `(Hi, Wi)` pixels.

        Raises:
            UnsupportedError: where the blocks' tokens lie on the image is not known.
        """
        raise UnsupportedError(
            msg("models.blocks-unknown", "where the tokens of its blocks lie on the image is not known")
        )

    def token_order(self) -> "torch.Tensor | None":
        """Where the layout's tokens stand among the model's, where they do not stand in its order."""
        return None

    def text_features(self, words: str) -> "torch.Tensor":
        """The features `(1, D)` of a text, comparable with those of a picture.

        Raises:
            MethodError: the model knows no texts.
        """
        raise MethodError(
            f"{self.reference} knows no texts: the target text('{words}') needs a model such as CLIP or SigLIP",
            "load a whole CLIP or SigLIP of transformers, or open_clip:ARCH/PRETRAINED",
        )

    def classifies(self, answer: "torch.Tensor") -> bool:
        """Is this answer class logits?"""
        return bool(self.labels)

    def attention(
        self, recorder: "AttentionRecorder", size: tuple[int, int], answer: "torch.Tensor"
    ) -> "AttentionStore":
        """The attention of a forward on `(B, 3, Hi, Wi)` pixels that ran inside a capture and gave `answer`."""
        logits = answer if self.classifies(answer) else None
        return recorder.store(self.layout(size), logits=logits, depth=self.depth, answer=answer)

    @abstractmethod
    def describe(self) -> Mapping[str, str]:
        """What `vitscope inspect` prints of the model beyond the layout."""


ADAPTERS: Registry[type[ModelAdapter]] = Registry("adapter", "vitscope.models")
