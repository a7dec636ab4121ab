"""Gradient methods against dense float64 twins on the library's own eager attention (whose softmax is float32)."""

import numpy as np
import pytest
import torch

import vitscope
from tests.helpers.errors import raises
from tests.models import toys as zoo
from vitscope.attention.capture import capture
from vitscope.attention.model_modes import frozen_parameters
from vitscope.errors import MethodError, UnknownNameError, UsageError
from vitscope.images import Picture
from vitscope.methods.attention_gradient import attention_gradcam, grad_rollout, grad_sam, relevance
from vitscope.methods.targets import scorer_of
from vitscope.models.transformers.adapter import TransformersAdapter
from vitscope.scope import Scope

NAMES = ["vit", "vit-wide", "deit-teacher", "dinov2-registers", "ijepa", "beit"]


def row_of(name):
    return next(row for row in zoo.ROWS if row.name == name)


def scored(answer):
    """Class 1 of a classifier, else how far the (mean) feature goes in one direction."""
    if answer.shape[-1] == 5:
        return answer[:, 1]
    feature = answer.mean(1) if answer.ndim == 3 else answer
    return feature @ torch.linspace(-1, 2, feature.shape[-1], dtype=feature.dtype)


def store_of(name, batch=2):
    """A differentiated store in float64, and its layout."""
    row = row_of(name)
    adapter = TransformersAdapter(row.model().double(), weights="none")
    pixels = zoo.pixels(row, batch).double().requires_grad_()
    with frozen_parameters(adapter.model), capture(adapter.model, gradients=True) as seen:
        answer = adapter.answer(pixels)
    store = adapter.attention(seen, row.size, answer)
    return store.differentiate(scored(answer), last=False), store


def dense_of(name, batch=2):
    """Attention and its gradient, `(B, H, N, N)` a layer, from the library's eager path and autograd."""
    row = row_of(name)
    model = row.model().double()
    model.set_attn_implementation("eager")
    adapter = TransformersAdapter(model, weights="none")
    run, kept = adapter.run, {}

    def eager(pixels):
        other = tuple(pixels.shape[2:]) != adapter.input_size
        output = model(
            pixel_values=pixels, output_attentions=True, **({"interpolate_pos_encoding": True} if other else {})
        )
        kept["attentions"] = output.attentions
        for attention in output.attentions:
            attention.retain_grad()
        return output

    adapter.run = eager
    answer = adapter.answer(zoo.pixels(row, batch).double())
    scored(answer).sum().backward()
    adapter.run = run
    layout = adapter.layout(row.size)
    attentions = [a.detach().numpy() for a in kept["attentions"]]
    return attentions, [a.grad.numpy() for a in kept["attentions"]], layout.readout().astype(np.float64)


def dense_relevance(attentions, grads, readout):
    size = attentions[0].shape[-1]
    result = np.eye(size)[None].repeat(len(attentions[0]), 0)
    for a, g in zip(attentions, grads, strict=True):
        result = result + np.maximum(a * g, 0).mean(1) @ result
    return readout @ result


def dense_grad_rollout(attentions, grads, readout):
    size = attentions[0].shape[-1]
    result = np.eye(size)[None].repeat(len(attentions[0]), 0)
    for a, g in zip(attentions, grads, strict=True):
        step = np.eye(size) + np.maximum(a * g, 0).mean(1)
        result = step / step.sum(-1, keepdims=True) @ result
    return readout @ result


def dense_grad_sam(attentions, grads, readout):
    return np.mean([(a * np.maximum(g, 0)).mean((1, 2)) for a, g in zip(attentions, grads, strict=True)], 0)


def dense_attention_gradcam(attentions, grads, readout):
    rows, slopes = (np.einsum("i,bhij->bhj", readout, x[-1]) for x in (attentions, grads))
    return np.maximum((slopes.mean(-1, keepdims=True) * rows).sum(1), 0)


PAIRS = [
    (relevance, dense_relevance),
    (grad_rollout, dense_grad_rollout),
    (grad_sam, dense_grad_sam),
    (attention_gradcam, dense_attention_gradcam),
]


@pytest.mark.spread
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].__name__)
@pytest.mark.parametrize("name", NAMES)
def test_each_method_is_its_dense_twin(name, pair):
    method, dense = pair
    expected = dense(*dense_of(name))
    store, _ = store_of(name)
    for chunk in (1, 7, store[0].shape[2]):
        np.testing.assert_allclose(method(store.in_chunks(chunk)).numpy(), expected, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_attention_is_autograds(name):
    _, grads, _ = dense_of(name)
    store, _ = store_of(name)
    for block, expected in zip(store, grads, strict=True):
        np.testing.assert_allclose(block.grad_rows(slice(None)).numpy(), expected, rtol=1e-5, atol=1e-10)


def test_relevance_on_a_plain_vit_is_the_same_through_the_chain():
    from vitscope.attention import AttentionStore
    from vitscope.models.traced import TracedAdapter
    from vitscope.tracing.chain import graph_outputs, operator_chain

    row = row_of("vit")
    adapter = TransformersAdapter(row.model().double(), weights="none")
    found = TracedAdapter.trace(adapter)
    pixels = zoo.pixels(row, 2).double().requires_grad_()
    with frozen_parameters(adapter.model), capture(adapter.model, gradients=True) as seen:
        answer = adapter.answer(pixels)
    chain = operator_chain(adapter.answer, adapter.model, (2, 3, *row.size), found, seen.recorded_calls)
    sources = graph_outputs(found, seen.recorded_calls)
    store = AttentionStore(chain.blocks, found.layout, None, None, chain, None, answer, sources)
    expected, _ = store_of("vit")
    got = relevance(store.differentiate(scored(answer)))
    np.testing.assert_allclose(got.numpy(), relevance(expected).numpy(), rtol=1e-5)


def test_several_scores_of_one_forward():
    _, store = store_of("vit")
    each = [relevance(store.differentiate(store.answer[:, c], last=c == 4)) for c in range(5)]
    contrast, fresh = relevance(each_store := store_of("vit")[0]), store_of("vit")[1]
    assert not torch.allclose(each[0], each[2])
    torch.testing.assert_close(each[1], contrast)
    assert each_store.answer is not fresh.answer


def test_a_store_without_its_graph_says_so():
    row = row_of("vit")
    model = row.model()
    with torch.no_grad(), capture(model) as seen:
        model(zoo.pixels(row))
    with raises(MethodError, "attention.no-graph"):
        seen.attention.differentiate(torch.ones(1))
    with raises(MethodError, "attention.no-gradient"):
        seen.attention[0].grad_rows(slice(None))


def scope(name="vit"):
    model = row_of(name).model()
    if name == "vit":
        model.config.id2label = {0: "tench", 1: "tabby, tabby cat", 2: "tiger", 3: "kite", 4: "ant"}
    return Scope(TransformersAdapter(model, weights="none"), torch.device("cpu"), torch.float32)


def photo(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (40, 30, 3), dtype=np.uint8)


class TestTargets:
    def test_a_class_by_number_name_or_synonym_is_the_same(self):
        s = scope()
        maps = [s.explain(photo(), method="relevance", target=t) for t in (1, "1", "tabby", "Tabby Cat")]
        assert all(np.array_equal(maps[0].map, e.map) for e in maps)
        assert {e.target for e in maps} == {"tabby, tabby cat"}
        other = s.explain(photo(), method="relevance", target="tiger")
        assert not np.allclose(other.map, maps[0].map)

    def test_the_default_is_the_predicted_class(self):
        e = scope().explain(photo(), method="relevance")
        assert e.target == e.predictions[0][0]
        assert e.score is not None

    def test_a_contrast_is_the_difference_of_scores(self):
        s = scope()
        one, two, both = (s.explain(photo(), method="relevance", target=t) for t in ("tench", "tiger", "tench - tiger"))
        assert both.score == pytest.approx(one.score - two.score, abs=1e-5)

    def test_an_unknown_class_names_the_nearest(self):
        with raises(UnknownNameError, "errors.unknown-name", "errors.unknown-name.meant"):
            scope().explain(photo(), method="relevance", target="tigr")
        with raises(UsageError, "methods.no-such-class", "methods.no-such-class.hint"):
            scope().explain(photo(), method="relevance", target=9)
        with raises(UsageError, "methods.no-classes"):
            scope("dinov2").explain(photo(), method="relevance", target="tiger", size=28)

    def test_a_feature_model_is_explained_by_its_own_norm_or_likeness(self):
        s = scope("dinov2")
        own = s.explain(photo(), method="relevance", size=28)
        assert "norm" in own.target
        same = s.explain(photo(1), method="token-removal", target=vitscope.similar_to(photo(1)))
        assert same.score == pytest.approx(1, abs=1e-4)
        away = s.explain(photo(1), method="relevance", target=vitscope.similar_to(photo(2)))
        assert away.score < same.score

    def test_a_function_of_the_answer(self):
        s = scope()
        e = s.explain(photo(), method="relevance", target=lambda logits: logits[:, 2])
        np.testing.assert_array_equal(e.map, s.explain(photo(), method="relevance", target=2).map)
        with raises(UsageError, "methods.target-function-shape"):
            s.explain(photo(), method="relevance", target=lambda logits: logits)

    def test_a_class_agnostic_method_says_that_the_target_changes_nothing(self):
        s = scope()
        e = s.explain(photo(), method="rollout", target="tiger")
        assert any("changes nothing" in note for note in e.provenance["notes"])
        assert e.target is None

    def test_the_score_is_a_number_of_each_picture(self):
        answer = torch.tensor([[1.0, 2.0], [4.0, 3.0]])
        scorer = scorer_of(None, answer, {0: "a", 1: "b"}, True)
        assert scorer(answer).tolist() == [2, 4]
        assert scorer.words == ["b", "a"]

    def test_a_settled_target_stays_when_pictures_change(self):
        scorer = scorer_of(None, torch.tensor([[1.0, 2.0], [4.0, 3.0]]), {}, True)
        changed = torch.tensor([[9.0, 1.0], [5.0, 6.0], [7.0, 8.0]])
        assert scorer(changed, torch.tensor([0, 0, 1])).tolist() == [1, 6, 7]


def test_a_batch_is_its_singles():
    s = scope()
    pictures = [photo(1), photo(2), photo(3)]
    for method in ("relevance", "grad-rollout", "grad-sam", "attention-gradcam"):
        for one, e in zip(pictures, s.explain(pictures, method=method), strict=True):
            alone = s.explain(one, method=method)
            np.testing.assert_allclose(e.map, alone.map, rtol=1e-4, atol=1e-6)
            assert e.target == alone.target


def test_the_model_is_left_as_it_was():
    s = scope()
    before = {name: p.detach().clone() for name, p in s.model.named_parameters()}
    next(s.model.parameters()).requires_grad_(False)
    wanted = [p.requires_grad for p in s.model.parameters()]
    s.explain(Picture(photo()), method="relevance")
    assert [p.requires_grad for p in s.model.parameters()] == wanted
    assert all(p.grad is None for p in s.model.parameters())
    assert all(torch.equal(before[name], p) for name, p in s.model.named_parameters())
