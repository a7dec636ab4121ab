"""The schema of a saved explanation: what its `manifest.json` may hold, and the files that it lists."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType

from vitscope._documents import (
    DamagedFileError,
    FileRecord,
    Seconds,
    as_schema,
    damaged,
    file_record,
    read_document,
    require_contents,
)
from vitscope._messages import msg
from vitscope._pillow import MAX_PIXELS
from vitscope.geometry import Box, ImageRegion, TokenLayout

SCHEMA, MANIFEST = 1, "manifest.json"
_MOST_PATCHES = 1 << 26
_FURTHEST = 1e9  # pixels: a box may reach beyond its image

Probability = Annotated[float, Meta(ge=-1e-3, le=1.01)]  # some models give theirs rounded, and not quite within 0 and 1
Label = Annotated[str, Meta(max_length=1 << 16)]


class _Struct(msgspec.Struct, forbid_unknown_fields=True):
    """A part of the manifest, which has no other fields than these."""


class _Prediction(_Struct):
    label: Label
    probability: Probability | UnsetType = UNSET
    value: float | UnsetType = UNSET


class _Message(_Struct):
    code: str
    params: dict[str, str | int | float | bool | None]
    template: str | UnsetType = UNSET


class _Drawing(msgspec.Struct):
    """What vitscope reads of a recommended drawing."""

    norm: Literal["auto", "minmax", "robust", "positive"] | UnsetType = UNSET
    opacity: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    blur: Annotated[float, Meta(ge=0, le=1000)] | UnsetType = UNSET


class Provenance(msgspec.Struct):
    """What vitscope reads of a provenance; its other fields are for people."""

    model: str | UnsetType = UNSET
    adapter: str | UnsetType = UNSET
    weights: str | UnsetType = UNSET
    source: str | UnsetType = UNSET
    caveat: str | UnsetType = UNSET
    gradient_rule: str | UnsetType = UNSET
    refine: str | UnsetType = UNSET
    options: dict[str, Any] | UnsetType = UNSET
    drawing: _Drawing | UnsetType = UNSET
    notes: list[str] | UnsetType = UNSET
    activation: Literal["softmax", "sigmoid", "given", "value"] | UnsetType | None = UNSET
    size: Annotated[int, Meta(ge=1, le=1 << 20)] | UnsetType | None = UNSET
    dtype: str | UnsetType = UNSET
    load: dict[str, Any] | UnsetType = UNSET
    versions: dict[str, str] | UnsetType = UNSET
    seed: Annotated[int, Meta(ge=0, le=1 << 62)] | UnsetType = UNSET
    batch_size: Annotated[int, Meta(ge=1, le=1 << 32)] | UnsetType | None = UNSET


class _Frame(_Struct):
    number: Annotated[int, Meta(ge=0, le=1 << 48)]
    seconds: float | None
    step: Annotated[int, Meta(ge=0, le=1 << 20)]


class ClipFields(_Struct):
    """What belongs to a clip."""

    fps: Annotated[float, Meta(ge=1e-6, le=1e6)] | None
    frames: Annotated[list[_Frame], Meta(min_length=1, max_length=1 << 16)]


class SoundFields(_Struct):
    """What belongs to a sound."""

    seconds: Seconds
    seconds_per_column: Annotated[float, Meta(gt=0, le=1e6)]
    hertz: Annotated[list[Annotated[float, Meta(ge=0, le=1e12)]], Meta(min_length=1, max_length=1 << 20)]


_Spacing: TypeAlias = Annotated[float, Meta(gt=0, le=1e12)]  # millimetres
_Index: TypeAlias = Annotated[int, Meta(ge=0, lt=1 << 32)]


class VolumeFields(_Struct):
    """What belongs to a volume."""

    spacing: tuple[_Spacing, _Spacing, _Spacing] | None
    axes: tuple[str, str, str]
    hottest: tuple[_Index, _Index, _Index]


class SavedManifest(_Struct):
    """`manifest.json` of a saved explanation, without its seal."""

    schema: Literal[1]
    method: str
    target: str | None
    score: float | None
    predictions: Annotated[list[_Prediction], Meta(max_length=1000)]
    layout: TokenLayout
    region: ImageRegion
    name: str | None
    provenance: dict[str, Any]
    messages: dict[str, _Message]
    render: _Drawing
    files: dict[str, FileRecord]
    medium: str = "image"
    clip: ClipFields | None = None
    sound: SoundFields | None = None
    volume: VolumeFields | None = None

    def check(self, folder: Path) -> None:
        """Check the provenance, the predictions, and that grid, image, input and boxes are such as vitscope makes.

        Raises:
            DamagedFileError: with the field that is not as it should be.
        """
        for name, sizes, most in (
            ("layout.grid", self.layout.shape, _MOST_PATCHES),
            ("region.size", self.region.size, MAX_PIXELS),
            ("region.input", self.region.input, MAX_PIXELS),
        ):
            if math.prod(sizes) > most:
                raise self._damaged(
                    folder, name, msg("documents.large", "{sizes} is more than {most}", sizes=sizes, most=most)
                )

        for name, box in (
            *(("layout.cells", self.layout.cells), ("layout.seen", self.layout.seen)),
            *(("region.box", self.region.box), ("region.cells", self.region.cells)),
        ):
            if box is not None and not _is_box(box):
                raise self._damaged(folder, name, msg("documents.box", "{box} is no box of an image", box=box))
        frames = [] if self.clip is None else self.clip.frames
        if any(frame.step != n * self.layout.shape[0] // len(frames) for n, frame in enumerate(frames)):
            raise self._damaged(folder, "clip.frames", msg("documents.steps", "these are not its time steps"))
        made = as_schema(self.provenance, Provenance, f"{folder / MANIFEST}, provenance")
        self._check_predictions(folder, "value" if made.activation == "value" else "probability")

    def _check_predictions(self, folder: Path, expected: str) -> None:
        """Check that each prediction has the number of its kind, and no other."""
        other = "probability" if expected == "value" else "value"
        for number, one in enumerate(self.predictions):
            if getattr(one, expected) is UNSET or getattr(one, other) is not UNSET:
                reason = msg("documents.no-number", "it has no {number}, or another number beside it", number=expected)
                raise self._damaged(folder, f"predictions[{number}]", reason)

    def numbers(self) -> list[tuple[str, float]]:
        """Return the predictions, each with its probability or value, once they are checked."""
        return [
            (one.label, cast(float, one.value if one.probability is UNSET else one.probability))
            for one in self.predictions
        ]

    def record(self, folder: Path, name: str) -> FileRecord:
        """Return the record of a file that belongs to the result."""
        if name not in self.files:
            raise self._damaged(folder, "files", msg("documents.not-listed", "it lists no {name}", name=name))
        return self.files[name]

    def checked(self, folder: Path, name: str) -> Path:
        """Return the path of a file of the result, whose contents are those that were written."""
        return require_contents(folder / name, self.record(folder, name))

    def _damaged(self, folder: Path, field: str, reason: str) -> DamagedFileError:
        problem = msg("documents.field", "field {field}: {reason}", field=field, reason=reason)
        return damaged(folder / MANIFEST, problem)


def _is_box(box: Box) -> bool:
    """Return whether a box has an inside, and lies somewhere near an image."""
    left, top, right, bottom = box
    return left < right and top < bottom and max(map(abs, box)) <= _FURTHEST


def check_manifest(manifest: Mapping[str, Any], folder: Path) -> None:
    """Raise a ResultError for a manifest that could not be read again, before anything is written.

    Args:
        manifest: without its files.
        folder: its place.
    """
    plain = json.loads(json.dumps({**manifest, "files": {}}))
    as_schema(plain, SavedManifest, folder / MANIFEST).check(folder)


def listed_files(folder: Path) -> dict[str, Any]:
    """Return the record of each file below a folder, by its path within it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): msgspec.structs.asdict(file_record(path)) for path in paths}


def read_manifest(folder: Path) -> SavedManifest:
    """Read and check the manifest of a saved explanation."""
    return read_document(folder / MANIFEST, SavedManifest, SCHEMA)
