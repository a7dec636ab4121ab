"""Properties that are computed once: one thread that computes it stands in nobody's way."""

import ast
import threading
from pathlib import Path

import vitscope
from vitscope._cached import cached_property


class Slow:
    computed = 0

    def __init__(self, work=lambda: None):
        self.work = work

    @cached_property
    def value(self):
        """Say what it is."""
        self.computed += 1
        self.work()
        return self.computed


def test_it_is_computed_once_and_again_where_it_was_removed():
    one = Slow()
    assert (one.value, one.value, one.computed) == (1, 1, 1)
    del one.value
    assert one.value == 2
    assert Slow.value.__doc__ == "Say what it is."


def test_another_object_of_the_class_does_not_wait():
    begun, end, found = threading.Event(), threading.Event(), []
    slow = threading.Thread(target=lambda: Slow(lambda: (begun.set(), end.wait(20))).value)
    other = threading.Thread(target=lambda: found.append(Slow().value), daemon=True)
    slow.start()
    assert begun.wait(20)
    other.start()
    other.join(5)
    end.set()
    slow.join(20)
    assert found == [1]


def test_no_other_is_used():
    for path in Path(vitscope.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "functools":
                assert "cached_property" not in {alias.name for alias in node.names}, path
