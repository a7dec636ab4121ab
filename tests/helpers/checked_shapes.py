"""On import: every vitscope module that writes shapes down has its annotations executed, for as long as the tests run.

Only those: a wrapper around each call of every function doubled what the tests cost, and mypy reads the other modules.
And not always, as they are a fifth of what is left: `leave_repeats_unchecked` says when.
Imported before vitscope is, by `conftest.py`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jaxtyping
import pytest

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


jaxtyping.install_import_hook(modules_with_shapes(), "beartype.beartype")
