"""Attention statistics against dense float64 twins, cases with known answers, and heads silenced by hand."""

import json
import math
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.errors import raises
from tests.models import toys as zoo
from tests.models import toys_traced as zoo_traced
from tests.oracles import attention_statistics as oracles
from vitscope.attention import AttentionStore, CallSite, Dense
from vitscope.attention.capture import capture
from vitscope.attention.head_scaling import scale_heads
from vitscope.errors import ImageError, MethodError, MissingDependencyError, ResultError, UnknownNameError, UsageError
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.images import load_image
from vitscope.methods.targets import Scorer
from vitscope.metrics import effective_rank as rank_module
from vitscope.metrics import table_files
from vitscope.metrics.attention_statistics import SHARES, Layer, Statistics
from vitscope.metrics.attention_streaming import statistics_of
from vitscope.metrics.effective_rank import effective_rank
from vitscope.metrics.head_importance import head_importance
from vitscope.models.transformers import TransformersAdapter
from vitscope.render.plots import Panel, by_depth
from vitscope.scope import Scope

CHUNKS = (None, 1, 7, 1000)
NAMES = ["vit", "vit-wide", "deit-teacher", "dinov2-registers", "ijepa", "beit"]
UNKNOWN = "nobody watched"
each_chunk = pytest.mark.parametrize("chunk", CHUNKS)


def row_of(name):
    return next(row for row in [*zoo.ROWS, *zoo_traced.ROWS] if row.name == name)


def scope_of(name):
    """A tiny model in float64."""
    row = row_of(name)
    if isinstance(row, zoo_traced.Row):
        return row.scope(row.model().double())
    return Scope(TransformersAdapter(row.model().double(), weights="none"), torch.device("cpu"), torch.float64)


def photo_of(name, seed=0):
    return zoo_traced.picture(row_of(name).size, seed)


@pytest.fixture(scope="module", params=NAMES)
def seen(request):
    """A store, its frame, the library's own eager attention `(H, N, N)` a layer, the readout row, and the row."""
    row = row_of(request.param)
    adapter, pixels = TransformersAdapter(row.model().double(), weights="none"), zoo.pixels(row).double()
    with torch.no_grad(), capture(adapter.model) as store_of:
        answer = adapter.answer(pixels)
    store = adapter.attention(store_of, row.size, answer)
    region = ImageRegion((90, 50), (10.5, 0, 85, 50), row.size)
    adapter.model.set_attn_implementation("eager")
    options = {"interpolate_pos_encoding": True} if row.name == "vit-wide" else {}
    with torch.no_grad():
        attentions = [a[0] for a in adapter.model(pixel_values=pixels, output_attentions=True, **options).attentions]
    tokens, prefix = attentions[0].shape[-1], len(row.prefix)
    readout = torch.zeros(tokens, dtype=torch.float64)
    places = {"cls": slice(1), "both": slice(2), "mean": slice(prefix, None)}[row.readout]
    readout[places] = 1
    return store, region, attentions, readout / readout.sum(), row


def close(got, wanted, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(got), np.asarray(wanted), rtol=tolerance, atol=tolerance * 0.1)


def measured(store, region=None, **options):
    region = region or ImageRegion((64, 64), (0, 0, 64, 64), (64, 64))
    return statistics_of(store, region, UNKNOWN, **options)


def dense(*matrices, prefix=("cls",), grid=(2, 2), **fields):
    """A store of hand-made attention `(H, N, N)` a layer."""
    blocks = tuple(Dense(f"layer {i}", torch.as_tensor(m, dtype=torch.float64)[None]) for i, m in enumerate(matrices))
    return AttentionStore(blocks, TokenLayout(prefix, grid, "cls" if prefix else "mean"), **fields)


# the twins


@each_chunk
class TestTwins:
    def test_entropy(self, seen, chunk):
        store, region, attentions, readout, _ = seen
        found = measured(chunked(store, chunk), region)
        for layer, a in zip(found.layers, attentions, strict=True):
            close(layer.entropy, oracles.entropy(a))
            close(layer.entropy_normalised, np.array(oracles.entropy(a)) / math.log(a.shape[-1]))
            close(layer.readout_entropy, oracles.readout_entropy(a, readout))
            close(layer.readout_entropy_normalised, np.array(layer.readout_entropy) / math.log(a.shape[-1]))

    def test_distance(self, seen, chunk):
        store, region, attentions, _, row = seen
        found = measured(chunked(store, chunk), region)
        for layer, a in zip(found.layers, attentions, strict=True):
            close(layer.distance, oracles.distance(a, len(row.prefix), row.grid, row.size))
            close(layer.distance_photo, oracles.distance(a, len(row.prefix), row.grid, (50, 74.5)))

    def test_shares(self, seen, chunk):
        store, region, attentions, _, row = seen
        found = measured(chunked(store, chunk), region)
        for layer, a in zip(found.layers, attentions, strict=True):
            assert tuple(layer.shares) == SHARES
            for kind, wanted in oracles.shares(a, row.prefix).items():
                close(layer.shares[kind], wanted)

    def test_received_and_sinks(self, seen, chunk):
        store, region, attentions, _, row = seen
        found = measured(chunked(store, chunk), region)
        n, prefix = attentions[0].shape[-1], len(row.prefix)
        every = np.array([oracles.received(a) for a in attentions])
        for layer, got in zip(found.layers, every, strict=True):
            close(layer.received, got)
            assert [sink.token for sink in layer.sinks] == oracles.sinks(list(got), prefix)
        assert [sink.token for sink in found.sinks] == oracles.sinks(list(every.mean(0)), prefix)
        for sink in found.sinks:
            close([sink.received, sink.factor], [every.mean(0)[sink.token], every.mean(0)[sink.token] * n])

    def test_agreement(self, seen, chunk):
        store, region, attentions, _, _ = seen
        found = measured(chunked(store, chunk), region)
        for layer, a in zip(found.layers, attentions, strict=True):
            close(layer.agreement, oracles.agreement(a))
            assert layer.head_agreement == pytest.approx(np.mean(oracles.agreement(a)), rel=1e-5)

    def test_effective_rank(self, seen, chunk):
        store, region, attentions, _, _ = seen
        found = measured(chunked(store, chunk), region)
        close([layer.effective_rank for layer in found.layers], oracles.effective_ranks(attentions))


def chunked(store, chunk):
    return store if chunk is None else store.in_chunks(chunk)


def test_the_twins_have_something_to_find(seen):
    """Attention far from uniform, heads that differ, and sinks in some model: else the tests above would say little."""
    _, _, attentions, _, _ = seen
    n = attentions[0].shape[-1]
    assert min(np.mean(oracles.entropy(a)) for a in attentions) < 0.9 * math.log(n)
    assert max(np.mean(oracles.agreement(a)) for a in attentions) < 0.98


def test_some_models_of_the_zoo_have_sinks():
    found = [scope_of(name).statistics(photo_of(name)) for name in ("vit", "dinov2-registers", "beit")]
    assert any(layer.sinks for one in found for layer in one.layers)
    assert any(one.sinks for one in found)


def test_norms_are_of_the_tokens_that_go_into_a_block():
    scope, photo = scope_of("dinov2-registers"), photo_of("dinov2-registers")
    found = scope.statistics(photo)
    pixels, _ = scope.adapter.prepare(load_image(photo))
    with torch.no_grad():
        states = scope.model(pixel_values=pixels[None].double(), output_hidden_states=True).hidden_states
    every = torch.stack([state[0].norm(dim=-1) for state in states[:-1]]).numpy()
    for layer, wanted in zip(found.layers, every, strict=True):
        close(layer.norms, wanted)
        for sink in layer.sinks:
            assert sink.norm == pytest.approx(wanted[sink.token])
            assert sink.norm_factor == pytest.approx(wanted[sink.token] / sorted(wanted[4:])[11])
    for sink in found.sinks:
        assert sink.norm == pytest.approx(every[:, sink.token].max())


def test_tokens_out_of_the_layouts_order_are_put_in_it():
    """YOLOS has its detection tokens last, the layout has them first."""
    scope, photo = scope_of("hf-yolos"), photo_of("hf-yolos")
    found, order = scope.statistics(photo), list(row_of("hf-yolos").order)
    pixels, _ = scope.adapter.prepare(load_image(photo))
    scope.model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = scope.model(pixel_values=pixels[None].double(), output_attentions=True).attentions
    for layer, a in zip(found.layers, attentions, strict=True):
        close(layer.received, np.array(oracles.received(a[0]))[order])
        assert layer.norms is None
    assert "between its blocks" in found.withheld["norms"]


def test_sinks_are_those_of_the_method_sink_rollout():
    for name in ("vit", "vit-wide", "dinov2-registers"):
        scope = scope_of(name)
        for seed in range(3):
            photo = photo_of(name, seed)
            patches = [sink.name for sink in scope.statistics(photo).sinks if sink.place is not None]
            (note,) = [n for n in scope.explain(photo, method="sink-rollout").provenance["notes"] if "sinks" in n]
            assert note.startswith(f"{len(patches)} sinks" if patches else "no sinks")
            assert all(f" {place}" in note for place in patches[:8] if len(patches) <= 8)


# known answers


def test_uniform_attention():
    n = 5
    found = measured(dense(*[torch.full((3, n, n), 1 / n)] * 2))
    for layer in found.layers:
        close(layer.entropy, [math.log(5)] * 3)
        close(layer.entropy_normalised, [1] * 3)
        close(layer.readout_entropy_normalised, [1] * 3)
        close(layer.agreement, [1] * 3)
        close([layer.shares[kind][0] for kind in SHARES], [0.2, 0, 0, 0.2, 0.6])
        close(layer.received, [0.2] * 5)
        close(layer.distance, [(2 * 32 + 32 * math.sqrt(2)) / 4] * 3)
        assert layer.sinks == ()
    # (I + J/5) / 2 has singular values 1, 1/2, 1/2, 1/2, 1/2; its square 1 and four times 1/4
    shares = ([1 / 3] + [1 / 6] * 4, [1 / 2] + [1 / 8] * 4)
    wanted = [math.exp(-sum(p * math.log(p) for p in share)) for share in shares]
    close([layer.effective_rank for layer in found.layers], wanted)


def test_attention_that_stays_where_it_is():
    found = measured(dense(torch.eye(5).expand(2, 5, 5)))
    (layer,) = found.layers
    close(layer.entropy, [0, 0])
    close(layer.distance, [0, 0])
    close([layer.shares[kind][0] for kind in SHARES], [0, 0, 0, 1, 0])
    close(layer.agreement, [1, 1])
    close(layer.effective_rank, 5)


def test_attention_of_one_token_to_the_far_corner():
    """A row of two patches, 64 x 64 pixels: their centres are 32 apart; in a photo twice as wide, 64."""
    a = torch.tensor([[[1.0, 0, 0], [0.5, 0.25, 0.25], [0.5, 0, 0.5]]])
    store = dense(a, grid=(1, 2))
    found = measured(store, ImageRegion((128, 64), (0, 0, 128, 64), (64, 64)))
    close(found.layers[0].distance, [8])  # (32 * 1/2 + 0) / 2: the half that goes to CLS is left out
    close(found.layers[0].distance_photo, [16])
    close([found.layers[0].shares[kind][0] for kind in SHARES], [0.5, 0, 0, 0.375, 0.125])
    assert found.layers[0].agreement is None
    assert found.layers[0].head_agreement is None


def test_prefix_tokens_by_their_names():
    names = ("cls", "register 1", "distillation", "register 2")
    a = torch.zeros(1, 5, 5)
    a[0, :, :] = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25])
    (layer,) = measured(dense(a, prefix=names, grid=(1, 1))).layers
    close([layer.shares[kind][0] for kind in SHARES], [0.1, 0.35, 0.3, 0.25, 0])


def test_a_sink_is_named_with_its_place_and_mass():
    n = 17
    a = torch.full((2, n, n), 1.0)
    a += 0.01 * torch.rand(n, generator=torch.Generator().manual_seed(0))
    a[:, :, 10] += 20
    a[:, :, 0] += 40
    a = a / a.sum(-1, keepdim=True)
    found = measured(dense(a, grid=(4, 4)))
    assert [(sink.token, sink.name, sink.place) for sink in found.sinks] == [(0, "cls", None), (10, "2,1", (2, 1))]
    close(found.sinks[1].received, float(a[0, 0, 10]))
    close(found.sinks[1].factor, float(a[0, 0, 10]) * n)
    assert found.sinks[0].norm is None
    assert found.withheld["norms"] == UNKNOWN


def test_heads_that_never_look_at_the_same_tokens_do_not_agree():
    a = torch.zeros(3, 6, 6)
    for head in range(3):
        a[head, :, 2 * head : 2 * head + 2] = 0.5
    a[2] = a[1]
    (layer,) = measured(dense(a, prefix=(), grid=(2, 3))).layers
    close(layer.agreement, [0, 0.5, 0.5])
    close(layer.head_agreement, 1 / 3)


def test_a_mean_readout_reads_the_entropy_of_the_mean_row():
    """Rows that each look at one other token: no entropy in a row, all of it in their mean."""
    a = torch.eye(4)[[1, 2, 3, 0]][None]
    (layer,) = measured(dense(a, prefix=(), grid=(2, 2))).layers
    close(layer.entropy, [0])
    close(layer.readout_entropy, [math.log(4)])


def test_effective_rank_counts_equal_values():
    assert effective_rank(torch.tensor([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3)


def test_effective_rank_is_refused_for_many_tokens_and_only_it():
    n = 651
    found = measured(dense(torch.full((1, n, n), 1 / n), prefix=("cls",), grid=(26, 25)))
    assert found.layers[0].effective_rank is None
    assert found.withheld["effective_rank"].startswith("the effective rank needs whole matrices: 651 tokens")
    close(found.layers[0].entropy_normalised, [1])
    assert len(found.plot().getbands()) == 3
    assert measured(dense(torch.full((1, 640, 640), 1 / 640), prefix=(), grid=(32, 20))).layers[0].effective_rank > 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(1, 3), st.integers(1, 4), st.floats(0.1, 30))
def test_every_number_stays_in_its_range(seed, heads, rows, columns, sharp):
    n = 1 + rows * columns
    draw = torch.Generator().manual_seed(seed)
    a = (torch.randn(2, heads, n, n, generator=draw, dtype=torch.float64) * sharp).softmax(-1)
    found = measured(dense(*a, grid=(rows, columns)), ImageRegion((64, 64), (0, 0, 64, 64), (64, 64)))
    most = math.hypot(64 * (rows - 1) / rows, 64 * (columns - 1) / columns)
    for layer in found.layers:
        for values, top in ((layer.entropy, math.log(n)), (layer.entropy_normalised, 1), (layer.agreement, 1)):
            assert (values >= -1e-9).all()
            assert (values <= top + 1e-9).all()
        assert (layer.distance <= most + 1e-9).all()
        close(sum(layer.shares.values()), np.ones(heads))
        close(layer.received.sum(), 1)
        assert 1 - 1e-9 <= layer.effective_rank <= n + 1e-9
    turned = measured(dense(*a.flip(1), grid=(rows, columns)))
    for one, other in zip(found.layers, turned.layers, strict=True):
        close(one.entropy[::-1], other.entropy, 1e-9)
        close(one.agreement[::-1], other.agreement, 1e-9)
        close(one.distance[::-1], other.distance, 1e-9)


def test_memory_is_linear_in_tokens(monkeypatch):
    """With chunks of four queries, no tensor that is made comes near one head's N x N."""

    class Largest(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for one in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(one, torch.Tensor):
                    Largest.most = max(Largest.most, one.numel())
            return out

    class Rows(Dense):
        def rows(self, sel=slice(None)):
            return super().rows(sel).clone()

    monkeypatch.setattr(rank_module, "MOST_TOKENS", 100)
    n = 401
    a = torch.rand(1, 2, n, n).softmax(-1)
    store = AttentionStore((Rows("one", a, chunk=4),), TokenLayout(("cls",), (20, 20)))
    with Largest():
        measured(store)
    assert 2 * 4 * n <= Largest.most <= 2 * 6 * n
    with Largest():
        store[0].rows()
    assert Largest.most >= n * n


# silencing


class Attention(nn.Module):
    """The same attention in each of the ways that libraries write it."""

    def __init__(self, style, width=12, heads=3):
        super().__init__()
        self.style, self.heads = style, heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        first = "first" in style
        self.inner = nn.MultiheadAttention(width, heads, batch_first=first) if "module" in style else None

    @property
    def projection(self):
        return self.proj if self.inner is None else self.inner.out_proj

    def forward(self, x):
        if self.inner is not None:
            x = x if self.inner.batch_first else x.transpose(0, 1)
            x = self.inner(x, x, x, need_weights="weights" in self.style)[0]
            return x if self.inner.batch_first else x.transpose(0, 1)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        a = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) if self.style != "fused" else None
        if self.style == "heads first":
            y = scaled_dot_product_attention(*(part.transpose(0, 1) for part in (q, k, v))).transpose(0, 1)
        elif self.style == "lines":
            y = scaled_dot_product_attention(*(part.unflatten(2, (2, 3)) for part in (q, k, v))).flatten(2, 3)
        elif self.style == "fused":
            y = scaled_dot_product_attention(q, k, v)
        elif self.style == "explicit":
            y = a @ v
        elif self.style == "folded":
            y = (a.flatten(0, 1) @ v.flatten(0, 1)).unflatten(0, a.shape[:2])
        elif self.style == "turned":
            y = (v.transpose(-1, -2) @ a.transpose(-1, -2)).transpose(-1, -2)
        else:
            return self.proj(torch.einsum("bhij,bhjd->bihd", a, v).flatten(2))
        return self.proj(y.transpose(1, 2).flatten(2))


AXES = {"heads first": 0, "lines": 1}
STYLES = [*AXES, "fused", "explicit", "turned", "folded", "einsum", "module", "module first", "module weights"]


def two_layers(style):
    torch.manual_seed(0)
    return nn.Sequential(Attention(style), Attention(style)).double().eval(), torch.randn(4, 6, 12).double()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("layer", [0, 1])
def test_each_row_of_a_batch_has_its_own_weights(style, layer):
    model, x = two_layers(style)
    with torch.no_grad(), capture(model) as store_of:
        model(x)
    event, axis = store_of().calls[layer].event, AXES.get(style, 1)
    weights = torch.rand(4, 3, dtype=torch.float64)
    weights[0], weights[1] = torch.tensor([1.0, 0, 1]), 1
    with scale_heads(model, CallSite(event, axis), weights):
        got = model(x)
    with torch.no_grad():
        plain = model(x)
        projection = model[layer].projection.weight
        whole = projection.clone()
        for row in range(4):
            projection.copy_(whole * weights[row].repeat_interleave(4))
            torch.testing.assert_close(got[row : row + 1], model(x[row : row + 1]), rtol=0, atol=1e-12)
        projection.copy_(whole)
    assert (got[0] - plain[0]).abs().max() > 1e-3
    torch.testing.assert_close(got[1], plain[1], rtol=0, atol=1e-14)


PROJECTIONS = {
    "vit": "vit.layers.{}.attention.o_proj",
    "beit": "beit.layers.{}.attention.o_proj",
    "dinov2-registers": "encoder.layer.{}.attention.o_proj",
    "hf-siglip": "encoder.layers.{}.self_attn.out_proj",
    "timm-vit": "blocks.{}.attn.proj",
    "timm-vit-unfused": "blocks.{}.attn.proj",
    "timm-vit-map": "blocks.{}.attn.proj",
    "torchvision-vit": "encoder.layers.encoder_layer_{}.self_attention.out_proj",
    "openclip-vit": "visual.transformer.resblocks.{}.attn.out_proj",
}


def projection_of(model, name, layer):
    names = [
        n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.endswith(PROJECTIONS[name].format(layer))
    ]
    assert len(names) == 1, [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    return names[0]


def importance_twin(scope, name, photo, score):
    """The score's drop when the projection after a head does not read it, one head at a time."""
    pixels, _ = scope.adapter.prepare(load_image(photo), row_of(name).ask if name in BY_TRACE else None)
    pixels, model = pixels[None].double(), scope.adapter.model
    with torch.no_grad():
        whole = scope.adapter.answer(pixels)
        drops = []
        for layer, block in enumerate(scope.attention(photo).blocks):
            heads = block.shape[1]
            for head in range(heads):
                scope.adapter.model = oracles.without_head(model, projection_of(model, name, layer), head, heads)
                drops.append(float(score(whole, whole) - score(scope.adapter.answer(pixels), whole)))
                scope.adapter.model = model
    return np.array(drops)


BY_TRACE = {row.name for row in zoo_traced.ROWS}


def predicted(answer, whole):
    return answer[0, whole[0].argmax()]


def likeness(answer, whole):
    a, b = (x.mean(1) if x.ndim == 3 else x for x in (answer, whole))
    return (a * b).sum() / (a.norm() * b.norm())


@pytest.mark.parametrize("name", PROJECTIONS)
@pytest.mark.parametrize("batch_size", [3, 64])
def test_importance_is_what_a_projection_without_the_head_gives(name, batch_size):
    scope, photo = scope_of(name), photo_of(name)
    found = scope.statistics(photo, importance=True, batch_size=batch_size)
    classifies = "feature" not in found.target
    twin = importance_twin(scope, name, photo, predicted if classifies else likeness)
    got = np.concatenate([layer.importance for layer in found.layers])
    assert np.abs(twin).max() > 1e-6
    np.testing.assert_allclose(got, twin, rtol=1e-6, atol=1e-12)
    assert classifies or found.score == pytest.approx(1)


def test_windows_are_silenced_one_head_at_a_time():
    """Swin: pictures and windows share an axis; heads differ from layer to layer."""
    scope, photo = scope_of("timm-swin"), photo_of("timm-swin")
    found = scope.statistics(photo, importance=True)
    pixels, _ = scope.adapter.prepare(load_image(photo))
    model, answer = scope.adapter.model, scope.adapter.answer
    with torch.no_grad():
        whole = answer(pixels[None].double())
        for layer in found.layers:
            drops = []
            for head in range(layer.heads):
                scope.adapter.model = oracles.without_head(model, f"{layer.name}.proj", head, layer.heads)
                drops.append(float(predicted(whole, whole) - predicted(answer(pixels[None].double()), whole)))
                scope.adapter.model = model
            assert np.abs(drops).max() > 1e-4
            np.testing.assert_allclose(layer.importance, drops, rtol=0, atol=1e-12)
    assert len({layer.heads for layer in found.layers}) > 1


def test_importance_follows_its_target(tiny_scope, photo):
    first, second, contrast = (
        tiny_scope.statistics(photo, importance=True, target=target) for target in ("tabby", 2, "tabby - teapot")
    )
    assert (first.target, second.target, contrast.target) == ("tabby", "teapot", "tabby - teapot")
    for a, b, both in zip(first.layers, second.layers, contrast.layers, strict=True):
        np.testing.assert_allclose(both.importance, a.importance - b.importance, rtol=0, atol=1e-5)
        assert np.abs(a.importance - b.importance).max() > 1e-3


def test_a_cosine_keeps_its_digits_in_half_precision():
    """bfloat16 has no number between 0.996 and 1: scores are made in float32 from the model's own answer."""
    scope = row_of("hf-clip-vision").scope(row_of("hf-clip-vision").model().bfloat16())
    found = scope.statistics(photo_of("hf-clip-vision"), importance=True)
    assert found.score == pytest.approx(1, abs=1e-5)
    steps = np.concatenate([layer.importance for layer in found.layers]) * 256
    assert np.abs(steps - steps.round()).max() > 0.02


def test_progress_of_importance(tiny_scope, photo):
    told = []
    tiny_scope.statistics(photo, importance=True, batch_size=1, progress=lambda *step: told.append(step))
    assert told == [("importance", done, 6) for done in range(1, 7)]


def test_a_call_that_is_not_made_is_said():
    model, x = two_layers("fused")
    with pytest.raises(MethodError, match="was not made"), scale_heads(model, CallSite(7, 1), torch.ones(4, 3)):
        model(x)


def test_importance_needs_to_know_the_calls():
    scorer = Scorer(["anything"], lambda answer, _: answer.sum(-1))
    with pytest.raises(MethodError, match="not known which attention calls"):
        head_importance(dense(torch.eye(5)[None]), nn.Identity(), torch.zeros(1, 3, 4, 4), scorer, lambda x: x)


def test_weights_that_do_not_fit_are_said():
    model, x = two_layers("fused")
    for weights in (torch.ones(4, 5), torch.ones(3, 3)):
        with pytest.raises(MethodError, match="is not that of"), scale_heads(model, CallSite(0, 1), weights):
            model(x)
    assert torch._C._len_torch_function_stack() == 0


def test_heads_that_are_mixed_with_the_values_are_refused():
    class Mixed(nn.Module):
        def forward(self, x):
            a = (x @ x.mT)[:, None].expand(-1, 2, -1, -1).softmax(-1)
            return torch.einsum("bhij,bjd->bid", a, x)

    model, x = Mixed(), torch.randn(1, 4, 6)
    with capture(model) as store_of:
        model(x)
    with (
        pytest.raises(MethodError, match="cannot be silenced"),
        scale_heads(model, store_of().calls[0], torch.zeros(1, 2)),
    ):
        model(x)


# models whose layers see different tokens


@pytest.mark.parametrize("name", ["timm-swin", "hf-pvt-v2", "timm-pit", "timm-maxvit"])
def test_layers_in_their_own_tokens(name):
    """Entropy and agreement are those of the rows that the layer has; the rest is refused by name, not guessed."""
    scope, photo = scope_of(name), photo_of(name)
    store, found = scope.attention(photo), scope.statistics(photo)
    assert store.chain is not None
    for block, layer in zip(store, found.layers, strict=True):
        windows = block.rows()
        assert (layer.heads, layer.queries, layer.keys) == windows.shape[1:]
        close(layer.entropy, np.mean([oracles.entropy(a) for a in windows], 0))
        close(layer.entropy_normalised, np.mean([oracles.entropy(a) for a in windows], 0) / math.log(layer.keys))
        if layer.heads == 1:
            assert layer.agreement is None
        else:
            close(layer.agreement, np.mean([oracles.agreement(a) for a in windows], 0))
        assert layer.shares == {}
        assert layer.sinks == ()
        unknown = (layer.distance, layer.distance_photo, layer.readout_entropy, layer.received, layer.norms)
        assert (*unknown, layer.effective_rank) == (None,) * 6
    refused = {"distance", "shares", "received", "sinks", "norms", "readout_entropy", "effective_rank", "importance"}
    assert set(found.withheld) == refused
    assert "do not all see the same tokens" in found.withheld["distance"]
    with pytest.raises(UsageError, match="distance is not known: its layers do not all see the same tokens"):
        found.by_head("distance")
    with pytest.raises(UsageError, match="self is not known: its layers do not all see the same tokens"):
        found.by_head("self")
    assert found.plot().size[0] > 100
    json.dumps(found.to_dict(), allow_nan=False)


# the record


@pytest.fixture(scope="module")
def one(tiny_scope, photo):
    return tiny_scope.statistics(photo, importance=True)


def test_the_record_is_frozen_and_says_where_it_is_from(one, photo):
    with pytest.raises(FrozenInstanceError):
        one.score = 1
    assert one.provenance["source"] == str(photo)
    assert one.provenance["seed"] == 0
    assert set(one.provenance["versions"]) == {"vitscope", "python", "torch", "transformers", "numpy"}
    assert not {"target", "caveat", "gradient", "options"} & set(one.provenance)
    assert one.region.size == (451, 300)
    assert one.withheld == {}


def test_every_figure_is_repeatable_to_the_digit(tiny_scope, photo, one):
    again = tiny_scope.statistics(photo, importance=True)
    assert json.dumps(again.to_dict()) == json.dumps(one.to_dict())


def test_the_table_has_a_row_for_each_head(one):
    rows = one.rows()
    assert [(row["layer"], row["head"]) for row in rows] == [(layer, head) for layer in range(3) for head in range(2)]
    for row in rows:
        layer = one.layers[row["layer"]]
        assert row["module"] == layer.name
        assert row["distance"] == layer.distance[row["head"]]
        assert row["importance"] == layer.importance[row["head"]]
        assert row["share_other_patches"] == layer.shares["other patches"][row["head"]]
        assert row["effective_rank"] == layer.effective_rank
    assert len({tuple(row) for row in rows}) == 1


def test_json_holds_everything(one, tmp_path):
    path = one.save(tmp_path / "new" / "dog.json")
    kept = json.loads(path.read_text("utf-8"))
    assert kept == json.loads(json.dumps(one.to_dict()))
    assert kept["schema"] == 1
    assert kept["layers"][1]["entropy"] == one.layers[1].entropy.tolist()
    assert kept["layers"][1]["received"] == one.layers[1].received.tolist()
    assert kept["layout"]["grid"] == [4, 4]
    assert [p.name for p in path.parent.iterdir()] == ["dog.json"]


def test_a_file_that_is_there_is_not_replaced(one, tmp_path):
    path = one.save(tmp_path / "a.json")
    path.write_text("mine")
    with raises(ResultError, "files.already-there"):
        one.save(path)
    assert path.read_text() == "mine"
    one.save(path, force=True)
    assert json.loads(path.read_text())["kind"] == "attention statistics"
    (tmp_path / "folder.json").mkdir()
    with raises(ResultError, "files.already-there"):
        one.save(tmp_path / "folder.json", force=True)
    with raises(ResultError, "files.not-written"):
        one.save(path / "below.json")


def test_other_endings_are_refused(one, tmp_path):
    with pytest.raises(UsageError, match=r"\.json or \.parquet, not '\.csv'"):
        one.save(tmp_path / "a.csv")


def test_parquet_without_pyarrow_names_the_extra(one, tmp_path, monkeypatch):
    monkeypatch.setattr(table_files, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"vitscope\[batch\]"):
        one.save(tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []


def test_parquet_holds_the_table(one, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(one.save(tmp_path / "a.parquet"))
    assert table.to_pylist() == one.rows()
    about = json.loads(table.schema.metadata[b"vitscope"])
    assert about["provenance"]["model"] == one.provenance["model"]


def test_numbers_by_name(one):
    assert [list(values) for values in one.by_head("entropy")] == [list(layer.entropy) for layer in one.layers]
    assert [list(values) for values in one.by_head("self")] == [list(layer.shares["self"]) for layer in one.layers]
    with pytest.raises(UsageError, match="no statistic 'norms'"):
        one.by_head("norms")


def test_what_was_not_asked_for_is_said(tiny_scope, photo):
    found = tiny_scope.statistics(photo)
    assert (found.target, found.score) == (None, None)
    with pytest.raises(UsageError, match="importance is not known: it was not asked for"):
        found.by_head("importance")
    assert {row["importance"] for row in found.rows()} == {None}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": "tabby"}, UsageError, "a target changes nothing but importance"),
        ({"target": "cat", "importance": True}, UnknownNameError, "no class is called 'cat'"),
        ({"target": ["tabby", 2], "importance": True}, UsageError, "one target at a time"),
        ({"size": 3}, UsageError, "size is between"),
        ({"batch_size": 0}, UsageError, "batch_size is at least 1"),
    ],
)
@pytest.mark.usefixtures("as_shipped")
def test_wrong_usage(tiny_scope, photo, options, error, message):
    with pytest.raises(error, match=message):
        tiny_scope.statistics(photo, **options)


def test_a_picture_that_is_not_there(tiny_scope):
    with pytest.raises(ImageError):
        tiny_scope.statistics("nowhere.png")


def test_attention_that_is_not_finite_is_refused():
    a = torch.full((1, 5, 5), float("nan"))
    with pytest.raises(MethodError, match="layer 0 holds NaN"):
        measured(dense(a))


def test_model_and_map_stay_as_they_were(tiny_folder, photo):
    import vitscope

    scope = vitscope.load(tiny_folder)
    scope.model.train()
    list(scope.model.parameters())[3].requires_grad_(False)

    def state():
        return {
            name: (
                module.training,
                *(len(getattr(module, hooks)) for hooks in sorted(vars(module)) if "hooks" in hooks),
                tuple((p.requires_grad, p.grad is None, p._version) for p in module.parameters(recurse=False)),
            )
            for name, module in scope.model.named_modules()
        }

    explained = scope.explain(photo, method="rollout")
    before, weights = state(), {k: v.clone() for k, v in scope.model.state_dict().items()}
    scope.statistics(photo, importance=True)
    assert state() == before
    assert all(torch.equal(v, weights[k]) for k, v in scope.model.state_dict().items())
    assert scope.explain(photo, method="rollout").map.tobytes() == explained.map.tobytes()
    assert torch._C._len_torch_function_stack() == 0


# pictures


def test_the_plot_has_a_dot_for_each_head():
    """Two heads in two layers: of each head's colour there are two dots, as high as their values are."""
    from matplotlib import colormaps
    from scipy import ndimage

    values = [np.array([10.0, 20.0]), np.array([30.0, 5.0])]
    pixels = np.asarray(by_depth([Panel("distance", "pixels", values)])).astype(int)
    heights = {}
    for head, share in enumerate((0.1, 0.85)):
        near = np.abs(pixels - np.array(colormaps["viridis"](share)[:3]) * 255).max(-1) <= 2
        dots, count = ndimage.label(near)
        assert count == 2
        centres = ndimage.center_of_mass(near, dots, [1, 2])
        for layer, (y, _) in enumerate(sorted(centres, key=lambda centre: centre[1])):
            heights[float(values[layer][head])] = y
    slope = (heights[5] - heights[30]) / 25
    for value, y in heights.items():
        assert heights[5] - y == pytest.approx(slope * (value - 5), abs=1.5)


def test_nothing_to_draw_is_said():
    with pytest.raises(UsageError, match="nothing to draw"):
        by_depth([])


def test_the_plot_draws_what_is_known(one, tiny_scope, photo, monkeypatch):
    assert np.asarray(one.plot()).std() > 10
    monkeypatch.setattr("vitscope.render.plots.by_depth", lambda panels, title: panels)
    drawn = one.plot()
    assert [panel.title for panel in drawn] == [
        "mean attention distance",
        "entropy of attention rows",
        "importance of heads",
        "effective rank of rollout",
    ]
    assert drawn[2].unit == f"score drop ({one.target})"
    assert [list(values) for values in drawn[0].values] == [list(layer.distance) for layer in one.layers]
    assert drawn[1].limits == [math.log(17)] * 3
    assert len(tiny_scope.statistics(photo).plot()) == 3


def test_every_number_is_in_the_document():
    page = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text("utf-8")
    names = {field.name for field in fields(Layer)} - {"name", "queries", "keys", "shares"}
    for name in names | {f'shares["{share}"]' for share in SHARES}:
        assert f"\n| `{name}` |" in page, name


@pytest.mark.weights
def test_real_attention_on_a_real_photo():
    """What is known of DINO-like ViTs: early heads differ in reach, rollout loses rank with depth, CLS is a sink."""
    from skimage import data

    import vitscope

    found = vitscope.load().statistics(data.astronaut(), size=224)
    assert isinstance(found, Statistics)
    ranks = [layer.effective_rank for layer in found.layers]
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[0] > 0.9 * 257
    assert ranks[-1] < 20
    early = found.by_head("distance")[1]
    assert early.max() > 1.5 * early.min()
    assert "cls" in [sink.name for sink in found.sinks]
