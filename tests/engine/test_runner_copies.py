"""Copies of a model that other threads make while it is explained: each is the plain model, as it was before."""

import copy
import gc
import io
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import fx, nn

import vitscope
from tests.engine.toys_families import MAKERS, PHOTOS, make
from tests.helpers.model_state import differences, model_state
from tests.helpers.threads import everything, explain
from vitscope.attention.model_lock import exclusive
from vitscope.attention.model_modes import eval_mode, frozen_parameters

pytestmark = pytest.mark.usefixtures("as_shipped")
PIXELS = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
WORKS = ("gradcam 0", "logit-lens 0", "token-removal 0", "occlusion 0", "attnlrp 0", "sanity", "without")


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def of_a_wrapper(model):
    return copy.deepcopy(nn.ModuleDict({"inner": model}))["inner"]


def of_a_holder(model):
    return copy.deepcopy([model, next(model.parameters())])[0]


WAYS = {"deepcopy": copy.deepcopy, "pickle": pickled, "save": saved, "wrapper": of_a_wrapper, "holder": of_a_holder}


def state(model):
    """Return the state of a model without the identities and addresses of its tensors, which a copy has of its own."""
    found = model_state(model)
    return {
        name: value[:2] if name.startswith("tensor ") else value[1:] if name.startswith("parameter ") else value
        for name, value in found.items()
        if not name.startswith("config ")
    }


def copied_meanwhile(model, work, ways, times):
    """Copy a model again and again while another thread works on it; return what was not as in the model itself."""
    expected, wrong, done = state(model), [], threading.Event()

    def copies():
        made = 0
        while not done.is_set() or made < times:
            for name in ways:
                try:
                    found = differences(expected, state(WAYS[name](model)))
                except Exception as error:
                    found = [repr(error)]
                made += 1
                if found:
                    wrong.append((name, found[:3]))
        return made

    with ThreadPoolExecutor(1) as pool:
        counted = pool.submit(copies)
        try:
            for _ in range(times):
                work()
        finally:
            done.set()
        assert counted.result() >= times
    assert differences(expected, state(model)) == []
    return wrong


@pytest.mark.parametrize("way", WAYS)
def test_copies_made_by_another_thread_are_the_plain_model(way):
    model = make("transformers")
    scope = vitscope.load(model)
    assert copied_meanwhile(model, lambda: [explain(scope, n, 0) for n in ("gradcam", "logit-lens")], [way], 3) == []


@pytest.mark.slow
@pytest.mark.parametrize("family", MAKERS)
def test_copies_made_during_any_work_are_the_plain_model(family):
    model = make(family)
    scope = vitscope.load(model)
    works = everything(scope, [n for n in ("gradcam", "logit-lens", "attnlrp", "occlusion") if scope.supports(n)])
    for name, work in works.items():
        assert copied_meanwhile(model, work, WAYS, 2) == [], name


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_waits_until_all_changes_have_ended(way):
    model = make("generic")
    before, began, made = state(model), threading.Event(), []

    def copies():
        began.set()
        made.append(state(WAYS[way](model)))

    thread = threading.Thread(target=copies)
    with eval_mode(model), frozen_parameters(model):
        thread.start()
        began.wait()
        thread.join(0.3)
        assert made == []
    thread.join(10)
    assert differences(before, made[0]) == []


def test_an_explanation_waits_until_a_copy_has_ended():
    model, reached, go_on, order = make("generic"), threading.Event(), threading.Event(), []

    class Slow(nn.Module):
        def __deepcopy__(self, memo):
            reached.set()
            go_on.wait(10)
            return Slow()

    model.slow = Slow()
    scope = vitscope.load(model)

    def explained():
        explain(scope, "gradcam", 0)
        order.append("explained")

    with ThreadPoolExecutor(2) as pool:
        copying = pool.submit(copy.deepcopy, model)
        reached.wait(10)
        explaining = pool.submit(explained)
        assert not order
        threading.Event().wait(0.3)
        order.append("copied")
        go_on.set()
        copying.result(10), explaining.result(20)
    assert order == ["copied", "explained"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_copy_made_inside_a_capture_holds_nothing_of_it(way, elsewhere):
    model = make("generic").eval()
    before = state(model)
    with torch.no_grad(), vitscope.capture(model) as captured:
        twin = ThreadPoolExecutor(1).submit(WAYS[way], model).result(20) if elsewhere else WAYS[way](model)
        assert torch.equal(model(PIXELS), twin(PIXELS))
    assert differences(before, state(twin)) == []
    assert differences(before, state(model)) == []
    assert captured.attention


def test_a_copy_by_a_module_that_copies_itself_runs_none_of_our_hooks():
    model = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    with vitscope.capture(model):
        twin = copy.deepcopy(model)
        hooks = [hook for module in twin.modules() for hook in module._forward_pre_hooks.values()]
    assert all("vitscope" not in repr(hook) for hook in hooks)
    assert all(hook(twin, ()) is None for hook in hooks)
    assert twin(torch.ones(1, 4)).shape == (1, 4)


def test_hooks_of_the_callers_own_are_copied_as_ever():
    model = make("generic").eval()
    model.head.register_forward_hook(doubled)
    with vitscope.capture(model):
        twin = copy.deepcopy(model)
    assert list(twin.head._forward_hooks.values()) == [doubled]
    assert len(copy.copy(model.head)._forward_hooks) == 1
    assert copy.copy(model.head)._forward_hooks is model.head._forward_hooks


def doubled(_module, _args, out):
    return out * 2


def test_modules_that_say_how_they_are_copied_are_copied_that_way():
    vitscope.load(make("generic"))

    class Says:
        def __deepcopy__(self, memo):
            return "its own way"

    class Mixed(nn.Module, Says):
        pass

    class Reduced(nn.Module):
        def __reduce__(self):
            return Reduced, ()

    assert copy.deepcopy(Mixed()) == "its own way"
    assert isinstance(copy.deepcopy(Reduced()), Reduced)
    one = nn.Linear(2, 2)
    twins = copy.deepcopy([one, one, nn.Sequential(one)])
    assert twins[0] is twins[1] is twins[2][0] is not one


def test_a_copy_frees_the_model():
    model = make("generic")
    vitscope.load(model).explain(PHOTOS[0], method="rollout")
    gone = weakref.ref(copy.deepcopy(model))
    gc.collect()
    assert gone() is None
    with ThreadPoolExecutor(1) as pool, exclusive(make("timm")):
        assert pool.submit(partial(copy.deepcopy, model)).result(10) is not None
