"""Models that do not run on pixels alone are refused with what they take, and with the part that can be explained."""

import re
from operator import attrgetter

import numpy as np
import pytest
import timm
import torch
import transformers
from torch import nn

import vitscope
from tests.engine.toys_families import PHOTOS, make
from tests.helpers.errors import raises
from vitscope.engine.attribution import _check_pixels
from vitscope.errors import LayoutError, UnknownNameError, UsageError
from vitscope.models.loading import pick_device

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
VISION = SMALL | {"image_size": 32, "patch_size": 8}
WORDS = SMALL | {"num_key_value_heads": 2, "vocab_size": 300}


def git():
    words = SMALL | {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 1}
    return transformers.GitForCausalLM(transformers.GitConfig(vision_config=VISION, **words))


class DictBatch(nn.Module):
    """As LightningModules that are given batches of a dataset."""

    def __init__(self):
        super().__init__()
        self.net = make("timm")

    def forward(self, batch):
        return self.net(batch["image"])


class Views(nn.Module):
    """Several views of one thing, `(B, V, C, H, W)`."""

    def __init__(self):
        super().__init__()
        self.vit = make("timm")

    def forward(self, x):
        b, v = x.shape[:2]
        return self.vit(x.flatten(0, 1)).reshape(b, v, -1).mean(1)


def llava_next():
    words = transformers.LlamaConfig(**WORDS)
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=words,
        image_token_index=99,
        image_grid_pinpoints=[[32, 64], [64, 32]],
    )
    return transformers.LlavaNextForConditionalGeneration(config)


def idefics():
    words = transformers.LlamaConfig(**WORDS, pad_token_id=0)
    config = transformers.Idefics3Config(vision_config=VISION, text_config=words, scale_factor=2, image_token_id=299)
    return transformers.Idefics3ForConditionalGeneration(config)


def owl():
    words = SMALL | {"vocab_size": 200, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}
    config = transformers.OwlViTConfig(text_config=words, vision_config=VISION, projection_dim=16)
    return transformers.OwlViTForObjectDetection(config)


NEED_MORE = {
    "a dictionary": (DictBatch, "batch", "net"),
    "views": (Views, "x", "vit"),
    "LLaVA-NeXT": (llava_next, "image_sizes", "model.vision_tower"),
    "Idefics3": (idefics, "pixel_attention_mask", "model.vision_model"),
    "GIT, whose words come first": (git, "input_ids", "git.image_encoder"),
    "OWL-ViT": (owl, "input_ids", "owlvit"),
}


@pytest.mark.spread
@pytest.mark.parametrize("name", NEED_MORE)
def test_the_part_that_is_named_can_be_explained(name):
    made, argument, part = NEED_MORE[name]
    model = made().eval()
    with raises(LayoutError, "models.needs-more-than-pixels", "models.needs-more-than-pixels.part-hint") as caught:
        vitscope.load(model)
    assert argument in str(caught.value)
    (told,) = re.findall(r"vitscope\.load\(model\.(\S+?)\)", str(caught.value.hint))
    assert told == part
    found = vitscope.load(attrgetter(told)(model)).explain(PHOTOS[0], method="rollout")
    assert found.map.shape == (4, 4)
    assert found.map.sum() + found.prefix.sum() == pytest.approx(1, abs=1e-5)


def test_a_key_that_is_missing_is_told_as_one():
    class Keyed(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = make("timm")

        def forward(self, batch):
            return self.vit({"pixels": batch}[4])

    with raises(LayoutError, "models.needs-more-than-pixels") as caught:
        vitscope.load(Keyed().eval())
    assert "KeyError: 4" in str(caught.value)


def test_qwen_needs_the_grid_of_its_patches():
    words = {**WORDS, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}}
    vision = {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 32, "patch_size": 4, "mlp_ratio": 2}
    model = transformers.Qwen2VLForConditionalGeneration(
        transformers.Qwen2VLConfig(text_config=words | {"bos_token_id": 0, "eos_token_id": 1}, vision_config=vision)
    ).eval()
    with raises(LayoutError, "models.needs-more-than-pixels", "models.needs-more-than-pixels.hint") as caught:
        vitscope.load(model)
    assert "image_grid_thw" in str(caught.value)
    with torch.no_grad(), vitscope.capture(model) as recorder:  # as the hint says
        model.get_image_features(torch.randn(64, 96), torch.tensor([[1, 8, 8]]))
    assert [tuple(block.shape) for block in recorder.blocks] == [(1, 2, 64, 64)]


def test_clips_and_volumes_are_named():
    class Clips(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Conv3d(3, 16, (2, 8, 8), (2, 8, 8)), nn.Linear(16, 3)
            self.block = timm.models.vision_transformer.Block(16, 2)

        def forward(self, x):
            return self.head(self.block(self.embed(x).flatten(2).mT).mean(1))

    with raises(LayoutError, "models.takes-volumes", "models.takes-volumes.hint"):
        vitscope.load(Clips().eval())
    scope = vitscope.load(make("timm"))
    frames = torch.rand(1, 4, 3, 32, 32)
    with raises(UsageError, "engine.pixels", "engine.pixels.frames-hint"):
        _check_pixels(frames, None, 3)
    assert scope.attribute(frames.flatten(0, 1), method="rollout").maps.shape == (4, 4, 4)  # as the hint says


def test_a_random_mask_and_a_random_order_are_refused():
    class Masked(nn.Module):
        """A masked autoencoder's encoder, which keeps a random part of the patches."""

        def __init__(self, keep):
            super().__init__()
            self.keep, self.embed, self.head = keep, nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 3)
            self.cls, self.pos = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 16, 16))
            self.block, self.image_size = timm.models.vision_transformer.Block(16, 2), 32

        def forward(self, x):
            tokens = self.embed(x).flatten(2).mT + self.pos
            kept = torch.rand(len(x), 16).argsort(1)[:, : self.keep, None]
            tokens = tokens.gather(1, kept.expand(-1, -1, 16))
            return self.head(self.block(torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1))[:, 0])

    torch.manual_seed(0)
    model = Masked(4).eval()
    with raises(LayoutError, "tracing.random-model", "tracing.random-model.hint"):
        vitscope.load(model)
    model.keep = 16  # shuffled alone, which the answer does not show
    with torch.no_grad():
        torch.testing.assert_close(*(model(torch.ones(1, 3, 32, 32) * torch.arange(32) / 32) for _ in range(2)))
    with raises(LayoutError, "tracing.random-model"):
        vitscope.load(model)


def test_numbers_that_are_drawn_alike_by_chance_are_seen():
    class Moved(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.drawn = make("timm"), 0

        def forward(self, x):
            self.drawn = int(torch.rand(()) < 0.25)
            return self.model(x.roll(self.drawn * 8, -1))

    torch.manual_seed(0)  # its first two numbers are above
    with raises(LayoutError, "tracing.random-model"):
        vitscope.load(Moved().eval(), processor=lambda image: torch.ones(3, 32, 32), region="whole")


def test_a_masked_autoencoder_of_the_library_is_explained_unmasked_and_in_order():
    config = transformers.ViTMAEConfig(**VISION, attn_implementation="eager")
    model = transformers.ViTMAEModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    scope = vitscope.load(model)
    found = scope.explain(PHOTOS[0], method="rollout")
    assert "models.unmasked" in {getattr(note, "code", "") for note in found.provenance["notes"]}
    config.mask_ratio, weights = 0.0, []
    with torch.no_grad():
        given = {"pixel_values": scope.prepare(PHOTOS[0]).pixels[None], "noise": torch.arange(16.0)[None]}
        weights = [one[0].double().mean(0) for one in model(**given, output_attentions=True).attentions]
    rolled = torch.eye(17, dtype=torch.float64)
    for one in weights:
        rolled = (one + torch.eye(17)) / 2 @ rolled
    assert np.abs(found.map.ravel() - rolled[0, 1:].numpy()).max() < 1e-6


@pytest.mark.parametrize("device", ["gpu", "cuda:first"])
def test_what_is_no_device_is_said_to_be_none(device):
    with raises(UnknownNameError, "errors.unknown-name") as caught:
        pick_device(device)
    assert caught.value.choices[:3] == ("auto", "cpu", "cuda")


def test_a_device_that_this_build_lacks_is_said_without_the_operator(monkeypatch):
    def empty(*_args, **_keywords):
        raise NotImplementedError(
            "Could not run 'aten::empty.memory_format' with arguments from the 'MPS' backend. This could be because"
        )

    monkeypatch.setattr(torch, "empty", empty)
    with raises(UsageError, "models.no-such-device") as caught:
        pick_device("mps")
    assert "device 'mps' is not available: this build of torch does not have it" in str(caught.value)
    assert "aten" not in str(caught.value)
