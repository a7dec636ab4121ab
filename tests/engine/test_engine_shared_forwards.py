"""One forward for all that reads the same pixels without a gradient."""

import numpy as np
import torch

from vitscope.engine.inspection import statistics
from vitscope.engine.options import Options

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
