"""The Audio Spectrogram Transformer of transformers: its spectrogram is an image of overlapping patches."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitscope._messages import Message, msg
from vitscope.errors import ImageError, LayoutError, UsageError
from vitscope.geometry import ImageRegion
from vitscope.images import Picture
from vitscope.media.sound import Sound, Spectrogram, load_sound, mel_centres
from vitscope.media.sound_explanation import SoundExplanation
from vitscope.models.around import Around
from vitscope.models.base import ADAPTERS
from vitscope.models.transformers.base import TransformersBase
from vitscope.models.transformers.types import AUDIO_TYPES

_WINDOW, _HOP = 0.025, 0.01  # seconds, of the library's filter banks


class AudioAdapter(TransformersBase):
    """An audio spectrogram transformer with its feature extractor.

    Args:
        model: a `PreTrainedModel` that takes spectrograms.
        processor: its feature extractor; by default the library's, at the model's size and AudioSet's normalisation.
        reference: how the model was named.
        weights: a revision or hash; without one, the SHA-256 of the parameters in memory, computed when needed.
        around: where the model is a module of one's own around such a model.

    Raises:
        LayoutError: a model whose tokens cannot be traced, or patches with gaps between them.
    """

    name = "transformers-audio"
    types = AUDIO_TYPES
    head = "ForAudioClassification"
    result = SoundExplanation
    channels = 1
    orders = ((0, 1, 2), (0, 2, 1))

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
        self.input_size = int(config.num_mel_bins), int(config.max_length)
        self.patch, self.strides = int(config.patch_size), (int(config.frequency_stride), int(config.time_stride))
        if max(self.strides) > self.patch:
            raise LayoutError.coded(
                "models.patches-apart",
                "patches of {patch} with steps of {steps} leave gaps that no patch sees",
                patch=self.patch,
                steps=" x ".join(map(str, self.strides)),
            )
        self.processor = processor or self._default_processor()
        self._name_classes_and_trace()

    def load(self, source: Any) -> Spectrogram:
        """Load a sound and return the spectrogram that the model gets of it.

        Raises:
            ImageError: no sound, or one shorter than a window of the spectrogram.
        """
        sound = load_sound(source)
        rate = int(self.processor.sampling_rate)
        ready = sound.at_rate(rate)
        if ready.seconds < _WINDOW:
            raise ImageError.coded(
                "models.sound-too-short",
                "{name} lasts {seconds} s: nothing can be told apart",
                name=sound.name,
                seconds=f"{sound.seconds:.3f}",
            )
        made = self.processor(ready.samples, sampling_rate=rate, return_tensors="np")["input_values"][0]
        if made.shape != self.input_size[::-1]:
            raise LayoutError.coded(
                "models.spectrogram-shape",
                "the feature extractor made {columns} x {bands} numbers, expected {expected}",
                "pass {@processor}, one that fits the model's config",
                columns=made.shape[0],
                bands=made.shape[-1],
                expected=" x ".join(map(str, self.input_size[::-1])),
            )
        whole = self.input_size[1] * _HOP
        heard = min(ready.seconds, whole)
        notes = [*ready.notes, _extent(ready.seconds, whole)]
        hertz = mel_centres(self.input_size[0], rate)
        values = np.asarray(made, np.float32).T
        return Spectrogram(values, _HOP, hertz, heard, name=sound.name, source=sound.source, notes=notes)

    def blank(self) -> Spectrogram:
        """Return the spectrogram of a quiet tone."""
        rate = int(self.processor.sampling_rate)
        return self.load(Sound(0.1 * np.sin(np.arange(rate) * 0.2), rate))

    def prepare(self, picture: Picture, size: int | None = None) -> tuple[Float[Tensor, "1 F T"], ImageRegion]:
        """Return the spectrogram as an image, all of which the model gets.

        Raises:
            UsageError: a size: the model takes spectrograms of its own size alone.
        """
        if size is not None:
            problem = msg("models.sound-size", "{model} takes spectrograms of one size only", model=self.reference)
            raise UsageError(problem, msg("models.sound-size.hint", "leave {@size} out"))
        assert isinstance(picture, Spectrogram)
        height, width = self.input_size
        region = ImageRegion((width, height), (0, 0, width, height), self.input_size)
        return torch.from_numpy(picture.values.copy())[None], region

    def laid_out(self, pixels: Float[Tensor, "B C F T"]) -> Float[Tensor, "B T F"]:
        """Return the first channel of images as spectrograms."""
        return pixels[:, 0].transpose(1, 2)

    def run(self, pixels: Float[Tensor, "B C F T"]) -> Any:
        """Call the model on images of one channel; of noise with more, on the first."""
        if self.around is not None:
            return self.around.run(self.model, self.laid_out(pixels))
        return self.model(input_values=self.laid_out(pixels))

    def describe(self) -> Mapping[str, str]:
        """Return adapter, architecture and sizes."""
        bands, columns = self.input_size
        steps = " x ".join(map(str, self.strides))
        return dict(super().describe()) | {
            "made for": f"{bands} mel bands x {columns} columns, patches of {self.patch} in steps of {steps}",
        }

    def preprocessing(self) -> Message:
        """Describe what happens to a sound."""
        return msg(
            "models.preprocessing.spectrogram",
            "one channel at {rate} Hz; {processor}: {bands} mel bands, {columns} columns of 10 ms",
            rate=self.processor.sampling_rate,
            processor=type(self.processor).__name__,
            bands=self.input_size[0],
            columns=self.input_size[1],
        )

    def _default_processor(self) -> Any:
        from transformers import ASTFeatureExtractor

        bands, columns = self.input_size
        return ASTFeatureExtractor(num_mel_bins=bands, max_length=columns)  # type: ignore[no-untyped-call]


def _extent(seconds: float, whole: float) -> Message:
    """Return how much of the sound the spectrogram holds."""
    if seconds > whole:
        return msg(
            "models.sound-cut",
            "the first {heard} s of {seconds} s: the model hears no more",
            heard=f"{whole:.2f}",
            seconds=f"{seconds:.2f}",
        )
    return msg(
        "models.sound-padded",
        "{seconds} s, then padding to {whole} s, which has patches of its own",
        seconds=f"{seconds:.2f}",
        whole=f"{whole:.2f}",
    )


ADAPTERS.add(AudioAdapter.name, AudioAdapter)
