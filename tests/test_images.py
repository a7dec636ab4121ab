"""Loading images from memory: arrays, bytes, open files and rows of datasets."""

import functools
import io

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.errors import raises
from tests.helpers.images import NOISE, codes, encoded, refused, written
from vitscope.errors import ImageError
from vitscope.images import load_image

# --- arrays ----------------------------------------------------------------------------------------------------------

GREY = NOISE[..., 0]
HWC = np.full((4, 5, 3), 0.5, np.float32)


@pytest.mark.parametrize("array", [GREY, GREY[..., None], GREY.astype(np.float64) / 255, GREY[..., None] / 255])
def test_a_grey_array_has_three_equal_channels(array):
    picture = load_image(array)
    assert np.array_equal(picture.pixels, np.stack([GREY] * 3, -1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_become_the_nearest_of_256_values(dtype):
    values = np.array([[[0, 1, 0.5], [0.001, 0.998, 100 / 255]], [[1 / 510 + 1e-4, 1 / 510 - 1e-4, 0.25]] * 2], dtype)
    picture = load_image(values)
    # 255 times: 127.5 to the even 128; .255; 254.49; 100; .5255; .4745; 63.75
    assert picture.pixels.tolist() == [[[0, 255, 128], [0, 254, 100]], [[1, 0, 64]] * 2]
    assert codes(picture) == ["scaled"]


def test_every_8_bit_value_survives_as_a_half_precision_float():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(load_image((values / 255).astype(np.float16)).pixels[..., 0], values)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_array_with_nan(value):
    array = HWC.copy()
    array[1, 2, 0] = value
    assert "(4, 5, 3), float32" in refused(array, "not-finite")


@pytest.mark.parametrize(
    ("array", "extremes", "hint"),
    [
        (HWC * 200, ("0", "100"), "out-of-range.hint"),
        (HWC + 0.5001, ("0", "1"), "out-of-range.hint"),
        (HWC - 3, ("-2.5", "0"), "normalised.hint"),
    ],
)
def test_floats_outside_0_to_1(array, extremes, hint):
    with raises(ImageError, "images.out-of-range", f"images.{hint}") as caught:
        load_image(array)
    assert all(number in str(caught.value) for number in extremes)


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 5), (1, 4, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_channels_first_are_refused_with_what_to_do(shape, dtype):
    array = np.zeros(shape, dtype)
    assert "transpose(1, 2, 0)" in refused(array, "channels-first")
    assert load_image(array.transpose(1, 2, 0)).size == (shape[2], shape[1])


def test_a_shape_that_may_be_either_is_refused():
    refused(np.zeros((3, 7, 3), np.uint8), "ambiguous-shape")
    assert load_image(np.zeros((3, 7, 1), np.uint8)).size == (7, 3)  # one pixel wide otherwise


@pytest.mark.parametrize("dtype", [np.int64, np.uint32, bool, np.complex64, object])
def test_other_numbers_are_refused(dtype):
    assert np.dtype(dtype).name in refused(np.zeros((4, 5, 3), dtype), "array-dtype")


@pytest.mark.parametrize("shape", [(8, 5, 12), (4, 5, 0), (2, 4, 5, 3), (7,), (), (0, 5, 0)], ids=str)
def test_other_shapes_are_refused(shape):
    assert str(shape) in refused(np.zeros(shape, np.uint8), "array-shape")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_an_array_without_pixels(dtype):
    refused(np.zeros((0, 5, 3), dtype), "too-small")


def test_an_array_is_copied_and_the_picture_is_read_only():
    array = NOISE.copy()
    picture = load_image(array)
    array[:] = 0
    assert np.array_equal(picture.pixels, NOISE)
    with pytest.raises(ValueError, match="read-only"):
        picture.pixels[0, 0, 0] = 1
    assert (picture.name, picture.source, picture.notes) == ("image", "array", ())


def test_an_array_read_backwards_is_a_picture():
    assert np.array_equal(load_image(NOISE[::-1, ::2]).pixels, NOISE[::-1, ::2])


def test_a_pillow_image_is_left_alone():
    image = Image.fromarray(NOISE)
    picture = load_image(image)
    image.putpixel((0, 0), (1, 2, 3))
    assert np.array_equal(picture.pixels, NOISE)
    assert not picture.pixels.flags.writeable
    assert picture.source == "PIL image"


# --- bytes, files, rows of datasets ----------------------------------------------------------------------------------

PNG = encoded(Image.fromarray(NOISE), format="PNG")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_the_bytes_of_a_file(kind):
    picture = load_image(kind(PNG))
    assert np.array_equal(picture.pixels, NOISE)
    assert (picture.name, picture.source, picture.notes) == ("image", "bytes", ())
    refused(kind(b""), "empty")
    refused(kind(PNG[:200]), "broken")


def test_an_open_file(tmp_path):
    path = written(tmp_path / "dog.png", PNG)
    with path.open("rb") as file:
        picture = load_image(file)
        assert (picture.name, picture.source) == ("dog", str(path))
        assert "rewind" in refused(file, "empty")
    assert np.array_equal(picture.pixels, NOISE)
    with path.open(encoding="latin-1") as file:
        assert "'rb'" in refused(file, "text-file")


def test_a_file_in_memory():
    picture = load_image(io.BytesIO(PNG))
    assert np.array_equal(picture.pixels, NOISE)
    assert (picture.name, picture.source) == ("image", "file object")
    refused(io.StringIO("PNG"), "text-file")


def test_a_file_that_breaks_while_it_is_read():
    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise OSError(5, "Input/output error")

    assert "the file cannot be read: Input/output error" in refused(Broken(), "unreadable")


def test_a_row_of_a_dataset(tmp_path):
    path = written(tmp_path / "cat.png", PNG)
    image = Image.fromarray(NOISE)
    for row in ({"image": image, "label": 3}, {"image": PNG}, {"image": path}, {"image": str(path)}, {"image": NOISE}):
        assert np.array_equal(load_image(row).pixels, NOISE)
    for row in ({"bytes": PNG, "path": "a/cat.png"}, {"bytes": None, "path": str(path)}):
        for nested in (row, {"image": row, "label": 3}):
            picture = load_image(nested)
            assert np.array_equal(picture.pixels, NOISE)
            assert (picture.name, picture.source) == ("cat", row["path"])
    assert load_image({"bytes": PNG, "path": None}).source == "bytes"


@pytest.mark.parametrize("row", [{}, {"label": 3}, {"image": None}, {"bytes": None, "path": None}], ids=str)
def test_a_row_without_an_image_is_refused_by_its_keys(row):
    assert all(key in refused(row, "no-image-key") for key in row)


def test_a_row_of_rows_is_no_image():
    own: dict[str, object] = {}
    own["image"] = own
    deep = functools.reduce(lambda row, _: {"image": row}, range(5000), {"bytes": b""})
    for row in (own, deep):
        with raises(ImageError, "images.unknown-type"):
            load_image(row)


@pytest.mark.parametrize(
    "source",
    [None, 3, ["a.jpg"], (NOISE,), io.BytesIO, object(), {"bytes": "text"}],
    ids=lambda source: repr(source)[:9],
)
def test_other_things_are_refused_by_their_type(source, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    kind = type(source["bytes"] if isinstance(source, dict) else source)
    assert kind.__name__ in refused(source, "unknown-type")


def test_a_tensor_is_pointed_to_attribute(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    text = refused(torch.zeros(1, 3, 8, 8), "tensor")
    assert "scope.attribute(pixels)" in text
    assert "permute(1, 2, 0)" in text
    assert "permute" not in refused(torch.zeros(8, 9, 3), "tensor")


@pytest.mark.parametrize("url", ["https://example.org/dog.jpg", "http://example.org/dog.jpg"])
def test_a_url_is_not_fetched(url):
    assert url in refused(url, "url")
