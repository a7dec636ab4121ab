"""Feature maps, the logit lens and perturbation against slow twins in float64."""

import numpy as np
import pytest
import scipy.linalg
import torch

from tests.helpers.errors import raises
from tests.models.toys import scope_of
from vitscope.attention.transformer_blocks import TokenActivations
from vitscope.errors import MethodError, UsageError
from vitscope.images import load_image
from vitscope.methods import features
from vitscope.methods.features import ncut, pca_rgb

PHOTOS = [np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8) for seed in range(3)]


def pixels_of(scope, photo):
    return scope.adapter.prepare(load_image(photo))[0][None].double()


def hidden_of(scope, photo):
    """Tokens before the first block and after each, `(L + 1, N, D)`."""
    with torch.no_grad():
        output = scope.model(pixel_values=pixels_of(scope, photo), output_hidden_states=True)
    return torch.stack(output.hidden_states)[:, 0].numpy()


def all_values(e):
    return np.concatenate([e.prefix, e.map.ravel()])


@pytest.mark.parametrize("name", ["vit", "deit-teacher", "ijepa"])
class TestFeatures:
    def test_pca(self, name):
        scope = scope_of(name)
        z = hidden_of(scope, PHOTOS[0])[-1][len(scope.layout.prefix) :]
        u, s, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
        looked = scope.explain(PHOTOS[0], method="attention").map.ravel()
        for component in (0, 2):
            wanted = u[:, component] * s[component]
            wanted = wanted * np.sign(wanted @ (looked - looked.mean()))
            e = scope.explain(PHOTOS[0], method="pca", component=component)
            np.testing.assert_allclose(e.map.ravel(), wanted, rtol=1e-4, atol=1e-5)
        with raises(UsageError, "methods.no-such-component"):
            scope.explain(PHOTOS[0], method="pca", component=99)

    def test_similarity(self, name):
        scope = scope_of(name)
        prefix = len(scope.layout.prefix)
        for layer in (-1, 0):
            z = hidden_of(scope, PHOTOS[0])[layer if layer < 0 else layer + 1]
            for query, asked in (("readout", scope.layout.readout() @ z), ("2,1", z[prefix + 9])):
                wanted = z @ asked / np.linalg.norm(z, axis=1) / np.linalg.norm(asked)
                e = scope.explain(PHOTOS[0], method="similarity", layer=layer, query=query)
                np.testing.assert_allclose(all_values(e), wanted, rtol=1e-5, atol=1e-6)
        with raises(UsageError, "geometry.no-such-patch"):
            scope.explain(PHOTOS[0], method="similarity", query="4,0")

    def test_similarity_after_the_last_norm(self, name):
        scope = scope_of(name)
        with torch.no_grad():
            z = scope.model.base_model(pixel_values=pixels_of(scope, PHOTOS[0])).last_hidden_state[0].numpy()
        assert not np.allclose(z, hidden_of(scope, PHOTOS[0])[-1])
        asked = z[len(scope.layout.prefix) + 9]
        wanted = z @ asked / np.linalg.norm(z, axis=1) / np.linalg.norm(asked)
        e = scope.explain(PHOTOS[0], method="similarity", query="2,1", final_norm=True)
        np.testing.assert_allclose(all_values(e), wanted, rtol=1e-5, atol=1e-6)
        with raises(UsageError, "methods.norm-after-last"):
            scope.explain(PHOTOS[0], method="similarity", layer=0, final_norm=True)

    def test_ncut(self, name):
        scope = scope_of(name)
        z = hidden_of(scope, PHOTOS[0])[-1][len(scope.layout.prefix) :]
        z = z / np.linalg.norm(z, axis=1, keepdims=True)
        w = np.where(z @ z.T > 0.2, 1, 1e-5)
        d = np.diag(w.sum(1))
        values, vectors = scipy.linalg.eigh(d - w, d)
        if np.diff(values[1:3]) > 1e-6:  # else the cut is not unique
            seed = np.abs(vectors[:, 1]).argmax()
            v = vectors[:, 1] - vectors[:, 1].mean()
            v = v / np.abs(v).max() * np.sign(v[seed])
            np.testing.assert_allclose(scope.explain(PHOTOS[0], method="ncut").map.ravel(), v, atol=1e-4)


class Fake:
    def __init__(self, z):
        self.activations = TokenActivations(z, lambda x: x, 0, (5, 5), "a place")

    def tokens_after(self, _layer):
        return self.activations

    def grid_note(self, _grid):
        return ""

    def to_tokens(self, patches):
        return patches.flatten(1)


@pytest.mark.usefixtures("as_shipped")
def test_the_side_of_a_cut_is_that_of_the_largest_entry_before_the_mean_is_taken_off():
    """Where most patches are the object, the entry farthest from the mean is background: TokenCut asks v itself."""
    for seed in (46, 54, 88):
        z = torch.randn(1, 25, 4, generator=torch.Generator().manual_seed(seed))
        unit = torch.nn.functional.normalize(z[0].double(), dim=-1)
        w = np.where((unit @ unit.T).numpy() > 0.2, 1.0, 1e-5)
        d = np.diag(w.sum(1))
        v = scipy.linalg.eigh(d - w, d)[1][:, 1]
        largest, centred = np.abs(v).argmax(), v - v.mean()
        assert centred[largest] * centred[np.abs(centred).argmax()] < 0  # the two rules say different things here
        assert ncut(Fake(z))[0][0, largest] > 0


def test_ncut_refuses_a_large_grid(monkeypatch):
    monkeypatch.setattr("vitscope.methods.features._MOST_PATCHES", 9)
    with raises(MethodError, "methods.too-many-patches"):
        scope_of().explain(PHOTOS[0], method="ncut")


@pytest.mark.usefixtures("as_shipped")
def test_ncut_finds_a_planted_object():
    noise = torch.randn(1, 25, 8, generator=torch.Generator().manual_seed(0)) * 0.05
    z = noise + torch.eye(8)[0]
    planted = [6, 7, 8, 11, 12, 13]
    z[0, planted] = noise[0, planted] + torch.eye(8)[1]
    found, _ = ncut(Fake(z))
    assert sorted((found[0] > 0).nonzero()[:, 0].tolist()) == planted


def test_pca_as_colours():
    tokens = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    rgb = pca_rgb(tokens, (3, 4))
    assert rgb.shape == (3, 4, 3)
    assert (rgb.min(), rgb.max()) == (0, 1)
    u, s, _ = np.linalg.svd(tokens - tokens.mean(0), full_matrices=False)
    for i in range(3):
        assert abs(np.corrcoef(rgb[..., i].ravel(), u[:, i] * s[i])[0, 1]) > 0.98


class TestLogitLens:
    @pytest.mark.parametrize("layer", [-1, 0])
    @pytest.mark.parametrize("few", [True, False], ids=["few tokens", "all tokens"])
    def test_each_token_is_read_alone(self, layer, few, monkeypatch):
        scope = scope_of()
        tried = features._accepts
        monkeypatch.setattr(features, "_accepts", lambda *given: few and tried(*given))
        forwards = []
        handle = scope.model.vit.layernorm.register_forward_hook(lambda _m, args, _out: forwards.append(args[0].shape))
        z = torch.from_numpy(hidden_of(scope, PHOTOS[0])[layer if layer < 0 else layer + 1])
        with torch.no_grad():
            wanted = scope.model.classifier(scope.model.vit.layernorm(z))[:, 3]
        forwards.clear()
        e = scope.explain(PHOTOS[0], method="logit-lens", target=3, layer=layer)
        handle.remove()
        np.testing.assert_allclose(all_values(e), wanted.numpy(), rtol=1e-5)
        assert ((len(z), 2) in [shape[:2] for shape in forwards]) == few

    def test_the_score_through_the_layers_ends_at_the_score(self):
        scope = scope_of("deit-teacher")
        e = scope.explain(PHOTOS[0], method="logit-lens", target=3)
        told = next(note for note in e.provenance["notes"] if note.startswith("score after each block"))
        through = [float(x) for x in told.partition(":")[2].split()]
        assert len(through) == 3
        assert through[-1] == pytest.approx(e.score, rel=1e-2)


class TestPerturbation:
    def test_occlusion(self):
        scope = scope_of()
        x = pixels_of(scope, PHOTOS[0])
        with torch.no_grad():
            whole = scope.model(pixel_values=x).logits[0, 2].item()
            total, count = np.zeros((4, 4)), np.zeros((4, 4))
            for r in range(3):
                for c in range(3):
                    covered = x.clone()
                    covered[..., r * 8 : r * 8 + 16, c * 8 : c * 8 + 16] = 0.3
                    drop = whole - scope.model(pixel_values=covered).logits[0, 2].item()
                    total[r : r + 2, c : c + 2] += drop
                    count[r : r + 2, c : c + 2] += 1
        e = scope.explain(PHOTOS[0], method="occlusion", target=2, fill=0.3)
        np.testing.assert_allclose(e.map, total / count, rtol=1e-5, atol=1e-7)
        for bad in ({"window": 5}, {"stride": 3}, {"window": 0}):
            with raises(UsageError, "methods.bad-window"):
                scope.explain(PHOTOS[0], method="occlusion", **bad)

    def test_leaving_each_token_out(self):
        scope = scope_of()
        model = scope.model
        with torch.no_grad():
            z = model.vit.embeddings(pixels_of(scope, PHOTOS[0]))
            blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))

            def score(tokens):
                for block in blocks:
                    out = block(tokens)
                    tokens = out[0] if isinstance(out, tuple) else out
                return model.classifier(model.vit.layernorm(tokens[:, 0]))[0, 2].item()

            whole = score(z)
            wanted = [whole - score(z[:, [i for i in range(17) if i != j]]) for j in range(1, 17)]
        e = scope.explain(PHOTOS[0], method="token-removal", samples=0, target=2)
        np.testing.assert_allclose(e.map.ravel(), wanted, rtol=1e-4, atol=1e-7)

    @pytest.mark.slow
    def test_random_halves_agree_with_a_regression_on_presence(self):
        """A score that adds up over tokens gives each token's part: mean with minus mean without."""
        scope = scope_of("ijepa")  # the mean of all patches is read
        samples = 512
        e = scope.explain(PHOTOS[0], method="token-removal", samples=samples, seed=3)
        draw = torch.Generator().manual_seed(3)
        kept = np.zeros((samples, 16), bool)
        for row in kept:
            row[torch.randperm(16, generator=draw)[:8].numpy()] = True
        scores = []
        with torch.no_grad():
            model = scope.model
            z = model.embeddings(pixels_of(scope, PHOTOS[0]))
            own = scope.adapter.answer(pixels_of(scope, PHOTOS[0])).mean(1)[0]
            blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
            for row in kept:
                tokens = z[:, torch.from_numpy(row)]
                for block in blocks:
                    out = block(tokens)
                    tokens = out[0] if isinstance(out, tuple) else out
                scores.append((model.layernorm(tokens).mean(1)[0] @ own).item())
        scores = np.array(scores)
        wanted = [scores[kept[:, j]].mean() - scores[~kept[:, j]].mean() for j in range(16)]
        np.testing.assert_allclose(e.map.ravel(), wanted, rtol=1e-4, atol=1e-7)

    def test_blocks_that_know_places_are_refused(self):
        with raises(MethodError, "engine.method"):
            scope_of("beit").explain(PHOTOS[0], method="token-removal")

    @pytest.mark.usefixtures("as_shipped")
    def test_rise_finds_the_patch_that_is_scored(self):
        scope = scope_of()
        white = np.full((40, 40, 3), 255, np.uint8)
        from vitscope.methods.context import MethodContext

        pixels = pixels_of(scope, white)
        store = type("Store", (), {"layout": scope.layout})()

        def run(x, _pictures):
            return x[:, :, 8:16, 16:24].mean((1, 2, 3))

        subject = MethodContext(store, pixels, run(pixels, None), run, lambda x: x, batch_size=64)
        from vitscope.methods.perturbation import occlusion, rise

        for method, options in ((rise, {"masks": 300, "cells": 4}), (occlusion, {"window": 1})):
            found = method(subject, **options)[0, 1:].reshape(4, 4)
            assert divmod(int(found.argmax()), 4) == (1, 2)

    def test_a_seed_is_a_map(self):
        scope = scope_of()
        for method, options in (("rise", {"masks": 8}), ("token-removal", {"samples": 8})):
            one, again, other = (scope.explain(PHOTOS[0], method=method, seed=s, **options).map for s in (0, 0, 1))
            np.testing.assert_array_equal(one, again)
            assert not np.allclose(one, other)


def test_tokens_without_a_norm_of_all_are_refused():
    """BEiT norms the mean of its patches, not each of them."""
    scope = scope_of("beit")
    assert scope.engine.require_blocks().final_norm is None
    with raises(MethodError, "methods.no-final-norm"):
        scope.explain(PHOTOS[0], method="similarity", final_norm=True, query="0,0")


@pytest.mark.spread
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pca", {}),
        ("similarity", {}),
        ("logit-lens", {}),
        ("occlusion", {}),
        ("rise", {"masks": 6}),
        ("token-removal", {"samples": 6}),
    ],
)
def test_a_batch_is_its_singles(name, options):
    scope = scope_of()
    for photo, e in zip(PHOTOS, scope.explain(PHOTOS, method=name, batch_size=2, **options), strict=True):
        alone = scope.explain(photo, method=name, **options)
        np.testing.assert_allclose(all_values(e), all_values(alone), rtol=1e-5, atol=1e-8)
