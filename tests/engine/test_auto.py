"""What `auto` stands for, and that it is said."""

import numpy as np
import pytest
import torch

import vitscope
from tests.models import toys as zoo
from vitscope.engine.auto import EVIDENCE, LAST, OBJECTS
from vitscope.errors import YES, Support
from vitscope.methods.base import METHODS
from vitscope.models.transformers.adapter import TransformersAdapter
from vitscope.scope import Scope

PHOTO, OTHER = (np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8) for seed in (0, 1))


@pytest.fixture(scope="module")
def features():
    """A tiny model without classes."""
    torch.manual_seed(0)
    row = next(row for row in zoo.ROWS if row.name == "dinov2-registers")
    return Scope(TransformersAdapter(row.model().eval(), weights="none"), torch.device("cpu"), torch.float32)


def chosen(explanation):
    (note,) = (note for note in explanation.provenance["notes"] if note.startswith("chosen by vitscope"))
    return note.removeprefix("chosen by vitscope for this model: ")


def same(one, other):
    assert (one.method, one.target) == (other.method, other.target)
    np.testing.assert_array_equal(one.map, other.map)


def test_at_most_one_forward_and_one_backward():
    assert all(METHODS.get(name).quick for name in (*(name for name, _ in EVIDENCE), OBJECTS, LAST))


def test_evidence_follows_a_target_and_objects_need_none():
    assert all("target" in METHODS.get(name).requires and METHODS.get(name).gradient_rule == "" for name, _ in EVIDENCE)
    assert "target" not in METHODS.get(OBJECTS).requires


def test_a_classifier_gets_evidence_for_its_class(tiny_scope, photo):
    e = tiny_scope.explain(photo)
    assert chosen(e) == "evidence-walk (why this class; where it looks: method=random-walk)"
    assert e.target == e.predictions[0][0]
    same(e, tiny_scope.explain(photo, method="evidence-walk"))
    same(tiny_scope.explain(photo, target="fox"), tiny_scope.explain(photo, method="evidence-walk", target="fox"))


def test_a_model_without_classes_gets_what_is_looked_at(features):
    e = features.explain(PHOTO)
    assert chosen(e) == "random-walk (what it attends to, and what is similar)"
    same(e, features.explain(PHOTO, method="random-walk"))


def test_a_target_of_a_model_without_classes_is_followed(features):
    like = vitscope.similar_to(OTHER)
    e = features.explain(PHOTO, target=like)
    assert chosen(e) == "evidence-walk (evidence for the target)"
    same(e, features.explain(PHOTO, method="evidence-walk", target=like))


def test_options_lead_to_a_method_that_has_them(tiny_scope, features, photo):
    layers = tiny_scope.explain(photo, layers="last2")
    assert chosen(layers).startswith(
        "relevance, gradient_rule libra (why this class; where it looks: method=random-walk; "
        "not evidence-walk: it has no option"
    )
    assert layers.provenance["gradient_rule"] == "libra"
    same(layers, tiny_scope.explain(photo, method="relevance", gradient_rule="libra", layers="last2"))
    assert not np.array_equal(layers.map, tiny_scope.explain(photo, method="relevance", layers="last2").map)
    alpha = features.explain(PHOTO, residual_weight=0.3)
    assert chosen(alpha) == "rollout (what it attends to; not random-walk: it has no option residual_weight)"
    same(alpha, features.explain(PHOTO, method="rollout", residual_weight=0.3))


def test_a_gradient_that_is_asked_for_stays(tiny_scope, photo):
    e = tiny_scope.explain(photo, layers="last2", gradient_rule="attnlrp")
    assert (e.method, e.provenance["gradient_rule"]) == ("relevance", "attnlrp")


def test_where_nothing_else_applies_it_is_rollout_and_why_is_said(tiny_scope, photo, monkeypatch):
    monkeypatch.setattr(
        tiny_scope.engine.capabilities,
        "method",
        lambda method: YES if method.name == LAST else Support.no(f"no {method.name} here"),
    )
    e = tiny_scope.explain(photo)
    assert e.method == "rollout"
    for name in (*(name for name, _ in EVIDENCE), OBJECTS):
        assert f"not {name}: no {name} here" in chosen(e)


def test_an_adapters_own_options_come_first(tiny_scope, photo, monkeypatch):
    monkeypatch.setattr(tiny_scope.adapter, "auto_options", {"method": "rollout", "layers": "last2"})
    monkeypatch.setattr(tiny_scope.adapter, "overlay_options", {"norm": "robust"})
    e = tiny_scope.explain(photo)
    assert chosen(e) == "rollout, layers last2, norm robust"
    assert e.provenance["drawing"] == {"norm": "robust"}
    same(e, tiny_scope.explain(photo, method="rollout", layers="last2"))
    same(tiny_scope.explain(photo, start_layer=2), tiny_scope.explain(photo, method="rollout", start_layer=2))
