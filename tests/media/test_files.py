"""Damaged and costly files of clips, volumes and sounds: each is read, or one line says what is wrong."""

import gzip
import io
import os
import struct
import warnings
import wave
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.errors import raises
from vitscope.errors import ImageError, UsageError, VitscopeError
from vitscope.media.clip import Clip, load_clip
from vitscope.media.sound import Sound, load_sound
from vitscope.media.volume import Volume, load_volume

DRAWN = np.random.default_rng(0)
FRAMES = [Image.fromarray(DRAWN.integers(0, 256, (24, 32, 3), np.uint8)) for _ in range(6)]
TRIES = 24


def animation(kind):
    file = io.BytesIO()
    FRAMES[0].save(file, kind, save_all=True, append_images=FRAMES[1:], duration=40)
    return file.getvalue()


def video():
    av, file = pytest.importorskip("av"), io.BytesIO()
    with av.open(file, "w", format="mp4") as made:
        stream = made.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for frame in (*FRAMES, None):
            made.mux(stream.encode(None if frame is None else av.VideoFrame.from_image(frame)))
    return file.getvalue()


def sound():
    file = io.BytesIO()
    with wave.open(file, "wb") as made:
        made.setparams((1, 2, 16000, 0, "NONE", ""))
        made.writeframes(DRAWN.integers(-9999, 9999, 4000, np.int16).tobytes())
    return file.getvalue()


def flac():
    file = io.BytesIO()
    pytest.importorskip("soundfile").write(file, np.zeros(4000), 16000, format="FLAC")
    return file.getvalue()


def array():
    file = io.BytesIO()
    np.save(file, DRAWN.random((8, 9, 10)).astype(np.float32))
    return file.getvalue()


def nifti():
    nib = pytest.importorskip("nibabel")
    return nib.Nifti1Image(DRAWN.random((8, 9, 10)).astype(np.float32), np.eye(4)).to_bytes()


KINDS = {
    **{kind.lower(): partial(animation, kind) for kind in ("GIF", "WEBP", "PNG", "TIFF")},
    **{"mp4": video, "wav": sound, "flac": flac, "npy": array, "nii": nifti},
    "nii.gz": lambda: gzip.compress(nifti()),
}
READERS = {"wav": load_sound, "flac": load_sound, "npy": load_volume, "nii": load_volume, "nii.gz": load_volume}


def read(kind, path):
    return READERS.get(kind, lambda path: load_clip(path, 4))(path)


def damaged(data, number):
    """Flip a few bytes, anywhere or near the beginning, cut the end off, or write a large number somewhere."""
    draw, data = np.random.default_rng(number), bytearray(data)
    how, within = number % 4, len(data) if number % 8 < 4 else min(len(data), 120)
    if how == 1:
        return data[: draw.integers(len(data))]
    if how == 3:
        at = draw.integers(len(data) - 4)
        data[at : at + 4] = struct.pack("<I", (0xFFFFFFFF, 0x7FFFFFFF, 0, 65536)[number // 4 % 4])
        return data
    for _ in range(draw.integers(1, 6)):
        data[draw.integers(within)] = draw.integers(256)
    return data


@pytest.mark.spread
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_read_or_one_line_says_what_is_wrong(kind, tmp_path):
    whole, path, refused = KINDS[kind](), tmp_path / f"x.{kind}", 0
    path.write_bytes(whole)
    read(kind, path)
    for number in range(TRIES):
        path.write_bytes(damaged(whole, number))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                read(kind, path)
            except VitscopeError as error:
                refused += 1
                assert "\n" not in error.message
    assert refused


def test_a_volume_that_says_it_is_larger_than_its_file_is_refused_before_there_is_room_for_it(tmp_path):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (900, 1000, 10)})
    (tmp_path / "x.npy").write_bytes(file.getvalue() + bytes(400))
    with raises(ImageError, "media.broken-volume"):
        load_volume(tmp_path / "x.npy")


def test_a_compressed_volume_of_more_numbers_than_are_read_is_refused(tmp_path):
    header = bytearray(nifti()[:352])
    header[40:56] = struct.pack("<8h", 3, 2000, 2000, 2000, 1, 1, 1, 1)
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(bytes(header)))
    with raises(ImageError, "media.too-many-numbers"):
        load_volume(tmp_path / "x.nii.gz")


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("offset", [1e9, 3e18, -352])
def test_a_volume_that_begins_far_within_its_file_is_refused_before_that_is_unpacked(tmp_path, offset, order, second):
    nib = pytest.importorskip("nibabel")
    kind = nib.Nifti2Image if second else nib.Nifti1Image
    header = kind(DRAWN.random((2, 3, 4)).astype(np.float32), np.eye(4)).header.as_byteswapped(order)
    header["vox_offset"] = int(offset)
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(600)))
    with raises(ImageError, "media.broken-volume") as raised:
        load_volume(tmp_path / "x.nii.gz")
    assert "byte" in raised.value.message


@pytest.mark.parametrize("dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]], ids=["complex", "colours"])
def test_a_volume_of_other_numbers_is_refused(tmp_path, dtype):
    nib = pytest.importorskip("nibabel")
    nib.Nifti1Image(np.zeros((2, 3, 4), dtype), np.eye(4)).to_filename(tmp_path / "x.nii")
    with raises(ImageError, "media.broken-volume"):
        load_volume(tmp_path / "x.nii")


@pytest.mark.parametrize("name", ["x.hdr", "x.img"])
def test_a_header_whose_voxels_are_another_file_is_refused_though_that_is_a_pipe(tmp_path, name):
    nib = pytest.importorskip("nibabel")
    nib.save(nib.Nifti1Pair(np.zeros((2, 3, 4), np.float32), np.eye(4)), tmp_path / "x.hdr")
    other = tmp_path / ("x.img" if name == "x.hdr" else "x.hdr")
    other.unlink()
    os.mkfifo(other)
    with raises(ImageError, "media.broken-volume"):
        load_volume(tmp_path / name)


def test_a_sound_whose_name_is_a_dash_is_not_the_standard_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("-").write_bytes(flac())
    assert load_sound("-").rate == 16000


def test_an_animation_of_thousands_of_large_frames_is_refused_before_they_are_drawn(tmp_path):
    head = b"GIF89a" + struct.pack("<HH", 9000, 9000) + bytes([0x80, 0, 0, 0, 0, 0, 255, 255, 255])
    frame = b"," + struct.pack("<4HB", 0, 0, 1, 1, 0) + bytes([2, 2, 0x4C, 1, 0])
    (tmp_path / "x.gif").write_bytes(head + frame * 2000 + b";")
    with raises(ImageError, "images.too-large"):
        load_clip(tmp_path / "x.gif", 4)


def test_a_sound_of_one_hertz_does_not_become_hours_of_samples():
    with raises(ImageError, "media.too-many-numbers"):
        Sound(np.zeros(100_000, np.float32), 1).at_rate(16_000)


NO_LISTS = (5, True, float("nan"), object(), "abc", b"abc", {"a": 1}, (one for one in "abc"), [[1], 2, 3], [None] * 3)
BLACK, VOXELS = np.zeros((3, 4, 4, 3), np.uint8), np.zeros((3, 4, 4), np.float32)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("given", NO_LISTS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize(
    ("make", "option"),
    [
        *((partial(Clip, BLACK), option) for option in ("notes", "numbers", "seconds")),
        *((partial(Volume, VOXELS), option) for option in ("notes", "spacing", "axes")),
        (partial(Sound, np.zeros(9, np.float32), 100), "notes"),
    ],
)
def test_what_is_no_list_of_the_kind_is_one_line(make, option, given):
    with raises(UsageError, f"media.{option}") as caught:
        make(**{option: given})
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("option", ["numbers", "seconds"])
@pytest.mark.parametrize("given", [[1, 2], [1, 2, 3, 4], [float("nan")] * 3, [10**400] * 3, ["1", "2", "3"]])
def test_frames_have_a_number_and_a_time_each(option, given):
    with raises(UsageError, f"media.{option}"):
        Clip(BLACK, **{option: given})
