"""Read volumes: a file or an array becomes voxels with their spacing; and bring them to a model's size."""

import gzip
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32

from vitscope._bands import window_notes
from vitscope._messages import msg
from vitscope._numbers import is_real, is_text, items_of
from vitscope.errors import ImageError, UsageError, first_line, require_package
from vitscope.images import Picture
from vitscope.media.files import check_count, checked_notes, media_file, reading

_HEADER_2, _MOST_BEFORE = 540, 64_000_000  # bytes: a header of NIfTI-2; what may stand before the voxels
_AXES = ("axis 0", "axis 1", "axis 2")


class Volume(Picture):
    """A volume of numbers; as a Picture it is its middle slice across the first axis.

    Args:
        voxels: `(D, H, W)`, or `(C, D, H, W)`, of any finite numbers.
        spacing: millimetres between voxels along D, H and W, where they are known; drawings keep the proportions.
        axes: what the three axes are called, such as `L-R`; by default by their numbers.
        name: of the volume.
        source: the path, or the kind of object.
        notes: what was done to the original, one phrase each.

    Raises:
        ImageError: an array of another shape, or with NaN or infinity.
        UsageError: a spacing that is not three positive numbers.
    """

    medium: ClassVar[str] = "volume"
    voxels: Float32[np.ndarray, "C D H W"]
    spacing: tuple[float, ...] | None
    axes: tuple[str, ...]

    def __init__(
        self,
        voxels: np.ndarray,
        spacing: Sequence[float] | None = None,
        *,
        axes: Sequence[str] = _AXES,
        name: str = "volume",
        source: str = "array",
        notes: Sequence[str] = (),
    ) -> None:
        array = np.asarray(voxels)
        if array.ndim not in (3, 4) or min(array.shape) < 1 or array.dtype.kind not in "fiub":
            problem = msg("media.volume-shape", "an array of shape {shape} is no volume", shape=array.shape)
            raise ImageError(problem, msg("media.volume-shape.hint", "pass an array (D, H, W) or (C, D, H, W)"))
        array = (array[None] if array.ndim == 3 else array).astype(np.float32)
        if not np.isfinite(array).all():
            raise ImageError(msg("media.volume-not-finite", "the volume holds NaN or infinity"))
        known = None if spacing is None else items_of(spacing, partial(is_real, low=1e-300), 3)
        if known is None is not spacing:
            raise UsageError(
                msg("media.spacing", "{@spacing} is three positive numbers, not {spacing}", spacing=repr(spacing))
            )
        names = items_of(axes, is_text, 3)
        if names is None:
            raise UsageError(msg("media.axes", "{@axes} is three texts, not {axes}", axes=repr(axes)))
        array.setflags(write=False)
        super().__init__(_grey(array[0], array.shape[1] // 2), name, source, checked_notes(notes))
        known = known and tuple(map(float, known))
        for field, value in {"voxels": array, "spacing": known, "axes": names}.items():
            object.__setattr__(self, field, value)

    def __repr__(self) -> str:
        return f"<Volume {self.name!r}: {' x '.join(map(str, self.voxels.shape[1:]))}>"

    def slice(self, axis: int, index: int) -> np.ndarray:
        """Return one slice across an axis as grey RGB `(rows, columns, 3)`, on the scale of the whole volume."""
        return _grey(np.moveaxis(self.voxels[0], axis, 0), index)


@dataclass(frozen=True)
class VolumeProcessor:
    """Bring any volume to the size that a model takes.

    Attributes:
        size: `(D, H, W)`; the whole volume is resampled to it, linearly.
        window: the two values that become 0 and 1, and those beyond them as well; None leaves the values as they are.

    Raises:
        UsageError: sizes that are not three positive numbers, or a window that is empty.
    """

    size: tuple[int, int, int]
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if len(self.size) != 3 or min(self.size) < 1 or (self.window and not self.window[0] < self.window[1]):
            raise UsageError.coded(
                "media.volume-processor",
                "{@size} is three positive numbers and {@window} two ascending ones, not {size} and {window}",
                size=self.size,
                window=self.window,
            )

    def __call__(self, volume: Volume) -> Float32[np.ndarray, "C d h w"]:
        """Return the values that the model gets.

        Raises:
            ImageError: nearly all voxels lie on one side of the window.
        """
        if self.window is not None:
            window_notes(volume.voxels, self.window, volume.source)
        made: np.ndarray = volume.voxels.astype(np.float64)
        for axis, count in enumerate(self.size, 1):
            made = np.moveaxis(_linear(np.moveaxis(made, axis, -1), count), -1, axis)
        if self.window is not None:
            low, high = self.window
            made = ((made - low) / (high - low)).clip(0, 1)
        return made.astype(np.float32)


def load_volume(source: Any) -> Volume:
    """Load a volume.

    Args:
        source: a path to `.npy`, `.nii` or `.nii.gz`; an array `(D, H, W)` or `(C, D, H, W)`; or a Volume.

    Raises:
        ImageError: missing, broken, or not a volume.
        MissingDependencyError: a NIfTI file, and nibabel is not installed.
    """
    if isinstance(source, Volume):
        return source
    if isinstance(source, np.ndarray):
        return Volume(source)
    if not isinstance(source, (str, Path)):
        problem = msg("media.not-a-volume", "this model takes volumes, not one {kind}", kind=type(source).__name__)
        hint = msg(
            "media.not-a-volume.hint",
            "pass a .npy or NIfTI file, an array (D, H, W), or vitscope.Volume(voxels, spacing=...)",
        )
        raise ImageError(problem, hint)
    path = media_file(source)
    with reading(str(path), partial(_broken, path)):
        if path.suffix == ".npy":
            voxels = np.load(path, "r", allow_pickle=False)  # of another size than the file: nothing is made of it
            check_count(voxels.size, str(path))
            return Volume(voxels, name=path.stem, source=str(path))
        return _nifti(path)


def _broken(path: Path, error: Exception) -> ImageError:
    problem = msg(
        "media.broken-volume", "{path} cannot be read as a volume: {reason}", path=path, reason=first_line(error)
    )
    return ImageError(problem, msg("media.broken-volume.hint", "pass .npy, .nii or .nii.gz"))


def _nifti(path: Path) -> Volume:
    """Read a NIfTI file in its own order of axes, which the notes name."""
    require_package("nibabel", extra="volume")
    import nibabel as nib

    if not path.name.lower().endswith((".nii", ".nii.gz")):  # nibabel would open the other file of a pair unchecked
        raise ValueError("its name ends neither in .npy nor in .nii or .nii.gz")
    _check_offset(path)
    image: Any = nib.load(path, keep_file_open=True)  # or each slice would unpack all those before it
    if image.get_data_dtype().kind not in "fiu":
        raise ValueError(f"its numbers are {image.get_data_dtype()}")
    check_count(math.prod(image.dataobj.shape), str(path))
    voxels = np.empty(image.dataobj.shape, np.float32, "F")
    for last in range(voxels.shape[-1]):  # at once, they would also stand in memory as integers
        voxels[..., last] = image.dataobj[..., last]
    if voxels.ndim == 4:  # several values for each voxel come last
        voxels = voxels[..., 0] if voxels.shape[3] == 1 else np.moveaxis(voxels, 3, 0)
    opposite = {"L": "R-L", "R": "L-R", "A": "P-A", "P": "A-P", "S": "I-S", "I": "S-I"}
    codes: Any = nib.aff2axcodes(image.affine)
    axes = [opposite[code] for code in codes]
    spacing = [float(step) for step in image.header.get_zooms()[:3]]
    note = msg(
        "media.orientation",
        "axes {axes}, spacing {spacing} mm",
        axes=", ".join(axes),
        spacing=" x ".join(f"{step:g}" for step in spacing),
    )
    name = path.name.removesuffix(".gz").removesuffix(".nii")
    return Volume(voxels, spacing, axes=axes, name=name, source=str(path), notes=[note])


def _check_offset(path: Path) -> None:
    """Raise where a NIfTI's voxels begin beyond what headers and their extensions need, before that is unpacked."""
    with (gzip.open if path.name.lower().endswith(".gz") else Path.open)(path, "rb") as file:
        head = file.read(_HEADER_2)
    order = "<" if head[:1] in (b"\x5c", b"\x1c") else ">"  # of 348 or 540, the length of a header
    second = _HEADER_2 in struct.unpack(f"{order}I", head[:4])
    (offset,) = struct.unpack_from(f"{order}q" if second else f"{order}f", head, 168 if second else 108)
    if not 0 <= offset <= _MOST_BEFORE:
        raise ValueError(f"its voxels begin at byte {offset:.0f}")


def _grey(planes: np.ndarray, index: int) -> np.ndarray:
    """Return one plane as grey RGB, black and white at the 1st and the 99th percentile of all planes."""
    low, high = np.percentile(planes, (1, 99))
    level = np.clip((planes[index] - low) / max(float(high - low), 1e-12), 0, 1)
    grey: np.ndarray = (level * 255).round().astype(np.uint8)[..., None].repeat(3, -1)
    return grey


def _linear(values: np.ndarray, count: int) -> np.ndarray:
    """Resample the last axis linearly to `count` cells, whose edges are those of the whole; equal sizes stay equal."""
    size = values.shape[-1]
    place = ((np.arange(count) + 0.5) * size / count - 0.5).clip(0, size - 1)
    below = np.floor(place).astype(int)
    share = place - below
    made: np.ndarray = values[..., below] * (1 - share) + values[..., np.minimum(below + 1, size - 1)] * share
    return made
