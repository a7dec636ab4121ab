"""`vitscope compare` as users run it."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.helpers.console import names, one_line, pixels
from vitscope.cli.commands.compare import DEFAULT_METHODS


@pytest.fixture
def shown(monkeypatch):
    """The cells of each sheet that is drawn, and how many columns it has."""
    from vitscope.render import sheets

    drawn = []
    monkeypatch.setattr(
        sheets, "sheet", lambda cells, title, columns, **_: drawn.append((cells, columns)) or Image.new("L", (2, 2))
    )
    return drawn


def test_compare(cli, album, tiny_folder, tmp_path):
    ran = cli("compare", album[1], "--model", tiny_folder, "--out", tmp_path / "out", "--json")
    assert (ran.code, ran.err) == (0, "")
    document = json.loads(ran.out)
    assert document["out"] == str(tmp_path / "out" / "cup-compare.png")
    assert names(tmp_path / "out") == {"cup-compare.png"}
    assert document["refused"] == []
    assert [told["method"] for told in document["methods"]] == list(DEFAULT_METHODS)
    assert document["methods"][0]["made_by"] == "evidence-walk"
    for told in document["methods"]:
        assert told["image"] == "cup"
        assert 1 <= told["effective_patches"] <= 16
        assert 0 < told["largest_share"] <= 1
        assert told["seconds"] > 0
    every = pixels(document["out"])
    arguments = [
        "--model",
        tiny_folder,
        "--out",
        tmp_path / "out",
        "--method",
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


@pytest.mark.slow
def test_compare_with_measured_numbers(cli, album, tiny_folder, tiny_scope, tmp_path, monkeypatch):
    from vitscope.render import sheets

    shown = []
    monkeypatch.setattr(sheets, "sheet", lambda cells, title, **_: shown.extend(cells) or Image.new("L", (2, 2)))
    arguments = ["compare", album[0], "--model", tiny_folder, "--method", "rollout,attention,random"]
    ran = cli(*arguments, "--out", tmp_path / "a", "--measure", "--baseline", "black", "--json")
    assert (ran.code, ran.err) == (0, "")
    documents, alone = json.loads(ran.out)["methods"], []
    for cell, document, method in zip(shown[1:], documents, ("rollout", "attention", "random"), strict=True):
        e = tiny_scope.explain(album[0], method=method)
        metrics = {"metrics": ["deletion", "infidelity"], "steps": 10, "n_squares": 16}
        wanted = tiny_scope.measure(e, **metrics, baseline="black")
        for got, number in zip(document["measurement"]["numbers"], wanted.numbers, strict=True):
            for field in ("value", "random", "low", "high"):
                assert got[field] == pytest.approx(getattr(number, field), abs=1e-6)
            assert f": {number.name} {number.value:.3f}\n({number.low:.2f} to {number.high:.2f}; " in cell.below
        assert max(map(len, cell.below.splitlines())) <= 40  # what fits below a map of the sheet
        alone.append(wanted.forwards)
    together = [document["measurement"]["forwards"] for document in documents]
    assert together[0] == alone[0]
    assert sum(together) < sum(alone)  # random maps are the same for all
    shown.clear()
    assert cli(*arguments, "--out", tmp_path / "b").code == 0
    assert "deletion" not in shown[1].below
    ran = cli(*arguments, "--out", tmp_path / "c", "--measure", "--baseline", "white")
    assert (ran.code, ran.out) == (2, "")
    assert "no baseline is called 'white'" in one_line(ran.err)


def test_a_method_that_does_not_apply_has_a_cell_with_the_reason(cli, album, tiny_folder, tmp_path, shown):
    arguments = ["compare", album[0], "-m", tiny_folder, "--size", 288]
    ran = cli(*arguments, "-o", tmp_path / "o", "--method", "rollout,flow", "--json")
    assert ran.code == 1
    told = json.loads(ran.out)
    assert [one["method"] for one in told["methods"]] == ["rollout"]
    [refused] = told["refused"]
    assert (refused["model"], refused["image"], refused["method"]) == (str(tiny_folder), "cat", "flow")
    assert "tokens are more than 290" in refused["reason"]
    assert "--size" in refused["reason"]
    [(cells, _)] = shown
    assert [cell.title for cell in cells] == ["image", "rollout", "flow"]
    assert cells[2].below.replace("\n", " ") == refused["reason"]
    assert cells[2].picture.size == cells[0].picture.size
    ran = cli(*arguments, "-o", tmp_path / "p", "--method", "flow")
    assert one_line(ran.err) == f"vitscope: cat: flow: {refused['reason']}"


def test_images_are_rows_and_methods_columns(cli, album, tiny_folder, tiny_scope, tmp_path, shown):
    arguments = ["--method", "rollout,gradcam,relevance", "--target", "kite", "--gradient-rule", "libra"]
    ran = cli("compare", *album[:2], "-m", tiny_folder, "-o", tmp_path / "o", *arguments, "--json")
    assert (ran.code, ran.err) == (0, "")
    told = json.loads(ran.out)
    assert told["out"] == str(tmp_path / "o" / "compare.png")
    assert [one["image"] for one in told["methods"]] == ["cat"] * 3 + ["cup"] * 3
    [(cells, columns)] = shown
    assert columns == 4
    assert [cell.title for cell in cells] == [
        title for name in ("cat", "cup") for title in (name, "rollout", "gradcam of kite", "relevance of kite")
    ]
    for row, path in enumerate(album[:2]):
        for column, method in enumerate(("rollout", "gradcam", "relevance"), 1):
            target = None if method == "rollout" else "kite"
            e = tiny_scope.explain(path, method=method, target=target, gradient_rule="libra")
            got = np.asarray(cells[4 * row + column].picture).astype(int)
            assert np.abs(got - np.asarray(e.overlay())).max() <= 2


@pytest.mark.spread
@pytest.mark.parametrize("ending", ["pdf", "svg", "jpg"])
def test_the_sheet_can_be_one_file_of_another_kind(cli, album, tiny_folder, tmp_path, ending):
    path = tmp_path / "new" / f"figure.{ending}"
    ran = cli("compare", *album[:2], "-m", tiny_folder, "-o", path, "--method", "rollout,random")
    assert ran == (0, f"{path}\n", "")
    assert names(path.parent) == {path.name}
    assert path.read_bytes()[:4] in (b"%PDF", b"<svg", b"\xff\xd8\xff\xe0")
    assert "already there" in one_line(cli("compare", *album[:2], "-m", tiny_folder, "-o", path).err)


def test_two_models_have_a_row_each_and_one_of_differences(cli, album, tiny_folder, tmp_path, shown):
    twice = ["--model", tiny_folder, "--model", tiny_folder, "--method", "attention,rollout"]
    ran = cli("compare", album[1], *twice, "--out", tmp_path / "two", "--json")
    assert (ran.code, ran.err) == (0, "")
    ((cells, columns),) = shown
    assert columns == 3
    told = [cell.title for cell in cells]
    assert told[6:] == ["1 - linear CKA by layer", "difference: attention", "difference: rollout"]
    assert [told[0], told[3]] == [f"{tiny_folder} ({place})" for place in (1, 2)]
    (pair,) = json.loads(ran.out)["layers"]
    assert [layer["relative"] for layer in pair["layers"]] == [0, 0, 0]
    grey = np.asarray(cells[-1].picture)  # no difference: neither red nor blue
    assert np.ptp(grey.astype(int), axis=2).max() <= 4


def test_equal_names_of_models_and_images_are_numbered(cli, album, tiny_folder, tmp_path, shown):
    other = tmp_path / "other" / album[1].name
    other.parent.mkdir()
    other.write_bytes(album[1].read_bytes())
    both = ("--model", tiny_folder, "--model", tiny_folder)
    ran = cli("compare", album[1], other, *both, "--method", "attention", "-o", tmp_path / "sheet.png")
    assert ran.code == 0, ran.err
    rows = [cell.title for cell in shown[0][0] if " · " in cell.title]
    assert rows == [f"cup ({photo}) · {tiny_folder} ({model})" for photo in (1, 2) for model in (1, 2)]


def test_what_two_models_cannot_do_is_said(cli, album, tiny_folder, tmp_path):
    model = ["--model", tiny_folder]
    ran = cli("compare", album[1], *model, *model, *model, "--out", tmp_path)
    assert ran.code != 0
    assert "3 models are named" in one_line(ran.err)
    ran = cli("compare", album[1], *model, *model, "--weights", album[0], "--out", tmp_path)
    assert ran.code != 0
    assert "--weights would be those of both models" in one_line(ran.err)
    ran = cli("compare", album[1], *model, *model, "--target", "tapir", "--out", tmp_path / "out")
    assert (ran.code, (tmp_path / "out").exists()) == (2, False)
    assert one_line(ran.err).startswith(f"vitscope: {tiny_folder}: no class is called 'tapir'")


@pytest.mark.slow
def test_the_numbers_as_a_table(cli, album, tiny_folder, tmp_path):
    arguments = ["compare", album[1], "--model", tiny_folder, "--method", "rollout,attention", "--out", tmp_path]
    ran = cli(*arguments, "--format", "csv")
    assert (ran.code, ran.err) == (0, "")
    head, *rows = [line.split(",") for line in ran.out.splitlines()]
    assert head[:4] == ["model", "image", "method", "made_by"]
    assert [row[1:4] for row in rows] == [["cup", "rollout", "rollout"], ["cup", "attention", "attention"]]
    assert all(1 <= float(row[head.index("effective_patches")]) <= 16 for row in rows)


def test_what_was_converted_and_a_size_that_patches_do_not_fill_are_said(cli, album, tiny_folder, tmp_path):
    Image.open(album[2]).convert("P").save(tmp_path / "palette.png")
    arguments = ["--model", tiny_folder, "--out", tmp_path / "out", "--method", "attention,rollout", "--size", "50"]
    ran = cli("compare", tmp_path / "palette.png", *arguments)
    assert ran.code == 0
    said = [line for line in ran.err.splitlines() if line.startswith("vitscope: palette: ")]
    assert len(said) == 2
    assert "palette" in said[0].removeprefix("vitscope: palette: ")
    assert "--size 50" in said[1]
    assert "48 x 48 pixels" in said[1]
    ran = cli("compare", album[2], *arguments, "--force", "--json")
    assert [told["input"] for told in json.loads(ran.out)["methods"]] == [[48, 48], [48, 48]]
