"""Defaults of the command line, from the file `vitscope.toml` in the current folder."""

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vitscope._documents import DamagedFileError, read_bytes
from vitscope._files import path_exists
from vitscope._messages import msg
from vitscope.errors import UnknownNameError, UsageError, first_line

FILE = Path("vitscope.toml")
_MOST = 1_000_000  # bytes
_NEVER = "trust-remote-code"  # a file in a folder of somebody else's must not run code
_PREFIX = "VITSCOPE_"
_VARIABLES = tuple(f"{_PREFIX}{name}" for name in ("MODEL", "CACHE", "OFFLINE", "WHEEL", "TOKEN"))
_NEAR = 0.85  # of a slip: other programs may have variables of this prefix, which concern nobody here


def read_defaults(commands: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the values that the file gives to options, by command and parameter; none where there is no file.

    A key is an option without its dashes: in the table of a command, or above all tables for every command that has it.

    Args:
        commands: click's commands by name.

    Raises:
        UsageError: a file that is not TOML, an option or command that does not exist, or `trust-remote-code`.
    """
    if not path_exists(FILE):
        return {}
    try:
        document = tomllib.loads(read_bytes(FILE, most=_MOST).decode())
    except (ValueError, RecursionError, DamagedFileError) as error:  # a pipe or a device is not waited for
        raise UsageError(
            msg("cli.bad-defaults", "{file} cannot be read: {reason}", file=FILE, reason=first_line(error)),
            msg("cli.bad-defaults.hint", "write lines such as size = 224, or delete the file"),
        ) from None
    known = {name: _options(command) for name, command in commands.items()}
    every = {option for options in known.values() for option in options}
    found: dict[str, dict[str, Any]] = {name: {} for name in known}
    shared = {key: value for key, value in document.items() if not isinstance(value, dict)}
    for key, value in shared.items():
        _check(key, every)
        for name, options in known.items():
            if (option := _dashed(key)) in options:
                found[name][options[option].name] = _checked(key, value, options[option])
    for name, table in document.items():
        if not isinstance(table, dict):
            continue
        if name not in known:
            raise UnknownNameError(msg("cli.command", "command in {file}", file=FILE), name, known)
        for key, value in table.items():
            _check(key, known[name])
            parameter = known[name][_dashed(key)]
            found[name][parameter.name] = _checked(key, value, parameter)
    return {name: values for name, values in found.items() if values}


def unknown_variables(commands: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each variable of the environment that looks like one of vitscope's and is none, and what was meant.

    Args:
        commands: click's commands by name.
    """
    given = [name for name in os.environ if name.startswith(_PREFIX) and name not in _VARIABLES]
    if not given:
        return
    known = {
        f"{_PREFIX}{command}_{parameter.name}".replace("-", "_").upper()
        for command, of in commands.items()
        for parameter in of.params
    } | {*_VARIABLES}
    for name in sorted({*given} - known):
        if near := difflib.get_close_matches(name, sorted(known), n=1, cutoff=_NEAR):
            yield name, near[0]


def _checked(key: str, value: Any, parameter: Any) -> Any:
    """Return the value of an option as click takes it: a list where the option may be repeated, else none."""
    if getattr(parameter, "multiple", False):
        return value if isinstance(value, list) else [value]
    if isinstance(value, list):
        raise UsageError(
            msg("cli.list-in-defaults", "{key} in {file} is one value, not a list", key=key, file=FILE),
            msg("cli.list-in-defaults.commas-hint", "several go in one text, with commas between them")
            if "," in (parameter.metavar or "")
            else msg("cli.list-in-defaults.hint", "write it without brackets"),
        )
    return value


def _options(command: Any) -> dict[str, Any]:
    """Return the parameters of a command by option, without dashes."""
    return {
        text.removeprefix("--"): parameter
        for parameter in command.params
        for text in parameter.opts
        if text.startswith("--")
    }


def _dashed(key: str) -> str:
    return key.replace("_", "-")


def _check(key: str, options: Mapping[str, Any] | set[str]) -> None:
    if _dashed(key) == _NEVER:
        raise UsageError(
            msg("cli.never-a-default", "{file} cannot set {option}", file=FILE, option=_NEVER),
            msg("cli.never-a-default.hint", "give {@trust_remote_code=True} on the command line"),
        )
    if _dashed(key) not in options:
        raise UnknownNameError(msg("cli.option-in", "option in {file}", file=FILE), key, sorted(options))
