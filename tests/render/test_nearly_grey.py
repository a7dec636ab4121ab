"""The photo below a map: greys that keep what only colours show, and leave every other photo as its lightness is."""

import numpy as np
import pytest
from PIL import Image

from tests.oracles.nearly_grey import LIGHTNESS, dense_colour_weights, dense_nearly_grey
from vitscope.geometry import ImageRegion
from vitscope.render.nearly_grey import colour_weights, greys_of, nearly_grey
from vitscope.render.raster import Style, overlay
from vitscope.web.samples import SAMPLES, sample_picture

RNG = np.random.default_rng(3)


def plain(photo):
    """Three tenths of the colour and seven of its lightness."""
    return 0.3 * photo + 0.7 * (photo @ LIGHTNESS)[..., None]


def ring(ink, ground, side=90):
    """A ring of one colour on another."""
    y, x = np.mgrid[:side, :side] - side / 2
    inside = np.abs(np.hypot(x, y) - side / 4) < side / 20
    return np.where(inside[..., None], ink, ground).astype(np.uint8), inside


PHOTOS = {
    "noise": RNG.integers(0, 256, (37, 50, 3), dtype=np.uint8),
    "tall noise": RNG.integers(0, 256, (90, 11, 3), dtype=np.uint8),
    "one pixel": np.full((1, 1, 3), (200, 30, 90), np.uint8),
    "one colour": np.full((20, 30, 3), (200, 30, 90), np.uint8),
    "ring": ring((230, 60, 60), (60, 132, 118))[0],
}


@pytest.mark.parametrize("name", PHOTOS)
def test_it_is_what_its_definition_says(name):
    photo = PHOTOS[name]
    assert colour_weights(photo) == pytest.approx(dense_colour_weights(photo), abs=1e-4)
    assert np.abs(greys_of(photo)(0, len(photo)) - dense_nearly_grey(photo)).max() < 0.1
    assert np.abs(nearly_grey(photo) - dense_nearly_grey(photo)).max() < 0.6


def test_what_is_grey_stays_as_it_is_and_weights_sum_to_zero():
    grey = RNG.integers(0, 256, (30, 40, 1), dtype=np.uint8).repeat(3, -1)
    assert not colour_weights(grey).any()
    assert np.abs(nearly_grey(grey).astype(int) - grey).max() <= 1
    for photo in PHOTOS.values():
        assert colour_weights(photo).sum() == pytest.approx(0, abs=1e-5)


def test_strips_join_without_a_seam():
    photo = PHOTOS["noise"]
    rows = greys_of(photo)
    assert np.array_equal(np.concatenate([rows(0, 9), rows(9, 21), rows(21, 99)]), rows(0, 37))


@pytest.mark.parametrize(
    ("ink", "ground"),
    [((230, 60, 60), (60, 132, 118)), ((60, 200, 60), (220, 110, 150)), ((20, 160, 255), (230, 110, 20))],
)
def test_what_differs_by_hue_alone_is_lighter_or_darker_below_a_map(ink, ground):
    photo, inside = ring(ink, ground)
    assert abs(np.subtract(ink, ground) @ LIGHTNESS) < 12

    def apart(pixels):
        lightness = np.asarray(pixels, float) @ LIGHTNESS
        return abs(lightness[inside].mean() - lightness[~inside].mean())

    assert apart(plain(photo)) < 12
    assert apart(nearly_grey(photo)) > 60
    hot = np.ones((6, 6), np.float32)
    drawn = overlay(hot, ImageRegion.from_resize_crop((90, 90), (84, 84)), photo, Style(), (0.0, 1.0))
    assert apart(drawn) > 20  # of the 65 % that the hottest colour covers, 35 are left


def test_samples_of_photographs_stay_as_their_lightness_is_and_digits_do_not():
    changes = {}
    for name in SAMPLES:
        photo = sample_picture(name).pixels
        changes[name] = np.abs(nearly_grey(photo) - plain(photo)).mean()
    digits = changes.pop("digits")
    assert max(changes.values()) < 5
    assert digits > 15


def test_photos_share_weights_on_request():
    one, other = PHOTOS["noise"], np.asarray(Image.fromarray(PHOTOS["ring"]).resize((50, 37)))
    assert colour_weights(one, other) == pytest.approx(colour_weights(other, one), abs=1e-5)
    assert colour_weights(other, other) == pytest.approx(colour_weights(other), abs=1e-5)
