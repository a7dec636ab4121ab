"""The errors that vitscope raises on purpose, as one tree, and `Support`, the answer to "is this supported?".

VitscopeError
├── UsageError                a request for something that does not exist or does not fit (exit code 2)
│   └── UnknownNameError      a name that is not one of the choices; suggests the nearest spelling
├── ImageError                an image that cannot be read or used
├── ModelError                a model that cannot be found, reached or loaded
├── CaptureError              attention that was not captured, or not all of it
├── LayoutError               tokens whose positions on the image are not known
├── MethodError               a method that cannot run on this model or input
│   └── UnsupportedError      something that this model does not support
├── OutOfMemoryError          more memory than there is, or than is allowed; the same may succeed elsewhere
├── ResultError               a result that cannot be written or read
└── MissingDependencyError    an optional package that is not installed

Each message says what was found and what was expected; `hint` says what to do. `code` identifies the error for programs
and never changes with the words. Errors can be pickled, so they cross process pools whole.
"""

import difflib
import errno
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, Self

from vitscope._messages import CONTROL, Language, Message, msg, visible

# as numpy, torch on processors and torch on accelerators write it
_NEEDED = re.compile(r"(?i)(?:allocate (?P<number>[\d.]+) (?P<unit>[KMGTPE]iB)|allocate (?P<bytes>\d+) bytes)")
_NOT_LOADED = ("failed to map segment", "cannot allocate memory", "Cannot allocate memory")  # a library, by the loader
_PARAMETER = re.compile(r"[{*](\w+)")  # in a template, within options too
_LISTED, _SHOWN = 60, 8  # up to 60 choices are all listed; of more, the first 8


class VitscopeError(Exception):
    """The root of the tree: catch it to catch every error that vitscope raises on purpose.

    Args:
        message: what was found and what was expected, in one line.
        hint: what to do about it, in one line.
    """

    default_code: ClassVar[str] = "vitscope"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = _one_line(message)
        self.hint = _one_line(hint)

    @classmethod
    def coded(cls, code: str, message: str, hint: str = "", /, **params: object) -> Self:
        """Make the error whose message has a code, and whose hint has that code with `.hint` after it.

        Args:
            code: of the message; see `vitscope._messages`.
            message: what was found and what was expected, in English, with `{name}` for each parameter.
            hint: what to do about it, likewise; a Message stays as it is.
            params: the parameters of both.
        """
        told = hint if isinstance(hint, Message) or not hint else _sentence(f"{code}.hint", hint, params)
        return cls(_sentence(code, message, params), told)

    @property
    def code(self) -> str:
        """The identifier of this error: the code of its message, or of its class where the message has none."""
        return self.message.code if isinstance(self.message, Message) else self.default_code

    def spoken(self, language: Language) -> tuple[str, str]:
        """Return message and hint with options as Python (`size=224`) or the command line (`--size 224`) has them."""
        message, hint = (
            text.spoken(language) if isinstance(text, Message) else text for text in (self.message, self.hint)
        )
        return message, hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, self.__dict__)


def _sentence(code: str, template: str, params: Mapping[str, object]) -> Message:
    """Make the Message of a code with those parameters that its template names; it may be written in several lines."""
    template = re.sub(r"\s*\n\s*", " ", template)
    return Message(code, template, {name: params[name] for name in _PARAMETER.findall(template) if name in params})


def _one_line(text: str) -> str:
    """Return a sentence in one line, the control characters of names and of libraries' reasons as escapes."""
    if not isinstance(text, Message):
        return visible(" ".join(text.split()))
    if not CONTROL.search(text):
        return text
    params = {
        name: _one_line(one) if isinstance(one, Message) else visible(one.rstrip()) if isinstance(one, str) else one
        for name, one in text.params.items()
    }
    return Message(text.code, text.template, params)


def _restored(kind: type[VitscopeError], args: tuple[Any, ...], state: Mapping[str, Any]) -> VitscopeError:
    """Restore a pickled error without running its `__init__`."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class UsageError(VitscopeError):
    """A request for something that does not exist or does not fit."""

    default_code = "usage"


class UnknownNameError(UsageError):
    """A name that is not one of the choices.

    Args:
        kind: the kind of thing that the name should denote.
        name: the name that was given.
        choices: the valid names; of many, only the first are listed.
        spellings: other names of the choices, which may be suggested as well; or which choice each of them means.
    """

    default_code = "unknown-name"

    @classmethod
    def check(cls, kind: str, name: Any, choices: Iterable[str]) -> None:
        """Raise this error where a value is none of the choices, whatever it is."""
        if not (isinstance(name, str) and name in choices):
            raise cls(kind, str(name), choices)

    def __init__(
        self, kind: str, name: str, choices: Iterable[str], spellings: Iterable[str] | Mapping[str, str] | None = ()
    ) -> None:
        self.choices = tuple(choices)
        meant = dict(spellings) if isinstance(spellings, Mapping) else {one: one for one in spellings or ()}
        known = {spelling.lower(): choice for spelling, choice in (meant | {one: one for one in self.choices}).items()}
        near = difflib.get_close_matches(str(name).lower(), known, n=1)
        many = len(self.choices) > _LISTED
        listed = (*self.choices[:_SHOWN], f"... {len(self.choices):,} in all") if many else self.choices
        choices_text = ", ".join(listed)
        super().__init__(
            msg("errors.unknown-name", "no {kind} is called '{name}'", kind=kind, name=name),
            msg(
                "errors.unknown-name.meant",
                "did you mean '{near}'? choices: {choices}",
                near=known[near[0]],
                choices=choices_text,
            )
            if near
            else msg("errors.unknown-name.choices", "choices: {choices}", choices=choices_text),
        )


class ImageError(VitscopeError):
    """An image that cannot be read or used."""

    default_code = "image"


class ModelError(VitscopeError):
    """A model that cannot be found, reached or loaded."""

    default_code = "model"


class CaptureError(VitscopeError):
    """Attention that was not captured, or not all of it."""

    default_code = "capture"


class LayoutError(VitscopeError):
    """Tokens whose positions on the image are not known."""

    default_code = "layout"


class MethodError(VitscopeError):
    """A method that cannot run on this model or input."""

    default_code = "method"


class UnsupportedError(MethodError):
    """Something that this model does not support."""

    default_code = "unsupported"


@dataclass(frozen=True)
class Support:
    """Whether something is supported, and why not.

    Attributes:
        ok: whether it is supported; also the truth value.
        reason: why not, or under which condition, in one line; empty where it is supported without any.
        name: the name of the subject, such as a method's; may be empty.
    """

    ok: bool
    reason: str = ""
    name: str = ""

    def __bool__(self) -> bool:
        return self.ok

    @classmethod
    def no(cls, reason: str, name: str = "") -> "Support":
        """Make the answer no."""
        return cls(False, reason, name)

    def require(self, hint: str = "") -> None:
        """Raise an UnsupportedError with the reason if it is not supported."""
        if not self.ok:
            raise UnsupportedError(self.reason, hint)


YES = Support(True)


class OutOfMemoryError(VitscopeError):
    """More memory than there is, or than is allowed: what was asked for is not wrong, and may succeed elsewhere."""

    default_code = "out-of-memory"

    @classmethod
    def of(cls, error: BaseException, source: str) -> "OutOfMemoryError":
        """Make the error for one that `is_out_of_memory`; `source` is what was being worked on."""
        needed = _NEEDED.search(str(error))
        problem = (
            msg(
                "errors.out-of-memory-for",
                "{source} needs more memory than there is: {needed} more were asked for",
                source=source,
                needed=_bytes(needed),
            )
            if needed
            else msg(
                "errors.out-of-memory", "{source} needs more memory than there is or than is allowed", source=source
            )
        )
        hint = msg(
            "errors.out-of-memory.hint",
            "try again with fewer images at once, a smaller image or {@size}, or where more memory is free",
        )
        return cls(problem, hint)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of Python, numpy, torch or the system's loader says that memory ran out."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text))
        or (isinstance(error, ImportError) and any(words in text for words in _NOT_LOADED))
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    )


def _bytes(needed: re.Match[str]) -> str:
    """Return how much memory an error's text says was asked for, such as 1.5 GiB."""
    if needed["bytes"]:
        return f"{int(needed['bytes']) / 2**30:.3g} GiB"
    return f"{needed['number']} {needed['unit']}"


class ResultError(VitscopeError):
    """A result that cannot be written or read."""

    default_code = "result"


class MissingDependencyError(VitscopeError):
    """An optional package that is not installed.

    Args:
        package: its name.
        extra: the extra of vitscope that installs it.
    """

    default_code = "missing-dependency"

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            msg("errors.missing-dependency", "{package} is not installed", package=package),
            msg("errors.missing-dependency.hint", "pip install 'vitscope[{extra}]'", extra=extra),
        )


def require_package(module: str, package: str = "", *, extra: str) -> None:
    """Raise a MissingDependencyError if a module is not installed.

    Args:
        module: its import name.
        package: the distribution's name, where it differs.
        extra: the extra of vitscope that installs it.
    """
    if find_spec(module) is None:
        raise MissingDependencyError(package or module, extra)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that is not blank; the error's class if there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
