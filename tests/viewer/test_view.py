"""What a page carries, without a browser: packed arrays, factored attention, the document, the command."""

import importlib
import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import vitscope
from tests.models import toys as zoo
from vitscope.attention import AttentionStore, Dense, Factored
from vitscope.errors import MethodError
from vitscope.viewer.attention_payload import pack_attention, supports_rows
from vitscope.viewer.attention_quantisation import factorise, fit_queries, quantise, reconstruct_rows
from vitscope.viewer.map_entries import full_entry
from vitscope.viewer.packed import Packed, scaled, zigzag
from vitscope.viewer.page import page_bytes
from vitscope.viewer.score_corrections import ScoreCorrections, find_corrections, reconstruction_error


@given(st.sampled_from(["uint8", "uint16", "float16", "float32"]), st.integers(0, 300), st.integers(0, 9))
def test_packed_arrays_come_back_to_the_bit(dtype, count, seed):
    raw = np.random.default_rng(seed).integers(0, 256, count * np.dtype(dtype).itemsize).astype(np.uint8)
    values = raw.view(dtype)
    assert Packed.of(values).array().tobytes() == values.tobytes()


def test_zigzag_is_what_the_page_turns_back():
    values = np.array([0, -1, 1, -2, 32767, -32768])
    coded = zigzag(values).astype(np.int64)
    assert ((coded >> 1) ^ -(coded & 1)).tolist() == values.tolist()


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e6])
def test_scaled_maps_keep_float16s_precision(size):
    values = np.random.default_rng(0).random((5, 7)).astype(np.float32) * np.float32(size)
    half, scale = scaled(values)
    assert np.abs(half.astype(np.float64) * scale - values).max() <= size * 2**-11


def block(n=90, heads=3, width=16, sharp=2.0, bias=None):
    torch.manual_seed(0)
    q, k = (torch.randn(1, heads, n, width) * sharp for _ in range(2))
    return Factored("block", q, k + 5, width**-0.5, bias)


@pytest.mark.parametrize("error", [0.001, 0.01, 0.1])
def test_scores_are_as_far_off_as_asked(error):
    made = [quantise(head, error) for head in factorise(block())]
    b = block()
    true = torch.matmul(b.q[0] * b.scale, b.k[0].transpose(-1, -2)).double()
    true = true - true.mean(-1, keepdim=True)
    off = torch.stack([head.scores() for head in made]).double() - true
    assert float(off.square().mean().sqrt()) == pytest.approx(error, rel=0.1)


def test_columns_that_say_nothing_are_left_out():
    thin = block()
    thin = Factored("thin", thin.q * torch.linspace(1, 0, 16) ** 8, thin.k, thin.scale)
    assert all(len(quantise(head, 0.01).weight) < 12 for head in factorise(thin))


def test_rows_and_their_sums_are_the_models_own():
    b = block()
    made = [quantise(head, 0.001) for head in factorise(b)]
    torch.testing.assert_close(reconstruct_rows(made, range(90)), b.rows()[0], rtol=0.02, atol=1e-6)
    scores = torch.stack([head.scores() for head in made])
    told = reconstruction_error(b, made, ScoreCorrections.none())
    torch.testing.assert_close(torch.from_numpy(told.lse), scores.logsumexp(-1))
    top = b.rows()[0].topk(20, -1)
    off = (scores.softmax(-1).gather(-1, top.indices) / top.values - 1).abs()
    np.testing.assert_allclose(np.sort(told.single.ravel()), np.sort(off.numpy().ravel()), atol=1e-5)


def test_fitted_queries_have_their_largest_weights_nearer():
    b = block(n=400, width=32)
    true = b.rows()[0]
    top = true.topk(20, -1)
    off = []
    for fit in (False, True):
        made = [quantise(head, 0.03) for head in factorise(b)]
        made = [fit_queries(head, one) for head, one in zip(factorise(b), made, strict=True)] if fit else made
        drawn = reconstruct_rows(made, range(400)).gather(-1, top.indices)
        off.append(float((drawn / top.values - 1).square().mean().sqrt()))
    assert off[1] < 0.6 * off[0]


def test_precision_goes_before_layers_and_the_first_layers_before_the_last():
    store = AttentionStore(tuple(block() for _ in range(3)))
    fine = pack_attention(store, 1e9)
    assert fine.dropped == ()
    assert fine.error["score_rms"] == 0.002
    whole = sum(one.nbytes for one in fine.arrays.values())
    coarse = pack_attention(store, whole * 0.7)
    assert coarse.dropped == ()
    assert fine.error["mean_rms"] < coarse.error["mean_rms"] < 0.05
    few = pack_attention(store, whole * 0.25)
    assert few.dropped == (0, 1)
    assert [layer["rank"] is None for layer in few.layers] == [True, True, False]
    assert pack_attention(store, 10).dropped == (0, 1, 2)


def array(sent, name):
    return sent.arrays[name].array()


def bare(sent):
    return replace(sent, arrays={name: of for name, of in sent.arrays.items() if not name.startswith("correction")})


def as_documented(sent, number, tokens):
    """Rows and columns of one layer, in float64, from the arrays by what docs/viewer.md says of them."""
    q, k = (
        (of.astype(np.int64) >> 1) ^ -(of.astype(np.int64) & 1) for of in (array(sent, f"{x}.{number}") for x in "qk")
    )
    weight, at, column, scores = array(sent, f"weight.{number}").astype(np.float64), 0, 0, []
    for rank in sent.layers[number]["rank"]:
        left, right = (of[at : at + rank * tokens].reshape(rank, tokens) for of in (q, k))
        scores.append(np.einsum("d,di,dj->ij", weight[column : column + rank], left, right))
        at, column = at + rank * tokens, column + rank
    scores = np.stack(scores)
    if f"correction.row.{number}" in sent.arrays:
        head, query = np.divmod(np.cumsum(array(sent, f"correction.row.{number}").astype(np.int64)), tokens)
        scores[head, query, array(sent, f"correction.key.{number}")] += array(sent, f"correction.by.{number}")
    rows = np.exp(scores - scores.max(-1, keepdims=True))
    low, step = sent.layers[number]["lse"]
    columns = np.exp(scores - (low + step * array(sent, f"lse.{number}").astype(np.float64))[..., None])
    return rows / rows.sum(-1, keepdims=True), columns


def worst(true, made):
    top = np.argsort(-true, axis=-1)[..., :20]
    wanted = np.take_along_axis(true, top, -1)
    return np.abs(np.take_along_axis(made, top, -1) / wanted - 1).max()


def test_each_of_the_largest_weights_is_right_to_one_percent_where_factors_are_coarse():
    store = AttentionStore(tuple(block(n=300, width=32) for _ in range(2)))
    whole = sum(one.nbytes for one in pack_attention(store, 1e9).arrays.values())
    sent = pack_attention(store, 0.9 * whole)
    assert sum(one.nbytes for one in sent.arrays.values()) <= 0.9 * whole
    assert sent.error["corrected"] > 10
    assert sent.error["uncorrected"] == 0
    for number, of in enumerate(store):
        true = of.rows()[0].double().numpy()
        factors = bare(sent)
        assert worst(true, as_documented(factors, number, 300)[0]) > 0.01
        rows, columns = as_documented(sent, number, 300)
        assert worst(true, rows) < 0.01
        assert worst(true.mean(0), rows.mean(0)) < 0.01
        np.testing.assert_allclose(columns, rows, rtol=1e-3)
    assert sent.error["head_beyond"] == sent.error["mean_beyond"] == 0


def test_the_mean_over_heads_is_corrected_where_no_head_is_off_among_its_own():
    """Eight heads look at twenty tokens each, no two at the same; what the mean looks at is in none's own twenty."""
    torch.manual_seed(0)
    heads, n = 8, 200
    scores = torch.randn(heads, n, n) * 0.1 - 6
    scores[..., 160:180] = 0.6 + torch.randn(heads, n, 20) * 0.1
    for head in range(heads):
        scores[head, :, 20 * head : 20 * head + 20] = 1.5 + torch.randn(n, 20) * 0.1
    b = Factored("planted", scores[None], torch.eye(n).expand(1, heads, n, n), 1.0)
    made = [quantise(head, 0.05) for head in factorise(b)]
    bare, corrections = reconstruction_error(b, made, ScoreCorrections.none()), find_corrections(b, made)
    assert bare.mean.max() > 0.01
    own = {(row, key) for row, key in zip(corrections.row.tolist(), corrections.key.tolist(), strict=True) if key < 160}
    assert len(own) < len(corrections)
    assert reconstruction_error(b, made, corrections).mean.max() < 0.01
    assert reconstruction_error(b, made, corrections).single.max() < 0.01


def test_where_there_is_no_room_the_worst_weights_are_corrected_and_the_rest_is_counted():
    store = AttentionStore((block(n=300, width=32),))
    whole = sum(one.nbytes for one in pack_attention(store, 1e9).arrays.values())
    sent = pack_attention(store, 0.75 * whole)
    assert sum(one.nbytes for one in sent.arrays.values()) <= 0.75 * whole
    assert sent.error["corrected"] > 0
    assert sent.error["uncorrected"] > 0
    rows, _ = as_documented(sent, 0, 300)
    true = store[0].rows()[0].double().numpy()
    assert worst(true, rows) == pytest.approx(sent.error["head_max"], rel=1e-2)
    assert np.abs(array(sent, "correction.by.0")).min() > 0.01


def test_what_queries_and_keys_do_not_give_is_left_out():
    assert supports_rows(AttentionStore((block(),)))
    assert "bias" in supports_rows(AttentionStore((block(bias=torch.randn(1, 3, 90, 90)),))).reason
    assert not supports_rows(AttentionStore((Dense("d", block().rows()),)))


@pytest.fixture(scope="module")
def tiny_view(tiny_scope, photo):
    return tiny_scope.view(photo, measure=False)


def test_the_document_has_the_form_that_hosts_rely_on(tiny_view):
    document = json.loads(json.dumps(tiny_view.document(), allow_nan=False))
    header = document["header"]
    assert sorted(header) == sorted(
        [
            "schema",
            "kind",
            "vitscope",
            "model",
            "photo",
            "images",
            "region",
            "layout",
            "layers",
            "attention",
            "maps",
            "predictions",
            "activation",
            "statistics",
            "missing",
            "seed",
            "size",
            "command",
        ]
    )
    assert header["schema"] == 1
    assert sorted(header["maps"][0]) == sorted(
        [
            "id",
            "method",
            "options",
            "target",
            "label",
            "score",
            "scale",
            "prefix",
            "signed",
            "norm",
            "notes",
            "caveat",
            "source",
            "passes",
            "sums_to_one",
            "statistics",
            "command",
            "measurement",
            "steps",
            "alike",
        ]
    )
    assert sorted(header["layers"][0]) == ["heads", "lse", "name", "rank"]
    names = {"readout"} | {f"{kind}.{layer}" for kind in ("heads", "q", "k", "weight", "lse") for layer in range(3)}
    names |= {f"{kind}.{one['id']}" for kind in ("map", "order") for one in header["maps"]}
    assert set(document["arrays"]) == names
    assert sorted(document["arrays"]["readout"]) == ["data", "dtype", "encoding", "shape"]


def test_maps_are_the_methods_own(tiny_view, tiny_scope, photo):
    for entry in tiny_view.header["maps"]:
        options = {"target": entry["label"]} if entry["label"] else {}
        e = tiny_scope.explain(photo, method=entry["method"], **entry["options"], **options)
        drawn = tiny_view.arrays[f"map.{entry['id']}"].array().astype(np.float64) * entry["scale"]
        assert np.abs(drawn - e.map).max() <= 1e-3 * np.abs(e.map).max()


def test_the_readouts_heads_are_those_of_heads(tiny_view, tiny_scope, photo):
    for layer in range(3):
        made = tiny_view.arrays[f"heads.{layer}"].array() * tiny_view.header["attention"]["heads_scale"][layer]
        true = [e.map.ravel() for e in tiny_scope.attention_heads(photo, layer)]
        assert np.abs(made[:, 1:] - true).max() < 1e-3


def test_a_model_with_a_bias_has_its_maps_and_says_what_is_missing(photo):
    row = next(row for row in zoo.ROWS if row.name == "beit")
    made = vitscope.load(row.model(), processor=_processor(row.size)).view(photo, measure=False)
    assert any("bias" in one["why"] for one in made.header["missing"])
    assert "heads.0" in made.arrays
    assert not [name for name in made.arrays if name.startswith("q.")]
    assert len(page_bytes(made.document())) < 1_000_000


def _processor(size):
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": size[0], "width": size[1]})


def test_a_method_asked_for_by_name_must_apply(photo):
    row = next(row for row in zoo.ROWS if row.name == "beit")
    with pytest.raises(MethodError):
        vitscope.load(row.model(), processor=_processor(row.size)).view(photo, methods=("token-removal",))


def test_two_photos_are_one_page(tiny_scope, photo, tmp_path):
    other = tmp_path / "other.png"
    from PIL import Image

    Image.open(photo).rotate(20).save(other)
    made = tiny_scope.view(photo, other=other, methods=("attention",), top=0, measure=False)
    assert made.other is not None
    assert [one["alike"] for one in made.header["maps"]] == [False, True]
    assert [one["target"] for one in made.other.header["maps"]] == [None, f"similar to {photo}"]
    assert not [name for name in made.other.arrays if name.startswith("q.")]


def run(*words, command="view"):
    from vitscope.cli.main import app

    return CliRunner().invoke(app, [command, *map(str, words)])


@pytest.mark.parametrize(
    "asked",
    [
        {"method": "relevance", "gradient_rule": "libra", "target": "fox"},
        {"method": "relevance", "refine": "affinity", "target": vitscope.similar_to("PHOTO")},
        {"method": "random", "seed": 3, "size": 64},
    ],
)
def test_the_command_of_a_map_makes_it_again(tiny_scope, photo, tmp_path, asked):
    if "PHOTO" in str(asked.get("target")):
        asked = {**asked, "target": vitscope.similar_to(str(photo))}
    e = tiny_scope.explain(photo, **asked)
    words = shlex.split(full_entry(tiny_scope.engine, e)[0]["command"])
    done = run(*words[2:], "--out", tmp_path / "out", command=words[1])
    assert done.exit_code == 0, done.output
    again = vitscope.Explanation.load(tmp_path / "out" / "chelsea")
    np.testing.assert_allclose(again.map, e.map, rtol=1e-4, atol=1e-6 * np.abs(e.map).max())
    assert again.target == e.target


def test_the_command_names_a_size_only_where_it_changes_the_page(tiny_scope, photo, monkeypatch):
    def command(**options):
        made = tiny_scope.view(photo, methods=("rollout",), measure=False, **options)
        return made.header["command"]

    assert "--max-mb" not in command(max_mb=24.0)
    assert "--max-mb 2" in command(max_mb=2)
    monkeypatch.setattr(importlib.import_module("vitscope.viewer.view"), "MAX_MB", 0.2)
    assert "--max-mb 24" in command(max_mb=24.0)


def test_the_command_writes_a_page_and_says_what_is_in_it(tiny_folder, photo, tmp_path):
    out = tmp_path / "view.html"
    done = run(photo, "--model", tiny_folder, "-o", out, "--no-measure", "--methods", "attention,rollout", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["bytes"] == out.stat().st_size
    assert told["missing"] == [{"what": "measurement", "why": "measuring was switched off"}]
    assert "MB" in done.stderr
    assert out.read_bytes().startswith(b"<!doctype html>")
    again = run(photo, "--model", tiny_folder, "-o", out, "--no-measure")
    assert "already there" in str(again.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["view.html"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lang", "xx"], "language"),
        (["--max-mb", "0"], "max-mb"),
        (["--methods", "rolout"], "did you mean 'rollout'"),
    ],
)
def test_wrong_words_are_one_line(tiny_folder, photo, tmp_path, words, said):
    done = run(photo, "--model", tiny_folder, "-o", tmp_path / "x.html", "--no-measure", *words)
    assert said in str(done.exception)
    assert isinstance(done.exception, vitscope.VitscopeError)
