"""The lens through all layers, and two pictures' likeness, beside the model's own eager path."""

import numpy as np
import pytest
import torch

from tests.helpers.errors import raises
from tests.models import toys_traced
from tests.models.toys import PHOTOS, scope_of
from vitscope.errors import UnsupportedError, UsageError
from vitscope.images import load_image


def test_the_lens_reads_each_layer_with_the_models_own_norm_and_head():
    scope, model = scope_of(), scope_of().model
    layers = scope.logit_lens(PHOTOS[0])
    pixels = scope.adapter.prepare(load_image(PHOTOS[0]))[0][None].double()
    with torch.no_grad():
        output = model(pixel_values=pixels, output_hidden_states=True)
        best = int(output.logits.argmax())
        assert len(layers) == len(output.hidden_states) - 1 == 3
        for e, tokens in zip(layers, output.hidden_states[1:], strict=True):
            logits = model.classifier(model.vit.layernorm(tokens)[:, 0])
            assert e.score == pytest.approx(float(logits[0, best]), rel=1e-6)
            shares = logits.softmax(-1)[0]
            assert [label for label, _ in e.predictions] == [f"LABEL_{i}" for i in shares.argsort(descending=True)[:5]]
            assert dict(e.predictions)[f"LABEL_{best}"] == pytest.approx(float(shares[best]), rel=1e-5)
    assert np.ptp([e.score for e in layers]) > 5e-4
    assert layers[-1].predictions == scope.explain(PHOTOS[0], method="rollout").predictions
    for number, e in enumerate(layers):
        alone = scope.explain(PHOTOS[0], method="logit-lens", layer=number)
        np.testing.assert_array_equal(e.map, alone.map)
        assert e.target == f"LABEL_{best}"


def test_the_lens_follows_a_target_and_says_nothing_of_classes_where_there_are_none():
    layers = scope_of().logit_lens(PHOTOS[0], target=3)
    assert {e.target for e in layers} == {"LABEL_3"}
    layers = scope_of("dinov2").logit_lens(PHOTOS[0])
    assert all(e.predictions == [] for e in layers)
    own = scope_of("dinov2").explain(PHOTOS[0], method="relevance").score
    assert layers[-1].score == pytest.approx(own, rel=1e-6)


@pytest.mark.usefixtures("as_shipped")
def test_the_lens_follows_one_target():
    with raises(UsageError, "engine.one-target"):
        scope_of().logit_lens(PHOTOS[0], target=[1, 2])


def test_the_lens_is_refused_where_tokens_differ_from_layer_to_layer():
    row = toys_traced.row_of("hf-swin")
    with raises(UnsupportedError, "engine.logit-lens"):
        row.scope().logit_lens(PHOTOS[0])


@pytest.mark.parametrize("options", [{}, {"method": "grad-sam"}])
def test_alike_is_each_pictures_map_with_the_other_as_its_target(options):
    from vitscope import similar_to

    scope = scope_of("dinov2")
    one, other = scope.compare(*PHOTOS, **options)
    method = options.get("method", "relevance")
    assert one.score == pytest.approx(other.score, rel=1e-6)
    for e, picture, target in ((one, PHOTOS[0], PHOTOS[1]), (other, PHOTOS[1], PHOTOS[0])):
        wanted = scope.explain(picture, method=method, target=similar_to(target))
        np.testing.assert_array_equal(e.map, wanted.map)
        assert e.method == method
    with raises(UsageError, "engine.compare-target"):
        scope.compare(*PHOTOS, target=1)
    with raises(UsageError, "engine.compare-method"):
        scope.compare(*PHOTOS, method="rollout")


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("chunk", [0, -3, 2.5])
def test_queries_are_computed_at_least_one_at_a_time(chunk):
    with raises(UsageError, "engine.chunk"):
        scope_of().queries(PHOTOS[0], chunk=chunk)
