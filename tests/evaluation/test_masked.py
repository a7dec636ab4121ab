"""The model's answer without some patches, beside the same done by hand on pixels and on tokens."""

import pytest
import torch

from tests.helpers.errors import raises
from tests.models.toys import PHOTOS, scope_of
from vitscope.errors import UnknownNameError, UnsupportedError, UsageError
from vitscope.evaluation.masked import patch_masker
from vitscope.images import load_image


def pixels_of(scope, photo):
    return scope.adapter.prepare(load_image(photo))[0][None].double()


def shares(scope, pixels):
    with torch.no_grad():
        return scope.model(pixel_values=pixels).logits.softmax(-1)[0]


def test_hidden_patches_have_the_mean_colour():
    scope = scope_of()
    pixels, (gh, gw) = pixels_of(scope, PHOTOS[0]), scope.layout.grid
    down, across = pixels.shape[2] // gh, pixels.shape[3] // gw
    painted = pixels.clone()
    for patch in (0, gw + 1):
        r, c = divmod(patch, gw)
        part = painted[:, :, r * down : (r + 1) * down, c * across : (c + 1) * across]
        part[:] = pixels.mean((2, 3), keepdim=True)
    found, wanted = scope.predict_without(PHOTOS[0], [gw + 1, 0, 0]), shares(scope, painted)
    best = int(shares(scope, pixels).argmax())
    assert found.patches == (0, gw + 1)
    assert found.score == pytest.approx(float(wanted[best]), abs=1e-9)
    assert found.whole == pytest.approx(float(shares(scope, pixels)[best]), abs=1e-9)
    assert found.score != pytest.approx(found.whole, abs=1e-6)
    assert [p for _, p in found.predictions] == pytest.approx(wanted.topk(len(found.predictions)).values.tolist())


def test_dropped_patches_are_no_tokens_any_more():
    scope = scope_of()
    model, pixels = scope.model, pixels_of(scope, PHOTOS[0])
    gone = [1, 2, scope.layout.grid[1]]
    with torch.no_grad():
        tokens = model.vit.embeddings(pixels)
        kept = [0] + [1 + patch for patch in range(tokens.shape[1] - 1) if patch not in gone]
        z = tokens[:, kept]
        for block in model.vit.layers:
            z = block(z)
            z = z[0] if isinstance(z, tuple) else z
        wanted = model.classifier(model.vit.layernorm(z)[:, 0]).softmax(-1)[0]
    found = scope.predict_without(PHOTOS[0], gone, "drop", target=1)
    assert found.score == pytest.approx(float(wanted[1]), abs=1e-6)
    assert found.score != pytest.approx(scope.predict_without(PHOTOS[0], gone, target=1).score, abs=1e-7)


def test_nothing_hidden_is_the_whole_picture():
    ready = patch_masker(scope_of().engine, PHOTOS[1])
    for mode in ("fill", "drop"):
        found = ready.without([], mode)
        assert found.score == pytest.approx(found.whole, abs=1e-9)
        assert found.forward_ms > 0


def test_a_model_without_classes_keeps_its_feature_or_not():
    scope = scope_of("dinov2")
    found = scope.predict_without(PHOTOS[0], [0, 1, 2, 3])
    assert (found.predictions, found.whole) == ([], pytest.approx(1))
    assert -1 <= found.score < 1 - 1e-9
    assert "cosine" in found.words


def test_the_model_is_left_as_it_was():
    scope = scope_of()
    before = shares(scope, pixels_of(scope, PHOTOS[0]))
    scope.predict_without(PHOTOS[0], [0, 5], "drop")
    assert torch.equal(shares(scope, pixels_of(scope, PHOTOS[0])), before)


@pytest.mark.parametrize("hidden", [[-1], [10**6], [0, 25000]])
def test_patches_that_are_not_there(hidden):
    with raises(UsageError, "evaluation.no-such-patch"):
        scope_of().predict_without(PHOTOS[0], hidden)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("hidden", [[float("nan")], ["x"], [1.5]])
def test_patches_that_are_no_numbers(hidden):
    with raises(UsageError, "evaluation.patch-numbers"):
        scope_of().predict_without(PHOTOS[0], hidden)


def test_what_cannot_be_asked_says_so():
    with pytest.raises(UnknownNameError, match="no mode"):
        scope_of().predict_without(PHOTOS[0], [0], "remove")
    with raises(UsageError, "engine.one-target"):
        scope_of().predict_without(PHOTOS[0], [0], target=[0, 1])
    with raises(UnsupportedError, "evaluation.no-drop", "evaluation.no-drop.hint"):
        scope_of("beit").predict_without(PHOTOS[0], [0], "drop")
