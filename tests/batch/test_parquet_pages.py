"""Pages of Parquet files: usual ones are read as pyarrow reads them, those larger than the footer says are not."""

import io
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.errors import raises
from tests.helpers.result_files import _batch, _report, _reseal_shard
from vitscope.batch.archives import list_refs
from vitscope.batch.fetch import image_reader
from vitscope.batch.parquet_pages import WatchedFile
from vitscope.errors import ImageError, ResultError

CHANCE = np.random.default_rng(0)
TABLE = pa.table(
    {
        "image": [CHANCE.bytes(int(n)) for n in CHANCE.integers(0, 40_000, 60)],
        "text": [None if n % 7 == 0 else f"name {n % 5}" for n in range(60)],
        "map": pa.array([CHANCE.random(49, np.float32) for _ in range(60)], pa.list_(pa.float32())),
        "top": [[{"label": f"x{n}", "p": 0.5}] * (n % 3) for n in range(60)],
    }
)
WAYS = [
    {},
    {"compression": "zstd", "use_dictionary": False},
    {"compression": "gzip", "data_page_version": "2.0"},
    {"compression": "none", "data_page_size": 1000, "row_group_size": 7},
    {"write_statistics": True, "write_page_index": True, "row_group_size": 20, "data_page_size": 5000},
    {"store_decimal_as_integer": True, "use_byte_stream_split": ["map"], "use_dictionary": False},
]


@pytest.mark.parametrize("buffer_size", [0, 1 << 12, 1 << 16, 1 << 23])
@pytest.mark.parametrize("way", WAYS, ids=range(len(WAYS)))
def test_usual_files_are_read_as_they_are(way, buffer_size):
    file = io.BytesIO()
    pq.write_table(TABLE, file, **way)
    watched = WatchedFile(file)
    with pq.ParquetFile(watched, buffer_size=buffer_size) as found:
        watched.watch(found.metadata)
        assert pa.Table.from_batches(found.iter_batches(7)).equals(pq.read_table(file))
        ends = [chunk.at == chunk.end for chunk in watched._chunks]
    assert all(ends), "each page was looked at"


def number(value):
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def exploding(unpacked, said=None):
    """Return a Parquet file of a page of so many bytes, of which the footer says that it has some dozens."""
    schema = pa.schema([pa.field("image", pa.binary(), nullable=False)])
    file = io.BytesIO()
    pq.write_table(
        pa.table({"image": [b"x" * 50]}, schema), file, compression="zstd", use_dictionary=False, write_statistics=False
    )
    column = pq.ParquetFile(file).metadata.row_group(0).column(0)
    body = struct.pack("<I", unpacked - 4) + bytes(unpacked - 4)
    packed = pa.Codec("zstd").compress(body).to_pybytes()
    lead = (b"\x15", number(0), b"\x15", number(said or unpacked), b"\x15", number(len(packed)))
    inner = (b"\x2c\x15", number(1), b"\x15", number(0), b"\x15", number(3), b"\x15", number(3), b"\0\0")
    page = b"".join((*lead, *inner, packed))
    data = file.getvalue()
    length = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - length : -8].replace(b"\x16" + number(column.total_compressed_size), b"\x16" + number(len(page)))
    return data[: column.data_page_offset] + page + footer + struct.pack("<I", len(footer)) + b"PAR1"


@pytest.mark.parametrize("said", [None, 1 << 30, -1])
def test_a_page_that_unpacks_to_more_than_the_footer_says_is_not_unpacked(tmp_path, said):
    path = tmp_path / "x.parquet"
    path.write_bytes(exploding(20_000_000, said))
    (ref,) = list_refs(str(path), "x", "parquet", None, 1)
    with image_reader() as fetch, raises(ImageError, "batch.unreadable-image") as caught:
        fetch(ref)
    assert "a page unpacks to" in str(caught.value)


def test_a_shard_that_unpacks_to_far_more_than_rows_do_is_refused(tmp_path):
    _batch(tmp_path)
    shard = tmp_path / "data/part-000000.parquet"
    table = pq.read_table(shard)
    rows = table.to_pylist()
    rows[0]["notes"] = ["x" * (1 << 29)]
    shard.unlink()
    pq.write_table(type(table).from_pylist(rows, table.schema), shard, compression="zstd")
    _reseal_shard(tmp_path)
    with pytest.raises(ResultError, match="unpacks"):
        _report(tmp_path)
