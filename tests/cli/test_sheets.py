"""`vitscope heads`, `logit-lens` and `similarity` as users run them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitscope
from tests.helpers.console import names, one_line, pixels


@pytest.mark.spread
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
    assert one_line(ran.err) == f"vitscope: {path} is already there (--force replaces it, or choose another path)"
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


@pytest.mark.spread
@pytest.mark.parametrize(
    ("command", "start"),
    [("heads", b"%PDF"), ("logit-lens", b"\xff\xd8"), pytest.param("similarity", b"<svg", marks=pytest.mark.slow)],
)
def test_out_names_the_sheet_itself(cli, album, tiny_folder, tmp_path, command, start):
    ending = {b"%PDF": ".pdf", b"\xff\xd8": ".jpg", b"<svg": ".svg"}[start]
    images = album[:2] if command == "similarity" else album[:1]
    path = tmp_path / "figures" / f"mine{ending}"
    arguments = [command, *images, "--model", tiny_folder, "-o", path]
    assert cli(*arguments) == (0, f"{path}\n", "")
    assert names(path.parent) == {path.name}
    assert path.read_bytes().startswith(start)
    assert "is already there" in one_line(cli(*arguments).err)
    ran = cli(command, *images, "--model", tiny_folder, "-o", "sheet.npz")
    assert (ran.code, ran.out) == (2, "")
    assert "--out expects a folder, got 'sheet.npz'" in one_line(ran.err)


def test_logit_lens(cli, album, tiny_folder, tmp_path):
    ran = cli("logit-lens", album[0], "--target", "kite", "--model", tiny_folder, "--out", tmp_path / "out", "--json")
    assert ran.code == 0
    told = json.loads(ran.out)
    assert told["target"] == "kite"
    assert [layer["layer"] for layer in told["layers"]] == [0, 1, 2]
    assert all(len(layer["predictions"]) == 5 for layer in told["layers"])
    with Image.open(told["out"]) as picture:
        assert picture.size[0] > 300
    again = cli("logit-lens", album[0], "--model", tiny_folder, "--out", tmp_path / "out")
    assert again.code == 1
    assert "already there" in one_line(again.err)


def test_logit_lens_of_a_model_without_classes_says_what_is_followed(cli, album, tiny_folder, tmp_path, monkeypatch):
    from transformers import AutoConfig, AutoImageProcessor, ViTModel

    from vitscope.render import sheets

    folder, titles = tmp_path / "features", []
    ViTModel(AutoConfig.from_pretrained(tiny_folder), add_pooling_layer=False).eval().save_pretrained(folder)
    AutoImageProcessor.from_pretrained(tiny_folder).save_pretrained(folder)
    monkeypatch.setattr(sheets, "sheet", lambda _, title, **__: titles.append(title) or Image.new("L", (1, 1)))
    ran = cli("logit-lens", album[0], "--model", folder, "--out", tmp_path / "out")
    assert ran.code == 0
    assert "this model has no classes: the number is the dot product" in one_line(ran.err)
    assert "product with the model's final feature, after each layer" in titles[0]


def test_similarity(cli, album, tiny_folder, tmp_path):
    ran = cli("similarity", album[0], album[1], "--model", tiny_folder, "--out", tmp_path / "out", "--json")
    assert ran.code == 0
    told = json.loads(ran.out)
    assert Path(told["out"]).name == "cat-cup-similarity.png"
    assert -1 <= told["cosine"] <= 1
    refused = cli(
        "similarity", album[0], album[1], "--model", tiny_folder, "--method", "rollout", "--out", tmp_path / "b"
    )
    assert refused.code == 2
    assert "has no target" in one_line(refused.err)
    assert not (tmp_path / "b").exists()
    missing = cli("similarity", album[0], tmp_path / "none.jpg", "--model", tiny_folder, "--out", tmp_path / "b")
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
