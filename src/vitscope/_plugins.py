"""Registries of parts, built in or from other distributions, filled on first use."""

import importlib
import logging
import pkgutil
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from vitscope._messages import Message, join_messages, msg
from vitscope.errors import UnknownNameError, UsageError, first_line

T = TypeVar("T")
log = logging.getLogger(__name__)


class Registry(Generic[T]):
    """Parts by name, found on first use.

    A built-in part registers itself when its module is imported. The modules of the package are imported at the first
    look-up, never before, so that importing vitscope costs nothing and loads no torch. A part of another distribution
    registers itself in the same way: its entry point, in the group of the package's name, is loaded after them. An
    entry point that cannot be loaded is named in a warning, and in the error where its name is looked up; every other
    part works as without it.

    Args:
        kind: what messages call one part, such as `method`.
        package: the package whose modules register built-in parts; also the entry point group of others.
        accepts: whether an object is such a part; others are refused, so that nothing else fails at them.
    """

    def __init__(self, kind: str, package: str, accepts: Callable[[object], bool] = lambda part: True) -> None:
        self.kind, self.package, self._accepts = kind, package, accepts
        self._parts: dict[str, T] = {}
        self._broken: dict[str, Message] = {}
        self._complete = False

    def add(self, name: str, part: T) -> T:
        """Register `part` under `name`; the same definition run again, as after an interrupted import, replaces it.

        Raises:
            UsageError: another part of that name exists, or the part is none of this kind.
        """
        if name in self._parts and not _defined_again(self._parts[name], part):
            raise UsageError(msg("plugins.name-taken", "the {kind} '{name}' exists already", kind=self.kind, name=name))
        if not self._accepts(part):
            raise UsageError(
                msg("plugins.wrong-kind", "'{name}' is no {kind}: {part}", name=name, kind=self.kind, part=repr(part))
            )
        self._parts[name] = part
        return part

    def get(self, name: str) -> T:
        """Return the part called `name`.

        Raises:
            UnknownNameError: no part has that name; with the choices and the nearest spelling.
            UsageError: the plug-in of that name cannot be loaded.
        """
        self._find()
        if isinstance(name, str) and name in self._parts:
            return self._parts[name]
        self.require_intact(name := str(name))
        error = UnknownNameError(self.kind, name, sorted(self._parts))
        error.hint = join_messages("; ", [error.hint, *self._broken.values()])
        raise error

    def require_intact(self, name: str) -> None:
        """Raise a UsageError where the plug-in of that name cannot be loaded."""
        self._find()
        if name in self._broken:
            repair = msg("plugins.broken.hint", "repair or uninstall the package that provides it")
            raise UsageError(self._broken[name], repair)

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
            self._load(entry)
        self._complete = True

    def _load(self, entry: EntryPoint) -> None:
        """Load one entry point, whatever its code does."""
        before = len(self._parts)
        try:
            entry.load()
            if len(self._parts) == before:
                self._require_part_of(entry.module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, and what test runners skip with
            self._broken[entry.name] = msg(
                "plugins.broken",
                "the plug-in '{name}' of {package} cannot be loaded: {error}",
                name=entry.name,
                package=entry.dist.name if entry.dist else entry.value,
                error=f"{type(error).__name__}: {first_line(error)}",
            )
            log.warning("%s", self._broken[entry.name])
            log.debug("the plug-in '%s' failed here", entry.name, exc_info=True)

    def _require_part_of(self, module: str) -> None:
        """Raise where no part is of a module's package, which may have been imported earlier."""
        if module.partition(".")[0] not in map(_package, self._parts.values()):
            raise LookupError(f"it registers no {self.kind}")


def _definition(part: object) -> tuple[str | None, str | None]:
    """Return the module and the name of a part's class or function."""
    function = getattr(part, "run", part)
    return getattr(function, "__module__", None), getattr(function, "__qualname__", None)


def _package(part: object) -> str:
    return (_definition(part)[0] or "").partition(".")[0]


def _defined_again(one: object, other: object) -> bool:
    """Return whether two parts are of the same definition: a class or function of one name in one module."""
    places = [_definition(part) for part in (one, other)]
    return None not in places[0] and places[0] == places[1]
