"""`--window` and `--display` on the command line, and a model of one channel."""

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

import vitscope

RNG = np.random.default_rng(0)
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def folder(path, channels):
    torch.manual_seed(0)
    config = ViTConfig(**SMALL, image_size=32, patch_size=8, num_labels=3, num_channels=channels)
    ViTForImageClassification(config).save_pretrained(path)
    half = [0.5] * channels
    ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=half, image_std=half).save_pretrained(path)
    return path


def test_one_channel_and_12_bits(cli, tmp_path):
    model, values = folder(tmp_path / "model", 1), RNG.integers(0, 4096, (32, 32), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "scan.png")
    ran = cli("explain", tmp_path / "scan.png", "-m", model, "--window", "0,4095", "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert "numbers from 0 to 4095 become 0 to 1" in ran.out
    scope = vitscope.load(model, window="0,4095")
    assert torch.allclose(scope.prepare(values).pixels[0], torch.from_numpy(values / 4095 * 2 - 1).float(), atol=1e-6)


def test_bands_of_a_tiff_are_shown_as_the_caller_says(cli, tmp_path):
    model, values = folder(tmp_path / "model", 4), RNG.integers(0, 256, (32, 32, 4), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "tile.tif", values, photometric="minisblack", planarconfig="contig")
    ran = cli("explain", tmp_path / "tile.tif", "-m", model, "--display", "3,2,1", "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert "shown: bands 3, 2, 1 of 4, counted from 0" in ran.out
    found = vitscope.Explanation.load(tmp_path / "out" / "tile" / "why-this-class")
    assert np.abs(found.picture.pixels.astype(int) - values[..., [3, 2, 1]]).mean() < 12  # a JPEG of noise


@pytest.mark.slow
@pytest.mark.parametrize(("command", "out"), [("heads", "heads"), ("statistics", "numbers"), ("view", "view.html")])
def test_each_command_takes_bands(cli, tmp_path, command, out):
    model, values = folder(tmp_path / "model", 4), RNG.integers(0, 256, (32, 32, 4), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "tile.tif", values, photometric="minisblack", planarconfig="contig")
    ran = cli(command, tmp_path / "tile.tif", "-m", model, "--display", "3,2,1", "-o", tmp_path / out)
    assert ran.code == 0, ran.err


def test_flags_that_are_no_numbers_are_one_line(cli, tmp_path):
    model = folder(tmp_path / "model", 1)
    Image.new("L", (32, 32)).save(tmp_path / "a.png")
    for flags, words in ((["--window", "high"], "--window"), (["--display", "1,2"], "--display")):
        ran = cli("explain", tmp_path / "a.png", "-m", model, *flags, "-o", tmp_path / "out")
        assert ran.code != 0
        assert words in ran.err
        assert len(ran.err.strip().splitlines()) == 1
