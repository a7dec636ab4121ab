"""Functions without a rule, behind the readout: the map is that of the token that they read."""

import numpy as np
import pytest
import torch
from torch import nn

import vitscope
from tests.helpers.errors import raises
from tests.models.toys_heads import Around, backbone
from vitscope.errors import LayoutError

PHOTO = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
HEADS = {
    "distances to prototypes": (lambda own, f: -torch.cdist(f, own.w), nn.Parameter(torch.randn(5, 32))),
    "bilinear": (lambda own, f: nn.functional.bilinear(f, f, own.w), nn.Parameter(torch.randn(4, 32, 32))),
    "cosine": (
        lambda own, f: nn.functional.cosine_similarity(f[:, None], own.w, dim=-1),
        nn.Parameter(torch.randn(5, 32)),
    ),
    "products of sigmoids": (lambda own, f: (f @ own.w).sigmoid().cumprod(1), nn.Parameter(torch.randn(32, 3))),
    "a vector": (lambda own, f: f @ own.w, nn.Parameter(torch.randn(32))),
    "mv": (lambda own, f: torch.mv(f, own.w), nn.Parameter(torch.randn(32))),
    "addmm": (lambda own, f: torch.addmm(own.w[:1], f, own.w), nn.Parameter(torch.randn(32, 32))),
}


@pytest.mark.spread
@pytest.mark.parametrize("name", HEADS)
def test_rollout_is_that_of_the_readout_and_the_gradient_that_of_the_answer(name):
    after, weights = HEADS[name]
    model = Around(after, w=weights).eval()
    found, plain = vitscope.load(model, labels=[]), vitscope.load(backbone())
    one, other = (scope.explain(PHOTO, method="rollout") for scope in (found, plain))
    np.testing.assert_allclose(one.map, other.map, atol=1e-7)
    np.testing.assert_allclose(one.prefix, other.prefix, atol=1e-7)
    pixels = found.prepare(PHOTO).pixels[None].requires_grad_()
    answer = model(pixels).flatten()
    (grad,) = torch.autograd.grad((answer.detach() * answer).sum(), pixels)
    expected = (grad * pixels).detach()[0].sum(0).reshape(4, 8, 4, 8).sum((1, 3)).numpy()
    made = found.explain(PHOTO, method="input-x-gradient").map
    np.testing.assert_allclose(made, expected, atol=1e-5 * np.abs(expected).max())


class OfAllTokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.vit, self.w = backbone(), nn.Parameter(torch.randn(5, 32))

    def forward(self, x):
        return -torch.cdist(self.vit.forward_features(x), self.w).mean(1)


def test_a_function_of_several_tokens_is_refused_still():
    with raises(LayoutError, "tracing.unsupported-function"):
        vitscope.load(OfAllTokens().eval())


class WithNumbers(nn.Module):
    """A classifier that sees numbers about the patient beside the features, here zeros for all."""

    def __init__(self):
        super().__init__()
        self.vit, self.head = backbone(), nn.Linear(34, 3)

    def forward(self, x):
        return self.head(torch.cat([self.vit(x), x.new_zeros(len(x), 2)], 1))


def test_constants_beside_the_features_are_no_tokens():
    found, plain = vitscope.load(WithNumbers().eval()), vitscope.load(backbone())
    assert found.layout == plain.layout
    one, other = (scope.explain(PHOTO, method="rollout") for scope in (found, plain))
    np.testing.assert_allclose(one.map, other.map, atol=1e-7)
    np.testing.assert_allclose(one.prefix, other.prefix, atol=1e-7)
    assert "cls 100%" in one.provenance["output"]


class Hybrid(nn.Module):
    """A branch of convolutions beside the ViT, of a quarter as many channels."""

    def __init__(self):
        super().__init__()
        self.vit, self.head = backbone(), nn.Linear(40, 3)
        self.branch = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x):
        return self.head(torch.cat([self.vit(x), self.branch(x)], 1))


def test_what_the_answer_reads_beside_attention_is_said():
    notes = vitscope.load(Hybrid().eval()).explain(PHOTO, method="rollout").provenance["notes"]
    assert [note for note in notes if note.startswith("20% of the answer reads the image beside attention")]
    notes = vitscope.load(backbone()).explain(PHOTO, method="rollout").provenance["notes"]
    assert not [note for note in notes if "beside attention" in note]
