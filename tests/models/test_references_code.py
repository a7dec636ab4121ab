"""Code that lies beside weights runs only where the user says so, and heads are loaded as they were saved."""

import ast
import json
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import vitscope
import vitscope.models.references.hub
from tests.helpers.errors import raises
from tests.models import toys_files as toys
from vitscope.cli.main import main
from vitscope.errors import ModelError
from vitscope.models.transformers.loading import Source

SOURCE = Path(vitscope.__file__).parent
PIXELS = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def calls(name):
    """Every call in the sources of a function or method of this name."""
    for path in SOURCE.rglob("*.py"):
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)) if name in text else ():
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == name:
                yield path.relative_to(SOURCE), node


def test_every_place_that_loads_says_whether_code_may_run():
    places = []
    for path, node in calls("from_pretrained"):
        owner = getattr(node.func.value, "id", "") if isinstance(node.func, ast.Attribute) else ""
        if owner == "PeftConfig":  # reads one JSON file
            continue
        given = {keyword.arg for keyword in node.keywords}
        from_state = any(keyword.arg == "state_dict" for keyword in node.keywords)  # of a class that is there
        places.append(path)
        assert "trust_remote_code" in given or None in given or from_state, f"{path}:{node.lineno}"
    assert len(places) >= 6
    assert Source("x", "x", local=True).keywords["trust_remote_code"] is False


def test_every_file_of_torch_is_read_as_tensors_alone():
    found = [
        (path, node) for path, node in calls("load") if getattr(getattr(node.func, "value", None), "id", "") == "torch"
    ]
    assert found
    for path, node in found:
        values = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
        assert values.get("weights_only") is True, f"{path}:{node.lineno}"


class Touch:
    """Pickled, it makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_objects_among_pickled_weights_are_not_read_and_nobody_is_advised_to(tmp_path):
    toys.vit().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"weight": Touch(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    with raises(ModelError, "models.not-loaded") as caught:
        vitscope.load(str(tmp_path))
    assert caught.value.message.params["reason"].code == "models.objects-in-weights"
    assert "load failed" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("what", ["model", "processor"])
def test_nobody_is_asked_and_no_code_runs(tmp_path, photo, what, monkeypatch, capsys):
    folder, marker = tmp_path / "code", tmp_path / "ran"
    folder.mkdir()
    toys.code_folder(folder, marker)
    if what == "processor":
        toys.vit().save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(
            json.dumps({"image_processor_type": "Mine", "auto_map": {"AutoImageProcessor": "modeling_mine.Mine"}})
        )
    command = ["vitscope", "explain", photo, "--model", folder, "-o", tmp_path / "out"]
    capsys.readouterr()  # what transformers tells while it saves
    monkeypatch.setattr(sys, "argv", [*map(str, command)])
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # to whom transformers would put its question
    with pytest.raises(SystemExit, match="1"):
        main()
    [line] = capsys.readouterr().err.splitlines()
    assert "--trust-remote-code" in line
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


def test_code_that_is_trusted_runs_and_is_traced(tmp_path, photo):
    folder, marker = tmp_path / "mine_vit", tmp_path / "ran"
    folder.mkdir()
    model = toys.code_folder(folder, marker)
    with raises(ModelError, "models.remote-code", "models.remote-code.hint") as caught:
        vitscope.load(folder)
    assert "configuration_mine.py, modeling_mine.py" in str(caught.value)
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    scope = vitscope.load(folder, trust_remote_code=True, processor=processor)
    assert marker.exists()
    assert type(scope.model).__name__ == "MineForImageClassification"
    assert torch.allclose(scope.model(PIXELS).logits, model(PIXELS).logits, atol=1e-6)
    e = scope.explain(photo, method="rollout")
    assert abs(e.map - vitscope.load(model, processor=processor).explain(photo, method="rollout").map).max() <= 1e-6
    assert e.provenance["load"]["trust_remote_code"] is True


def heads():
    """Models with heads other than a classifier, as (class, config)."""
    four = toys.small(num_hidden_layers=4)
    dpt = {"neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 8, "backbone_out_indices": [0, 1, 2, 3]}
    beit = {"out_indices": [1, 2, 3, 4], "use_auxiliary_head": False, "pool_scales": [1, 2], "num_labels": 4}
    t = transformers
    yield t.BeitForSemanticSegmentation, t.BeitConfig(**four, **beit)
    yield t.DPTForSemanticSegmentation, t.DPTConfig(**four, **dpt, is_hybrid=False, num_labels=5)
    yield t.DPTForDepthEstimation, t.DPTConfig(**four, **dpt, is_hybrid=False)
    yield (
        t.YolosForObjectDetection,
        t.YolosConfig(**toys.small(image_size=[32, 32]), num_detection_tokens=5, num_labels=3),
    )
    yield t.CLIPVisionModelWithProjection, t.CLIPVisionConfig(**toys.small(), projection_dim=16)
    yield t.DeiTForImageClassificationWithTeacher, t.DeiTConfig(**toys.small(), num_labels=3)


@pytest.mark.spread
@pytest.mark.parametrize(("kind", "config"), [*heads()], ids=lambda value: getattr(value, "__name__", ""))
def test_a_checkpoint_is_the_class_that_was_saved(tmp_path, kind, config):
    torch.manual_seed(6)
    model = kind(config).eval()
    model.save_pretrained(tmp_path)
    scope = vitscope.load(tmp_path)
    assert type(scope.model) is kind
    with torch.no_grad():
        ours, theirs = scope.model(PIXELS).to_tuple(), model(PIXELS).to_tuple()
    assert all(
        torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs, strict=True) if isinstance(a, torch.Tensor)
    )


@pytest.mark.spread
@pytest.mark.parametrize("kind", ["ViTForMaskedImageModeling", "ViTMAEForPreTraining"])
def test_a_head_of_pretraining_is_left_out_and_said(tmp_path, kind):
    config = getattr(transformers, "ViTMAEConfig" if "MAE" in kind else "ViTConfig")(**toys.small())
    getattr(transformers, kind)(config).save_pretrained(tmp_path)
    notes = [
        note for note in vitscope.load(tmp_path).adapter.notes if getattr(note, "code", "") == "models.weights-left-out"
    ]
    assert [note.params["saved"] for note in notes] == [kind]


def test_a_config_that_names_no_class_leaves_no_head_out(tmp_path):
    toys.vit(num_labels=3).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": None}))
    with raises(ModelError, "models.class-unknown"):
        vitscope.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["OurViT"]}))
    with raises(ModelError, "models.unknown-class"):
        vitscope.load(tmp_path)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that has what lies in folders `OWNER/NAME`, and whose cache is empty at first."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    def download(reference, file, *, revision=None, local_files_only=False):
        path = tmp_path / reference / file
        if local_files_only or not path.is_file():
            raise EntryNotFoundError(file)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(vitscope.models.references.hub, "reach_hub", lambda *_, **__: True)
    return tmp_path


def test_a_model_of_timm_on_the_hub_is_the_classifier(hub):
    (hub / "timm").mkdir()
    model = toys.timm_folder(hub / "timm" / "vit_toy")
    scope = vitscope.load("timm/vit_toy")
    pixels = torch.rand(1, 3, 224, 224)
    assert torch.equal(scope.model(pixels), model(pixels))
    assert dict(scope.adapter.labels) == {0: "cat", 1: "dog", 2: "owl"}
    assert scope.adapter.reference == "timm/vit_toy"


def test_code_on_the_hub_is_refused_before_anything_else_is_fetched(hub):
    (hub / "some" / "one").mkdir(parents=True)
    toys.code_folder(hub / "some" / "one", hub / "ran")
    with raises(ModelError, "models.remote-code"):
        vitscope.load("some/one")
    assert not (hub / "ran").exists()
