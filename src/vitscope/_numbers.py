"""Numbers that people write: one reading of them for targets, options, layers and flags."""

import re
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from numbers import Integral, Real
from typing import Any

_WHOLE = re.compile(r"[+-]?[0-9]+")  # not what str.isdigit takes for one: "²", "٣" and "--5" are no numbers
_MOST_DIGITS = 18


def whole_number(text: str) -> int | None:
    """Return the whole number that a text is in ASCII digits with at most one sign, or None."""
    text = text.strip()
    return int(text) if _WHOLE.fullmatch(text) and len(text) <= _MOST_DIGITS else None


def number(text: str) -> int | float | None:
    """Return the whole or decimal number that a text is, such as `12`, `0.3` or `1e-5`, or None; NaN is none."""
    if (whole := whole_number(text)) is not None:
        return whole
    try:
        found = float(text) if text.isascii() and "_" not in text else None
    except ValueError:
        return None
    return found if found is not None and abs(found) < float("inf") else None


def is_whole(value: object, low: float = -(10**18), high: float = 10**18) -> bool:
    """Return whether a value is an integer of Python or numpy in a range, and no boolean."""
    return not isinstance(value, bool) and isinstance(value, Integral) and low <= int(value) <= high


def is_real(value: object, low: float = -1e300, high: float = 1e300) -> bool:
    """Return whether a value is a number of Python or numpy in a range, and no boolean; NaN is in none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return low <= (int(value) if isinstance(value, Integral) else float(value)) <= high


def items_of(value: Any, fits: Callable[[Any], bool], count: int | None = None) -> tuple[Any, ...] | None:
    """Return the items of a sequence that each fit, so many of them where a count is given; else None."""
    with suppress(TypeError):  # a number, or an array of no axes
        items = () if isinstance(value, (str, bytes, Mapping, Set)) else tuple(value)
        if all(map(fits, items)) and len(items) == (len(value) if count is None else count):
            return items
    return None


def is_text(value: object) -> bool:
    """Return whether a value is a text."""
    return isinstance(value, str)
