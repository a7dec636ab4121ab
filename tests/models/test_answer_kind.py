"""What the numbers of an answer are: scores, probabilities or features, of models that state nothing."""

import numpy as np
import pytest
import torch

import vitscope
from tests.helpers.errors import raises
from tests.models.toys_heads import HEADS, Around, backbone
from vitscope.errors import UsageError
from vitscope.models.answers.answer_kind import find_answer_kind
from vitscope.models.answers.answers import answer_of

LAST = {(kind, width): name for name, (_, kind, width) in HEADS.items()}
ONE_OF_EACH = [name if name in LAST.values() else pytest.param(name, marks=pytest.mark.slow) for name in HEADS]
PHOTO = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", HEADS)
def test_the_operations_before_an_answer_say_what_it_is(name):
    make, kind, width = HEADS[name]
    torch.manual_seed(0)
    model = make()
    before = [parameter.requires_grad for parameter in model.parameters()]
    found = find_answer_kind(lambda pixels: answer_of(model(pixels)), model, torch.randn(1, 3, 32, 32))
    assert (found.kind, found.width) == (kind, width)
    assert bool(found.reason) == (kind != "scores")
    assert [parameter.requires_grad for parameter in model.parameters()] == before
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.spread
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_predictions_say_what_the_model_says(name):
    make, kind, _ = HEADS[name]
    torch.manual_seed(0)
    model = make().eval()
    scope = vitscope.load(model)
    e = scope.explain(PHOTO, method="rollout")
    pixels, _ = scope.adapter.prepare(vitscope.images.load_image(PHOTO))
    with torch.no_grad():
        answer = model(pixels[None]).double().reshape(-1)
    if kind == "features":
        assert e.predictions == []
        assert e.activation is e.provenance["activation"] is None
        assert scope.adapter.name != "generic" or "features" in " ".join(e.provenance["notes"])
        return
    shares = answer.sigmoid() if len(answer) == 1 else answer.softmax(0)
    expected = answer if kind in ("probabilities", "values") else shares
    best = list(range(len(answer))) if kind == "values" else expected.argsort(descending=True)[:5].tolist()
    assert [label for label, _ in e.predictions] == [f"class {number}" for number in best]
    np.testing.assert_allclose([p for _, p in e.predictions], expected[best], rtol=1e-6)


class TestLabels:
    """`labels=` makes classes of what would be features, and features of what would be classes."""

    def test_labels_make_classes_of_a_projection(self):
        model = HEADS["projection"][0]()
        names = [f"kind {number}" for number in range(8)]
        e = vitscope.load(model, labels=names).explain(PHOTO, method="rollout")
        assert {label for label, _ in e.predictions} <= set(names)
        assert e.provenance["notes"] == [note for note in e.provenance["notes"] if "features" not in note]

    def test_no_labels_make_features_of_a_head(self):
        e = vitscope.load(HEADS["linear"][0](), labels=[]).explain(PHOTO, method="rollout")
        assert (e.predictions, e.provenance["activation"]) == ([], None)

    @pytest.mark.spread
    @pytest.mark.parametrize("count", [2, 4])
    def test_as_many_as_outputs(self, count):
        with raises(UsageError, "models.labels.count") as caught:
            vitscope.load(HEADS["linear"][0](), labels=["name"] * count)
        assert str(count) in caught.value.message
        assert "3 numbers" in caught.value.message

    def test_a_class_by_its_given_name(self, tmp_path):
        (tmp_path / "names.txt").write_text("ant\nbee\ncat\n")
        scope = vitscope.load(HEADS["linear"][0](), labels=tmp_path / "names.txt")
        named, numbered = (scope.explain(PHOTO, method="gradcam", target=target) for target in ("bee", 1))
        assert named.target == numbered.target == "bee"
        np.testing.assert_array_equal(named.map, numbered.map)


def test_classes_may_be_independent_in_any_model():
    torch.manual_seed(0)
    model = Around(lambda own, f: own.head(f), head=torch.nn.Linear(32, 3)).eval()
    scope = vitscope.load(model, multi_label=True)
    e = scope.explain(PHOTO, method="rollout")
    pixels, _ = scope.adapter.prepare(vitscope.images.load_image(PHOTO))
    expected = 1 / (1 + np.exp(-model(pixels[None])[0].detach().double().numpy()))
    np.testing.assert_allclose([p for _, p in e.predictions], sorted(expected, reverse=True), rtol=1e-6)
    assert e.provenance["activation"] == "sigmoid"


@pytest.mark.parametrize("own", [True, False])
def test_the_users_own_head_is_not_given_names_of_other_classes(own):
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8,
        num_labels=6, id2label={n: f"old {n}" for n in range(6)},
    )  # fmt: skip
    torch.manual_seed(0)
    model = ViTForImageClassification(config).eval()
    model.classifier = torch.nn.Linear(32, 4) if own else torch.nn.Identity()
    scope = vitscope.load(model)
    e = scope.explain(PHOTO, method="rollout")
    assert [label for label, _ in e.predictions if "old" in label] == []
    assert len(e.predictions) == (4 if own else 0)
    assert scope.adapter.labels == {}


@pytest.mark.parametrize("numbers", [(0, 1, 10), (1, 2, 3), (0, 1)])
def test_names_of_other_numbers_than_the_outputs_are_left_out(numbers):
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    model = ViTForImageClassification(ViTConfig(**small, image_size=32, patch_size=8, num_labels=3)).eval()
    model.config.id2label = {number: f"name {number}" for number in numbers}
    scope = vitscope.load(model)
    assert scope.adapter.labels == {}
    assert [note.code for note in scope.adapter.notes] == ["models.labels-of-other-classes"]


def test_what_is_done_to_the_answer_behind_a_known_model_is_seen():
    """A ReLU changes nothing on noise whose number is positive, and a clamp only what is far out."""
    model = backbone(num_classes=1)
    for last in (torch.nn.ReLU(), torch.nn.Hardtanh(0.0, 100.0)):
        with torch.no_grad():
            model.head.bias.fill_(5)
        scope = vitscope.load(torch.nn.Sequential(model, last).eval())
        with torch.no_grad():
            model.head.bias.fill_(-5)
        e = scope.explain(PHOTO, method="rollout")
        assert (e.activation, e.predictions) == ("value", [("class 0", 0.0)])


class TestTimm:
    """timm gives every model the configuration of pretrained weights: it proves nothing about the classes."""

    def test_a_thousand_classes_of_ones_own(self):
        e = vitscope.load(backbone(num_classes=1000)).explain(PHOTO, method="rollout")
        assert all(label.startswith("class ") for label, _ in e.predictions)

    def test_names_come_with_the_pretrained_classifier(self, tmp_path):
        from safetensors.torch import save_file
        from timm.data import ImageNetInfo

        model = backbone(num_classes=1000)
        model.reset_classifier(1000)  # fmt: skip
        torch.nn.init.normal_(model.head.weight)
        file = tmp_path / "model.safetensors"
        save_file(model.state_dict(), file)
        model.pretrained_cfg = {**model.pretrained_cfg, "file": str(file)}
        lemmas = ImageNetInfo("imagenet-1k").label_descriptions()
        assert vitscope.load(model).adapter.labels == dict(enumerate(lemmas))
        with torch.no_grad():
            model.head.weight[7, 3] += 1e-3  # trained on
        assert vitscope.load(model).adapter.labels == {}

    def test_names_that_the_configuration_gives(self):
        model = backbone(num_classes=3)
        model.pretrained_cfg = {**model.pretrained_cfg, "label_names": ["n1", "n2", "n3"], "num_classes": 3}
        assert vitscope.load(model).adapter.labels == {0: "n1", 1: "n2", 2: "n3"}
        model.pretrained_cfg["label_descriptions"] = {"n2": "fish"}
        assert vitscope.load(model).adapter.labels == {0: "n1", 1: "fish", 2: "n3"}

    def test_clips_projection_is_no_classifier(self):
        import timm

        small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
        for classes, predictions in ((512, 0), (7, 5)):
            model = timm.create_model("vit_base_patch16_clip_224.openai", **small, num_classes=classes).eval()
            assert len(vitscope.load(model).explain(PHOTO, method="rollout").predictions) == predictions
