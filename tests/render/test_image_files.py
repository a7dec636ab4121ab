"""One drawing as one file: the pixels that every format gives back."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from vitscope.render.image_files import write_image


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 11, 3), np.uint8))


def test_png_and_svg_hold_every_pixel(image, tmp_path):
    for name in ("map.png", "map.SVG"):
        write_image(image, tmp_path / name)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "map.png")), np.asarray(image))
    text = (tmp_path / "map.SVG").read_text("utf-8")
    assert 'viewBox="0 0 11 7"' in text
    data = base64.b64decode(re.search(r"base64,([^\"]+)", text)[1])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(image))


@pytest.mark.parametrize(("name", "start"), [("map.jpg", b"\xff\xd8"), ("map.jpeg", b"\xff\xd8"), ("map.pdf", b"%PDF")])
def test_the_ending_decides(image, tmp_path, name, start):
    write_image(image, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
