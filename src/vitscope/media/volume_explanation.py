"""The map of a volume: drawn on three orthogonal slices through its maximum."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
from jaxtyping import Float32
from PIL import Image

from vitscope._documents import read_array
from vitscope._messages import msg
from vitscope._saved import SavedManifest
from vitscope.errors import UsageError
from vitscope.explanation import Explanation
from vitscope.geometry import axis_weights
from vitscope.media.volume import Volume
from vitscope.render import raster
from vitscope.render.raster import StyleOptions
from vitscope.render.sheets import figure_image, new_figure


@dataclass(frozen=True, eq=False, repr=False)
class VolumeExplanation(Explanation):
    """One map of one volume: relevance of each patch.

    Attributes:
        map: relevance of each patch `(d, gh, gw)`, float32, unnormalised: the method's own values.
        region: where the patches lie on each slice; its `input` is the size of all slices, one below the other.
        picture: the volume, as it was given.
    """

    medium: ClassVar[str] = "volume"
    picture: Volume | None = field(default=None, repr=False)

    @property
    def volume(self) -> Volume:
        """The volume.

        Raises:
            UsageError: an explanation without it.
        """
        found: Volume = self._input(msg("media.no-volume", "this explanation has no volume to draw on"))
        return found

    def heat(self, smooth: bool = True, blur: float = 0.0) -> Float32[np.ndarray, "D H W"]:
        """Return the map in the volume's size, unnormalised.

        Args:
            smooth: bicubic between patch centres, along each axis; otherwise one flat block per patch.
            blur: standard deviation of a Gaussian blur within each slice across the first axis, in voxels.
        """
        depth = self.volume.voxels.shape[1]
        planes = np.stack([self.region.upsample(values, smooth, blur) for values in self.map])
        weights = axis_weights(slice(0, depth), 0.0, float(depth), len(self.map), smooth)
        out = np.tensordot(weights, planes, 1)
        return np.clip(out, self.map.min(), self.map.max(), out=out)

    @property
    def hottest(self) -> tuple[int, int, int]:
        """The voxel in the middle of the hottest patch: where the slices are taken."""
        place = np.unravel_index(int(self.map.argmax()), self.map.shape)
        sizes = zip(place, self.map.shape, self.volume.voxels.shape[1:], strict=True)
        found = [int((2 * int(cell) + 1) * voxels / (2 * cells)) for cell, cells, voxels in sizes]
        return found[0], found[1], found[2]

    def overlay(self, at: tuple[int, int, int] | None = None, **style: Unpack[StyleOptions]) -> Image.Image:
        """Draw three orthogonal slices, and the map over them, in the volume's proportions.

        Args:
            at: the voxel through which they go; by default the middle of the hottest patch.
            style: the fields of `vitscope.render.raster.Style`.

        Raises:
            UsageError: an explanation without its volume, no such voxel, or the style `notebook`, which is for images.
        """
        chosen, volume = self.style(**style), self.volume
        place, shape = at or self.hottest, volume.voxels.shape[1:]
        if not all(0 <= n < size for n, size in zip(place, shape, strict=True)):
            raise UsageError(
                msg("media.no-such-voxel", "there is no voxel {at} in a volume of {shape}", at=place, shape=shape)
            )
        heat, scale = self.heat(chosen.smooth, chosen.blur), raster.limits(self.map, chosen.norm)
        figure = new_figure((9.0, 6.4))
        panels = figure.subplots(2, 3)
        for axis, index in enumerate(place):
            rows, columns = (n for n in range(3) if n != axis)
            seen = volume.slice(axis, index)
            drawn = raster.overlay_placed(np.moveaxis(heat, axis, 0)[index], seen, chosen, scale)
            steps = volume.spacing or (1.0, 1.0, 1.0)
            for panel, image in zip(panels[:, axis], (seen, np.asarray(drawn)), strict=True):
                panel.imshow(image, aspect=steps[rows] / steps[columns], interpolation="nearest")
                panel.axhline(place[rows], color="white", linewidth=0.5, alpha=0.6)
                panel.axvline(place[columns], color="white", linewidth=0.5, alpha=0.6)
                panel.set_xlabel(volume.axes[columns], fontsize=7)
                panel.set_ylabel(volume.axes[rows], fontsize=7)
                panel.tick_params(labelsize=6)
            panels[0, axis].set_title(f"{volume.axes[axis]}, slice {index}", fontsize=9, pad=3, parse_math=False)
        return figure_image(figure, self.caption())

    def _scales(self) -> dict[str, Any]:
        """Return spacing, axes and the hottest voxel."""
        return {"spacing": self.volume.spacing, "axes": self.volume.axes, "hottest": self.hottest}

    def _draw(self, folder: Path, **style: Unpack[StyleOptions]) -> None:
        """Write the voxels and the map in their size, and the drawing of the three slices."""
        self.style(**style)
        if self.picture is not None:
            np.save(folder / "voxels.npy", self.picture.voxels)
            np.save(folder / "heat.npy", self.heat())
            self.overlay(**style).save(folder / "overlay.png", compress_level=4)

    @classmethod
    def _saved_picture(cls, folder: Path, manifest: SavedManifest) -> Volume | None:
        about = manifest.volume
        if about is None:
            return None
        voxels = read_array(folder / "voxels.npy", manifest.record(folder, "voxels.npy"), 4)
        source = str(manifest.provenance.get("source", "array"))
        return Volume(voxels, about.spacing, axes=about.axes, name=manifest.name or "volume", source=source)
