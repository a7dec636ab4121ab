"""`vitscope heads`, `logit-lens`, `similarity` and `compare` as users run them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitscope
from tests.helpers.console import QUICK, names, one_line, pixels


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


# --- compare ---------------------------------------------------------------------------------------------------------


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
        wanted = tiny_scope.measure(e, metrics=["deletion", "insertion"], baseline="black")
        for got, number in zip(document["measurement"]["numbers"], wanted.numbers, strict=True):
            for field in ("value", "random", "low", "high"):
                assert got[field] == pytest.approx(getattr(number, field), abs=1e-6)
            assert f": {number.name} {number.value:.3f} ({number.low:.2f} to {number.high:.2f}; " in cell.below
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
