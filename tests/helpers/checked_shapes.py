"""On import: every vitscope module that writes shapes down has its annotations executed, for as long as the tests run.

Only those: a wrapper around each call of every function doubled what tests cost, and mypy reads the other modules.
And not always, as they are a fifth of what is left: `leave_repeats_unchecked` says when. A function gets its checks
when it is first called: most never are while a file is tested, and the checks of a function take 1 ms to make.
Imported before vitscope is, by `conftest.py`.
"""

import dataclasses
import inspect
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from types import CodeType
from typing import Any, get_args, get_type_hints

import jaxtyping
import pytest

with pytest.MonkeyPatch.context() as patched:  # it draws which item of a list it looks at: not from everybody's numbers
    patched.setattr(random, "getrandbits", random.Random(0).getrandbits)
    from beartype import beartype

UNCHECKED = pytest.StashKey[bool]()
SOURCE = Path(__file__).parents[2] / "src"


def modules_with_shapes() -> list[str]:
    """The dotted names of vitscope's modules that import jaxtyping."""
    files = [path for path in (SOURCE / "vitscope").rglob("*.py") if "jaxtyping" in path.read_text("utf-8")]
    return sorted(".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__") for path in files)


def leave_repeats_unchecked(items: Iterable[pytest.Item]) -> None:
    """Of several parameters, `make test` executes annotations for the first alone, and in tests of pages never."""
    seen = set()
    for item in items:
        if item.get_closest_marker("slow"):
            continue  # `make test-all` executes all
        test = item.nodeid.partition("[")[0]
        item.stash[UNCHECKED] = test in seen or "/web/" in test or "/test_page" in test
        seen.add(test)


@contextmanager
def unchecked() -> Iterator[None]:
    """Call functions as users do: annotations say something and are not executed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield


def checked(function: Any = None, *, typechecker: Any) -> Any:
    """Decorate a function as `jaxtyping.jaxtyped` does, or a class's `__init__` if it is a dataclass.

    The checks are those of jaxtyping where the annotations hold a shape, and beartype's own where not. A function
    within a function is made anew in each call of that: it has checks only where it states shapes.
    """
    if function is None:
        return partial(checked, typechecker=typechecker)
    if inspect.isclass(function):
        if dataclasses.is_dataclass(function) and "__init__" in vars(function):
            function.__init__ = checked(function.__init__, typechecker=typechecker)
        return function
    inner, strict = "<locals>" in function.__qualname__, None

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal strict
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if strict is None:
            if states_shapes(function) or (not inner and inspect.isgeneratorfunction(function)):
                strict = JAXTYPED(function, typechecker=typechecker)
            else:
                strict = function if inner else beartype(function)
        return strict(*args, **kwargs)

    return run


def states_shapes(function: Callable[..., Any]) -> bool:
    """Whether an annotation of a function holds an array's shape."""
    if (code := function.__code__) not in STATING:
        try:
            hints = list(get_type_hints(function).values())
        except Exception:  # of names imported for type checkers alone: jaxtyping leaves them out, where beartype fails
            hints = [jaxtyping.AbstractArray]
        for hint in hints:
            hints.extend(get_args(hint))
        STATING[code] = any(inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray) for hint in hints)
    return STATING[code]


STATING: dict[CodeType, bool] = {}
JAXTYPED = jaxtyping.jaxtyped
jaxtyping.jaxtyped = checked  # the decorator that the hook writes above each function
jaxtyping.install_import_hook(modules_with_shapes(), "beartype.beartype")
