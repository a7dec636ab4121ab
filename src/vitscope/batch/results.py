"""What a batch wrote, read again: finished shards only, row by row or as explanations."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vitscope.batch.archives import list_refs
from vitscope.batch.fetch import image_reader
from vitscope.batch.rows import map_from_row
from vitscope.batch.types import SCHEMA, Ref
from vitscope.errors import ImageError, ResultError
from vitscope.explanation import Explanation
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.images import Picture, load_image

__all__ = [
    "explanation_from_row",
    "explanations",
    "find_row",
    "finished_shards",
    "photo_from_row",
    "read_plan",
    "row_batches",
]

_MARKS = {"::": "webdataset", "#": "parquet", "@": "video"}  # what stands in a source after the file


def read_plan(out: Path) -> dict[str, Any]:
    """What the run is: the content of `batch.json`.

    Raises:
        ResultError: the folder holds no run.
    """
    try:
        plan: dict[str, Any] = json.loads((out / "batch.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ResultError(f"{out} holds no run of vitscope batch", "name the folder that --out was") from error
    return plan


def finished_shards(out: Path) -> list[dict[str, Any]]:
    """The finished shards, each with its statistics.

    Raises:
        ResultError: the folder holds no run, or one of another schema.
    """
    read_plan(out)
    try:
        manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise ResultError(f"{out / 'manifest.json'} is not what a run wrote: {error}") from error
    if manifest.get("schema") != SCHEMA:
        raise ResultError(f"{out} has schema {manifest.get('schema')}, this vitscope reads {SCHEMA}", "update vitscope")
    found = []
    for shard in manifest["shards"]:
        stats: dict[str, Any] = {}
        with suppress(OSError, ValueError):  # numbers beside the rows; without them the rows are still there
            stats = json.loads((out / "stats" / f"{Path(shard['file']).stem}.json").read_text("utf-8"))
        found.append(stats | shard)
    return found


def row_batches(out: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of all finished shards, 1,024 at a time, in the source's order."""
    for shard in finished_shards(out):
        path = out / shard["file"]
        try:
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(1024, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise ResultError(f"{path} cannot be read: {str(error).splitlines()[0]}", "put it back") from error


def find_row(out: Path, name: str) -> dict[str, Any]:
    """The first row whose id begins with `name`, or whose source is or ends with it.

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
    raise ResultError(f"{out} has no row called '{name}'", "ids are in the column 'id' and under the report's pictures")


def explanations(out: str | Path, *, photo: bool = True) -> Iterator[Explanation]:
    """Every row that is fine, as `explanation_of` makes it; one after the other."""
    for part in row_batches(Path(out)):
        for row in part.to_pylist():
            if row["map"] is not None:
                yield explanation_from_row(row, photo=photo)


def explanation_from_row(row: Mapping[str, Any], *, photo: bool = True) -> Explanation:
    """A row that is fine as an explanation, its map as exact as the data set keeps it.

    How the model reads out is not kept, and the names of prefix tokens are not in rows of older versions, where they
    are `prefix 1`, `prefix 2` ...

    Args:
        row: all columns.
        photo: read the photo, where the source is a file that is still there.

    Raises:
        ResultError: a row with an error.
    """
    if row["map"] is None:
        raise ResultError(f"{row['source']} was not explained: {row['error']}")
    size = (row["width"], row["height"])
    names = row.get("prefix_names") or [f"prefix {number + 1}" for number in range(len(row["prefix"]))]
    return Explanation(
        map=map_from_row(row),
        prefix=np.array(row["prefix"], np.float32),
        method=row["method"],
        layout=TokenLayout(tuple(names), (row["grid_rows"], row["grid_columns"]), "mean"),
        region=ImageRegion(size, tuple(row["box"]), (row["input_height"], row["input_width"])),
        target=row["target"],
        score=row["score"],
        predictions=[(top["label"], top["probability"]) for top in row["top"] or ()],
        provenance={**json.loads(row["provenance"] or "{}"), "source": row["source"], "notes": row["notes"] or []},
        picture=_photo_if_there(row["source"], size) if photo else None,
    )


def photo_from_row(out: Path, row: Mapping[str, Any]) -> Picture:
    """The photo of a row, read from wherever it lies: a file, a URL, a tar, Parquet, a video.

    Raises:
        ImageError: it is not there any more, or not as it was.

    Cost: a file that holds many is listed up to it.
    """
    source = row["source"]
    ref: Ref | None = Ref(row["row"], source, source, "file", source)
    for mark, file_kind in _MARKS.items():
        path = source.rpartition(mark)[0]
        if not os.path.lexists(source) and path and ("://" in path or os.path.lexists(path)):
            held = list_refs(path, path, file_kind, read_plan(out).get("source_column"), 1)
            ref = next((one for one in held if one.source == source), None)
            break
    if ref is None:
        raise ImageError(f"{source} is not there any more", "put the file back as it was")
    with image_reader() as fetch:
        picture, sha256 = fetch(ref)
    if sha256 != row["sha256"]:
        raise ImageError(f"{source} is not the photo that was explained", "put the file back as it was")
    return picture


def _photo_if_there(source: str, size: tuple[int, int]) -> Picture | None:
    with suppress(ImageError):
        picture = load_image(source)
        return picture if picture.size == size else None
    return None
