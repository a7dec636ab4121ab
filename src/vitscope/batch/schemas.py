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
_FINITE = ("scale", "effective_patches", "largest_share", "prefix_share", "grid_rows", "grid_columns")
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
    wrong += [name for name in _FINITE if not np.isfinite(_numbers(fine[name])).all()]
    if not pc.all(pc.match_substring_regex(part["id"], "^[0-9a-f]{32}$").fill_null(False)).as_py():
        wrong.append("id")
    top = fine["top"].flatten()
    numbers = pc.coalesce(top.field("probability"), top.field("value"))
    if top.field("label").null_count or numbers.null_count or not np.isfinite(_numbers(numbers)).all():
        wrong.append("top")
    if wrong:
        reason = msg("batch.rows", "a row that vitscope cannot have written")
        raise damaged(path, msg("documents.field", "field {field}: {reason}", field=wrong[0], reason=reason))


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
