"""Models of which a part keeps no graph: methods without gradients work, the others say why they do not."""

import numpy as np
import pytest
import torch
from torch import nn

import vitscope
from tests.engine.toys_families import PHOTOS, make
from tests.helpers.errors import raises
from vitscope.errors import UnsupportedError


class Frozen(nn.Module):
    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.vit, self.head, self.how = make("timm"), nn.Linear(5, 3), how

    def forward(self, x):
        if self.how == "no_grad":
            with torch.no_grad():
                return self.head(self.vit(x))
        features = self.vit(x)
        return self.head(features.detach() if self.how == "detach" else features)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["no_grad", pytest.param("detach", marks=pytest.mark.slow)])
def test_a_frozen_part(how):
    scope, whole = vitscope.load(Frozen(how).eval()), vitscope.load(Frozen("").eval())
    for name in ("rollout", "token-removal", "logit-lens"):
        maps = [one.explain(PHOTOS[0], method=name, target=1).map for one in (scope, whole)]
        np.testing.assert_allclose(*maps, rtol=1e-5, atol=1e-7)
    for name in ("relevance", "gradcam", "input-x-gradient", "integrated-gradients"):
        assert scope.supports(name).reason.code == "engine.no-graph"
        with raises(UnsupportedError, "engine.method"):
            scope.explain(PHOTOS[0], method=name, target=1)
    assert whole.supports("relevance")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_modules_of_8_bits_stop_gradients_and_nothing_else():
    from torch.ao.quantization import quantize_dynamic

    model = quantize_dynamic(make("timm").eval(), {nn.Linear}, dtype=torch.qint8)
    scope = vitscope.load(model)
    explained = scope.explain(PHOTOS[0], method="rollout")
    assert not [note for note in explained.provenance["notes"] if note.code == "tracing.idle-layers"]
    assert scope.supports("relevance").reason.code == "engine.no-backward"
    assert np.isfinite(scope.explain(PHOTOS[0], method="occlusion", target=1).map).all()
