"""Evidence on a random walk against a dense solution, and what must hold of it."""

import numpy as np
import pytest

from tests.helpers.errors import raises
from tests.models.toys import scope_of
from tests.oracles import random_walk as slow
from tests.oracles.activations import activations
from vitscope.errors import UsageError
from vitscope.methods import random_walk as module

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


def dense(scope, layer=-1, at="norm", **options):
    z, gradient = activations(scope, PHOTO, 2, layer, at)
    flat = (x.reshape(-1, x.shape[-1]) for x in (z, gradient))
    return slow.evidence(*flat, scope.explain(PHOTO, method="rollout").layout.grid, **options)


def explained(scope, **options):
    return scope.explain(PHOTO, method="evidence-walk", target=2, **options)


@pytest.mark.spread
@pytest.mark.parametrize("entries", [1, 7 * 16, 2**21])
@pytest.mark.parametrize("row", ["vit", "deit-teacher"])
def test_it_is_the_dense_solution(row, entries, monkeypatch):
    """With the affinity made one row, seven rows, and all rows at a time."""
    monkeypatch.setattr(module, "_ENTRIES", entries)
    scope = scope_of(row)
    e, wanted = explained(scope), dense(scope)
    np.testing.assert_allclose(e.map.ravel(), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert np.abs(wanted).max() > 0
    assert not e.prefix.any()
    assert "activations taken at the first norm of block 2" in e.provenance["notes"]


@pytest.mark.spread
@pytest.mark.parametrize(
    "given",
    [{"layer": 0}, {"layer": 1, "at": "input"}, {"restart": 0.4, "temperature": 0.5}, {"sigma": 0.0}, {"sigma": 0.4}],
    ids=str,
)
def test_its_options(given):
    scope = scope_of()
    wanted = dense(scope, **given)
    np.testing.assert_allclose(explained(scope, **given).map.ravel(), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_a_class_and_its_opposite_are_mirrored():
    """Evidence keeps both signs: what speaks for a score speaks against its negative."""
    scope = scope_of()
    up, down = (
        scope.explain(PHOTO, method="evidence-walk", target=lambda logits, sign=sign: sign * logits[:, 2]).map
        for sign in (1, -1)
    )
    np.testing.assert_allclose(up, -down, rtol=0, atol=1e-6 * np.abs(up).max())
    assert abs(up.mean()) < 1e-6 * np.abs(up).max()
    assert up.min() < 0 < up.max()


def test_what_stands_in_the_way_is_said():
    scope = scope_of()
    for bad in ({"restart": 0.0}, {"temperature": 0.0}):
        with raises(UsageError, "methods.bad-walk"):
            explained(scope, **bad)
    for sigma in (-0.01, 1.5):
        with raises(UsageError, "methods.bad-sigma"):
            explained(scope, sigma=sigma)
    with raises(UsageError, "methods.no-patch-gradient"):
        explained(scope, at="output")
