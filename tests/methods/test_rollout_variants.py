"""Flow, LeGrad, AttnLRP, rollout's variants, queries and refinement against dense float64 twins and other packages."""

import math

import networkx
import numpy as np
import pytest
import torch
from torch import nn

import vitscope
from tests.helpers.errors import raises
from tests.models import toys as zoo
from tests.models.toys import scope_of
from vitscope.errors import MethodError, UsageError
from vitscope.methods.base import METHODS
from vitscope.methods.refine import spread

PHOTOS = [np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8) for seed in range(3)]
WITH_A_SINK = np.random.default_rng(4).integers(0, 256, (40, 40, 3), dtype=np.uint8)  # for BEiT


def dense_of(scope, photo):
    """Attention (L, H, N, N), hidden states (L + 1, N, D) and the model, from the library's own eager path."""
    from vitscope.images import load_image

    pixels = scope.adapter.prepare(load_image(photo))[0][None].double()
    model = scope.model
    model.set_attn_implementation("eager")
    output = model(pixel_values=pixels, output_attentions=True, output_hidden_states=True)
    model.set_attn_implementation("sdpa")
    attentions = torch.stack(output.attentions)[:, 0].detach().double().numpy()
    return attentions, torch.stack(output.hidden_states)[:, 0].detach().double().numpy(), model


def all_values(e):
    return np.concatenate([e.prefix, e.map.ravel()])


def rolled(steps, readout, residual_weight=0.5):
    product = np.eye(steps[0].shape[-1])
    for a in steps:
        product = (residual_weight * np.eye(len(a)) + (1 - residual_weight) * a) @ product
    return readout @ product


@pytest.mark.parametrize("name", ["vit", "deit-teacher", "beit"])
class TestRolloutVariants:
    def test_value_rollout(self, name):
        scope = scope_of(name)
        attentions, hidden, model = dense_of(scope, PHOTOS[0])
        steps = []
        for a, z, layer in zip(attentions, hidden, base_of(model), strict=False):
            with torch.no_grad():
                norm, attention, out = parts_of(layer)
                v = attention.v_proj(norm(torch.from_numpy(z))).numpy()
                weight = out.weight.numpy()
            heads, width = len(a), v.shape[1] // len(a)
            weighed = np.zeros(a.shape[1:])
            for h in range(heads):
                own = slice(h * width, (h + 1) * width)
                weighed += a[h] * np.linalg.norm(v[:, own] @ weight[:, own].T, axis=1)
            steps.append(weighed / weighed.sum(1, keepdims=True))
        readout = scope.layout.readout()
        for alpha in (0.5, 0.2):
            e = scope.explain(PHOTOS[0], method="value-rollout", residual_weight=alpha)
            np.testing.assert_allclose(all_values(e), rolled(steps, readout, alpha), rtol=1e-4, atol=1e-7)

    def test_sink_rollout(self, name):
        scope = scope_of(name)
        attentions, _, _ = dense_of(scope, WITH_A_SINK)
        prefix = len(scope.layout.prefix)
        received = attentions.mean((0, 1, 2))

        def outlying(x):
            patches = x[prefix:]
            middle = np.sort(patches)[(len(patches) - 1) // 2]  # torch's median of an even number is the lower one
            away = np.abs(patches - middle)
            return patches > middle + 6 * np.sort(away)[(len(away) - 1) // 2]

        sinks = np.concatenate([np.zeros(prefix, bool), outlying(received)])
        assert sinks.any() == (name == "beit")
        steps = []
        for a in attentions.mean(1):
            moved = np.where(sinks, 0, a)
            steps.append(moved + np.diag(a[:, sinks].sum(1)))
        e = scope.explain(WITH_A_SINK, method="sink-rollout")
        np.testing.assert_allclose(all_values(e), rolled(steps, scope.layout.readout()), rtol=1e-5)
        told = next(note for note in e.provenance["notes"] if "sinks" in note)
        assert told.startswith(f"{sinks.sum()} sinks" if sinks.any() else "no sinks")

    def test_a_query_is_that_patchs_row(self, name):
        scope = scope_of(name)
        attentions, _, _ = dense_of(scope, PHOTOS[0])
        row = np.zeros(scope.layout.tokens)
        row[len(scope.layout.prefix) + 2 * 4 + 1] = 1
        e = scope.explain(PHOTOS[0], method="attention", layer=1, query="2,1")
        np.testing.assert_allclose(all_values(e), row @ attentions[1].mean(0), rtol=1e-5, atol=1e-8)
        e = scope.explain(PHOTOS[0], method="rollout", query="2,1")
        np.testing.assert_allclose(all_values(e), rolled(list(attentions.mean(1)), row), rtol=1e-5)

    def test_a_prefix_token_can_be_asked_by_its_name(self, name):
        scope = scope_of(name)
        attentions, _, _ = dense_of(scope, PHOTOS[0])
        for place, token in enumerate(scope.layout.prefix):
            e = scope.explain(PHOTOS[0], method="attention", layer=0, query=token)
            np.testing.assert_allclose(all_values(e), attentions[0].mean(0)[place], rtol=1e-5, atol=1e-8)
        with raises(UsageError, "attention.not-a-query"):
            scope.explain(PHOTOS[0], method="attention", query="register 9")

    @pytest.mark.spread
    @pytest.mark.covering
    @pytest.mark.parametrize("chunk", [1, 7, 256])
    def test_all_queries_at_once(self, name, chunk):
        scope = scope_of(name)
        attentions, _, _ = dense_of(scope, PHOTOS[0])
        raw = scope.queries(PHOTOS[0], layer=1, head=1, chunk=chunk)
        np.testing.assert_allclose(raw, attentions[1, 1], rtol=1e-5, atol=1e-8)
        eye = np.eye(scope.layout.tokens)
        np.testing.assert_allclose(
            scope.queries(PHOTOS[0], method="rollout", chunk=chunk), rolled(list(attentions.mean(1)), eye), rtol=1e-5
        )
        for options in ({"residual_weight": 0.3, "head_fusion": "max"}, {"discard_ratio": 0.5, "layers": "last1"}):
            rows = scope.queries(PHOTOS[0], method="rollout", chunk=chunk, **options)
            e = scope.explain(PHOTOS[0], method="rollout", query="2,1", **options)
            np.testing.assert_allclose(rows[len(e.prefix) + 9], all_values(e), rtol=1e-5, atol=1e-8)

    def test_attention_received(self, name):
        scope = scope_of(name)
        attentions, _, _ = dense_of(scope, PHOTOS[0])
        for layers, wanted in ((-1, attentions[-1:]), ("all", attentions)):
            e = scope.explain(PHOTOS[0], method="attention-received", layers=layers)
            np.testing.assert_allclose(all_values(e), wanted.mean((0, 1, 2)), rtol=1e-5)

    def test_max_fusion_without_dividing(self, name):
        scope = scope_of(name)
        attentions, _, _ = dense_of(scope, PHOTOS[0])
        e = scope.explain(PHOTOS[0], method="rollout", head_fusion="max", normalise=False)
        wanted = rolled(list(attentions.max(1)), scope.layout.readout())
        np.testing.assert_allclose(all_values(e), wanted, rtol=1e-5)
        assert wanted.sum() > 1.01


def base_of(model):
    return (
        getattr(model, model.base_model_prefix, model).encoder.layer
        if hasattr(getattr(model, model.base_model_prefix, model), "encoder")
        and hasattr(getattr(model, model.base_model_prefix, model).encoder, "layer")
        else next(m for m in model.modules() if isinstance(m, nn.ModuleList))
    )


def parts_of(layer):
    """A block's first norm, its attention, and the projection after it."""
    norm = layer.layernorm_before
    attention = next(m for m in layer.modules() if hasattr(m, "v_proj"))
    return norm, attention, attention.o_proj


@pytest.mark.parametrize("query", ["4,0", "0,4", "1", "x,y", "-1,0"])
def test_a_query_that_is_no_patch(query):
    with pytest.raises(UsageError, match="patch"):
        scope_of().explain(PHOTOS[0], method="attention", query=query)


def test_all_queries_are_refused_where_they_make_no_sense():
    scope = scope_of()
    with raises(UsageError, "engine.no-queries"):
        scope.queries(PHOTOS[0], method="similarity")
    with raises(UsageError, "errors.unknown-name"):
        scope.queries(PHOTOS[0], method="relevance")
    with raises(UsageError, "attention.query-several-images"):
        scope.attention(PHOTOS[:2]).with_queries([0])
    with raises(UsageError, "attention.no-such-query"):
        scope.attention(PHOTOS[0]).with_queries([17])


class TestFlow:
    @pytest.mark.parametrize("name", ["vit", "ijepa"])
    def test_it_is_networkx_maximum_flow(self, name):
        scope = scope_of(name)
        attentions, _, _ = dense_of(scope, PHOTOS[0])
        graph = networkx.DiGraph()
        tokens = attentions.shape[-1]
        for layer, a in enumerate(attentions.mean(1)):
            step = 0.5 * np.eye(tokens) + 0.5 * a
            for i in range(tokens):
                for k in range(tokens):
                    graph.add_edge((layer, k), (layer + 1, i), capacity=float(step[i, k]))
        for i, weight in enumerate(scope.layout.readout()):
            if weight:
                graph.add_edge((len(attentions), i), "sink", capacity=float(weight))
        wanted = [networkx.maximum_flow_value(graph, (0, j), "sink") for j in range(tokens)]
        e = scope.explain(PHOTOS[0], method="flow")
        np.testing.assert_allclose(all_values(e), wanted, atol=1e-5)
        assert np.ptp(e.map) > 1e-3

    def test_many_tokens_are_refused(self):
        model = zoo._transformers("ViTModel", "ViTConfig", image_size=72, patch_size=4)()
        with raises(MethodError, "methods.too-many-tokens"):
            vitscope.load(model.eval()).explain(PHOTOS[0], method="flow")


class TestLeGrad:
    def torchvision_model(self):
        from torchvision.models import VisionTransformer

        torch.manual_seed(0)
        model = VisionTransformer(32, 8, 2, 4, 32, 48, num_classes=5).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p) * 0.15)
        return model

    def test_it_is_torchcams(self):
        from torchcam.methods import LeGrad

        model = self.torchvision_model()
        e = vitscope.load(model).explain(PHOTOS[0], method="legrad", target=2)
        pixels = vitscope.load(model).adapter.prepare(e.picture)[0][None]
        with LeGrad(model, list(model.encoder.layers)) as extract:
            scores = model(pixels.requires_grad_())
            (theirs, *_) = extract(2, scores, normalized=False), None
        theirs = torch.stack([m.squeeze() for m in theirs]).mean(0).detach().numpy()
        np.testing.assert_allclose(e.map, theirs, rtol=1e-4, atol=1e-8)

    @pytest.mark.parametrize("readout", ["mean", "own"])
    def test_it_is_its_dense_twin(self, readout):
        scope = scope_of()
        model = scope.model
        e = scope.explain(PHOTOS[0], method="legrad", target=3, readout=readout)
        pixels = scope.adapter.prepare(e.picture)[0][None].double()
        model.set_attn_implementation("eager")
        output = model(pixel_values=pixels, output_attentions=True, output_hidden_states=True)
        total = 0
        for a, z in zip(output.attentions, output.hidden_states[1:], strict=True):
            read = z.mean(1) if readout == "mean" else z[:, 0]
            score = model.classifier(model.vit.layernorm(read))[0, 3]
            (grad,) = torch.autograd.grad(score, a, retain_graph=True)
            total = total + grad[0].clamp_min(0).mean((0, 1))
        model.set_attn_implementation("sdpa")
        np.testing.assert_allclose(all_values(e), (total / len(output.attentions)).detach().numpy(), rtol=1e-4)


def test_attnlrp_is_its_dense_twin():
    """Written out for one pre-norm ViT: norms, GELU, softmax and products by the paper's rules, with autograd."""
    scope = scope_of()
    model = scope.model
    e = scope.explain(PHOTOS[0], method="attnlrp", target=1)
    pixels = scope.adapter.prepare(e.picture)[0][None].double()
    heads = model.config.num_attention_heads

    def norm(x, m):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (x.var(-1, keepdim=True, unbiased=False) + m.eps).sqrt().detach() * m.weight + m.bias

    def half(x):
        return 0.5 * x + 0.5 * x.detach()

    z0 = model.vit.embeddings(pixels).detach().requires_grad_()
    z = z0
    for layer in base_of(model):
        first, attention, out = parts_of(layer)
        x = norm(z, first)
        q, k, v = (
            p(x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        a = (half(q) @ half(k).mT / math.sqrt(q.shape[-1])).softmax(-1)
        z = z + out((half(a) @ half(v)).transpose(1, 2).flatten(2))
        linear = [m for m in layer.modules() if isinstance(m, nn.Linear)][-2:]
        u = linear[0](norm(z, layer.layernorm_after))
        z = z + linear[1](u * (nn.functional.gelu(u) / u).detach())
    score = model.classifier(norm(z[:, 0], model.vit.layernorm))[0, 1]
    (grad,) = torch.autograd.grad(score, z0)
    np.testing.assert_allclose(all_values(e), (z0 * grad)[0].sum(-1).detach().numpy(), rtol=1e-4, atol=1e-8)
    assert e.score == pytest.approx(score.item(), rel=1e-5)


class TestRefine:
    def test_it_is_its_formula(self):
        torch.manual_seed(0)
        patches, tokens = torch.randn(2, 7).double(), torch.randn(2, 7, 5).double()
        for b in range(2):
            z = tokens[b].numpy() / np.linalg.norm(tokens[b].numpy(), axis=1, keepdims=True)
            w = np.exp(z @ z.T / 0.07)
            wanted = w / w.sum(1, keepdims=True) @ patches[b].numpy()
            np.testing.assert_allclose(spread(patches, tokens)[b].numpy(), wanted, rtol=1e-4, atol=1e-6)

    @pytest.mark.usefixtures("as_shipped")
    def test_any_map_can_be_refined_and_says_so(self):
        scope = scope_of()
        plain = scope.explain(PHOTOS[0], method="rollout")
        refined = scope.explain(PHOTOS[0], method="rollout", refine="affinity")
        assert refined.provenance["refine"] == "affinity"
        assert any("refined" in note for note in refined.provenance["notes"])
        assert np.ptp(refined.map) < np.ptp(plain.map)
        np.testing.assert_array_equal(refined.prefix, plain.prefix)
        with pytest.raises(vitscope.UnknownNameError, match="affinity"):
            scope.explain(PHOTOS[0], refine="afinity")


@pytest.mark.spread
@pytest.mark.parametrize("name", ["legrad", "attnlrp", "value-rollout", "sink-rollout", "flow", "attention-received"])
def test_a_batch_is_its_singles(name):
    scope = scope_of()
    for photo, e in zip(PHOTOS, scope.explain(PHOTOS, method=name), strict=True):
        alone = scope.explain(photo, method=name)
        np.testing.assert_allclose(all_values(e), all_values(alone), rtol=1e-5, atol=1e-9)
        assert e.target == alone.target


def test_random_is_the_seeds():
    scope = scope_of()
    one, again, other = (scope.explain(PHOTOS[0], method="random", seed=seed).map for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    assert 0 <= one.min() < one.max() < 1


def test_every_method_says_whether_it_fits():
    scope = scope_of("beit")
    told = {method.name: method.reason for method in scope.methods()}
    assert set(told) == {name for name, _ in METHODS}
    assert told["value-rollout"] == ""


class TestSeveralTargets:
    def test_one_forward_gives_each_targets_map(self):
        scope, forwards = scope_of(), []
        scope.explain(PHOTOS[0], method="relevance", target=0)
        handle = scope.model.register_forward_hook(lambda *_: forwards.append(1))
        several = scope.explain(PHOTOS[:2], method="relevance", targets=[0, 3, 4])
        handle.remove()
        assert len(forwards) == 1
        assert [[e.target for e in row] for row in several] == [["LABEL_0", "LABEL_3", "LABEL_4"]] * 2
        for photo, row in zip(PHOTOS, several, strict=False):
            for target, e in zip((0, 3, 4), row, strict=True):
                alone = scope.explain(photo, method="relevance", target=target)
                np.testing.assert_allclose(all_values(e), all_values(alone), rtol=1e-6)

    def test_no_target_at_all(self):
        with raises(UsageError, "engine.no-targets"):
            scope_of().explain(PHOTOS[0], method="relevance", targets=[])
