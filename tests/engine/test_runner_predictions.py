"""What a number means: one logit, independent classes, probabilities of the model's own, and values of a regression.

Expected numbers are made of the model's own answer by NumPy.
"""

import json

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

import vitscope
from tests.helpers.errors import raises
from tests.models.toys_heads import Around
from vitscope.batch.results import explanation_from_row
from vitscope.batch.rows import explanation_row, to_table
from vitscope.batch.types import Ref
from vitscope.errors import UnknownNameError, UsageError
from vitscope.explanation import Explanation

PHOTO = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32})


def classifier(*names, bias=None, **options):
    torch.manual_seed(0)
    config = ViTConfig(
        **SMALL,
        **{"image_size": 32, "patch_size": 8, "num_labels": len(names)},
        **{"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}, **options},
    )
    model = ViTForImageClassification(config).eval()
    if bias is not None:
        torch.nn.init.constant_(model.classifier.bias, bias)
    return model


def logits_of(model, covered=()):
    """The model's own answer, in float64, with some patches painted in the image's mean colour."""
    pixels = PROCESSOR(PHOTO, return_tensors="pt")["pixel_values"]
    mean = pixels.mean((2, 3), keepdim=True)
    for row, column in covered:
        pixels[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = mean
    with torch.no_grad():
        return model(pixels).logits[0].double().numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class TestOneLogit:
    """A binary classifier trained with BCEWithLogitsLoss."""

    @pytest.fixture
    def model(self):
        return classifier("pneumonia", bias=-4)

    def test_predictions_everywhere(self, model):
        expected = sigmoid(logits_of(model)[0])
        assert 0.005 < expected < 0.05
        scope = vitscope.load(model, processor=PROCESSOR)
        e = scope.explain(PHOTO)
        assert e.predictions == [("pneumonia", pytest.approx(expected, rel=1e-5))]
        assert (e.target, e.activation) == ("pneumonia", "sigmoid")
        assert f"pneumonia {expected:.1%}" in e.card().html()
        hidden = scope.predict_without(PHOTO, [0])
        expected = sigmoid(logits_of(model, [(0, 0)])[0])
        assert hidden.predictions == [("pneumonia", pytest.approx(expected, rel=1e-5))]
        assert hidden.score == pytest.approx(expected, rel=1e-5)
        document = scope.view(PHOTO, measure=False).header
        assert (document["predictions"], document["activation"]) == ([["pneumonia", e.predictions[0][1]]], "sigmoid")
        lens = scope.logit_lens(PHOTO)
        assert lens[-1].predictions[0][1] == pytest.approx(e.predictions[0][1], rel=1e-4)

    def test_measuring_follows_a_score_that_changes(self, model):
        scope = vitscope.load(model, processor=PROCESSOR)
        m = scope.measure(scope.explain(PHOTO), metrics="deletion", n_random_maps=2, steps=4, baseline="mean")
        assert m.whole == pytest.approx(sigmoid(logits_of(model)[0]), rel=1e-5)
        empty = sigmoid(logits_of(model, [(row, column) for row in range(4) for column in range(4)])[0])
        assert m.empty == pytest.approx(empty, rel=1e-5)
        assert m.empty != m.whole
        assert len(set(m.numbers[0].y)) > 1

    @pytest.mark.parametrize("target", [0, "0", "pneumonia", "class 0", None])
    def test_the_one_class_is_a_target(self, model, target):
        e = vitscope.load(model, processor=PROCESSOR).explain(PHOTO, method="relevance", target=target)
        assert (e.target, e.score) == ("pneumonia", pytest.approx(logits_of(model)[0], rel=1e-5))

    def test_there_is_no_second(self, model):
        scope = vitscope.load(model, processor=PROCESSOR)
        with raises(UsageError, "methods.no-such-class"):
            scope.explain(PHOTO, method="relevance", target=1)
        with raises(UnknownNameError, "errors.unknown-name"):
            scope.explain(PHOTO, method="relevance", target="not pneumonia")
        with raises(UsageError, "models.labels.count", "models.labels.one.hint"):
            vitscope.load(model, processor=PROCESSOR, labels=["normal", "pneumonia"])

    @pytest.mark.parametrize("said", [True, False, None])
    def test_it_shares_its_probability_with_none(self, model, said):
        e = vitscope.load(model, processor=PROCESSOR, multi_label=said).explain(PHOTO, method="rollout")
        assert e.predictions[0][1] == pytest.approx(sigmoid(logits_of(model)[0]), rel=1e-5)


class TestRegression:
    """A model of values: no probability, and no percent sign."""

    @pytest.fixture
    def model(self):
        return classifier("age", bias=54.25, problem_type="regression")

    def test_values_everywhere(self, model, tmp_path):
        value = logits_of(model)[0]
        scope = vitscope.load(model, processor=PROCESSOR)
        e = scope.explain(PHOTO)
        assert e.predictions == [("age", pytest.approx(value, rel=1e-6))]
        assert (e.activation, e.prediction_texts()) == ("value", [f"age {value:.4g}"])
        assert f"<li>age {value:.4g}" in e.card().html() or f"age {value:.4g}" in e.card().html()
        manifest = e.manifest()
        assert manifest["predictions"] == [{"label": "age", "value": e.predictions[0][1]}]
        again = Explanation.load(e.save(tmp_path / "out"))
        assert (again.predictions, again.activation) == (e.predictions, "value")

    def test_a_row_of_a_dataset_says_value(self, model):
        e = vitscope.load(model, processor=PROCESSOR).explain(PHOTO, method="rollout")
        row = explanation_row(Ref(0, "0", "a.png", "file", "a.png"), "", None, e)
        (row,) = to_table([row]).to_pylist()
        assert row["top"] == [{"label": "age", "probability": None, "value": pytest.approx(e.predictions[0][1])}]
        assert explanation_from_row(row, photo=False).prediction_texts() == e.prediction_texts()

    def test_measuring_follows_the_value(self, model):
        scope = vitscope.load(model, processor=PROCESSOR)
        e = scope.explain(PHOTO)
        m = scope.measure(e, metrics="deletion", n_random_maps=2, steps=4)
        assert (m.whole, m.score) == (pytest.approx(logits_of(model)[0]), "value of age (a regression, no probability)")
        with raises(UsageError, "metrics.not-logits"):
            scope.measure(e, score="logit")

    def test_the_caller_knows_better(self, model):
        e = vitscope.load(model, processor=PROCESSOR, multi_label=True).explain(PHOTO, method="rollout")
        assert e.predictions == [("age", pytest.approx(sigmoid(logits_of(model)[0])))]


def test_several_values_stay_in_order():
    model = classifier("x", "y", "z", problem_type="regression")
    e = vitscope.load(model, processor=PROCESSOR).explain(PHOTO, method="rollout")
    assert [label for label, _ in e.predictions] == ["x", "y", "z"]
    np.testing.assert_allclose([value for _, value in e.predictions], logits_of(model), rtol=1e-5)


@pytest.mark.spread
@pytest.mark.parametrize("how", ["config", "multi_label", "neither"])
def test_independent_classes(how):
    names = ("cat", "dog", "fox")
    options = {"problem_type": "multi_label_classification"} if how == "config" else {}
    model = classifier(*names, **options)
    scope = vitscope.load(model, processor=PROCESSOR, multi_label=True if how == "multi_label" else None)
    e, logits = scope.explain(PHOTO), logits_of(model)
    shares = np.exp(logits) / np.exp(logits).sum() if how == "neither" else sigmoid(logits)
    assert dict(e.predictions) == {name: pytest.approx(p, rel=1e-5) for name, p in zip(names, shares, strict=True)}
    assert e.provenance["activation"] == ("softmax" if how == "neither" else "sigmoid")
    m = scope.measure(e, metrics="saco", n_random_maps=2)
    assert m.whole == pytest.approx(max(shares), rel=1e-5)
    forced = vitscope.load(model, processor=PROCESSOR, multi_label=False).explain(PHOTO, method="rollout")
    assert forced.predictions[0][1] == pytest.approx(np.exp(logits).max() / np.exp(logits).sum(), rel=1e-5)


@pytest.mark.spread
@pytest.mark.parametrize("after", ["softmax", "sigmoid"])
def test_probabilities_of_the_models_own_stay_what_they_are(after):
    torch.manual_seed(0)
    end = {"softmax": lambda x: x.softmax(-1), "sigmoid": torch.sigmoid}[after]
    model = Around(lambda own, f: end(own.head(f)), head=torch.nn.Linear(32, 3)).eval()
    scope = vitscope.load(model)
    e = scope.explain(PHOTO, method="gradcam")
    pixels, _ = scope.adapter.prepare(vitscope.images.load_image(PHOTO))
    expected = model(pixels[None])[0].detach().double().numpy()
    assert e.predictions[0] == (e.target, pytest.approx(expected.max(), rel=1e-6))
    assert scope.measure(e, metrics="saco", n_random_maps=2).whole == pytest.approx(expected.max(), rel=1e-6)
    assert e.activation == "given"


class TestTwoOfAName:
    """Of two cranes the reader sees which one, and can ask for it."""

    @pytest.fixture
    def scope(self):
        return vitscope.load(classifier("crane", "fox", "crane"), processor=PROCESSOR)

    def test_what_is_shown_can_be_asked_for(self, scope):
        e = scope.explain(PHOTO, method="relevance", target=2)
        assert e.target == "crane (class 2)"
        again = scope.explain(PHOTO, method="relevance", target=e.target)
        np.testing.assert_array_equal(e.map, again.map)
        assert {label for label, _ in e.predictions} == {"crane (class 0)", "fox", "crane (class 2)"}

    def test_a_page_has_a_map_of_each(self, scope):
        maps = scope.view(PHOTO, top=3, measure=False).header["maps"]
        scores = {one["label"]: one["score"] for one in maps if one["label"]}
        logits = logits_of(scope.adapter.model)
        names = ("crane (class 0)", "fox", "crane (class 2)")
        assert scores == {name: pytest.approx(x, rel=1e-5) for name, x in zip(names, logits, strict=True)}

    def test_the_bare_name_is_refused(self, scope):
        with raises(UsageError, "methods.several-classes"):
            scope.explain(PHOTO, method="relevance", target="crane")


def test_no_number_in_json_is_none(tmp_path):
    e = vitscope.load(classifier("a", "b"), processor=PROCESSOR).explain(PHOTO)
    with pytest.raises(ValueError, match="JSON"):
        json.dumps(float("nan"), allow_nan=False)
    object.__setattr__(e, "score", float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        e.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
