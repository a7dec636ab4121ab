"""Defaults from `vitscope.toml` and from the environment; quiet runs; folders as arguments."""

import json
import os
import shutil

import numpy as np
import pytest

from tests.helpers.console import manifest, mentions, names, one_line, pixels


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_file_gives_defaults_and_options_go_before_them(cli, album, tiny_folder, place):
    (place / "vitscope.toml").write_text(
        f'model = "{tiny_folder}"\nsize = 48\n[explain]\nmethod = "rollout"\nresidual-weight = 0.3\ntarget = ["kite"]\n'
    )
    ran = cli("explain", album[0])
    assert ran.code == 0
    assert one_line(ran.err) == "vitscope: defaults of vitscope.toml: model, size, method, residual_weight, target"
    record = manifest(place / "out" / "cat-rollout")["provenance"]
    assert (record["size"], record["options"]["residual_weight"], record["target"]) == (48, 0.3, "kite")
    ran = cli("explain", album[0], "--size", 64, "--force", "-q")
    assert (ran.code, ran.err) == (0, "")
    assert manifest(place / "out" / "cat-rollout")["provenance"]["size"] == 64
    assert cli("models").err == ""  # it has none of these options


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("siz = 3", "'siz'…'size'"),
        ("[explain]\nmetod = 'rollout'", "'metod'…'method'"),
        ("[explian]\nsize = 3", "'explian'…'explain'"),
        ("[heads]\ntarget = 'kite'", "'target'"),
        ("size = ", "vitscope.toml cannot be read"),
        ("size = 3", "size in vitscope.toml…16…8192…3"),
        ("size = 5_0.5", "size in vitscope.toml…50.5"),
        ("size = [64]", "size in vitscope.toml is one value, not a list…without brackets"),
        ("[explain]\nmethod = ['rollout', 'attention']", "method in vitscope.toml is one value…commas"),
        ("[explain]\nmethod = 'rolout'", "'rolout'…'rollout'…method in vitscope.toml is 'rolout'"),
        ("[explain]\nforce = 'maybe'", "force in vitscope.toml…boolean…force in vitscope.toml is 'maybe'"),
        ("[explain]\nlayers = 'a'", "'a' is not a valid choice of layers…layers in vitscope.toml is 'a'"),
        ("target = 3", "the target '3'…target in vitscope.toml is '3'"),
        ("target = 'kite'", "the target 'kite'…target in vitscope.toml is 'kite'"),
        ("a = " + "[" * 5000, "vitscope.toml cannot be read"),
        ("size = " + "9" * 5000, "vitscope.toml cannot be read"),
        ("\0", "vitscope.toml cannot be read"),
        ("trust-remote-code = true", "cannot set trust-remote-code"),
        ("[explain]\ntrust_remote_code = true", "cannot set trust-remote-code"),
    ],
)
def test_a_wrong_file_is_one_line(cli, album, place, text, said):
    (place / "vitscope.toml").write_text(text)
    ran = cli("explain", album[0], "-q")
    assert (ran.code, ran.out) == (2, "")
    assert mentions(ran.err, said)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "too large"])
def test_what_is_no_file_is_not_waited_for(cli, place, kind):
    path = place / "vitscope.toml"
    {
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "folder": path.mkdir,
        "too large": lambda: path.write_bytes(b"\n" * 2_000_000),
    }[kind]()
    ran = cli("methods")
    assert (ran.code, ran.out) == (2, "")
    assert mentions(ran.err, "vitscope.toml")


def test_every_option_has_a_variable(cli, album, tiny_folder, place, monkeypatch):
    monkeypatch.setenv("VITSCOPE_EXPLAIN_METHOD", "rollout")
    monkeypatch.setenv("VITSCOPE_EXPLAIN_OUT", "elsewhere")
    (place / "vitscope.toml").write_text('[explain]\nmethod = "attention"\n')
    assert cli("explain", album[0], "-m", tiny_folder).code == 0
    assert names(place / "elsewhere") == {"cat-rollout"}
    assert "VITSCOPE_EXPLAIN" not in cli("explain", "--help").out


def test_quiet_runs_print_results_and_errors_only(cli, tiny_folder, photo, place):
    (place / "vitscope.toml").write_text("[view]\ntop = 1\n")
    arguments = ["view", photo, "-m", tiny_folder, "--method", "rollout", "--no-measure", "-o"]
    ran = cli(*arguments, "a.html", "-q")
    assert (ran.code, ran.out, ran.err) == (0, "a.html\n", "")
    assert "defaults of vitscope.toml: top" in cli(*arguments, "b.html").err
    assert "already there" in one_line(cli(*arguments, "a.html", "-q").err)


def test_a_folder_stands_for_its_images(cli, album, tiny_folder, place):
    shutil.copytree(album[0].parent, place / "album")  # all tests share the album itself
    (place / "album" / "notes.txt").write_text("no image")
    ran = cli("explain", "album", "-m", tiny_folder, "--method", "rollout", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert [one["name"] for one in json.loads(ran.out)["results"]] == ["cat", "cup", "rocket"]
    (place / "empty").mkdir()
    ran = cli("explain", "empty", "-m", tiny_folder)
    assert ran.code == 1
    assert "empty" in one_line(ran.err)


@pytest.mark.spread
@pytest.mark.parametrize("kind", ["map", "matrix"])
def test_heads_of_all_layers_are_rows(cli, album, tiny_folder, place, monkeypatch, kind):
    from vitscope.render import sheets

    drawn, draw = [], sheets.sheet
    monkeypatch.setattr(sheets, "sheet", lambda cells, *a, **k: drawn.append((cells, k)) or draw(cells, *a, **k))
    ran = cli("heads", album[0], "-m", tiny_folder, "--layer", "all", "--kind", kind, "--json")
    assert (ran.code, ran.err) == (0, "")
    told = json.loads(ran.out)
    assert (told["layer"], told["heads"]) == ("all", 6)
    assert names(place / "out") == {f"cat-all-layers-{kind}.png"}
    [(cells, options)] = drawn
    assert options["columns"] == 2
    assert [cell.title for cell in cells] == [f"layer {layer}, head {head}" for layer in range(3) for head in range(2)]
    assert pixels(told["out"]).shape[0] > pixels(told["out"]).shape[1]
    cli("heads", album[0], "-m", tiny_folder, "--layer", 1, "--kind", kind)
    for one, other in zip(cells[2:4], drawn[1][0], strict=True):
        assert one.title == other.title
        np.testing.assert_allclose(np.asarray(one.picture), np.asarray(other.picture))
    ran = cli("heads", album[0], "-m", tiny_folder, "--layer", "last")
    assert (ran.code, ran.out) == (2, "")
    assert "'last' is no layer" in one_line(ran.err)
