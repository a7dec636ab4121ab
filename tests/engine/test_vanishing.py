"""Scores without a gradient at the image itself: maps of rounding are refused, by the gradient of another score."""

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

import vitscope
from tests.helpers.errors import raises
from tests.models.toys import scope_of
from vitscope.errors import MethodError

PHOTO, OTHER = (np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8) for seed in range(2))
DIFFERENTIATED = ["gradcam", "relevance", "input-x-gradient", "evidence-walk", "attention-gradcam", "grad-rollout"]
WITHOUT = ["random-walk", "token-removal", "rollout", "legrad", "integrated-gradients"]


class Embedder(nn.Module):
    """A ViT whose feature is taken to a fixed length."""

    def __init__(self, last):
        super().__init__()
        torch.manual_seed(3)
        self.vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64, depth=3)
        self.last = last

    def forward(self, x):
        return self.last(self.vit(x))


class Normalised(nn.Module):
    def forward(self, x):
        return 64 * functional.normalize(x, dim=-1)


def loaded(last):
    return vitscope.load(Embedder(last).double().eval(), labels={})


@pytest.fixture(scope="module")
def normalised():
    return loaded(Normalised())


@pytest.mark.spread
@pytest.mark.parametrize("method", DIFFERENTIATED)
@pytest.mark.parametrize("last", [Normalised(), nn.LayerNorm(192, elementwise_affine=False)])
def test_the_norm_of_a_normalised_feature_is_no_target_of_gradients(last, method):
    with raises(MethodError, "engine.constant-norm"):
        loaded(last).explain(PHOTO, method=method)


@pytest.mark.parametrize("method", WITHOUT)
def test_methods_that_do_not_differentiate_it_there_go_on(normalised, method):
    assert np.ptp(normalised.explain(PHOTO, method=method).map) > 0


@pytest.mark.parametrize("method", ["relevance", "gradcam"])
def test_the_likeness_to_another_image_is_that_of_the_feature_before(normalised, method):
    """Cosines do not depend on lengths, so that neither do their gradients."""
    target = vitscope.similar_to(OTHER)
    maps = [scope.explain(PHOTO, method=method, target=target).map for scope in (normalised, loaded(nn.Identity()))]
    np.testing.assert_allclose(maps[0], maps[1], rtol=0, atol=1e-6 * np.abs(maps[1]).max())


def test_the_likeness_to_itself_is_no_target_of_gradients():
    scope = loaded(nn.Identity())
    with raises(MethodError, "engine.same-image"):
        scope.explain(PHOTO, method="gradcam", target=vitscope.similar_to(PHOTO))
    assert np.ptp(scope.explain(PHOTO, method="token-removal", target=vitscope.similar_to(PHOTO)).map) > 0
    with raises(MethodError, "engine.same-image"):  # the second of two
        scope.explain([OTHER, PHOTO], method="gradcam", target=vitscope.similar_to(PHOTO), batch_size=2)


def test_a_norm_with_weights_leaves_the_length_a_gradient():
    for name in ("dinov2", "dinov2-registers", "ijepa"):
        assert np.ptp(scope_of(name).explain(PHOTO, method="gradcam").map) > 0


def classifier(last, margin, classes, dtype=torch.float32):
    """A model whose best logit for the photo is above the next one, or above 0, by a margin."""
    torch.manual_seed(3)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=classes, img_size=64, depth=3)
    model = nn.Sequential(vit, last).double().eval()
    with torch.no_grad():
        best, *others = vit(vitscope.load(model).prepare(PHOTO).pixels[None].double())[0].sort(descending=True).values
        for parameter in vit.head.parameters():
            parameter *= margin / (best - others[0] if others else best)
    return vitscope.load(model.to(dtype))


@pytest.mark.spread
@pytest.mark.parametrize(
    ("last", "classes"), [(nn.Softmax(-1), 5), (nn.LogSoftmax(-1), 5), (nn.Sigmoid(), 1)], ids=["p", "log p", "sigmoid"]
)
def test_a_probability_of_one_is_no_target_of_gradients(last, classes):
    """In float64 the distance from 1 still has its digits."""
    sure = classifier(last, 18, classes)
    for method in ("gradcam", "relevance"):
        with raises(MethodError, "engine.saturated"):
            sure.explain(PHOTO, method=method)
    assert np.ptp(sure.explain(PHOTO, method="rollout").map) > 0
    assert np.ptp(classifier(last, 18, classes, torch.float64).explain(PHOTO, method="gradcam").map) > 0
    assert np.ptp(classifier(last, 3, classes).explain(PHOTO, method="gradcam").map) > 0


def test_an_image_without_a_gradient_costs_no_other_of_its_batch():
    sure = classifier(nn.Softmax(-1), 18, 5)
    less = [name for name, _ in sure.explain(PHOTO, method="rollout").predictions][1]
    found = list(sure.explain_many([PHOTO, PHOTO], method="gradcam", target=[None, less], batch_size=2))
    assert found[0].error.code == "engine.saturated"
    np.testing.assert_allclose(found[1].map, sure.explain(PHOTO, method="gradcam", target=less).map, rtol=1e-4)


@pytest.mark.slow
def test_a_class_whose_probability_is_not_full_keeps_its_gradient():
    """Beside one that is sure: `dp_c = p_c (dz_c - dz_max)`, as the differences of the logits say."""
    sure = classifier(nn.Softmax(-1), 18, 5)
    best, other = [int(name.split()[-1]) for name, _ in sure.explain(PHOTO, method="rollout").predictions[:2]]
    found = sure.explain(PHOTO, method="input-x-gradient", target=other)
    logits = classifier(nn.Identity(), 18, 5, torch.float64)
    wanted = found.score * logits.explain(PHOTO, method="input-x-gradient", target=f"{other} - {best}").map
    np.testing.assert_allclose(found.map, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max())
