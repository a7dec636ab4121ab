"""Where parts plug in: one Registry, filled on first use.

A built-in part registers itself when its module is imported; the modules of the package it lives in are imported at the
first look-up, never before, so that importing vitscope costs nothing and loads no torch. A part from another package
is found through its entry point (groups `vitscope.models`, `vitscope.methods`).
"""

import importlib
import pkgutil
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from vitscope.errors import UnknownNameError, UsageError

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """Parts by name, found on first use.

    Args:
        kind: what one part is called in messages, such as `method`.
        package: the package whose modules register built-in parts; also the entry-point group of others.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._parts: dict[str, T] = {}
        self._complete = False

    def add(self, name: str, part: T) -> T:
        """Register `part` under `name`; a second one of the same name is an error."""
        if name in self._parts:
            raise UsageError(f"there is already a {self.kind} called '{name}'")
        self._parts[name] = part
        return part

    def get(self, name: str) -> T:
        """The part called `name`.

        Raises:
            UnknownNameError: with the choices and the nearest spelling.
        """
        self._find()
        if name not in self._parts:
            raise UnknownNameError(self.kind, name, sorted(self._parts))
        return self._parts[name]

    def __iter__(self) -> Iterator[tuple[str, T]]:
        self._find()
        return iter(sorted(self._parts.items()))

    def _find(self) -> None:
        if self._complete:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        for entry in entry_points(group=self.package):
            entry.load()
        self._complete = True
