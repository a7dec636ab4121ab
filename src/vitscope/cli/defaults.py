"""Defaults of the command line, from the file `vitscope.toml` in the current folder."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitscope._documents import DamagedFileError, read_bytes
from vitscope._files import path_exists
from vitscope._messages import msg
from vitscope.errors import UnknownNameError, UsageError, first_line

FILE = Path("vitscope.toml")
_MOST = 1_000_000  # bytes
_NEVER = "trust-remote-code"  # a file in a folder of somebody else's must not run code


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
                found[name][options[option]] = value
    for name, table in document.items():
        if not isinstance(table, dict):
            continue
        if name not in known:
            raise UnknownNameError(msg("cli.command", "command in {file}", file=FILE), name, known)
        for key, value in table.items():
            _check(key, known[name])
            found[name][known[name][_dashed(key)]] = value
    return {name: values for name, values in found.items() if values}


def _options(command: Any) -> dict[str, str]:
    """Return the parameters of a command by option, without dashes."""
    return {
        text.removeprefix("--"): parameter.name
        for parameter in command.params
        for text in parameter.opts
        if text.startswith("--")
    }


def _dashed(key: str) -> str:
    return key.replace("_", "-")


def _check(key: str, options: Mapping[str, str] | set[str]) -> None:
    if _dashed(key) == _NEVER:
        raise UsageError(
            msg("cli.never-a-default", "{file} cannot set {option}", file=FILE, option=_NEVER),
            msg("cli.never-a-default.hint", "give {@trust_remote_code=True} on the command line"),
        )
    if _dashed(key) not in options:
        raise UnknownNameError(msg("cli.option-in", "option in {file}", file=FILE), key, sorted(options))
