"""The command line as users run it: files, stdout, stderr and exit codes.

Most runs happen in this process (`cli`), because importing torch takes seconds; each real entry point is run once.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
import zlib
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

import vitscope
from vitscope import Explanation
from vitscope.cli import console
from vitscope.cli.main import main
from vitscope.methods.base import METHODS
from vitscope.metrics.concentration import concentration
from vitscope.models import loading
from vitscope.models.bundled import wheel
from vitscope.render import raster

Ran = namedtuple("Ran", "code out err")
SCRIPT = Path(sysconfig.get_path("scripts")) / "vitscope"
FILES = {"manifest.json", "arrays.npz", "overlay.png", "heat.png", "map.png", "photo.jpg"}
LABELS = {"tabby", "<b>hound</b>", "teapot", "kite", "[red]robin[/]", "fox", "ant"}

METHOD_NAMES = [name for name, _ in METHODS]
QUICK = [name for name, method in METHODS if method.quick]


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run `vitscope ARGUMENTS...` in this process: its exit code, stdout and stderr."""
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["vitscope", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as info:
            main()
        return Ran(info.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def explain(cli, tiny_folder, tmp_path):
    """`vitscope explain ARGUMENTS...` with the tiny model into `tmp_path / "out"`."""
    return lambda *arguments: cli("explain", *arguments, "--model", tiny_folder, "--out", tmp_path / "out")


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """Three small real photos: landscape, portrait, square."""
    folder = tmp_path_factory.mktemp("album")
    cat, coffee, rocket = data.chelsea(), data.coffee(), data.rocket()
    paths = [folder / name for name in ("cat.png", "cup.jpg", "rocket.webp")]
    Image.fromarray(cat[20:120, 100:250]).save(paths[0])
    Image.fromarray(coffee[100:280, 200:300]).save(paths[1])
    Image.fromarray(rocket[100:200, 200:300]).save(paths[2])
    return paths


def one_line(text):
    """The line, without its end; fails on none, several or a traceback."""
    assert "Traceback" not in text
    assert text.endswith("\n")
    [line] = text.splitlines()
    assert line.startswith("vitscope: ")
    return line


def names(folder):
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text("utf-8"))


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


# --- explain: what comes out -----------------------------------------------------------------------------------------


def test_explain_one(explain, photo, tiny_folder, tiny_scope, tmp_path):
    ran = explain(photo)
    folder = tmp_path / "out" / "chelsea"
    assert (ran.code, ran.err) == (0, "")
    assert names(tmp_path / "out") == {"chelsea"}
    assert names(folder) == FILES
    assert pixels(folder / "overlay.png").shape == (300, 451, 3)
    loaded, expected = Explanation.load(folder), tiny_scope.explain(photo)
    assert np.array_equal(loaded.map, expected.map)
    assert loaded.provenance["model"] == str(tiny_folder)
    heading, row, top, chosen, path_exists = ran.out.splitlines()
    assert re.split(r" {2,}", heading.strip()) == [
        "photo",
        "method",
        "effective patches",
        "largest share",
        "prefix share",
        "out",
    ]
    told = concentration(expected)
    assert re.split(r" {2,}", row.strip())[:2] == ["chelsea", f"gradcam of {expected.target}"]
    assert f"{told['effective_patches']:.0f} of 16" in row
    assert f"{told['largest_share']:.1%}  " in row
    assert f"{told['prefix_share']:.1%}  " in row
    label, probability = expected.predictions[0]
    assert top.startswith(f"chelsea: top 5: {label} {probability:.1%}, ")
    assert set(re.findall(r"(?:: |, )(\S+) [\d.]+%", top)) <= LABELS
    assert chosen == "chelsea: chosen by vitscope for this model: gradcam (evidence for the class)"
    assert path_exists.startswith("chelsea: activations taken at the first norm of ")


def test_explain_several_as_one_json_document(explain, album, tiny_scope, tmp_path):
    ran = explain(*album, "--json", "--batch-size", 2)
    assert (ran.code, ran.err) == (0, "")
    document = json.loads(ran.out)
    assert set(document) == {"vitscope", "results", "failures"}
    assert document["vitscope"] == vitscope.__version__
    assert document["failures"] == []
    assert [result["name"] for result in document["results"]] == ["cat", "cup", "rocket"]
    for path, result in zip(album, document["results"], strict=True):
        assert result["out"] == str(tmp_path / "out" / path.stem)
        assert names(Path(result["out"])) == FILES
        single = tiny_scope.explain(path)
        assert np.abs(Explanation.load(result["out"]).map - single.map).max() < 1e-6
        assert result["statistics"] == pytest.approx(concentration(single), abs=1e-4)
        assert [p["label"] for p in result["predictions"]] == [label for label, _ in single.predictions]
        assert result["provenance"]["batch_size"] == 2
        assert result["region"]["input"] == [64, 64]


def test_a_bad_picture_among_good_ones(explain, album, tmp_path):
    bad = tmp_path / "letter.jpg"
    bad.write_text("Dear diary")
    ran = explain(album[0], bad, album[1])
    assert ran.code == 1
    assert f"{bad} is not a picture that can be read" in one_line(ran.err)
    assert names(tmp_path / "out") == {"cat", "cup"}
    assert [line.split()[0] for line in ran.out.splitlines()[1:3]] == ["cat", "cup"]
    again = explain(album[0], bad, album[2], "--json", "--force")
    document = json.loads(again.out)
    assert again.code == 1
    assert [result["name"] for result in document["results"]] == ["cat", "rocket"]
    [failure] = document["failures"]
    assert failure["source"] == str(bad)
    assert failure["error"] == f"{bad} is not a picture that can be read"
    assert failure["hint"].startswith("readable are JPEG")
    one_line(again.err)


def test_an_existing_result_is_kept_without_force_and_replaced_with_it(explain, album, tmp_path):
    explain(album[0])
    ran = explain(*album[:2], "--method", "attention")
    assert ran.code == 1
    folder = tmp_path / "out" / "cat"
    assert one_line(ran.err) == (
        f"vitscope: {album[0]}: {folder} is already there (--force replaces it, or give another --out)"
    )
    assert manifest(folder)["method"] == "gradcam"
    assert manifest(tmp_path / "out" / "cup")["method"] == "attention"
    ran = explain(album[0], "--method", "attention", "--force")
    assert (ran.code, ran.err) == (0, "")
    assert manifest(folder)["method"] == "attention"
    assert names(tmp_path / "out") == {"cat", "cup"}


@pytest.mark.parametrize("name", ["diary.txt", "manifest.json"])
def test_a_foreign_folder_is_never_replaced(explain, album, tmp_path, name):
    folder = tmp_path / "out" / "cat"
    folder.mkdir(parents=True)
    (folder / name).write_text('{"name": "mine"}')
    ran = explain(*album[:2], "--force")
    assert ran.code == 1
    assert f"{folder} is not a result of vitscope and is not replaced" in one_line(ran.err)
    assert (folder / name).read_text() == '{"name": "mine"}'
    assert names(folder) == {name}
    assert names(tmp_path / "out") == {"cat", "cup"}


def test_a_place_that_cannot_be_written(cli, album, tiny_folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    for command in ("explain", "heads", "compare"):
        ran = cli(command, album[0], "--model", tiny_folder, "--out", tmp_path / "file" / "out")
        assert (ran.code, ran.out) == (1, "")
        assert "cannot be written: Not a directory" in one_line(ran.err)
        ran = cli(command, album[0], "--model", tiny_folder, "--out", tmp_path / ("a" * 300))
        assert (ran.code, ran.out) == (1, "")
        assert "cannot be written: File name too long" in one_line(ran.err)
    assert names(tmp_path) == {"file"}


def test_photos_of_one_name_get_folders_of_their_own(explain, album, tmp_path):
    places = {}
    for path, (folder, name) in zip(
        [*album, album[0]], [("a", "x"), ("b", "x"), ("a", "x-2"), ("c", "x")], strict=True
    ):
        places[folder, name] = tmp_path / folder / (name + path.suffix)
        places[folder, name].parent.mkdir(exist_ok=True)
        shutil.copy(path, places[folder, name])
    ran = explain(*places.values(), "--json")
    assert (ran.code, ran.err) == (0, "")
    assert [Path(result["out"]).name for result in json.loads(ran.out)["results"]] == ["x", "x-3", "x-2", "x-4"]
    shapes = {name: pixels(tmp_path / "out" / name / "overlay.png").shape for name in ("x", "x-3", "x-2", "x-4")}
    assert shapes == {"x": (100, 150, 3), "x-3": (180, 100, 3), "x-2": (100, 100, 3), "x-4": (100, 150, 3)}


# --- explain: options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (
            [
                "--method",
                "rollout",
                "--residual-weight",
                ".3",
                "--layers",
                "1-2",
                "--head-fusion",
                "max",
                "--discard-ratio",
                ".2",
            ],
            {"method": "rollout", "residual_weight": 0.3, "layers": "1-2", "head_fusion": "max", "discard_ratio": 0.2},
        ),
        (["--method", "rollout", "--start-layer", "1"], {"method": "rollout", "start_layer": 1}),
        (
            ["--method", "rollout", "-O", "residual_weight=0.3", "-O", "head_fusion=1"],
            {"method": "rollout", "residual_weight": 0.3, "head_fusion": 1},
        ),
        (["--method", "attention", "--layer", "0", "--head", "1"], {"method": "attention", "layer": 0, "head": 1}),
        (["--method", "attention", "--head", "max"], {"method": "attention", "head": "max"}),
        (["--size", "96"], {"size": 96}),
        (["--dtype", "float64"], {}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_reach_the_method(explain, album, tiny_scope, tmp_path, flags, options):
    ran = explain(album[0], *flags)
    assert (ran.code, ran.err) == (0, "")
    loaded, expected = Explanation.load(tmp_path / "out" / "cat"), tiny_scope.explain(album[0], **options)
    assert loaded.map.shape == expected.map.shape
    assert np.abs(loaded.map - expected.map).max() < 1e-6
    assert loaded.provenance["options"] == expected.provenance["options"]
    assert loaded.provenance["dtype"] == ("float64" if "float64" in flags else "float32")
    if options:
        assert not np.array_equal(loaded.map, tiny_scope.explain(album[0]).map)


def test_the_notebook_recipe_is_labelled(explain, album, tmp_path, tiny_scope):
    ran = explain(album[0], "--method", "notebook-recipe", "--style", "notebook")
    assert ran.code == 0
    assert "cat: not rollout: the layers are multiplied in the wrong order" in ran.out
    told = manifest(tmp_path / "out" / "cat")
    assert told["method"] == "notebook-recipe"
    assert told["render"]["style"] == "notebook"
    assert told["provenance"]["caveat"].startswith("not rollout")
    expected = tiny_scope.explain(album[0], method="notebook-recipe").overlay(style="notebook")
    assert np.array_equal(pixels(tmp_path / "out" / "cat" / "overlay.png"), np.asarray(expected))


@pytest.mark.parametrize(
    ("flags", "style"),
    [
        (["--norm", "robust"], {"norm": "robust"}),
        (["--colorbar"], {"colorbar": True}),
        (["--blocks"], {"smooth": False}),
        (["--style", "grey"], {"style": "grey"}),
        (["--cmap", "viridis", "--opacity", ".4"], {"cmap": "viridis", "opacity": 0.4}),
        (["--blur", "3"], {"blur": 3.0}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_drawing_options_draw_and_are_in_the_manifest(explain, album, tiny_scope, tmp_path, flags, style):
    ran = explain(album[0], *flags)
    assert (ran.code, ran.err) == (0, "")
    e = tiny_scope.explain(album[0])
    drawn = pixels(tmp_path / "out" / "cat" / "overlay.png")
    assert np.array_equal(drawn, np.asarray(e.overlay(**style)))
    assert not np.array_equal(drawn, np.asarray(e.overlay()))
    told = manifest(tmp_path / "out" / "cat")["render"]
    assert {name: told[name] for name in style} == style
    words = {"robust": "1st to 99th percentile of the patches, clipped", "minmax": "smallest to largest value"}
    assert told["normalisation"] == words[style.get("norm", "minmax")]


def test_a_target_that_changes_nothing_is_said(explain, album):
    ran = explain(album[0], "--target", "tabby", "--method", "rollout")
    assert ran.code == 0
    assert "cat: rollout is class-agnostic: the target 'tabby' changes nothing" in ran.out


# --- wrong usage -----------------------------------------------------------------------------------------------------

WRONG = {
    "--method rolout": "no method is called 'rolout' (did you mean 'rollout'? choices: attention, ",
    "--norm robst": "no normalisation is called 'robst' (did you mean 'robust'? choices: ",
    "--style gray": "no style is called 'gray' (did you mean 'grey'?",
    "--cmap infernal": "no colour map is called 'infernal' (did you mean 'inferno'?",
    "--opacity 2": "opacity is in [0, 1]",
    "--blur nan": "blur in [0, 1000]",
    "--blur 1e9": "blur in [0, 1000]",
    "--dtype flaot32": "no dtype is called 'flaot32' (did you mean 'float32'? choices: float32, float64,",
    "--device gpu9": "the device 'gpu9' is not there",
    "--model embeded:dinov2-small": "no kind of model reference is called 'embeded:' (did you mean 'embedded:'?",
    "--model embedded:dinov2-smal": "no embedded model is called 'dinov2-smal' (did you mean 'dinov2-small'?",
    "--model timm:vit_bas_patch16_224": "(did you mean 'vit_base_patch16_224'?",
    "--model timn:vit_base_patch16_224": "no kind of model reference is called 'timn:' (did you mean 'timm:'?",
    "--method rollout --layers 9": "there is no layer 9 (layers are 0 to 2, or -3 to -1 from the end)",
    "--method rollout --layers first": "'first' is not a layer (write 3, -1, 0-11, -3--1, 4,7,9, last3 or all)",
    "--method rollout --layers 1 --start-layer 1": "layers and start_layer both say where to begin",
    "--method attention --layer 7": "there is no layer 7 (layers are 0 to 2,",
    "--method attention --head 2": "there is no head 2 (heads are 0 to 1,",
    "--method attention --head men": "no head is called 'men' (did you mean 'mean'? choices: mean, max, min)",
    "--method rollout --head-fusion man": "no head_fusion is called 'man' (did you mean 'mean'?",
    "--method rollout --residual-weight 2": "residual_weight is a weight in [0, 1], not 2.0",
    "--method rollout --discard-ratio 1": "discard_ratio is a share in [0, 1), not 1.0",
    "--method notebook-recipe --layers 1": "no option of the method 'notebook-recipe' is called 'layers'",
    "--method rollout -O residual_wieght=1": "no option of the method 'rollout' is called 'residual_wieght' (did you",
    "--method rollout -O residual_weight": "'residual_weight' is not an option (write NAME=VALUE, such as residual_we",
    "--size 3": "size is between 16 and 8192 pixels, not 3",
    "--batch-size 0": "batch_size is at least 1, not 0",
    "--residual-weight much": "Invalid value for '--residual-weight'",
    "--opactiy 1": "No such option: --opactiy",
}


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("flags", WRONG)
def test_wrong_usage_of_explain(cli, album, tiny_folder, tmp_path, flags):
    model = [] if "--model" in flags else ["--model", tiny_folder]
    ran = cli("explain", album[0], *model, *flags.split(), "--out", tmp_path / "out")
    assert (ran.code, ran.out) == (2, "")
    assert WRONG[flags] in one_line(ran.err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["explain"], "Missing argument 'IMAGE...'. (vitscope explain --help)"),
        (["explan", "cat.png"], "No such command 'explan'. Did you mean 'explain'?"),
        (["--verison"], "No such option: --verison"),
        (
            ["heads", "PHOTO", "--kind", "matrx"],
            "no kind is called 'matrx' (did you mean 'matrix'? choices: map, matrix)",
        ),
        (["heads", "PHOTO", "--layer", "3", "--model", "TINY"], "there is no layer 3 (layers are 0 to 2,"),
        (["heads", "PHOTO", "--kind", "matrix", "--layer", "-4", "--model", "TINY"], "there is no layer -4"),
        (["compare", "PHOTO", "--methods", "rollout,atention", "--model", "TINY"], "(did you mean 'attention'?"),
        (
            ["compare", "PHOTO", "--methods", "rollout:residual_weight", "--model", "TINY"],
            "'residual_weight' is not an option",
        ),
        (["inspect", "open_clip:ViT-B-32/nobody"], "no pretrained weights of ViT-B-32 is called 'nobody'"),
        (["explain", "PHOTO", "-o", "map.png"], "--out is a folder, and map.png is called like a file"),
        (["statistics", "PHOTO", "-o", "numbers.json"], "(give a folder: -o numbers)"),
        (["inspect", "torchvision:vit_b_17"], "(did you mean 'vit_b_16'?"),
        (["methods", "foo:bar"], "no kind of model reference is called 'foo:'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("as_shipped")
def test_wrong_usage_of_the_others(cli, album, tiny_folder, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    given = {"PHOTO": str(album[0]), "TINY": str(tiny_folder)}
    ran = cli(*(given.get(argument, argument) for argument in arguments))
    assert (ran.code, ran.out) == (2, "")
    assert told in one_line(ran.err)
    assert names(tmp_path) == set()


# --- bad input -------------------------------------------------------------------------------------------------------


def damaged(path, kind):
    """Make a bad input of this kind at `path`."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("Dear diary")
    elif kind == "truncated":
        noise.save(path, "JPEG")
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "bomb":
        header = b"IHDR" + (100_000).to_bytes(4) * 2 + b"\x08\x02\0\0\0"
        path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + zlib.crc32(header).to_bytes(4) + b"\0\0\0\0IDAT")
    elif kind == "one pixel":
        noise.resize((1, 1)).save(path, "PNG")
    elif kind == "floats":
        Image.fromarray(np.zeros((9, 9), np.float32)).save(path, "TIFF")


BAD = {
    "missing": "does not exist",
    "folder": "is a folder, not a picture",
    "empty": "is empty",
    "text": "is not a picture that can be read",
    "truncated": "is truncated or broken: image file is truncated",
    "bomb": "is larger than 100 million pixels",
    "one pixel": "has 1 x 1 pixels",
    "floats": "has floating-point pixels of unknown range",
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_line_and_exit_code_1(explain, cli, tiny_folder, tmp_path, kind):
    path = tmp_path / "bad.jpg"
    damaged(path, kind)
    runs = [explain(path)]
    runs += [cli(command, path, "--model", tiny_folder, "--out", tmp_path / "out") for command in ("heads", "compare")]
    for ran in runs:
        assert (ran.code, ran.out) == (1, "")
        assert BAD[kind] in one_line(ran.err)
        assert str(path) in ran.err
    assert not (tmp_path / "out").exists()


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
    assert pixels(tmp_path / "out" / "panorama" / "overlay.png").shape == (30, 20_000, 3)
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
    assert one_line(ran.err) == ("vitscope: interrupted; finished results are complete, nothing half-written is left")
    assert names(tmp_path / "out") == {"cat"}
    assert names(tmp_path / "out" / "cat") == FILES
    assert Explanation.load(tmp_path / "out" / "cat").picture.size == (150, 100)


def test_ctrl_c_while_a_sheet_is_written_leaves_no_file(cli, album, tiny_folder, tmp_path, monkeypatch):
    def interrupted(_image, path, *_):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    ran = cli("heads", album[0], "--model", tiny_folder, "--out", tmp_path / "out")
    assert ran.code == 130
    assert one_line(ran.err).startswith("vitscope: interrupted")
    assert names(tmp_path / "out") == set()


# --- heads and compare -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["map", "matrix"])
def test_heads(cli, album, tiny_folder, tmp_path, kind):
    arguments = ["heads", album[0], "--kind", kind, "--layer", -2, "--model", tiny_folder, "--out", tmp_path / "out"]
    ran = cli(*arguments)
    path = tmp_path / "out" / f"cat-layer1-{kind}.png"
    assert ran == (0, f"{path}\n", "")
    assert names(tmp_path / "out") == {path.name}
    first = pixels(path)
    assert first.shape[1] > first.shape[0]  # two heads beside each other
    ran = cli(*arguments)
    assert (ran.code, ran.out) == (1, "")
    assert one_line(ran.err) == f"vitscope: {path} is already there (--force replaces it, or give another --out)"
    ran = cli(*arguments, "--force", "--cmap", "viridis", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out) == {
        "vitscope": vitscope.__version__,
        "out": str(path),
        "layer": 1,
        "heads": 2,
        "kind": kind,
    }
    assert not np.array_equal(pixels(path), first)


def test_lens(cli, album, tiny_folder, tmp_path):
    ran = cli("lens", album[0], "--target", "kite", "--model", tiny_folder, "--out", tmp_path / "out", "--json")
    assert ran.code == 0
    told = json.loads(ran.out)
    assert told["target"] == "kite"
    assert [layer["layer"] for layer in told["layers"]] == [0, 1, 2]
    assert all(len(layer["predictions"]) == 5 for layer in told["layers"])
    with Image.open(told["out"]) as picture:
        assert picture.size[0] > 300
    again = cli("lens", album[0], "--model", tiny_folder, "--out", tmp_path / "out")
    assert again.code == 1
    assert "already there" in one_line(again.err)


def test_alike(cli, album, tiny_folder, tmp_path):
    ran = cli("alike", album[0], album[1], "--model", tiny_folder, "--out", tmp_path / "out", "--json")
    assert ran.code == 0
    told = json.loads(ran.out)
    assert Path(told["out"]).name == "cat-cup-alike.png"
    assert -1 <= told["cosine"] <= 1
    refused = cli("alike", album[0], album[1], "--model", tiny_folder, "--method", "rollout", "--out", tmp_path / "b")
    assert refused.code == 2
    assert "has no target" in one_line(refused.err)
    assert not (tmp_path / "b").exists()
    missing = cli("alike", album[0], tmp_path / "none.jpg", "--model", tiny_folder, "--out", tmp_path / "b")
    assert "none.jpg" in one_line(missing.err)


@pytest.mark.parametrize("kind", ["map", "matrix"])
def test_heads_shows_each_head_of_that_layer(cli, album, tiny_folder, tiny_scope, tmp_path, monkeypatch, kind):
    from vitscope.render import sheets

    shown = []
    monkeypatch.setattr(
        sheets, "sheet", lambda cells, title, **_: shown.append((cells, title)) or Image.new("L", (2, 2))
    )
    ran = cli("heads", album[0], "--kind", kind, "--layer", 1, "--model", tiny_folder, "--out", tmp_path / "out")
    assert ran.code == 0
    [(cells, title)] = shown
    assert title.startswith(f"cat · {tiny_folder} · ")
    assert [cell.title for cell in cells] == ["layer 1, head 0", "layer 1, head 1"]
    store = tiny_scope.attention(album[0])
    rows = store[1].rows(slice(None))[0].numpy()
    for head, cell in enumerate(cells):
        if kind == "matrix":
            assert np.abs(cell.picture - rows[head]).max() < 1e-6
        else:
            e = tiny_scope.explain(album[0], method="attention", layer=1, head=head)
            assert np.abs(e.map - rows[head, 0, 1:].reshape(4, 4)).max() < 1e-6
            assert np.abs(np.asarray(cell.picture).astype(int) - np.asarray(e.overlay())).max() <= 2


def test_compare(cli, album, tiny_folder, tmp_path):
    ran = cli("compare", album[1], "--model", tiny_folder, "--out", tmp_path / "out", "--json")
    assert (ran.code, ran.err) == (0, "")
    document = json.loads(ran.out)
    assert document["out"] == str(tmp_path / "out" / "cup-compare.png")
    assert names(tmp_path / "out") == {"cup-compare.png"}
    assert [told["method"] for told in document["methods"]] == QUICK
    for told in document["methods"]:
        assert 1 <= told["effective_patches"] <= 16
        assert 0 < told["largest_share"] <= 1
        assert told["seconds"] > 0
    every = pixels(document["out"])
    arguments = [
        "--model",
        tiny_folder,
        "--out",
        tmp_path / "out",
        "--methods",
        "rollout:layers=last2:residual_weight=.3,attention",
    ]
    ran = cli("compare", album[1], *arguments)
    assert ran.code == 1
    assert "cup-compare.png is already there" in one_line(ran.err)
    ran = cli("compare", album[1], *arguments, "--force", "--json")
    first, second = json.loads(ran.out)["methods"]
    assert (first["method"], first["options"]["layers"], first["options"]["residual_weight"]) == (
        "rollout",
        "last2",
        0.3,
    )
    assert second["method"] == "attention"
    assert pixels(document["out"]).size < every.size


# --- models, methods, inspect, help ----------------------------------------------------------------------------------


def test_models(cli):
    ran = cli("models")
    assert (ran.code, ran.err) == (0, "")
    for said in ("embedded:dinov2-small", "DINOv2 ViT-S/14", "HUB/ID or FOLDER", "vit, deit, "):
        assert said in ran.out
    document = json.loads(cli("models", "--json").out)
    assert [told["reference"] for told in document["embedded"]] == ["embedded:dinov2-small", "embedded:digit-scenes"]
    assert {"vit", "deit", "dinov2", "dinov2_with_registers"} <= set(document["transformers"])


def test_methods(cli, tiny_folder):
    ran = cli("methods")
    assert (ran.code, ran.err) == (0, "")
    for said in (
        "Abnar & Zuidema 2020, equation 1",
        "residual_weight=0.5",
        "rollout: How much",
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


def test_methods_says_why_one_does_not_work(cli, tmp_path):
    from transformers import IJepaConfig, IJepaModel, ViTImageProcessorPil

    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    IJepaModel(IJepaConfig(hidden_size=16, image_size=32, patch_size=16, **sizes)).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    documents = {told["name"]: told for told in json.loads(cli("methods", tmp_path, "--json").out)["methods"]}
    assert documents["rollout"]["works"]
    assert not documents["notebook-recipe"]["works"]
    assert "no CLS token" in documents["notebook-recipe"]["reason"]
    assert "no: the recipe reads token 0 as CLS" in " ".join(cli("methods", tmp_path).out.split())


def test_inspect(cli, tiny_folder, tiny_scope):
    ran = cli("inspect", tiny_folder)
    assert (ran.code, ran.err) == (0, "")
    for said in ("17: 1 prefix + 4 x 4 patches", "ViTForImageClassification", "16 x 16 pixels", "3, 2 of width 16"):
        assert said in ran.out
    assert tiny_scope.adapter.weights in ran.out
    document = json.loads(cli("inspect", tiny_folder, "--json").out)
    assert document["model"] == str(tiny_folder)
    assert document["layout"] == {"prefix": ["cls"], "grid": [4, 4], "pooling": "cls", "pool_prefix": False}
    assert document["facts"]["classes"] == "7"
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


# --- models that cannot be had ---------------------------------------------------------------------------------------


def broken_model(folder, kind):
    if kind == "no config":
        (folder / "config.json").unlink()
    elif kind == "broken config":
        (folder / "config.json").write_text("{")
    elif kind == "no weights":
        (folder / "model.safetensors").unlink()
    elif kind == "truncated weights":
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[:5000])
    elif kind == "no processor":
        (folder / "preprocessor_config.json").unlink()
    elif kind == "more layers than weights":
        config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 4}
        (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("no config", "cannot be loaded"),
        ("broken config", "cannot be loaded"),
        ("no weights", "cannot be loaded"),
        ("truncated weights", "cannot be loaded"),
        ("no processor", "cannot be loaded"),
        ("more layers than weights", "lack 16 parameters, such as vit.layers.3."),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_broken_model_folder(cli, album, tiny_folder, tmp_path, kind, told):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    broken_model(folder, kind)
    ran = cli("explain", album[0], "--model", folder, "--out", tmp_path / "out")
    assert (ran.code, ran.out) == (1, "")
    assert told in one_line(ran.err)
    assert str(folder) in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("reference", ["./nowhere", "some/where/else", "not a model"])
def test_a_model_that_is_not_there(cli, album, tmp_path, monkeypatch, reference):
    monkeypatch.chdir(tmp_path)
    ran = cli("explain", album[0], "--model", reference)
    assert (ran.code, ran.out) == (1, "")
    assert "(use --model embedded:dinov2-small, or a local folder written by save_pretrained)" in one_line(ran.err)
    assert reference in ran.err


HUB = "google/vit-large-patch32-384"
AWAY = (
    f"vitscope: the Hub is out of reach and {HUB} is not in its local cache "
    "(use --model embedded:dinov2-small, or a local folder written by save_pretrained)"
)


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("name", ["ConnectionError", "OfflineModeIsEnabled", "TimeoutError"])
def test_the_hub_out_of_reach(cli, album, monkeypatch, tmp_path, name):
    from huggingface_hub import errors

    error = getattr(errors, name, None) or {"ConnectionError": ConnectionError, "TimeoutError": TimeoutError}[name]

    def unreachable(*_arguments, **_options):
        raise error("no route to host\nand a second line")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    for command in (["explain", album[0]], ["heads", album[0]], ["inspect"]):
        ran = cli(*command, *([] if command == ["inspect"] else ["--model"]), HUB)
        assert (ran.code, ran.out) == (1, "")
        assert one_line(ran.err) == AWAY


@pytest.mark.usefixtures("empty_cache")
def test_a_hub_that_does_not_answer_is_not_waited_for(cli, album, monkeypatch):
    done = threading.Event()
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_, **__: done.wait(60))
    monkeypatch.setattr(loading, "_HUB_SECONDS", 0.2)
    began = time.monotonic()
    ran = cli("explain", album[0], "--model", HUB)
    seconds = time.monotonic() - began
    done.set()
    assert (ran.code, ran.out) == (1, "")
    assert one_line(ran.err) == AWAY
    assert 0.2 <= seconds < 10


def test_the_hub_is_given_less_than_20_seconds():
    assert loading._HUB_SECONDS <= 15


def test_what_the_hub_refuses_is_said(cli, album, monkeypatch):
    from huggingface_hub import errors

    def refuse(kind):
        def refused(*_arguments, **_options):
            raise kind.__new__(kind, "no")  # its __init__ wants a whole response of whichever HTTP library

        return refused

    for kind, told in (
        (errors.RepositoryNotFoundError, f"the Hub has no model {HUB}, or it is private"),
        (errors.GatedRepoError, f"{HUB} is gated on the Hub (accept its terms there and log in)"),
    ):
        monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refuse(kind))
        ran = cli("explain", album[0], "--model", HUB)
        assert (ran.code, ran.out) == (1, "")
        assert told in one_line(ran.err)


# --- fetching, progress, colours -------------------------------------------------------------------------------------


def test_fetching_says_one_plain_line_a_stage_where_there_is_no_terminal(
    cli, album, tiny_folder, tmp_path, monkeypatch
):
    def folder(_name, *, progress):
        for stage, total in (("fetch", 90_210_194), ("verify", 2), ("convert", 3)):
            for done in range(0, total + 1, total // 2 or 1):
                progress(stage, done, total)
        return tiny_folder

    monkeypatch.setattr(wheel, "folder", folder)
    ran = cli("explain", album[0], "--out", tmp_path / "out", "--size", 64, "--json")
    assert ran.code == 0
    assert ran.err.splitlines() == [
        "vitscope: fetching the weights (90 MB)",
        "vitscope: checking them",
        "vitscope: converting them",
    ]
    [result] = json.loads(ran.out)["results"]
    assert result["provenance"]["model"] == "embedded:dinov2-small"


def on_a_terminal(*command, **environment):
    """What a command writes to a pseudo-terminal that is its stdout and stderr."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLORTERM")}
    child = subprocess.Popen(
        command, stdout=theirs, stderr=theirs, stdin=theirs, env=clean | {"TERM": "xterm-256color"} | environment
    )
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    assert child.wait(30) == 0
    return said.decode()


PROGRESS = """
from vitscope.cli import console
with console.explaining(3) as advance:
    for _ in range(3):
        advance()
with console.fetching() as report:
    report("fetch", 1, 2)
    report("fetch", 2, 2)
console.table(["photo", "[red]out[/]"], [["cat", "out/cat/"]])
"""


@pytest.mark.parametrize("what", ["help", "progress"])
def test_no_color_is_honoured(what):
    command = [str(SCRIPT), "-h"] if what == "help" else [sys.executable, "-c", PROGRESS]
    colour = re.compile(r"\x1b\[[0-9;]*(3[0-7]|38|9[0-7])[0-9;]*m")
    coloured, plain = on_a_terminal(*command), on_a_terminal(*command, NO_COLOR="1")
    assert colour.search(coloured)
    assert not colour.search(plain)
    for said in (coloured, plain):
        expected = ["explaining", "3/3", "fetching the weights", "[red]out[/]"] if what == "progress" else ["explain"]
        assert all(words in said for words in expected)


def test_no_bars_without_a_terminal(capsys):
    with console.explaining(3) as advance:
        advance()
    assert tuple(capsys.readouterr()) == ("", "")


# --- the real entry points -------------------------------------------------------------------------------------------


def process(*command, **environment):
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | environment,
    )


def test_python_dash_m():
    ran = process(sys.executable, "-m", "vitscope", "--version")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"vitscope {vitscope.__version__}\n", "")
    ran = process(sys.executable, "-m", "vitscope", "explain")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert one_line(ran.stderr) == "vitscope: Missing argument 'IMAGE...'. (vitscope explain --help)"


def test_the_installed_command_offline_with_a_model_in_the_hubs_cache(album, tiny_folder, tiny_scope, tmp_path):
    """HF_HOME and HF_HUB_OFFLINE are honoured: the model comes from the local cache, no network is asked."""
    revision, missing = "0123456789abcdef0123456789abcdef01234567", tmp_path / "missing.jpg"
    cached = tmp_path / "hf" / "hub" / "models--acme--tiny-vit"
    shutil.copytree(tiny_folder, cached / "snapshots" / revision)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    ran = process(
        SCRIPT,
        *("explain", album[0], missing, "--model", "acme/tiny-vit", "--out", tmp_path / "out", "--json"),
        HF_HOME=str(tmp_path / "hf"),
        HF_HUB_OFFLINE="1",
    )
    assert ran.returncode == 1
    assert one_line(ran.stderr) == f"vitscope: {missing} does not exist (check the path)"
    [result] = json.loads(ran.stdout)["results"]
    assert names(tmp_path / "out" / "cat") == FILES
    assert np.array_equal(Explanation.load(result["out"]).map, tiny_scope.explain(album[0]).map)
    assert result["provenance"]["model"] == "acme/tiny-vit"
    assert result["provenance"]["weights"] == f"revision:{revision}"


def test_a_closed_pipe_is_no_traceback():
    reading, writing = os.pipe()
    os.close(reading)
    ran = subprocess.run([SCRIPT, "--version"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (1, "")
