"""Results on disk as they come: one line of JSON for each map, kept under a hash of everything it depends on.

A run that is started again into its folder goes on where it ended. A folder that holds other options is refused.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from vitscope.errors import ResultError

__all__ = ["FILES", "CaseResult", "RunLog", "fingerprint"]

OPTIONS, ROWS = "bench.json", "rows.jsonl"
FILES = (OPTIONS, ROWS, "results.json", "results.parquet", "report.html")


@dataclass(frozen=True)
class CaseResult:
    """What one method's map of one case scored.

    Attributes:
        method: as it was asked for.
        case: the case's name.
        group: what it is counted with.
        numbers: by name.
        seconds: how long the map took, preprocessing included.
        forward: seconds of a plain forward, measured beside it; None where cost is not asked for.
        resolved: the method and options that a name like `auto` stands for.
        error: why there are no numbers; empty where there are.
    """

    method: str
    case: str
    group: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    forward: float | None = None
    resolved: str = ""
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)


class RunLog:
    """The rows of one run.

    Args:
        folder: where they are kept.
        options: everything that rows depend on besides method and case; plain JSON values.
        force: throw away what the folder's earlier run left.

    Raises:
        ResultError: a folder that holds something else, a run with other options (which are named), or one that cannot
            be written or read.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any], *, force: bool = False) -> None:
        self.folder, self.options = Path(folder), json.loads(json.dumps(options))
        self._rows: dict[str, CaseResult] = {}
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._open(force)

    def _open(self, force: bool) -> None:
        options, rows = self.folder / OPTIONS, self.folder / ROWS
        if not options.exists():
            if any(self.folder.iterdir()):
                raise ResultError(f"{self.folder} holds something else than a benchmark", "choose another --out")
        elif force:
            for name in FILES:
                (self.folder / name).unlink(missing_ok=True)
        else:
            self._compare(options)
            self._read(rows)
            return
        partial = options.with_suffix(".part")
        partial.write_text(json.dumps(self.options, indent=2, ensure_ascii=False) + "\n", "utf-8")
        partial.replace(options)

    def _compare(self, path: Path) -> None:
        try:
            was = json.loads(path.read_text("utf-8"))
            changed = [
                f"{name} was {was.get(name)!r} and is {self.options.get(name)!r}"
                for name in sorted({*was, *self.options})
                if was.get(name) != self.options.get(name)
            ]
        except (ValueError, AttributeError) as error:
            raise ResultError(f"{path} is not what a benchmark wrote: {error}", "choose another --out") from error
        if changed:
            raise ResultError(
                f"{self.folder} holds a run with other options: {'; '.join(changed)}",
                "choose another --out, or --force to start anew",
            )

    def _read(self, path: Path) -> None:
        if not path.exists():
            return
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):  # the last line of a run that was cut off
            with path.open("r+b") as file:
                file.truncate(len(whole))
        for line in whole.splitlines():
            try:
                document = json.loads(line)
                key = document.pop("key")
                row = CaseResult(**document)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ResultError(
                    f"{path} holds a line that no benchmark wrote: {error}", "choose another --out"
                ) from error
            if key == self.key(row.method, row.case):
                self._rows[key] = row

    def key(self, method: str, case: str) -> str:
        """The hash under which a row is kept."""
        text = json.dumps([self.options, method, case], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def get(self, method: str, case: str) -> CaseResult | None:
        """The row of an earlier run, if there is one."""
        return self._rows.get(self.key(method, case))

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: CaseResult) -> None:
        """Keep a row, on disk before this returns."""
        key = self.key(row.method, row.case)
        line = json.dumps({"key": key} | row.to_dict(), ensure_ascii=False, allow_nan=False) + "\n"
        with _writing(self.folder), (self.folder / ROWS).open("a", encoding="utf-8") as file:
            _flushed(file, line)
        self._rows[key] = row


def fingerprint(folder: str | Path | None) -> str | None:
    """A hash of what lies in a file or a folder: names and contents of its files."""
    if folder is None:
        return None
    total, path = hashlib.sha256(), Path(folder)
    for file in sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]:
        total.update(os.fsencode(file.name) + b"\0")
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]


def _flushed(file: TextIO, line: str) -> None:
    file.write(line)
    file.flush()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResultError(f"{folder} cannot be written: {error.strerror or error}", "check --out") from error
