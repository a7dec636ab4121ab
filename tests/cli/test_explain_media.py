"""`vitscope explain` of clips and sounds by models that take them, and by models that do not."""

import json

import av
import numpy as np
import pytest
import transformers

from tests.helpers.console import one_line
from tests.media.videos import numbered, write_video
from tests.models import toys_video
from vitscope.models.transformers.video import video_processor


@pytest.fixture(scope="module")
def video_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videomae")
    model = toys_video.classifier("videomae")
    model.save_pretrained(folder)
    video_processor(model.config, (32, 32)).save_pretrained(folder)
    return folder


def test_a_clip_gives_a_map_for_each_frame_and_a_film(cli, video_folder, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", toys_video.frames(20))
    ran = cli("explain", clip, "--model", video_folder, "-o", tmp_path / "out", "--method", "rollout")
    assert ran.code == 0
    assert "of 64" in ran.out
    assert "8 of 20 frames, evenly spaced: 0, 2, 5, 7, 10, 12, 15, 17" in " ".join(ran.out.split())
    folder = tmp_path / "out" / "clip-rollout"
    assert len(list((folder / "overlays").iterdir())) == 8
    with av.open(str(folder / "film.mp4")) as film:
        assert sum(1 for _ in film.decode(film.streams.video[0])) == 8


@pytest.mark.slow
def test_several_targets_of_a_clip_as_json(cli, video_folder, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", toys_video.frames(20))
    options = ("--target", "0", "--target", "2", "--method", "gradcam", "--json")
    ran = cli("explain", clip, "--model", video_folder, "-o", tmp_path / "out", *options)
    results = json.loads(ran.out)["results"]
    assert [r["target"] for r in results] == ["LABEL_0", "LABEL_2"]
    assert all(r["medium"] == "clip" and len(r["clip"]["frames"]) == 8 for r in results)


def test_an_image_is_refused_by_a_video_model_in_one_line(cli, video_folder, tmp_path):
    from PIL import Image

    Image.fromarray(numbered(1)[0]).save(tmp_path / "photo.jpg")
    ran = cli("explain", tmp_path / "photo.jpg", "--model", video_folder, "-o", tmp_path / "out")
    assert (ran.code, ran.out) == (1, "")
    assert "is a still image: this model takes video clips" in one_line(ran.err)


@pytest.mark.parametrize(("name", "medium"), [("clip.mp4", "video"), ("song.wav", "sound"), ("head.nii.gz", "volume")])
def test_another_medium_is_refused_by_an_image_model_in_one_line(explain, tmp_path, name, medium):
    (tmp_path / name).write_bytes(b"bytes")
    ran = explain(tmp_path / name)
    assert (ran.code, ran.out) == (1, "")
    assert f"is a {medium}, and" in one_line(ran.err)
    assert f"use a {medium} model" in one_line(ran.err)


def test_a_sound_gives_its_spectrogram_under_the_map(cli, tmp_path):
    import wave

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = transformers.ASTForAudioClassification(
        transformers.ASTConfig(**small, max_length=96, num_mel_bins=48, num_labels=3)
    )
    model.save_pretrained(tmp_path / "ast")
    transformers.ASTFeatureExtractor(num_mel_bins=48, max_length=96).save_pretrained(tmp_path / "ast")
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((8000 * np.sin(np.arange(9600) * 0.2)).astype("<i2").tobytes())
    ran = cli(
        "explain", tmp_path / "tone.wav", "--model", tmp_path / "ast", "-o", tmp_path / "out", "--method", "rollout"
    )
    assert ran.code == 0
    assert "0.60 s, then padding to 0.96 s" in " ".join(ran.out.split())
    assert (tmp_path / "out" / "tone-rollout" / "overlay.png").exists()
