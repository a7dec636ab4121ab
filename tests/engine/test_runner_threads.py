"""One model in several threads: each map is the one that a single thread makes, and the model is left as it was."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import vitscope
from tests.engine.toys_families import MAKERS, PHOTOS, make
from tests.helpers.model_state import differences, model_state, surroundings
from tests.helpers.threads import everything, explain, in_threads
from vitscope.attention.model_lock import ModelHold, exclusive
from vitscope.errors import CaptureError
from vitscope.methods.base import METHODS

FEW = ("gradcam", "logit-lens", "token-removal")
pytestmark = pytest.mark.usefixtures("as_shipped")
OTHERS = (
    *("measure", "lens", "heads", "queries", "statistics", "without", "attention"),
    *("sanity", "view", "recipe", "compare", "attribute"),
)
NAMES = [name for name, _ in METHODS]


def check(family, names, others):
    model = make(family)
    scope = vitscope.load(model)
    scope.methods()
    before, around = model_state(model), surroundings()
    works = everything(scope, [name for name in names if scope.supports(name)])
    chosen = {name: work for name, work in works.items() if " " in name or name in others}
    assert in_threads(chosen) == []
    assert differences(before, model_state(model)) == []
    assert differences(around, surroundings()) == []


def test_eight_threads_make_the_maps_of_one():
    check("transformers", FEW, ())


@pytest.mark.slow
@pytest.mark.parametrize("family", MAKERS)
def test_eight_threads_make_every_map_of_one(family):
    check(family, NAMES, OTHERS)


def test_eight_threads_use_everything_else():
    check("timm", (), ("heads", "queries", "without", "attention"))


def test_two_scopes_on_a_model_and_its_part_and_wrappers_wait_for_each_other():
    model = make("transformers")
    whole, part = vitscope.load(model), vitscope.load(model.vit)
    wrapped = vitscope.load(nn.DataParallel(model))
    works = {
        f"{number} {name}": partial(explain, scope, name, 0)
        for number, scope in enumerate((whole, part, wrapped))
        for name in ("gradcam", "logit-lens", "relevance")
        if scope.supports(name)
    }
    before = model_state(model)
    assert in_threads(works, 4) == []
    assert differences(before, model_state(model)) == []


@pytest.mark.slow
def test_capture_in_threads_beside_explanations():
    model = make("generic").eval()
    scope, pixels = vitscope.load(model), torch.rand(2, 3, 32, 32)

    def captured():
        with torch.no_grad(), vitscope.capture(model) as found:
            answer = model(pixels)
        return np.concatenate([answer.numpy().ravel(), *(block.rows().numpy().ravel() for block in found.attention)])

    works = {"capture": captured, "lens": partial(explain, scope, "logit-lens", 0)}
    assert in_threads({f"{name} {n}": work for name, work in works.items() for n in range(3)}) == []


def test_two_models_run_side_by_side():
    one, two = make("generic"), make("timm")
    with exclusive(one):
        found = ThreadPoolExecutor(1).submit(explain, vitscope.load(two), "rollout", 0).result(timeout=30)
    assert found.shape == (4, 4)


@pytest.mark.parametrize(
    "of", ["the model", "a part", "a part without parameters", "a parent", "a shared parameter", "a compiled part"]
)
def test_what_shares_a_part_waits(of):
    model = make("transformers")
    other = {
        "the model": lambda: model,
        "a part": lambda: model.vit.embeddings,
        "a part without parameters": lambda: next(one for one in model.modules() if not [*one.parameters()]),
        "a parent": lambda: nn.Sequential(nn.Identity(), nn.ModuleDict({"inner": model})),
        "a shared parameter": lambda: nn.ParameterList([model.classifier.weight]),
        "a compiled part": lambda: torch.compile(model.vit, backend="eager"),
    }[of]()
    order = []

    def second():
        with exclusive(other):
            order.append("second")

    with exclusive(model):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_those_who_asked_first_come_first():
    model, order = make("generic"), []

    def wait(number):
        with exclusive(model):
            order.append(number)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(5)]
    with exclusive(model):
        for thread in threads:
            thread.start()
            thread.join(0.05)
    for thread in threads:
        thread.join(10)
    assert order == list(range(5))


def test_models_held_in_a_circle_are_an_error_and_no_deadlock():
    one, two, barrier, seen = make("generic"), make("timm"), threading.Barrier(2), []

    def hold(first, second):
        with exclusive(first):
            barrier.wait()
            try:
                with exclusive(second):
                    seen.append("both")
            except CaptureError as error:
                seen.append(error.code)

    threads = [threading.Thread(target=hold, args=models, daemon=True) for models in ((one, two), (two, one))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(seen) == ["attention.models-in-a-circle", "both"]
    free = ModelHold(one)
    free.acquire()
    free.release()


def test_a_pool_inside_a_capture_does_not_wait_forever():
    model = make("generic").eval()
    scope = vitscope.load(model)
    with ThreadPoolExecutor(2) as pool, vitscope.capture(model) as captured:
        found = pool.submit(explain, scope, "rollout", 0).result(timeout=30)
        model(torch.rand(1, 3, 32, 32))
    assert found.shape == (4, 4)
    assert len(captured.attention) == 2


def test_callers_with_locks_of_their_own():
    scope, lock = vitscope.load(make("timm")), threading.RLock()

    def work(number):
        with lock:
            return scope.explain(PHOTOS[0], method="occlusion", progress=lambda *_: lock.acquire() and lock.release())

    with ThreadPoolExecutor(4) as pool:
        maps = [e.map for e in pool.map(work, range(6))]
    assert all(np.array_equal(maps[0], each) for each in maps)


def test_a_call_that_ends_with_an_error_lets_the_next_one_in():
    scope = vitscope.load(make("timm"))

    def stop():
        raise KeyError("cancelled")

    scope.engine.on_forward = stop
    with pytest.raises(KeyError):
        scope.explain(PHOTOS[0], method="rollout")
    scope.engine.on_forward = lambda: None
    assert ThreadPoolExecutor(1).submit(explain, scope, "rollout", 0).result(timeout=30).shape == (4, 4)


def test_a_progress_callback_may_use_the_same_model():
    scope, maps = vitscope.load(make("timm")), []
    plain = explain(scope, "rollout", 1)
    found = scope.explain(PHOTOS[0], method="occlusion", progress=lambda *_: maps.append(explain(scope, "rollout", 1)))
    assert np.array_equal(found.map, explain(scope, "occlusion", 0))
    assert maps
    assert all(np.array_equal(plain, each) for each in maps)


def test_asyncio():
    scope = vitscope.load(make("transformers"))
    expected = [explain(scope, "gradcam", photo) for photo in (0, 1)]

    async def all_of_them():
        return await asyncio.gather(*(asyncio.to_thread(explain, scope, "gradcam", n % 2) for n in range(8)))

    assert all(np.array_equal(found, expected[n % 2]) for n, found in enumerate(asyncio.run(all_of_them())))


def test_a_web_app_whose_handlers_run_in_a_pool_of_threads():
    fastapi, client = pytest.importorskip("fastapi"), pytest.importorskip("starlette.testclient")
    scope, app = vitscope.load(make("transformers")), fastapi.FastAPI()
    expected = [explain(scope, "logit-lens", photo).tolist() for photo in (0, 1)]

    @app.get("/{photo}")
    def answer(photo: int):
        return explain(scope, "logit-lens", photo).tolist()

    with client.TestClient(app) as web, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: web.get(f"/{n % 2}").json(), range(16)))
    assert found == [expected[n % 2] for n in range(16)]
