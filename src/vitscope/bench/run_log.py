"""Results on disk as they come: one JSON line for each map, with a hash of everything that it depends on.

A run that starts again in its folder continues where it ended. A folder of other options is refused.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vitscope._documents import DamagedFileError, Seconds, document_bytes, parse_document, read_bytes
from vitscope._files import atomic_write, require_same_options, write_errors
from vitscope._messages import msg
from vitscope.errors import ResultError

OPTIONS, ROWS = "bench.json", "rows.jsonl"
_MOST_ROWS = 1_000_000_000  # bytes
_OTHER_OUT = msg("bench.other-out.hint", "choose another {@out}")
FILES = (OPTIONS, ROWS, "results.json", "results.parquet", "report.html")


@dataclass(frozen=True)
class CaseResult:
    """The numbers of one method's map of one case.

    Attributes:
        method: the method's label.
        case: the case's name.
        group: the case's group.
        numbers: by name.
        seconds: the duration of the map, with preprocessing.
        forward: seconds of a plain forward, timed beside it; None where cost is not measured.
        resolved: the method and options that ran, for a name such as `auto`.
        error: why there are no numbers; empty where there are.
    """

    method: str
    case: str
    group: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    seconds: Seconds = 0.0
    forward: Seconds | None = None
    resolved: str = ""
    error: str = ""


@dataclass(frozen=True)
class _Line(CaseResult):
    """A result with the hash of everything that it depends on.

    Attributes:
        numbers: as JSON has them; `counts` is a list.
    """

    numbers: Mapping[str, float | bool | list[float] | None] = field(default_factory=dict)
    key: str = ""


class RunLog:
    """The results of one run, on file.

    Args:
        folder: where.
        options: everything that results depend on besides method and case; plain JSON values.
        force: delete the results of an earlier run in the folder.

    Raises:
        ResultError: the folder holds something else or a run with other options (which are named), or cannot be written
            or read.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any], *, force: bool = False) -> None:
        self.folder, self.options = Path(folder), json.loads(json.dumps(options))
        self._rows: dict[str, CaseResult] = {}
        with write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._open(force)

    def _open(self, force: bool) -> None:
        options, rows = self.folder / OPTIONS, self.folder / ROWS
        if not options.exists():
            if any(self.folder.iterdir()):
                raise ResultError.coded(
                    "bench.not-a-benchmark", "{path} is not empty and holds no benchmark", _OTHER_OUT, path=self.folder
                )
        elif force:
            for name in FILES:
                (self.folder / name).unlink(missing_ok=True)
        else:
            hint = msg("bench.other-options.hint", "choose another {@out}, or start again with {@force=True}")
            require_same_options(options, self.options, hint)
            self._read(rows)
            return
        with atomic_write(options) as part:
            part.write_bytes(document_bytes(self.options))

    def _read(self, path: Path) -> None:
        if not path.exists():
            return
        text = read_bytes(path, most=_MOST_ROWS)
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):  # an interrupted run left part of a line
            with path.open("r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            where = msg("bench.line", "{path}, line {number}", path=path, number=number)
            try:
                row = parse_document(line, _Line, where)
            except DamagedFileError as error:
                problem = msg("bench.broken-row", "a result is damaged: {reason}", reason=error.message)
                hint = msg("bench.broken-row.hint", "remove the line and run again: its result is made again")
                raise ResultError(problem, hint) from error
            if row.key == self.key(row.method, row.case):
                self._rows[row.key] = row

    def key(self, method: str, case: str) -> str:
        """Return the hash of everything that a result depends on."""
        text = json.dumps([self.options, method, case], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def get(self, method: str, case: str) -> CaseResult | None:
        """Return the result of a method on a case, or None where there is none yet."""
        return self._rows.get(self.key(method, case))

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: CaseResult) -> None:
        """Append a result; it is written on return."""
        line = _Line(**asdict(row), key=self.key(row.method, row.case))
        with write_errors(self.folder), (self.folder / ROWS).open("ab") as file:
            file.write(document_bytes(asdict(line), indent=None))
        self._rows[line.key] = row


def fingerprint(folder: str | Path | None) -> str | None:
    """Return a hash of a file, or of the names and contents of a folder's files."""
    if folder is None:
        return None
    total, path = hashlib.sha256(), Path(folder)
    for file in sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]:
        total.update(os.fsencode(file.name) + b"\0")
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]
