"""One forward for all that reads the same pixels without a gradient."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

import vitscope
from tests.engine.toys_families import PHOTOS, make
from vitscope.engine.inspection import statistics
from vitscope.engine.options import Options
from vitscope.metrics.sanity import randomised_weights

METHODS = ("attention", "rollout")


def test_maps_of_a_shared_forward_are_those_of_their_own(tiny_scope, photo):
    engine, ready = tiny_scope.engine, tiny_scope.prepare(photo)
    other = tiny_scope.prepare(np.zeros((64, 64, 3), np.uint8))
    runs = []
    handle = engine.model.register_forward_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    own = [engine.explain(ready, Options(name))[0].map for name in METHODS]
    statistics(engine, photo, Options("attention"))
    engine.explain(ready, Options("relevance"))
    runs.clear()
    try:
        with engine.shared_forwards():
            shared = [engine.explain(ready, Options(name))[0].map for name in METHODS]
            assert runs == [False]
            statistics(engine, photo, Options("attention"))  # these want the tokens too
            statistics(engine, photo, Options("attention"))
            engine.explain(ready, Options("attention"))
            assert runs == [False, False]
            engine.explain(ready, Options("relevance"))
            engine.explain(other, Options("attention"))
            assert runs == [False, False, True, False]
        engine.explain(other, Options("attention"))
        assert len(runs) == 5
    finally:
        handle.remove()
    for one, two in zip(shared, own, strict=True):
        np.testing.assert_array_equal(one, two)


def test_what_changes_the_model_meanwhile_has_forwards_of_its_own():
    scope = vitscope.load(make("generic"))
    work = partial(scope.explain, PHOTOS[0], method="rollout")
    plain = work().map
    with scope.engine.shared_forwards():
        assert np.array_equal(work().map, plain)
        with randomised_weights(scope.model, list(scope.model.parameters()), 0):
            other = work().map
        assert not np.allclose(other, plain)
        assert np.array_equal(work().map, plain)


def test_another_thread_shares_nothing():
    scope, maps = vitscope.load(make("generic")), []

    def beside():
        with randomised_weights(scope.model, list(scope.model.parameters()), 0):
            maps.append(scope.explain(PHOTOS[0], method="rollout").map)

    beside()
    with scope.engine.shared_forwards(), ThreadPoolExecutor(1) as pool:
        plain = scope.explain(PHOTOS[0], method="rollout").map
        pool.submit(beside).result(timeout=30)
        assert np.array_equal(scope.explain(PHOTOS[0], method="rollout").map, plain)
    assert np.array_equal(*maps)
    assert not scope.engine._sharing.on
