"""Models of any number of channels: what they get of an image, and maps against autograd alone."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

import vitscope
from tests.helpers.errors import raises
from vitscope.errors import ImageError, UsageError
from vitscope.models.pixels.bands import accepting, convolution_channels, normalisation

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8)
BANDS = RNG.integers(0, 10_000, (32, 32, 13), dtype=np.uint16)
TIMM = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
GREY = {"image_size": 32, "patch_size": 8, "num_labels": 3}


def timm_model(channels):
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", in_chans=channels, **TIMM).eval()


def vit(**options):
    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(**SMALL, **GREY, **options)).eval()


def gradient_map(model, pixels):
    """Input x gradient of class 1, by patches of 8 pixels, in float64."""
    model = model.double()
    x = pixels.double()[None].requires_grad_()
    answer = model(x)
    (gradient,) = torch.autograd.grad(getattr(answer, "logits", answer)[0, 1], x)
    return (x * gradient).detach()[0].sum(0).reshape(4, 8, 4, 8).sum((1, 3)).numpy()


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_a_map_of_any_number_of_bands_is_that_of_a_tensor_prepared_by_hand(channels):
    data = BANDS[..., :channels]
    scope = vitscope.load(timm_model(channels).double(), window=(0, 10_000))
    whole = np.pad(data, ((1, 2), (1, 2), (0, 0)))  # 35 pixels, of which timm's crop of 0.9 keeps 32
    found = scope.explain(whole, method="input-x-gradient", target=1)
    by_hand = torch.from_numpy((data / 10_000 - 0.5) / 0.5).permute(2, 0, 1)
    assert scope.adapter.channels == channels
    assert found.region.box == (1, 1, 33, 33)
    assert np.abs(found.map - gradient_map(timm_model(channels), by_hand)).max() < 1e-5


@pytest.mark.slow
def test_every_kind_of_method_and_measure_takes_four_bands():
    scope, data = vitscope.load(timm_model(4)), RNG.random((32, 40, 4))
    for method in ("rollout", "occlusion", "gradcam", "integrated-gradients"):
        assert scope.explain(data, method=method, size=32).map.shape[0] == 4
    found = scope.explain(data, method="gradcam", target=1)
    for baseline in ("mean", "blur", "black", "zero"):
        assert np.isfinite([number.value for number in scope.measure(found, baseline=baseline, steps=4).numbers]).all()
    assert scope.predict_without(data, [0, 3]).predictions
    assert scope.view(data, measure=False).header["maps"]


def test_attribute_takes_the_channels_of_the_model():
    scope = vitscope.load(timm_model(2))
    assert scope.attribute(torch.rand(2, 2, 32, 32), method="rollout").maps.shape == (2, 4, 4)
    with raises(UsageError, "engine.pixels") as caught:
        scope.attribute(torch.rand(2, 3, 32, 32))
    assert "(B, 2, H, W)" in str(caught.value)


# --- colours and grey ------------------------------------------------------------------------------------------------


def test_a_colour_photo_becomes_grey_for_one_channel_and_that_is_said():
    config = {"input_size": (1, 32, 32), "mean": (0.5,), "std": (0.5,), "crop_pct": 0.9, "interpolation": "bicubic"}
    expected = create_transform(**config, is_training=False)(Image.fromarray(PHOTO).convert("L"))
    scope = vitscope.load(timm_model(1))
    assert torch.equal(scope.prepare(PHOTO).pixels, expected)
    assert "models.to-grey" in [getattr(note, "code", "") for note in scope.explain(PHOTO).provenance["notes"]]
    assert not scope.prepare(PHOTO[..., 0]).picture.notes  # grey already


def test_a_processor_of_one_channel_gets_one():
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4], image_std=[0.3])
    scope = vitscope.load(vit(num_channels=1), processor=processor)
    grey = np.array(Image.fromarray(PHOTO).convert("L"))[..., None]
    made = processor(images=grey, input_data_format="channels_last", return_tensors="pt")["pixel_values"][0]
    assert torch.equal(scope.prepare(PHOTO).pixels, made)


def test_a_grey_image_of_more_than_8_bits_keeps_them_for_one_channel():
    values = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 4
    scope = vitscope.load(vit(num_channels=1), window=(0, 4092))
    assert len(scope.prepare(values).pixels.unique()) == 1024


@pytest.mark.parametrize(("channels", "given"), [(4, 3), (13, 3), (3, 4), (4, 13)])
def test_other_bands_are_refused_with_both_numbers(channels, given):
    data = PHOTO if given == 3 else RNG.integers(0, 255, (32, 32, given), dtype=np.uint8)
    with raises(ImageError, "models.other-bands", "models.other-bands.hint") as caught:
        vitscope.load(timm_model(channels)).explain(data)
    assert f"takes images of {channels} bands, array has {given}" in str(caught.value)


def test_transparency_is_a_band_only_for_a_model_of_four():
    rgba = Image.fromarray(RNG.integers(0, 256, (32, 32, 4), dtype=np.uint8), "RGBA")
    white = Image.alpha_composite(Image.new("RGBA", (32, 32), "white"), rgba).convert("RGB")
    three, four = vitscope.load(timm_model(3)), vitscope.load(timm_model(4))
    assert torch.equal(three.prepare(rgba).pixels, three.prepare(white).pixels)
    said = [[getattr(note, "code", "") for note in scope.prepare(rgba).picture.notes] for scope in (three, four)]
    assert said == [["images.transparency"], ["models.alpha-seen"]]
    resized = four.prepare(rgba, size=32).pixels
    assert torch.allclose(resized, torch.from_numpy(np.asarray(rgba) / 127.5 - 1).permute(2, 0, 1).float(), atol=1e-5)


# --- processors ------------------------------------------------------------------------------------------------------


def test_a_processor_gets_the_form_that_it_is_made_for():
    assert convolution_channels(nn.Sequential(nn.Linear(3, 3), nn.Conv2d(1, 2, 8))) == 1
    grey, bands = accepting(lambda image: torch.zeros(len(image.getbands()), 8, 8), 1)
    assert (grey(Image.new("RGB", (8, 8))).shape[0], bands) == (1, 1)
    assert accepting(lambda image: torch.zeros(1, 8, 8), 1)[1] == 3  # makes one of three itself
    assert accepting(lambda array: torch.zeros(array.shape[2], 8, 8), 5)[1] == 5


def test_the_normalisation_of_colours_is_that_of_bands_only_where_it_can_be():
    assert normalisation((0.5,) * 3, (0.2,) * 3, 5) == (((0.5,) * 5, (0.2,) * 5), None)
    (mean, std), note = normalisation((0.3, 0.6, 0.9), (0.1, 0.2, 0.3), 1)
    assert (mean, std) == (pytest.approx((0.6,)), pytest.approx((0.2,)))
    assert note.code == "models.grey-normalisation"
    found, note = normalisation((0.3, 0.6, 0.9), (0.1, 0.2, 0.3), 4)
    assert (found, note.code) == (((0,) * 4, (1,) * 4), "models.no-normalisation")


def test_a_processor_of_arrays_gets_numbers_as_they_were_read():
    seen = []

    def process(array):
        seen.append((array.dtype, float(array.max())))
        return torch.from_numpy(array.astype(np.float32) / 10_000).permute(2, 0, 1)

    scope = vitscope.load(timm_model(13), processor=process)
    pixels = scope.prepare(BANDS).pixels
    assert torch.equal(pixels, torch.from_numpy(BANDS.astype(np.float32) / 10_000).permute(2, 0, 1))
    assert (np.uint16, float(BANDS.max())) in [(kind.type, most) for kind, most in seen]


def test_numbers_of_unknown_range_need_a_window():
    with raises(ImageError, "images.unknown-range") as caught:
        vitscope.load(timm_model(13)).explain(BANDS)
    assert f"window=({BANDS.min()},{BANDS.max()})" in str(caught.value)


def test_a_saved_map_of_bands_is_measured_with_its_image(tmp_path):
    scope = vitscope.load(timm_model(4))
    data = RNG.random((32, 32, 4)).astype(np.float32)
    loaded = vitscope.Explanation.load(scope.explain(data, method="rollout").save(tmp_path / "map"))
    with raises(ImageError, "models.other-bands"):
        scope.measure(loaded)
    assert scope.measure(loaded, image=data, steps=4).numbers


def test_a_module_that_makes_grey_of_colours_takes_colours():
    class Greyed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = timm_model(1)

        def forward(self, x):
            return self.inner(x.mean(1, keepdim=True))

    assert vitscope.load(Greyed()).adapter.channels == 3
