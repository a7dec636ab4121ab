"""Bound what the pages of a Parquet file unpack to, before pyarrow makes room for them.

The footer says what each column unpacks to, and each page says so again in a header of its own, which pyarrow believes:
a file of 65 kB can hold a page of 2 GB. `WatchedFile` reads the headers in the bytes that pass by, so that nothing is
read twice. In place of a page that is larger than the footer says of its column, pyarrow gets zeros, which are none.
"""

from dataclasses import dataclass
from typing import Any, BinaryIO

from vitscope._messages import Message, msg

MOST_UNPACKED, MOST_RATIO = 1 << 28, 100  # bytes of a row group of little; rows do not become smaller by more
_SPARE = 1 << 20  # bytes that a page may have beyond what the footer says of its column: some writers leave parts out
_SIZES = ("compressed", "uncompressed")
_HEADERS = (1 << 16, 1 << 24)  # bytes that a header has at most; first as many as most have
_UNPACKED, _PACKED = 2, 3  # fields of a page header
_STRUCT, _SET, _LIST, _BYTES, _DOUBLE = 12, 10, 9, 8, 7
_DEEPEST = 16


def too_packed(source: str, group: Any, column: str | None = None) -> Message | None:
    """Return why a row group is not read: it unpacks to far more than rows of images or maps do; else None.

    Args:
        source: its name.
        group: its metadata.
        column: the one that is read; None for all.
    """
    columns = [one for one in _columns(group) if column is None or one.path_in_schema.split(".")[0] == column]
    packed, unpacked = (sum(getattr(one, f"total_{kind}_size") for one in columns) for kind in _SIZES)
    if unpacked <= max(MOST_UNPACKED, MOST_RATIO * packed):
        return None
    return msg(
        "batch.packed-rows",
        "{source}: its row group unpacks {packed} million bytes to {unpacked} million",
        source=source,
        packed=f"{packed / 1e6:.3g}",
        unpacked=f"{unpacked / 1e6:,.0f}",
    )


@dataclass
class _Chunk:
    """One column of one row group: where its next page begins, where it ends, and what it unpacks to."""

    at: int
    end: int
    unpacked: int


class WatchedFile:
    """A file for pyarrow, opened to read, without pages that unpack to more than the footer says.

    Args:
        file: it.

    Attributes:
        problem: what is wrong with the page that pyarrow could not read; None where it was another reason.
    """

    problem: ValueError | None = None

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._chunks = file, list[_Chunk]()
        self._size = file.seek(0, 2)
        file.seek(0)

    def watch(self, metadata: Any) -> None:
        """Look at the pages of all columns from now on, as the footer has them."""
        for number in range(metadata.num_row_groups):
            for column in _columns(metadata.row_group(number)):
                start = column.data_page_offset
                if column.has_dictionary_page and 0 < column.dictionary_page_offset < start:
                    start = column.dictionary_page_offset
                end = min(start + column.total_compressed_size, self._size)
                self._chunks.append(_Chunk(start, end, column.total_uncompressed_size))

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, with zeros from a page on that unpacks to too much, or has no header."""
        at = self._file.tell()
        left = max(self._size - at, 0)
        data = self._file.read(left if size < 0 else min(size, left))  # Python would make room for what is not there
        for chunk in self._chunks:
            try:
                while chunk.at < min(at + len(data), chunk.end):
                    self._look(chunk, data, at)
            except ValueError as error:
                self.problem = error
                first, last = max(chunk.at - at, 0), min(chunk.end - at, len(data))
                data = data[:first] + bytes(last - first) + data[last:]
        return data

    def _look(self, chunk: _Chunk, data: bytes, at: int) -> None:
        """Look at the next page of a column, and go on to the one after it."""
        known = data[chunk.at - at : chunk.at - at + _HEADERS[0]] if chunk.at >= at else b""
        unpacked, packed, length = _page_header(known) or self._header_apart(chunk)
        if not 0 <= unpacked <= chunk.unpacked + _SPARE or packed < 0:
            raise ValueError(
                msg(
                    "batch.page-size",
                    "a page unpacks to {unpacked} million bytes, and all of its column to {expected} million",
                    unpacked=f"{unpacked / 1e6:,.3g}",
                    expected=f"{chunk.unpacked / 1e6:,.3g}",
                )
            )
        chunk.at += length + packed

    def _header_apart(self, chunk: _Chunk) -> tuple[int, int, int]:
        """Read the header of a page that does not lie whole in what is read."""
        before = self._file.tell()
        try:
            for size in _HEADERS:
                self._file.seek(chunk.at)
                if found := _page_header(self._file.read(min(size, chunk.end - chunk.at))):
                    return found
        finally:
            self._file.seek(before)
        raise ValueError(msg("batch.page-header", "a page has no header"))

    def seek(self, *place: int) -> int:
        """Go to a place."""
        return self._file.seek(*place)

    def tell(self) -> int:
        """Return the place."""
        return self._file.tell()

    def seekable(self) -> bool:
        """Whether it can be read in any order: it can."""
        return True

    def readable(self) -> bool:
        """Whether it can be read: it can."""
        return True

    def close(self) -> None:
        """Leave the file to whoever opened it."""

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._file.closed


def _columns(group: Any) -> list[Any]:
    return [group.column(number) for number in range(group.num_columns)]


def _page_header(data: bytes) -> tuple[int, int, int] | None:
    """Return what a page unpacks to, its packed bytes and those of its header; None where the header is not whole.

    A header is a struct of Thrift's compact protocol.
    """
    found: dict[int, int] = {}
    try:
        end = _struct(data, 0, found)
    except IndexError:
        return None
    if _UNPACKED not in found or _PACKED not in found:
        return None
    return found[_UNPACKED], found[_PACKED], end


def _struct(data: bytes, at: int, into: dict[int, int] | None = None, depth: int = 0) -> int:
    """Pass a struct by and return where it ends; its whole numbers go `into` a dict, by the number of their field."""
    if depth > _DEEPEST:
        raise IndexError
    field = 0
    while (head := data[at]) != 0:
        at, kind = at + 1, head & 15
        if head >> 4:
            field += head >> 4
        else:
            field, at = _number(data, at)
        if kind in (3, 4, 5, 6) and into is not None:
            into[field], at = (data[at], at + 1) if kind == 3 else _number(data, at)
        elif kind not in (1, 2):  # true and false, which have no more bytes
            at = _value(data, at, kind, depth)
    return at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> int:
    """Pass a value by and return where it ends."""
    if kind in (1, 2, 3):
        return at + 1
    if kind in (4, 5, 6):
        return _varint(data, at)[1]
    if kind == _DOUBLE:
        return at + 8
    if kind == _BYTES:
        length, at = _varint(data, at)
        if at + length > len(data):
            raise IndexError
        return at + length
    if kind == _STRUCT:
        return _struct(data, at, None, depth + 1)
    if kind in (_LIST, _SET):
        count, at = data[at] >> 4, at + 1
        inner = data[at - 1] & 15
        if count == 15:
            count, at = _varint(data, at)
        for _ in range(count):
            at = _value(data, at, inner, depth + 1)
        return at
    raise IndexError  # a map, or what is no kind: a page header has neither


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a whole number of seven bits a byte, and where it ends."""
    found = shift = 0
    while True:
        byte, at = data[at], at + 1
        found |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return found, at
        if shift > 63:
            raise IndexError


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Return a number with a sign, and where it ends."""
    found, at = _varint(data, at)
    return (found >> 1) ^ -(found & 1), at
