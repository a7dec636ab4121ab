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
from vitscope.attention import model_lock
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
    nn.init.uniform_(model.vit.layernorm.weight, 0.5, 1.5)  # or the norm of the part's feature would have no gradient
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


@pytest.mark.slow
def test_a_progress_callback_may_wait_for_threads_that_use_the_same_model():
    model = make("timm")
    scope, other = vitscope.load(model), vitscope.load(nn.DataParallel(model))
    expected, plain = explain(scope, "occlusion", 0), explain(scope, "gradcam", 1)
    before, around = model_state(model), surroundings()
    with ThreadPoolExecutor(3) as callers, ThreadPoolExecutor(1) as helper:

        def wait(*_progress):
            found = helper.submit(explain, other, "gradcam", 1).result(timeout=60)
            assert np.array_equal(found, plain)

        def work(_number):
            return scope.explain(PHOTOS[0], method="occlusion", window=4, stride=4, progress=wait).map

        alone = scope.explain(PHOTOS[0], method="occlusion", window=4, stride=4).map
        assert all(np.array_equal(found, alone) for found in callers.map(work, range(3), timeout=100))
        numbers = [
            scope.measure(scope.explain(PHOTOS[0], method="rollout"), metrics="stability", progress=progress).to_dict()
            for progress in (None, wait)
        ]
    assert numbers[0] == numbers[1]
    assert np.array_equal(explain(scope, "occlusion", 0), expected)
    assert differences(before, model_state(model)) == []
    assert differences(around, surroundings()) == []


def test_a_callback_that_fails_while_another_thread_has_the_model_ends_its_call_alone():
    scope, expected = vitscope.load(make("timm")), explain(vitscope.load(make("timm")), "rollout", 1)
    with ThreadPoolExecutor(1) as helper:

        def fail(*_progress):
            found.append(helper.submit(explain, scope, "rollout", 1).result(timeout=60))
            raise KeyError("cancelled")

        found = []
        with pytest.raises(KeyError):
            scope.explain(PHOTOS[0], method="occlusion", progress=fail)
    assert np.array_equal(found[0], expected)
    assert model_lock._TABLE.held == []
    assert not model_lock._TABLE.waiting


@pytest.mark.parametrize("lent", [True, False])
def test_a_model_is_lent_by_a_callback_only_where_it_is_as_it_was(lent):
    model, taken = make("generic"), threading.Event()

    def take():
        with exclusive(model):
            taken.set()

    thread = threading.Thread(target=take)
    with exclusive(model, pristine=True), exclusive(model, pristine=lent):
        model_lock.lending(lambda: (thread.start(), taken.wait(1)))()
        assert taken.is_set() is lent
        if lent:
            assert len(model_lock._TABLE.held) == 2, "taken back"
    thread.join(10)
    assert taken.is_set()


def captured(model, pixels):
    with torch.no_grad(), vitscope.capture(model) as found:
        model(pixels)
    return maps(found)


def maps(found):
    return [block.rows().numpy().tobytes() for block in found.attention]


def test_captures_of_tasks_that_take_turns_each_see_their_own_forward():
    model, pixels = make("generic").eval(), torch.rand(4, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    alone, untouched = [captured(model, each) for each in pixels], model_state(model)

    async def one(number, before, after):
        with vitscope.capture(model) as found:
            await asyncio.sleep(before)
            await asyncio.create_task(forward(pixels[number]))  # a task that begins inside belongs to it
            await asyncio.sleep(after)
        return maps(found)

    async def forward(each):
        with torch.no_grad():
            model(each)

    async def all_of_them(times):
        return await asyncio.gather(*(one(number, *pair) for number, pair in enumerate(times)))

    for times in ([(0.02, 0), (0.04, 0)], [(0.02, 0.06), (0.04, 0)], [(0.03, 0.03), (0.02, 0), (0, 0.1), (0.01, 0.02)]):
        assert asyncio.run(all_of_them(times)) == alone[: len(times)]
    assert differences(untouched, model_state(model)) == []


@pytest.mark.parametrize("turns", ["g h g h", "g h g g h h"])
def test_a_capture_that_another_one_ends_is_an_error_and_no_other_forward(turns):
    model = make("generic").eval()
    pixels = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def steps(number):
        with vitscope.capture(model) as found:
            yield
            with torch.no_grad():
                model(pixels[number])
            if turns.count("g") > 2:
                yield
        yield found

    both = {"g": steps(0), "h": steps(1)}
    results = {name: found for name in turns.split() if (found := next(both[name])) is not None}
    with pytest.raises(CaptureError) as error:
        maps(results["h"])
    assert error.value.code == "attention.cut-short"
    assert maps(results["g"]) == captured(model, pixels[0])


def test_asyncio():
    scope = vitscope.load(make("transformers"))
    expected = [explain(scope, "gradcam", photo) for photo in (0, 1)]

    async def all_of_them():
        return await asyncio.gather(*(asyncio.to_thread(explain, scope, "gradcam", n % 2) for n in range(8)))

    assert all(np.array_equal(found, expected[n % 2]) for n, found in enumerate(asyncio.run(all_of_them())))


@pytest.mark.slow
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


def test_forwards_of_the_callers_own_in_another_thread_change_no_map_and_are_not_changed():
    model = make("generic").eval()
    quiet = vitscope.load(model)
    works = {name: partial(explain, quiet, name, 0) for name in ("gradcam", "token-removal", "logit-lens", "attnlrp")}
    works = {name: work for name, work in works.items() if quiet.supports(name)}
    works |= {"drop": lambda: quiet.predict_without(PHOTOS[0], [1, 2], "drop").score}
    works |= {"lens": lambda: [e.map for e in quiet.logit_lens(PHOTOS[0])]}
    alone = {name: work() for name, work in works.items()}
    assert len(works) > 4
    pixels, wrong, main = torch.rand(3, 3, 32, 32), [], threading.get_ident()
    with torch.no_grad():
        expected = model(pixels)

    def forward():
        with torch.no_grad():
            return model(pixels)

    def beside(*_):
        """Run a forward of another batch in the middle of each of vitscope's."""
        if threading.get_ident() == main and not torch.allclose(helper.submit(forward).result(60), expected, atol=1e-5):
            wrong.append("another answer")

    with ThreadPoolExecutor(1) as helper:
        handle = model.blocks[0].norm2.register_forward_hook(beside)
        fresh = vitscope.load(model)  # it finds out beside the others what the model supports
        assert [one.ok for one in fresh.methods()] == [one.ok for one in quiet.methods()]
        quiet.engine = fresh.engine
        for name, work in works.items():
            assert np.allclose(work(), alone[name], atol=1e-6), name
        handle.remove()
    assert wrong == []
