"""The schemas of a batch's files: shards in the manifest, rows, what rows were made with, and suspected images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from vitscope._documents import Count, FileRecord, Seconds, Sha256, as_schema, damaged, parse_json
from vitscope._messages import msg
from vitscope._saved import Provenance
from vitscope.batch._arrow import pa, pc
from vitscope.batch.rows import schema
from vitscope.errors import first_line

Id = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
_SIZES = ("width", "height", "input_height", "input_width", "grid_rows", "grid_columns")
_ROUNDED = 1e-3
_RANGES = {  # of the columns that each row with a map has; the effective patches are no more than the grid's
    **dict.fromkeys(_SIZES, (1, np.inf)),
    **dict.fromkeys(("largest_share", "prefix_share"), (0, 1 + _ROUNDED)),
    "scale": (0, np.inf),
    "effective_patches": (1 - _ROUNDED, np.inf),
}
_BOXES = ("box", "cells")
_NEEDED = (
    *("source", "method", "provenance", "width", "height", "input_height", "input_width"),
    *("map", "prefix", "box", "top"),
)
# how many values a list has: those of the grid, a number, or any
_LENGTHS = {"map": "grid", "box": 4, "cells": 4, "prefix": None, "prefix_names": None, "notes": None}


class ShardRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The manifest's record of a finished shard.

    Attributes:
        number: that of its task.
        digest: that of its task.
        file: its path within the output folder.
        sha256: of the file.
        size: of the file, in bytes.
        images: images in it.
        rows: rows in it.
        failed: images in it without an explanation.
        seconds: spent on it.
    """

    number: Count
    digest: Id
    file: Annotated[str, Meta(pattern=r"^data/part-[0-9]{6,}\.parquet$")]
    sha256: Sha256
    size: Count
    images: Count
    rows: Count
    failed: Count
    seconds: Seconds

    @property
    def record(self) -> FileRecord:
        """What its file holds."""
        return FileRecord(self.size, self.sha256)


class Plan(msgspec.Struct):
    """What is read of `batch.json`; a run that continues compares all of its fields."""

    schema: int
    model: str
    weights: str
    methods: list[str]
    source_column: str | None = None
    display: str | None = None
    window: str | None = None


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """`manifest.json` of a batch, without its seal.

    Attributes:
        schema: of the batch.
        plan: SHA-256 of `batch.json`.
        shards: the finished ones.
    """

    schema: int
    plan: Sha256
    shards: list[ShardRecord]


class Suspects(msgspec.Struct, forbid_unknown_fields=True):
    """`.suspects.json`, without its seal.

    Attributes:
        deaths: at how many deaths in a row an image was in progress.
        crashing: images that crash the process, with the name of the death.
    """

    deaths: dict[Id, Count] = {}
    crashing: dict[Id, str] = {}


class RowMade(msgspec.Struct):
    """What must be known of a row to explain its image again."""

    model: str
    weights: str
    dtype: str
    gradient_rule: str
    refine: str
    options: dict[str, Any]
    seed: int
    size: int | tuple[int, int] | None = None
    load: dict[str, Any] = {}


def row_provenance(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the provenance of a row.

    Raises:
        DamagedFileError: it is no such document.
    """
    where = _provenance_of(row)
    try:
        found = as_schema(parse_json(row["provenance"] or "{}"), dict[str, Any], where)
    except ValueError as error:
        raise damaged(where, first_line(error)) from error
    as_schema(found, Provenance, where)
    return found


def row_made(row: Mapping[str, Any]) -> RowMade:
    """Return how a row was made.

    Raises:
        DamagedFileError: its provenance does not tell.
    """
    return as_schema(row_provenance(row), RowMade, _provenance_of(row))


def _provenance_of(row: Mapping[str, Any]) -> str:
    return msg("batch.row-provenance", "row {id}, column provenance", id=row.get("id", ""))


def check_columns(path: Path, found: pa.Schema) -> None:
    """Raise a DamagedFileError unless a shard has the columns of the dataset; older shards may lack the last ones."""
    known = schema()
    for number, field in enumerate(known):
        at = found.get_field_index(field.name)
        if at < 0 and number > known.get_field_index("provenance"):
            continue
        if at < 0 or found.field(at).type != field.type:
            kind = str(found.field(at).type) if at >= 0 else "-"
            reason = msg("batch.column", "it is {found}, not {expected}", found=kind, expected=str(field.type))
            raise damaged(path, msg("documents.field", "field {field}: {reason}", field=field.name, reason=reason))


def check_rows(path: Path, part: pa.RecordBatch) -> None:
    """Check the rows of a shard, all columns of them.

    Raises:
        DamagedFileError: a row with neither map nor error, a map that does not fit its grid, or numbers that are none.
    """
    fine, broken = part.filter(pc.is_null(part["error"])), part.filter(pc.is_valid(part["error"]))
    there = [name for name in _LENGTHS if part.schema.get_field_index(name) >= 0]
    wrong = [name for name in ("error_kind", "source", "method") if broken[name].null_count]
    wrong += [name for name in _NEEDED if fine[name].null_count]
    wrong += [name for name in there if _wrong_list(fine, name)]
    wrong += [name for name, (low, high) in _RANGES.items() if not _within(fine[name], low, high)]
    wrong += [name for name in _BOXES if name in there and not wrong and not _are_boxes(fine[name])]
    wrong += [field.name for field in part.schema if pa.types.is_floating(field.type) and not _finite(part[field.name])]
    patches = _numbers(fine["grid_rows"]) * _numbers(fine["grid_columns"])
    if (_numbers(fine["effective_patches"]) > patches * (1 + _ROUNDED)).any():
        wrong.append("effective_patches")
    if not _within(fine["map"].flatten(), -1, 1):
        wrong.append("map")
    if part["row"].null_count or not _within(part["row"], 0, np.inf):
        wrong.append("row")
    for name, pattern in (("id", "^[0-9a-f]{32}$"), ("sha256", "^([0-9a-f]{64})?$")):
        if not pc.all(pc.match_substring_regex(part[name].fill_null(""), pattern)).as_py():
            wrong.append(name)
    if _wrong_top(fine["top"].flatten()):
        wrong.append("top")
    if wrong:
        reason = msg("batch.rows", "a row that vitscope cannot have written")
        raise damaged(path, msg("documents.field", "field {field}: {reason}", field=wrong[0], reason=reason))


def _within(column: pa.Array, low: float, high: float) -> bool:
    """Return whether all numbers of a column are there, finite, and in a range."""
    numbers = _numbers(column)
    return bool((np.isfinite(numbers) & (low <= numbers) & (numbers <= high)).all())


def _finite(column: pa.Array) -> bool:
    """Return whether the numbers of a column, as far as they are there, are finite."""
    return bool(np.isfinite(_numbers(column.drop_null())).all())


def _are_boxes(column: pa.Array) -> bool:
    """Return whether lists of four numbers are boxes with an inside."""
    left, top, right, bottom = _numbers(column.drop_null().flatten()).reshape(-1, 4).T
    return bool(((left < right) & (top < bottom)).all())


def _wrong_top(top: pa.Array) -> bool:
    """Return whether predictions lack a label, or have other numbers than a probability or a value, one of them."""
    shares, values = top.field("probability"), top.field("value")
    one = np.asarray(shares.is_valid()) != np.asarray(values.is_valid())
    known = shares.drop_null()
    fits = _finite(values) and _within(known, -_ROUNDED, 1.01)
    return bool(top.field("label").null_count or not one.all() or not fits)


def _wrong_list(part: pa.RecordBatch, name: str) -> bool:
    """Return whether the lists of a column are too long, too short or hold what is no number or text."""
    length, values = _LENGTHS[name], part[name].flatten()
    if length == "grid":
        grid = [np.nan_to_num(_numbers(part[side])) for side in ("grid_rows", "grid_columns")]
        expected = np.where(np.minimum(*grid) > 0, grid[0] * grid[1], -2)
    else:
        expected = np.full(len(part), length)
    known = _numbers(pc.list_value_length(part[name]).filter(pc.is_valid(part[name])))
    wrong = length is not None and (known != expected[part[name].is_valid().to_numpy(zero_copy_only=False)]).any()
    is_number = pa.types.is_floating(values.type)
    return bool(wrong or values.null_count or (is_number and not np.isfinite(_numbers(values)).all()))


def _numbers(column: pa.Array) -> np.ndarray:
    """Return a column as float64, null as NaN."""
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
