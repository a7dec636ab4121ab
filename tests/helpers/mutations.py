"""Damage files of results in every way, and see whether they are read right or refused in one line.

`raw` damage is what disks, transfers and people do: the result is what it was, or an error. `forged` damage is sealed
anew, as if vitscope had written it: nothing may crash, but another value may come of it.
"""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from tests.helpers.result_files import KINDS, Kind
from vitscope.errors import VitscopeError

Chance = np.random.Generator
_WORDS = (
    "../../etc/passwd",
    "/etc/passwd",
    "data/../../x.parquet",
    "C:\\x",
    "a\0b",
    "",
    "\u202e",
    "x" * 10_000,
    "\udce9",
)
_NUMBERS = (0, -1, 1, 2**31, 2**63, 10**30, -(10**30), 1e308, -1e308, 0.5, 1e-320)
_KINDS = (None, True, "text", [], {}, [1], {"a": 1}, 7, -2.5)
_LITERALS = (
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"[" * 5000 + b"]" * 5000,
    b'{"a":' * 3000 + b"1" + b"}" * 3000,
    b"9" * 5000,
)


def _flip(data: bytes, chance: Chance) -> bytes:
    changed = bytearray(data)
    for at in chance.integers(0, len(data), int(chance.integers(1, 4))) if data else ():
        changed[at] ^= 1 << int(chance.integers(8))
    return bytes(changed)


def _cut(data: bytes, chance: Chance) -> bytes:
    return data[: int(chance.integers(0, max(len(data), 1)))]


def _garbage(data: bytes, chance: Chance) -> bytes:
    at = int(chance.integers(0, len(data) + 1))
    return data[:at] + chance.bytes(int(chance.integers(1, 64))) + data[at + int(chance.integers(0, 64)) :]


def _repeated(data: bytes, chance: Chance) -> bytes:
    at = int(chance.integers(0, len(data) + 1))
    return data[:at] + data


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Each container of a document with each of its keys or indices."""
    found: list[tuple[Any, Any]] = []
    pairs = list(document.items() if isinstance(document, dict) else enumerate(document))
    for key, value in pairs:
        found.append((document, key))
        if isinstance(value, (dict, list)):
            found += _places(value)
    return found


def _in_json(data: bytes, chance: Chance) -> bytes:
    """Change one place of a document, or of one line of several."""
    lines = data.splitlines(keepends=True) if data[:1] == b"{" and data[1:2] != b"\n" else [data]
    at = int(chance.integers(len(lines)))
    document = json.loads(lines[at])
    places = _places(document)
    holder, key = places[int(chance.integers(len(places)))]
    choice = int(chance.integers(7))
    mark = "\u2603mark"
    if choice == 0:
        del holder[key]
    elif choice == 1:
        holder[key] = _WORDS[int(chance.integers(len(_WORDS)))]
    elif choice == 2:
        holder[key] = _NUMBERS[int(chance.integers(len(_NUMBERS)))]
    elif choice == 3:
        holder[key] = _KINDS[int(chance.integers(len(_KINDS)))]
    elif choice == 4 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif choice == 5 and isinstance(holder, dict):
        holder[mark] = holder[key] if chance.integers(2) else 3  # the key twice
    else:
        holder[key] = mark
    text = json.dumps(document, ensure_ascii=True).encode()
    if choice == 5 and isinstance(holder, dict):
        text = text.replace(json.dumps(mark).encode(), json.dumps(key).encode())
    else:
        text = text.replace(json.dumps(mark).encode(), _LITERALS[int(chance.integers(len(_LITERALS)))])
    return b"".join([*lines[:at], text + b"\n", *lines[at + 1 :]])


BYTES = {"flip": _flip, "cut": _cut, "garbage": _garbage, "repeat": _repeated, "empty": lambda data, chance: b""}


def _damage(folder: Path, kind: Kind, others: list[Path], chance: Chance) -> str:
    """Damage the file in one way, and say in which."""
    path = folder / kind.file
    ways = [*BYTES, "other", "swap", "remove", "rename", "folder", *(["json"] * 10 if kind.json else [])]
    way = ways[int(chance.integers(len(ways)))]
    neighbours = sorted(one for one in folder.rglob("*") if one.is_file() and one != path and one.name != ".lock")
    if way == "json":
        path.write_bytes(_in_json(path.read_bytes(), chance))
    elif way in BYTES:
        path.write_bytes(BYTES[way](path.read_bytes(), chance))
    elif way == "other":
        path.write_bytes(others[int(chance.integers(len(others)))].read_bytes())
    elif way == "swap" and neighbours:
        other = neighbours[int(chance.integers(len(neighbours)))]
        mine, its = path.read_bytes(), other.read_bytes()
        path.write_bytes(its)
        other.write_bytes(mine)
    elif way == "rename":
        path.rename(path.with_name("elsewhere"))
    else:
        path.unlink()
        if way == "folder":
            path.mkdir()
    return way


def _forge(folder: Path, kind: Kind, chance: Chance) -> str:
    """Change the file as only a forger can: in one place of its contents, sealed anew."""
    path = folder / kind.file
    if kind.json:
        path.write_bytes(_in_json(path.read_bytes(), chance))
    elif path.suffix == ".parquet":
        _forge_rows(path, chance)
    elif path.suffix in (".npy", ".npz"):
        shape = tuple(int(n) for n in chance.integers(0, 5, int(chance.integers(0, 4))))
        values = chance.standard_normal(shape).astype(chance.choice(["f4", "f8", "i4", "U3"]))
        np.save(path, values) if path.suffix == ".npy" else np.savez(path, map=values, prefix=np.zeros(1, np.float32))
    else:
        height, width = (int(n) for n in chance.integers(1, 30, 2))
        Image.fromarray(chance.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):  # no JSON any more
        assert kind.seal is not None
        kind.seal(folder)
    return "forged"


def _forge_rows(path: Path, chance: Chance) -> None:
    """Change one value of one row within its type, or drop a column."""
    table = pq.read_table(path)
    rows, name = table.to_pylist(), table.column_names[int(chance.integers(table.num_columns))]
    if chance.integers(6) == 0:
        pq.write_table(table.drop_columns([name]), path)
        return
    values: tuple[Any, ...] = (
        None,
        *_WORDS[:-1],
        *_NUMBERS,
        float("nan"),
        [],
        [1.0],
        [None],
        ["a"],
        '{"a": NaN}',
        "[]",
        "{}",
    )
    for _ in range(20):
        rows[0][name] = values[int(chance.integers(len(values)))]
        with contextlib.suppress(Exception):  # a value of another type than the column's
            pq.write_table(type(table).from_pylist(rows, table.schema), path)
            return


class Mutations:
    """Folders of each kind, and what is tried with them.

    Args:
        folder: an empty folder to work in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.expected = folder, dict[str, object]()
        for name, kind in KINDS.items():
            (folder / "whole" / name).mkdir(parents=True)
            kind.make(folder / "whole" / name)
            self.expected[name] = kind.read(self._copy(name))
        self.others = sorted((folder / "whole" / name / kind.file for name, kind in KINDS.items()), key=str)

    def _copy(self, name: str) -> Path:
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(self.folder / "whole" / name, work)
        return work

    def attempt(self, name: str, seed: object, *, forged: bool = False) -> tuple[str, str]:
        """Damage one file of a kind and read it: `right`, `refused` or `wrong`, with what was done and what came."""
        kind, chance = KINDS[name], np.random.default_rng(seed)  # type: ignore[arg-type]
        work = self._copy(name)
        way = _forge(work, kind, chance) if forged else _damage(work, kind, self.others, chance)
        about = f"{name} {way} {seed}"
        try:
            found = kind.read(work)
        except VitscopeError as error:
            text = str(error)
            fine = text.strip() and "\n" not in text
            return ("refused" if fine else "wrong"), f"{about}: {text}"
        except Exception as error:
            return "wrong", f"{about}: {type(error).__name__}: {error}"
        right = forged or found == self.expected[name]
        return ("right" if right else "wrong"), f"{about}: another value"
