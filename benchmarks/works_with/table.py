"""The rows of docs/works-with.md: a function for each, which returns how far vitscope is from an independent value."""

import importlib
import pkgutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import benchmarks.works_with as package

__all__ = ["REFUSED", "Row", "is_installed", "row", "rows"]

REFUSED = "refused"
_ROWS: list["Row"] = []


@dataclass(frozen=True)
class Row:
    """One thing that was tried.

    Attributes:
        kind: the heading that it stands under.
        what: the model, photo or processor, in a few words.
        libraries: distributions that it depends on; their versions are printed.
        against: how the independent value was computed.
        tolerance: the largest difference that is right.
        try_it: returns the largest difference, or REFUSED where a refusal with a true reason was met, as expected.
    """

    kind: str
    what: str
    libraries: tuple[str, ...]
    against: str
    tolerance: float
    try_it: Callable[[], float | str]

    def versions(self) -> str:
        """Return the libraries with their versions."""
        return ", ".join(f"{name} {version(name)}" for name in self.libraries)


def row(
    kind: str, what: str, *, libraries: tuple[str, ...] = ("torch",), against: str, tolerance: float = 1e-5
) -> Callable[[Callable[[], float | str]], Callable[[], float | str]]:
    """Add a function as a row of the table."""

    def add(function: Callable[[], float | str]) -> Callable[[], float | str]:
        _ROWS.append(Row(kind, what, libraries, against, tolerance, function))
        return function

    return add


def is_installed(name: str) -> bool:
    """Return whether a distribution is installed."""
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def rows() -> Iterator[Row]:
    """Return all rows, by kind; each module of the package adds its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.iter_modules(package.__path__):
            if module.name not in ("table", "__main__"):
                importlib.import_module(f"{package.__name__}.{module.name}")
    kinds = list(dict.fromkeys(row.kind for row in _ROWS))
    yield from sorted(_ROWS, key=lambda row: kinds.index(row.kind))
