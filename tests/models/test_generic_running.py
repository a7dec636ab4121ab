"""Models run from threads, compiled, without gradients, in batches and inside a capture."""

import threading

import numpy as np
import pytest
import torch

import vitscope
from tests.helpers.errors import raises
from tests.models.toys_generic import Fused, OneHeadInWindows, ScaledAfter, ViT, loaded, made
from tests.models.traced_row import as_it_is, picture
from vitscope.errors import LayoutError

# threads, compilers and gradients


@pytest.mark.spread
@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_loading_and_explaining_where_the_caller_wants_no_gradients(without):
    model = made(OneHeadInWindows, pool="mean")
    wanted = loaded(model).explain(picture(model.size), method="rollout")
    with without():
        e = loaded(model).explain(picture(model.size), method="rollout")
    np.testing.assert_allclose(e.map, wanted.map, rtol=0, atol=1e-7)


@pytest.mark.slow
def test_two_threads_with_two_models_do_not_see_each_other():
    """Each explains several pictures at the same time as the other, and gets what it gets alone."""
    models = [made(Fused, seed=1), made(ScaledAfter, seed=2, size=(32, 56), registers=2)]
    scopes = [loaded(model) for model in models]
    images = [[picture(model.size, seed) for seed in range(6)] for model in models]
    alone = [
        [scope.explain(one, method="rollout").map for one in many] for scope, many in zip(scopes, images, strict=True)
    ]
    results, start = [None, None], threading.Barrier(2, timeout=30)

    def look(i):
        start.wait()
        fresh = loaded(models[i])  # tracing too
        results[i] = [fresh.explain(one, method="rollout").map for one in images[i]]

    threads = [threading.Thread(target=look, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got, wanted in zip(results, alone, strict=True):
        for one, other in zip(got, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-7)


@pytest.mark.spread
@pytest.mark.covering
@pytest.mark.parametrize("kind", [Fused, ScaledAfter])
@pytest.mark.parametrize("way", ["wrapped", "in place"])
def test_a_compiled_model_is_seen(kind, way):
    pytest.importorskip("torch._dynamo", reason="this torch has no dynamo")
    model = made(kind)
    wanted = loaded(model).explain(picture(model.size), method="rollout")
    if way == "wrapped":
        compiled = torch.compile(model, backend="eager")
    else:
        model.compile(backend="eager")
        compiled = model
    pixels = torch.randn(1, 3, *model.size)
    e = vitscope.load(compiled, processor=as_it_is(model.size)).explain(picture(model.size), method="rollout")
    with torch.no_grad():
        plain = compiled(pixels)
        with vitscope.capture(compiled) as captured:
            under_capture = compiled(pixels)
        after = compiled(pixels)
    np.testing.assert_allclose(e.map, wanted.map, rtol=0, atol=1e-6)
    assert len(captured.attention) == 2
    assert torch.equal(plain, after)
    torch.testing.assert_close(under_capture, plain, rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


def test_progress_is_told_by_batches_and_ends_at_the_total():
    scope, told = loaded(made(Fused)), []
    scope.explain(
        [picture((32, 32), seed) for seed in (0, 1)], method="occlusion", progress=lambda *now: told.append(now)
    )
    assert {name for name, _, _ in told} == {"occlusion"}
    done = [now for _, now, _ in told]
    assert done == sorted(done)
    assert told[-1][1] == told[-1][2] > 1


def test_running_a_batch_inside_a_capture_is_one_forward():
    scope = loaded(made(Fused))
    with torch.no_grad(), vitscope.capture(scope.model) as captured:
        scope.adapter.answer(torch.randn(2, 3, 32, 32))
    assert [block.shape[0] for block in captured.blocks] == [2, 2]


class Dropping(ViT):
    """Drops values in evaluation mode, too."""

    size = (32, 32)

    def __init__(self):
        super().__init__(Fused)

    def forward(self, x):
        return torch.nn.functional.dropout(super().forward(x), 0.3)


def test_a_model_that_answers_differently_each_time_is_refused():
    model = Dropping().eval()
    before = torch.random.get_rng_state()
    with raises(LayoutError, "tracing.random-model"):
        vitscope.load(model)
    assert torch.equal(torch.random.get_rng_state(), before)
