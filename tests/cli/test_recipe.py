"""`vitscope recipe` as users run it."""

import json

import numpy as np
import pytest

from tests.helpers.console import mentions, names, one_line


def test_one_page_and_its_arrays(cli, album, tiny_folder, tmp_path):
    arguments = ["recipe", album[0], "--model", tiny_folder, "--out", tmp_path / "out", "--no-measure"]
    ran = cli(*arguments)
    page = tmp_path / "out" / "cat-recipe.html"
    assert ran == (0, f"{page}\n", "")
    assert names(tmp_path / "out") == {"cat-recipe.html", "cat-recipe.npz"}
    first = page.read_text("utf-8")
    assert "Not measured." in first
    ran = cli(*arguments)
    assert (ran.code, ran.out) == (1, "")
    assert "cat-recipe.html is already there" in one_line(ran.err)
    ran = cli(*arguments, "--force", "--layer", 0, "--as-published", "--lang", "zh", "--json")
    told = json.loads(ran.out)
    assert (ran.code, told["layer"], told["rank_correlation"]) == (0, 0, None)
    assert [one["method"] for one in told["maps"]] == ["notebook-recipe"]
    assert told["maps"][0]["measurement"] is None
    assert page.read_text("utf-8") != first
    with np.load(told["arrays"]) as arrays:
        assert set(arrays) == {"heads", "copied_map", "copied_layers"}


def test_out_names_the_page_itself(cli, album, tiny_folder, tmp_path):
    page = tmp_path / "out" / "mine.html"
    arguments = ["recipe", album[0], "--model", tiny_folder, "--out", page, "--no-measure"]
    assert cli(*arguments) == (0, f"{page}\n", "")
    assert names(page.parent) == {"mine.html", "mine.npz"}
    assert "mine.html is already there" in one_line(cli(*arguments).err)


@pytest.mark.slow
def test_both_maps_are_measured_and_said(cli, album, tiny_folder, tmp_path):
    ran = cli("recipe", album[0], "--model", tiny_folder, "--out", tmp_path / "out", "--seconds", 0)
    assert ran.code == 0
    page, rollout, copied = ran.out.splitlines()
    assert page.endswith("cat-recipe.html")
    assert rollout.startswith("rollout: ")
    assert copied.startswith("notebook-recipe: ")


@pytest.mark.parametrize(
    ("arguments", "said"), [(("--layer", 9), "9"), (("--lang", "fr"), "'fr'…en, zh"), (("--size", 3), "--size")]
)
def test_mistakes(cli, album, tiny_folder, tmp_path, arguments, said):
    ran = cli("recipe", album[0], "--model", tiny_folder, "--out", tmp_path / "out", "--no-measure", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert mentions(ran.err, said)
    assert not (tmp_path / "out").exists()
