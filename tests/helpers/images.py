"""Images as files and bytes, and the codes of what loading them says."""

import io

import numpy as np

from tests.helpers.errors import raises
from vitscope.errors import ImageError
from vitscope.images import load_image

NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def refused(source, code):
    """The text of the ImageError with this code: one line, with a hint that has a code."""
    with raises(ImageError, f"images.{code}") as caught:
        load_image(source)
    assert caught.value.hint.code.startswith("images.")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def codes(picture):
    return [note.code.removeprefix("images.") for note in picture.notes]


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def written(path, content):
    path.write_bytes(content)
    return path
