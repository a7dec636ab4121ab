"""The schema of a saved explanation: what its `manifest.json` may hold, and the files that it lists."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

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
from vitscope.geometry import ImageRegion, TokenLayout

SCHEMA, MANIFEST = 1, "manifest.json"
_MOST_PATCHES = 1 << 26


class _Struct(msgspec.Struct, forbid_unknown_fields=True):
    """A part of the manifest, which has no other fields than these."""


class _Prediction(_Struct):
    label: str
    probability: float | UnsetType = UNSET
    value: float | UnsetType = UNSET


class _Message(_Struct):
    code: str
    params: dict[str, str | int | float | bool | None]
    template: str | UnsetType = UNSET


class _Drawing(msgspec.Struct):
    """What vitscope reads of a recommended drawing."""

    norm: Literal["auto", "minmax", "robust", "positive"] | UnsetType = UNSET


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
    size: int | UnsetType | None = UNSET
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

    fps: Annotated[float, Meta(gt=0)] | None
    frames: Annotated[list[_Frame], Meta(min_length=1, max_length=1 << 16)]


class SoundFields(_Struct):
    """What belongs to a sound."""

    seconds: Seconds
    seconds_per_column: Annotated[float, Meta(gt=0, le=1e6)]
    hertz: Annotated[list[Annotated[float, Meta(ge=0)]], Meta(min_length=1)]


class VolumeFields(_Struct):
    """What belongs to a volume."""

    spacing: tuple[Seconds, Seconds, Seconds] | None
    axes: tuple[str, str, str]
    hottest: tuple[int, int, int]


class SavedManifest(_Struct):
    """`manifest.json` of a saved explanation, without its seal."""

    schema: Literal[1]
    method: str
    target: str | None
    score: float | None
    predictions: list[_Prediction]
    layout: TokenLayout
    region: ImageRegion
    name: str | None
    provenance: dict[str, Any]
    messages: dict[str, _Message]
    render: dict[str, Any]
    files: dict[str, FileRecord]
    medium: str = "image"
    clip: ClipFields | None = None
    sound: SoundFields | None = None
    volume: VolumeFields | None = None

    def check(self, folder: Path) -> None:
        """Check the provenance, and that grid, image and input are not larger than any that vitscope makes.

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

        as_schema(self.provenance, Provenance, f"{folder / MANIFEST}, provenance")

    def numbers(self, folder: Path) -> list[tuple[str, float]]:
        """Return the predictions, each with its probability or value."""
        found = [(one.label, one.value if one.probability is UNSET else one.probability) for one in self.predictions]
        if any(number is UNSET for _, number in found):
            reason = msg("documents.no-number", "a prediction without probability or value")
            raise damaged(
                folder / MANIFEST, msg("documents.field", "field {field}: {reason}", field="predictions", reason=reason)
            )
        return found  # type: ignore[return-value]  # none is UNSET

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


def listed_files(folder: Path) -> dict[str, Any]:
    """Return the record of each file below a folder, by its path within it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): msgspec.structs.asdict(file_record(path)) for path in paths}


def read_manifest(folder: Path) -> SavedManifest:
    """Read and check the manifest of a saved explanation."""
    return read_document(folder / MANIFEST, SavedManifest, SCHEMA)
