"""`vitscope explain` of bad input, odd images and odd names, and interrupted."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from tests.helpers.console import FILES, damaged, names, one_line, pixels
from vitscope import Explanation
from vitscope.render import raster

BAD = {
    "missing": "does not exist",
    "folder": "is a folder, not an image",
    "empty": "is empty",
    "text": "is not an image that can be read",
    "truncated": "is truncated or broken: image file is truncated",
    "bomb": "is larger than 100 million pixels",
    "one pixel": "has 1 x 1 pixels",
    "floats": "which of them are black and white is not known",
}


@pytest.mark.covering
@pytest.mark.parametrize("command", ["explain", "heads", "compare"])
@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_line_and_exit_code_1(cli, tiny_folder, tmp_path, kind, command):
    path = tmp_path / "bad.jpg"
    damaged(path, kind)
    ran = cli(command, path, "--model", tiny_folder, "--out", tmp_path / "out")
    assert (ran.code, ran.out) == (1, "")
    assert BAD[kind] in one_line(ran.err)
    assert str(path) in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_odd_pictures_are_explained_and_what_was_done_is_said(explain, tmp_path):
    cat = Image.fromarray(data.chelsea()[:100, :150])
    flip = cat.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    cat.save(tmp_path / "moving.gif", save_all=True, append_images=[flip])
    cat.convert("CMYK").save(tmp_path / "print.jpg")
    Image.fromarray(data.moon()[:100, :150].astype(np.uint16) * 257).save(tmp_path / "scan.png")
    cat.quantize(16).save(tmp_path / "clear.png", transparency=3)
    cat.resize((20_000, 30)).save(tmp_path / "panorama.jpg")
    files = sorted(tmp_path.glob("*.*"))
    ran = explain(*files, "--method", "rollout", "--json")
    assert (ran.code, ran.err) == (0, "")
    said = {result["name"]: result["provenance"]["notes"] for result in json.loads(ran.out)["results"]}
    assert said == {
        "clear": ["transparency laid on white"],
        "moving": ["first of 2 frames", "palette converted to RGB"],
        "panorama": [],
        "print": ["CMYK converted to RGB"],
        "scan": ["16-bit grey divided by 257"],
    }
    assert pixels(tmp_path / "out" / "panorama-rollout" / "overlay.png").shape == (30, 20_000, 3)
    ran = explain(tmp_path / "moving.gif", "--force")
    assert "moving: first of 2 frames" in ran.out


def test_names_are_taken_as_they_are(explain, cli, album, tiny_folder, tmp_path):
    stems = ["[bold]x[", r"$\frac$ 猫", "<script>", "-1 layers;rm", "[b]"]
    for stem in stems:
        shutil.copy(album[0], tmp_path / f"{stem}.png")
    ran = explain(*(tmp_path / f"{stem}.png" for stem in stems))
    assert (ran.code, ran.err) == (0, "")
    assert [line.partition("  ")[0] for line in ran.out.splitlines()[1:6]] == stems
    assert names(tmp_path / "out") == set(stems)
    ran = cli("heads", tmp_path / f"{stems[1]}.png", "--model", tiny_folder, "--out", tmp_path / "out")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{tmp_path / 'out' / stems[1]}-layer2-map.png\n"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not have such names")
def test_a_name_that_is_no_text(explain, album, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    shutil.copy(album[0], path)
    ran = explain(path, "--json")
    assert (ran.code, ran.err) == (0, "")
    [result] = json.loads(ran.out)["results"]
    assert result["name"] == r"caf\xe9"
    assert names(Path(result["out"])) == FILES
    ran = explain(path)
    assert ran.code == 1
    assert "is already there" in one_line(ran.err)


# --- interrupted -----------------------------------------------------------------------------------------------------


def test_ctrl_c_keeps_what_is_finished_and_nothing_else(explain, album, tmp_path, monkeypatch):
    draw, calls = raster.overlay, []

    def interrupted(*of):
        calls.append(of)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return draw(*of)

    monkeypatch.setattr(raster, "overlay", interrupted)
    ran = explain(*album)
    assert (ran.code, ran.out) == (130, "")
    assert one_line(ran.err) == ("vitscope: interrupted; finished results are complete, and nothing is half-written")
    assert names(tmp_path / "out") == {"cat"}
    assert names(tmp_path / "out" / "cat") == FILES
    assert Explanation.load(tmp_path / "out" / "cat").picture.size == (150, 100)


def test_ctrl_c_while_a_sheet_is_written_leaves_no_file(cli, album, tiny_folder, tmp_path, monkeypatch):
    def interrupted(_image, path, *_, **_options):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    ran = cli("heads", album[0], "--model", tiny_folder, "--out", tmp_path / "out")
    assert ran.code == 130
    assert one_line(ran.err).startswith("vitscope: interrupted")
    assert names(tmp_path / "out") == set()


# --- where results go ------------------------------------------------------------------------------------------------


def test_one_file_instead_of_a_folder(cli, album, tiny_folder, tiny_scope, tmp_path):
    expected = tiny_scope.explain(album[0])
    for name in ("map.png", "map.npz", "map.svg", "map.pdf"):
        ran = cli("explain", album[0], "--model", tiny_folder, "-o", tmp_path / name)
        assert (ran.code, ran.err) == (0, "")
        assert str(tmp_path / name) in ran.out
    assert names(tmp_path) == {"map.png", "map.npz", "map.svg", "map.pdf"}
    assert np.array_equal(pixels(tmp_path / "map.png"), np.asarray(expected.overlay()))
    with np.load(tmp_path / "map.npz") as arrays:
        assert np.array_equal(arrays["map"], expected.map)
    ran = cli("explain", album[0], "--model", tiny_folder, "-o", tmp_path / "map.png")
    assert ran.code == 1
    assert "is already there" in one_line(ran.err)
    assert cli("explain", album[0], "--model", tiny_folder, "-o", tmp_path / "map.png", "--force").code == 0


def test_what_all_images_have_in_common_is_said_once(explain, album):
    ran = explain(*album)
    assert ran.out.count("chosen by vitscope for this model") == 1
    assert "all: chosen by vitscope for this model: evidence-walk" in ran.out
    assert all(f"{path.stem}: top 5: " in ran.out for path in album)


def test_images_of_one_stem_are_told_apart(explain, album, tmp_path):
    from PIL import Image

    for name in ("x.bmp", "x.gif"):
        Image.open(album[0]).convert("RGB").save(tmp_path / name)
    (tmp_path / "x.jpg").write_text("Dear diary")
    ran = explain(tmp_path / "x.jpg", tmp_path / "x.bmp", tmp_path / "x.gif")
    assert ran.code == 1
    assert "x.jpg is not an image" in one_line(ran.err)
    assert names(tmp_path / "out") == {"x", "x-2"}  # the one that cannot be read takes no name
    assert [line.split()[0] for line in ran.out.splitlines()[1:3]] == ["x.bmp", "x.gif"]
    assert str(tmp_path / "out" / "x-2" / "overlay.png") in ran.out


def test_what_is_said_of_one_of_several_maps_names_its_method(cli, album, tiny_folder, tmp_path):
    arguments = ["--model", tiny_folder, "--size", "160", "--seed", "1", "--out"]
    ran = cli("explain", album[2], *arguments, tmp_path / "two", "--method", "random,rollout")
    [line] = [line for line in ran.out.splitlines() if "nearly random" in line]
    assert line.startswith("rocket: random: this map is nearly random")
    ran = cli("explain", album[2], *arguments, tmp_path / "one", "--method", "random")
    assert "rocket: this map is nearly random" in ran.out
