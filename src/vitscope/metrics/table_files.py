"""Write numbers as JSON, which holds everything, or as a Parquet table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitscope._files import already_there, atomic_write, path_exists
from vitscope._messages import json_text, msg
from vitscope.errors import UsageError, require_package


def write_table(
    path: Path,
    document: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    without: Sequence[str] = (),
    force: bool = False,
) -> Path:
    """Write a file: `.json` holds the document, `.parquet` the rows.

    Args:
        path: the file; missing folders are made.
        document: everything, ready for JSON.
        rows: dicts with the same keys; whole numbers, text, or numbers that may be None.
        without: keys of the document that the rows hold; the others go into the table's metadata, as JSON.
        force: replace a file that is already there.

    Raises:
        UsageError: another ending.
        MissingDependencyError: Parquet without pyarrow.
        ResultError: the path is taken, or cannot be written.
    """
    ending = path.suffix.lower()
    if ending not in (".json", ".parquet"):
        raise UsageError(
            msg("metrics.table-ending", "'{name}' does not end in .json or .parquet", name=path.name),
            msg("metrics.table-ending.hint", "numbers are written as .json or .parquet"),
        )
    if ending == ".parquet":
        require_package("pyarrow", extra="batch")
    if path_exists(path) and (not force or path.is_dir()):
        raise already_there(path)
    with atomic_write(path) as part:
        if ending == ".json":
            part.write_text(json_text(document) + "\n", "utf-8", errors="backslashreplace")
        else:
            _parquet(part, rows, {k: v for k, v in document.items() if k not in without})
    return path


def _parquet(path: Path, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {int: pa.int32(), str: pa.string()}
    fields = [(name, kinds.get(type(value), pa.float64())) for name, value in rows[0].items()]
    schema = pa.schema(fields, metadata={"vitscope": json.dumps(about, allow_nan=False)})
    pq.write_table(pa.Table.from_pylist(list(rows), schema), path)
