"""Planted scenes: what is said of them is so."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.errors import raises
from vitscope.bench import photos, planted
from vitscope.errors import ImageError, UnknownNameError, UsageError


def bytes_of(scene):
    return scene.image.tobytes() + scene.mask.tobytes()


def test_the_same_seed_gives_the_same_scenes_and_fewer_are_the_first_of_more():
    few, many = planted.scenes(5, seed=3, size=96), planted.scenes(14, seed=3, size=96)
    assert [bytes_of(s) for s in few] == [bytes_of(s) for s in many[:5]]
    assert [s.name for s in few] == [s.name for s in many[:5]]
    assert [bytes_of(s) for s in few] != [bytes_of(s) for s in planted.scenes(5, seed=4, size=96)]


def test_the_two_splits_share_neither_objects_nor_backgrounds():
    tune, report = (planted.scenes(12, split=split, size=64) for split in ("tune", "report"))
    for which in ("cutout", "background"):
        ours, theirs = ({getattr(s, which) for s in part} for part in (tune, report))
        assert ours
        assert not ours & theirs
    for names in (photos.CUTOUTS, photos.BACKGROUNDS):
        assert not {*names["tune"]} & {*names["report"]}


def test_every_object_comes_once_before_any_comes_again():
    names = [s.cutout for s in planted.scenes(18, size=64)]
    for first in (0, 6, 12):
        assert sorted(names[first : first + 6]) == sorted(photos.CUTOUTS["report"])


@pytest.mark.slow
def test_areas_are_log_uniform_and_classes_are_thirds():
    found = planted.scenes(180, size=64, seed=1)
    shares = np.array([s.mask.mean() for s in found])
    assert 0.9 * planted.AREAS[0] < shares.min()
    assert shares.max() < 1.1 * planted.AREAS[1]
    counts = [sum(s.size == name for s in found) for name in planted.SIZES]
    assert min(counts) > 40
    assert all(s.size == planted.size_class(s.mask) for s in found)


def test_size_classes_by_hand():
    for filled, name in ((34, "small"), (35, "medium"), (84, "medium"), (85, "large")):
        mask = np.zeros((25, 40), bool)
        mask.ravel()[:filled] = True
        assert planted.size_class(mask) == name


@pytest.fixture
def folders(tmp_path):
    """Flat red discs as cut-outs, flat blue and green grounds, of odd sizes."""
    things, places = tmp_path / "things", tmp_path / "places"
    things.mkdir()
    places.mkdir()
    y, x = np.mgrid[:41, :60]
    for number in range(3):
        rgba = np.zeros((41, 60, 4), np.uint8)
        rgba[..., :3] = (200, 10 * number, 0)
        rgba[..., 3] = 255 * (((x - 30) / 25) ** 2 + ((y - 20) / 15) ** 2 < 1)
        rgba[rgba[..., 3] == 0] = (0, 255, 0, 0)  # must not bleed in
        Image.fromarray(rgba).save(things / f"disc{number}.png")
        Image.new("RGB", (50 + number, 90), (0, 0, 100 + 50 * number)).save(places / f"blue{number}.png")
    (places / "notes.txt").write_text("no picture")
    return things, places


def test_own_folders_and_a_mask_that_is_where_the_object_is(folders):
    for scene in planted.scenes(6, size=120, cutouts=folders[0], backgrounds=folders[1]):
        red, green = scene.image[..., 0].astype(int), scene.image[..., 1].astype(int)
        assert ((red >= 100) == scene.mask).all()  # half of 200 over nothing
        assert green.max() <= 20
        ys, xs = np.nonzero(scene.mask)
        assert 1.3 < (np.ptp(xs) + 1) / (np.ptp(ys) + 1) < 2.2  # 5 to 3, mirrored or not
    halves = [
        planted.scenes(6, size=64, split=s, cutouts=folders[0], backgrounds=folders[1]) for s in ("tune", "report")
    ]
    names = [{s.cutout for s in half} for half in halves]
    assert names[0] | names[1] == {"disc0", "disc1", "disc2"}
    assert not names[0] & names[1]


def test_objects_and_grounds_are_placed_all_over(folders):
    centres = np.array([np.argwhere(s.mask).mean(0) / 64 for s in planted.scenes(60, size=64, cutouts=folders[0])])
    assert (centres.std(0) > 0.12).all()
    assert (abs(centres.mean(0) - 0.5) < 0.1).all()


def test_what_cannot_be_used_is_said_in_one_line(folders, tmp_path):
    things, places = folders
    for wrong, kind, code in (
        ({"split": "test"}, UnknownNameError, "errors.unknown-name"),
        ({"cutouts": tmp_path / "none"}, UsageError, "bench.not-a-folder"),
        ({"cutouts": tmp_path}, UsageError, "bench.no-images"),
        ({"cutouts": places}, ImageError, "bench.cutout-opaque"),
        ({"count": 0}, UsageError, "bench.scene-numbers"),
        ({"size": 8}, UsageError, "bench.scene-numbers"),
        ({"seed": -1}, UsageError, "bench.scene-numbers"),
    ):
        with raises(kind, code):
            planted.scenes(**({"count": 3} | wrong))
    for extra in ("disc1.png", "disc2.png"):
        (things / extra).unlink()
    with raises(UsageError, "bench.one-image"):
        planted.scenes(2, cutouts=things)
    Image.new("RGBA", (20, 20), (1, 2, 3, 0)).save(things / "empty.png")
    Image.new("RGBA", (20, 20), (1, 2, 3, 0)).save(things / "disc0.png")
    with raises(ImageError, "bench.cutout-empty"):
        planted.scenes(2, cutouts=things)


@pytest.mark.parametrize("name", [name for names in photos.CUTOUTS.values() for name in names])
def test_built_in_objects_fill_a_fair_part_of_their_box(name):
    alpha = photos.cutout(name)[..., 3]
    assert 0.35 < (alpha > 127).mean() < 0.95
    assert alpha[:, 0].any()
    assert alpha[0].any()
    assert ((alpha > 0) & (alpha < 255)).any(), "edges are soft"
