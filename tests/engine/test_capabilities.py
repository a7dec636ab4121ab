"""What a model supports, and up to which size."""

import numpy as np
import pytest
import torch

import vitscope
from vitscope.errors import MethodError, UnsupportedError


def test_a_limit_of_tokens_is_told_without_refusing_smaller_inputs():
    from transformers import ViTConfig, ViTForImageClassification

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = ViTForImageClassification(ViTConfig(**small, image_size=72, patch_size=4)).eval()  # 18 x 18 patches
    scope = vitscope.load(model)
    found = {support.name: support for support in scope.methods()}
    assert found["flow"].ok
    assert found["flow"].reason == scope.supports("flow").reason
    assert "up to 290 tokens, and this model has 325" in found["flow"].reason
    assert found["rollout"].reason == ""
    photo = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    assert scope.explain(photo, method="flow", size=32).map.shape == (8, 8)
    with pytest.raises(MethodError, match="325 tokens are more than 290"):
        scope.explain(photo, method="flow")


def test_a_mean_of_patches_needs_one_and_is_measured_with_others_painted_over():
    from transformers import Dinov2Config, Dinov2ForImageClassification

    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 1}
    model = Dinov2ForImageClassification(Dinov2Config(**small, image_size=56, patch_size=14, num_labels=3)).eval()
    scope = vitscope.load(model)  # its head reads CLS beside the mean of the patches
    assert scope.supports("order-free").ok
    assert scope.supports("patch-dropping").reason == "without any patch token the model has no answer"
    photo = np.random.default_rng(0).integers(0, 255, (56, 56, 3), dtype=np.uint8)
    found = scope.measure(scope.explain(photo, method="rollout"), metrics="deletion", steps=4, n_random_maps=2)
    assert found.baseline == "mean"
    fewer = scope.predict_without(photo, [0, 3], "drop")
    pixels = scope.adapter.prepare(vitscope.images.load_image(photo), None)[0][None]
    with torch.no_grad():
        kept = model.dinov2.embeddings(pixels)[:, [0, 2, 3, *range(5, 17)]]
        tokens = model.dinov2.layernorm(model.dinov2.encoder(kept).last_hidden_state)
        answer = model.classifier(torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1))
    shares = answer.softmax(1)[0].tolist()
    assert dict(fewer.predictions) == pytest.approx({f"LABEL_{n}": share for n, share in enumerate(shares)}, rel=1e-4)
    with pytest.raises(UnsupportedError, match="has no answer"):
        scope.predict_without(photo, range(16), "drop")
