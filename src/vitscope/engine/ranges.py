"""The kinds and ranges of options that can be checked without torch and numpy, and what becomes of an input size."""

import inspect
from collections.abc import Callable
from functools import wraps
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, get_args, get_origin

from vitscope._messages import Message, msg
from vitscope._numbers import is_real, is_whole
from vitscope.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from vitscope.geometry import ImageRegion

P = ParamSpec("P")
R = TypeVar("R")

_LARGEST_SEED = 1 << 62
MOST = 1_000_000  # of images, maps, samples: a number beyond it is a slip


def check_size(size: Any) -> None:
    """Raise a UsageError for an input size that is neither None nor an integer between 16 and 8192."""
    if size is not None and not is_whole(size, 16, 8192):
        raise UsageError(
            msg("engine.size", "{@size} is an integer between 16 and 8192 pixels, not {size}", size=repr(size))
        )


def check_batch_size(images: Any) -> None:
    """Raise a UsageError for a number of images in one forward that is no integer between 1 and a million."""
    if not is_whole(images, 1, MOST):
        raise UsageError.coded(
            "engine.batch-size",
            "{@batch_size} is an integer between 1 and {most}, not {batch_size}",
            most=f"{MOST:,}",
            batch_size=repr(images),
        )


def check_seed(seed: Any) -> None:
    """Raise a UsageError for a seed that is no integer between 0 and 2^62."""
    if not is_whole(seed, 0, _LARGEST_SEED):
        raise UsageError(msg("engine.seed", "{@seed} is an integer from 0 to 2^62, not {seed}", seed=repr(seed)))


def rounded_size(size: int, region: "ImageRegion", grid: tuple[int, int]) -> Message | None:
    """Return the note for an input size that whole patches do not fill; None where the input is as asked.

    Args:
        size: as asked: about `size ** 2` pixels in the image's own shape.
        region: what the pixels show of the image.
        grid: rows and columns of patches.
    """
    stretch = (region.size[1] / region.size[0]) ** 0.5
    wanted = (size * stretch, size / stretch)
    cells = [side // count for side, count in zip(region.input, grid, strict=True)]
    if all(
        size % cell == 0 and abs(side - ideal) <= cell
        for cell, side, ideal in zip(cells, region.input, wanted, strict=True)
    ):
        return None
    return msg(
        "engine.size-rounded",
        "{@size={size}} is not filled by whole patches: the input has {height} x {width} pixels",
        size=size,
        height=region.input[0],
        width=region.input[1],
    )


def names_of(names: Any) -> tuple[Any, ...]:
    """Return several names, or a single one, whatever it is, as a tuple."""
    try:
        return (names,) if isinstance(names, str) else tuple(names)
    except TypeError:
        return (names,)


def checked(**ranges: tuple[float, float]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Check arguments by their annotations before a function runs: numbers, truth values and choices of strings.

    `int`, `float`, `bool`, a Literal, and any of these or None are checked; other annotations are not. Numbers of numpy
    become those of Python.

    Args:
        ranges: the least and the largest value of a parameter, by its name.

    Raises:
        UsageError, UnknownNameError: by the function that is returned.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        kinds = {name: _parts(parameter.annotation) for name, parameter in signature.parameters.items()}
        keywords = [name for name, one in signature.parameters.items() if one.default is not one.empty]
        open_ended = any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values())

        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            if foreign := [name for name in kwargs if name not in kinds and not open_ended]:
                from vitscope.models.options import refuse_load_options

                refuse_load_options(foreign)
                kind = msg("engine.option-of-call", "option of {call}", call=function.__name__)
                raise UnknownNameError(kind, foreign[0], keywords)
            bound = signature.bind(*args, **kwargs)
            for name, value in bound.arguments.items():
                if not (value is None and NoneType in kinds[name]):
                    bound.arguments[name] = _checked(name, value, kinds[name] - {NoneType}, ranges.get(name))
            return function(*bound.args, **bound.kwargs)

        return run

    return decorate


def _parts(annotation: Any) -> set[Any]:
    """Return the types that an annotation admits, a Literal as its values; of what is written as a string, nothing."""
    if isinstance(annotation, UnionType):
        return set().union(*map(_parts, get_args(annotation)))
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    return {object if isinstance(annotation, str) else annotation}


def _checked(name: str, value: Any, kinds: set[Any], ends: tuple[float, float] | None) -> Any:
    """Return an argument as Python has it, or raise an error where it is of another kind."""
    given = {"option": name, "value": repr(value)}
    if name == "size":
        check_size(value)
    elif name == "batch_size":
        check_batch_size(value)
    elif kinds and all(isinstance(kind, str) for kind in kinds):
        if not (isinstance(value, str) and value in kinds):
            raise UnknownNameError(name, str(value), sorted(kinds))
    elif kinds == {bool}:
        if type(value).__name__ not in ("bool", "bool_"):  # numpy's, too
            raise UsageError(msg("engine.not-a-boolean", "{@*option} is true or false, not {value}", **given))
        return bool(value)
    elif kinds and kinds <= {int, float}:
        fits, low, high = is_whole if kinds == {int} else is_real, *(ends or (-1e300, 1e300))
        if not fits(value):
            raise UsageError(
                msg("engine.not-a-whole-number", "{@*option} is a whole number, not {value}", **given)
                if kinds == {int}
                else msg("engine.not-a-number", "{@*option} is a finite number, not {value}", **given)
            )
        value = int(value) if is_whole(value) else float(value)
        if not low <= value <= high:
            span = {"low": f"{low:,}", "high": f"{high:,}"}
            raise UsageError(
                msg("engine.out-of-range", "{@*option} lies between {low} and {high}, not {value}", **given, **span)
            )
    return value
