"""The columns of the dataset: one row for each image, method and target; `docs/batch.md` documents each column.

Maps are float16 fractions of their largest absolute value, which has a column of its own: eleven significant bits at
any scale, fewer below a hundred-thousandth of the largest value.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vitscope._catalogues import translated
from vitscope.batch._arrow import pa
from vitscope.batch.types import SCHEMA, Ref
from vitscope.errors import VitscopeError
from vitscope.explanation import Explanation
from vitscope.metrics.concentration import concentration

if TYPE_CHECKING:
    from vitscope.metrics.measurement import Measurement

_FIELDS: tuple[tuple[str, pa.DataType], ...] = (
    ("id", pa.string()),
    ("row", pa.int64()),
    ("source", pa.string()),
    ("sha256", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("box", pa.list_(pa.float32())),
    ("input_height", pa.int32()),
    ("input_width", pa.int32()),
    ("grid_rows", pa.int32()),
    ("grid_columns", pa.int32()),
    ("method", pa.string()),
    ("requested_target", pa.string()),
    ("target", pa.string()),
    ("score", pa.float32()),
    ("map", pa.list_(pa.float16())),
    ("scale", pa.float32()),
    ("prefix", pa.list_(pa.float32())),
    ("top", pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float32()), ("value", pa.float32())]))),
    ("effective_patches", pa.float32()),
    ("largest_share", pa.float32()),
    ("prefix_share", pa.float32()),
    ("notes", pa.list_(pa.string())),
    ("error", pa.string()),
    ("error_kind", pa.string()),
    ("overlay", pa.string()),
    ("provenance", pa.string()),
    ("prefix_names", pa.list_(pa.string())),
    ("cells", pa.list_(pa.float32())),
)
SENTENCES = {"en": "sentence", "zh": "sentence_zh"}
# entries of the provenance that have columns of their own, or that rows do not depend on
_LEFT_OUT = ("source", "notes", "target", "score", "batch_size")


def schema(numbers: Sequence[str] = ()) -> pa.Schema:
    """Return the columns; measured numbers add their own, and what they mean in words.

    A number adds `NAME`, `NAME_random`, the mean of random maps, and `NAME_verdict`.
    """
    ends = {"": pa.float64(), "_random": pa.float64(), "_verdict": pa.string()}
    more = [(f"{name}{end}".replace("-", "_"), kind) for name in numbers for end, kind in ends.items()]
    more += [(name, pa.string()) for name in SENTENCES.values() if numbers]
    return pa.schema([*_FIELDS, *more], metadata={"vitscope.batch": str(SCHEMA)})


def explanation_row(
    ref: Ref,
    sha256: str,
    requested_target: str | None,
    e: Explanation,
    measurement: "Measurement | None" = None,
    overlay: str | None = None,
) -> dict[str, Any]:
    """Return the row of one explanation."""
    scale = float(np.abs(e.map).max())
    provenance = {name: value for name, value in e.provenance.items() if name not in _LEFT_OUT}
    (width, height), (rows, columns) = e.region.size, e.layout.grid
    numbers = {n.name.replace("-", "_"): n for n in measurement.numbers} if measurement else {}
    return {
        **_where(ref, sha256),
        "width": width,
        "height": height,
        "box": list(e.region.box),
        "input_height": e.region.input[0],
        "input_width": e.region.input[1],
        "grid_rows": rows,
        "grid_columns": columns,
        "method": e.method,
        "requested_target": requested_target,
        "target": e.target,
        "score": e.score,
        "map": (e.map.ravel() / (scale or 1)).astype(np.float16),
        "scale": scale,
        "prefix": e.prefix.tolist(),
        "top": e.manifest()["predictions"],
        **concentration(e),
        "notes": [str(note) for note in e.provenance.get("notes", ())],
        "overlay": overlay,
        "provenance": json.dumps(provenance, sort_keys=True, ensure_ascii=False, allow_nan=False),
        "prefix_names": list(e.layout.prefix),
        "cells": None if e.region.cells is None else list(e.region.cells),
        **{name: number.value for name, number in numbers.items()},
        **{f"{name}_random": number.random for name, number in numbers.items()},
        **{f"{name}_verdict": number.verdict for name, number in numbers.items()},
        **{
            name: translated(measurement.sentence(brief=True), language)
            for language, name in SENTENCES.items()
            if measurement
        },
    }


def error_row(ref: Ref, sha256: str, requested_target: str | None, method: str, error: VitscopeError) -> dict[str, Any]:
    """Return the row of an image without an explanation: its location and the error."""
    kind = type(error).__name__
    return {
        **_where(ref, sha256),
        "method": method,
        "requested_target": requested_target,
        "error": str(error),
        "error_kind": kind,
    }


def to_table(rows: Sequence[Mapping[str, Any]], numbers: Sequence[str] = ()) -> pa.Table:
    """Return rows as a table with columns for these numbers. Absent values are null, text that is not UTF-8 escaped."""
    columns = schema(numbers)
    arrays = []
    for field in columns:
        values = [row.get(field.name) for row in rows]
        if field.type == pa.string():
            values = [None if value is None else _text(value) for value in values]
        arrays.append(pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=columns)


def map_from_row(row: Mapping[str, Any]) -> np.ndarray:
    """Return the map `(gh, gw)` of a row in the method's own values, float32."""
    values = np.asarray(row["map"], np.float32) * np.float32(row["scale"])
    return values.reshape(row["grid_rows"], row["grid_columns"])


def _where(ref: Ref, sha256: str) -> dict[str, Any]:
    return {"id": ref.id, "row": ref.row, "source": ref.source, "sha256": sha256 or None}


def _text(value: str) -> str:
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
