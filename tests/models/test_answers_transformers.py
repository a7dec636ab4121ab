"""What models of transformers answer with: other heads, other layers, language models that read an image's tokens.

Independent values: attention matrices of the library's eager path and rollout written out in float64.
"""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

import vitscope
from tests.helpers.errors import raises
from tests.oracles.attention import rollout
from vitscope.errors import UsageError

PHOTO = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
LANGUAGE = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 100,
}
CLS, PATCHES, ALL = torch.eye(17)[0], torch.cat([torch.zeros(1), torch.ones(16) / 16]), torch.ones(17) / 17


def _made(model: Any) -> Any:
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("q_proj.weight", "k_proj.weight", "query.weight", "key.weight", "qkv.weight")):
            parameter.data.mul_(20)
    return model.eval()


def _llava(kind: str = "Llava", **options: Any) -> Any:
    torch.manual_seed(0)
    vision, text = transformers.CLIPVisionConfig(**SMALL), transformers.LlamaConfig(**LANGUAGE)  # type: ignore[arg-type]
    config = getattr(transformers, f"{kind}Config")
    made = config(vision_config=vision, text_config=text, image_token_index=99, **options)
    return _made(getattr(transformers, f"{kind}ForConditionalGeneration")(made))


def _dinov2(architecture: str, **options: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.Dinov2Config(**SMALL, mlp_ratio=2, **options)  # type: ignore[arg-type]
    return _made(getattr(transformers, architecture)(config))


def _eager(tower: Any, scope: Any) -> list[Tensor]:
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        out = tower(pixel_values=scope.prepare(PHOTO).pixels[None], output_attentions=True)
    return list(out.attentions)


def _difference(scope: Any, attentions: list[Tensor], readout: Tensor) -> float:
    found = scope.explain(PHOTO, method="rollout")
    expected = rollout(attentions, readout)[0].numpy()
    return float(np.abs(np.concatenate([found.prefix, found.map.ravel()]) - expected).max())


@pytest.mark.spread
@pytest.mark.parametrize(
    ("options", "layers", "readout"),
    [
        ({}, 3, PATCHES),  # after the layer before the last, without CLS
        ({"vision_feature_layer": -1}, 4, PATCHES),
        ({"vision_feature_layer": -3}, 2, PATCHES),
        ({"vision_feature_select_strategy": "full"}, 3, ALL),
    ],
)
def test_llava_is_read_where_its_language_model_reads(options: Any, layers: int, readout: Tensor) -> None:
    model = _llava(**options)
    scope = vitscope.load(model)
    pixels = scope.prepare(PHOTO).pixels[None]
    with torch.no_grad():
        read = torch.stack(list(model.get_image_features(pixel_values=pixels).pooler_output))
    torch.testing.assert_close(scope.adapter.answer(pixels), read)
    attentions = _eager(model.model.vision_tower, scope)
    assert scope.adapter.depth == layers
    assert _difference(scope, attentions[:layers], readout) < 1e-5
    assert f"after {layers} of 4 layers" in scope.explain(PHOTO, method="rollout").provenance["output"]


@pytest.mark.parametrize(
    "model",
    [
        lambda: _llava(vision_feature_layer=[-3, -2]),
        lambda: _llava("VipLlava", vision_feature_layers=[-3, -2]),
    ],
)
def test_tokens_of_two_layers_are_read_in_equal_parts(model: Any) -> None:
    made = model()
    scope = vitscope.load(made)
    attentions = _eager(made.model.vision_tower, scope)
    found = scope.explain(PHOTO, method="rollout")
    deep, shallow = (rollout(attentions[:count], PATCHES)[0].numpy() for count in (3, 2))
    np.testing.assert_allclose(found.map.ravel(), ((deep + shallow) / 2)[1:], atol=1e-5)
    assert getattr(scope.adapter.isotropic.reason, "code", "") == "models.reads-apart"


def test_paligemma_reads_all_patches_after_the_last_layer() -> None:
    torch.manual_seed(0)
    text = LANGUAGE | {"model_type": "gemma", "head_dim": 16}
    vision = transformers.SiglipVisionConfig(**SMALL, vision_use_head=False).to_dict()  # type: ignore[arg-type]
    config = transformers.PaliGemmaConfig(
        vision_config=vision | {"model_type": "siglip_vision_model"},
        text_config=text,
        projection_dim=32,
        image_token_index=99,
    )
    model = _made(transformers.PaliGemmaForConditionalGeneration(config))
    scope = vitscope.load(model)
    assert _difference(scope, _eager(model.model.vision_tower, scope), torch.ones(16) / 16) < 1e-5


@pytest.mark.spread
@pytest.mark.parametrize(
    ("model", "layers", "readout"),
    [
        (lambda: _dinov2("Dinov2Model"), 4, CLS),
        (lambda: _dinov2("Dinov2ForImageClassification"), 4, (CLS + PATCHES) / 2),
        (lambda: _dinov2("Dinov2Backbone", out_indices=[3]), 3, PATCHES),
        (lambda: transformers.ViTForMaskedImageModeling(transformers.ViTConfig(**SMALL, encoder_stride=8)), 4, PATCHES),  # type: ignore[arg-type]
        (lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SMALL)), 4, CLS),  # type: ignore[arg-type]
    ],
)
def test_heads_read_their_own_tokens(model: Any, layers: int, readout: Tensor) -> None:
    torch.manual_seed(0)
    made = _made(model())
    scope = vitscope.load(made)
    with torch.no_grad():
        made.set_attn_implementation("eager")
        out = made(pixel_values=scope.prepare(PHOTO).pixels[None], output_attentions=True)
    assert _difference(scope, list(out.attentions)[:layers], readout) < 1e-5


@pytest.mark.slow
def test_a_backbone_with_stages_is_refused_and_each_stage_can_be_chosen() -> None:
    model = _dinov2("Dinov2Backbone", out_indices=[2, 4])
    with raises(UsageError, "models.several-answers") as caught:
        vitscope.load(model)
    assert "'feature_maps[0]' (1 x 32 x 4 x 4), 'feature_maps[1]' (1 x 32 x 4 x 4)" in caught.value.message
    attentions = _eager(model, vitscope.load(model, output="feature_maps[0]"))
    for output, layers in (("feature_maps[0]", 2), ("feature_maps[1]", 4), ("feature_maps[-1]", 4)):
        assert _difference(vitscope.load(model, output=output), attentions[:layers], PATCHES) < 1e-5


def test_tuples_of_transformers_have_their_names() -> None:
    model = transformers.ViTModel(transformers.ViTConfig(**SMALL, return_dict=False)).eval()  # type: ignore[arg-type]
    scope = vitscope.load(model)
    pixels = scope.prepare(PHOTO).pixels[None]
    assert isinstance(model(pixels), tuple)
    torch.testing.assert_close(scope.adapter.answer(pixels), model(pixels)[1])
    assert scope.explain(PHOTO, method="rollout").provenance["output"].startswith("pooler_output")


def test_hidden_states_can_be_chosen() -> None:
    model = _dinov2("Dinov2ForImageClassification")
    scope = vitscope.load(model, output="hidden_states[2]")  # the tokens after two layers, CLS among them
    assert _difference(scope, _eager(model, scope)[:2], CLS) < 1e-5
    scope = vitscope.load(model, output=lambda out: out.hidden_states[3][:, 1:])  # as LLaVA reads its tower
    assert _difference(scope, _eager(model, scope)[:3], PATCHES) < 1e-5


def test_the_concatenation_of_the_last_layers_is_read_in_equal_parts() -> None:
    """DINOv2's linear evaluation: CLS of the last layers side by side."""

    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit, self.head = _dinov2("Dinov2Model"), torch.nn.Linear(64, 5)

        def forward(self, x: Tensor) -> Tensor:
            states = self.vit(x, output_hidden_states=True).hidden_states
            out: Tensor = self.head(torch.cat([self.vit.layernorm(state)[:, 0] for state in states[-2:]], -1))
            return out

    model = Linear().eval()
    scope = vitscope.load(model)
    attentions = _eager(model.vit, scope)
    found = scope.explain(PHOTO, method="rollout")
    parts = [rollout(attentions[:count], CLS)[0].numpy() for count in (3, 4)]
    np.testing.assert_allclose(found.map.ravel(), (parts[0] + parts[1])[1:] / 2, atol=1e-5)


def test_a_decoder_that_adds_layers_up_reads_all_of_them() -> None:
    """BEiT's UPerNet: which layers count is found by gradients of the real model, too."""
    torch.manual_seed(0)
    config = transformers.BeitConfig(
        **SMALL,  # type: ignore[arg-type]
        num_labels=5,
        out_indices=[1, 2, 3, 4],
        pool_scales=[1, 2],
        use_auxiliary_head=False,
    )
    model = transformers.BeitForSemanticSegmentation(config).eval()
    scope = vitscope.load(model)
    states: list[Tensor] = []
    for layer in model.beit.layers if hasattr(model.beit, "layers") else model.beit.encoder.layer:
        layer.register_forward_hook(lambda _m, _i, out: states.append(out[0] if isinstance(out, tuple) else out))
    answer = scope.adapter.answer(scope.prepare(PHOTO).pixels[None])
    grads = torch.autograd.grad(answer.sum(), states, allow_unused=True)
    assert scope.adapter.depth == sum(grad is not None for grad in grads)
    assert not scope.adapter.isotropic
    assert f"up to layer {scope.adapter.depth} of 4" in scope.explain(PHOTO, method="rollout").provenance["output"]
