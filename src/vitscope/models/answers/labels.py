"""Class names from a caller: a list, a mapping from index to name, or a file of them."""

import csv
import json
import re
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from vitscope._messages import Message, msg
from vitscope.errors import UsageError, first_line
from vitscope.models.options import Labels

_MOST = 1 << 24  # bytes of a file of names
_INDEX = re.compile(r"[0-9]+", re.ASCII)
_INDEX_HEADS, _NAME_HEADS = ("index", "id", "class", "class_id", "idx"), ("name", "label", "class_name", "class")


def read_labels(labels: Labels | None) -> dict[int, str] | None:
    """Return class names by index; None where the caller gives none, and {} for "these numbers are no classes".

    Args:
        labels: a list of names in the order of the outputs; a mapping from index, or its text, to name, or from name
            to index, as `class_to_idx`; or a file:
            `.json` with such a list or mapping, or with `id2label` or `label2id` as in a config.json of transformers;
            `.csv` or `.tsv` with lines of index and name, with or without a head; any other file has one name a line.

    Raises:
        UsageError: no file, one that is not text, an empty or missing name, or an index that is none or comes twice.
    """
    if labels is None or isinstance(labels, (str, Path)):
        return None if labels is None else _read_file(Path(labels).expanduser())
    return _checked(labels, msg("models.labels.argument", "{@labels}"))


def check_count(labels: Mapping[int, str], count: int) -> None:
    """Raise a UsageError unless there is one name for each of the model's `count` numbers."""
    if sorted(labels) == list(range(count)):
        return
    one = msg("models.labels.one.hint", "the one number of this model has one name: that of the class it speaks for")
    many = msg("models.labels.count.hint", "give one name for each output, 0 to {last}, in their order", last=count - 1)
    raise UsageError(
        msg(
            "models.labels.count",
            "{names} class names were given, with indices {low} to {high}, for a model that answers with {count} "
            "numbers",
            names=len(labels),
            low=min(labels, default=0),
            high=max(labels, default=0),
            count=count,
        ),
        one if count == 1 else many,
    )


def _read_file(path: Path) -> dict[int, str]:
    where = msg("models.labels.file", "the file of class names {file}", file=str(path))
    try:
        if not path.is_file():
            raise UsageError(
                msg("models.labels.no-file", "{where} does not exist, or is no file", where=where), _FORMS
            ) from None
        if path.stat().st_size > _MOST:
            raise UsageError(msg("models.labels.large", "{where} is larger than 16 MiB", where=where), _FORMS)
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError.coded(
            "models.labels.encoding",
            "{where} is not UTF-8 text: byte {byte} is 0x{value}",
            "save it as UTF-8",
            where=where,
            byte=error.start,
            value=f"{error.object[error.start]:02x}",
        ) from None
    except OSError as error:
        raise UsageError(
            msg("models.labels.unreadable", "{where} cannot be read: {reason}", where=where, reason=first_line(error))
        ) from None
    kind = path.suffix.lower()
    if kind in (".yaml", ".yml", ".toml", ".xml", ".html"):  # whose lines are more than names
        raise UsageError(
            msg("models.labels.format", "{where} is {kind}, which is not read", where=where, kind=kind), _FORMS
        )
    if kind == ".json":
        return _checked(_from_json(text, where), where)
    if kind in (".csv", ".tsv"):
        return _checked(_from_table(text, "\t" if kind == ".tsv" else ",", where), where)
    lines = text.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) > 1 and all(_starts_with(number, line) for number, line in enumerate(lines)):
        raise UsageError(
            msg("models.labels.numbered", "{where} has a number before each name: {line}", where=where, line=lines[0]),
            msg("models.labels.numbered.hint", "leave the numbers out, or save it as CSV (index,name) or JSON"),
        )
    return _checked(lines, where)


def _starts_with(number: int, line: str) -> bool:
    """Return whether a line has its own number before a name, counted from 0 or 1."""
    found = re.match(r"\W*([0-9]+)\W+\w", line, re.ASCII)
    return found is not None and int(found[1]) in (number, number + 1)


def _from_json(text: str, where: Message) -> Any:
    try:
        document = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            msg("models.labels.json", "{where} is not JSON: {reason}", where=where, reason=first_line(error)), _FORMS
        ) from None
    if isinstance(document, _Pairs):
        known = dict(document)
        if isinstance(known.get("id2label"), _Pairs):
            return known["id2label"]
        if isinstance(known.get("label2id"), _Pairs):
            return _Pairs((index, name) for name, index in known["label2id"])
    return document


class _Pairs(list[Any]):
    """A JSON object as its pairs, so that a key that comes twice is seen."""


def _from_table(text: str, separator: str, where: Message) -> "_Pairs":
    rows = [row for row in csv.reader(text.splitlines(), delimiter=separator) if any(cell.strip() for cell in row)]
    index, name = 0, 1
    if rows and not _INDEX.fullmatch(rows[0][0].strip()):
        heads = [cell.strip().lower() for cell in rows.pop(0)]
        index = next((heads.index(head) for head in _INDEX_HEADS if head in heads), 0)
        name = next((heads.index(head) for head in _NAME_HEADS if head in heads and heads.index(head) != index), 1)
    for number, row in enumerate(rows, 1):
        if len(row) <= max(index, name):
            raise UsageError.coded(
                "models.labels.row", "{where}: row {number} has no index and name", _FORMS, where=where, number=number
            )
    return _Pairs((row[index], row[name]) for row in rows)


def _checked(labels: Any, where: Message) -> dict[int, str]:
    """Return names by index, in the order of the indices."""
    if isinstance(labels, Mapping):
        pairs = list(labels.items())
    elif isinstance(labels, _Pairs):
        pairs = list(labels)
    else:
        if isinstance(labels, (bytes, bytearray, Set)) or not hasattr(labels, "__iter__"):  # a set is in no order
            raise UsageError.coded(
                "models.labels.kind",
                "{where} holds no list and no mapping of class names, but a {kind}",
                _FORMS,
                where=where,
                kind=type(labels).__name__,
            )
        pairs = list(enumerate(labels))
    if isinstance(labels, (Mapping, _Pairs)) and all(isinstance(k, str) and type(v) is int for k, v in pairs):
        pairs = [
            (value, key) for key, value in pairs
        ]  # class_to_idx of torchvision's ImageFolder, folders 1 and 10 too
    found: dict[int, str] = {}
    for key, given in pairs:
        number = _index(key, where)
        two = isinstance(given, list) and len(given) == 2 and all(isinstance(part, str) for part in given)
        name = given[1] if two else given  # imagenet_class_index.json has a WordNet id and a name
        if not isinstance(name, (str, int)) or isinstance(name, bool) or not str(name).strip():
            raise UsageError.coded(
                "models.labels.name",
                "{where}: class {number} is called {name}, which is no name",
                _FORMS,
                where=where,
                number=number,
                name=repr(name),
            )
        if number in found:
            raise UsageError(
                msg("models.labels.twice", "{where}: class {number} comes twice", where=where, number=number), _FORMS
            )
        found[number] = str(name).strip()
    return dict(sorted(found.items()))


def _index(key: Any, where: Message) -> int:
    if isinstance(key, str) and _INDEX.fullmatch(key.strip()):
        return int(key)
    if not isinstance(key, (str, bool, float)) and hasattr(key, "__index__") and key.__index__() >= 0:
        return int(key)
    raise UsageError(
        msg("models.labels.index", "{where}: {key} is no index of a class", where=where, key=repr(key)), _FORMS
    )


_FORMS = msg(
    "models.labels.hint",
    "give a list of names, a mapping from index to name, or a file: text with one name a line, JSON with a list or "
    "mapping, CSV or TSV with lines of index and name",
)
