"""What can go wrong, as one tree.

VitscopeError
├── UsageError        what was asked for does not exist or does not fit (exit code 2 on the command line)
│   └── UnknownName   a name that is not one of the choices; says the nearest spelling
├── ImageError        a picture that cannot be read or used
├── ModelError        a model that cannot be found, reached or loaded
├── CaptureError      attention that was not seen, or not all of it
├── LayoutError       tokens that cannot be laid on the picture
├── MethodError       a method that does not apply to this model
├── ResultError       a result that cannot be written or read
└── MissingExtra      an optional part that is not installed

Each message says what was seen and what was expected; `hint` says what to do.
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "CaptureError",
    "ImageError",
    "LayoutError",
    "MethodError",
    "MissingExtra",
    "ModelError",
    "ResultError",
    "UnknownName",
    "UsageError",
    "VitscopeError",
]


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


class UnknownName(UsageError):
    """A name that is not one of the choices."""

    def __init__(self, kind: str, name: str, choices: Iterable[str]) -> None:
        self.choices = tuple(choices)
        near = difflib.get_close_matches(name.lower(), [c.lower() for c in self.choices], n=1)
        nearest = next((c for c in self.choices if near and c.lower() == near[0]), None)
        meant = f"did you mean '{nearest}'? " if nearest else ""
        super().__init__(f"no {kind} is called '{name}'", f"{meant}choices: {', '.join(self.choices)}")


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


class MissingExtra(VitscopeError):
    """An optional part that is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed", f"pip install 'vitscope[{extra}]'")
