"""vitscope's tests; importing any of them executes the shapes that vitscope's signatures state."""

from tests.helpers import checked_shapes  # noqa: F401  (before vitscope)
