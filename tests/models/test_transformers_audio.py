"""The Audio Spectrogram Transformer: maps against slow twins, patches on their own bands and columns, refusals."""

import numpy as np
import pytest
import torch
import transformers

import vitscope
from tests.helpers.errors import raises
from tests.models.toys_video import frames
from vitscope.errors import ImageError, LayoutError, UnsupportedError, UsageError
from vitscope.media.clip import Clip
from vitscope.media.sound import Sound
from vitscope.media.sound_explanation import SoundExplanation

BANDS, COLUMNS, RATE = 48, 96, 16000


def classifier(attention="sdpa", **changes):
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ASTConfig(
        **{"max_length": COLUMNS, "num_mel_bins": BANDS, "num_labels": 3, **size, **changes}
    )
    config._attn_implementation = attention
    model = transformers.ASTForAudioClassification(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.mul_(12 if "q_proj" in name or "k_proj" in name else 3)
            if "token" in name or name.endswith("bias"):
                parameter.normal_(0, 0.3)
    return model.double()


def tone(seconds=0.6, rate=RATE, seed=0):
    """A rising tone in noise."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(0, 0.02, len(time))
    return Sound((0.4 * np.sin(2 * np.pi * (300 + 2000 * time) * time) + noise).astype(np.float32), rate, "tone")


@pytest.fixture(scope="module")
def scope():
    return vitscope.load(classifier())


@pytest.fixture(scope="module")
def values(scope):
    """The spectrogram as the model takes it, by its feature extractor alone."""
    extractor = transformers.ASTFeatureExtractor(num_mel_bins=BANDS, max_length=COLUMNS)
    return extractor(tone().samples, sampling_rate=RATE, return_tensors="pt")["input_values"].double()


@pytest.fixture(scope="module")
def attentions(values):
    return [a[0].mean(0).detach().numpy() for a in classifier("eager")(values, output_attentions=True).attentions]


def flat(e):
    return np.concatenate([e.prefix, e.map.ravel()])


def test_the_layout_has_both_tokens_and_overlapping_patches(scope):
    assert scope.layout.prefix == ("cls", "distillation")
    assert scope.layout.grid == ((BANDS - 16) // 10 + 1, (COLUMNS - 16) // 10 + 1)
    assert scope.layout.pool_prefix


def test_rollout_is_the_product_of_dense_operators(scope, attentions):
    row = np.zeros(attentions[0].shape[0])
    row[:2] = 0.5  # the head reads the mean of both
    for a in reversed(attentions):
        row = 0.5 * row + 0.5 * row @ a
    e = scope.explain(tone(), method="rollout")
    assert isinstance(e, SoundExplanation)
    assert np.ptp(e.map) > 0.2 * e.map.mean()
    np.testing.assert_allclose(flat(e), row, atol=1e-6)


def test_gradcam_is_that_of_a_hook(scope, values):
    model, seen = classifier("eager"), []
    layer = model.audio_spectrogram_transformer.layers[1]
    layer.layernorm_before.register_forward_hook(lambda m, args, out: seen.append(out))
    logits = model(values).logits
    maps = []
    for target in range(3):
        (grad,) = torch.autograd.grad(logits[0, target], seen, retain_graph=True)
        z, g = seen[0][0, 2:].detach().numpy(), grad[0, 2:].numpy()
        maps.append((z @ g.mean(0)).clip(0))
    target = int(np.argmax([m.max() for m in maps]))
    e = scope.explain(tone(), method="gradcam", target=target)
    np.testing.assert_allclose(e.map.ravel(), maps[target], atol=1e-6 * maps[target].max())


def test_input_x_gradient_goes_to_the_nearest_patch(scope, values):
    model, x = classifier("eager"), values.clone().requires_grad_()
    (grad,) = torch.autograd.grad(model(x).logits[0, 1], x)
    product = (x * grad)[0].T.detach().numpy()  # (F, T)
    rows, columns = scope.layout.grid
    expected = np.zeros((rows, columns))
    for f in range((rows - 1) * 10 + 16):
        for t in range((columns - 1) * 10 + 16):
            row = min(range(rows), key=lambda i: abs(f + 0.5 - (10 * i + 8)) - 1e-9 * i)
            column = min(range(columns), key=lambda i: abs(t + 0.5 - (10 * i + 8)) - 1e-9 * i)
            expected[row, column] += product[f, t]
    e = scope.explain(tone(), method="input-x-gradient", target=1)
    np.testing.assert_allclose(e.map, expected, atol=1e-6 * np.abs(expected).max())


def test_each_cell_is_drawn_on_bands_and_columns_that_its_patch_sees(scope):
    e = scope.explain(tone(), method="rollout")
    heat = e.heat(smooth=False)
    rows, columns = e.map.shape
    for row in range(rows):
        for column in range(columns):
            inside = heat[10 * row + 3 : 10 * row + 13, 10 * column + 3 : 10 * column + 13]
            assert (inside == e.map[row, column]).all()
    assert not np.isnan(heat[: 10 * rows + 6, : 10 * columns + 6]).any()
    assert np.isnan(heat[10 * rows + 6 :]).all()  # bands that no patch sees
    module, seen = scope.model.audio_spectrogram_transformer.embeddings.patch_embeddings, []
    handle = module.register_forward_hook(lambda m, args, out: seen.append(out))
    spectrogram = scope.adapter.load(tone())
    pixels, _ = scope.adapter.prepare(spectrogram)
    changed = pixels.clone()
    changed[0, 10 * 2 + 3 : 10 * 2 + 13, 10 * 4 + 3 : 10 * 4 + 13] += 1
    for one in (pixels, changed):
        scope.engine.answer(one[None])
    handle.remove()
    moved = (seen[1] - seen[0]).norm(dim=-1)[0].reshape(rows, columns)
    assert np.unravel_index(int(moved.argmax()), (rows, columns)) == (2, 4)


def test_occlusion_covers_the_bands_and_columns_of_its_window(scope, values):
    model = classifier("eager")
    whole = model(values).logits[0]
    target, falls = int(whole.argmax()), []
    rows = scope.layout.grid[0]
    for top in (0, 1):  # both windows that cover the patch at row 1, column 0
        covered = values.clone()
        first, last = (
            (0 if top == 0 else 10 * top + 3),
            (10 * (top + 2) + 3 if top + 2 < rows else (rows - 1) * 10 + 16),
        )
        covered[:, 0:23, first:last] = 0
        falls.append(float((whole - model(covered).logits[0])[target].detach()))
    e = scope.explain(tone(), method="occlusion", target=target)
    assert e.map[1, 0] == pytest.approx(np.mean(falls), abs=1e-5)


@pytest.mark.slow
def test_every_method_that_applies_gives_a_map(scope):
    for support in scope.methods():
        if not support:
            assert support.reason
            continue
        options = {"steps": 2} if support.name == "integrated-gradients" else {}
        options |= {"samples": 4} if support.name in ("smoothgrad", "token-removal") else {}
        options |= {"masks": 8} if support.name == "rise" else {}
        assert scope.explain(tone(), method=support.name, **options).map.shape == scope.layout.grid


def test_sounds_of_a_batch_have_the_maps_that_they_have_alone(scope):
    sounds = [tone(seed=n) for n in range(3)]
    together = scope.explain(sounds, method="rollout")
    for n, e in enumerate(together):
        np.testing.assert_allclose(flat(e), flat(scope.explain(sounds[n], method="rollout")), atol=1e-7)


@pytest.mark.parametrize(("seconds", "code"), [(0.6, "models.sound-padded"), (2.0, "models.sound-cut")])
def test_the_notes_say_how_much_was_heard(scope, seconds, code):
    notes = scope.explain(tone(seconds), method="rollout").provenance["notes"]
    assert code in [note.code for note in notes]


def test_other_rates_and_channels_are_brought_to_the_model_and_said(scope):
    at_44k = tone(rate=44100)
    stereo = Sound(np.stack([at_44k.samples] * 2, 1), 44100)
    e = scope.explain(stereo, method="rollout")
    assert {"media.mono", "media.resampled"} <= {note.code for note in e.provenance["notes"]}


def test_a_file_and_a_folder(tmp_path):
    import wave

    model = classifier()
    model.float().save_pretrained(tmp_path / "model")
    transformers.ASTFeatureExtractor(num_mel_bins=BANDS, max_length=COLUMNS).save_pretrained(tmp_path / "model")
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((tone().samples * 32767).astype("<i2").tobytes())
    scope = vitscope.load(tmp_path / "model")
    e = scope.explain(tmp_path / "tone.wav", method="rollout")
    np.testing.assert_allclose(e.map, scope.explain(tone(), method="rollout").map, rtol=0.05)
    assert e.picture.name == "tone"
    with torch.no_grad():
        scope.model.classifier.dense.bias.add_(1)
    changed = scope.explain(tone(), method="rollout").provenance["weights"]
    assert changed not in (e.provenance["weights"], "")  # of the file no longer


def test_what_is_no_sound_is_refused(scope, tmp_path):
    with raises(ImageError, "media.not-a-sound"):
        scope.explain(Clip(frames(8)))
    with raises(ImageError, "media.no-such-file"):
        scope.explain(tmp_path / "missing.wav")
    with raises(ImageError, "models.sound-too-short"):
        scope.explain(Sound(np.zeros(100, np.float32), RATE))
    with raises(UsageError, "models.sound-size"):
        scope.explain(tone(), size=64)


def test_a_pipeline_brings_its_feature_extractor():
    model = classifier().float()
    own = transformers.ASTFeatureExtractor(num_mel_bins=BANDS, max_length=COLUMNS, mean=-2.0, std=3.0)
    pipeline = transformers.pipeline("audio-classification", model=model, feature_extractor=own)
    said = {one["label"]: one["score"] for one in pipeline({"raw": tone().samples, "sampling_rate": RATE})}
    for holder in (pipeline, transformers.Trainer(model=model, processing_class=own)):
        found = dict(vitscope.load(holder).explain(tone(), method="rollout").predictions)
        assert found == pytest.approx(said, abs=1e-6)


def test_a_feature_extractor_that_does_not_fit_is_refused():
    scope = vitscope.load(classifier(), processor=transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=96))
    with raises(LayoutError, "models.spectrogram-shape"):
        scope.explain(tone())


def test_patches_with_gaps_are_refused():
    with raises(LayoutError, "models.patches-apart"):
        vitscope.load(classifier(frequency_stride=17, max_length=96))


def test_patches_that_overlap_cannot_be_painted_over(scope):
    with raises(UnsupportedError, "evaluation.overlapping-patches"):
        scope.predict_without(tone(), [0])
