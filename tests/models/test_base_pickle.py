"""Scopes cross process pools and DataLoader workers: what an adapter was made of is pickled."""

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import vitscope
from tests.engine.toys_families import PHOTOS, make
from vitscope._messages import msg
from vitscope.models.options import ModelOptions
from vitscope.models.transformers.adapter import TransformersAdapter


def upper_half(image):
    """A processor that shows the upper half of a photo."""
    half = np.asarray(image.convert("RGB").crop((0, 0, 32, 18)).resize((32, 32)), np.float32) / 255
    return torch.from_numpy(half).permute(2, 0, 1)


class Wrapped(nn.Module):
    """Around a known model, with an answer of its own."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).logits.softmax(-1)


LOADED = {
    "timm": lambda: vitscope.load(make("timm")),
    "transformers": lambda: vitscope.load(make("transformers"), labels=list("abcde")),
    "generic": lambda: vitscope.load(make("generic"), processor=upper_half),
    "a box": lambda: vitscope.load(make("generic"), processor=upper_half, region=(0, 0, 32, 18)),
    "wrapped": lambda: vitscope.load(Wrapped(make("transformers"))),
}


@pytest.mark.spread
@pytest.mark.parametrize("name", LOADED)
def test_a_scope_from_a_pickle_explains_alike(name):
    scope = LOADED[name]()
    again = pickle.loads(pickle.dumps(scope))
    assert again.model is not scope.model
    for method in ("rollout", "gradcam"):
        one, other = (s.explain(PHOTOS[0], method=method) for s in (scope, again))
        assert np.array_equal(one.map, other.map)
        assert (one.region, one.predictions, one.provenance) == (other.region, other.predictions, other.provenance)


def test_weights_that_changed_since_they_were_loaded_are_changed_there_too():
    model = make("transformers")
    adapter = TransformersAdapter.bound(model, None, ModelOptions(), weights="revision:abc")
    assert pickle.loads(pickle.dumps(adapter)).weights == "revision:abc"
    with torch.no_grad():
        model.classifier.weight.mul_(2)
    adapter.refresh()
    assert pickle.loads(pickle.dumps(adapter)).weights == adapter.weights != "revision:abc"


def test_what_cannot_be_pickled_is_named():
    scope = vitscope.load(make("generic"), processor=lambda image: upper_half(image))
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(scope)


def test_notes_of_the_loading_outlive_a_change_of_the_structure():
    model = make("transformers")
    said = msg("tests.said", "the weights of a file")
    adapter = TransformersAdapter.bound(model, None, ModelOptions(), (said,))
    model.classifier = nn.Linear(16, 3)
    assert adapter.refresh()
    assert said in adapter.notes


def explained(scope):
    return scope.explain(PHOTOS[0], method="rollout").map


class Maps(Dataset):
    def __init__(self, scope):
        self.scope = scope

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return explained(self.scope)


@pytest.mark.slow
def test_pools_and_loaders_with_new_processes():
    scope = vitscope.load(make("timm"))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        found = pool.submit(explained, scope).result(timeout=120)
    (loaded,) = DataLoader(Maps(scope), batch_size=None, num_workers=1, multiprocessing_context=context)
    assert np.array_equal(found, explained(scope))
    assert np.array_equal(np.asarray(loaded), explained(scope))
