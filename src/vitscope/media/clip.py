"""Read video clips: a file, its bytes or frames in memory become the frames that a model asks for."""

import io
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageSequence, UnidentifiedImageError

from vitscope._messages import msg
from vitscope._numbers import is_real, is_whole, items_of
from vitscope._pillow import MAX_PIXELS, too_large
from vitscope.errors import ImageError, UsageError, first_line
from vitscope.images import Picture, load_image
from vitscope.media.files import checked_notes, media_file, reading
from vitscope.media.video import opened_video

_ANIMATIONS = ("GIF", "WEBP", "PNG", "AVIF", "JPEG", "BMP", "TIFF")  # by Pillow; those that cannot move are refused
_ANIMATED = 20_000_000_000  # pixels of all frames: a minute or two of drawing
_SHOWN = 32  # numbers written into a note


class Clip(Picture):
    """A video clip: upright 8-bit RGB frames of one size; as a Picture it is its middle frame.

    Args:
        frames: an array or tensor `(T, H, W, 3)` or `(T, 3, H, W)` of uint8 or of floats in [0, 1], or T images of one
            size.
        fps: frames per second, where it is known.
        name: of the clip.
        source: the path, or the kind of object.
        notes: what was done to the original, one phrase each.
        numbers: the number of each frame in the whole video; by default 0 to T - 1.
        seconds: the time of each frame; by default by `fps`.

    Raises:
        ImageError: no frames, frames of different sizes, or frames that are no images.
        UsageError: a rate that is not positive, notes that are no texts, numbers or times that are not one for each
            frame.
    """

    medium: ClassVar[str] = "clip"
    frames: UInt8[np.ndarray, "T H W 3"]
    fps: float | None
    numbers: tuple[int, ...]
    seconds: tuple[float, ...] | None

    def __init__(
        self,
        frames: Any,
        fps: float | None = None,
        *,
        name: str = "clip",
        source: str = "frames",
        notes: Sequence[str] = (),
        numbers: Sequence[int] | None = None,
        seconds: Sequence[float] | None = None,
    ) -> None:
        if fps is not None and not is_real(fps, 1e-6, 1e6):
            raise UsageError(
                msg("media.fps", "{@fps} is a positive number of frames per second, not {fps}", fps=repr(fps))
            )
        told = checked_notes(notes)
        pictures = [load_image(frame) for frame in _each(frames)]
        if not pictures:
            raise ImageError(msg("media.no-frames", "a clip without frames"))
        sizes = sorted({picture.size for picture in pictures})
        if len(sizes) > 1:
            raise ImageError.coded(
                "media.frame-sizes",
                "the frames of a clip have one size, not {first} and {second}",
                first=" x ".join(map(str, sizes[0])),
                second=" x ".join(map(str, sizes[1])),
            )
        made = np.stack([picture.pixels for picture in pictures])
        made.setflags(write=False)
        own = dict.fromkeys([*told, *(note for picture in pictures for note in picture.notes)])
        super().__init__(made[len(made) // 2], name, source, tuple(own))
        order = items_of(range(len(made)) if numbers is None else numbers, is_whole, len(made))
        if order is None:
            raise UsageError(
                msg("media.numbers", "{@numbers} is a whole number for each of {count} frames", count=len(made))
            )
        if seconds is None and fps:
            seconds = [n / fps for n in order]
        times = None if seconds is None else items_of(seconds, is_real, len(made))
        if times is None is not seconds:
            raise UsageError(msg("media.seconds", "{@seconds} is a number for each of {count} frames", count=len(made)))
        order, times = tuple(map(int, order)), times and tuple(map(float, times))
        for field, value in {"frames": made, "fps": fps, "numbers": order, "seconds": times}.items():
            object.__setattr__(self, field, value)

    def __len__(self) -> int:
        return len(self.frames)

    def __repr__(self) -> str:
        width, height = self.size
        return f"<Clip {self.name!r}: {len(self)} frames of {width} x {height}>"

    def title(self, frame: int) -> str:
        """Return the number and the time of a frame in the whole video."""
        number = self.numbers[frame]
        return f"frame {number}" if self.seconds is None else f"frame {number} · {self.seconds[frame]:.2f} s"

    def sampled(self, count: int) -> "Clip":
        """Return `count` of the frames, evenly spaced, with a note that names them; see `frame_numbers`."""
        chosen = frame_numbers(len(self), count)
        return Clip(
            self.frames[chosen],
            self.fps,
            name=self.name,
            source=self.source,
            notes=[*self.notes, _note(len(self), [self.numbers[n] for n in chosen], self._at(chosen))],
            numbers=[self.numbers[n] for n in chosen],
            seconds=self._at(chosen),
        )

    def _at(self, chosen: Sequence[int]) -> list[float] | None:
        return None if self.seconds is None else [self.seconds[n] for n in chosen]


def _each(frames: Any) -> Any:
    """Return frames one after another, as images that `load_image` takes."""
    array = frames.numpy(force=True) if hasattr(frames, "numpy") and hasattr(frames, "ndim") else frames
    if isinstance(array, np.ndarray) and array.ndim == 4 and array.shape[1] == 3 != array.shape[3]:
        return array.transpose(0, 2, 3, 1)
    return array


def frame_numbers(total: int, count: int) -> list[int]:
    """Return `count` frame numbers of `total`, evenly spaced: `i * total // count`, as transformers' processors do.

    Frames of a video shorter than `count` are repeated.

    Raises:
        UsageError: a count that is no integer between 1 and 10,000.
    """
    if not is_whole(count, 1, 10_000):
        raise UsageError.coded(
            "media.frame-count", "a number of frames is an integer between 1 and 10,000, not {count}", count=repr(count)
        )
    return [i * total // count for i in range(count)]


def load_clip(source: Any, count: int) -> Clip:
    """Load `count` frames of a video, evenly spaced; only those stay in memory.

    Args:
        source: a path or the bytes of a video, or of an animated GIF, WebP or PNG; a Clip; an array or a tensor.
        count: how many frames.

    Raises:
        ImageError: missing, broken, without a video, not a video, or of frames larger than 100 million pixels each or
            400 million in all.
        MissingDependencyError: PyAV is needed and not installed.

    Cost: the file is decoded up to the last frame that is wanted; its frames are counted first without decoding.
    """
    if isinstance(source, Clip):
        return source.sampled(count)
    if getattr(source, "ndim", 0) == 4:
        return Clip(source).sampled(count)
    if isinstance(source, (str, Path)):
        path = media_file(source)
        with reading(str(path), partial(_broken, str(path))), path.open("rb") as file:
            return _read(file, path.stem, str(path), count)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read(io.BytesIO(bytes(source)), "clip", "the bytes", count)
    kind = type(source).__name__
    raise ImageError(
        msg("media.not-a-clip", "this model takes video clips, not one {kind}", kind=kind),
        msg("media.not-a-clip.hint", "pass a video file, an animated GIF, or vitscope.Clip(frames, fps=...)"),
    )


def _read(file: io.BufferedReader | io.BytesIO, name: str, source: str, count: int) -> Clip:
    """Read an animated image by Pillow, anything else as a video by PyAV."""
    with reading(source, partial(_broken, source)):
        with suppress(UnidentifiedImageError), Image.open(file, formats=_ANIMATIONS) as image:
            return _animation(image, name, source, count)
        return _video(file, name, source, count)


def _animation(image: Image.Image, name: str, source: str, count: int) -> Clip:
    total = getattr(image, "n_frames", 1)
    if total < 2:
        problem = msg("media.still", "{source} is a still image: this model takes video clips", source=source)
        raise ImageError(
            problem, msg("media.still.hint", "pass a video or an animated image, or use a model of images")
        )
    _check_size(*image.size, count, source)
    if total * image.width * image.height > _ANIMATED:  # each frame is drawn on those before it
        raise too_large(f"{source} ({total} x {image.width} x {image.height})", _ANIMATED)
    chosen, clock, starts, frames = frame_numbers(total, count), 0.0, [], []
    for number, frame in enumerate(ImageSequence.Iterator(image)):
        _check_size(*frame.size, count, source)
        starts.append(clock)
        frames += [frame.convert("RGB")] * chosen.count(number)
        clock += frame.info.get("duration", 0) / 1000
    seconds = [starts[n] for n in chosen] if clock else None
    fps = total / clock if clock else None
    notes = [_note(total, chosen, seconds)]
    return Clip(frames, fps, name=name, source=source, notes=notes, numbers=chosen, seconds=seconds)


def _video(file: io.BufferedReader | io.BytesIO, name: str, source: str, count: int) -> Clip:
    file.seek(0)
    with opened_video(file, source) as video:
        stamps = sorted(p.pts for p in video.demux(video.streams.video[0]) if p.pts is not None and not p.is_discard)
        base = float(video.streams.video[0].time_base)
        _check_size(video.streams.video[0].width, video.streams.video[0].height, count, source)
    if not stamps:
        raise ImageError(msg("media.no-frames-in", "{source} holds a video without frames", source=source))
    chosen = frame_numbers(len(stamps), count)
    file.seek(0)
    with opened_video(file, source) as video:
        frames = []
        for number, frame in enumerate(islice(video.decode(video.streams.video[0]), chosen[-1] + 1)):
            _check_size(frame.width, frame.height, count, source)
            frames += [_upright(frame) for _ in range(chosen.count(number))]
    if len(frames) != count:
        problem = msg(
            "media.frames-missing",
            "{source} announces {announced} frames, but they cannot all be decoded",
            source=source,
            announced=len(stamps),
        )
        raise ImageError(problem, msg("media.frames-missing.hint", "the video is broken: encode it anew"))
    seconds = [(stamps[n] - stamps[0]) * base for n in chosen]
    length = (stamps[-1] - stamps[0]) * base
    fps = (len(stamps) - 1) / length if length else None
    note = _note(len(stamps), chosen, seconds)
    return Clip(frames, fps, name=name, source=source, notes=[note], numbers=chosen, seconds=seconds)


def _check_size(width: int, height: int, count: int, source: str) -> None:
    """Raise an ImageError where the frames that stay in memory have too many pixels, before any is decoded."""
    if width * height > MAX_PIXELS:
        raise too_large(f"{source} ({width} x {height})")
    if width * height * count > 4 * MAX_PIXELS:
        raise too_large(f"{source} ({count} x {width} x {height})", 4 * MAX_PIXELS)


def _upright(frame: Any) -> UInt8[np.ndarray, "H W 3"]:
    """Return a decoded frame as RGB, turned as its display matrix says."""
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns))


def _broken(source: str, error: Exception) -> ImageError:
    problem = msg(
        "media.not-a-video", "{source} cannot be read as a video: {reason}", source=source, reason=first_line(error)
    )
    return ImageError(problem, msg("media.not-a-video.hint", "pass a video such as .mp4, .webm or .gif"))


def _note(total: int, numbers: Sequence[int], seconds: Sequence[float] | None) -> str:
    """Return which frames were taken, and when they are."""
    listed = ", ".join(map(str, numbers[:_SHOWN])) + (" ..." if len(numbers) > _SHOWN else "")
    given: dict[str, Any] = {"count": len(numbers), "total": total, "numbers": listed}
    if seconds is None:
        return msg("media.frames", "{count} of {total} frames, evenly spaced: {numbers}", **given)
    times = ", ".join(f"{s:.2f}" for s in seconds[:_SHOWN]) + (" ..." if len(seconds) > _SHOWN else "")
    return msg(
        "media.frames-at", "{count} of {total} frames, evenly spaced: {numbers}, at {seconds} s", **given, seconds=times
    )
