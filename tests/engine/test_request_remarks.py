"""Maps that say nothing are said to: flat to the precision of floats, or zero."""

import numpy as np
import pytest
import torch

import vitscope
from tests.models.sabotaged import Tiny
from tests.models.traced_row import as_it_is

CODES = {"render.flat", "render.zero"}


def made(query: float) -> Tiny:
    torch.manual_seed(0)
    model = Tiny(pool="mean").eval()
    with torch.no_grad():
        for layer in model.qkv:
            layer.weight[:32].mul_(query)
            layer.bias[:32].zero_()
    return model


def notes(explanation: vitscope.Explanation) -> set[str]:
    return {note.code for note in explanation.provenance["notes"]} & CODES


@pytest.mark.parametrize(("query", "said"), [(0.0, {"render.flat"}), (1.0, set())])
def test_a_map_that_is_even_to_the_last_bits_is_said_to_be_flat(query, said):
    model = made(query)
    scope = vitscope.load(model, processor=as_it_is(model.size))
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    e = scope.explain(image, method="rollout")
    assert notes(e) == said
    assert (np.ptp(e.map) < 1e-6) == bool(said)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert all(
        bool({n.code for n in each} & CODES) == bool(said) for each in scope.attribute(pixels, method="rollout").notes
    )


def test_a_map_of_zeros_is_said_to_be():
    """The head was set to zero, so that no pixel changes the score."""
    model = made(1.0)
    scope = vitscope.load(model, processor=as_it_is(model.size))
    with torch.no_grad():
        model.head.weight.zero_()
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    e = scope.explain(image, method="input-x-gradient", target=0)
    assert notes(e) == {"render.zero"}
    assert not e.map.any()
