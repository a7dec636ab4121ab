"""Documents and arrays are read only as they were written; each refusal names file, field and reason."""

import io
import json
import os
import zipfile

import msgspec
import numpy as np
import pytest

from tests.helpers.errors import raises
from vitscope._documents import (
    DamagedFileError,
    FileRecord,
    document_bytes,
    file_record,
    parse_document,
    read_array,
    read_arrays,
    read_bytes,
    require_contents,
)
from vitscope._messages import CONTROL
from vitscope.errors import ResultError


class Example(msgspec.Struct, forbid_unknown_fields=True):
    schema: int
    name: str
    values: list[float]


WHOLE = {"schema": 1, "name": "caf\udce9 \u2603", "values": [0.1, 1e-300, 3]}


def reason(document, **options):
    with raises(DamagedFileError, "documents.damaged", "documents.damaged.hint") as caught:
        parse_document(document, Example, "x.json", **options)
    assert "\n" not in str(caught.value)
    assert caught.value.message.startswith("x.json: ")
    return caught.value.message.params["reason"]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_document_comes_back(indent):
    data = document_bytes(WHOLE, indent)
    found = parse_document(data, Example, "x.json", 1)
    assert msgspec.to_builtins(found)["values"] == WHOLE["values"]
    assert found.name == WHOLE["name"]
    other = json.dumps(dict(reversed(json.loads(data).items())), indent=7).encode()
    assert parse_document(other, Example, "x.json") == found, "order and white space say nothing"


def test_control_characters_of_names_are_escapes():
    name = "a\x1b[31m\x7f\x9b\u202e\u2066\u2028\u200d\ufeff\tb\nc \u2603 猫"
    for indent in (None, 2):
        data = document_bytes(WHOLE | {"name": name}, indent)
        assert not CONTROL.search(data.decode().replace("\n", ""))
        assert "\u2603 猫" in data.decode()
        assert parse_document(data, Example, "x.json").name == name


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda text: text[:-9], "documents.not-json", "Unterminated string"),
        (lambda text: "", "documents.not-json", "Expecting value"),
        (lambda text: "[1]", "documents.not-object", ""),
        (lambda text: text.replace("0.1", "NaN"), "documents.not-json", "NaN is not a finite number"),
        (lambda text: text.replace("0.1", "1e999"), "documents.not-json", "1e999 is not a finite number"),
        (lambda text: text.replace("0.1", "9" * 5000), "documents.not-json", "4300"),
        (lambda text: text.replace("0.1", "[" * 9999 + "]" * 9999), "documents.not-json", "nested too deeply"),
        (lambda text: text.replace('"schema"', '"schema": 1, "schema"'), "documents.not-json", "schema is there"),
        (lambda text: text.replace("0.1", "0.2"), "documents.field", "field sha256: the document was changed"),
        (lambda text: text.replace("0.1", '"0.1"'), "documents.field", "field values[0]: Expected `float`, got `str`"),
        (lambda text: text.replace("sha256", "sha255"), "documents.field", "unknown field `sha255`"),
        (lambda text: text.replace('"name"', '"nome"'), "documents.field", "field"),
    ],
)  # fmt: skip
def test_each_kind_of_damage_is_named(change, code, said):
    text = change(document_bytes(WHOLE).decode())
    found = reason(text.encode())
    assert said in found
    if code != "documents.field" or "field `" not in found:
        assert found.code == code


def test_another_version_is_told_as_that():
    data = document_bytes(WHOLE | {"schema": 2, "more": 1})
    with raises(ResultError, "documents.schema", "documents.schema.hint") as caught:
        parse_document(data, Example, "x.json", 1)
    assert caught.value.message.params["found"] == 2


def test_nothing_writes_what_is_no_number():
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="Out of range float values"):
            document_bytes({"x": value})


def test_files_that_are_no_files_are_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    reasons = {"pipe": "no-file", "sparse": "too-large", "": "no-file", "none": "unreadable", "\0": "unreadable"}
    for name, code in reasons.items():
        for record in (None, FileRecord(1 << 40, "0" * 64)):
            with raises(DamagedFileError, "documents.damaged") as caught:
                read_bytes(tmp_path / name, record)
            assert caught.value.message.params["reason"].code in (f"documents.{code}", "documents.size")


def test_a_file_of_the_same_size_is_not_the_same(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"one")
    record = file_record(path)
    assert require_contents(path, record) == path
    assert read_bytes(path, record) == b"one"
    path.write_bytes(b"two")
    for read in (require_contents, read_bytes):
        with raises(DamagedFileError, "documents.damaged") as caught:
            read(path, record)
        assert caught.value.message.params["reason"].code == "documents.other-contents"


# --- arrays ----------------------------------------------------------------------------------------------------------


def npy(**header):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (2, 3)} | header)
    return file.getvalue()


def written(path, data):
    path.write_bytes(data)
    return path, file_record(path)


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_comes_back(tmp_path, order):
    values = np.asarray(np.random.default_rng(0).random((2, 3)), np.float32, order=order)
    np.save(tmp_path / "x.npy", values)
    assert np.array_equal(read_array(tmp_path / "x.npy", file_record(tmp_path / "x.npy"), 2), values)
    np.savez(tmp_path / "x.npz", a=values, b=values[0])
    found = read_arrays(tmp_path / "x.npz", file_record(tmp_path / "x.npz"), {"a": (2, 3), "b": (3,)})
    assert np.array_equal(found["a"], values)
    assert np.array_equal(found["b"], values[0])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00" + (4000).to_bytes(2, "little") + b"(" * 4000,
        npy() + bytes(20),
        npy() + bytes(28),
        npy(shape=(10**9, 10**9)) + bytes(24),
        npy(shape=(-2, -3)) + bytes(24),
        npy(shape=(6,)) + bytes(24),
        npy(descr="<f8", shape=(1, 3)) + bytes(24),
        npy(descr="|O") + bytes(24),
        npy() + np.full(6, np.nan, np.float32).tobytes(),
    ],
)
def test_arrays_that_are_none_are_refused_before_they_cost_anything(tmp_path, data):
    with raises(DamagedFileError, "documents.damaged"):
        read_array(*written(tmp_path / "x.npy", data), 2)


def test_archives_hold_what_they_should_and_nothing_else(tmp_path):
    def archive(**members):
        with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in members.items():
                file.writestr(name.replace("_", "."), data)
        return tmp_path / "x.npz", file_record(tmp_path / "x.npz")

    fine = npy() + bytes(24)
    assert read_arrays(*archive(a_npy=fine), {"a": (2, 3)})["a"].shape == (2, 3)
    for members, code in (
        ({"a_npy": fine, "b_npy": fine}, "members"),
        ({"../a_npy": fine}, "members"),
        ({"a_npy": fine + bytes(1 << 20)}, "member-size"),
        ({"a_npy": npy(shape=(3, 2)) + bytes(24)}, "shape"),
    ):
        with raises(DamagedFileError, "documents.damaged") as caught:
            read_arrays(*archive(**members), {"a": (2, 3)})
        assert caught.value.message.params["reason"].code == f"documents.{code}"
    with raises(DamagedFileError, "documents.damaged"):
        read_arrays(*written(tmp_path / "x.npz", b"PK"), {"a": (2, 3)})
