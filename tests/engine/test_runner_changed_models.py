"""A model that changes after it was loaded: each map and its record are those of the model as it is now."""

import copy
import hashlib

import numpy as np
import pytest
import timm
import torch
from torch import nn

import vitscope
from tests.engine.toys_families import PHOTOS, make
from vitscope.models.weights.fingerprint import fingerprint

pytestmark = pytest.mark.usefixtures("as_shipped")


def digest(model):
    """Return the hash of all weights, written down here again."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + tensor.numpy().tobytes())
    return f"sha256:{found.hexdigest()}"


def multiplied(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)


def behind_torchs_back(model):
    for parameter in model.parameters():
        parameter.data.add_(0.01)


def another_tensor(model):
    model.head.weight = nn.Parameter(torch.randn_like(model.head.weight))


def a_training_step(model):
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    model(pixels).square().mean().backward()
    optimizer.step()
    model.zero_grad()


def loaded(model):
    torch.manual_seed(9)
    model.load_state_dict({name: torch.rand_like(tensor) for name, tensor in model.state_dict().items()})


@pytest.mark.spread
@pytest.mark.parametrize("change", [multiplied, behind_torchs_back, another_tensor, a_training_step, loaded])
def test_the_provenance_has_the_weights_that_made_the_map(change):
    model = make("generic")
    scope = vitscope.load(model)
    first = scope.explain(PHOTOS[0], method="rollout")
    assert first.provenance["weights"] == digest(model)
    change(model)
    second = scope.explain(PHOTOS[0], method="rollout")
    assert second.provenance["weights"] == digest(model) != first.provenance["weights"]
    assert np.array_equal(second.map, vitscope.load(model).explain(PHOTOS[0], method="rollout").map)


@pytest.mark.spread
@pytest.mark.parametrize("family", ["timm", "transformers", "generic"])
def test_a_new_scope_says_the_same_of_weights_that_changed(family):
    model = make(family)
    scope = vitscope.load(model)
    multiplied(model)
    found, new = (s.explain(PHOTOS[0], method="rollout").provenance["weights"] for s in (scope, vitscope.load(model)))
    assert found == new


def test_weights_of_a_hub_revision_are_named_by_their_hash_once_they_are_others():
    from vitscope.models.options import ModelOptions
    from vitscope.models.transformers.adapter import TransformersAdapter
    from vitscope.scope import Scope

    model = make("transformers").eval()
    adapter = TransformersAdapter.bound(model, None, ModelOptions(), weights="revision:abc")
    scope = Scope(adapter, torch.device("cpu"), torch.float32)
    assert scope.explain(PHOTOS[0], method="rollout").provenance["weights"] == "revision:abc"
    multiplied(model)
    assert scope.explain(PHOTOS[0], method="rollout").provenance["weights"] == digest(model)


def test_a_head_that_was_reset_has_other_classes():
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2)
    scope = vitscope.load(model)
    assert len(scope.explain(PHOTOS[0], method="rollout").predictions) == 5
    model.reset_classifier(3)
    changed = scope.explain(PHOTOS[0], method="gradcam", target=2)
    assert len(changed.predictions) == 3
    expected = vitscope.load(model).explain(PHOTOS[0], method="gradcam", target=2)
    assert np.array_equal(changed.map, expected.map)
    assert changed.predictions == expected.predictions


def test_another_pooling_is_another_readout():
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3
    )
    scope = vitscope.load(model)
    assert scope.layout.pooling == "cls"
    model.global_pool = "avg"
    changed = scope.explain(PHOTOS[0], method="rollout")
    assert scope.layout.pooling != "cls"
    assert np.array_equal(changed.map, vitscope.load(model).explain(PHOTOS[0], method="rollout").map)


def test_a_layer_that_was_added_is_counted():
    model = make("generic")
    scope = vitscope.load(model)
    assert len(scope.logit_lens(PHOTOS[0])) == len(scope.attention(PHOTOS[0])) == 2
    model.blocks.append(copy.deepcopy(model.blocks[0]))
    assert len(scope.logit_lens(PHOTOS[0])) == len(scope.attention(PHOTOS[0])) == 3


def test_a_model_of_another_type_gets_pixels_of_that_type():
    model = make("generic").eval()
    scope = vitscope.load(model)
    single = scope.explain(PHOTOS[0], method="relevance", target=1)
    model.double()
    double = scope.explain(PHOTOS[0], method="relevance", target=1)
    assert scope.dtype == torch.float64
    assert (single.provenance["dtype"], double.provenance["dtype"]) == ("float32", "float64")
    np.testing.assert_allclose(single.map, double.map, rtol=1e-4, atol=1e-7)


def test_a_model_that_stays_is_not_looked_at_twice():
    model = make("timm")
    scope = vitscope.load(model)
    scope.supports("logit-lens")
    traces, blocks = scope.adapter._traces, scope.engine.blocks
    model.eval()
    model(torch.zeros(1, 3, 32, 32))
    scope.explain(PHOTOS[0], method="logit-lens")
    assert scope.adapter._traces is traces
    assert scope.engine.blocks is blocks


@pytest.mark.spread
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_another_kernel_of_the_same_attention_is_no_other_structure(name):
    sizes = {"patch_size": 8, "depth": 2, "num_heads": 2}
    if name.startswith("swin"):
        sizes = {"patch_size": 2, "window_size": 4, "depths": (2, 2), "num_heads": (2, 2)}
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=32, embed_dim=16, num_classes=3, **sizes).eval()
    scope = vitscope.load(model)
    traces, pixels = scope.adapter._traces, torch.randn(1, 3, 32, 32)
    for fused in (False, True):
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = fused
        found = scope.attribute(pixels, method="rollout").maps
        assert scope.adapter._traces is traces
        assert torch.equal(found, vitscope.load(model).attribute(pixels, method="rollout").maps)


def test_weights_are_compared_only_when_somebody_asks_for_their_name(monkeypatch):
    model = make("timm")
    scope = vitscope.load(model)
    assert scope.explain(PHOTOS[0], method="rollout").provenance["weights"] == digest(model)
    behind_torchs_back(model)
    with monkeypatch.context() as patch:
        patch.setattr("vitscope.models.base.weights_of", lambda model: pytest.fail("weights were read"))
        scope.attribute(torch.zeros(1, 3, 32, 32), method="rollout")
    hashed = []
    monkeypatch.setattr("vitscope.models.timm.adapter.hash_of", lambda model: hashed.append(1) or digest(model))
    for _ in range(2):
        assert scope.explain(PHOTOS[0], method="rollout").provenance["weights"] == digest(model)
    assert len(hashed) == 1


def test_equal_fingerprints_are_equal_and_those_of_copies_are_not():
    model = make("generic")
    assert fingerprint(model) == fingerprint(model)
    assert fingerprint(model) != fingerprint(make("generic"))
    with torch.no_grad():
        model.cls.fill_(float("nan"))
    assert fingerprint(model) == fingerprint(model)
