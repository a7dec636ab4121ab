"""Two models on one image: a copy is no distance away, a change shows from its block on, and the rest is refused."""

import copy

import torch

from tests.helpers.errors import raises
from tests.models import toys_traced
from tests.models.toys import PHOTOS, row_of, scope_of
from vitscope.engine.two_models import same_patches
from vitscope.errors import UnsupportedError
from vitscope.geometry import ImageRegion
from vitscope.models.transformers.adapter import TransformersAdapter
from vitscope.scope import Scope


def changed(block):
    """The same model, one block's weights moved."""
    model = copy.deepcopy(row_of("vit").model().double())
    with torch.no_grad():
        for weights in model.vit.layers[block].parameters():
            weights += 0.3 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(0))
    return Scope(TransformersAdapter(model, weights="none"), torch.device("cpu"), torch.float64)


def test_a_model_is_no_distance_from_itself():
    found = scope_of().compare_layers(scope_of(), PHOTOS[0])
    assert len(found.layers) == 3
    assert all(abs(one.cka) < 1e-9 and one.relative == 0 for one in found.layers)


def test_a_change_shows_from_its_block_on():
    found = scope_of().compare_layers(changed(1), PHOTOS[0])
    assert [one.relative > 1e-3 for one in found.layers] == [False, True, True]
    assert [one.cka > 1e-4 for one in found.layers] == [False, True, True]
    assert found.to_dict()["layers"][0]["relative"] == 0


def other_config(**changes):
    """A model like it, but for some of its configuration."""
    model = row_of("vit").model()
    config = copy.deepcopy(model.config)
    for name, value in changes.items():
        setattr(config, name, value)
    return Scope(TransformersAdapter(type(model)(config).double(), weights="none"), torch.device("cpu"), torch.float64)


def test_layers_that_do_not_pair_are_refused():
    with raises(UnsupportedError, "engine.depths-differ"):
        scope_of().compare_layers(other_config(num_hidden_layers=2), PHOTOS[0])


def test_patches_on_other_places_are_refused():
    finer = other_config(patch_size=row_of("vit").model().config.patch_size // 2)
    with raises(UnsupportedError, "engine.patches-differ"):
        scope_of().compare_layers(finer, PHOTOS[0])


def test_tokens_that_are_not_known_are_refused():
    with raises(UnsupportedError, "engine.no-tokens"):
        scope_of().compare_layers(toys_traced.row_of("hf-swin").scope(), PHOTOS[0])


def test_patches_are_the_same_to_half_a_patch():
    whole, cropped = ImageRegion((80, 80), (0, 0, 80, 80), (64, 64)), ImageRegion((80, 80), (8, 8, 72, 72), (64, 64))
    near = ImageRegion((80, 80), (4, 4, 84, 84), (64, 64))
    assert same_patches((4, 4), whole, (4, 4), near)
    assert same_patches((4, 4), whole, (4, 4), cropped)
    assert not same_patches((8, 8), whole, (8, 8), cropped)
    assert not same_patches((4, 4), whole, (4, 5), whole)
