"""Interrupts between two lines: a trace function that raises where Python could deliver Ctrl-C."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

OURS = str(Path(__file__).parents[2] / "src" / "vitscope")


class Interrupted(KeyboardInterrupt):
    """Raised by `interrupted`."""


def interrupted(work: Callable[[], object], at: int, inside: str = OURS) -> int:
    """Run a function, and raise at the `at`-th place in the Python files inside a folder, from 1.

    Places are the beginnings of lines and of calls. Returns how many places were passed.

    Raises:
        Interrupted: the place was reached.
    """
    passed = 0

    def local(_frame: Any, event: str, _value: Any) -> Any:
        nonlocal passed
        if event == "line":
            passed += 1
            if passed == at:
                sys.settrace(None)
                raise Interrupted
        return local

    def trace(frame: Any, event: str, _value: Any) -> Any:
        nonlocal passed
        if not frame.f_code.co_filename.startswith(inside):
            return None
        passed += 1
        if passed == at:
            sys.settrace(None)
            raise Interrupted
        return local

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return passed
