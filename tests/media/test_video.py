"""Videos are files that hold their frames: none names another file, an address or a device, and none grows."""

import io
import os
from fractions import Fraction

import av
import pytest
from PIL import Image

from tests.helpers.errors import raises
from tests.media.videos import numbered, write_video
from vitscope.batch.fetch import image_reader
from vitscope.batch.sources import ImageSource
from vitscope.errors import ImageError
from vitscope.media.clip import load_clip

LISTS = {
    "ffconcat": "ffconcat version 1.0\nfile whole.mp4\n",
    "ffconcat of a pipe": "ffconcat version 1.0\nfile pipe.mp4\n",
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nwhole.ts\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
}


def growing(small, large):
    """Return a video of one small frame and then large ones, whose header says that all are small."""
    file, frames = io.BytesIO(), []
    for side in (small, large, large):
        jpeg = io.BytesIO()
        Image.new("RGB", (side, side), (9, 9, 9)).save(jpeg, "JPEG", quality=10, subsampling=2)
        frames.append(jpeg.getvalue())
    with av.open(file, "w", format="matroska") as made:
        stream = made.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = small, small, "yuvj420p"
        for number, frame in enumerate(frames):
            packet = av.Packet(frame)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 10)
            made.mux(packet)
    return file.getvalue()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working directory, with a video and a pipe in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("whole.mp4", "whole.ts"):
        write_video(tmp_path / name, numbered(4))
    os.mkfifo(tmp_path / "pipe.mp4")
    return tmp_path


@pytest.mark.parametrize("suffix", ["mp4", "m3u8", "sdp"])
@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS)
def test_a_list_of_other_files_is_no_video(place, text, suffix):
    (place / f"list.{suffix}").write_text(text)
    for source in (place / f"list.{suffix}", text.encode()):
        with raises(ImageError, "media.not-a-video"):
            load_clip(source, 2)
    refs = [*ImageSource(str(place / f"list.{suffix}"), file_kind="video")]
    assert [ref.kind for ref in refs] == ["broken"]


@pytest.mark.parametrize("name", ["http:x.mp4", "concat:whole.mp4|x", "pipe:0", "-", "x%03d.mp4"])
def test_a_name_is_a_name_and_no_address(place, name):
    (place / name).write_bytes((place / "whole.mp4").read_bytes())
    assert len(load_clip(name, 2)) == 2


def test_numbered_images_are_no_video_of_their_pattern(place):
    for number in range(3):
        Image.new("RGB", (8, 8)).save(place / f"x{number:03d}.jpg")
    (place / "x%03d.jpg").write_bytes(b"\xff\xd8\xffnothing")
    with raises(ImageError, "media.not-a-video"):
        load_clip("x%03d.jpg", 2)


def test_frames_that_grow_are_refused_before_there_is_room_for_them(place, monkeypatch):
    monkeypatch.setattr("vitscope.media.video.MAX_PIXELS", 10_000)
    (place / "grows.mkv").write_bytes(growing(64, 320))
    with raises(ImageError, "media.not-a-video"):
        load_clip(place / "grows.mkv", 3)
    refs = [*ImageSource(str(place / "grows.mkv"), stride=1)]
    with image_reader() as read:
        assert read(refs[0])[0].size == (64, 64)
        with raises(ImageError, "batch.unreadable-image"):
            read(refs[1])


def test_frames_that_grow_together_beyond_what_is_kept_are_refused(place, monkeypatch):
    monkeypatch.setattr("vitscope.media.clip.MAX_PIXELS", 50_000)
    (place / "grows.mkv").write_bytes(growing(64, 320))
    with raises(ImageError, "images.too-large"):
        load_clip(place / "grows.mkv", 3)


def test_a_batch_refuses_frames_that_are_too_large_by_their_header(place, monkeypatch):
    monkeypatch.setattr("vitscope.media.video.MAX_PIXELS", 1000)
    assert [ref.kind for ref in ImageSource(str(place / "whole.mp4"))] == ["broken"]
