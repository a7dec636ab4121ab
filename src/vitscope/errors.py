"""What can go wrong, as one tree.

VitscopeError
├── UsageError        what was asked for does not exist or does not fit (exit code 2 on the command line)
│   └── UnknownNameError   a name that is not one of the choices; says the nearest spelling
├── ImageError        a picture that cannot be read or used
├── ModelError        a model that cannot be found, reached or loaded
├── CaptureError      attention that was not seen, or not all of it
├── LayoutError       tokens that cannot be laid on the picture
├── MethodError       a method that does not apply to this model
├── ResultError       a result that cannot be written or read
└── MissingDependencyError      an optional part that is not installed

Each message says what was seen and what was expected; `hint` says what to do.
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "CaptureError",
    "ImageError",
    "LayoutError",
    "MethodError",
    "MissingDependencyError",
    "ModelError",
    "ResultError",
    "UnknownNameError",
    "UsageError",
    "VitscopeError",
    "first_line",
]

_LISTED, _SHOWN = 60, 8  # up to so many choices are listed; else so many of them


class VitscopeError(Exception):
    """The root: catch it to catch every error that vitscope raises on purpose.

    Args:
        message: what was seen and what was expected, in one line.
        hint: what to do about it, in one line.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = " ".join(message.split())
        self.hint = " ".join(hint.split())

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(VitscopeError):
    """What was asked for does not exist or does not fit."""


class UnknownNameError(UsageError):
    """A name that is not one of the choices.

    Args:
        kind: what the name is of; name: what was written.
        choices: what there is; of many only the first are listed.
        spellings: other names of the choices, among which the nearest is looked for too.
    """

    def __init__(self, kind: str, name: str, choices: Iterable[str], spellings: Iterable[str] = ()) -> None:
        self.choices = tuple(choices)
        known = {spelling.lower(): spelling for spelling in (*spellings, *self.choices)}
        near = difflib.get_close_matches(name.lower(), known, n=1)
        meant = f"did you mean '{known[near[0]]}'? " if near else ""
        many = len(self.choices) > _LISTED
        listed = (*self.choices[:_SHOWN], f"... {len(self.choices):,} in all") if many else self.choices
        super().__init__(f"no {kind} is called '{name}'", f"{meant}choices: {', '.join(listed)}")


class ImageError(VitscopeError):
    """A picture that cannot be read or used."""


class ModelError(VitscopeError):
    """A model that cannot be found, reached or loaded."""


class CaptureError(VitscopeError):
    """Attention that was not seen, or not all of it."""


class LayoutError(VitscopeError):
    """Tokens that cannot be laid on the picture."""


class MethodError(VitscopeError):
    """A method that does not apply to this model."""


class ResultError(VitscopeError):
    """A result that cannot be written or read."""


class MissingDependencyError(VitscopeError):
    """An optional part that is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed", f"pip install 'vitscope[{extra}]'")


def first_line(error: BaseException) -> str:
    """Of an error's words the first line that says something; the error's kind where none does."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
