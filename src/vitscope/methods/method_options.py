"""The options of a method: their names, types, defaults and choices, checked without numpy and torch."""

import difflib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from vitscope._layers import check_layers
from vitscope._messages import msg
from vitscope._numbers import is_real, is_whole
from vitscope.errors import UnknownNameError, UsageError

KIND, PACKAGE = msg("methods.method", "method"), "vitscope.methods"  # of the registry of methods
_LAYERS = "LayerSpec"  # as signatures write it; a real one is checked where the layers are known
_MOST, _EXACT = 1_000_000, 2**53


@dataclass(frozen=True)
class Option:
    """One option of a method, as the signature of its function has it.

    Attributes:
        name: its name.
        annotation: its type.
        default: its value where none is given.
        choices: the strings that it takes; empty where it takes any value of its type.
    """

    name: str
    annotation: Any
    default: Any
    choices: tuple[str, ...] = ()

    def check(self, value: Any) -> None:
        """Check that a value fits.

        Raises:
            UnknownNameError: a string that is not one of the choices.
            UsageError: a value of another type than the default.
        """
        numbers = isinstance(self.annotation, str) or int in get_args(self.annotation)
        numbered = numbers and is_whole(value)
        if self.choices and not numbered and not (isinstance(value, str) and value in self.choices):
            raise UnknownNameError(self.name, str(value), self.choices)
        if self.annotation == _LAYERS and isinstance(value, str):
            check_layers(value)
        kind, given = type(self.default), {"option": self.name, "value": repr(value)}
        if self.annotation in (str, "str") and not self.choices and not isinstance(value, str):
            raise UsageError(msg("methods.not-a-text", "{option} is a text, not {value}", **given))
        if kind is bool and not isinstance(value, bool):
            raise UsageError(msg("methods.not-a-boolean", "{option} is true or false, not {value}", **given))
        if kind is float and not is_real(value):
            raise UsageError(msg("methods.not-a-number", "{option} is a number, not {value}", **given))
        if kind is int and not is_whole(value):
            raise UsageError(msg("methods.not-a-whole-number", "{option} is a whole number, not {value}", **given))
        if kind is int and not is_whole(value, -_MOST, _MOST):
            most = f"{_MOST:,}"
            raise UsageError(msg("methods.too-large", "{option} is at most {most}, not {value}", most=most, **given))


def check_options(
    method: str, known: Mapping[str, Option], options: Mapping[str, Any], also: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the full set of a method's options; see `Method.check`."""
    numpy = sys.modules.get("numpy")  # not imported: it takes longer than all of this
    given = {
        name: value.item() if numpy and isinstance(value, numpy.generic) else value for name, value in options.items()
    }
    for name, value in given.items():
        if name not in known:
            general = tuple(also)
            if set(difflib.get_close_matches(str(name).lower(), [*general, *known], n=1)) & set(general):
                raise UnknownNameError(msg("methods.any-option", "option"), str(name), general)
            of_method = msg("methods.option-of", "option of the method '{method}'", method=method)
            raise UnknownNameError(of_method, str(name), known)
        known[name].check(value)
        if type(known[name].default) is float and abs(value) > _EXACT:  # tensors take no such integers
            given[name] = float(value)
    return {name: option.default for name, option in known.items()} | given
