"""`vitscope animate`: the frames of the file, read back, against the maps that they show."""

import json
import shlex

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageFont, ImageSequence

import vitscope
from tests.helpers.console import one_line
from vitscope.render.raster import limits

SIDE = 320  # of the photo, and of what a frame shows of it


def frames_of(path):
    with Image.open(path) as film:
        return [np.asarray(one.convert("RGB"), float) for one in ImageSequence.Iterator(film)]


def off(frame, e):
    """By how much the middles of the patches differ, on average, from the colours of this map over a grey photo."""
    low, high = limits(e.map, "minmax")
    levels = (e.map.ravel()[:, None] - low) / (high - low)
    colours = 255 * matplotlib.colormaps["inferno"](levels[:, 0])[:, :3]
    wanted = 128 + 0.65 * (0.5 + 0.5 * levels) * (colours - 128)
    rows, columns = e.map.shape
    middles = [((r + 0.5) * SIDE / rows, (c + 0.5) * SIDE / columns) for r in range(rows) for c in range(columns)]
    shown = [frame[int(y) - 3 : int(y) + 3, int(x) - 3 : int(x) + 3].reshape(-1, 3).mean(0) for y, x in middles]
    return np.abs(np.array(shown) - wanted).mean()


def check_letters(captions):
    """The font of a frame has every letter of its caption: none is drawn as the box of a missing one."""
    font = ImageFont.load_default(size=20)
    box = bytes(font.getmask("\uffff"))
    assert [letter for letter in set("".join(captions)) if bytes(font.getmask(letter)) == box] == []


def check_each_is_its_own(shown, maps):
    """Each frame shows its map, and none of the others."""
    table = np.array([[off(frame, e) for e in maps] for frame in shown])
    assert table.shape == (len(maps), len(maps))
    assert table.diagonal().max() < 4 < (table + 99 * np.eye(len(maps))).min()


@pytest.fixture
def grey(tmp_path):
    """A photo without any detail: what is seen over it is the map."""
    path = tmp_path / "grey.png"
    Image.new("RGB", (SIDE, SIDE), (128, 128, 128)).save(path)
    return path


@pytest.mark.spread
@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_each_frame_is_the_map_of_its_layer(cli, grey, tiny_folder, tmp_path, ending):
    path = tmp_path / f"layers.{ending}"
    ran = cli("animate", grey, "--model", tiny_folder, "-o", path, "--query", "1,2", "--json")
    assert ran.code == 0, ran.err
    told, scope = json.loads(ran.out), vitscope.load(tiny_folder)
    assert told["out"] == str(path)
    assert [caption[:39] for caption in told["frames"]] == [
        f"attention of patch 1,2 · layer {n} (0 to 2) ·"[:39] for n in range(3)
    ]
    check_letters(told["frames"])
    shown = frames_of(path)
    assert [frame.shape[1::-1] for frame in shown] == [tuple(told["size"])] * 3
    maps = [scope.explain(grey, method="attention", layer=layer, query="1,2") for layer in range(3)]
    check_each_is_its_own(shown, maps)


def test_heads_and_rollout_have_a_frame_each_in_their_order(cli, grey, tiny_folder, tmp_path):
    scope = vitscope.load(tiny_folder)
    wanted = {
        "heads": [scope.explain(grey, method="attention", layer=1, head=head) for head in range(2)],
        "rollout": [scope.explain(grey, method="rollout", start_layer=start) for start in (2, 1, 0)],
    }
    places = {"heads": ["head 0", "head 1"], "rollout": ["layers 2 to 2", "layers 1 to 2", "layers 0 to 2"]}
    for sequence, maps in wanted.items():
        path = tmp_path / f"{sequence}.gif"
        ran = cli(
            "animate",
            grey,
            "--model",
            tiny_folder,
            "-o",
            path,
            "--sequence",
            sequence,
            "--layer",
            1,
            "--rate",
            4,
            "--json",
        )
        assert ran.code == 0, ran.err
        told = json.loads(ran.out)["frames"]
        assert all(place in caption for place, caption in zip(places[sequence], told, strict=True))
        check_letters(told)
        shown = frames_of(path)
        check_each_is_its_own(shown, maps)
        with Image.open(path) as film:
            assert (film.n_frames, film.info["duration"], film.info["loop"]) == (len(maps), 250, 0)


@pytest.mark.parametrize("ending", ["gif", "webp", "GIF"])
def test_the_file_says_what_it_shows_and_the_command_in_it_makes_it_again(cli, grey, tiny_folder, tmp_path, ending):
    made, again = (tmp_path / f"{name}.{ending}" for name in ("made", "again"))
    style = ("--cmap", "viridis", "--norm", "minmax", "--rate", 4, "--width", 200, "--query", "1,2", "--size", 96)
    ran = cli("animate", grey, "--model", tiny_folder, "-o", made, "--one-scale", "--json", *style)
    assert ran.code == 0, ran.err
    with Image.open(made) as film:
        said = film.info["comment"] if film.format == "GIF" else film.getexif()[0x010E].encode("latin-1")
    *told, program, command = said.decode().splitlines()
    assert told == json.loads(ran.out)["frames"]
    assert program == f"vitscope {vitscope.__version__}"
    name, *words = shlex.split(command)
    ran = cli(*words, "-o", again)
    assert (name, ran.code) == ("vitscope", 0), ran.err
    assert again.read_bytes() == made.read_bytes()


def test_the_legend_has_the_colours_of_the_scale_and_one_scale_is_one(cli, grey, tiny_folder, tmp_path):
    bars = {}
    for flags in ((), ("--one-scale",)):
        path = tmp_path / "scales.webp"
        ran = cli("animate", grey, "--model", tiny_folder, "-o", path, "--force", *flags)
        assert ran.code == 0, ran.err
        shown = frames_of(path)
        column = [frame[:320, 320 + 11] for frame in shown]  # through the colour bar: 13 wide, after a gap of 5
        ramp = 255 * matplotlib.colormaps["inferno"](np.linspace(1, 0, 300))[:, :3]
        assert all(np.abs(one[10:310] - ramp).mean() < 12 for one in column)
        bars[flags] = [frame[:320, 340:] for frame in shown]  # the numbers beside it
    same = {flags: np.abs(one[0] - one[1]).mean() for flags, one in bars.items()}
    assert same["--one-scale",] < 1 < same[()]


def test_what_is_there_is_not_replaced(cli, grey, tiny_folder, tmp_path):
    path = tmp_path / "layers.gif"
    path.write_bytes(b"mine")
    ran = cli("animate", grey, "--model", tiny_folder, "-o", path)
    assert ran.code == 1
    assert "already there" in one_line(ran.err)
    assert path.read_bytes() == b"mine"
