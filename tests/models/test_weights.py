"""Hashes and maps of quantised and offloaded models."""

import accelerate
import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

import vitscope
from tests.helpers.errors import raises
from vitscope.errors import ModelError, UnsupportedError
from vitscope.models.weights.weights import hash_of
from vitscope.tracing.placement import placement, quantised_modules

pytestmark = pytest.mark.filterwarnings(
    "ignore:torch.ao.quantization is deprecated", "ignore:torch.quantize_per_tensor"
)
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32})
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def vit(seed=0):
    torch.manual_seed(seed)
    config = ViTConfig(**SMALL, image_size=32, patch_size=8, num_labels=3)
    config._attn_implementation = "eager"
    return ViTForImageClassification(config).eval()


def small_timm():
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}
    return timm.create_model("vit_tiny_patch16_224", **options).eval()


def int8(model):
    return quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def by_torchao(model, config):
    why = "torchao is not installed: wherever it is, transformers imports it, and it warns on stderr"
    quantization = pytest.importorskip("torchao.quantization", reason=why)
    quantization.quantize_(model, getattr(quantization, config)())
    return model


def own_attention(model, dtype=torch.float32):
    """What the eager model returns of the CLS token's attention in its last layer."""
    pixels = PROCESSOR(images=PHOTO, return_tensors="pt")["pixel_values"].to(dtype)
    with torch.no_grad():
        return model(pixels, output_attentions=True).attentions[-1][0, :, 0, 1:].float().mean(0).reshape(4, 4).numpy()


@pytest.mark.parametrize("make", [int8, lambda m: by_torchao(m, "Int8WeightOnlyConfig")], ids=["torch", "torchao"])
def test_a_map_of_a_quantised_model_is_what_the_module_computes(make):
    model = make(vit())
    found = vitscope.load(model, processor=PROCESSOR).explain(PHOTO, method="attention", layer=-1)
    assert np.abs(found.map - own_attention(model)).max() < 1e-6
    assert found.provenance["weights"] == hash_of(make(vit())) != hash_of(make(vit(1)))
    assert hash_of(make(vit())) != hash_of(vit())


@pytest.mark.parametrize(
    "make", [int8, lambda m: by_torchao(m, "Int8DynamicActivationInt8WeightConfig")], ids=["torch", "torchao"]
)
def test_gradients_that_a_kernel_stops_are_refused(make):
    scope = vitscope.load(make(small_timm()))
    for method in ("relevance", "input-x-gradient", "gradcam", "attnlrp"):
        with raises(UnsupportedError, "engine.method") as caught:
            scope.explain(PHOTO, method=method)
        assert "whose weights are quantised" in str(caught.value)
    assert np.ptp(scope.explain(PHOTO, method="occlusion").map) > 0
    assert scope.explain(PHOTO).method == "random-walk"


def test_gradients_go_through_weights_that_are_only_stored_as_integers():
    model = by_torchao(vit(), "Int8WeightOnlyConfig")
    assert quantised_modules(model)
    found = vitscope.load(model, processor=PROCESSOR).explain(PHOTO, method="input-x-gradient", target=1)
    plain = vitscope.load(vit(), processor=PROCESSOR).explain(PHOTO, method="input-x-gradient", target=1)
    assert np.corrcoef(found.map.ravel(), plain.map.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("how", ["cpu", "disk"])
def test_an_offloaded_model_has_the_hash_and_the_map_of_the_model(how, tmp_path):
    place = torch.device("cpu")
    model = accelerate.cpu_offload(vit(), place) if how == "cpu" else accelerate.disk_offload(vit(), tmp_path, place)
    assert any(parameter.is_meta for parameter in model.parameters())
    assert hash_of(model) == hash_of(vit())
    scope = vitscope.load(model, processor=PROCESSOR)
    assert (scope.device, scope.dtype) == (place, torch.float32)
    found = scope.explain(PHOTO, method="input-x-gradient", target=1)
    plain = vit().double()
    x = PROCESSOR(images=PHOTO, return_tensors="pt")["pixel_values"].double().requires_grad_()
    (gradient,) = torch.autograd.grad(plain(x).logits[0, 1], x)
    expected = (x * gradient).detach()[0].sum(0).reshape(4, 8, 4, 8).sum((1, 3)).numpy()
    assert np.abs(found.map - expected).max() < 1e-6


def test_a_model_without_numbers_is_refused():
    with torch.device("meta"):
        model = vit()
    with raises(ModelError, "models.no-numbers", "models.no-numbers.hint"):
        vitscope.load(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_other_number_formats(dtype):
    model = vit().to(dtype)
    scope = vitscope.load(model, processor=PROCESSOR)
    found = scope.explain(PHOTO, method="attention", layer=-1)
    assert scope.dtype == dtype
    assert np.abs(found.map - own_attention(model, dtype)).max() < 1e-3


def test_integers_among_the_parameters_are_not_the_format_of_the_input():
    class Stored(nn.Module):  # as bitsandbytes keeps its weights
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
            self.bias = nn.Parameter(torch.zeros(4, dtype=torch.bfloat16))

    assert placement(Stored()) == (torch.device("cpu"), torch.bfloat16)
    assert placement(nn.ReLU()) is None
    assert len(quantised_modules(Stored())) == 1
