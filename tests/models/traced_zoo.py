"""The zoo of traced models, looked at: what several tests ask of each model is computed once."""

import functools
import math

import pytest
import torch
from torch import nn

import vitscope
from tests.models.toys_traced import ROWS
from tests.models.traced_row import picture

BY_NAME = {row.name: row for row in ROWS}
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
quick = pytest.mark.usefixtures("as_shipped")  # annotations are executed by the other tests of the same rows


def rows(choose=lambda row: True):
    """Parameters for the rows chosen."""
    return [pytest.param(row, id=row.name) for row in ROWS if choose(row)]


@functools.cache
def looked_at(name):
    """A model in training mode, with a frozen part, explained; and everything about it before and after."""
    row = BY_NAME[name]
    model = row.model().train()
    [*model.children()][-1].eval()
    next(model.parameters()).requires_grad_(False)
    before, numbers = state(model), weights(model)
    scope = row.scope(model)
    e = scope.explain(picture(row.size), method="rollout", size=row.ask)
    found = (before, state(model), numbers, weights(model))
    next(model.parameters()).requires_grad_(True)
    model.eval()
    return scope, e, found


def scope_of(name):
    return looked_at(name)[0]


@functools.cache
def store_of(name):
    row = BY_NAME[name]
    return scope_of(name).attention(picture(row.size), size=row.ask)


def rollout_of(name):
    return looked_at(name)[1]


def pixels_of(row, seeds=(0,)):
    scope = scope_of(row.name)
    return torch.stack(
        [scope.adapter.prepare(vitscope.images.load_image(picture(row.size, s)), row.ask)[0] for s in seeds]
    )


# raw attention


class Recorded:
    """Every matrix that a softmax over the last axis or the fused kernel makes, while a model runs."""

    def __init__(self, monkeypatch):
        self.matrices = []
        fused, soft = nn.functional.scaled_dot_product_attention, torch.Tensor.softmax

        def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
            assert not dropout_p
            assert not is_causal
            assert not enable_gqa
            scores = query.double() @ key.double().transpose(-1, -2)
            scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
            if attn_mask is not None and attn_mask.dtype == torch.bool:
                scores = scores.masked_fill(~attn_mask, -math.inf)
            elif attn_mask is not None:
                scores = scores + attn_mask.double()
            self.keep(scores, -1)
            return fused(query, key, value, attn_mask, scale=scale)

        def softmax(x, dim=None, *rest, **options):
            options.pop("_stacklevel", None)
            self.keep(x, dim)
            return soft(x, dim, *rest, **options)

        monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", attend)
        for place in (torch, torch.Tensor, nn.functional):
            monkeypatch.setattr(place, "softmax", softmax)

    def keep(self, scores, dim):
        if scores.ndim > 2 and dim in (-1, scores.ndim - 1):
            scores = scores.detach().double()
            weights = (scores - scores.amax(-1, keepdim=True)).exp()
            self.matrices.append(weights / weights.sum(-1, keepdim=True))


# nothing is changed


def state(model):
    """Everything about a model that a look into it could leave changed."""
    modules = {
        name: (
            module.training,
            *(len(getattr(module, hooks)) for hooks in sorted(vars(module)) if "hooks" in hooks),
            tuple((p.data_ptr(), p.requires_grad, p.grad is None) for p in module.parameters(recurse=False)),
        )
        for name, module in model.named_modules()
    }
    config = getattr(model, "config", None)
    return modules, getattr(config, "_attn_implementation", None), getattr(config, "mask_ratio", None)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}
