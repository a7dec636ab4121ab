"""The map of a video clip: drawn frame by frame, as a contact sheet and as a film."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
from jaxtyping import Float32
from PIL import Image

from vitscope._cached import cached_property
from vitscope._messages import msg
from vitscope._saved import SavedManifest
from vitscope.errors import LayoutError, UsageError
from vitscope.explanation import Explanation
from vitscope.images import load_image
from vitscope.media.clip import Clip
from vitscope.render import raster
from vitscope.render.film import film_suffix, write_film
from vitscope.render.nearly_grey import colour_weights
from vitscope.render.raster import Style, StyleOptions
from vitscope.render.sheets import Cell, sheet

_SLOWEST = 2.0  # images per second of a film whose frames lie far apart
_UNKNOWN_RATE = 4.0
_MOST_CELLS = 36
_GAP = 4  # pixels between planes


@dataclass(frozen=True, eq=False, repr=False)
class ClipExplanation(Explanation):
    """One map of one clip: relevance of each patch at each time step.

    A time step of the model covers one frame or several (a tubelet): these have one map in common. All frames are drawn
    on one scale.

    Attributes:
        map: relevance of each patch `(t, gh, gw)`, float32, unnormalised: the method's own values.
        region: where the patches lie on each frame; its `input` is the size of all frames, one below the other.
        picture: the frames that the model saw.
    """

    medium: ClassVar[str] = "clip"
    picture: Clip | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.map.shape) != 3 or (self.picture is not None and len(self.picture) % len(self.map)):
            raise LayoutError.coded(
                "media.time-steps",
                "a map of shape {map} does not fit a clip of {frames} frames",
                map=self.map.shape,
                frames=len(self.picture) if self.picture else 0,
            )

    @property
    def clip(self) -> Clip:
        """The frames that the model saw.

        Raises:
            UsageError: an explanation without them.
        """
        found: Clip = self._input(msg("media.no-clip", "this explanation has no clip to draw on"))
        return found

    def step_of(self, frame: int) -> int:
        """Return the time step that covers a frame."""
        return frame * len(self.map) // len(self.clip)

    def heat(self, smooth: bool = True, blur: float = 0.0) -> Float32[np.ndarray, "T H W"]:
        """Return the map of each frame in the frames' size, unnormalised; NaN where the model saw nothing.

        Args:
            smooth: bicubic between patch centres; otherwise one flat block per patch. Time steps are never mixed.
            blur: standard deviation of a Gaussian blur after it, in pixels of the frame; 0 for none.
        """
        steps = [self.region.upsample(values, smooth, blur) for values in self.map]
        return np.stack([steps[self.step_of(frame)] for frame in range(len(self.clip))])

    def overlay(self, frame: int | None = None, **style: Unpack[StyleOptions]) -> Image.Image:
        """Draw the map over one frame, or over all of them on a contact sheet.

        Args:
            frame: its place among the frames that the model saw, from 0.
            style: the fields of `vitscope.render.raster.Style`.

        Raises:
            UsageError: an explanation without its clip, no such frame, or the style `notebook`, which is for images.
        """
        chosen = self.style(**style)
        if frame is not None:
            if not 0 <= frame < len(self.clip):
                raise UsageError(
                    msg("media.no-such-frame", "there is no frame {frame}", frame=frame),
                    msg("media.no-such-frame.hint", "frames are 0 to {last}", last=len(self.clip) - 1),
                )
            return self._drawn(frame, chosen)
        shown = [i * len(self.clip) // _MOST_CELLS for i in range(_MOST_CELLS)]
        cells = [Cell(self._drawn(n, chosen), self.clip.title(n)) for n in dict.fromkeys(shown)]
        return sheet(cells, self.caption())

    def film(self, path: str | Path, *, rate: float | None = None, **style: Unpack[StyleOptions]) -> Path:
        """Write the frames that the model saw, under the map, as a film.

        Args:
            path: where; its suffix chooses the format: `.mp4` and others need PyAV, `.webp` and `.gif` do not.
            rate: images per second; by default the clip's own speed, at least 2, or 4 where its times are not known.
            style: as for `overlay`.
        """
        chosen = self.style(**style)
        drawn = (self._drawn(frame, chosen) for frame in range(len(self.clip)))
        write_film(drawn, Path(path), rate or self._rate())
        return Path(path)

    def _scales(self) -> dict[str, Any]:
        """Return the rate, and the frames' numbers, times and time steps."""
        clip = self.clip
        frames = [
            {"number": number, "seconds": clip.seconds[n] if clip.seconds else None, "step": self.step_of(n)}
            for n, number in enumerate(clip.numbers)
        ]
        return {"fps": clip.fps, "frames": frames}

    def _draw(self, folder: Path, **style: Unpack[StyleOptions]) -> None:
        """Write each frame, each overlay, the contact sheet, the film, and the map step by step."""
        chosen = self.style(**style)
        steps = [raster.grid(values, chosen, raster.limits(self.map, chosen.norm)) for values in self.map]
        _side_by_side(steps).save(folder / "map.png")
        if self.picture is None:
            return
        for name in ("frames", "overlays"):
            (folder / name).mkdir()
        for n, pixels in enumerate(self.picture.frames):
            Image.fromarray(pixels).save(folder / "frames" / f"{n:03d}.jpg", quality=95, subsampling=0)
            self._drawn(n, chosen).save(folder / "overlays" / f"{n:03d}.png", compress_level=4)
        self.overlay(**style).save(folder / "overlay.png", compress_level=4)
        self.film(folder / f"film{film_suffix()}", **style)

    @classmethod
    def _saved_picture(cls, folder: Path, manifest: SavedManifest) -> Clip | None:
        about = manifest.clip
        if about is None:
            return None
        times = [frame.seconds for frame in about.frames]
        return Clip(
            [load_image(manifest.checked(folder, f"frames/{n:03d}.jpg")) for n in range(len(times))],
            about.fps,
            name=manifest.name or "clip",
            source=str(manifest.provenance.get("source", "frames")),
            numbers=[frame.number for frame in about.frames],
            seconds=None if None in times else times,  # type: ignore[arg-type]  # none is None
        )

    def _drawn(self, frame: int, style: Style) -> Image.Image:
        values, scale = self.map[self.step_of(frame)], raster.limits(self.map, style.norm)
        return raster.overlay(values, self.region, self.clip.frames[frame], style, scale, self._weights)

    @cached_property
    def _weights(self) -> Float32[np.ndarray, "3"]:
        return colour_weights(*self.clip.frames)  # one for all, so that the film does not flicker

    def _rate(self) -> float:
        times = self.clip.seconds
        if times is None or len(times) < 2 or times[-1] <= times[0]:
            return self.clip.fps or _UNKNOWN_RATE
        return max((len(times) - 1) / (times[-1] - times[0]), _SLOWEST)


def _side_by_side(images: list[Image.Image]) -> Image.Image:
    """Join images of one size in a row, white between them."""
    width, height = images[0].size
    joined = Image.new("RGB", (len(images) * (width + _GAP) - _GAP, height), "white")
    for n, image in enumerate(images):
        joined.paste(image, (n * (width + _GAP), 0))
    return joined
