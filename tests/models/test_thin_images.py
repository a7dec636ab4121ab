"""Of a thin picture nothing huge is made: it is refused before, in one line, whoever resizes it."""

import time
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2
from transformers import CLIPImageProcessor, ViTConfig, ViTForImageClassification

from tests.helpers.errors import raises
from tests.models.toys_processors import squared, tensor
from vitscope.errors import ImageError, LayoutError
from vitscope.images import Picture
from vitscope.models.pixels.thin_images import bounded
from vitscope.scope import load

SIDE = 64
THIN = np.random.default_rng(0).integers(0, 256, (2, 20_000, 3), np.uint8)
SHORTEST = {"size": {"shortest_edge": 224}, "crop_size": {"height": SIDE, "width": SIDE}}


@pytest.fixture(scope="module")
def model():
    config = ViTConfig(
        image_size=SIDE, patch_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16
    )
    return ViTForImageClassification(config).eval()


def by_pillow():
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(**SHORTEST)


def padded(image):
    array = np.asarray(image)
    square = np.pad(array, ((0, max(image.size) - image.height), (0, max(image.size) - image.width), (0, 0)))
    return tensor(Image.fromarray(square).resize((SIDE, SIDE)))


PROCESSORS = {
    "transformers, torch": lambda: CLIPImageProcessor(**SHORTEST),
    "transformers, Pillow": by_pillow,
    "transformers, no crop": lambda: CLIPImageProcessor(size={"shortest_edge": SIDE}, do_center_crop=False),
    "torchvision, Pillow": lambda: transforms.Compose(
        [transforms.Resize(224), transforms.CenterCrop(SIDE), transforms.ToTensor()]
    ),
    "torchvision, torch": lambda: v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Resize(224), v2.CenterCrop(SIDE)]
    ),
    "padded by Pillow": lambda: lambda image: tensor(squared(image).resize((SIDE, SIDE))),
    "padded by numpy": lambda: padded,
    "padded by torch": lambda: (
        lambda image: torch.nn.functional.interpolate(
            torch.nn.functional.pad(
                tensor(image), (0, max(image.size) - image.width, 0, max(image.size) - image.height)
            )[None],
            (SIDE, SIDE),
        )
    ),
}


@pytest.mark.spread
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", PROCESSORS)
def test_it_is_refused_before_anything_is_made(model, name, turned):
    scope = load(model, processor=PROCESSORS[name]())
    image = np.ascontiguousarray(THIN.swapaxes(0, 1)) if turned else THIN
    tracemalloc.start()
    began = time.process_time()
    with raises(ImageError, "models.thin-image", "models.thin-image.hint") as caught:
        scope.explain(image, method="rollout")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ("2 x 20000" if turned else "20000 x 2") in str(caught.value)
    assert time.process_time() - began < 5
    assert most < 100e6


@pytest.mark.parametrize("size", [None, pytest.param(224, marks=pytest.mark.slow)])
def test_a_processor_that_makes_little_of_it_explains_it(model, size):
    e = load(model).explain(THIN, method="rollout", size=size)
    assert e.layout.grid == ((4, 4) if size is None else (1, 1400))  # sqrt(20000 / 2) = 100 times 224 is 1400 patches
    assert e.overlay().size == (20_000, 2)


def test_pictures_that_are_not_thin_are_resized_as_ever(model):
    e = load(model, processor=CLIPImageProcessor(**SHORTEST)).explain(THIN[:, :20], method="rollout")
    assert e.layout.grid == (4, 4)


def test_pillow_and_numpy_are_left_as_they_were():
    before = Image.Image.resize, Image.new, np.pad
    with pytest.raises(ImageError), bounded(Picture(THIN)):
        Image.new("RGB", (20_000, 20_000))
    assert before == (Image.Image.resize, Image.new, np.pad)


def test_too_thin_to_be_measured_is_said(model):
    scope = load(model, processor=lambda image: tensor(squared(image).resize((SIDE, SIDE))))
    with raises(LayoutError, "models.processor-region") as caught:
        scope.explain(THIN[:, :3000], method="rollout")
    assert "larger images" in str(caught.value)


@pytest.mark.slow
def test_a_crop_of_a_thin_picture_is_given_up_within_seconds(model):
    """The stripes of its probes are so many that each place where they may lie cannot be fitted by itself."""
    scope = load(model, processor=lambda image: tensor(image.crop((0, 0, 2, 2)).resize((SIDE, SIDE))))
    began = time.process_time()
    with raises(LayoutError, "models.processor-region"):
        scope.explain(THIN, method="rollout")
    assert time.process_time() - began < 20
