"""Vision Transformers of volumes by MONAI; a volume goes through as one tall image of its slices (`models.stacked`)."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitscope._messages import Message, msg
from vitscope.errors import LayoutError, UsageError
from vitscope.geometry import ImageRegion
from vitscope.images import Picture
from vitscope.media.volume import Volume, VolumeProcessor, load_volume
from vitscope.media.volume_explanation import VolumeExplanation
from vitscope.models.around import Around, MediumAdapter
from vitscope.models.base import ADAPTERS
from vitscope.models.stacked import Stack
from vitscope.tracing.trace import Trace

log = logging.getLogger(__name__)


class MonaiAdapter(MediumAdapter):
    """MONAI's `ViT` of three spatial dimensions; of its outputs the first is explained: class scores, or the tokens.

    Args:
        model: the module.
        processor: a `VolumeProcessor`, which resamples any volume; without one, volumes have the model's size. The
            model does not state it: then its patches are taken for a cube, which the volume's size must agree with.
        reference: how the model was named.
        around: where the model is a module of one's own around such a ViT.

    Raises:
        LayoutError: a number of patches that is no cube, without a processor; or tokens that cannot be traced.
    """

    name = "monai"
    orders = ((0, 1, 2, 3, 4),)
    result = VolumeExplanation

    def __init__(
        self,
        model: nn.Module,
        processor: VolumeProcessor | None = None,
        *,
        reference: str = "",
        around: Around | None = None,
    ) -> None:
        self.model: Any = model
        self.around = around
        self.reference = reference or type(model).__name__
        self.processor = processor
        inside: Any = model if around is None else around.inside
        embedding = inside.patch_embedding
        patch, self.channels = _patch_of(embedding)
        self.bands = self.channels
        patches = int(embedding.n_patches)
        self.stack = Stack(processor.size if processor else self._cube(patches, patch), patch)
        self.input_size = self.stack.size
        self._require_patches(self.stack.grid[0] * self.stack.grid[1], patches)
        log.debug("preprocessing of %s: %s", self.reference, self.preprocessing())
        self.labels: dict[int, str] = {}
        if around is not None:
            self.labels = dict(around.labels)
            self.trace()
            self._settle_scores()
            return
        head = getattr(model, "classification_head", None)
        self.classes = head is not None and self.options.labels != {}
        squashed = isinstance(head, nn.Sequential) and not isinstance(head[-1], nn.Linear)
        self.scores = "values" if squashed else "logits"  # by default each score goes through tanh
        self.trace()

    @classmethod
    def claims(cls, model: nn.Module) -> bool:
        """Return whether a model is MONAI's ViT of volumes."""
        names = {one.__name__ for one in type(model).__mro__ if one.__module__ == "monai.networks.nets.vit"}
        return "ViT" in names and len(_patch_of(model.patch_embedding)[0]) == 3

    def load(self, source: Any) -> Volume:
        """Load a volume."""
        return load_volume(source)

    def blank(self) -> Volume:
        """Return a grey volume."""
        return Volume(np.zeros((self.channels, *self.stack.shape), np.float32))

    def prepare(self, picture: Picture, size: int | None = None) -> tuple[Float[Tensor, "C TH W"], ImageRegion]:
        """Return the volume as a tall image, and the region of each slice that the model sees: all of it.

        Raises:
            UsageError: a volume of another size or other channels, or a `size`.
        """
        if size is not None:
            problem = msg("models.volume-of-size", "{model} takes volumes of one size only", model=self.reference)
            raise UsageError(problem, msg("models.volume-of-size.hint", "leave {@size} out"))
        assert isinstance(picture, Volume)
        channels, depth, height, width = picture.voxels.shape
        if channels != self.channels:
            raise UsageError.coded(
                "models.volume-channels",
                "the volume has {given} channels, the model takes {expected}",
                given=channels,
                expected=self.channels,
            )
        if self.processor is None and (depth, height, width) != self.stack.shape:
            problem = msg(
                "models.volume-size",
                "the volume has {shape} voxels, the model takes {expected}",
                shape=f"{depth} x {height} x {width}",
                expected=" x ".join(map(str, self.stack.shape)),
            )
            raise UsageError(problem, _SIZE_HINT)
        made = picture.voxels if self.processor is None else self.processor(picture)
        region = ImageRegion((width, height), (0, 0, width, height), self.input_size)
        return self.stack.image(torch.from_numpy(np.array(made, np.float32))), region

    def laid_out(self, pixels: Float[Tensor, "B C TH W"]) -> Float[Tensor, "B C T H W"]:
        """Return tall images laid out as volumes again."""
        return self.stack.planes(pixels)

    def run(self, pixels: Float[Tensor, "B C TH W"]) -> Any:
        """Call the model on tall images, laid out as volumes again; its other output is the tokens of each block."""
        if self.around is not None:
            return self.around.run(self.model, self.laid_out(pixels))
        return self.model(self.laid_out(pixels))[0]

    def trace(self, size: tuple[int, int] | None = None) -> Trace:
        """Return what the model does with the tokens of a volume; traced the first time."""
        found = super().trace(size)
        self._require_patches(*(" x ".join(map(str, one)) for one in (found.layout.grid, self.stack.grid)))
        return replace(found, layout=replace(found.layout, planes=self.stack.steps))

    def describe(self) -> Mapping[str, str]:
        """Return adapter, architecture and sizes."""
        sizes = (" x ".join(map(str, one)) for one in (self.stack.shape, self.stack.patch))
        return dict(super().describe()) | {"made for": "volumes of {} voxels, patches of {}".format(*sizes)}

    def preprocessing(self) -> Message:
        """Describe what happens to a volume."""
        size = " x ".join(map(str, self.stack.shape))
        if self.processor is None:
            return msg("models.preprocessing.voxels", "voxels as they are, {size}", size=size)
        if self.processor.window is None:
            return msg("models.preprocessing.volume", "the whole volume resampled to {size}", size=size)
        low, high = self.processor.window
        return msg(
            "models.preprocessing.volume-window",
            "the whole volume resampled to {size}, {low} to {high} become 0 to 1",
            size=size,
            low=low,
            high=high,
        )

    def _require_patches(self, found: object, expected: object) -> None:
        """Raise a LayoutError where a volume has other patches than expected, by their number or their grid."""
        if found != expected:
            problem = msg(
                "models.volume-tokens",
                "{model} has {expected} patches, but a volume of {size} voxels has {found}",
                model=self.reference,
                size=" x ".join(map(str, self.stack.shape)),
                found=found,
                expected=expected,
            )
            raise LayoutError(problem, _SIZE_HINT)

    def _cube(self, patches: int, patch: tuple[int, ...]) -> tuple[int, int, int]:
        """Return the size of a volume whose patches are equally many along each axis."""
        side = round(patches ** (1 / 3))
        if side**3 != patches:
            problem = msg(
                "models.volume-unknown-size",
                "{model} has {patches} patches, and nothing says how they lie",
                model=self.reference,
                patches=patches,
            )
            raise LayoutError(problem, _SIZE_HINT)
        size = side * patch[0], side * patch[1], side * patch[2]
        note = msg(
            "models.volume-cube",
            "the model does not state its input size: its {patches} patches are taken for a cube, {size} voxels",
            patches=patches,
            size=" x ".join(map(str, size)),
        )
        self.notes = (*self.notes, note)
        return size


_SIZE_HINT = msg(
    "models.volume-size.hint",
    "pass processor=vitscope.VolumeProcessor(size=(D, H, W)), which resamples, or a volume that fits",
)


def _patch_of(embedding: Any) -> tuple[Any, int]:
    """Return the size of a patch along each axis, and the channels of the input."""
    if embedding.proj_type == "conv":
        return tuple(embedding.patch_embeddings.kernel_size), int(embedding.patch_embeddings.in_channels)
    lengths = embedding.patch_embeddings[0].axes_lengths  # einops: p1, p2, p3
    patch = tuple(int(lengths[name]) for name in sorted(lengths))
    return patch, int(embedding.patch_dim) // int(np.prod(patch))


ADAPTERS.add(MonaiAdapter.name, MonaiAdapter)
