"""Sounds: files, rates, channels; results drawn on their scales, saved and read again."""

import json
import wave

import numpy as np
import pytest

from tests.helpers.absent_extras import absent
from tests.helpers.errors import raises
from vitscope.errors import ImageError, MissingDependencyError, UsageError
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.media.sound import Sound, Spectrogram, load_sound, mel_centres
from vitscope.media.sound_explanation import SoundExplanation

TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)


def write(path, samples, width=2, channels=1, rate=8000):
    scale, dtype, zero = {1: (127, "u1", 128), 2: (32767, "<i2", 0), 4: (2147483647, "<i4", 0)}[width]
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes((samples * scale + zero).astype(dtype).tobytes())
    return path


@pytest.mark.parametrize("width", [1, 2, 4])
def test_wave_files_are_read_without_another_library(tmp_path, width):
    with absent("soundfile"):
        sound = load_sound(write(tmp_path / "a.wav", TONE, width))
    assert (sound.rate, sound.name, sound.seconds) == (8000, "a", 1.0)
    np.testing.assert_allclose(sound.samples[:, 0], TONE, atol=0.02 if width == 1 else 1e-4)


@pytest.mark.parametrize("suffix", ["flac", "ogg", "wav"])
def test_other_files_are_read_by_soundfile(tmp_path, suffix):
    import soundfile

    subtype = {"wav": "FLOAT"}.get(suffix)  # floats, which the standard library does not read
    soundfile.write(tmp_path / f"a.{suffix}", TONE, 8000, subtype=subtype)
    np.testing.assert_allclose(load_sound(tmp_path / f"a.{suffix}").samples[:, 0], TONE, atol=0.03)


def test_without_soundfile_one_line_names_the_extra(tmp_path):
    (tmp_path / "a.flac").write_bytes(b"fLaC")
    with absent("soundfile"), pytest.raises(MissingDependencyError) as caught:
        load_sound(tmp_path / "a.flac")
    assert "vitscope[audio]" in str(caught.value)


def test_what_is_no_sound_is_refused(tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    with raises(ImageError, "media.broken-sound"):
        load_sound(tmp_path / "text.wav")
    with raises(ImageError, "media.no-such-file"):
        load_sound(tmp_path / "none.wav")
    with raises(ImageError, "media.not-a-sound"):
        load_sound(TONE)
    with raises(UsageError, "media.rate"):
        Sound(TONE, 0)
    with raises(ImageError, "media.samples"):
        Sound(np.zeros((2, 8000)), 8000)
    with raises(ImageError, "media.samples-not-finite"):
        Sound(np.full(10, np.nan), 8000)


@pytest.mark.parametrize(("old", "new"), [(44100, 16000), (8000, 16000), (22050, 16000)])
def test_resampling_keeps_a_tone(old, new):
    at = lambda rate: np.sin(2 * np.pi * 440 * np.arange(rate) / rate)  # noqa: E731
    found = Sound(at(old), old).at_rate(new)
    assert found.rate == new
    np.testing.assert_allclose(found.samples, at(new), atol=1e-3)


def test_resampling_agrees_with_scipy():
    from scipy.signal import resample

    noise = np.random.default_rng(0).normal(size=4410).astype(np.float32)
    np.testing.assert_allclose(Sound(noise, 44100).at_rate(16000).samples, resample(noise, 1600), atol=1e-4)


def test_channels_are_averaged_and_whole_numbers_scaled():
    stereo = np.stack([TONE, -TONE], 1)
    sound = Sound(stereo, 8000).at_rate(8000)
    assert np.abs(sound.samples).max() < 1e-6
    assert [note.code for note in sound.notes] == ["media.mono"]
    assert Sound((TONE * 32768).astype(np.int16), 8000).samples.max() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_samples_are_scaled_by_their_numbers_as_those_of_a_file_are(tmp_path, width):
    from scipy.io import wavfile

    whole = {1: np.round(TONE * 127 + 128).astype(np.uint8), 2: (TONE * 32767).astype(np.int16)}
    samples = whole.get(width, (TONE.astype(np.float64) * (2**31 - 1)).astype(np.int32))
    wavfile.write(tmp_path / "tone.wav", 8000, samples)
    rate, read = wavfile.read(tmp_path / "tone.wav")
    np.testing.assert_array_equal(read, samples)
    np.testing.assert_allclose(Sound(read, rate).samples, TONE, atol=1 / 127)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_whole_numbers_of_an_unknown_scale_are_refused(dtype):
    with pytest.raises(ImageError) as refused:
        Sound((TONE * 32767).astype(dtype), 8000)
    assert refused.value.code == "media.samples-scale"
    assert "/ 32768" in str(refused.value.hint)


def test_the_middles_of_the_mel_bands_are_those_of_the_filters():
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(
        num_frequency_bins=4097,
        num_mel_filters=40,
        min_frequency=20,
        max_frequency=8000,
        sampling_rate=16000,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    peaks = filters.argmax(0) * 8000 / 4096
    np.testing.assert_allclose(mel_centres(40, 16000), peaks, atol=4)


@pytest.fixture
def explained():
    values = np.arange(4 * 9, dtype=np.float32).reshape(4, 9)
    spectrogram = Spectrogram(
        np.random.default_rng(0).normal(size=(48, 96)).astype(np.float32),
        0.01,
        mel_centres(48, 16000),
        0.7,
        name="bird",
    )
    layout = TokenLayout(("cls", "distillation"), (4, 9), pool_prefix=True)
    region = ImageRegion((96, 48), (3, 3, 93, 43), (48, 96))
    return SoundExplanation(values, np.ones(2, np.float32), "rollout", layout, region, "song", picture=spectrogram)


def test_the_drawing_has_the_highest_band_above(explained):
    """The hottest patch has the highest bands and the latest time: it lies in the upper right of the lower panel."""
    image = np.asarray(explained.overlay(opacity=1.0)).astype(float)
    panel = image[image.shape[0] // 2 :]
    hot = panel[..., 0] * (panel[..., 2] < 180) - panel[..., 2]
    top, bottom = hot[40:150, -260:-60].mean(), hot[-150:-80, 160:300].mean()
    assert top > bottom + 60


def test_saved_and_read_again(tmp_path, explained):
    folder = explained.save(tmp_path / "out")
    assert sorted(p.name for p in folder.iterdir()) == [
        "arrays.npz",
        "manifest.json",
        "map.png",
        "overlay.png",
        "spectrogram.npy",
    ]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["medium"] == "sound"
    assert manifest["sound"]["seconds_per_column"] == 0.01
    read = SoundExplanation.load(folder)
    assert np.array_equal(read.map, explained.map)
    assert np.array_equal(read.spectrogram.values, explained.spectrogram.values)
    assert (read.spectrogram.seconds, read.spectrogram.name) == (0.7, "bird")


def test_the_style_of_the_recipe_is_refused(explained):
    with raises(UsageError, "explanation.notebook-style"):
        explained.overlay(style="notebook")


def test_an_explanation_without_its_spectrogram_cannot_be_drawn(tmp_path, explained):
    e = SoundExplanation(explained.map, explained.prefix, "x", explained.layout, explained.region)
    with raises(UsageError, "media.no-spectrogram"):
        e.overlay()
    e.save(tmp_path / "out")
    assert SoundExplanation.load(tmp_path / "out").picture is None
