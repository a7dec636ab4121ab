"""Where the values of a command's options were written, if not on the command line: in a variable or in the file."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vitscope._messages import msg
from vitscope._numbers import number
from vitscope.cli.defaults import FILE
from vitscope.errors import UsageError, VitscopeError


@dataclass(frozen=True)
class Origin:
    """One value that was not written on the command line.

    Attributes:
        flags: what the option is called on the command line, such as `--out` and `-o`.
        place: where the value was written, such as `VITSCOPE_EXPLAIN_SIZE` or `size in vitscope.toml`.
        values: the value as text; several where the option may be repeated.
    """

    flags: tuple[str, ...]
    place: str
    values: tuple[str, ...]


_origins: list[Origin] = []


def remember_origins(context: Any, parameters: Iterable[Any]) -> None:
    """Keep where the values of the command that runs were written; forget those of an earlier command."""
    _origins.clear()
    _origins.extend(found for one in parameters if (found := _origin(context, one)) is not None)


def _origin(context: Any, parameter: Any) -> Origin | None:
    source = context.get_parameter_source(parameter.name)
    flags = tuple(flag for flag in parameter.opts if flag.startswith("-"))
    if getattr(source, "name", "") == "ENVIRONMENT":
        own = [parameter.envvar] if isinstance(parameter.envvar, str) else [*(parameter.envvar or ())]
        automatic = f"{context.auto_envvar_prefix}_{parameter.name.upper()}"
        place = next((name for name in [*own, automatic] if os.environ.get(name)), automatic)
        return Origin(flags, place, (os.environ.get(place, ""),))
    if getattr(source, "name", "") == "DEFAULT_MAP":
        value = context.lookup_default(parameter.name)
        option = max(parameter.opts, key=len).lstrip("-")
        place = msg("cli.option-of-file", "{option} in {file}", option=option, file=FILE)
        return Origin(flags, place, tuple(map(str, value)) if isinstance(value, list) else (str(value),))
    return None


def locate(error: VitscopeError, message: str, hint: str) -> tuple[str, str]:
    """Return message and hint of an error with the places of the values that it is about.

    A flag in the message that nobody typed becomes the place of its value; of a value in the message the hint says
    where it was written.
    """
    for origin in _origins:
        if origin.place in message or origin.place in hint:  # `VITSCOPE_MODEL` is named by those who read it
            continue
        flags = "|".join(map(re.escape, origin.flags))
        named = re.compile(rf"(?<![\w-])('?)(?:{flags})\1(?: / ('?)(?:{flags})\2)*(?![\w-])") if flags else None
        replaced = named.sub(lambda _, place=origin.place: place, message) if named else message  # type: ignore[misc]
        told = any(value in replaced for value in origin.values)
        if (replaced == message and _is_about(error, message, origin)) or (replaced != message and not told):
            values = ", ".join(map(repr, origin.values))
            said = msg("cli.value-from.hint", "{place} is {values}", place=origin.place, values=values)
            hint = f"{hint}; {said}" if hint else said
        message = replaced
    return message, hint


def _is_about(error: VitscopeError, message: str, origin: Origin) -> bool:
    """Return whether a message has a value in it: the whole one as a word, or an item of a list in quotes."""
    for value in origin.values:
        if number(value) is not None and not isinstance(error, UsageError):
            continue  # by chance
        if value and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", message):
            return True
        if any(part and f"'{part}'" in message for part in re.split(r"[,:=\s]+", value)):
            return True
    return False
