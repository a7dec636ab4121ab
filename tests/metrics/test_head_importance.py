"""Importance of heads: a projection without the head, against the model's own."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.errors import raises
from tests.helpers.statistics import dense, photo_of, row_of, scope_of
from tests.models import toys_traced as zoo_traced
from tests.oracles import attention_statistics as oracles
from vitscope.errors import MethodError
from vitscope.images import load_image
from vitscope.methods.targets import Scorer
from vitscope.metrics.head_importance import head_importance

PROJECTIONS = {
    "vit": "vit.layers.{}.attention.o_proj",
    "beit": "beit.layers.{}.attention.o_proj",
    "dinov2-registers": "encoder.layer.{}.attention.o_proj",
    "hf-siglip": "encoder.layers.{}.self_attn.out_proj",
    "timm-vit": "blocks.{}.attn.proj",
    "timm-vit-unfused": "blocks.{}.attn.proj",
    "timm-vit-map": "blocks.{}.attn.proj",
    "torchvision-vit": "encoder.layers.encoder_layer_{}.self_attention.out_proj",
    "openclip-vit": "visual.transformer.resblocks.{}.attn.out_proj",
}


def projection_of(model, name, layer):
    names = [
        n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.endswith(PROJECTIONS[name].format(layer))
    ]
    assert len(names) == 1, [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    return names[0]


def importance_twin(scope, name, photo, score):
    """The score's drop when the projection after a head does not read it, one head at a time."""
    pixels, _ = scope.adapter.prepare(load_image(photo), row_of(name).ask if name in BY_TRACE else None)
    pixels, model = pixels[None].double(), scope.adapter.model
    with torch.no_grad():
        whole = scope.adapter.answer(pixels)
        drops = []
        for layer, block in enumerate(scope.attention(photo).blocks):
            heads = block.shape[1]
            for head in range(heads):
                scope.adapter.model = oracles.without_head(model, projection_of(model, name, layer), head, heads)
                drops.append(float(score(whole, whole) - score(scope.adapter.answer(pixels), whole)))
                scope.adapter.model = model
    return np.array(drops)


BY_TRACE = {row.name for row in zoo_traced.ROWS}


def predicted(answer, whole):
    return answer[0, whole[0].argmax()]


def likeness(answer, whole):
    a, b = (x.mean(1) if x.ndim == 3 else x for x in (answer, whole))
    return (a * b).sum() / (a.norm() * b.norm())


@pytest.mark.spread
@pytest.mark.covering
@pytest.mark.parametrize("name", PROJECTIONS)
@pytest.mark.parametrize("batch_size", [3, 64])
def test_importance_is_what_a_projection_without_the_head_gives(name, batch_size):
    scope, photo = scope_of(name), photo_of(name)
    found = scope.statistics(photo, importance=True, batch_size=batch_size)
    classifies = "feature" not in found.target
    twin = importance_twin(scope, name, photo, predicted if classifies else likeness)
    got = np.concatenate([layer.importance for layer in found.layers])
    assert np.abs(twin).max() > 1e-6
    np.testing.assert_allclose(got, twin, rtol=1e-6, atol=1e-12)
    assert classifies or found.score == pytest.approx(1)


def test_windows_are_silenced_one_head_at_a_time():
    """Swin: pictures and windows share an axis; heads differ from layer to layer."""
    scope, photo = scope_of("timm-swin"), photo_of("timm-swin")
    found = scope.statistics(photo, importance=True)
    pixels, _ = scope.adapter.prepare(load_image(photo))
    model, answer = scope.adapter.model, scope.adapter.answer
    with torch.no_grad():
        whole = answer(pixels[None].double())
        for layer in found.layers:
            drops = []
            for head in range(layer.heads):
                scope.adapter.model = oracles.without_head(model, f"{layer.name}.proj", head, layer.heads)
                drops.append(float(predicted(whole, whole) - predicted(answer(pixels[None].double()), whole)))
                scope.adapter.model = model
            assert np.abs(drops).max() > 1e-4
            np.testing.assert_allclose(layer.importance, drops, rtol=0, atol=1e-12)
    assert len({layer.heads for layer in found.layers}) > 1


def test_importance_follows_its_target(tiny_scope, photo):
    first, second, contrast = (
        tiny_scope.statistics(photo, importance=True, target=target) for target in ("tabby", 2, "tabby - teapot")
    )
    assert (first.target, second.target, contrast.target) == ("tabby", "teapot", "tabby - teapot")
    for a, b, both in zip(first.layers, second.layers, contrast.layers, strict=True):
        np.testing.assert_allclose(both.importance, a.importance - b.importance, rtol=0, atol=1e-5)
        assert np.abs(a.importance - b.importance).max() > 1e-3


def test_a_cosine_keeps_its_digits_in_half_precision():
    """bfloat16 has no number between 0.996 and 1: scores are made in float32 from the model's own answer."""
    scope = row_of("hf-clip-vision").scope(row_of("hf-clip-vision").model().bfloat16())
    found = scope.statistics(photo_of("hf-clip-vision"), importance=True)
    assert found.score == pytest.approx(1, abs=1e-5)
    steps = np.concatenate([layer.importance for layer in found.layers]) * 256
    assert np.abs(steps - steps.round()).max() > 0.02


def test_progress_of_importance(tiny_scope, photo):
    told = []
    tiny_scope.statistics(photo, importance=True, batch_size=1, progress=lambda *step: told.append(step))
    assert told == [("importance", done, 6) for done in range(1, 7)]


def test_importance_needs_to_know_the_calls():
    scorer = Scorer(["anything"], lambda answer, _: answer.sum(-1))
    with raises(MethodError, "metrics.no-call-sites"):
        head_importance(dense(torch.eye(5)[None]), nn.Identity(), torch.zeros(1, 3, 4, 4), scorer, lambda x: x)
