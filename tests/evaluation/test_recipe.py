"""`Scope.recipe`: every step against the notebook's own lines and the paper's formula on whole matrices in float64."""

import copy

import numpy as np
import pytest
import torch

import vitscope
from tests.models import toys
from tests.oracles import attention as oracles
from vitscope.errors import UnsupportedError, UsageError


@pytest.fixture(scope="module")
def found(tiny_scope, album):
    return tiny_scope.recipe(album[0], measured=False)


@pytest.fixture(scope="module")
def attentions(tiny_scope, album):
    """The library's own eager attention of that photo, (1, H, N, N) for each layer."""
    pixels, _ = tiny_scope.adapter.prepare(tiny_scope.adapter.load(album[0]))
    model = copy.deepcopy(tiny_scope.model)  # the library's recording of outputs leaves hooks for ever
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return list(model(pixel_values=pixels[None], output_attentions=True).attentions)


def test_heads_are_those_of_the_last_layer(found, attentions):
    assert (found.layer, found.pooled, found.heads.shape) == (2, 1, (2, 17, 17))
    np.testing.assert_allclose(found.heads, attentions[-1][0].numpy(), rtol=1e-5, atol=1e-7)


def test_layers_are_multiplied_one_by_one(found, attentions):
    cls = torch.eye(17)[0]
    rolled, copied = found.walks
    assert (rolled.copied, copied.copied) == (False, True)
    for depth in (1, 2, 3):
        wanted = oracles.rollout(attentions[:depth], cls)[0, 1:].reshape(4, 4).numpy()
        np.testing.assert_allclose(rolled.layers[depth - 1], wanted, rtol=1e-5, atol=1e-8)
        wanted = oracles.notebook_recipe(attentions[:depth])[0, 1:].reshape(4, 4).numpy()
        np.testing.assert_allclose(copied.layers[depth - 1], wanted, rtol=1e-5, atol=1e-8)
    for walk in found.walks:
        np.testing.assert_allclose(walk.layers[-1], walk.result.map, rtol=1e-6)


def test_results_are_those_of_explain(found, tiny_scope, album):
    for walk in found.walks:
        e = tiny_scope.explain(album[0], method=walk.result.method)
        np.testing.assert_array_equal(walk.result.map, e.map)
        assert walk.result.predictions == e.predictions
        assert walk.measurement is None


def test_facts_say_what_the_model_is(found):
    assert found.facts["layers, heads"].startswith("3, 2")
    assert found.facts["tokens"].startswith("17: 1 prefix")


def test_another_layer_and_size(tiny_scope, album):
    found = tiny_scope.recipe(album[0], layer=0, measured=False)
    store = tiny_scope.attention(album[0])
    assert found.layer == 0
    np.testing.assert_allclose(found.heads, store[0].rows(slice(None))[0].numpy(), rtol=1e-6)
    with pytest.raises(UsageError, match="7"):
        tiny_scope.recipe(album[0], layer=7, measured=False)


def test_as_published_is_the_copied_recipe_alone(found, tiny_scope, album):
    alone = tiny_scope.recipe(album[0], as_published=True, measured=False)
    assert [walk.copied for walk in alone.walks] == [True]
    np.testing.assert_array_equal(alone.walks[0].layers, found.walks[1].layers)
    assert alone.rank_correlation is None


def test_both_maps_are_measured_as_measure_does(tiny_scope, album):
    seen = []
    found = tiny_scope.recipe(album[0], progress=lambda name, done, total: seen.append((name, done, total)))
    for walk in found.walks:
        e = tiny_scope.explain(album[0], method=walk.result.method)
        wanted = tiny_scope.measure(e, metrics=["deletion", "infidelity"], steps=10, n_squares=16)
        got = {n.name: (n.value, n.random, n.verdict) for n in walk.measurement.numbers}
        assert list(got) == ["deletion", "infidelity"]
        for number in wanted.numbers:
            assert got[number.name][:2] == pytest.approx((number.value, number.random), abs=1e-6)
            assert got[number.name][2] == number.verdict
    assert [one for one in seen if one[0] == "recipe"][-1] == ("recipe", 6, 6)
    assert {name for name, _, _ in seen} == {"recipe", "faithfulness"}


def test_a_model_without_cls_is_refused(album):
    row = next(row for row in toys.ROWS if row.name == "ijepa")
    with pytest.raises(UnsupportedError, match="notebook-recipe"):
        vitscope.load(row.model()).recipe(album[0], measured=False)
