"""Clips: frames chosen, times, formats, broken files; results drawn, saved and read again."""

import dataclasses
import json

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.absent_extras import absent
from tests.helpers.errors import raises
from tests.media.videos import numbered, write_video
from tests.models.toys_video import frames
from vitscope.errors import ImageError, LayoutError, MissingDependencyError, ResultError, UsageError
from vitscope.explanation import Explanation
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.media.clip import Clip, frame_numbers, load_clip
from vitscope.media.clip_explanation import ClipExplanation
from vitscope.render.nearly_grey import colour_weights, nearly_grey


@pytest.mark.parametrize(("total", "count"), [(20, 8), (8, 8), (3, 8), (300, 16), (17, 16), (1, 4)])
def test_frames_are_those_that_transformers_takes(total, count):
    from transformers.video_processing_utils import default_sample_indices_fn
    from transformers.video_utils import VideoMetadata

    if total >= count:
        metadata = VideoMetadata(total_num_frames=total, fps=10.0, duration=total / 10)
        assert frame_numbers(total, count) == default_sample_indices_fn(metadata, num_frames=count).tolist()
    chosen = frame_numbers(total, count)
    assert len(chosen) == count
    assert chosen == sorted(chosen)
    assert 0 <= chosen[0] <= chosen[-1] < total


def test_a_video_gives_the_frames_with_their_numbers_and_times(tmp_path):
    path = write_video(tmp_path / "clip.mp4", numbered())
    clip = load_clip(str(path), 8)
    assert clip.numbers == (0, 3, 6, 9, 12, 15, 18, 21)
    assert clip.seconds == pytest.approx([n / 10 for n in clip.numbers])
    assert clip.fps == pytest.approx(10)
    assert np.abs(clip.frames.mean((1, 2, 3)) - [10 * n for n in clip.numbers]).max() < 3
    assert (clip.name, clip.source) == ("clip", str(path))
    assert np.array_equal(clip.pixels, clip.frames[4])
    again = load_clip(path.read_bytes(), 8)
    assert np.array_equal(again.frames, clip.frames)


def test_frames_between_others_in_time_are_counted_in_the_order_of_time(tmp_path):
    """B-frames are stored after those that they lie between."""
    with av.open(str(tmp_path / "b.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"crf": "0", "bf": "3", "b_strategy": "0"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv444p"
        for frame in numbered():
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    clip = load_clip(tmp_path / "b.mp4", 6)
    assert np.abs(clip.frames.mean((1, 2, 3)) - [10 * n for n in clip.numbers]).max() < 3


@pytest.mark.parametrize(("limit", "refused"), [(48 * 32 * 2, False), (48 * 32 * 2 - 1, True)])
@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_frames_that_would_fill_the_memory_are_refused_before_they_are_decoded(
    tmp_path, monkeypatch, suffix, limit, refused
):
    """Eight frames of 48 x 32 pixels beside four times the limit of one image."""
    path = tmp_path / f"clip.{suffix}"
    if suffix == "mp4":
        write_video(path, numbered())
    else:
        first, *others = [Image.fromarray(frame) for frame in numbered()]
        first.save(path, save_all=True, append_images=others)
    monkeypatch.setattr("vitscope.media.clip.MAX_PIXELS", limit)
    if not refused:
        assert len(load_clip(path, 8)) == 8
        return
    monkeypatch.setattr(Clip, "__init__", None)
    with raises(ImageError, "images.too-large"):
        load_clip(path, 8)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animated_image_is_a_clip(tmp_path, suffix):
    images = [Image.fromarray(frame) for frame in numbered(10)]
    path = tmp_path / f"a.{suffix}"
    images[0].save(path, save_all=True, append_images=images[1:], duration=200, lossless=True)
    clip = load_clip(path, 5)
    assert clip.numbers == (0, 2, 4, 6, 8)
    assert clip.seconds == pytest.approx([0, 0.4, 0.8, 1.2, 1.6])
    assert np.abs(clip.frames.mean((1, 2, 3)) - [10 * n for n in clip.numbers]).max() < 3


def test_a_short_video_repeats_frames_and_says_so():
    clip = Clip(numbered(3)).sampled(8)
    assert clip.numbers == (0, 0, 0, 1, 1, 1, 2, 2)
    assert clip.seconds is None
    assert clip.notes[-1].code == "media.frames"


@pytest.mark.parametrize(("suffix", "code"), [("jpg", "media.still"), ("png", "media.still"), ("gif", "media.still")])
def test_a_still_image_is_refused(tmp_path, suffix, code):
    Image.fromarray(numbered(1)[0]).save(tmp_path / f"a.{suffix}")
    with raises(ImageError, code):
        load_clip(tmp_path / f"a.{suffix}", 8)
    with raises(ImageError, code):
        load_clip((tmp_path / f"a.{suffix}").read_bytes(), 8)


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with raises(ImageError, "media.not-a-video"):
        load_clip(tmp_path / "text.mp4", 8)
    with raises(ImageError, "media.not-a-video"):
        load_clip(b"no video", 8)
    with raises(ImageError, "media.no-such-file"):
        load_clip(tmp_path / "none.mp4", 8)
    with raises(ImageError, "media.not-a-clip"):
        load_clip(Image.new("RGB", (8, 8)), 8)


def test_a_cut_video_is_refused(tmp_path):
    whole = write_video(tmp_path / "clip.mkv", frames(24)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(write_video(tmp_path / "w.mp4", frames(24)).read_bytes()[: len(whole) // 3])
    with raises(ImageError, "media.not-a-video"):
        load_clip(tmp_path / "cut.mp4", 8)


def test_a_sound_file_holds_no_video(tmp_path):
    with av.open(str(tmp_path / "a.wav"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with raises(ImageError, "media.no-video"):
        load_clip(tmp_path / "a.wav", 8)


def test_clips_that_are_none():
    with raises(ImageError, "media.no-frames"):
        Clip([])
    with raises(ImageError, "media.frame-sizes"):
        Clip([Image.new("RGB", (8, 8)), Image.new("RGB", (9, 8))])
    with raises(UsageError, "media.fps"):
        Clip(numbered(2), fps=0.0)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", [torch.from_numpy, np.asarray, iter])
def test_frames_come_in_any_sequence_with_their_channels_first_or_last(kind, first):
    frames = np.random.default_rng(0).integers(0, 255, (4, 24, 32, 3), dtype=np.uint8)
    if kind is iter:
        assert np.array_equal(Clip(frame for frame in frames).frames, frames)
        return
    given = kind(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)) if first else frames)
    assert np.array_equal(Clip(given).frames, frames)
    assert np.array_equal(load_clip(given, 2).frames, frames[[0, 2]])


def test_without_pyav_one_line_names_the_extra(tmp_path):
    path = write_video(tmp_path / "clip.mp4", numbered(4))
    with absent("av"), pytest.raises(MissingDependencyError) as caught:
        load_clip(path, 4)
    assert "vitscope[video]" in str(caught.value)


@pytest.fixture
def explained():
    """A map of 4 time steps over 8 frames; the third step is the hottest."""
    values = np.arange(4 * 2 * 3, dtype=np.float32).reshape(4, 2, 3) / 10
    values[2] += 5
    clip = Clip(frames(20), fps=10.0, name="street").sampled(8)
    layout = TokenLayout(("cls",), (8, 3), planes=4)
    region = ImageRegion((64, 48), (8, 0, 56, 48), (128, 48))
    return ClipExplanation(values, np.ones(1, np.float32), "rollout", layout, region, picture=clip)


def test_heat_is_that_of_the_step_of_each_frame(explained):
    heat = explained.heat(smooth=False)
    assert heat.shape == (8, 48, 64)
    assert np.isnan(heat[:, :, :8]).all()
    assert np.isnan(heat[:, :, 56:]).all()
    for frame in range(8):
        assert explained.step_of(frame) == frame // 2
        assert np.array_equal(np.unique(heat[frame, :, 8:56]), explained.map[frame // 2].ravel())
        assert heat[frame, 30, 30] == explained.map[frame // 2, 1, 1]


def test_all_frames_are_drawn_on_one_scale(explained):
    cold, hot = (np.asarray(explained.overlay(n, opacity=1.0)).astype(int) for n in (0, 4))
    assert hot[20:28, 28:36].mean() > cold[20:28, 28:36].mean() + 40
    assert hot[30:42, 42:54].mean() > cold[30:42, 42:54].mean() + 40  # the hottest of both frames
    with raises(UsageError, "media.no-such-frame"):
        explained.overlay(8)
    with raises(UsageError, "explanation.notebook-style"):
        explained.overlay(0, style="notebook")


def test_all_frames_have_greys_of_one_kind_so_that_a_film_does_not_flicker(explained):
    shown = np.random.default_rng(0).integers(0, 256, (8, 48, 64, 3), dtype=np.uint8)
    shown[1:] = shown[1:].mean(-1, keepdims=True)
    e = dataclasses.replace(explained, picture=Clip(list(shown), 10.0))
    shared = colour_weights(*shown)
    assert np.abs(shared - colour_weights(shown[0])).max() > 0.05
    for frame, pixels in enumerate(shown):
        drawn = np.asarray(e.overlay(frame, opacity=0.0))[:, 8:56]
        assert np.abs(drawn - nearly_grey(pixels, shared)[:, 8:56].astype(int)).max() <= 1


def test_saved_and_read_again(tmp_path, explained):
    folder = explained.save(tmp_path / "out")
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    own = [f"{kind}/{n:03d}.{end}" for kind, end in (("frames", "jpg"), ("overlays", "png")) for n in range(8)]
    assert files == sorted([*own, "arrays.npz", "film.mp4", "manifest.json", "map.png", "overlay.png"])
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["medium"] == "clip"
    assert manifest["layout"]["planes"] == 4
    assert manifest["clip"]["frames"][3] == {"number": 7, "seconds": 0.7, "step": 1}
    read = ClipExplanation.load(folder)
    assert np.array_equal(read.map, explained.map)
    assert (read.clip.numbers, read.clip.seconds, read.clip.fps) == (
        (0, 2, 5, 7, 10, 12, 15, 17),
        (0, 0.2, 0.5, 0.7, 1, 1.2, 1.5, 1.7),
        10,
    )
    assert np.abs(read.clip.frames.astype(int) - explained.clip.frames).mean() < 12
    with raises(ResultError, "explanation.medium", "explanation.medium.hint"):
        Explanation.load(folder)


def test_the_film_shows_each_frame_at_the_speed_of_the_clip(tmp_path, explained):
    path = explained.film(tmp_path / "film.mp4")
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        assert float(stream.average_rate) == pytest.approx(7 / 1.7, rel=0.01)
        shown = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
    assert len(shown) == 8
    for n, image in enumerate(shown):
        assert np.abs(image.astype(int) - np.asarray(explained.overlay(n)).astype(int)).mean() < 14


def test_without_pyav_the_film_is_an_animated_image(tmp_path, explained):
    with absent("av"):
        folder = explained.save(tmp_path / "out")
    with Image.open(folder / "film.webp") as film:
        assert film.n_frames == 8
        film.load()
        assert film.info["duration"] == round(1000 / (7 / 1.7))


def test_the_sheet_of_a_notebook_and_the_words(explained):
    assert repr(explained) == "<ClipExplanation 'rollout' 4 x 2 x 3 street>"
    assert repr(explained.clip) == "<Clip 'street': 8 frames of 64 x 48>"
    assert explained.clip.title(3) == "frame 7 · 0.70 s"
    assert "<img" in explained._repr_html_()


def test_a_map_that_does_not_fit_its_clip_is_refused(explained):
    with raises(LayoutError, "media.time-steps"):
        ClipExplanation(
            explained.map, explained.prefix, "x", explained.layout, explained.region, picture=Clip(frames(5))
        )


def test_an_explanation_without_its_clip_cannot_be_drawn(explained, tmp_path):
    e = ClipExplanation(explained.map, explained.prefix, "x", explained.layout, explained.region)
    with raises(UsageError, "media.no-clip"):
        e.heat()
    e.save(tmp_path / "out")
    assert ClipExplanation.load(tmp_path / "out").picture is None
