"""Copies of a model that are made while it is explained: they run none of vitscope's hooks."""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import fx, nn

import vitscope
from tests.engine.toys_families import PHOTOS, make

PIXELS = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


WAYS = {"deepcopy": copy.deepcopy, "pickle": pickled, "save": saved}


def hooks(model):
    return [
        hook
        for module in model.modules()
        for held in (module._forward_pre_hooks, module._forward_hooks)
        for hook in held.values()
    ]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_copy_made_inside_a_capture_answers_as_the_model(way, elsewhere):
    """It failed: hooks hold locks, which cannot be copied."""
    model = make("generic").eval()
    with torch.no_grad(), vitscope.capture(model):
        twin = ThreadPoolExecutor(1).submit(WAYS[way], model).result(20) if elsewhere else WAYS[way](model)
        assert hooks(model)
        assert torch.equal(model(PIXELS), twin(PIXELS))
    assert not hooks(model)
    assert all("vitscope" not in repr(hook) and hook(None, (), None) is None for hook in hooks(twin))


def test_a_copy_by_a_module_that_copies_itself_runs_none_of_our_hooks():
    model = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    with vitscope.capture(model):
        twin = copy.deepcopy(model)
    assert all("vitscope" not in repr(hook) and hook(twin, ()) is None for hook in hooks(twin))
    assert twin(torch.ones(1, 4)).shape == (1, 4)


def test_hooks_of_the_callers_own_are_copied_as_ever():
    model = make("generic").eval()
    model.head.register_forward_hook(doubled)
    with vitscope.capture(model):
        twin = copy.deepcopy(model)
    assert doubled in twin.head._forward_hooks.values()


def doubled(_module, _args, out):
    return out * 2


def test_how_torch_copies_modules_is_left_alone():
    """A `__deepcopy__` of `nn.Module` would break the copies of modules whose parameters are parametrised."""
    vitscope.load(make("generic")).explain(PHOTOS[0], method="rollout")
    assert not {"__deepcopy__", "__reduce_ex__", "__reduce__"} & vars(nn.Module).keys()
    one = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    assert torch.equal(copy.deepcopy(one)(torch.ones(1, 3)), one(torch.ones(1, 3)))
