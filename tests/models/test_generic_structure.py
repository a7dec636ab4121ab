"""Unusual structures: pooling, parallel and subtracted attention, detectors."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

import vitscope
from tests.helpers.errors import raises
from tests.models.toys_generic import (
    HEADS,
    WIDTH,
    Attention,
    D,
    Fused,
    MultiHead,
    OneHeadInWindows,
    ScaledAfter,
    loaded,
    made,
)
from tests.models.toys_traced import row_of
from tests.models.traced_row import as_it_is, picture
from vitscope.errors import UnsupportedError
from vitscope.geometry import TokenLayout


class Pooled(nn.Module):
    """Convolutions, and one attention that pools: no layers."""

    size = (32, 32)

    def __init__(self):
        super().__init__()
        self.stem, self.attention = nn.Conv2d(3, D, 8, 8), nn.MultiheadAttention(D, HEADS, batch_first=True)
        self.query = nn.Parameter(torch.randn(1, 1, D))
        with torch.no_grad():
            self.attention.in_proj_weight.mul_(6)

    def forward(self, x):
        x = self.stem(x).flatten(2).mT
        return self.attention(self.query.expand(len(x), -1, -1), x, x)[0][:, 0]


@pytest.mark.parametrize("method", ["rollout", "attention"])
def test_attention_pooling_alone_is_a_map(method):
    torch.manual_seed(0)
    model = Pooled().eval()
    image = picture(model.size)
    scope = loaded(model)
    assert scope.layout == TokenLayout((), (4, 4), "map")
    assert scope.adapter.depth == 0
    x = model.stem(as_it_is(model.size)(Image.fromarray(image))[None]).flatten(2).mT
    wanted = model.attention(model.query, x, x)[1].detach().ravel().numpy()
    np.testing.assert_allclose(scope.explain(image, method=method).map.ravel(), wanted, rtol=0, atol=1e-6)
    assert wanted.max() > 2 / 16


def test_blocks_with_two_attentions_side_by_side_are_a_chain():
    """Their mean is one step of rollout: one after the other would be another map."""
    from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer

    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    model = VisionTransformer(**sizes, block_fn=ParallelThingsBlock).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "qkv.weight" in name:
                parameter.mul_(12)
    scope = vitscope.load(model)
    assert not scope.adapter.isotropic
    image = picture((32, 32))
    e = scope.explain(image, method="rollout")
    store = scope.attention(image)
    rows = [block.rows(slice(None))[0].mean(0).double() for block in store]
    product = torch.eye(17).double()
    for first, second in (rows[:2], rows[2:]):
        product = (0.5 * torch.eye(17) + 0.25 * first + 0.25 * second) @ product
    wanted = product[0].numpy()
    np.testing.assert_allclose(np.concatenate([e.prefix, e.map.ravel()]), wanted, rtol=1e-4, atol=1e-6)


def test_a_model_that_lays_all_pictures_in_one_row_is_run_on_one_at_a_time():
    scope = row_of("hf-pixtral").scope()
    one, other = picture((32, 32), 0), picture((32, 32), 1)
    assert scope.supports("hidden-states").reason.code == "engine.one-at-a-time"
    with raises(UnsupportedError, "engine.one-at-a-time"):
        scope.attention([one, other])
    alone = scope.explain(other, method="occlusion", batch_size=1)
    together = scope.explain([one, other], method="occlusion", batch_size=8)[1]
    np.testing.assert_allclose(together.map, alone.map, rtol=1e-5, atol=1e-6)
    assert np.ptp(alone.map) > 0


# what the averages leave out is said


class Differential(Attention):
    """Two attentions, one subtracted from the other (Ye et al. 2024)."""

    def attend(self, y):
        q, k, v = self.heads(y)
        scores = (q @ k.mT) * WIDTH**-0.5
        return ((scores.softmax(-1) - 0.3 * scores.flip(-1).softmax(-1)) @ v).transpose(1, 2).flatten(2)


class DifferentialResults(Attention):
    """The same with fused kernels: their results are subtracted."""

    def attend(self, y):
        q, k, v = self.heads(y)
        a, b = (functional.scaled_dot_product_attention(x, k, v) for x in (q, -q))
        return (a - 0.3 * b).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("kind", [Differential, DifferentialResults])
def test_attention_subtracted_from_attention_is_said(kind):
    scope = loaded(made(kind))
    e = scope.explain(picture((32, 32)), method="rollout")
    said = [note for note in e.provenance["notes"] if "subtracted" in note]
    assert len(said) == 1
    assert scope.adapter.describe()["differential attention"] == said[0]
    assert e.map.sum() + e.prefix.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.spread
@pytest.mark.parametrize("kind", [Fused, ScaledAfter, MultiHead])
def test_of_a_plain_model_nothing_of_the_kind_is_said(kind):
    scope = loaded(made(kind))
    assert "differential attention" not in scope.adapter.describe()
    assert not [
        note for note in scope.explain(picture((32, 32)), method="rollout").provenance["notes"] if "sub" in note
    ]


class Detector(nn.Module):
    """DETR in small: learned queries that take attention from one another, then from the patches."""

    size = (32, 32)

    def __init__(self):
        super().__init__()
        self.stem, self.encoder = nn.Conv2d(3, D, 8, 8), Fused()
        self.places = nn.Parameter(torch.randn(1, 16, D))
        self.queries = nn.Parameter(torch.randn(3, D))
        self.own, self.across = (nn.MultiheadAttention(D, HEADS, batch_first=True) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(D) for _ in range(2))
        self.head = nn.Linear(D, 5)
        self.seen = []
        with torch.no_grad():
            self.across.in_proj_weight.mul_(4)

    def forward(self, x):
        x = self.encoder(self.stem(x).flatten(2).mT + self.places)
        q = self.queries.expand(len(x), -1, -1)
        y = self.norms[0](q)
        q = q + self.own(y, y, y, need_weights=False)[0]
        q = q + self.across(self.norms[1](q), x, x, need_weights=False)[0]
        return self.head(q)


def test_queries_of_a_detector_are_tokens_that_read_the_picture():
    """By hand: the mean query is half itself and half what it reads of patches that went through one layer."""
    torch.manual_seed(0)
    model, image = Detector().eval(), picture((32, 32))
    scope = loaded(model)
    e = scope.explain(image, method="rollout")
    pixels = as_it_is(model.size)(Image.fromarray(image))[None]
    with torch.no_grad():
        x = model.stem(pixels).flatten(2).mT + model.places
        first = model.encoder.by_hand(model.encoder.norm(x))[0].mean(0)
        x = model.encoder(x)
        y = model.norms[0](model.queries[None])
        own, weights = model.own(y, y, y)
        q = model.queries[None] + own
        across = model.across(model.norms[1](q), x, x)[1][0].double()
    wanted = 0.5 * across.mean(0) @ (0.5 * torch.eye(16).double() + 0.5 * first)
    np.testing.assert_allclose(e.map.ravel(), wanted.numpy(), rtol=1e-4, atol=1e-6)
    assert e.map.max() > 1.5 * e.map.min()
    assert weights.shape == (1, 3, 3)
    assert e.map.sum() + e.prefix.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_stay_one_in_half_precision(dtype):
    """Weights of many tokens are summed in float32, whatever the model's own type is."""
    model = made(OneHeadInWindows, pool="mean")
    image = picture(model.size)
    full = loaded(model).explain(image, method="rollout")
    half = vitscope.load(model.to(dtype), processor=as_it_is(model.size)).explain(image, method="rollout")
    assert half.provenance["dtype"] == str(dtype).removeprefix("torch.")
    assert half.map.sum() + half.prefix.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(half.map, full.map, rtol=0.1)
