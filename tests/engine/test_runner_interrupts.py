"""Ctrl-C between any two lines: the model, this thread's torch and the process are left as they were."""

import contextlib
import gc
from functools import partial

import pytest

import vitscope
from tests.engine.toys_families import PHOTOS, make
from tests.helpers.interrupts import IN_PLACE, WORKS, Interrupted, check, check_forked, check_quickly, interrupted
from tests.helpers.model_state import differences, surroundings
from vitscope.attention.changes import _OPEN, Changes, restoring

pytestmark = [
    pytest.mark.usefixtures("as_shipped"),
    # an exception in a generator that is being closed reaches nobody
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
FEW, SOME, MANY = 6, 40, 100  # `make soak` goes on to many more
FAST = ("gradcam", "attnlrp", "capture", "without")


@pytest.fixture(scope="module", autouse=True)
def thawed():
    """What the works froze is collected, or a worker of the tests would keep it all."""
    yield
    gc.unfreeze()
    gc.collect()
    gc.freeze()  # as `tests/conftest.py` has it


@pytest.mark.spread
@pytest.mark.parametrize("work", FAST)
def test_an_interrupt_at_some_places_leaves_everything_as_it_was(work):
    interrupts, left = check("transformers", work, FEW)
    assert interrupts > FEW / 2
    assert left == {}


@pytest.mark.slow
@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("family", ["generic", "timm", "transformers"])
def test_an_interrupt_at_many_places_leaves_everything_as_it_was(family, work):
    count = FEW if work in IN_PLACE else MANY  # which takes seconds each time
    assert check_quickly(family, work, count)[1] == {}


@pytest.mark.slow
@pytest.mark.parametrize("work", ["gradcam", "logit-lens", "sanity", "capture"])
def test_an_interrupt_in_torch_and_python_itself_leaves_everything_as_it_was(work):
    # torch takes a mode off its stack in a Python generator, and an interrupt in there brings it back much later
    assert check("generic", work, SOME, "", ["function modes"])[1] == {}


@pytest.mark.parametrize("attempt", [check, check_forked])
def test_a_change_that_an_interrupt_leaves_is_found(attempt, monkeypatch):
    def careless(scope):
        scope.model.eval()
        assert scope
        scope.model.train()

    monkeypatch.setitem(WORKS, "careless", careless)
    interrupts, left = attempt("generic", "careless", 100, inside=__file__)
    assert interrupts == 4  # the call and three lines
    assert [*left] == [3, 4]
    assert all(name.startswith(("mode ", "attributes ")) for _, names in left.values() for name in names)


@pytest.mark.slow
def test_an_interrupt_at_any_place_of_a_mere_forward_leaves_torch_as_it_was():
    scope = vitscope.load(make("generic"))
    pixels = scope.prepare(PHOTOS[0]).pixels[None]
    run = partial(scope.engine.answer, pixels)
    run()
    before = surroundings()
    for place in range(1, interrupted(run, -1) + 1):
        with contextlib.suppress(Interrupted):
            interrupted(run, place)
        assert differences(before, surroundings()) == [], place


def test_an_interrupt_as_changes_are_entered_leaves_none_open():
    for place in (1, 2, 3, 4):
        _OPEN.set(())  # a capture that another thread ended is among them until the next one begins
        with contextlib.suppress(Interrupted):
            interrupted(Changes().__enter__, place)
            _OPEN.set(())  # it was entered
        assert _OPEN.get() == ()


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError])  # TimeoutError: by a handler of SIGALRM
def test_an_interrupt_while_changes_are_undone_leaves_them_to_the_next_try(error):
    asked, left = [], {"hook"}

    def undo():
        asked.append(len(asked))
        if len(asked) == 1:
            raise error
        left.discard("hook")

    @restoring
    def run():
        Changes().__enter__().on_exit(undo)  # whose `with` an interrupt kept from ending

    with pytest.raises(error):
        run()
    assert (asked, left) == ([0, 1], set())
