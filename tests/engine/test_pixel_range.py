"""What is said of pixels that the model's own preprocessing cannot have made."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

import vitscope
from tests.models.toys_generic import Fused, made
from vitscope.engine.pixel_range import range_notes

PHOTO = Image.fromarray(data.astronaut())


def codes(scope, pixels):
    return [note.code for note in range_notes(scope.adapter, pixels)]


@pytest.fixture(scope="module")
def photo_pixels():
    """The photo at 64 px in 0..1, by Pillow and NumPy alone."""
    small = np.asarray(PHOTO.resize((64, 64)), np.float32) / 255
    return torch.from_numpy(small).permute(2, 0, 1)


def test_each_scale_that_people_pass_is_told_from_normalised_pixels(tiny_scope, photo_pixels):
    """The tiny model's processor subtracts .5 and divides by .5."""
    assert codes(tiny_scope, (photo_pixels - 0.5) / 0.5) == []
    assert codes(tiny_scope, photo_pixels) == ["engine.pixels-not-normalised"]
    assert codes(tiny_scope, photo_pixels * 255) == ["engine.pixels-beyond"]
    assert codes(tiny_scope, (photo_pixels * 255 - 127.5) / 0.5) == ["engine.pixels-beyond"]
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert codes(tiny_scope, (photo_pixels - mean) / std) == []  # another normalisation is a choice
    assert codes(tiny_scope, (photo_pixels - 0.5) / 0.5 + 0.3 * torch.randn(3, 64, 64)) == []
    assert codes(tiny_scope, torch.full((3, 64, 64), float("nan"))) == []


def test_the_numbers_that_are_said_are_those_of_black_and_white(tiny_scope, photo_pixels):
    (note,) = range_notes(tiny_scope.adapter, photo_pixels * 255)
    assert {key: float(note.params[key]) for key in ("black", "white")} == {"black": -1, "white": 1}
    assert float(note.params["high"]) == pytest.approx(float(photo_pixels.max() * 255), rel=1e-3)
    found = tiny_scope.attribute(torch.stack([photo_pixels * 255, (photo_pixels - 0.5) / 0.5]), method="rollout")
    assert [str(note) in map(str, row) for row in found.notes] == [True, False]


def test_a_preprocessing_that_vitscope_chose_says_nothing_of_0_to_1(photo_pixels):
    small = photo_pixels[:, :32, :32]
    assert codes(vitscope.load(made(Fused)), small) == []
    assert codes(vitscope.load(made(Fused)), small * 255) == ["engine.pixels-beyond"]


def plain(image):
    return torch.from_numpy(np.asarray(image.resize((32, 32)), np.float32) / 255).permute(2, 0, 1)


def by_its_own_values(image):
    return (plain(image) - plain(image).mean()) / plain(image).std()


@pytest.mark.parametrize("process", [plain, by_its_own_values])
def test_what_makes_no_negative_numbers_or_no_fixed_ones_is_silent(process, photo_pixels):
    scope = vitscope.load(made(Fused), processor=process)
    assert codes(scope, process(PHOTO)) == codes(scope, photo_pixels[:, :32, :32]) == []


def test_a_processor_that_fails_on_flat_images_costs_nothing(photo_pixels):
    def process(image):
        pixels = np.asarray(image.resize((32, 32)), np.float32)
        if np.ptp(pixels) == 0 and pixels.max() in (0, 255):
            raise ZeroDivisionError
        return torch.from_numpy(pixels / 255).permute(2, 0, 1)

    scope = vitscope.load(made(Fused), processor=process, region="whole")
    assert codes(scope, photo_pixels[:, :32, :32]) == []
