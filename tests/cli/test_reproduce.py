"""`vitscope reproduce` as users run it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.console import mentions, one_line
from vitscope import Explanation


@pytest.fixture
def flags(tiny_folder, tmp_path):
    return ("--model", tiny_folder, "--labels", names_file(tmp_path))


@pytest.fixture
def saved(cli, album, flags, tmp_path):
    """Two maps of one image, of its class and of where the model looks."""
    photo = tmp_path / "cat.png"
    shutil.copy(album[0], photo)
    assert cli("explain", photo, *flags, "--out", tmp_path / "out").code == 0
    return tmp_path / "out"


def names_file(folder):
    path = folder / "names.txt"
    path.write_text("\n".join("abcdefg"))
    return path


def change(folder, values=None, **record):
    """Save a result with other values or another record."""
    e = Explanation.load(folder)
    replace(e, map=e.map if values is None else values, provenance={**e.provenance, **record}).save(folder, force=True)


def test_the_same_maps_come_out(cli, saved, flags):
    ran = cli("reproduce", saved, *flags, "--json")
    assert (ran.code, ran.err) == (0, "")
    told = json.loads(ran.out)["results"]
    assert [one["out"] for one in told] == [str(saved / "cat" / n) for n in ("where-it-looks", "why-this-class")]
    for one in told:
        assert (one["same"], one["versions"], one["note"]) == (True, "", "")
        assert one["difference"] <= 1e-6
        assert one["rank_correlation"] == pytest.approx(1)
    assert "the same" in cli("reproduce", saved, *flags).out


@pytest.mark.spread
@pytest.mark.parametrize("method", ["rise", "gradcam"])
def test_options_and_targets_are_those_that_were_saved(cli, album, tiny_folder, tmp_path, method):
    how = ["--method", method, "--target", "kite", "--seed", "3", *(["-O", "masks=16"] if method == "rise" else [])]
    assert cli("explain", album[0], "--model", tiny_folder, "--out", tmp_path / "out", *how).code == 0
    ran = cli("reproduce", tmp_path / "out", "--model", tiny_folder, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["results"][0]["same"]


def test_another_map_is_code_1_and_other_versions_are_named(cli, saved, flags):
    folder = saved / "cat" / "why-this-class"
    e = Explanation.load(folder)
    values = e.map.copy()
    values[0, 0] += 0.01 * np.abs(values).max()
    change(folder, values, versions={**e.provenance["versions"], "torch": "1.0"})
    ran = cli("reproduce", folder, *flags, "--json")
    [told] = json.loads(ran.out)["results"]
    assert (ran.code, told["same"], told["verdict"]) == (1, False, "another")
    assert told["difference"] == pytest.approx(0.01, rel=0.05)
    assert told["versions"] == "torch 1.0 then"


def test_an_image_that_is_gone_is_said(cli, saved, flags, album, tmp_path):
    (tmp_path / "cat.png").unlink()
    told = json.loads(cli("reproduce", saved, *flags, "--json").out)["results"]
    assert all("JPEG" in one["note"] for one in told)
    told = json.loads(cli("reproduce", saved, *flags, "--image", album[0], "--json").out)["results"]
    assert [(one["same"], one["note"]) for one in told] == [(True, ""), (True, "")]


def test_what_cannot_be_made_again_is_one_line(cli, saved, flags, tmp_path):
    ran = cli("reproduce", tmp_path / "nowhere")
    assert (ran.code, ran.out) == (2, "")
    assert mentions(ran.err, "no results of vitscope…nowhere…out/photo")
    shutil.rmtree(saved / "cat" / "where-it-looks")
    folder = saved / "cat" / "why-this-class"
    change(folder, weights="sha256:0")
    ran = cli("reproduce", saved, *flags)
    assert ran.code == 1
    assert "was made by" in one_line(ran.err)


def test_what_results_name_is_loaded_only_when_the_user_says_so(cli, saved, flags, tmp_path):
    """A stranger's results may name a folder that brings code."""
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": {"AutoModel": "code.Model"}}))
    (evil / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    folder = saved / "cat" / "why-this-class"
    before = Explanation.load(folder).provenance
    change(folder, model=str(evil), load={"trust_remote_code": True})
    ran = cli("reproduce", folder)
    assert ran.code == 1
    assert mentions(ran.err, f"--model {evil} --trust-remote-code…only when you say so")
    assert not (tmp_path / "ran").exists()
    change(folder, model=before["model"], load={**before["load"], "trust_remote_code": True})
    assert mentions(cli("reproduce", folder, *flags).err, "made with --trust-remote-code")
    assert mentions(cli("reproduce", folder, *flags[:2]).err, "--labels")
