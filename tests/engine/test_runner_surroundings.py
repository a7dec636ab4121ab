"""What the caller has switched on around a call changes nothing: the map is the one of plain surroundings."""

from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import vitscope
from tests.engine.toys_families import PHOTOS, Own, make
from tests.helpers.errors import raises
from tests.helpers.model_state import differences, model_state, surroundings
from tests.models.toys_heads import backbone
from vitscope.errors import UsageError

pytestmark = pytest.mark.usefixtures("as_shipped")
METHODS = ("rollout", "relevance", "gradcam", "attnlrp", "integrated-gradients", "rise", "logit-lens")


@contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def gradients_off():
    torch.set_grad_enabled(False)
    try:
        yield
    finally:
        torch.set_grad_enabled(True)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def flops():
    from torch.utils.flop_counter import FlopCounterMode

    return FlopCounterMode(display=False)


SLOW_FAMILIES = [pytest.param(one, marks=pytest.mark.slow) for one in ("transformers", "generic")]
SURROUNDINGS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "gradients off": gradients_off,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default dtype": default_dtype,
    "deterministic": deterministic,
    "anomaly": torch.autograd.detect_anomaly,
    "flop counter": flops,
    "saved on cpu": torch.autograd.graph.save_on_cpu,
    "device": lambda: torch.device("cpu"),
}


def maps(model, around=nullcontext, around_load=nullcontext):
    with around_load():
        scope = vitscope.load(model)
    options = {"rise": {"masks": 6}, "integrated-gradients": {"steps": 3}}
    with around():
        found = {name: scope.explain(PHOTOS[0], method=name, **options.get(name, {})).map for name in METHODS}
        return found | {"queries": scope.queries(PHOTOS[0], method="rollout")}


@pytest.fixture(scope="module")
def expected():
    return {family: maps(make(family)) for family in ("timm", "transformers")}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("where", ["call", "load"])
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_surroundings_change_no_map(name, where, expected):
    for family, plain in expected.items():
        model, around = make(family), surroundings()
        before = model_state(model)
        place = "around_load" if where == "load" else "around"
        found = maps(model, **{place: SURROUNDINGS[name]})
        exact = name != "default dtype"  # sums of the score are double there
        same = np.array_equal if exact else partial(np.allclose, rtol=1e-5, atol=1e-7)
        assert [method for method in plain if not same(found[method], plain[method])] == [], family
        assert differences(before, model_state(model)) == []
        assert differences(around, surroundings()) == []


@pytest.mark.parametrize("family", ["timm", *SLOW_FAMILIES])
def test_weights_that_were_made_in_inference_mode(family):
    with torch.inference_mode():
        model = make(family)
    assert all(parameter.is_inference() for parameter in model.parameters())
    before, plain = model_state(model), maps(make(family))
    for around in (nullcontext, torch.inference_mode):
        found = maps(model, around)
        assert [method for method in plain if not np.array_equal(found[method], plain[method])] == []
    assert differences(before, model_state(model)) == []


def pixels_in_inference_mode():
    with torch.inference_mode():
        return torch.rand(2, 3, 32, 32)


def test_attribute_and_capture_in_inference_mode():
    model = make("timm").eval()
    scope, pixels = vitscope.load(model), pixels_in_inference_mode()
    plain = scope.attribute(pixels.clone(), method="gradcam").maps
    with torch.inference_mode():
        assert torch.equal(scope.attribute(pixels, method="gradcam").maps, plain)
        with vitscope.capture(model) as captured:
            model(pixels)
        rows = captured.attention[0].rows()
    assert rows.shape == (2, 2, 17, 17)


@pytest.mark.spread
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("family", ["timm", "transformers"])
def test_checkpointing_of_the_library(family):
    model, plain = make(family), maps(make(family))
    model.set_grad_checkpointing(True) if family == "timm" else model.gradient_checkpointing_enable()
    before = model_state(model)
    found = maps(model)
    assert [method for method in plain if not np.array_equal(found[method], plain[method])] == []
    assert differences(before, model_state(model)) == []


class Checkpointed(Own):
    """Its blocks are run by `torch.utils.checkpoint`, whatever its mode."""

    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant

    def forward(self, x):
        x = self.embed(x).flatten(2).mT
        x = self.drop(torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(self.norm(x)[:, 0])


@pytest.mark.spread
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_in_a_forward_of_ones_own(reentrant):
    torch.manual_seed(0)
    model = Checkpointed(reentrant).train()
    torch.manual_seed(0)
    plain = maps(Own().train())
    found = maps(model)
    assert [method for method in plain if not np.array_equal(found[method], plain[method])] == []


def test_training_mode_changes_no_map_and_no_statistics():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3), Own()).train()
    model(torch.rand(4, 3, 32, 32))
    before = model_state(model)
    found = maps(model)
    assert differences(before, model_state(model)) == []
    plain = maps(model.eval())
    assert [method for method in plain if not np.array_equal(found[method], plain[method])] == []


class Explaining(torch.utils.data.Dataset):
    def __init__(self, scope):
        self.scope = scope

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.scope.explain(PHOTOS[index % 2], method="gradcam").map.copy()


def test_worker_processes_of_a_data_loader():
    scope = vitscope.load(make("timm"))
    plain = [scope.explain(photo, method="gradcam").map for photo in PHOTOS]
    loader = torch.utils.data.DataLoader(Explaining(scope), num_workers=1, batch_size=None, timeout=60)
    found = list(loader)
    assert all(np.array_equal(np.asarray(one), plain[index % 2]) for index, one in enumerate(found))


def fake_tensors(call):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        call()


@pytest.mark.parametrize(
    "around",
    [
        lambda call: torch.func.vmap(lambda x: (call(), x)[1])(torch.ones(2)),
        lambda call: torch.func.grad(lambda x: (call(), x.sum())[1])(torch.ones(2)),
        fake_tensors,
    ],
    ids=["vmap", "grad", "fake tensors"],
)
def test_transformations_are_refused(around):
    scope = vitscope.load(make("timm"))
    with raises(UsageError, "attention.transformed", "attention.transformed.hint"):
        around(lambda: scope.explain(PHOTOS[0], method="rollout"))
    assert scope.explain(PHOTOS[0], method="rollout").map.shape == (4, 4)


def test_the_trial_that_finds_the_blocks_is_of_three_images(monkeypatch):
    """Which modules attend takes one; which axis is the batch's takes two: of large models they take seconds."""
    engine = vitscope.load(make("timm").eval()).engine
    run, sizes = engine.run, []
    monkeypatch.setattr(engine, "run", lambda pixels: sizes.append(len(pixels)) or run(pixels))
    assert engine.blocks is not None
    assert sizes == [1, 2]


@pytest.mark.parametrize("part", ["", "blocks.0"])
@pytest.mark.parametrize("method", ["rollout", "token-removal", "occlusion"])
def test_a_hook_that_explains_within_a_forward_is_told_so(part, method):
    model = backbone(num_classes=3)
    expected = vitscope.load(model).explain(PHOTOS[0], method=method).map
    model, inner, kept = backbone(num_classes=3), vitscope.load(backbone(num_classes=3)), []

    def hook(module, given, result):
        handle.remove()  # of the first forward that comes
        with raises(UsageError, "attention.within-forward", "attention.within-forward.hint") as caught:
            inner.explain(PHOTOS[0], method="rollout")
        kept.append(caught.value)

    handle = model.get_submodule(part).register_forward_hook(hook)
    scope = vitscope.load(model)
    assert [type(model).__name__ in error.message for error in kept] == [True]
    assert np.array_equal(scope.explain(PHOTOS[0], method=method).map, expected)
    handle = model.get_submodule(part).register_forward_hook(lambda *_: scope.explain(PHOTOS[0]))
    with raises(UsageError, "attention.within-forward"):  # also where the hook keeps it to itself
        scope.explain(PHOTOS[0], method=method)


def test_a_hook_may_explain_within_a_forward_of_the_callers():
    model, made = backbone(num_classes=3), []
    scope = vitscope.load(model)
    expected = scope.explain(PHOTOS[0], method="rollout").map

    def hook(module, given, result):
        handle.remove()
        made.append(scope.explain(PHOTOS[0], method="rollout").map)

    handle = model.blocks[0].register_forward_hook(hook)
    model(torch.zeros(1, 3, 32, 32))
    assert np.array_equal(made, [expected])


def test_a_callback_may_explain_between_forwards():
    scope, made = vitscope.load(backbone(num_classes=3)), []
    expected = scope.explain(PHOTOS[0], method="rollout").map
    scope.explain(PHOTOS[0], method="rise", progress=lambda *_: made.append(scope.explain(PHOTOS[0], method="rollout")))
    assert made
    assert all(np.array_equal(e.map, expected) for e in made)
