"""Rows of a shard hold no number that vitscope does not write, even where the shard is listed as it is now."""

import pyarrow.parquet as pq
import pytest

from tests.helpers.errors import raises
from tests.helpers.result_files import _batch, _report, _reseal_shard
from vitscope.errors import ResultError

NAN, INF = float("nan"), float("inf")
TOP = {"label": "x", "probability": None, "value": None}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    _batch(folder)
    return folder


def changed(whole, tmp_path, column, value):
    """Change a value of the first row, and list the shard as it is now."""
    for path in whole.rglob("*"):
        if path.is_file():
            copy = tmp_path / path.relative_to(whole)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    shard = tmp_path / "data/part-000000.parquet"
    table = pq.read_table(shard)
    rows = table.to_pylist()
    if column:
        rows[0][column] = value
    else:
        rows *= value
    pq.write_table(type(table).from_pylist(rows, table.schema), shard)
    _reseal_shard(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("row", (-1, None)),
        ("sha256", ("x", "A" * 64)),
        *((name, (0, -3)) for name in ("width", "height", "input_height", "input_width")),
        ("score", (NAN, INF)),
        ("scale", (-1, INF)),
        ("map", ([0.0] * 5 + [2.0], [0.0] * 5 + [-1.5], [0.0] * 5 + [NAN])),
        ("effective_patches", (-1, 0.5, 6.5, 1e30)),
        ("largest_share", (-0.1, 1.1)),
        ("prefix_share", (-0.1, 1.1, NAN)),
        ("box", ([5, 0, 1, 9], [0, 9, 5, 9])),
        ("cells", ([5, 0, 1, 9], [0, 0, NAN, 1])),
        ("top", tuple([TOP | {"probability": number}] for number in (-5, 1.02, 1e30, NAN))),
        ("top", ([TOP], [TOP | {"probability": 0.5, "value": 0.5}], [TOP | {"value": INF}])),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_a_number_out_of_range_is_refused_by_its_column(whole, tmp_path, column, values):
    for number, value in enumerate(values):
        folder = changed(whole, tmp_path / str(number), column, value)
        with raises(ResultError, "documents.damaged") as caught:
            _report(folder)
        assert f"field {column}:" in str(caught.value), value


@pytest.mark.parametrize("times", [0, 2])
def test_other_rows_than_the_manifest_says_are_refused(whole, tmp_path, times):
    with raises(ResultError, "documents.damaged"):
        _report(changed(whole, tmp_path, None, times))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("top", [TOP | {"probability": 1.0000001}]),
        ("top", [TOP | {"value": -300.0}]),
        ("score", None),
        ("scale", 0.0),
        ("effective_patches", 6.00001),
        ("box", [-5.5, 0, 100, 9]),
        ("sha256", None),
    ],
)
def test_what_vitscope_writes_is_read(whole, tmp_path, column, value):
    assert _report(changed(whole, tmp_path, column, value))
