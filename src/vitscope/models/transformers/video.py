"""Video models of Hugging Face transformers: VideoMAE, ViViT, TimeSformer, V-JEPA 2.

A clip goes through tracing and methods as one tall image (`models.stacked`): what the model does with tokens of all
frames is found in its own code, whether its attention joins space and time or takes turns.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from vitscope._cached import cached_property
from vitscope._messages import Message, msg
from vitscope.attention import AttentionStore, Block
from vitscope.attention.recorder import AttentionRecorder
from vitscope.attention.store import Chain
from vitscope.errors import LayoutError, UsageError, require_package
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.images import Picture
from vitscope.media.clip import Clip, load_clip
from vitscope.media.clip_explanation import ClipExplanation
from vitscope.models.around import Around
from vitscope.models.base import ADAPTERS
from vitscope.models.pixels.preprocessing import Preprocessing
from vitscope.models.stacked import Stack
from vitscope.models.transformers.base import TransformersBase
from vitscope.models.transformers.processor import as_pair
from vitscope.models.transformers.types import VIDEO_TYPES
from vitscope.tracing.trace import Trace


class VideoAdapter(TransformersBase):
    """A video model of transformers with its video processor.

    Args:
        model: a `PreTrainedModel` that takes clips.
        processor: its video or image processor, or a function from a list of Pillow images to `(T, 3, Hi, Wi)`; by
            default the library's for the model type, at the model's size.
        reference: how the model was named.
        weights: a revision or hash; without one, the SHA-256 of the parameters in memory, computed when needed.
        around: where the model is a module of one's own around such a model.

    Raises:
        LayoutError: a model whose tokens cannot be traced.
    """

    name = "transformers-video"
    orders = ((0, 1, 2, 3, 4), (0, 2, 1, 3, 4))
    types = VIDEO_TYPES
    head = "ForVideoClassification"
    result = ClipExplanation

    def __init__(
        self,
        model: nn.Module,
        processor: Any = None,
        *,
        reference: str = "",
        weights: str = "",
        around: Around | None = None,
    ) -> None:
        self.around = around
        config = self._take(model, reference, weights)
        size = as_pair(getattr(config, "crop_size", None) or config.image_size)
        frames = getattr(config, "frames_per_clip", None) or config.num_frames
        self.stack = Stack((frames, *size), _patch_of(config))
        self.input_size = self.stack.size
        self.processor = processor or video_processor(config, size)
        self._regions = Preprocessing(lambda image: self._processed([image] * frames)[0])
        self._name_classes_and_trace()

    def load(self, source: Any) -> Clip:
        """Load as many frames as the model takes, evenly spaced."""
        return load_clip(source, self.stack.shape[0])

    def blank(self) -> Clip:
        """Return a grey clip."""
        return Clip(np.full((self.stack.shape[0], 64, 64, 3), 127, np.uint8))

    def prepare(self, picture: Picture, size: int | None = None) -> tuple[Float[Tensor, "3 TH W"], ImageRegion]:
        """Return the clip as a tall image, and the region of each frame that the model sees.

        Raises:
            UsageError: a size: these models take clips of their own size alone.
        """
        if size is not None:
            problem = msg(
                "models.clip-size",
                "{model} takes clips of {height} x {width} pixels only",
                model=self.reference,
                height=self.stack.shape[1],
                width=self.stack.shape[2],
            )
            raise UsageError(problem, msg("models.clip-size.hint", "leave {@size} out"))
        assert isinstance(picture, Clip)
        made = self._processed([Image.fromarray(frame) for frame in picture.frames])
        _, region = self._regions(Picture(picture.frames[0]))
        return self.stack.image(made.transpose(0, 1)), replace(region, input=self.input_size)

    def laid_out(self, pixels: Float[Tensor, "B 3 TH W"]) -> Float[Tensor, "B T 3 H W"]:
        """Return tall images laid out as clips again."""
        return self.stack.planes(pixels).transpose(1, 2)

    def run(self, pixels: Float[Tensor, "B 3 TH W"]) -> Any:
        """Call the model on tall images, laid out as clips again."""
        if self.around is not None:
            return self.around.run(self.model, self.laid_out(pixels))
        name = self.model.main_input_name
        options = {"skip_predictor": True} if "skip_predictor" in self._parameters else {}
        return self.model(**{str(name): self.laid_out(pixels)}, **options)

    def trace(self, size: tuple[int, int] | None = None) -> Trace:
        """Return what the model does with the tokens of a clip; traced the first time.

        Raises:
            UsageError, LayoutError: see `TracedAdapter.trace`; also tokens that are not those of the tubelets.
        """
        found = super().trace(size)
        if found.layout.grid != self.stack.grid:
            raise LayoutError.coded(
                "models.clip-tokens",
                "the tokens of {model} lie on {rows} x {columns} places of the stacked frames, expected {expected}",
                model=self.architecture,
                rows=found.layout.grid[0],
                columns=found.layout.grid[1],
                expected=" x ".join(map(str, self.stack.grid)),
            )
        pooled = self.config.model_type == "vjepa2" and self.around is None
        prefix = ("query",) if pooled and found.layout.prefix else found.layout.prefix
        return replace(found, layout=replace(found.layout, prefix=prefix, planes=self.stack.steps))

    def layout(self, size: tuple[int, int] | None = None) -> TokenLayout:
        """Return the token layout; copies of the CLS token that a model makes for each frame are one."""
        layout = super().layout(size)
        return replace(layout, prefix=("cls",)) if self._copies(layout) else layout

    def attention(self, recorder: AttentionRecorder, size: tuple[int, int], answer: Tensor) -> AttentionStore:
        """Return the store of a captured forward."""
        store = super().attention(recorder, size, answer)
        if store.chain is None or not self._copies(self.trace(size).layout):
            return store
        return replace(store, layout=self.layout(size), chain=_OneCls(store.chain, self.stack.shape[0]))

    def describe(self) -> Mapping[str, str]:
        """Return adapter, architecture and sizes."""
        (frames, height, width), (deep, high, wide) = self.stack.shape, self.stack.patch
        return dict(super().describe()) | {
            "made for": f"{frames} frames of {height} x {width} pixels, tubelets of {deep} x {high} x {wide}",
        }

    def preprocessing(self) -> Message:
        """Describe what happens to a clip."""
        return msg(
            "models.preprocessing.frames",
            "{frames} frames, evenly spaced, each by {processor}; the region that its pixels show is measured",
            frames=self.stack.shape[0],
            processor=type(self.processor).__name__,
        )

    @cached_property
    def _parameters(self) -> Mapping[str, Any]:
        return inspect.signature(self.model.forward).parameters

    def _copies(self, layout: TokenLayout) -> bool:
        """Return whether the prefix is one CLS token for each frame, made from one."""
        return self.config.model_type == "timesformer" and len(layout.prefix) == self.stack.shape[0] > 1

    def _processed(self, frames: list[Image.Image]) -> Float[Tensor, "T 3 Hi Wi"]:
        made = _run_processor(self.processor, frames)
        pixels = made[0] if made.ndim == 5 else made
        expected = (self.stack.shape[0], 3, *self.stack.shape[1:])
        if tuple(pixels.shape) != expected:
            raise LayoutError.coded(
                "models.clip-shape",
                "the processor made a clip of {shape}, expected {expected}",
                "pass {@processor}, one that fits the model's config",
                shape=tuple(pixels.shape),
                expected=expected,
            )
        return pixels


@dataclass(frozen=True, eq=False)
class _OneCls:
    """A chain whose CLS token has a copy for each frame: their weights are those of one token.

    The model makes the copies of a batch as one row and reads the first of them for each clip, whichever frame and clip
    they were made for: all are the same parameter.
    """

    chain: Chain
    copies: int

    @property
    def blocks(self) -> tuple[Block, ...]:
        return self.chain.blocks

    def vecmat(
        self,
        layers: Sequence[int],
        attention_vecmat: Callable[[Block, Tensor], Tensor],
        residual_weight: float | Callable[[Block], Tensor],
        attention_weight: float,
    ) -> Float[Tensor, "B N"]:
        weights = self.chain.vecmat(layers, attention_vecmat, residual_weight, attention_weight)
        cls = weights[:, : self.copies].reshape(-1)[: len(weights)]
        return torch.cat([cls[:, None], weights[:, self.copies :]], 1)

    def with_blocks(self, blocks: tuple[Block, ...]) -> "_OneCls":
        return replace(self, chain=self.chain.with_blocks(blocks))


def video_processor(config: Any, size: tuple[int, int]) -> Any:
    """Make the library's video processor of a model type: the shorter side resized, the centre kept.

    Raises:
        MissingDependencyError: torchvision is not installed, which these processors need.
    """
    require_package("torchvision", extra="video")
    import transformers

    made = getattr(transformers, VIDEO_TYPES[config.model_type])
    if config.model_type == "vjepa2":  # resizes to 256/224 of its crop
        return made(crop_size=size[0])
    return made(size={"shortest_edge": min(size)}, crop_size={"height": size[0], "width": size[1]})


def _run_processor(processor: Any, frames: list[Image.Image]) -> Tensor:
    """Return what a processor makes of frames: one of transformers, or a function."""
    if not hasattr(processor, "model_input_names"):
        return torch.as_tensor(processor(frames))
    arrays = [np.array(frame) for frame in frames]  # writable, as torch wants them
    if hasattr(processor, "sample_frames"):  # a video processor; the frames are chosen already
        made = processor(videos=[np.stack(arrays)], do_sample_frames=False, return_tensors="pt")
    else:
        made = processor(arrays, return_tensors="pt")
    pixels: Tensor = made["pixel_values_videos" if "pixel_values_videos" in made else "pixel_values"]
    return pixels


def _patch_of(config: Any) -> tuple[int, int, int]:
    """Return frames, height and width of a patch."""
    deep = getattr(config, "tubelet_size", 1)
    if isinstance(deep, (tuple, list)):  # ViViT: all three
        return int(deep[0]), int(deep[1]), int(deep[2])
    return (int(deep), *as_pair(config.patch_size))


ADAPTERS.add(VideoAdapter.name, VideoAdapter)
