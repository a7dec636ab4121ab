"""Read sounds: a file or samples in memory become one channel at the rate that a model asks for."""

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32

from vitscope._messages import msg
from vitscope._numbers import is_real
from vitscope.errors import ImageError, UsageError, first_line, require_package
from vitscope.images import Medium, Picture
from vitscope.media.files import check_count, checked_notes, media_file, reading

_LOUDEST = 10  # a mix of floats can go beyond 1; whole numbers as floats go far beyond
_WIDTHS = {1: ("u1", 128, 128), 2: ("<i2", 0, 1 << 15), 4: ("<i4", 0, 1 << 31)}  # bytes: dtype, zero, largest


@dataclass(frozen=True, eq=False)
class Sound(Medium):
    """Samples of a sound.

    Attributes:
        samples: `(n,)`, or `(n, channels)`, floats in [-1, 1], or integers as WAV files have them: of 16 or 32 bits, or
            of 8 bits without a sign.
        rate: samples per second.
        name: of the sound.
        source: the path, or the kind of object.
        notes: what was done to the original, one phrase each.

    Raises:
        ImageError: no samples, samples that are not finite, of another shape, or on a scale that is not known.
        UsageError: a rate that is not positive, or notes that are no texts.
    """

    samples: np.ndarray
    rate: int
    name: str = "sound"
    source: str = "samples"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not is_real(self.rate, 1e-6, 1e9):
            raise UsageError.coded(
                "media.rate", "{@rate} is a positive number of samples per second, not {rate}", rate=repr(self.rate)
            )
        samples = np.asarray(self.samples)
        if (
            samples.ndim not in (1, 2)
            or not samples.size
            or (samples.ndim == 2 and samples.shape[1] > samples.shape[0])
            or samples.dtype.kind not in "fiu"
        ):
            problem = msg("media.samples", "an array of shape {shape} is no sound", shape=samples.shape)
            raise ImageError(problem, msg("media.samples.hint", "pass samples of shape (n,) or (n, channels)"))
        object.__setattr__(self, "notes", checked_notes(self.notes))
        object.__setattr__(self, "samples", _unit(samples))

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate

    def at_rate(self, rate: int) -> "Sound":
        """Return one channel at another rate: the mean of all channels, resampled without frequencies beyond both."""
        samples, notes = self.samples, [*self.notes]
        if samples.ndim == 2:
            if samples.shape[1] > 1:
                notes.append(msg("media.mono", "the mean of {channels} channels", channels=samples.shape[1]))
            samples = samples.mean(1)
        if rate != self.rate:
            check_count(round(len(samples) * rate / self.rate), self.source)  # a file may say that it has 1 Hz
            samples = _resampled(samples, round(len(samples) * rate / self.rate))
            notes.append(msg("media.resampled", "resampled from {old} to {new} Hz", old=self.rate, new=rate))
        return Sound(samples, rate, self.name, self.source, tuple(notes))


class Spectrogram(Picture):
    """What a model hears of a sound: log-mel energies; as a Picture it is grey, the lowest band in the first row.

    Attributes:
        values: `(F, T)` as the model gets them, normalised.
        step: seconds from one column to the next.
        hertz: the middle of each band.
        seconds: how much of the sound is in it; what follows is padding.
    """

    medium: ClassVar[str] = "sound"
    values: Float32[np.ndarray, "F T"]
    step: float
    hertz: tuple[float, ...]
    seconds: float

    def __init__(
        self,
        values: Float32[np.ndarray, "F T"],
        step: float,
        hertz: Sequence[float],
        seconds: float,
        *,
        name: str = "sound",
        source: str = "samples",
        notes: Sequence[str] = (),
    ) -> None:
        low, high = float(values.min()), float(values.max())
        grey = ((values - low) / max(high - low, 1e-12) * 255).round().astype(np.uint8)
        super().__init__(grey[..., None].repeat(3, -1), name, source, checked_notes(notes))
        values = np.array(values)
        values.setflags(write=False)
        for field, value in {"values": values, "step": step, "hertz": tuple(hertz), "seconds": seconds}.items():
            object.__setattr__(self, field, value)


def load_sound(source: Any) -> Sound:
    """Load a sound.

    Args:
        source: a path, or a Sound. WAV files of whole numbers are read without another library.

    Raises:
        ImageError: missing, broken, or not a sound.
        MissingDependencyError: another format, and soundfile is not installed.
    """
    if isinstance(source, Sound):
        return source
    if not isinstance(source, (str, Path)):
        problem = msg("media.not-a-sound", "this model takes sounds, not one {kind}", kind=type(source).__name__)
        raise ImageError(problem, msg("media.not-a-sound.hint", "pass a sound file, or vitscope.Sound(samples, rate)"))
    path = media_file(source)
    with reading(str(path), partial(_broken, path)):
        try:
            samples, rate = _read_wave(path)
        except (wave.Error, EOFError, KeyError):
            samples, rate = _read_any(path)
        return Sound(samples, rate, path.stem, str(path))


def _unit(samples: np.ndarray) -> Float32[np.ndarray, "*shape"]:
    """Return samples as floats whose full scale is 1.

    Raises:
        ImageError: samples that are not finite, or whose full scale is not known.
    """
    for dtype, zero, most in _WIDTHS.values():
        if samples.dtype == np.dtype(dtype):
            return ((samples.astype(np.float64) - zero) / most).astype(np.float32)
    unit = samples.astype(np.float32)
    if not np.isfinite(unit).all():
        raise ImageError(msg("media.samples-not-finite", "the sound holds NaN or infinity"))
    loudest = float(np.abs(unit).max())
    if loudest > (_LOUDEST if samples.dtype.kind == "f" else 0):
        raise ImageError.coded(
            "media.samples-scale",
            "samples of {dtype} up to {most}: which number is full scale is not known",
            "pass floats in -1..1: of 16-bit numbers, samples / 32768",
            dtype=samples.dtype,
            most=f"{loudest:.6g}",
        )
    return unit


def _broken(path: Path, error: Exception) -> ImageError:
    problem = msg(
        "media.broken-sound", "{path} cannot be read as a sound: {reason}", path=path, reason=first_line(error)
    )
    return ImageError(problem, msg("media.broken-sound.hint", "pass a sound such as .wav or .flac"))


def _read_wave(path: Path) -> tuple[np.ndarray, int]:
    with wave.open(str(path), "rb") as file:
        dtype, zero, most = _WIDTHS[file.getsampwidth()]
        check_count(path.stat().st_size // file.getsampwidth(), str(path))
        data = np.frombuffer(file.readframes(file.getnframes()), dtype)
        samples = (data.astype(np.float64) - zero) / most
        return samples.reshape(-1, file.getnchannels()).astype(np.float32), file.getframerate()


def _read_any(path: Path) -> tuple[np.ndarray, int]:
    require_package("soundfile", extra="audio")
    import soundfile

    with path.open("rb") as file, soundfile.SoundFile(file) as sound:  # by its name, "-" would be the standard input
        check_count(sound.frames * sound.channels, str(path))
        return sound.read(dtype="float32", always_2d=True), int(sound.samplerate)


def _resampled(samples: Float32[np.ndarray, " n"], count: int) -> Float32[np.ndarray, " m"]:
    """Return the same band-limited signal at `count` points (by its Fourier transform)."""
    spectrum = np.fft.rfft(samples.astype(np.float64))
    kept = np.zeros(count // 2 + 1, np.complex128)
    both = min(len(kept), len(spectrum))
    kept[:both] = spectrum[:both]
    fewer = min(count, len(samples))
    if fewer % 2 == 0 and count != len(samples):  # the highest frequency stands for itself and its mirror image
        kept[fewer // 2] *= 2 if count < len(samples) else 0.5
    return (np.fft.irfft(kept, count) * (count / len(samples))).astype(np.float32)


def mel_centres(bands: int, rate: int, low: float = 20.0) -> list[float]:
    """Return the middle of each mel band in hertz, as Kaldi's filter banks have them: `m = 1127 ln(1 + f / 700)`."""
    first, last = (1127 * np.log1p(f / 700) for f in (low, rate / 2))
    middles = first + (np.arange(bands) + 1) * (last - first) / (bands + 1)
    return [float(f) for f in 700 * np.expm1(middles / 1127)]
