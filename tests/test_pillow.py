"""Decoding image files: broken ones are refused in one line, odd ones become the right pixels with a note."""

import io
import logging
import os
import random
import struct
import sys
import warnings
import zlib
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin

from tests.helpers import odd_pictures
from tests.helpers.images import NOISE, codes, encoded, refused, written
from vitscope import _pillow
from vitscope.errors import ImageError
from vitscope.images import Picture, load_image


def png_claiming(width, height):
    """A PNG of a few bytes whose header promises `width` x `height`."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


# --- files that are no pictures --------------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path):
    assert "dog.jpg" in refused(tmp_path / "dog.jpg", "not-found")


def test_a_folder_is_not_a_picture(tmp_path):
    assert str(tmp_path) in refused(tmp_path, "folder")


def test_an_empty_file(tmp_path):
    assert "nothing.png" in refused(written(tmp_path / "nothing.png", b""), "empty")


def test_a_path_too_long_for_the_system(tmp_path):
    assert "File name too long" in refused(tmp_path / ("a" * 300 + ".jpg"), "unreadable")


@pytest.mark.parametrize(
    "content", [b"Dear diary,\n" * 50, b"<!doctype html><p>404", b"\xff\xd8", b"\x89PNG", bytes(64)]
)
def test_something_else_renamed_to_jpg(tmp_path, content):
    text = refused(written(tmp_path / "letter.jpg", content), "not-an-image")
    assert "letter.jpg" in text
    assert "JPEG, PNG, GIF, BMP, PPM, WEBP, TIFF" in text


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4, 0.6, 0.8, 0.95])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_a_truncated_file(tmp_path, kind, share):
    whole = encoded(Image.fromarray(NOISE), format=kind)
    with pytest.raises(ImageError, match="cut.img") as caught:
        load_image(written(tmp_path / "cut.img", whole[: int(len(whole) * share)]))
    assert caught.value.code in ("images.broken", "images.not-an-image")


def test_a_truncated_jpeg_is_called_truncated(tmp_path):
    whole = encoded(Image.fromarray(NOISE), format="JPEG")
    text = refused(written(tmp_path / "cut.jpg", whole[: len(whole) // 2 + 300]), "broken")
    assert "image file is truncated" in text


@pytest.mark.parametrize("rounds", [40, pytest.param(120, marks=pytest.mark.slow)])
def test_nothing_but_one_line_comes_out_of_damaged_files(tmp_path, rounds):
    """Bytes overwritten and ends cut off at random, every format: a picture or an ImageError, no third thing."""
    image, exif = Image.fromarray(NOISE), Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.ImageDescription] = 6, "a photo"
    several = {"save_all": True, "append_images": [image.rotate(180)]}
    samples = [
        encoded(image, format="JPEG", exif=exif),
        encoded(image, format="PNG", exif=exif),
        encoded(image.quantize(16), format="PNG", transparency=3),
        encoded(image.quantize(16), format="GIF", save_all=True, append_images=[image.quantize(8)]),
        encoded(image, format="BMP"),
        encoded(image, format="PPM"),
        encoded(image, format="WEBP", exif=exif, **several),
        encoded(image, format="TIFF", exif=exif),
        encoded(image, format="TIFF", **several),
        encoded(image, format="MPO", **several),
    ]
    rnd, path, outcomes = random.Random(1), tmp_path / "damaged", {"read": 0, "refused": 0}
    for whole in samples:
        for _ in range(rounds):
            damaged = bytearray(whole)
            for _ in range(rnd.choice([0, 1, 2, 5])):
                damaged[rnd.randrange(min(len(damaged), rnd.choice([100, 400, 10**6])))] = rnd.randrange(256)
            end = rnd.choice([len(damaged), rnd.randrange(1, len(damaged))])
            written(path, bytes(damaged[:end]))
            try:
                picture = load_image(path)
            except ImageError as error:
                outcomes["refused"] += 1
                assert "\n" not in str(error)
            else:
                outcomes["read"] += 1
                assert picture.pixels.dtype == np.uint8
                assert picture.pixels.shape[2] == 3
    assert min(outcomes.values()) > len(samples) * rounds / 12


# --- too large, too small --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [12_000, 100_000, 2**31 - 1])  # beyond our limit, beyond Pillow's, beyond any
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, side):
    path = written(tmp_path / "bomb.png", png_claiming(side, side))
    assert path.stat().st_size < 100
    text = refused(path, "too-large")
    assert "bomb.png" in text
    assert "100 million" in text


def test_the_limit_is_the_number_of_pixels(tmp_path, monkeypatch):
    path = written(tmp_path / "photo.png", encoded(Image.fromarray(NOISE), format="PNG"))
    monkeypatch.setattr(_pillow, "MAX_PIXELS", 24 * 32)
    assert load_image(path).size == (32, 24)
    assert load_image(NOISE).size == (32, 24)
    monkeypatch.setattr(_pillow, "MAX_PIXELS", 24 * 32 - 1)
    assert "photo.png (32 x 24)" in refused(path, "too-large")
    for source in (Image.fromarray(NOISE), path.read_bytes(), io.BytesIO(path.read_bytes()), {"image": NOISE}):
        refused(source, "too-large")
    assert "(24, 32, 3)" in refused(NOISE, "too-large")
    assert "(24, 32)" in refused(NOISE[..., 0] / 255, "too-large")


def test_a_compressed_text_bomb_in_a_png(tmp_path):
    told = PngImagePlugin.PngInfo()
    told.add_text("comment", "a" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    path = written(tmp_path / "text.png", encoded(Image.fromarray(NOISE), format="PNG", pnginfo=told))
    assert path.stat().st_size < 10_000
    assert "Decompressed data too large" in refused(path, "broken")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 50), (50, 1)])
def test_a_picture_without_regions(tmp_path, width, height):
    path = written(tmp_path / "dot.png", encoded(Image.new("RGB", (width, height)), format="PNG"))
    assert f"dot.png has {width} x {height} pixels" in refused(path, "too-small")
    refused(np.zeros((height, width), np.uint8), "too-small")


def test_a_panorama_is_read(tmp_path):
    wide = np.random.default_rng(1).integers(0, 256, (40, 20_000, 3), dtype=np.uint8)
    picture = load_image(
        written(tmp_path / "panorama.png", encoded(Image.fromarray(wide), format="PNG", compress_level=1))
    )
    assert picture.size == (20_000, 40)
    assert np.array_equal(picture.pixels, wide)


# --- odd files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_as_text_and_as_path(tmp_path, kind):
    path = written(tmp_path / "my dog.v2.png", encoded(Image.fromarray(NOISE), format="PNG"))
    picture = load_image(kind(path))
    assert np.array_equal(picture.pixels, NOISE)
    assert not picture.pixels.flags.writeable
    assert (picture.name, picture.source, picture.notes) == ("my dog.v2", str(path), ())
    assert picture.size == (32, 24)
    assert np.array_equal(np.asarray(picture.pil()), NOISE)
    assert load_image(picture) is picture


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not have such names")
def test_a_file_name_that_is_no_text(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    picture = load_image(written(tmp_path / name, encoded(Image.fromarray(NOISE), format="PNG")))
    assert picture.name == r"caf\xe9"
    assert picture.source.endswith(r"caf\xe9.png")


def test_the_ending_does_not_matter(tmp_path):
    path = written(tmp_path / "really-a-png.jpg", encoded(Image.fromarray(NOISE), format="PNG"))
    assert np.array_equal(load_image(path).pixels, NOISE)


@pytest.mark.parametrize(
    "options",
    [
        {"format": "WEBP", "lossless": True},
        {"format": "TIFF"},
        {"format": "TIFF", "compression": "tiff_lzw"},
        {"format": "BMP"},
        {"format": "PPM"},
    ],
    ids=lambda options: "-".join(str(v) for v in options.values()),
)
def test_lossless_formats_keep_every_pixel(tmp_path, options):
    picture = load_image(written(tmp_path / "photo", encoded(Image.fromarray(NOISE), **options)))
    assert np.array_equal(picture.pixels, NOISE)
    assert picture.notes == ()


def test_an_animation_gives_its_first_frame_and_says_so(tmp_path):
    red, blue = (Image.new("RGB", (8, 6), colour) for colour in ("red", "blue"))
    path = written(tmp_path / "moving.gif", encoded(red, format="GIF", save_all=True, append_images=[blue, red]))
    picture = load_image(path)
    assert (picture.pixels == (255, 0, 0)).all()
    assert codes(picture)[0] == "first-frame"
    assert picture.notes[0].params["count"] == "3"


def test_a_pillow_image_at_another_frame_is_taken_as_it_stands(tmp_path):
    red, blue = (Image.new("RGB", (8, 6), colour) for colour in ("red", "blue"))
    path = written(tmp_path / "moving.gif", encoded(red, format="GIF", save_all=True, append_images=[blue]))
    with Image.open(path) as image:
        image.seek(1)
        picture = load_image(image)
        assert image.tell() == 1
    assert (picture.pixels == (0, 0, 255)).all()
    assert codes(picture) == ["frame"]


def test_a_phones_mpo_is_its_first_photo_without_remark(tmp_path):
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    path = written(tmp_path / "phone.jpg", encoded(red, format="MPO", save_all=True, append_images=[blue]))
    with Image.open(path) as image:
        assert image.format == "MPO"
        assert image.n_frames == 2
    picture = load_image(path)
    assert np.abs(picture.pixels.astype(int) - (255, 0, 0)).max() <= 3
    assert picture.notes == ()


def test_cmyk(tmp_path):
    path = written(tmp_path / "print.jpg", encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), format="JPEG"))
    picture = load_image(path)
    assert np.abs(picture.pixels.astype(int) - (255, 0, 0)).max() <= 3
    assert codes(picture) == ["mode"]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_cut(tmp_path, kind):
    values = np.array([[65535, 257, 0], [32896, 386, 385]], np.uint16)
    picture = load_image(written(tmp_path / "scan", encoded(Image.fromarray(values), format=kind)))
    assert picture.pixels[..., 0].tolist() == [[255, 1, 0], [128, 2, 1]]
    assert (picture.pixels == picture.pixels[..., :1]).all()
    assert codes(picture) == ["16-bit"]


def test_numbers_of_unknown_range_are_refused():
    for numbers in (np.full((4, 4), 1.5, np.float32), np.full((4, 4), 70_000, np.int32)):
        assert "window=" in refused(Image.fromarray(numbers), "unknown-range")


def test_another_colour_space_is_said():
    picture = load_image(Image.new("YCbCr", (4, 4), (255, 128, 128)))
    assert (picture.pixels == 255).all()
    assert codes(picture) == ["mode"]


def test_palette(tmp_path):
    image = Image.new("P", (2, 2))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1, 1, 0])
    plain = load_image(written(tmp_path / "plain.png", encoded(image, format="PNG")))
    assert plain.pixels.tolist() == [[[255, 0, 0], [0, 0, 255]], [[0, 0, 255], [255, 0, 0]]]
    assert codes(plain) == ["palette"]
    clear = load_image(written(tmp_path / "clear.png", encoded(image, format="PNG", transparency=0)))
    assert clear.pixels.tolist() == [[[255, 255, 255], [0, 0, 255]], [[0, 0, 255], [255, 255, 255]]]
    assert codes(clear) == ["transparency"]


@pytest.mark.parametrize(
    ("mode", "pixels", "expected"),
    [
        # over white by hand: 255 (1 - 128/255) + 200 (128/255) = 227.4
        ("RGBA", [(200, 0, 0, 255), (200, 0, 0, 128), (200, 0, 0, 0), (0, 0, 0, 255)], [200, 227, 255, 0]),
        ("LA", [(90, 255), (0, 128), (0, 0), (0, 255)], [90, 127, 255, 0]),
    ],
)
def test_transparency_is_laid_on_white(tmp_path, mode, pixels, expected):
    image = Image.new(mode, (2, 2))
    image.putdata(pixels)
    picture = load_image(written(tmp_path / "clear.png", encoded(image, format="PNG")))
    assert picture.pixels[..., 0].ravel().tolist() == expected
    assert codes(picture) == ["transparency"]


def test_one_transparent_colour_of_an_rgb_png(tmp_path):
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]] * 2, np.uint8))
    picture = load_image(written(tmp_path / "key.png", encoded(image, format="PNG", transparency=(1, 2, 3))))
    assert picture.pixels[0].tolist() == [[255, 255, 255], [4, 5, 6]]
    assert codes(picture) == ["transparency"]


def test_one_bit(tmp_path):
    image = Image.fromarray(np.array([[True, False], [False, True]]))
    assert image.mode == "1"
    picture = load_image(written(tmp_path / "fax.png", encoded(image, format="PNG")))
    assert picture.pixels[..., 0].tolist() == [[255, 0], [0, 255]]
    assert picture.pixels.shape == (2, 2, 3)


# --- EXIF orientation ------------------------------------------------------------------------------------------------

# rows of a 2 x 3 picture "abc / def" as stored, and how each orientation has it looked at
UPRIGHT = {
    1: ["abc", "def"],
    2: ["cba", "fed"],
    3: ["fed", "cba"],
    4: ["def", "abc"],
    5: ["ad", "be", "cf"],
    6: ["da", "eb", "fc"],
    7: ["fc", "eb", "da"],
    8: ["cf", "be", "ad"],
}


def blocks(rows, side):
    """Each letter as a block of `side` pixels in its own grey."""
    grey = np.array([[40 * (ord(letter) - ord("a")) + 20 for letter in row] for row in rows], np.uint8)
    return grey.repeat(side, 0).repeat(side, 1)[..., None].repeat(3, 2)


@pytest.mark.parametrize(
    ("kind", "side"), [("PNG", 1), ("TIFF", 1), ("TIFF-LZW", 1), ("WEBP", 1), ("JPEG", 16), ("MPO", 16)]
)
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(tmp_path, orientation, kind, side):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {
        "WEBP": {"lossless": True},
        "JPEG": {"quality": 100},
        "MPO": {"save_all": True, "append_images": [Image.new("RGB", (48, 32))]},
        "TIFF-LZW": {"compression": "tiff_lzw"},
    }
    image = Image.fromarray(blocks(UPRIGHT[1], side))
    content = encoded(image, format=kind.partition("-")[0], exif=exif, **options.get(kind, {}))
    picture = load_image(written(tmp_path / "turned", content))
    expected = blocks(UPRIGHT[orientation], side)
    assert picture.pixels.shape == expected.shape
    assert np.abs(picture.pixels.astype(int) - expected).max() <= (0 if side == 1 else 4)
    assert codes(picture) == (["turned"] if orientation > 1 else [])


def test_a_pillow_image_is_turned_upright_too(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = encoded(Image.fromarray(blocks(UPRIGHT[1], 1)), format="PNG", exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        picture = load_image(image)
    assert np.array_equal(picture.pixels, blocks(UPRIGHT[6], 1))


@pytest.mark.parametrize("orientation", [0, 9, 200])
def test_an_orientation_that_does_not_exist_turns_nothing_and_says_nothing(tmp_path, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = written(tmp_path / "odd.png", encoded(Image.fromarray(NOISE), format="PNG", exif=exif))
    picture = load_image(path)
    assert np.array_equal(picture.pixels, NOISE)
    assert picture.notes == ()


@pytest.mark.parametrize("tail", [b"MM\0*\0\0\0\x08\xff\xff garbage", b"XX garbage", b"MM\0*"])
def test_broken_metadata_does_not_cost_the_picture(tmp_path, tail):
    content = encoded(Image.fromarray(NOISE), format="PNG", exif=b"Exif\0\0" + tail)
    picture = load_image(written(tmp_path / "odd.png", content))
    assert np.array_equal(picture.pixels, NOISE)
    assert picture.notes == ()


def test_a_picture_is_frozen():
    picture = Picture(NOISE)
    with pytest.raises(AttributeError):
        picture.name = "other"


def test_threads_that_decode_at_once_leave_the_warnings_as_they_were():
    before = list(warnings.filters)
    first, second = _pillow.decoding("first"), _pillow.decoding("second")
    with ExitStack() as left:
        first.__enter__()
        left.callback(second.__exit__, None, None, None)
        second.__enter__()
        first.__exit__(None, None, None)  # the first one in leaves while the second still decodes
        warnings.warn("not heard", UserWarning, stacklevel=1)
    assert warnings.filters == before
    with pytest.warns(UserWarning, match="heard again"):
        warnings.warn("heard again", UserWarning, stacklevel=1)


def test_what_pillow_logs_goes_to_handlers_of_the_caller_only(monkeypatch, capsys):
    data = odd_pictures.tiff_with(277, 3, 1, 65_535)  # samples in a pixel
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # of pytest: without any, logs go to stderr
    with pytest.raises(ImageError):
        load_image(data)
    assert capsys.readouterr() == ("", "")
    assert logging.getLogger("PIL").handlers == []
