"""Options of every kind with values that are none: the right answer, or one line that says what is wrong."""

import math
import re

import numpy as np
import pytest
import torch

import vitscope
from tests.engine.toys_families import PHOTOS, make
from vitscope.batch.ray_cluster import Cluster
from vitscope.batch.types import BatchPlan
from vitscope.engine.ranges import checked
from vitscope.engine.two_models import compare_layers
from vitscope.errors import UsageError, VitscopeError
from vitscope.media.clip import Clip
from vitscope.media.sound import Sound
from vitscope.methods.base import METHODS

pytestmark = pytest.mark.usefixtures("as_shipped")
# no number of any option, whatever it is for
NONE = [math.nan, math.inf, -math.inf, 1e31, -1e31, 10**40, 2**70, np.float64(math.nan), 1 + 2j]
NONE += ["²", "٣", "--5", "nan", "", b"1", [1.5], {}, np.array([1, 2]), np.array([[1]]), torch.tensor([1.0, 2.0])]
NONE += [True, np.True_, object()]


@pytest.fixture(scope="module")
def scope():
    return vitscope.load(make("timm").eval())


@pytest.fixture(scope="module")
def explained(scope):
    return scope.explain(PHOTOS[0], method="rollout")


def refused(run, value):
    with pytest.raises(VitscopeError) as caught:
        run(value)
    assert "\n" not in str(caught.value)


CALLS = {
    **{name: {} for name in ("explain size", "explain batch_size", "explain seed", "prepare size", "attention size")},
    **{name: {} for name in ("attention_heads layer", "attention_heads size", "queries chunk", "queries size")},
    **{name: {} for name in ("logit_lens size", "statistics size", "statistics batch_size", "statistics seed")},
    **{name: {} for name in ("recipe layer", "recipe size", "recipe seconds", "recipe seed")},
    **{name: {} for name in ("view top", "view size", "view max_mb", "view seed", "view seconds")},
    **{name: {} for name in ("predict_without size", "predict_without patches")},
    **{f"measure {name}": {} for name in ("steps", "n_subsets", "n_squares", "n_random_maps", "seconds", "seed")},
    "measure batch_size": {},
    "calibrate seed": {},
    "calibrate size": {},
}


@pytest.mark.spread
@pytest.mark.parametrize("call", CALLS)
def test_what_is_no_number_is_refused_before_the_model_runs(scope, explained, call):
    name, option = call.split()
    given = {"measure": [explained], "calibrate": [], "predict_without": [PHOTOS[0], [1]]}.get(name, [PHOTOS[0]])
    given = given[:1] if option == "patches" else given
    for value in NONE:
        listed = isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim == 1)
        if (option in ("layer", "patches") and listed) or (option == "patches" and value == {}):
            continue  # several layers or patches
        refused(lambda value: getattr(scope, name)(*given, **{option: value}), value)


@pytest.mark.parametrize("name", [name for name, _ in METHODS])
def test_every_option_of_every_method_takes_numbers_of_its_kind_only(name):
    method = METHODS.get(name)
    for option in method.options.values():
        kind = type(option.default)
        if kind in (int, float):
            for value in NONE:
                if not (kind is float and isinstance(value, (int, float)) and abs(value) < 1e300) or value is True:
                    refused(lambda value, option=option: method.check({option.name: value}), value)
            for value in (3, np.int64(3), np.uint8(3)):
                assert method.check({option.name: value})[option.name] == 3
            if kind is int:
                refused(lambda value, option=option: method.check({option.name: value}), 0.5)
                refused(lambda value, option=option: method.check({option.name: value}), 10**7)


@pytest.mark.parametrize(("method", "option"), [("rise", "cells"), ("rise", "masks"), ("occlusion", "window"),
                                                ("integrated-gradients", "steps"), ("evidence-walk", "temperature"),
                                                ("flow", "residual_weight"), ("smoothgrad", "noise")])  # fmt: skip
def test_huge_numbers_of_methods_are_an_answer_or_one_line(scope, method, option):
    for value in (-1, 0, 1e30, -1e30, 10**40, 1e-320):
        try:
            found = scope.explain(PHOTOS[0], method=method, **{option: value})
        except VitscopeError as error:
            assert "\n" not in str(error)
        else:
            assert np.isfinite(found.map).all()


def test_numbers_of_numpy_are_those_of_python(scope, explained, tmp_path):
    plain = scope.explain(PHOTOS[0], method="rise", masks=8, seed=3, batch_size=2)
    given = {"masks": np.int16(8), "seed": np.int64(3), "batch_size": np.uint8(2)}
    found = scope.explain(PHOTOS[0], method="rise", **given)
    assert np.array_equal(plain.map, found.map)
    assert vitscope.Explanation.load(found.save(tmp_path / "found")).provenance == plain.provenance
    measured = [
        scope.measure(explained, metrics="deletion", steps=kind(3), n_random_maps=kind(2), seed=kind(1)).to_dict()
        for kind in (int, np.int32)
    ]
    assert measured[0] == measured[1]


@pytest.mark.parametrize("value", [math.nan, math.inf, (1, 2), {}, 1.5, 1 + 2j, object(), np.array([1, 2]), True])
def test_what_is_no_target_is_refused_wherever_one_is_taken(scope, explained, value):
    for run in (
        lambda target: scope.measure(explained, metrics="deletion", target=target),
        lambda target: scope.predict_without(PHOTOS[0], [1], target=target),
        lambda target: scope.logit_lens(PHOTOS[0], target=target),
        lambda target: scope.statistics(PHOTOS[0], importance=True, target=target),
        lambda target: scope.explain(PHOTOS[0], method="gradcam", target=target),
        lambda target: scope.view(PHOTOS[0], methods=["gradcam"], measure=False, target=target),
    ):
        refused(run, value)


@pytest.mark.parametrize(
    "value", [math.nan, 7, None, object(), [1], np.array([1, 2]), np.array(2), torch.tensor(2), {1}]
)
def test_what_is_no_name_is_refused_as_a_name(scope, explained, value):
    for run in (
        lambda name: scope.explain(PHOTOS[0], method=name),
        lambda name: scope.explain(PHOTOS[0], method="gradcam", gradient_rule=name),
        lambda name: scope.explain(PHOTOS[0], method="gradcam", refine=name),
        lambda name: scope.measure(explained, metrics=name),
        lambda name: scope.measure(explained, baseline=name),
        lambda name: scope.measure(explained, score=name),
        lambda name: scope.predict_without(PHOTOS[0], [1], mode=name),
        lambda name: scope.view(PHOTOS[0], methods=name, measure=False),
        lambda name: explained.overlay(style=name),
        lambda name: explained.overlay(norm=name),
        lambda name: explained.overlay(cmap=name),
        lambda name: scope.supports(name),
    ):
        refused(run, value)


@pytest.mark.parametrize("value", [math.nan, 7, "print", [print], np.array([1, 2])])
def test_what_is_no_callback_is_refused(scope, value):
    refused(lambda progress: scope.explain(PHOTOS[0], method="occlusion", progress=progress), value)


def test_what_is_no_explanation_is_not_measured(scope):
    for value in (None, 3, "rollout", np.zeros((4, 4))):
        with pytest.raises(UsageError, match="expected an Explanation"):
            scope.measure(value)


@pytest.mark.parametrize("weight", [-0.1, 1.5, 300, 1e30])
def test_a_weight_beyond_one_is_refused_by_every_method_that_has_one(scope, weight):
    # whole numbers of 32 bits were beyond their range in flow
    named = [name for name, method in METHODS if "residual_weight" in method.options and scope.supports(name)]
    assert len(named) > 2
    for name in named:
        refused(lambda value, name=name: scope.explain(PHOTOS[0], method=name, residual_weight=value), weight)


def test_plans_and_clusters_take_whole_numbers_only():
    for value in (*NONE, -1, 2.5):
        for name in ("shard_size", "batch_tokens", "max_pending_bytes", "batch_size", "workers"):
            refused(lambda value, name=name: BatchPlan(model="m", methods=("rollout",), **{name: value}), value)
        for name in ("workers", "cpus", "stall_timeout"):
            if not (name == "stall_timeout" and isinstance(value, float) and value == 2.5):
                refused(lambda value, name=name: Cluster(**{name: value}), value)


def test_clips_and_sounds_take_numbers_only():
    frames, samples = np.zeros((4, 8, 8, 3), np.uint8), np.zeros(100, np.float32)
    for value in (*NONE, -1, 0):
        refused(lambda value: Clip(frames, value), value)
        refused(Clip(frames).sampled, value)
        refused(lambda value: Sound(samples, value), value)


def test_other_models_are_compared_at_a_size():
    engine = vitscope.load(make("timm").eval()).engine
    for value in NONE:
        refused(lambda size: compare_layers(engine, engine, PHOTOS[0], size), value)


def test_the_range_is_said():
    @checked(count=(1, 5))
    def run(count: int, share: float | None = None):
        return count, share

    assert run(np.int8(5), share=None) == (5, None)
    assert [type(one) for one in run(np.int8(5), np.float32(0.5))] == [int, float]
    with pytest.raises(UsageError, match=re.escape("count= lies between 1 and 5, not 6")) as caught:
        run(6)
    assert caught.value.spoken("cli")[0] == "--count lies between 1 and 5, not 6"
