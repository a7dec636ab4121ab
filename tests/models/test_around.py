"""Modules of one's own around models of clips, volumes and sounds: maps against eager twins."""

import pickle

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import vitscope
from tests.helpers.errors import raises
from tests.models import toys_video as toys
from vitscope.errors import LayoutError, ModelError
from vitscope.media.clip import Clip
from vitscope.media.sound import Sound
from vitscope.media.volume import VolumeProcessor

BANDS, COLUMNS, RATE = 48, 96, 16000
SIZE = (8, 16, 24)


class Headed(nn.Module):
    """A head of one's own behind the mean of a model's tokens, or behind its first."""

    def __init__(self, backbone, first=False):
        super().__init__()
        torch.manual_seed(1)
        self.backbone, self.head, self.first = backbone, nn.Linear(32, 3), first

    def inside(self, x):
        return self.backbone(x)[0]

    def forward(self, x):
        tokens = self.inside(x)
        return self.head(tokens[:, 0] if self.first else tokens.mean(1))


class TimeSecond(Headed):
    """Takes clips `(B, C, T, H, W)`, as most video code outside transformers has them."""

    def inside(self, x):
        return self.backbone(x.transpose(1, 2))[0]


class BandsSecond(Headed):
    """Takes spectrograms `(B, F, T)`."""

    def inside(self, x):
        return self.backbone(x.mT)[0]


class Doubling(Headed):
    """Changes what the model inside gets."""

    def inside(self, x):
        return self.backbone(2 * x + 1)[0]


class Probabilities(nn.Module):
    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, x):
        return self.classifier(x).logits.softmax(-1)


def sharpened(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.mul_(12 if any(part in name for part in ("q_proj", "k_proj", "qkv")) else 3)
            if "token" in name or name.endswith("bias"):
                parameter.normal_(0, 0.3)
    return model.eval().double()


def ast(attention="sdpa"):
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ASTConfig(**small, max_length=COLUMNS, num_mel_bins=BANDS)
    config._attn_implementation = attention
    return sharpened(transformers.ASTModel(config))


def monai(size=SIZE, patch=(4, 8, 6)):
    from monai.networks.nets import ViT

    torch.manual_seed(0)
    options = {"img_size": size, "patch_size": patch, "hidden_size": 32, "mlp_dim": 64, "num_layers": 2, "num_heads": 2}
    return sharpened(ViT(1, **options, save_attn=True))


def video(kind="videomae", attention="sdpa"):
    whole = toys.classifier(kind, attention=attention).double()
    return getattr(whole, whole.base_model_prefix)


def rolled(attentions, first):
    """Rollout of matrices `(heads, N, N)` from the first token or from the mean of all."""
    count = attentions[0].shape[-1]
    row = np.eye(count)[0] if first else np.full(count, 1 / count)
    for matrix in reversed(attentions):
        row = 0.5 * row + 0.5 * row @ matrix.mean(0).detach().numpy()
    return row


def flat(e):
    return np.concatenate([e.prefix, e.map.ravel()])


def clip_pixels(scope, clip):
    sampled = np.stack([clip.frames[i * 20 // 8] for i in range(8)])
    made = scope.adapter.processor(videos=[sampled], return_tensors="pt")
    return next(iter(made.values())).double()


@pytest.mark.spread
@pytest.mark.parametrize(
    ("kind", "around", "first"),
    [
        ("videomae", Headed, False),
        ("videomae", TimeSecond, False),
        ("vivit", Headed, True),
        ("vivit", TimeSecond, False),
    ],
)
def test_a_head_on_a_video_model(kind, around, first):
    clip = Clip(toys.frames(), fps=10.0)
    scope = vitscope.load(around(video(kind), first).double().eval())
    pixels = clip_pixels(scope, clip)
    twin = video(kind, "eager")
    attentions = [one[0] for one in twin(pixels, output_attentions=True).attentions]
    e = scope.explain(clip, method="rollout")
    assert e.map.shape == (4, 4, 4)
    np.testing.assert_allclose(flat(e), rolled(attentions, first), atol=1e-6)
    model = Headed(twin, first).double().eval()
    x = pixels.clone().requires_grad_()
    logits = model(x)
    (grad,) = torch.autograd.grad(logits[0, 1], x)
    wanted = (x * grad)[0].sum(1).detach().numpy().reshape(4, 2, 4, 8, 4, 8).sum((1, 3, 5))
    e = scope.explain(clip, method="input-x-gradient", target=1)
    np.testing.assert_allclose(e.map, wanted, atol=1e-6 * np.abs(wanted).max())
    shares = dict(e.predictions)
    assert [shares[f"class {n}"] for n in range(3)] == pytest.approx(logits.softmax(-1)[0].tolist(), abs=1e-6)
    assert "models.preprocessing-inside" in [note.code for note in e.provenance["notes"]]


@pytest.mark.spread
@pytest.mark.parametrize("kind", ["timesformer", "vjepa2"])
def test_heads_on_the_other_video_models_run(kind):
    e = vitscope.load(Headed(video(kind)).double().eval()).explain(toys.frames(), method="rollout")
    assert e.map.shape == (8 // toys.TUBELET[kind], 4, 4)


@pytest.mark.spread
@pytest.mark.parametrize("around", [Headed, BandsSecond])
def test_a_head_on_a_model_of_sounds(around):
    time = np.arange(round(0.6 * RATE)) / RATE
    tone = Sound((0.4 * np.sin(2 * np.pi * (300 + 2000 * time) * time)).astype(np.float32), RATE, "tone")
    extractor = transformers.ASTFeatureExtractor(num_mel_bins=BANDS, max_length=COLUMNS)
    values = extractor(tone.samples, sampling_rate=RATE, return_tensors="pt")["input_values"].double()
    twin = ast("eager")
    attentions = [one[0] for one in twin(values, output_attentions=True).attentions]
    scope = vitscope.load(around(ast()).double().eval(), labels=["a", "b", "c"])
    e = scope.explain(tone, method="rollout")
    assert e.map.shape == ((BANDS - 16) // 10 + 1, (COLUMNS - 16) // 10 + 1)
    np.testing.assert_allclose(flat(e), rolled(attentions, False), atol=1e-6)
    logits = Headed(twin).double().eval()(values).softmax(-1)[0].tolist()
    shares = dict(scope.explain(tone, target=1).predictions)
    assert [shares[name] for name in "abc"] == pytest.approx(logits, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_a_head_on_a_model_of_volumes(first):
    voxels = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
    twin = monai()
    twin(torch.from_numpy(voxels[None, None]).double())
    attentions = [block.attn.att_mat[0] for block in twin.blocks]
    scope = vitscope.load(Headed(monai(), first).double().eval(), processor=VolumeProcessor(SIZE))
    e = scope.explain(voxels, method="rollout")
    assert e.map.shape == (2, 2, 4)
    np.testing.assert_allclose(flat(e), rolled(attentions, first), atol=1e-6)


def test_the_size_of_a_volume_that_is_no_cube_is_asked_for():
    with raises(LayoutError, "models.volume-unknown-size", "models.volume-size.hint"):
        vitscope.load(Headed(monai()).double().eval())


@pytest.mark.slow
def test_a_module_that_hands_a_clip_on_is_the_model_inside():
    """Its labels and its adapter stay; so does a softmax's order of classes."""
    classifier = toys.classifier("videomae").double()
    classifier.config.id2label = {0: "run", 1: "jump", 2: "sit"}
    alone = vitscope.load(classifier).explain(toys.frames(), method="relevance", target="jump")
    handed = vitscope.load(nn.Sequential(classifier)).explain(toys.frames(), method="relevance", target="jump")
    np.testing.assert_array_equal(handed.map, alone.map)
    scope = vitscope.load(Probabilities(classifier).eval())
    assert scope.adapter.scores == "probabilities"
    e = scope.explain(toys.frames(), method="rollout")
    assert [(name, pytest.approx(share, abs=1e-6)) for name, share in alone.predictions] == e.predictions
    rollout = vitscope.load(classifier).explain(toys.frames(), method="rollout")
    np.testing.assert_allclose(e.map, rollout.map, atol=1e-9)


def test_what_changes_a_clip_needs_a_processor():
    with raises(ModelError, "models.wrapper-changes-pixels", "models.wrapper-changes-pixels.hint"):
        vitscope.load(Doubling(video()).double().eval())
    processor = transformers.VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    scope = vitscope.load(Doubling(video()).double().eval(), processor=processor)
    frames = [processor(frame.copy(), return_tensors="pt")["pixel_values"][0, 0] for frame in toys.frames(8)]
    pixels = torch.stack(frames).double()
    attentions = [one[0] for one in video(attention="eager")(2 * pixels[None] + 1, output_attentions=True).attentions]
    e = scope.explain(toys.frames(8), method="rollout")
    np.testing.assert_allclose(flat(e), rolled(attentions, False), atol=1e-6)


@pytest.mark.slow
def test_it_is_pickled_with_what_is_inside():
    scope = vitscope.load(TimeSecond(video()).double().eval())
    again = pickle.loads(pickle.dumps(scope.adapter))
    assert again.around.inside is again.model.backbone
    pixels = torch.randn(1, 3, *scope.adapter.input_size, dtype=torch.float64)
    torch.testing.assert_close(again.answer(pixels), scope.adapter.answer(pixels))
