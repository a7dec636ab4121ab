"""What costs more than it weighs is refused by its header; what is no file, before a byte is read."""

import io
import os
import socket
import time

import numpy as np
import pytest
from PIL import Image

from tests.helpers import odd_pictures
from tests.helpers.errors import raises
from tests.helpers.images import refused, written
from vitscope._header_scan import check_cost, gif_frames
from vitscope.errors import ImageError
from vitscope.images import load_image

GOOD, BAD = list(odd_pictures.good()), list(odd_pictures.bad())


def test_the_table_is_large_enough():
    assert len(GOOD) + len(BAD) >= 150


@pytest.mark.parametrize(("name", "data", "pixels"), GOOD, ids=[one[0] for one in GOOD])
def test_whole_pictures_are_read_right(name, data, pixels):
    assert np.array_equal(load_image(data).pixels, pixels)


@pytest.mark.parametrize(("name", "data"), BAD, ids=[f"{n} {one[0]}" for n, one in enumerate(BAD)])
def test_others_are_one_line_within_a_second(name, data):
    began = time.process_time()
    with pytest.raises(ImageError) as caught:
        load_image(data)
    assert time.process_time() - began < 1
    assert "\n" not in str(caught.value)


def exif(pieces):
    """A JPEG whose Exif is in pieces, which Pillow joins one by one."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    return file.getvalue()[:2] + (b"\xff\xe1\x00\x40Exif\0\0" + bytes(56)) * pieces + file.getvalue()[2:]


def test_exif_in_a_few_pieces_is_read_where_it_can_be_stopped():
    assert [check_cost(exif(pieces), "x") for pieces in (0, 1, 20, 21, 200)] == [True, True, True, False, False]
    assert load_image(exif(200)).size == (8, 8)


@pytest.mark.parametrize(
    "data",
    [
        odd_pictures.scans(4000),
        odd_pictures.scans(80, (6000, 5000)),
        odd_pictures.png_with(odd_pictures.chunk(b"tEXt", b"a\0b") * 3000),
        exif(300),
        odd_pictures.gif_with(b"\x21\xfe" + (b"\xff" + b"a" * 255) * 10_000 + b"\0"),
        odd_pictures.tiff_with(279, 4, 50_000_000, 8),
    ],
    ids=["scans", "scans of many pixels", "texts", "pieces of Exif", "comment", "tags"],
)
def test_what_asks_for_too_much_work_is_called_costly(tmp_path, data):
    refused(data, "costly")
    refused(written(tmp_path / "costly", data), "costly")
    if data[:2] == b"\xff\xd8":
        with Image.open(tmp_path / "costly") as image:
            refused(image, "costly")


def test_usual_photos_are_bounded_and_others_are_not():
    usual = {"JPEG", "PNG", "BMP", "WEBP"}
    for kind in (*usual, "TIFF", "GIF", "PPM"):
        assert check_cost(odd_pictures.encoded(odd_pictures.GREY, kind), "x") is (kind in usual)
    assert check_cost(odd_pictures.scans(0), "x")
    assert not check_cost(odd_pictures.scans(80, (3000, 2000)), "x")
    moving = odd_pictures.encoded(
        odd_pictures.COLOURS, "WEBP", save_all=True, append_images=[Image.new("RGB", (32, 24))]
    )
    assert not check_cost(moving, "x")


def test_frames_are_counted_as_pillow_does():
    frames = [Image.fromarray(np.roll(odd_pictures.GREY, n, 1)) for n in range(5)]
    data = odd_pictures.encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert gif_frames(data) == 5
    assert gif_frames(odd_pictures.gif_with(frames=1)) == 1
    assert gif_frames(odd_pictures.gif_with(frames=100_000)) == 101


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("linked", [False, True])
def test_pipes_sockets_and_devices_are_refused_unread(tmp_path, linked):
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
        for path in (tmp_path / "pipe.png", tmp_path / "socket.png", "/dev/zero", "/dev/null"):
            if linked:
                link = tmp_path / f"link{len(list(tmp_path.iterdir()))}.png"
                link.symlink_to(path)
                path = link
            refused(path, "not-a-file")


def test_a_file_of_holes_is_refused_unread(tmp_path):
    for name, head in (("zeros.tif", b""), ("whole.png", odd_pictures.encoded(odd_pictures.COLOURS, "PNG"))):
        path = written(tmp_path / name, head)
        with path.open("ab") as file:
            file.truncate(3 << 30)
        if path.stat().st_blocks * 512 > 1 << 30:
            pytest.skip("this file system stores holes")
        assert "3,221 MB" in refused(path, "sparse")


def test_a_lack_of_memory_is_no_broken_picture(monkeypatch):
    def out_of_memory(*_args, **_options):
        raise MemoryError("Unable to allocate 1.5 GiB for an array with shape (9, 9)")

    monkeypatch.setattr("vitscope._formats.upright", out_of_memory)
    from vitscope.errors import OutOfMemoryError

    with raises(OutOfMemoryError, "errors.out-of-memory-for") as caught:
        load_image(odd_pictures.encoded(odd_pictures.COLOURS, "PNG"))
    assert "1.5 GiB" in str(caught.value)
