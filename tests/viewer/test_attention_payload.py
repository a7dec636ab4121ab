"""The attention of a page beside the model's own, decoded in float64 by what docs/viewer.md says of it."""

import numpy as np
import pytest
import torch

from vitscope.attention import AttentionStore, Dense, Factored
from vitscope.viewer.attention_payload import RoundedLayer, pack_attention, supports_rows


def block(n=90, heads=3, width=16, sharp=2.0, bias=None, seed=0):
    torch.manual_seed(seed)
    q, k = (torch.randn(1, heads, n, width) * sharp for _ in range(2))
    return Factored("block", q, k + 5, width**-0.5, bias)


def true_rows(one):
    """Rows in float64, from the keys as they are."""
    scores = np.einsum("hid,hjd->hij", one.q[0].double().numpy(), one.k[0].double().numpy()) * one.scale
    rows = np.exp(scores - scores.max(-1, keepdims=True))
    return rows / rows.sum(-1, keepdims=True)


def as_documented(sent, number):
    q, k, weight, lse = (sent.arrays[f"{name}.{number}"].array() for name in ("q", "k", "weight", "lse"))
    q, k = ((of.astype(np.int64) >> 1) ^ -(of.astype(np.int64) & 1) for of in (q, k))
    scores = np.einsum("hd,hdi,hdj->hij", weight.astype(np.float64), q, k)
    return np.exp(scores - lse.astype(np.float64)[..., None])


def errors(true, made):
    top = np.argsort(-true, axis=-1)[..., :20]
    return np.abs(np.take_along_axis(made, top, -1) / np.take_along_axis(true, top, -1) - 1)


@pytest.mark.parametrize("error", [0.001, 0.01, 0.1])
def test_scores_are_as_far_off_as_asked(error):
    one = block()
    true = np.log(true_rows(one))
    off = RoundedLayer.of(one, error).scores().double().numpy() - true
    off -= off.mean(-1, keepdims=True)  # of no consequence in a softmax
    assert np.sqrt(np.square(off).mean()) == pytest.approx(error, rel=0.1)


@pytest.mark.parametrize(("n", "width", "sharp"), [(90, 16, 2.0), (300, 32, 1.0), (7, 16, 1.0), (200, 64, 4.0)])
def test_what_the_page_computes_is_the_models_own_attention(n, width, sharp):
    store = AttentionStore(tuple(block(n, width=width, sharp=sharp) for _ in range(2)))
    sent = pack_attention(store, 1e9)
    assert sent.error["score"] == 0.0015
    for number, one in enumerate(store):
        true, made = true_rows(one), as_documented(sent, number)
        np.testing.assert_allclose(made.sum(-1), 1, rtol=1e-4)
        single, mean = errors(true, made), errors(true.mean(0), made.mean(0))
        assert max(single.max(), mean.max()) < 0.02
        assert sent.error["head_max"] == pytest.approx(single.max(), rel=1e-2)
        assert sent.error["mean_max"] == pytest.approx(mean.max(), rel=1e-2)
        assert sent.error["head_rms"] == pytest.approx(np.sqrt(np.square(single).mean()), rel=1e-2)


def test_a_query_far_beyond_the_others_costs_them_nothing():
    """Its numbers need more than 16 bits."""
    one = block(n=400)
    one.q[..., 7, :] *= 1000
    sent = pack_attention(AttentionStore((one,)), 1e9)
    assert sent.arrays["q.0"].array().max() > 2**16
    others = np.arange(400) != 7
    assert errors(true_rows(one)[:, others], as_documented(sent, 0)[:, others]).max() < 0.02


def test_columns_that_say_nothing_take_no_room():
    full, thin = block(), block()
    thin = Factored("thin", thin.q * torch.linspace(1, 0, 16) ** 8, thin.k, thin.scale)
    sizes = [pack_attention(AttentionStore((one,)), 1e9).nbytes for one in (full, thin)]
    assert sizes[1] < 0.7 * sizes[0]


def test_keys_that_are_all_alike_are_attended_to_alike():
    one = block(n=30)
    one = Factored("alike", one.q, one.k[:, :, :1].expand(-1, -1, 30, -1), one.scale)
    sent = pack_attention(AttentionStore((one,)), 1e9)
    np.testing.assert_allclose(as_documented(sent, 0), 1 / 30, rtol=1e-5)


def test_precision_goes_before_layers_and_the_first_layers_before_the_last():
    store = AttentionStore(tuple(block(n=300, width=32, seed=seed) for seed in (2, 1, 0)))
    fine = pack_attention(store, 1e9)
    assert fine.dropped == ()
    coarse = pack_attention(store, fine.nbytes * 0.85)
    assert coarse.dropped == ()
    assert coarse.nbytes <= fine.nbytes * 0.85
    assert fine.error["score"] < coarse.error["score"] < 0.048
    assert fine.error["head_max"] < coarse.error["head_max"]
    worst = [errors(true_rows(one), as_documented(coarse, number)).max() for number, one in enumerate(store)]
    assert coarse.error["head_max"] == pytest.approx(max(worst), rel=1e-2)
    few = pack_attention(store, fine.nbytes * 0.3)
    assert few.nbytes <= fine.nbytes * 0.3
    assert few.dropped == (0, 1)
    assert [layer["rows"] for layer in few.layers] == [False, False, True]
    assert not [name for name in few.arrays if not name.endswith(".2")]
    none = pack_attention(store, 10)
    assert (none.dropped, none.arrays, none.error) == ((0, 1, 2), {}, {})


def test_what_queries_and_keys_do_not_give_is_left_out():
    assert supports_rows(AttentionStore((block(),)))
    assert "bias" in supports_rows(AttentionStore((block(bias=torch.randn(1, 3, 90, 90)),))).reason
    assert not supports_rows(AttentionStore((Dense("d", block().rows()),)))
