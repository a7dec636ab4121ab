"""Files of results, checked where they are read: types and ranges by one schema, contents by their SHA-256.

A document is strict JSON with the SHA-256 of its own contents in the field `sha256`. What was damaged or exchanged
after it was written is refused with the names of file and field. No size in a file is believed before the file has it.
"""

import hashlib
import io
import json
import math
import re
import stat
import tokenize
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from vitscope._messages import json_text, msg
from vitscope.errors import ResultError, first_line

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")
Count = Annotated[int, Meta(ge=0, le=1 << 48)]
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
Share = Annotated[float, Meta(ge=0, le=1)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
SEAL = "sha256"
_MOST_JSON = 1 << 28  # bytes of a document
_MOST_FILE = 1 << 36  # bytes of a file that is hashed
_MOST_NUMBERS = 1 << 30  # numbers of an array, of four bytes each
_FIELD = re.compile(r"^(.*) - at `\$\.?(.*)`$", re.DOTALL)


class DamagedFileError(ResultError):
    """A file that is missing, damaged, exchanged, or not of the kind that its place asks for."""


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was written into a file.

    Attributes:
        size: bytes.
        sha256: of the bytes.
    """

    size: Count
    sha256: Sha256


def damaged(where: object, reason: str) -> DamagedFileError:
    """Make the error for a file, or a line of it, that is not as it was written."""
    return DamagedFileError(
        msg("documents.damaged", "{file}: {reason}", file=where, reason=reason),
        msg("documents.damaged.hint", "restore the file, or make it again"),
    )


def file_record(path: Path) -> FileRecord:
    """Measure a file."""
    with path.open("rb") as file:
        return FileRecord(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def read_bytes(path: Path, record: FileRecord | None = None, most: int = _MOST_JSON) -> bytes:
    """Read a regular file whole, once its size is known.

    Args:
        path: the file.
        record: what it must hold.
        most: bytes that are read at most.

    Raises:
        DamagedFileError: missing, no regular file, too large, or other contents than the record's.
    """
    with _opened(path, record, most) as (file, size):
        data = file.read(size)
        if record is not None and hashlib.sha256(data).hexdigest() != record.sha256:
            raise _other_contents(path)
    return data


def require_contents(path: Path, record: FileRecord) -> Path:
    """Return a path whose file holds what is recorded.

    Raises:
        DamagedFileError: missing, no regular file, or other contents.
    """
    with _opened(path, record, _MOST_FILE) as (file, _):
        if hashlib.file_digest(file, "sha256").hexdigest() != record.sha256:
            raise _other_contents(path)
    return path


@contextmanager
def _opened(path: Path, record: FileRecord | None, most: int) -> Iterator[tuple[io.BufferedReader, int]]:
    try:
        status = path.stat()
        size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            raise damaged(path, msg("documents.no-file", "it is not a regular file"))
        if record is not None and size != record.size:
            problem = msg(
                "documents.size", "it has {size} bytes, and {expected} were written", size=size, expected=record.size
            )
            raise damaged(path, problem)
        if size > most:
            raise damaged(
                path, msg("documents.too-large", "it has {size} bytes, more than {most}", size=size, most=most)
            )
        with path.open("rb") as file:
            yield file, size
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        reason = getattr(error, "strerror", None) or first_line(error)
        raise damaged(path, msg("documents.unreadable", "it cannot be read: {reason}", reason=reason)) from error


def _other_contents(path: Path) -> DamagedFileError:
    return damaged(path, msg("documents.other-contents", "its contents are not those that were written (SHA-256)"))


# --- JSON ------------------------------------------------------------------------------------------------------------


def parse_json(data: bytes | str) -> Any:
    """Parse JSON strictly: no key twice, no NaN, no infinity.

    Raises:
        ValueError: anything else, with the reason; also what is nested too deeply.
    """
    text = data if isinstance(data, str) else data.decode("utf-8")
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError(msg("documents.depth", "it is nested too deeply")) from None


def as_schema(document: object, kind: type[T], where: object) -> T:
    """Check a parsed document by its schema and return it as that type.

    Raises:
        DamagedFileError: with the field that is not as the schema says.
    """
    try:
        return msgspec.convert(document, kind)
    except (msgspec.ValidationError, ValueError, OverflowError, RecursionError) as error:
        found = _FIELD.match(str(error))
        reason = (found[1] if found else first_line(error)).replace("Object", "it")
        if found:
            reason = msg("documents.field", "field {field}: {reason}", field=found[2], reason=reason)
        raise damaged(where, reason) from error


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with the SHA-256 of its contents, as plain JSON values.

    Raises:
        ValueError: NaN or infinity in it.
    """
    plain: dict[str, Any] = json.loads(json.dumps(document, allow_nan=False))
    return plain | {SEAL: _hash(plain)}


def json_bytes(document: Mapping[str, Any], indent: int | None = 2) -> bytes:
    """Return a document as the bytes of its file; `indent=None` writes one line.

    Raises:
        ValueError: NaN or infinity in it.
    """
    text = json_text(document, indent) + "\n"
    # bytes of a file name that are no text become \\udcXX, which is what JSON calls them
    return text.encode("utf-8", "backslashreplace")


def document_bytes(document: Mapping[str, Any], indent: int | None = 2) -> bytes:
    """Return a sealed document as the bytes of its file; see `json_bytes`."""
    return json_bytes(sealed(document), indent)


def parse_document(data: bytes, kind: type[T], where: object, schema: int | None = None) -> T:
    """Parse and check a sealed document.

    Args:
        data: JSON.
        kind: its schema, without the seal.
        where: its name in errors: a file, or a line of one.
        schema: the version that it must have in its field `schema`.

    Raises:
        DamagedFileError: not JSON, not as the schema says, or changed after it was written.
    """
    try:
        document = parse_json(data)
    except ValueError as error:
        raise damaged(where, msg("documents.not-json", "it is not JSON: {reason}", reason=first_line(error))) from error
    if not isinstance(document, dict):
        raise damaged(where, msg("documents.not-object", "it holds no JSON object"))
    if schema is not None and document.get("schema", schema) != schema:
        problem = msg(
            "documents.schema",
            "{file} has schema {found}, this vitscope reads {known}",
            file=where,
            found=document["schema"],
            known=schema,
        )
        raise ResultError(problem, msg("documents.schema.hint", "use the version of vitscope that wrote it"))
    seal = document.pop(SEAL, None)
    found = as_schema(document, kind, where)
    if seal != _hash(document):
        changed = msg("documents.seal", "the document was changed after it was written")
        reason = changed if seal else msg("documents.no-seal", "it is missing")
        raise damaged(where, msg("documents.field", "field {field}: {reason}", field=SEAL, reason=reason))
    return found


def read_document(path: Path, kind: type[T], schema: int | None = None) -> T:
    """Read and check a sealed document; see `parse_document`."""
    return parse_document(read_bytes(path), kind, path, schema)


def _hash(document: object) -> str:
    """Return the SHA-256 of plain JSON values, whatever the order of keys and the white space."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(msg("documents.twice", "field {field} is there twice", field=twice))
    return found


def _no_number(text: str) -> float:
    raise ValueError(msg("documents.not-finite", "{number} is not a finite number", number=text))


def _finite(text: str) -> float:
    return number if math.isfinite(number := float(text)) else _no_number(text)


# --- arrays ----------------------------------------------------------------------------------------------------------


def read_array(path: Path, record: FileRecord, dims: int) -> "np.ndarray":
    """Read a `.npy` of float32 that is recorded, with so many dimensions.

    Raises:
        DamagedFileError: anything else.
    """
    return _array(read_bytes(path, record, 4 * _MOST_NUMBERS + 4096), path, dims)


def read_arrays(path: Path, record: FileRecord, shapes: Mapping[str, tuple[int, ...]]) -> "dict[str, np.ndarray]":
    """Read a `.npz` that is recorded and holds exactly these arrays of float32.

    Raises:
        DamagedFileError: anything else.
    """
    data = read_bytes(path, record, 4 * _MOST_NUMBERS + 4096)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {member.filename: member for member in archive.infolist()}
            if len(archive.infolist()) != len(shapes) or set(members) != {f"{name}.npy" for name in shapes}:
                names = ", ".join(sorted(members))
                raise damaged(path, msg("documents.members", "it holds other arrays: {names}", names=names))
            found = {}
            for name, shape in shapes.items():
                member, most = members[f"{name}.npy"], 4 * math.prod(shape) + 4096
                if member.file_size > most:
                    raise damaged(
                        path,
                        msg(
                            "documents.member-size",
                            "{name} would unpack to {size} bytes, more than {most}",
                            name=name,
                            size=member.file_size,
                            most=most,
                        ),
                    )
                with archive.open(member) as file:
                    found[name] = _array(file.read(most), f"{path}, {name}", len(shape))
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError, EOFError) as error:
        problem = msg("documents.not-arrays", "it holds no arrays: {reason}", reason=first_line(error))
        raise damaged(path, problem) from error
    for name, shape in shapes.items():
        if found[name].shape != shape:
            raise damaged(
                path,
                msg(
                    "documents.shape",
                    "{name} is {found}, not {expected}",
                    name=name,
                    found=found[name].shape,
                    expected=shape,
                ),
            )
    return found


def _array(data: bytes, where: object, dims: int) -> "np.ndarray":
    """Make an array of the bytes of a `.npy`, whose header must tell exactly how many there are."""
    import numpy as np

    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except (ValueError, SyntaxError, EOFError, RecursionError, MemoryError, tokenize.TokenError) as error:
        problem = msg("documents.no-header", "it is no array: {reason}", reason=first_line(error))
        raise damaged(where, problem) from error
    begin, count = file.tell(), math.prod(shape)
    fits = len(shape) == dims and all(0 <= n <= _MOST_NUMBERS for n in shape) and len(data) - begin == 4 * count
    if not fits or dtype != np.float32:
        raise damaged(
            where,
            msg(
                "documents.header",
                "{bytes} bytes are no array of {dtype} {shape} that belongs here",
                bytes=len(data) - begin,
                dtype=str(dtype),
                shape=shape,
            ),
        )
    values = np.frombuffer(data, np.float32, count, begin)
    if not np.isfinite(values).all():
        raise damaged(where, msg("documents.nan", "it holds NaN or infinity"))
    return values.reshape(shape, order="F" if fortran else "C").copy()
