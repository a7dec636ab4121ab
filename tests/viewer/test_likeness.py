"""Features of a page in 8 bits against cosines in float64, and their colours."""

import copy

import numpy as np
import pytest
import torch

import vitscope
from tests.models import toys
from vitscope.viewer.likeness import colours, directions, pack_features


def exact(scope, photo):
    """The directions of the tokens after the model's last norm, by the model itself."""
    pixels = scope.prepare(photo).pixels[None]
    with torch.no_grad():
        tokens = scope.model.base_model(pixel_values=pixels).last_hidden_state[0].double().numpy()
    return tokens / np.linalg.norm(tokens, axis=1, keepdims=True)


def forward_of(scope, photo):
    return scope.engine.forward(scope.prepare(photo).pixels[None], tokens=True)


def test_cosines_are_off_by_what_the_page_says_and_no_more(tiny_view, tiny_scope, photo):
    told, unit = tiny_view.header["likeness"], exact(tiny_scope, photo)
    found = directions(tiny_view.arrays["features"])
    off = np.abs(found @ found.T - unit @ unit.T).max()
    assert off == pytest.approx(told["error"], rel=1e-3)
    assert 0 < off < 5e-3
    assert told["normed"] is True
    assert "after the model's last norm" in told["where"]


def test_two_photos_have_their_colours_in_common(tiny_pair):
    parts = [directions(one.arrays["features"])[1:] for one in (tiny_pair, tiny_pair.other)]
    together = np.concatenate(parts)
    z = together - together.mean(0)
    components = z @ np.linalg.svd(z, full_matrices=False)[2][:3].T
    shown = np.concatenate([one.arrays["pca"].array() for one in (tiny_pair, tiny_pair.other)]).astype(float)
    for i in range(3):
        low, high = np.percentile(components[:, i], (1, 99))
        wanted = 255 * np.clip((components[:, i] - low) / (high - low), 0, 1)
        assert min(np.abs(shown[:, i] - one).max() for one in (wanted, 255 - wanted)) < 1
    assert not np.array_equal(tiny_pair.arrays["pca"].array(), colours([tiny_pair.arrays["features"]], 1)[0])


def test_a_model_without_such_a_norm_says_which_tokens_are_meant(photo):
    scope = toys.scope_of("beit", torch.float32)
    told, arrays = pack_features(scope.engine, forward_of(scope, photo), 20)
    assert (told["normed"], "after the last block" in told["where"]) == (False, True)
    assert set(arrays) == {"features", "pca"}


def test_features_that_take_too_much_of_a_page_are_left_out(tiny_scope, photo):
    forward = forward_of(tiny_scope, photo)
    size = pack_features(tiny_scope.engine, forward, 20)[1]["features"].nbytes / 1e6
    assert pack_features(tiny_scope.engine, forward, 5.01 * size)[0]["why"] == ""
    told, arrays = pack_features(tiny_scope.engine, forward, 4.99 * size)
    assert "more than a fifth" in told["why"]
    assert arrays == {}


def test_a_token_without_a_direction_is_told(tiny_scope, photo):
    forward = forward_of(tiny_scope, photo)
    forward.states.final = copy.deepcopy(forward.states.final)
    forward.states.final[0, 3] = 0
    told, arrays = pack_features(tiny_scope.engine, forward, 20)
    assert "all zero" in told["why"]
    assert arrays == {}


@pytest.mark.slow
def test_layers_on_other_grids_have_none_and_the_page_says_why(photo):
    import timm

    torch.manual_seed(0)
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, window_size=2, embed_dim=32, depths=(1, 1, 2, 1)
    )
    scope = vitscope.load(model.eval(), processor=lambda image: _pixels(image, 64))
    made = scope.view(photo, methods=("random",), measure=False)
    why = made.header["likeness"]["why"]
    assert "tokens" in why
    assert {"what": "what is like a patch", "why": why} in made.header["missing"]
    assert not {"features", "pca"} & set(made.arrays)


def _pixels(image, size):
    array = np.asarray(image.convert("RGB").resize((size, size)), np.float32) / 255
    return torch.from_numpy(array).permute(2, 0, 1)
