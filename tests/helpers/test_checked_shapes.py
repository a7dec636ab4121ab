"""Written shapes are executed while the tests run: a wrong one is an error in whichever module states it."""

import importlib
import inspect
import random

import jaxtyping
import numpy as np
import pytest
from beartype import beartype
from beartype.roar import BeartypeCallHintParamViolation

from tests.helpers.checked_shapes import modules_with_shapes
from vitscope.metrics.localisation import pointing


def test_every_module_that_states_shapes_is_wrapped():
    for name in modules_with_shapes():
        module = importlib.import_module(name)
        own = [value for value in vars(module).values() if inspect.isfunction(value) and value.__module__ == name]
        assert not own or any(hasattr(value, "__wrapped__") for value in own), name


@pytest.mark.parametrize("number", [0, 1])
def test_of_several_parameters_the_first_has_annotations_executed(number):
    assert jaxtyping.config.jaxtyping_disable == (number > 0)


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_is_slow_has_annotations_executed(number):
    assert not jaxtyping.config.jaxtyping_disable


def test_a_wrong_shape_is_refused():
    with pytest.raises(jaxtyping.TypeCheckError):
        pointing(np.zeros((2, 3), np.float32), np.zeros((3, 2), bool))


def test_checks_draw_no_random_numbers():
    """A model that seems to draw some is run eight times as often when it is loaded."""

    @beartype
    def first(numbers: list[int]) -> int:
        return numbers[0]

    before = random.getstate()
    assert first([3, 4, 5]) == 3
    assert random.getstate() == before
    with pytest.raises(BeartypeCallHintParamViolation):
        first(["3"])
