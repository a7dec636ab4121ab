"""Attention in numbers: against slow twins written from the papers, and by hand."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.errors import raises
from tests.helpers.statistics import NAMES, UNKNOWN, close, dense, each_chunk, measured, photo_of, row_of, scope_of
from tests.models import toys as zoo
from tests.oracles import attention_statistics as oracles
from vitscope.attention import AttentionStore, Dense
from vitscope.attention.capture import capture
from vitscope.errors import UsageError
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.images import load_image
from vitscope.metrics import effective_rank as rank_module
from vitscope.metrics import head_kinds as kinds_module
from vitscope.metrics.attention_statistics import SHARES, Statistics
from vitscope.metrics.effective_rank import effective_rank
from vitscope.metrics.head_kinds import NUMBERS
from vitscope.models.transformers.adapter import TransformersAdapter


@pytest.fixture(scope="module", params=NAMES)
def seen(request):
    """A store, its frame, the library's own eager attention `(H, N, N)` a layer, the readout row, and the row."""
    row = row_of(request.param)
    adapter, pixels = TransformersAdapter(row.model().double(), weights="none"), zoo.pixels(row).double()
    with torch.no_grad(), capture(adapter.model) as captured:
        answer = adapter.answer(pixels)
    store = adapter.attention(captured, row.size, answer)
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


# the twins


@pytest.mark.spread
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
    assert "between its blocks" in found.unavailable["norms"]


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
    assert found.unavailable["norms"] == UNKNOWN


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


@pytest.mark.slow
def test_effective_rank_is_refused_for_many_tokens_and_only_it():
    n = 651
    found = measured(dense(torch.full((1, n, n), 1 / n), prefix=("cls",), grid=(26, 25)))
    assert found.layers[0].effective_rank is None
    assert found.unavailable["effective_rank"].startswith("the effective rank needs whole matrices: 651 tokens")
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
    """With chunks of four queries, no tensor that is made comes near one head's N x N, but rows of the asking patches.

    These are 128 or a few more, however many tokens there are.
    """

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

    monkeypatch.setattr(rank_module, "MAX_TOKENS", 100)
    n = 401
    a = torch.rand(1, 2, n, n).softmax(-1)
    store = AttentionStore((Rows("one", a, chunk=4),), TokenLayout(("cls",), (20, 20)))
    with Largest():
        measured(store)
    assert Largest.most == 2 * 134 * n
    Largest.most = 0
    monkeypatch.setattr(kinds_module, "_ASKED", 4)
    with Largest():
        measured(store)
    assert 2 * 4 * n <= Largest.most <= 2 * 6 * n
    with Largest():
        store[0].rows()
    assert Largest.most >= n * n


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
    refused |= {"kinds", *NUMBERS}
    assert set(found.unavailable) == refused
    assert found.unavailable["distance"].code == "metrics.layers-differ"
    with raises(UsageError, "metrics.unavailable"):
        found.by_head("distance")
    with raises(UsageError, "metrics.unavailable"):
        found.by_head("self")
    assert found.plot().size[0] > 100
    json.dumps(found.to_dict(), allow_nan=False)


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
