"""The caller's defaults of new tensors change no map: another dtype, another device (`meta` holds no numbers)."""

import numpy as np
import pytest
import torch

import vitscope
from tests.engine.toys_families import PHOTOS, make

METHODS = ("rollout", "relevance", "gradcam", "token-removal", "legrad", "rise", "input-x-gradient", "smoothgrad")


@pytest.fixture(params=[torch.bfloat16, torch.float64, "meta"], ids=str)
def defaults(request):
    """A function that sets other defaults; they are set back after the test."""
    before = torch.get_default_dtype()
    change = torch.set_default_device if request.param == "meta" else torch.set_default_dtype
    yield lambda: change(request.param)
    torch.set_default_device(None)
    torch.set_default_dtype(before)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["transformers", "timm", "generic"])
def test_maps_are_those_of_torchs_own_defaults(family, defaults):
    model = make(family).eval()
    scope = vitscope.load(model)
    names = [name for name in METHODS if scope.supports(name)]
    expected = [scope.explain(PHOTOS[0], method=name, target=1).map for name in names]
    defaults()
    other = vitscope.load(model)
    assert torch.equal(other.prepare(PHOTOS[0]).pixels, scope.prepare(PHOTOS[0]).pixels)
    for name, right in zip(names, expected, strict=True):
        found = other.explain(PHOTOS[0], method=name, target=1).map
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6 * np.abs(right).max())


def test_the_callers_defaults_stay(defaults):
    model = make("timm").eval()
    defaults()
    before = torch.get_default_dtype(), torch.get_default_device()
    vitscope.load(model).explain(PHOTOS[0], method="rollout")
    assert (torch.get_default_dtype(), torch.get_default_device()) == before
