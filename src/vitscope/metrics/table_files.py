"""Numbers as a file: JSON holds everything, Parquet a table. Whole or not at all."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitscope._files import already_there, atomic_write, path_exists
from vitscope.errors import UsageError, require_package

__all__ = ["write_table"]


def write_table(
    path: Path,
    what: str,
    document: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    without: Sequence[str] = (),
    force: bool = False,
) -> Path:
    """Write a file: `.json` holds the document, `.parquet` the rows.

    Args:
        path: where; its folder is made.
        what: what it is, for messages.
        document: everything, ready for JSON.
        rows: dicts with the same keys; whole numbers, words, or numbers that may be None.
        without: keys of the document that the rows hold: the rest goes into the table's metadata, as JSON.
        force: replace a file that is already there.

    Raises:
        UsageError: another ending.
        MissingDependencyError: Parquet without pyarrow.
        ResultError: something is already there, or it cannot be written.
    """
    ending = path.suffix.lower()
    if ending not in (".json", ".parquet"):
        raise UsageError(f"{what} are written as .json or .parquet, not '{path.suffix or path.name}'")
    if ending == ".parquet":
        require_package("pyarrow", extra="batch")
    if path_exists(path) and (not force or path.is_dir()):
        raise already_there(path)
    with atomic_write(path) as part:
        if ending == ".json":
            text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            part.write_text(text, "utf-8", errors="backslashreplace")
        else:
            _parquet(part, rows, {k: v for k, v in document.items() if k not in without})
    return path


def _parquet(path: Path, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {int: pa.int32(), str: pa.string()}
    fields = [(name, kinds.get(type(value), pa.float64())) for name, value in rows[0].items()]
    schema = pa.schema(fields, metadata={"vitscope": json.dumps(about)})
    pq.write_table(pa.Table.from_pylist(list(rows), schema), path)
