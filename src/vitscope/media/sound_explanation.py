"""The map of a sound: drawn over its spectrogram, with seconds and hertz beside it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
from jaxtyping import Float32
from PIL import Image

from vitscope._documents import read_array
from vitscope._messages import msg
from vitscope._saved import SavedManifest
from vitscope.explanation import Explanation
from vitscope.media.sound import Spectrogram
from vitscope.render import raster
from vitscope.render.raster import Style, StyleOptions
from vitscope.render.sheets import figure_image, new_figure

_TICKS = (100, 250, 500, 1000, 2000, 4000, 8000, 16000)


@dataclass(frozen=True, eq=False, repr=False)
class SoundExplanation(Explanation):
    """One map of one sound: relevance of each patch of its spectrogram.

    Patches overlap: each is drawn around its middle, as far as the next one's share begins, and those at the edges to
    the end of what they see.

    Attributes:
        map: relevance of each patch `(gh, gw)`: rows are bands of frequency, the lowest first, columns are times.
        region: where the patches lie on the spectrogram, in bands and columns.
        picture: the spectrogram that the model got.
    """

    medium: ClassVar[str] = "sound"
    picture: Spectrogram | None = field(default=None, repr=False)

    @property
    def spectrogram(self) -> Spectrogram:
        """The spectrogram that the model got.

        Raises:
            UsageError: an explanation without it.
        """
        found: Spectrogram = self._input(msg("media.no-spectrogram", "this explanation has no spectrogram to draw on"))
        return found

    def heat(self, smooth: bool = True, blur: float = 0.0) -> Float32[np.ndarray, "F T"]:
        """Return the map in the spectrogram's size, unnormalised; NaN where no patch lies.

        Args:
            smooth: bicubic between patch centres; otherwise one flat block per patch.
            blur: standard deviation of a Gaussian blur after it, in bands and columns; 0 for none.
        """
        return self.region.upsample(self.map, smooth, blur)

    def overlay(self, **style: Unpack[StyleOptions]) -> Image.Image:
        """Draw the spectrogram, and the map over it, with the highest band above, seconds and hertz.

        Args:
            style: the fields of `vitscope.render.raster.Style`.

        Raises:
            UsageError: an explanation without its spectrogram, or the style `notebook`, which is for images.
        """
        chosen, seen = self.style(**style), self.spectrogram
        height, width = seen.values.shape
        end = width * seen.step
        figure = new_figure((9.0, 5.4))
        axes = figure.subplots(2, 1, sharex=True)
        images = (Image.fromarray(seen.pixels), self._drawn(chosen))
        for one, image, title in zip(axes, images, ("spectrogram", self.method), strict=True):
            flipped = np.asarray(image)[::-1]
            one.imshow(flipped, extent=(0, end, -0.5, height - 0.5), aspect="auto", interpolation="nearest")
            one.set_title(title, fontsize=9, pad=3, parse_math=False)
            ticks = [hz for hz in _TICKS if seen.hertz[0] <= hz <= seen.hertz[-1]]
            one.set_yticks(np.interp(ticks, seen.hertz, np.arange(height)), [f"{hz:g} Hz" for hz in ticks], fontsize=7)
            if seen.seconds < end:
                one.axvline(seen.seconds, color="white", linewidth=1, linestyle="--")
        axes[1].set_xlabel("seconds", fontsize=8)
        axes[1].tick_params(axis="x", labelsize=7)
        return figure_image(figure, self.caption())

    def _scales(self) -> dict[str, Any]:
        """Return how long the sound is, and the scales of the spectrogram."""
        seen = self.spectrogram
        return {"seconds": seen.seconds, "seconds_per_column": seen.step, "hertz": list(seen.hertz)}

    def _draw(self, folder: Path, **style: Unpack[StyleOptions]) -> None:
        """Write the spectrogram's values, the overlay with its scales, and the map, the highest band above."""
        chosen = self.style(**style)
        raster.grid(self.map[::-1], chosen).save(folder / "map.png")
        if self.picture is not None:
            np.save(folder / "spectrogram.npy", self.picture.values)
            self.overlay(**style).save(folder / "overlay.png", compress_level=4)

    @classmethod
    def _saved_picture(cls, folder: Path, manifest: SavedManifest) -> Spectrogram | None:
        about = manifest.sound
        if about is None:
            return None
        values = read_array(folder / "spectrogram.npy", manifest.record(folder, "spectrogram.npy"), 2)
        source = str(manifest.provenance.get("source", "samples"))
        scales = about.seconds_per_column, about.hertz, about.seconds
        return Spectrogram(values, *scales, name=manifest.name or "sound", source=source)

    def _drawn(self, style: Style) -> Image.Image:
        """Draw the map over the spectrogram, one pixel for each band and column."""
        heat = self.heat(style.smooth, style.blur)
        return raster.overlay_placed(heat, self.spectrogram.pixels, style, raster.limits(self.map, style.norm))
