"""Whose error it was: a rule's failure becomes a LayoutError, an error of the model's own code stays as it is."""

import pytest
import torch
from torch import nn

from tests.helpers.errors import raises
from vitscope.errors import LayoutError
from vitscope.tracing import averaged
from vitscope.tracing.averaged import run_averaged
from vitscope.tracing.token_tensor import BackwardPlan


class Model(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.layer, self.own = nn.Linear(4, 4), forward

    def forward(self, pixels):
        return self.own(self, pixels)


def run(forward):
    model = Model(forward)
    return run_averaged(model, model, torch.zeros(4, 3, 4, 4), BackwardPlan(), frozenset())


def raising(filename):
    """A forward that raises by itself, compiled as if it stood in that file."""
    names = {}
    source = "def forward(model, pixels):\n    model.layer(pixels)\n    raise RuntimeError('its own')\n"
    exec(compile(source, filename, "exec"), names)
    return names["forward"]


@pytest.mark.parametrize("filename", ["model.py", "tracing/rules.py", averaged.__file__])
def test_an_error_of_the_models_own_code_stays_as_it_is(filename):
    with pytest.raises(RuntimeError, match="its own"):
        run(raising(filename))


def test_an_error_that_the_model_handles_is_no_failure():
    def forward(model, pixels):
        try:
            pixels.reshape(5)
        except RuntimeError:
            raise ValueError("its own, in place of torch's") from None

    with pytest.raises(ValueError, match="its own, in place"):
        run(forward)


@pytest.mark.parametrize("kind", [RuntimeError, TypeError, IndexError, ValueError, AttributeError])
def test_a_rule_that_fails_is_a_layout_error_that_names_the_model(monkeypatch, kind):
    def fails(*_):
        raise kind("in the rule")

    monkeypatch.setattr(averaged, "mean_along", fails)
    with raises(LayoutError, "tracing.not-followed", hint="tracing.use-capture.hint") as caught:
        run(lambda model, pixels: model.layer(pixels))
    assert caught.value.message.params == {"model": "Model", "reason": "in the rule"}
    assert isinstance(caught.value.__cause__, kind)


def test_a_function_without_a_rule_is_refused_by_name():
    with raises(LayoutError, "tracing.unsupported-function") as caught:
        run(lambda model, pixels: torch.fft.fft(pixels))
    assert caught.value.message.params["function"] == "fft_fft"
