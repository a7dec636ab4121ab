"""`vitscope calibrate` as users run it, and `--calibration`."""

import json

import pytest

import vitscope
from tests.helpers.calibrations import evidence_of
from tests.helpers.console import one_line
from vitscope.bench import calibrate as calibrate_module
from vitscope.bench import calibration_cases
from vitscope.engine import calibration as kept
from vitscope.engine.calibration import write_calibration
from vitscope.methods.base import METHODS


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(kept, "folder", lambda: tmp_path / "calibrations")
    monkeypatch.setattr(calibrate_module, "QUICK", ((1,), 2, 0))
    monkeypatch.setattr(calibrate_module, "_LEFT_OUT", {name for name, _ in METHODS} - {"evidence-walk", "layercam"})
    monkeypatch.setattr(calibration_cases, "_patterns", dict)


@pytest.mark.slow
def test_what_cannot_be_asked_is_said_and_kept(cli, tiny_folder, tmp_path, photo, monkeypatch):
    monkeypatch.setattr(calibration_cases, "CONFIDENT", 1.1)
    file = tmp_path / "mine.json"
    ran = cli("calibrate", tiny_folder, "--quick", "--export", file)
    assert ran.code == 0
    assert "images (photos) are named with confidence" in ran.err
    first, second, third = ran.out.splitlines()
    assert first.startswith("auto: as without a calibration: there are no four images")
    assert second.startswith("measured 20")
    assert third == str(file)
    document = json.loads(cli("calibrate", tiny_folder, "--quick", "--json").out)
    assert document["answers"]["evidence"]["outcome"] == "unnamed"
    ran = cli("explain", photo, "--model", tiny_folder, "--out", tmp_path / "out", "--calibration", file)
    assert "its calibration does not answer this" in ran.out


def test_a_table_is_printed(cli, tiny_folder, monkeypatch):
    monkeypatch.setattr(calibration_cases, "CONFIDENT", 0.0)
    monkeypatch.setattr(calibration_cases, "_FEWEST", 0)
    ran = cli("calibrate", tiny_folder, "--quick")
    assert ran.code == 0
    assert ran.out.splitlines()[0].split("  ")[0] == "method"
    assert "evidence-walk" in ran.out


@pytest.mark.slow
def test_a_file_is_followed_and_that_of_another_model_refused(cli, tiny_folder, tmp_path, photo):
    scope = vitscope.load(tiny_folder)
    mine, other = tmp_path / "mine.json", tmp_path / "other.json"
    write_calibration(evidence_of(scope), mine)
    write_calibration(evidence_of(scope, weights="sha256:other"), other)
    asked = ("explain", photo, "--model", tiny_folder, "--json", "--out")
    ran = cli(*asked, tmp_path / "out", "--calibration", mine)
    assert json.loads(ran.out)["results"][0]["method"] == "rollout"
    ran = cli(*asked, tmp_path / "none", "--calibration", "none")
    assert json.loads(ran.out)["results"][0]["method"] == "evidence-walk"
    ran = cli(*asked, tmp_path / "refused", "--calibration", other)
    assert (ran.code, ran.out) == (2, "")
    assert "sha256:other" in one_line(ran.err)
    assert cli("inspect", tiny_folder, "--calibration", mine).out.count("calibrated on 2026-11-29") == 1


def test_wrong_usage_is_told_before_the_model_is_loaded(cli, tmp_path):
    for arguments, told in (
        (("nowhere", "--calibration", __file__), "--export writes it"),
        (("nowhere", "--export", tmp_path), "is a folder"),
    ):
        ran = cli("calibrate", *arguments)
        assert ran.code == 2
        assert told in one_line(ran.err)
