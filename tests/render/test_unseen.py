"""What the model did not see is hatched and labelled; what it saw is left alone."""

import numpy as np
import pytest
from PIL import Image
from skimage import data

from vitscope.geometry import ImageRegion
from vitscope.render import raster
from vitscope.render.unseen import hatch_unseen


def cropped(size, box):
    return ImageRegion(size=size, box=box, input=(224, 224))


@pytest.mark.parametrize("axis", [0, 1])
def test_strips_are_darkened_hatched_and_labelled(axis):
    grey = np.full((400, 600, 3), 200, np.uint8)
    box = (100.0, 0.0, 500.0, 400.0) if axis else (0.0, 60.0, 600.0, 340.0)
    found = hatch_unseen(grey, cropped((600, 400), box))
    left, top, right, bottom = (int(one) for one in box)
    inside = np.zeros((400, 600), bool)
    inside[top:bottom, left:right] = True
    assert (found[inside] == 200).all()
    outside = found[~inside].astype(int)
    assert outside.mean() < 110
    assert {tuple(one) for one in outside} >= {
        (76, 76, 76),
        (129, 129, 129),
    }  # 0.38 of 200; the line, 0.7 of that and 76.5
    assert (outside > 240).all(1).sum() > 60, "white letters"


def test_a_photo_that_was_seen_whole_is_the_same_object():
    photo = data.chelsea()
    assert hatch_unseen(photo, cropped((451, 300), (0.0, 0.0, 451.0, 300.0))) is photo
    assert hatch_unseen(photo, cropped((451, 300), (0.4, -30.0, 450.7, 330.0))) is photo  # rounding, and padding


def test_a_strip_without_room_for_letters_is_hatched_alone():
    grey = np.full((400, 600, 3), 200, np.uint8)
    found = hatch_unseen(grey, cropped((600, 400), (8.0, 0.0, 592.0, 400.0)))
    assert (found[:, :8] < 150).all()


def test_the_overlay_of_a_centre_crop_is_darker_where_the_model_was_blind():
    photo = data.chelsea()
    region = ImageRegion.from_resize_crop((451, 300), (224, 337), (224, 224))
    drawn = np.asarray(raster.overlay(np.zeros((14, 14), np.float32), region, photo, raster.Style(opacity=0.0)))
    left, _, right, _ = region.window()
    assert left > 50
    assert np.asarray(Image.fromarray(drawn[:, :left]).convert("L")).mean() < 0.65 * photo[:, :left].mean()
    assert np.array_equal(drawn[:, right:], hatch_unseen(photo, region)[:, right:])
