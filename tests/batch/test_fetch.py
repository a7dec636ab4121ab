"""Images within files that hold many: read one by one, in any order, and never more of them than a few at once."""

import io
import random
import tarfile
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.helpers.errors import raises
from vitscope.batch import parquet_pages
from vitscope.batch.archives import list_refs
from vitscope.batch.fetch import image_reader
from vitscope.errors import ImageError

MB = 1_000_000
POOLS = []


def bmp(value, side=8):
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(file := io.BytesIO(), "BMP")
    return file.getvalue()


def refs(path, kind="parquet"):
    return list(list_refs(str(path), path.name, kind, None, 1))


@contextmanager
def at_most(count):
    """See that Arrow has no more than so many bytes at once."""
    counted, before = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(counted)
    try:
        yield
    finally:
        pa.set_memory_pool(before)
    POOLS.append(counted)  # as long as what it allocated
    assert counted.max_memory() < count


def test_rows_are_read_in_any_order(tmp_path):
    table = pa.table({"image": [bmp(value) for value in range(40)]})
    pq.write_table(table, path := tmp_path / "a.parquet", row_group_size=15)
    found, order = refs(path), list(range(40))
    random.Random(0).shuffle(order)
    with image_reader() as fetch:
        for row in (*order, 3, 3):
            assert fetch(found[row])[0].pixels[0, 0, 0] == row


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_row_group_of_large_rows_is_read_row_by_row(tmp_path, dictionary):
    image = bmp(7, 1300)  # 5 MB, and some KB when packed
    table = pa.table({"image": pa.chunked_array([pa.array([image]) for _ in range(12)])})
    options = {"use_dictionary": dictionary, "dictionary_pagesize_limit": 100 * MB}
    pq.write_table(table, path := tmp_path / "a.parquet", compression="zstd", **options)
    del table
    assert path.stat().st_size < MB
    with at_most(25 * MB), image_reader() as fetch:
        assert {fetch(ref)[0].pixels[0, 0, 0] for ref in refs(path)} == {7}


def test_a_row_group_that_unpacks_to_far_more_than_images_do_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_pages, "MOST_UNPACKED", 10 * MB)
    table = pa.table({"image": pa.chunked_array([pa.array([bytes(MB)]) for _ in range(12)])})
    pq.write_table(table, path := tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    del table
    with at_most(MB), image_reader() as fetch, raises(ImageError, "batch.packed-rows") as caught:
        fetch(refs(path)[0])
    assert "12 million" in str(caught.value)


def test_a_damaged_row_costs_those_after_it_only(tmp_path):
    table = pa.table({"image": [bmp(value, 32) for value in range(6)]})
    options = {"compression": "none", "use_dictionary": False, "data_page_size": 1, "write_batch_size": 1}
    pq.write_table(table, path := tmp_path / "a.parquet", write_page_checksum=False, **options)
    data = bytearray(path.read_bytes())
    at = data.index(bmp(4, 32)) - 4
    data[at : at + 4] = b"\xff\xff\xff\x7f"
    path.write_bytes(data)
    found = refs(path)
    with image_reader() as fetch:
        assert [fetch(ref)[0].pixels[0, 0, 0] for ref in found[:4]] == [0, 1, 2, 3]
        for ref in found[4:]:
            with pytest.raises(ImageError):
                fetch(ref)
        assert fetch(found[1])[0].pixels[0, 0, 0] == 1


@pytest.mark.parametrize("column", [[1, 2], [None, None], [[b"x"], []], [{"bytes": None, "path": None}] * 2])
def test_rows_without_images_are_said_to_be_without(tmp_path, column):
    pq.write_table(pa.table({"image": column}), path := tmp_path / "a.parquet")
    with image_reader() as fetch:
        for ref in refs(path):
            with raises(ImageError, "batch.empty-row"):
                fetch(ref)


def test_a_member_of_a_tar_is_no_larger_than_the_file(tmp_path):
    header = tarfile.TarInfo("a.png")
    header.size = 2**50
    (path := tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bmp(1) + bytes(1024))
    with image_reader() as fetch, raises(ImageError, "batch.unreadable-image"):
        fetch(refs(path, "webdataset")[0])
