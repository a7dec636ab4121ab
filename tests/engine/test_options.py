"""The keywords of `explain`: known to type checkers, suggested where misspelt, the same list in both."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import vitscope
from tests.helpers.errors import raises
from vitscope.engine.options import OPTION_NAMES, ExplainOptions, Options
from vitscope.errors import UnknownNameError, UsageError
from vitscope.methods.base import METHODS

SNIPPET = """
from collections.abc import Iterator
from typing import assert_type

import torch
from torch import nn

import vitscope
from vitscope import Attribution, Explanation, Failure

scope = vitscope.load()
assert_type(scope.explain("a.png"), Explanation)
assert_type(scope.explain("a.png", method="rollout", layers="last3", target=[1]), Explanation)
assert_type(scope.explain("a.png", targets=[1, "cat"]), list[Explanation])
assert_type(scope.explain(["a.png", "b.png"], target=torch.tensor([1, 2])), list[Explanation])
assert_type(scope.explain(["a.png", "b.png"], targets=[1, 2], size=224), list[list[Explanation]])
assert_type(scope.explain_many(iter(["a.png"])), Iterator[Explanation | Failure])
assert_type(scope.explain_many(["a.png"], targets=[1]), Iterator[list[Explanation] | Failure])
assert_type(scope.attribute(torch.zeros(1, 3, 8, 8), target=vitscope.text("a cat")), Attribution)
assert_type(scope.attribute(torch.zeros(1, 3, 8, 8), targets=[1]), list[Attribution])
assert_type(vitscope.attribute(nn.Identity(), torch.zeros(1, 3, 8, 8)), Attribution)
scope.explain("a.png", metod="rollout")
scope.explain("a.png", gradient_rule="libre")
scope.attribute(torch.zeros(1, 3, 8, 8), layer="last")
scope.validate(targts=[1])
scope.recommend(sise=224)
"""


@pytest.mark.slow
def test_a_type_checker_knows_every_keyword_and_what_comes_back(tmp_path):
    pytest.importorskip("mypy", reason="the checker is installed with the group `check`")
    path = tmp_path / "snippet.py"
    path.write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache")]
    told = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False).stdout.splitlines()
    wrong = {int(line.split(":")[1]) for line in told if "snippet.py" in line and ": error:" in line}
    first = SNIPPET.splitlines().index('scope.explain("a.png", metod="rollout")') + 1
    assert wrong == set(range(first, first + 5)), "\n".join(told)


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
