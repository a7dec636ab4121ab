"""The flags that say how a model is loaded: every command has them, and a batch keeps to them."""

import json
from inspect import signature

import pyarrow.parquet as pq
import pytest

import vitscope
from tests.helpers.console import manifest, one_line
from tests.helpers.errors import raises
from vitscope.batch.run import run
from vitscope.batch.types import BatchPlan
from vitscope.cli.commands import _options as opt
from vitscope.cli.main import app
from vitscope.errors import ResultError
from vitscope.images import load_image
from vitscope.models.options import LoadOptions

FLAGS = {"weights", "processor", "output", "labels", "multi_label", "trust_remote_code", "display", "window"}
FLAGS |= {"revision", "device", "dtype", "calibration", "region"}
PYTHON_ONLY = {"layout", "progress"}  # no text says these


def test_the_flags_are_the_keywords_of_load():
    of_adapters = set(LoadOptions.__annotations__) - PYTHON_ONLY
    assert set(opt.LoadFlags().keywords()) == FLAGS == of_adapters | {"calibration"}
    assert "calibration" in signature(vitscope.load).parameters


def test_every_command_with_a_model_has_all_of_them():
    for command in app.registered_commands:
        parameters = set(signature(command.callback).parameters)
        if command.callback.__name__ not in ("models", "doctor", "cache"):  # they load no model of the user's
            assert parameters >= FLAGS, command.callback.__name__


def test_a_batch_plan_has_all_of_them():
    assert set(BatchPlan.__dataclass_fields__) >= FLAGS


@pytest.mark.parametrize(("text", "output"), [("1", 1), ("-1", -1), ("logits", "logits"), ("²", "²"), (None, None)])
def test_an_output_is_an_index_or_a_name(text, output):
    assert opt.LoadFlags(output=text).keywords()["output"] == output


def test_only_flags_that_were_given_are_named():
    assert opt.LoadFlags(device="cpu", dtype="float64").changed() == []
    assert opt.LoadFlags(multi_label=False, trust_remote_code=True).changed() == [
        "--multi-label",
        "--trust-remote-code",
    ]


@pytest.mark.spread
@pytest.mark.parametrize("region", ["4,0,445,298.5", "whole"])  # within a pixel of the input
def test_a_region_is_that_of_every_image(cli, photo, tiny_folder, tmp_path, region):
    ran = cli("explain", photo, "-m", tiny_folder, "--region", region, "-o", tmp_path / "o")
    assert ran.code == 0, ran.err
    found = manifest(tmp_path / "o" / photo.stem / "why-this-class")
    whole = [0, 0, *load_image(photo).size]
    assert found["region"]["box"] == ([4, 0, 445, 298.5] if region != "whole" else whole)
    assert found["provenance"]["load"] == {"region": region}
    run(str(photo), tmp_path / "run", BatchPlan(str(tiny_folder), methods=("rollout",), region=region))
    (row,) = pq.read_table(tmp_path / "run" / "data").to_pylist()
    assert list(row["box"]) == found["region"]["box"]


@pytest.mark.parametrize("region", ["1,2,3", "5,0,5,9", "all", "0,0,9,nan"])
def test_what_is_no_region_is_refused(cli, photo, tiny_folder, tmp_path, region):
    ran = cli("explain", photo, "-m", tiny_folder, "--region", region, "-o", tmp_path / "o")
    assert ran.code == 2
    assert "--region" in one_line(ran.err)


def test_a_region_that_the_processor_contradicts_is_refused(cli, photo, tiny_folder, tmp_path):
    ran = cli("explain", photo, "-m", tiny_folder, "--region", "0,0,28,16", "-o", tmp_path / "o")
    assert ran.code == 1
    assert "(0, 0, 451, 300)" in one_line(ran.err)
    assert "leave --region out" in ran.err


def test_what_was_said_is_in_the_provenance(cli, photo, tiny_folder, tmp_path):
    options = ["--output", "logits", "--single-label", "--processor", tiny_folder]
    assert cli("explain", photo, "--model", tiny_folder, *options, "-o", tmp_path / "o").code == 0
    said = manifest(tmp_path / "o" / photo.stem / "why-this-class")["provenance"]["load"]
    assert said == {"output": "logits", "multi_label": False, "processor": str(tiny_folder)}


def test_commands_that_are_shown_load_the_same_model(tiny_folder, photo, tmp_path):
    import vitscope

    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefg"))
    weights = tiny_folder / "model.safetensors"
    options = {"weights": weights, "labels": names, "multi_label": True, "output": "logits", "region": (0, 0, 445, 298)}
    flags = f"--weights {weights} --labels {names} --region 0,0,445,298 --output logits --multi-label"
    header = vitscope.load(tiny_folder, **options).view(photo, methods=("rollout",), measure=False).header
    assert f"--model {tiny_folder} {flags}" in header["command"]
    assert all(f"--model {tiny_folder} {flags}" in one["command"] for one in header["maps"])
    assert vitscope.load(tiny_folder, labels=list("abcdefg")).adapter.options.flags() == []


def test_inspect_says_what_was_chosen(cli, tiny_folder):
    ran = cli("inspect", tiny_folder, "--weights", tiny_folder / "model.safetensors", "--json")
    assert ran.code == 0
    assert "notes" not in json.loads(ran.out)["facts"]  # nothing had to be chosen


def test_several_models_share_no_option(cli, tiny_folder):
    ran = cli("serve", "-m", tiny_folder, "-m", "embedded:digit-scenes", "--multi-label", "--port", 0)
    assert ran.code == 2
    assert "--multi-label" in one_line(ran.err)


def test_a_batch_resumes_only_with_the_same_options(photo, tiny_folder, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefg"))
    asked = {"methods": ("rollout",), "labels": str(names), "output": "logits"}
    run(str(photo), tmp_path / "run", BatchPlan(str(tiny_folder), **asked))
    plan = json.loads((tmp_path / "run" / "batch.json").read_text())
    assert plan["output"] == "logits"
    assert plan["labels"].startswith(f"{names} ")
    (row,) = pq.read_table(tmp_path / "run" / "data").to_pylist()
    assert json.loads(row["provenance"])["load"] == {"labels": str(names), "output": "logits"}
    run(str(photo), tmp_path / "run", BatchPlan(str(tiny_folder), **asked), resume=True)
    with raises(ResultError, "files.other-options"):
        run(str(photo), tmp_path / "run", BatchPlan(str(tiny_folder), **{**asked, "output": 0}), resume=True)
