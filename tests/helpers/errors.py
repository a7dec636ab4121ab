"""Errors asserted by class and code: their words may change."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vitscope.errors import VitscopeError


@contextmanager
def raises(
    kind: type[VitscopeError], code: str, hint: str | None = None
) -> Iterator[pytest.ExceptionInfo[VitscopeError]]:
    """Expect an error of this class with this code; with `hint`, its hint's code as well."""
    with pytest.raises(kind) as caught:
        yield caught
    assert caught.value.code == code, f"{caught.value.code}: {caught.value}"
    if hint is not None:
        assert getattr(caught.value.hint, "code", "") == hint, f"hint: {caught.value.hint!r}"
