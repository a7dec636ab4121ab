"""What a model supports, and up to which size."""

import numpy as np
import pytest

import vitscope
from vitscope.errors import MethodError


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
