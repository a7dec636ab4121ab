"""The keywords of `explain`: suggested where misspelt, the list that type checkers know (`typed_calls.py`)."""

import numpy as np
import pytest
import torch

import vitscope
from tests.helpers.errors import raises
from vitscope.engine.options import OPTION_NAMES, ExplainOptions, Options
from vitscope.errors import UnknownNameError, UsageError
from vitscope.methods.base import METHODS


@pytest.mark.parametrize("name", ["window", "display", "labels", "layout", "region", "device", "calibration"])
@pytest.mark.parametrize(
    "call", ["explain", "attribute", "compare", "measure", "view", "recipe", "queries", "calibrate"]
)
def test_an_option_of_load_is_told_to_be_one(tiny_scope, photo, call, name):
    given = {
        "attribute": [torch.zeros(1, 3, 64, 64)],
        "compare": [photo, photo],
        "measure": [tiny_scope.explain(photo, method="attention")],
        "calibrate": [],
    }
    with raises(UsageError, "models.option-of-load", "models.option-of-load.hint") as caught:
        getattr(tiny_scope, call)(*given.get(call, [photo]), **{name: 1})
    assert caught.value.message.params["option"] == name


def test_a_method_may_have_an_option_of_such_a_name(tiny_scope):
    assert tiny_scope.validate(method="occlusion", window=3).method_options["window"] == 3


@pytest.mark.parametrize(
    ("call", "word", "near"),
    [
        ("view", "metods", "methods"),
        ("recipe", "laier", "layer"),
        ("measure", "basline", "baseline"),
        ("calibrate", "quik", "quick"),
    ],
)
def test_a_misspelt_keyword_of_another_call_is_suggested(tiny_scope, photo, call, word, near):
    given = {"measure": [tiny_scope.explain(photo, method="attention")], "calibrate": []}
    with raises(UnknownNameError, "errors.unknown-name", "errors.unknown-name.meant") as caught:
        getattr(tiny_scope, call)(*given.get(call, [photo]), **{word: 1})
    assert caught.value.hint.params["near"] == near
    assert caught.value.message.params["kind"].params["call"] == call


def test_a_keyword_that_load_has_not_is_suggested_or_told_where_it_belongs():
    with raises(UnknownNameError, "errors.unknown-name", "errors.unknown-name.meant") as caught:
        vitscope.load("embedded:digit-scenes", labls=["a"])
    assert caught.value.hint.params["near"] == "labels"
    for name in ("size", "method", "target", "layers"):
        with raises(UsageError, "models.option-of-explain", "models.option-of-explain.hint"):
            vitscope.load("embedded:digit-scenes", **{name: 1})


def test_every_option_of_every_method_is_a_keyword():
    own = {name for _, method in METHODS for name in method.options}
    assert set(ExplainOptions.__annotations__) == own | {*OPTION_NAMES, "progress"} - {"targets"}


@pytest.mark.parametrize(("word", "near"), [("metod", "method"), ("sized", "size"), ("layerz", "layers")])
def test_a_misspelt_keyword_is_suggested(tiny_scope, photo, word, near):
    for method in ("rollout", "auto"):
        with raises(UnknownNameError, "errors.unknown-name", "errors.unknown-name.meant") as caught:
            tiny_scope.explain(photo, **{"method": method, word: "rollout"})
        assert caught.value.hint.params["near"] == near
        of = "methods.option-of" if near == "layers" else "methods.any-option"
        assert caught.value.message.params["kind"].code == of


def test_plain_integers_stand_for_those_of_numpy_and_torch():
    for given in (np.int64(3), torch.tensor(3), np.array(3)):
        assert type(Options(target=given).target) is int
    assert Options(target=np.array([1, 2])).target == Options(target=(1, 2)).target == [1, 2]
    assert Options(target=torch.tensor([1, 2])).runs([1]) == [[2]]
    assert Options(targets=(3, None)).runs([0, 1]) == [3, None]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"size": 8}, "engine.size"),
        ({"size": "224"}, "engine.size"),
        ({"batch_size": 0}, "engine.batch-size"),
        ({"batch_size": 2.5}, "engine.batch-size"),
        ({"seed": None}, "engine.seed"),
        ({"seed": 2**70}, "engine.seed"),
        ({"seed": -1}, "engine.seed"),
        ({"targets": []}, "engine.no-targets"),
        ({"targets": 3}, "engine.targets-not-several"),
        ({"target": 1.5}, "engine.target-kind"),
        ({"target": {"a": 1}}, "engine.target-kind"),
    ],
)
@pytest.mark.usefixtures("as_shipped")
def test_wrong_options(options, code):
    with raises(UsageError, code):
        Options(**options)
