"""Calibration: the setting that tells the truth is found, the same each time, and only used where it was measured."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import vitscope
from tests.bench.toys_calibration import SIDE, Reddish, scenes
from tests.helpers.errors import raises
from vitscope.bench import calibrate as calibrate_module
from vitscope.bench import calibration_cases
from vitscope.bench.calibrate import calibrate, table
from vitscope.bench.cases import Case
from vitscope.bench.run_log import CaseResult
from vitscope.engine import calibration as kept
from vitscope.engine.calibration import Row, Setting, calibration_path
from vitscope.errors import UnsupportedError, UsageError
from vitscope.methods.base import METHODS
from vitscope.metrics.resampling import Difference, Estimate

TRIED = {"random-walk", "rollout", "pca", "evidence-walk", "input-x-gradient"}


def pixels_of(image):
    return torch.from_numpy(np.asarray(image.convert("RGB").resize((SIDE, SIDE))) / np.float32(255)).permute(2, 0, 1)


def toy(classes=False, **options):
    names = ["red", "green", "blue"] if classes else []
    return vitscope.load(Reddish(classes).eval(), processor=pixels_of, labels=names, **options)


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Few cases of scenes that the toy knows, and a cache of their own."""
    monkeypatch.setattr(calibration_cases.planted, "scenes", scenes)
    monkeypatch.setattr(calibrate_module, "QUICK", ((1, 2), 8, 2))
    monkeypatch.setattr(calibrate_module, "_LEFT_OUT", {name for name, _ in METHODS} - TRIED)
    monkeypatch.setattr(kept, "folder", lambda: tmp_path / "calibrations")


@pytest.fixture(scope="module")
def _measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated")
    with pytest.MonkeyPatch.context() as patch:
        small.__wrapped__(patch, folder)
        scope = toy()
        return scope.calibrate(quick=True), folder / "calibrations", scope


@pytest.fixture
def measured(_measured, tmp_path):
    """A calibration of the toy, and a copy of its cache."""
    found, folder, _ = _measured
    shutil.copytree(folder, tmp_path / "calibrations")
    return found


def notes(scope, **options):
    return scope.explain(scenes(1)[0].image, **options).provenance["notes"]


@pytest.mark.slow
def test_the_gradient_is_chosen_where_only_the_gradient_tells(measured):
    answer = measured.answers["objects"]
    assert str(answer.default) == "random-walk"
    assert answer.outcome == "better"
    assert "gradient" in METHODS.get(answer.choice.method).requires
    rows = {row.label: row for row in answer.rows}
    default, chosen = rows["random-walk"], rows[str(answer.choice)]
    assert default.numbers["auc"].value < 0.7 < 0.99 < chosen.numbers["auc"].value
    assert chosen.difference.low > 0
    # the same numbers in another way: the choice's own maps of the report's scenes
    scope, setting = toy(calibration="none"), answer.choice
    for name in ("auc", "pointing"):
        own = [
            calibration_cases._object_numbers(
                scope.explain(
                    scene.image,
                    method=setting.method,
                    gradient_rule=setting.gradient_rule,
                    refine=setting.refine,
                    method_options=setting.method_options,
                ),
                scene.mask,
            )[name]
            for scene in scenes(8)
        ]
        assert np.mean(own) == pytest.approx(chosen.numbers[name].value, abs=1e-6)


@pytest.mark.slow
def test_auto_follows_it_and_says_so(measured):
    scope, choice = toy(), measured.answers["objects"].choice
    e = scope.explain(scenes(1)[0].image)
    assert e.method == choice.method
    assert any(note.code == "engine.chosen-because" and "calibrated on" in note for note in e.provenance["notes"])
    assert e.provenance["calibration"]["choice"] == str(choice)
    assert e.provenance["calibration"]["weights"] == scope.adapter.weights
    np.testing.assert_array_equal(scope.attribute(pixels_of(Image.fromarray(scenes(1)[0].image))[None]).maps[0], e.map)
    assert scope.recommend(residual_weight=0.3).method == "rollout"  # an option that the choice does not have
    codes = [note.code for note in notes(scope, residual_weight=0.3)]
    assert "engine.calibration.not-used" in codes


def test_a_target_is_a_question_of_its_own(measured):
    scope = toy()
    like = vitscope.similar_to(scenes(2)[1].image)
    assert scope.recommend(target=like).method == "evidence-walk"
    assert scope.recommend(target=like).note.code == "engine.calibration.not-used"


@pytest.mark.slow
def test_the_same_twice_and_after_an_interruption(measured, tmp_path):
    shutil.rmtree(tmp_path / "calibrations")
    seen = []

    def stop(stage, done, total):
        seen.append(stage)
        if len(seen) == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy().calibrate(quick=True, progress=stop)
    (log,) = (tmp_path / "calibrations").iterdir()
    before = (log / "rows.jsonl").read_bytes()
    assert len(before.splitlines()) > 20
    again = toy().calibrate(quick=True)
    assert again.answers == measured.answers
    assert [path.suffix for path in (tmp_path / "calibrations").iterdir()] == [".json"]


def test_a_finished_one_is_not_measured_again_unless_asked(measured):
    def fail(stage, done, total):
        raise AssertionError

    assert toy().calibrate(quick=True, progress=fail) == measured
    with pytest.raises(AssertionError):
        toy().calibrate(quick=True, progress=fail, force=True)
    with pytest.raises(AssertionError):
        toy().calibrate(quick=True, progress=fail, seed=1)


def test_it_can_be_shared_but_not_with_another_model(measured, tmp_path):
    file = tmp_path / "shared.json"
    toy().calibrate(quick=True, export=file)
    shutil.rmtree(tmp_path / "calibrations")
    assert toy(calibration=file).recommend().method == measured.answers["objects"].choice.method
    other = Reddish().eval()
    with torch.no_grad():
        other.places.add_(1)
    with raises(UsageError, "engine.calibration.other-model") as caught:
        vitscope.load(other, processor=pixels_of, labels=[], calibration=file)
    assert measured.weights in str(caught.value)
    assert vitscope.load(other, processor=pixels_of, labels=[]).adapter.weights in str(caught.value)


# --- the search and the decision, without a model ---------------------------------------------------------------------


def test_halving_finds_the_best_and_its_neighbours_join():
    truth = {"pca": 0.2, "rollout": 0.5, "attention": 0.4, "ncut": 0.3, "rollout, layers last2": 0.9}
    asked = []

    def run(cases, pool, stage):
        if any(setting.method == "gradcam" for setting in pool):
            raise UsageError("no such layer here")
        pairs = [(str(setting), case.name) for setting in pool for case in cases]
        asked.extend(pairs)
        return [
            CaseResult(label, case, "", error="does not apply")
            if label == "ncut"
            else CaseResult(label, case, "", {"score": truth[label]})
            for label, case in pairs
        ]

    def more(best):
        yield Setting(best.method, {"layers": "last2"})

    cases = calibration_cases.CaseSet("planted", [Case(name, "", lambda: None, dict) for name in "abcdef"], [])
    pool = [Setting(name) for name in ("pca", "rollout", "attention", "gradcam", "ncut")]
    ranked, tried = calibrate_module._search(pool, cases, (2, 6), run, more)
    assert [str(setting) for setting in ranked] == ["rollout, layers last2", "rollout", "attention", "pca"]
    assert tried == 6
    assert ("rollout", "f") in asked
    assert ("ncut", "f") not in asked  # it failed at the first rung


BETTER = Difference(0.1, 0.05, 0.2, 0.001, False)
LESS = {"faithfulness": Difference(-0.2, -0.3, -0.1, 0.001, False)}


@pytest.mark.parametrize(
    ("changes", "alone"),
    [
        ({}, "better"),
        ({"faithfulness": Difference(-0.2, -0.3, 0.1, 0.2, False)}, "better"),
        (LESS, "unfaithful"),
        ({"difference": Difference(0.1, -0.01, 0.2, 0.04, False)}, "kept"),
        ({"p": 0.06}, "kept"),
        ({"numbers": {"score": Estimate(0.9, 0.8, 1.0, 19)}}, "kept"),  # it lacks one of the cases
    ],
)
def test_the_first_of_the_search_that_is_better_and_no_less_faithful(changes, alone):
    first, second, default = (Setting(name) for name in ("rollout", "attention", "pca"))
    good = {"numbers": {"score": Estimate(0.9, 0.8, 1.0, 20)}, "difference": BETTER, "p": 0.01}
    rows = {"rollout": Row("rollout", **good | changes), "attention": Row("attention", **good)}
    rows["pca"] = Row("pca", good["numbers"])
    taken = first if alone == "better" else default
    assert calibrate_module._decide(rows, default, [first]) == (alone, taken)
    assert calibrate_module._decide(rows, default, [first, second]) == ("better", first if taken == first else second)


def test_what_a_mask_covers_of_each_patch():
    e = toy(calibration="none").explain(scenes(1)[0].image, method="rollout")
    mask = np.zeros((SIDE, SIDE), bool)
    mask[4:8, :16] = True
    covered = calibration_cases._covered(e, mask)
    assert covered.sum() == 1.0
    assert (covered[0, :2] == 0.5).all()


# --- why this class --------------------------------------------------------------------------------------------------


@pytest.fixture
def squares(tmp_path):
    """Photos of three colours, and one that says nothing."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, colour in enumerate([(220, 20, 20), (20, 220, 20), (20, 20, 220)] * 4):
        noise = np.random.default_rng(number).integers(-20, 20, (80, 90, 3))
        Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    Image.fromarray(np.full((50, 50, 3), 128, np.uint8)).save(folder / "grey.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.mark.slow
def test_a_grid_asks_for_the_image_that_the_model_names(squares):
    scope, told = toy(classes=True), []
    found = calibration_cases.evidence_cases(scope, 8, 8, 0, 0, squares, told.append)
    assert (found.kind, found.images, found.problem) == ("images", 12, None)
    assert any("broken.png" in words for words in told)
    assert (len(found.tune), len(found.report)) == (8, 8)
    shown = [{case.name.split()[2] for case in cases} for cases in (found.tune, found.report)]
    assert not shown[0] & shown[1]
    for case in found.report:
        image, mask = case.load()
        assert image[mask].mean(0).argmax() == case.target  # red is class 0
        assert mask.mean() == 0.25
        assert (image[~mask].argmax(1) != case.target).all()
        e = scope.explain(image, method="input-x-gradient", target=case.target)
        assert case.judge(e, mask)["share"] > 0.9


@pytest.mark.slow
def test_a_classifier_is_asked_for_evidence(squares):
    found = toy(classes=True).calibrate(quick=True, images=squares)
    answer = found.answers["evidence"]
    assert answer.cases == "images"
    rows = {row.label: row for row in answer.rows}
    assert {*rows} >= {"evidence-walk", "random", "centre prior"}
    assert rows["the right answer"].numbers["faithful"].low > 0  # without its cell the class falls
    headings, rows = table(answer)
    assert headings[:4] == ["method", "score", "share", "pointing"]
    assert len(rows) == len(answer.rows)


def test_what_cannot_be_asked_is_said(monkeypatch, squares):
    monkeypatch.setattr(calibration_cases, "CONFIDENT", 1.1)
    monkeypatch.setattr(calibration_cases.photos, "sample_photos", dict)
    monkeypatch.setattr(calibration_cases, "_patterns", dict)
    scope = toy(classes=True)
    answer = scope.calibrate(quick=True, images=squares).answers["evidence"]
    assert (answer.outcome, answer.choice, answer.rows) == ("unnamed", None, [])
    assert scope.recommend().note.code == "engine.calibration.not-used"
    assert scope.recommend().method == "evidence-walk"


def test_a_cell_that_the_model_ignores_is_no_case(squares, monkeypatch):
    scope = toy(classes=True)
    monkeypatch.setattr(calibration_cases, "_answer", lambda scope, pixels: torch.tensor([[1.0, 0, 0]]))
    assert calibration_cases.evidence_cases(scope, 8, 8, 0, 0, squares).problem in ("ignored", "unnamed")


def test_other_media_are_refused(monkeypatch):
    scope = toy()
    monkeypatch.setattr(scope.adapter, "bands", 5, raising=False)
    with raises(UnsupportedError, "bench.calibrate-medium"):
        calibrate(scope)


def test_the_path_is_that_of_the_weights_and_the_output(measured, tmp_path):
    scope = toy()
    assert calibration_path(scope.adapter).exists()
    assert calibration_path(toy(classes=True).adapter) != calibration_path(scope.adapter)
