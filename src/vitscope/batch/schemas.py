"""The schemas of a batch's files: shards in the manifest, rows, what rows were made with, and suspected images."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Meta

from vitscope._documents import Count, DamagedFileError, FileRecord, Seconds, Sha256, as_schema, damaged, parse_json
from vitscope._messages import msg
from vitscope.batch.rows import schema

__all__ = ["Manifest", "RowProvenance", "ShardRecord", "Suspects", "check_columns", "check_rows", "row_provenance"]

Id = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
_NEEDED = ("source", "method", "provenance", "width", "height", "input_height", "input_width")
_FINITE = ("scale", "effective_patches", "largest_share", "prefix_share")


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


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """`manifest.json` of a batch, without its seal."""

    schema: int
    shards: list[ShardRecord]


class Suspects(msgspec.Struct, forbid_unknown_fields=True):
    """`.suspects.json`, without its seal.

    Attributes:
        deaths: at how many deaths in a row an image was in progress.
        crashing: images that crash the process, with the name of the death.
    """

    deaths: dict[Id, Count] = {}
    crashing: dict[Id, str] = {}


class RowProvenance(msgspec.Struct):
    """What must be known of a row to explain its image again; other fields are for people."""

    model: str
    weights: str
    dtype: str
    gradient_rule: str
    refine: str
    options: dict[str, Any]
    seed: int
    size: int | tuple[int, int] | None = None
    load: dict[str, Any] = {}


def row_provenance(row: Any) -> RowProvenance:
    """Return how a row was made.

    Raises:
        DamagedFileError: its provenance is no such document.
    """
    where = msg("batch.row-provenance", "row {id}, column provenance", id=row["id"])
    try:
        return as_schema(parse_json(row["provenance"] or ""), RowProvenance, where)
    except ValueError as error:
        raise damaged(where, str(error)) from error


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
    if not pc.all(pc.match_substring_regex(part["id"], "^[0-9a-f]{32}$").fill_null(False)).as_py():
        raise _damaged_rows(path, "id")
    broken = part.filter(pc.is_valid(part["error"]))
    if broken["error_kind"].null_count or broken["source"].null_count or broken["method"].null_count:
        raise _damaged_rows(path, "error")
    fine = part.filter(pc.is_null(part["error"]))
    for name in _NEEDED:
        if fine[name].null_count:
            raise _damaged_rows(path, name)
    rows, columns = (
        fine[name].fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        for name in ("grid_rows", "grid_columns")
    )
    lengths = pc.list_value_length(fine["map"]).fill_null(-1).to_numpy(zero_copy_only=False)
    if (rows < 1).any() or (columns < 1).any() or (lengths != rows * columns).any():
        raise _damaged_rows(path, "map")
    if (pc.list_value_length(fine["box"]).fill_null(-1).to_numpy(zero_copy_only=False) != 4).any():
        raise _damaged_rows(path, "box")
    for name in (*_FINITE, "map", "prefix", "box"):
        column = fine[name] if name in _FINITE else fine[name].flatten()
        values = column.to_numpy(zero_copy_only=False).astype(np.float32)
        if fine[name].null_count or not np.isfinite(values).all():
            raise _damaged_rows(path, name)


def _damaged_rows(path: Path, column: str) -> DamagedFileError:
    reason = msg("batch.rows", "a row that vitscope cannot have written")
    return damaged(path, msg("documents.field", "field {field}: {reason}", field=column, reason=reason))
