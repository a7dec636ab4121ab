"""Reads the finished shards of a batch, row by row or as explanations."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from vitscope._documents import as_schema, damaged, file_record, read_document
from vitscope._messages import msg
from vitscope.batch._arrow import pa, pc, pq
from vitscope.batch.archives import list_refs
from vitscope.batch.fetch import image_reader
from vitscope.batch.output import read_manifest, require_intact
from vitscope.batch.parquet_pages import WatchedFile, too_packed
from vitscope.batch.rows import map_from_row
from vitscope.batch.schemas import Plan, ShardRecord, check_columns, check_rows, row_provenance
from vitscope.batch.types import SCHEMA, Ref, plan_file
from vitscope.errors import ImageError, ResultError, VitscopeError, first_line
from vitscope.explanation import Explanation
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.images import Picture, load_image

_RESTORE = msg("batch.restore.hint", "restore the file")
_SEPARATORS = {"::": "webdataset", "#": "parquet", "@": "video"}  # between a file and the place in it


def read_plan(out: Path) -> dict[str, Any]:
    """Return what a run's rows depend on: the content of `batch.json`.

    Raises:
        ResultError: the folder holds no run.
    """
    plan: dict[str, Any] = read_document(path := plan_file(out), dict[str, Any], SCHEMA)
    as_schema(plan, Plan, path)
    return plan


def finished_shards(out: Path) -> tuple[ShardRecord, ...]:
    """Return the finished shards of a run.

    Raises:
        ResultError: the folder holds no run, or one that `read_manifest` refuses.
    """
    read_plan(out)
    return read_manifest(out)


def row_batches(out: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of all finished shards in the order of the source.

    A batch has 1,024 rows at most.

    Raises:
        ResultError: the folder holds no run, or a shard cannot be read.
    """
    for shard in finished_shards(out):
        path = require_intact(out, shard)
        try:
            with path.open("rb") as opened, _reading(watched := WatchedFile(opened)), pq.ParquetFile(watched) as file:
                watched.watch(file.metadata)
                check_columns(path, file.schema_arrow)
                for group in range(file.num_row_groups):
                    if problem := too_packed(path.name, file.metadata.row_group(group)):
                        raise damaged(path, problem)
                if file.metadata.num_rows != shard.rows:
                    raise damaged(path, msg("batch.other-rows", "it has other rows than were written"))
                for part in file.iter_batches(1024, columns=columns):
                    if columns is None:
                        check_rows(path, part)
                    yield part
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ResultError(
                msg("batch.unreadable-shard", "{path} cannot be read: {reason}", path=path, reason=first_line(error)),
                msg("batch.unreadable-shard.hint", "restore the file, or run the batch again into another {@out}"),
            ) from error


@contextmanager
def _reading(file: WatchedFile) -> Iterator[None]:
    """Raise what is wrong with a page in place of the error of pyarrow."""
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        if file.problem is not None:
            raise file.problem from error
        raise


def find_row(out: Path, name: str) -> dict[str, Any]:
    """Return the first row with an id or source.

    Its id starts with `name`, or its source is `name` or ends with `/name`.

    Raises:
        ResultError: there is none.
    """
    for part in row_batches(out):
        source = part["source"]
        here = pc.or_(
            pc.starts_with(part["id"], name), pc.or_(pc.equal(source, name), pc.ends_with(source, f"/{name}"))
        )
        found = part.filter(here)
        if found.num_rows:
            row: dict[str, Any] = found.slice(0, 1).to_pylist()[0]
            return row
    raise ResultError(
        msg("batch.no-such-row", "{path} has no row with the id or name '{name}'", path=out, name=name),
        msg("batch.no-such-row.hint", "ids are in the column 'id' and below the images of the report"),
    )


def explanations(out: str | Path, *, photo: bool = True) -> Iterator[Explanation]:
    """Yield every row without an error as an Explanation; see `explanation_from_row`."""
    for part in row_batches(Path(out)):
        for row in part.to_pylist():
            if row["map"] is not None:
                yield explanation_from_row(row, photo=photo)


def explanation_from_row(row: Mapping[str, Any], *, photo: bool = True) -> Explanation:
    """Make an Explanation from a row, its map as exact as the dataset stores it.

    Rows do not store how the model reads out. Rows of older versions have no names of prefix tokens, which become
    `prefix 1`, `prefix 2` ...

    Args:
        row: all columns.
        photo: read the photo, where the source is a file that still exists.

    Raises:
        ResultError: a row with an error.
    """
    if row["map"] is None:
        raise not_explained(row)
    size, made = (row["width"], row["height"]), row_provenance(row)
    names = row.get("prefix_names") or [f"prefix {number + 1}" for number in range(len(row["prefix"]))]
    return Explanation(
        map=map_from_row(row),
        prefix=np.array(row["prefix"], np.float32),
        method=row["method"],
        layout=TokenLayout(tuple(names), (row["grid_rows"], row["grid_columns"]), "mean"),
        region=ImageRegion(
            size,
            tuple(row["box"]),
            (row["input_height"], row["input_width"]),
            tuple(row["cells"]) if row.get("cells") else None,
        ),
        target=row["target"],
        score=row["score"],
        predictions=[(top["label"], _number(top)) for top in row["top"] or ()],
        provenance={**made, "source": row["source"], "notes": row["notes"] or []},
        picture=_photo_if_there(row, size) if photo else None,
    )


def _number(top: Mapping[str, Any]) -> float:
    """Return the number of a prediction: a probability, or the value of a regression."""
    number: float = top["value"] if top["probability"] is None else top["probability"]
    return number


def not_explained(row: Mapping[str, Any]) -> ResultError:
    """Make the error for a row without a map."""
    return ResultError(
        msg("batch.not-explained", "{source} was not explained: {reason}", source=row["source"], reason=row["error"])
    )


def photo_from_row(out: Path, row: Mapping[str, Any]) -> Picture:
    """Read the photo of a row from a file, a URL, a tar, a Parquet file or a video.

    Raises:
        ImageError: the photo no longer exists or has changed.

    Cost: a file that holds many images is listed up to this one.
    """
    source = row["source"]
    ref: Ref | None = Ref(row["row"], source, source, "file", source)
    for separator, file_kind in _SEPARATORS.items():
        path = source.rpartition(separator)[0]
        if not os.path.lexists(source) and path and ("://" in path or os.path.lexists(path)):
            held = list_refs(path, path, file_kind, read_plan(out).get("source_column"), 1)
            ref = next((one for one in held if one.source == source), None)
            break
    if ref is None:
        raise ImageError(msg("batch.photo-gone", "{source} no longer exists", source=source), _RESTORE)
    plan = read_plan(out)
    with image_reader({"display": plan.get("display"), "window": plan.get("window")}) as fetch:
        picture, sha256 = fetch(ref)
    if sha256 != row["sha256"]:
        raise ImageError(
            msg("batch.photo-changed", "{source} is not the photo that was explained", source=source), _RESTORE
        )
    return picture


def _photo_if_there(row: Mapping[str, Any], size: tuple[int, int]) -> Picture | None:
    """Read the photo of a row where it is a file that has not changed since."""
    path = Path(row["source"])
    with suppress(VitscopeError, OSError, ValueError):
        if path.is_file() and file_record(path).sha256 == row["sha256"]:
            picture = load_image(row["source"])
            return picture if picture.size == size else None
    return None
