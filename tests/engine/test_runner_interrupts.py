"""Ctrl-C between any two lines: the model, this thread's torch and the process are left as they were."""

import pytest

from tests.helpers.interrupts import WORKS, check
from vitscope.attention.changes import Changes, restoring

pytestmark = [
    pytest.mark.usefixtures("as_shipped"),
    # an exception in a generator that is being closed reaches nobody
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
FEW, SOME, MANY = 6, 40, 100  # `make soak` goes on to many more
FAST = ("gradcam", "attnlrp", "capture", "without")


@pytest.mark.parametrize("work", FAST)
def test_an_interrupt_at_some_places_leaves_everything_as_it_was(work):
    interrupts, left = check("transformers", work, FEW)
    assert interrupts > FEW / 2
    assert left == {}


@pytest.mark.slow
@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("family", ["generic", "timm", "transformers"])
def test_an_interrupt_at_many_places_leaves_everything_as_it_was(family, work):
    assert check(family, work, FEW if work == "calibrate" else MANY)[1] == {}  # which takes seconds each time


@pytest.mark.slow
@pytest.mark.parametrize("work", ["gradcam", "logit-lens", "sanity", "capture"])
def test_an_interrupt_in_torch_and_python_itself_leaves_everything_as_it_was(work):
    # torch takes a mode off its stack in a Python generator, and an interrupt in there brings it back much later
    assert check("generic", work, SOME, "", ["function modes"])[1] == {}


def test_an_interrupt_while_changes_are_undone_leaves_them_to_the_next_try():
    asked, left = [], {"hook"}

    def undo():
        asked.append(len(asked))
        if len(asked) == 1:
            raise KeyboardInterrupt
        left.discard("hook")

    @restoring
    def run():
        Changes().__enter__().on_exit(undo)  # whose `with` an interrupt kept from ending

    with pytest.raises(KeyboardInterrupt):
        run()
    assert (asked, left) == ([0, 1], set())
