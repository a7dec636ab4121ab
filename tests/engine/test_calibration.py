"""What `auto` does with a calibration: followed for the model that was measured, and for no other."""

import json

import msgspec
import numpy as np
import pytest
import torch

import vitscope
from tests.helpers.calibrations import calibration_of, evidence_of
from tests.helpers.errors import raises
from vitscope._documents import DamagedFileError, document_bytes
from vitscope.engine import calibration as kept
from vitscope.engine.calibration import Setting, calibration_path, read_calibration, write_calibration
from vitscope.errors import ResultError, UsageError

NONE = "not calibrated for this model"


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(kept, "folder", lambda: tmp_path / "calibrations")
    return tmp_path / "calibrations"


@pytest.fixture
def load(tiny_folder, cache):
    """The tiny classifier, whose shipped `auto` is evidence-walk."""
    return lambda **options: vitscope.load(tiny_folder, **options)


@pytest.fixture
def path(load, cache):
    """The file of a calibration in the cache."""
    scope = load(calibration="none")
    path = calibration_path(scope.adapter)
    write_calibration(evidence_of(scope), path)
    return path


def about(explanation):
    return [note for note in explanation.provenance["notes"] if "calibrat" in note]


def test_its_choice_is_auto_and_the_map_says_so(load, path, photo):
    scope = load()
    e = scope.explain(photo)
    assert (e.method, e.provenance["options"]["layers"]) == ("rollout", "last2")
    np.testing.assert_array_equal(e.map, scope.explain(photo, method="rollout", layers="last2").map)
    (note,) = about(e)
    assert note.code == "engine.chosen-because"
    assert "calibrated on 2026-11-29" in note
    assert "0.200 [0.100 0.300]" in note
    known = e.provenance["calibration"]
    assert (known["choice"], known["weights"]) == ("rollout, layers last2", scope.adapter.weights)
    pixels = scope.prepare(photo).pixels[None]
    np.testing.assert_allclose(scope.attribute(pixels).maps[0], e.map, atol=1e-6)
    assert scope.validate().method.name == "rollout"


def test_refinement_and_gradient_rule_belong_to_the_choice(load, photo):
    scope = load(calibration="none")
    choice = Setting("gradcam", {"at": "input"}, "libra", "affinity")
    found = load(calibration=evidence_of(scope, choice)).explain(photo)
    options = {"method": "gradcam", "at": "input", "gradient_rule": "libra", "refine": "affinity"}
    np.testing.assert_array_equal(found.map, scope.explain(photo, **options).map)
    assert found.provenance["refine"] == "affinity"


def test_without_one_that_is_said_once_and_for_auto_only(load, path, photo, cache):
    scope = load(calibration="none")
    assert about(scope.explain(photo)) == [NONE]
    assert about(scope.explain(photo, method="rollout")) == []
    path.unlink()
    assert about(load().explain(photo)) == [NONE]


def test_nothing_is_hashed_without_calibrations(load, monkeypatch, cache):
    scope = load()
    monkeypatch.setattr(type(scope.adapter), "weights", property(lambda self: pytest.fail("hashed")))
    assert scope.recommend().note == NONE
    (cache / "5-abc.json").parent.mkdir()
    (cache / "5-abc.json").write_text("of a model of five numbers")
    scope = load()
    assert scope.recommend().note == NONE


def test_options_that_the_choice_lacks_lead_back_to_the_default(load, path):
    choice = load().recommend(at="input")
    assert choice.method == "evidence-walk"
    assert choice.note.code == "engine.calibration.not-used"
    assert "at" in choice.note


def test_a_default_that_nothing_beat_stays(load):
    scope = load(calibration="none")
    for outcome, words in (("kept", "the best of 9"), ("unfaithful", "less faithful")):
        choice = load(calibration=evidence_of(scope, Setting("evidence-walk"), outcome=outcome)).recommend()
        assert (choice.method, choice.note.code) == ("evidence-walk", "engine.calibration.note")
        assert words in choice.note
        assert choice.calibration["outcome"] == outcome


@pytest.mark.parametrize("outcome", ["unnamed", "ignored", "dense", "failed"])
def test_a_question_without_an_answer_is_said(load, outcome):
    scope = load(calibration="none")
    found = evidence_of(scope, outcome=outcome)
    answer = msgspec.structs.replace(found.answers["evidence"], choice=None, default=None)
    choice = load(calibration=msgspec.structs.replace(found, answers={"evidence": answer})).recommend()
    assert (choice.method, choice.note.code) == ("evidence-walk", "engine.calibration.not-used")
    assert answer.reason in choice.note


def test_what_another_default_was_compared_with_says_nothing(load):
    scope = load(calibration="none")
    found = calibration_of(scope, "evidence", Setting("pca"), Setting("rollout"), version="0.0.1")
    choice = load(calibration=found).recommend()
    assert choice.method == "evidence-walk"
    assert all(word in choice.note for word in ("0.0.1", "pca"))


def test_another_question_is_not_answered(load):
    scope = load(calibration="none")
    choice = load(calibration=calibration_of(scope, "objects", Setting("random-walk"), Setting("pca"))).recommend()
    assert choice.method == "evidence-walk"
    assert choice.note.code == "engine.calibration.not-used"


# --- which model -----------------------------------------------------------------------------------------------------


def test_that_of_another_model_is_refused_with_both(load, path):
    other = evidence_of(load(), weights="sha256:other")
    with raises(UsageError, "engine.calibration.other-model", "engine.calibration.other-model.hint") as caught:
        load(calibration=other)
    assert "sha256:other" in str(caught.value)
    assert load().adapter.weights in str(caught.value)
    path.write_bytes(document_bytes(msgspec.to_builtins(other)))  # a file that was copied over
    choice = load().recommend()
    assert (choice.method, choice.note.code) == ("evidence-walk", "engine.calibration.damaged")


def test_another_output_is_another_model(load, path):
    with raises(UsageError, "engine.calibration.other-model"):
        load(calibration=path, multi_label=True)
    assert load(multi_label=True).recommend().note == NONE


def test_changed_weights_are_another_model(load, path):
    scope = load()
    assert scope.recommend().method == "rollout"
    with torch.no_grad():
        next(scope.model.parameters()).add_(1)
    choice = scope.recommend()
    assert (choice.method, choice.note.code) == ("evidence-walk", "engine.calibration.changed")


# --- files -----------------------------------------------------------------------------------------------------------


def changed(text, setting=None, **fields):
    document = json.loads(text)
    document.pop("sha256")
    if setting is not None:
        document["answers"]["evidence"]["choice"] = setting
    return document_bytes(document | fields)


def with_number(text, **fields):
    """Change the first interval of a row."""
    document = json.loads(text)
    document.pop("sha256")
    row = document["answers"]["evidence"]["rows"][0]
    for name, value in fields.items():
        (row if name == "p" else next(iter(row["numbers"].values())))[name] = value
    return document_bytes(document)


@pytest.mark.spread
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda text: text.replace(b'"better"', b'"kept"'), "sha256"),
        (lambda text: text[:-200], "not JSON"),
        (lambda text: b" " * (1 << 20) + text, "more than"),
        (lambda text: changed(text, surprise=1), "surprise"),
        (lambda text: changed(text, made="yesterday"), "made"),
        (lambda text: changed(text, seconds=-1.0), "seconds"),
        (lambda text: changed(text, answers={"meaning": {"outcome": "kept"}}), "answers"),
        (lambda text: changed(text, answers={"evidence": {"outcome": "better"}}), "answers.evidence"),
        (lambda text: changed(text, setting={"method": "no-such"}), "no-such"),
        (lambda text: changed(text, setting={"method": "rollout", "method_options": {"a": 1}}), "answers.evidence"),
        (lambda text: changed(text, setting={"method": "rollout", "gradient_rule": "x"}), "gradient_rule"),
        (lambda text: changed(text, setting={"method": "pca"}), "answers.evidence"),
        (lambda text: with_number(text, count=-1), "count"),
        (lambda text: with_number(text, p=1.5), "p`?"),
        (lambda text: with_number(text, low=2.0, high=-2.0), "answers.evidence"),
    ],
)
def test_damaged_files_are_refused_and_in_the_cache_left_out(load, path, damage, told):
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedFileError, match=told):
        read_calibration(path)
    choice = load().recommend()
    assert (choice.method, choice.note.code) == ("evidence-walk", "engine.calibration.damaged")


def test_other_files_are_told(load, path, tmp_path):
    path.write_bytes(changed(path.read_bytes(), schema=2))
    with raises(ResultError, "documents.schema"):
        load(calibration=path)
    with raises(ResultError, "documents.damaged"):
        load(calibration=tmp_path / "nowhere.json")


def test_it_is_written_and_read_whole(load, tmp_path):
    found = evidence_of(load(), outcome="kept")
    write_calibration(found, tmp_path / "new" / "c.json")
    assert read_calibration(tmp_path / "new" / "c.json") == found
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["c.json"]
