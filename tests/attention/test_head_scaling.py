"""Heads scaled one by one: each row of a batch by its own weights, however attention is written."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from tests.helpers.errors import raises
from vitscope.attention import CallSite
from vitscope.attention.capture import capture
from vitscope.attention.head_scaling import scale_heads
from vitscope.errors import MethodError


class Attention(nn.Module):
    """The same attention in each of the ways that libraries write it."""

    def __init__(self, style, width=12, heads=3):
        super().__init__()
        self.style, self.heads = style, heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        first = "first" in style
        self.inner = nn.MultiheadAttention(width, heads, batch_first=first) if "module" in style else None

    @property
    def projection(self):
        return self.proj if self.inner is None else self.inner.out_proj

    def forward(self, x):
        if self.inner is not None:
            x = x if self.inner.batch_first else x.transpose(0, 1)
            x = self.inner(x, x, x, need_weights="weights" in self.style)[0]
            return x if self.inner.batch_first else x.transpose(0, 1)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        a = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) if self.style != "fused" else None
        if self.style == "heads first":
            y = scaled_dot_product_attention(*(part.transpose(0, 1) for part in (q, k, v))).transpose(0, 1)
        elif self.style == "lines":
            y = scaled_dot_product_attention(*(part.unflatten(2, (2, 3)) for part in (q, k, v))).flatten(2, 3)
        elif self.style == "fused":
            y = scaled_dot_product_attention(q, k, v)
        elif self.style == "explicit":
            y = a @ v
        elif self.style == "folded":
            y = (a.flatten(0, 1) @ v.flatten(0, 1)).unflatten(0, a.shape[:2])
        elif self.style == "turned":
            y = (v.transpose(-1, -2) @ a.transpose(-1, -2)).transpose(-1, -2)
        else:
            return self.proj(torch.einsum("bhij,bhjd->bihd", a, v).flatten(2))
        return self.proj(y.transpose(1, 2).flatten(2))


AXES = {"heads first": 0, "lines": 1}
STYLES = [*AXES, "fused", "explicit", "turned", "folded", "einsum", "module", "module first", "module weights"]


def two_layers(style):
    torch.manual_seed(0)
    return nn.Sequential(Attention(style), Attention(style)).double().eval(), torch.randn(4, 6, 12).double()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("layer", [0, 1])
def test_each_row_of_a_batch_has_its_own_weights(style, layer):
    model, x = two_layers(style)
    with torch.no_grad(), capture(model) as captured:
        model(x)
    event, axis = captured.attention.call_sites[layer].event, AXES.get(style, 1)
    weights = torch.rand(4, 3, dtype=torch.float64)
    weights[0], weights[1] = torch.tensor([1.0, 0, 1]), 1
    with scale_heads(model, CallSite(event, axis), weights):
        got = model(x)
    with torch.no_grad():
        plain = model(x)
        projection = model[layer].projection.weight
        whole = projection.clone()
        for row in range(4):
            projection.copy_(whole * weights[row].repeat_interleave(4))
            torch.testing.assert_close(got[row : row + 1], model(x[row : row + 1]), rtol=0, atol=1e-12)
        projection.copy_(whole)
    assert (got[0] - plain[0]).abs().max() > 1e-3
    torch.testing.assert_close(got[1], plain[1], rtol=0, atol=1e-14)


def test_a_call_that_is_not_made_is_said():
    model, x = two_layers("fused")
    with raises(MethodError, "attention.call-not-made"), scale_heads(model, CallSite(7, 1), torch.ones(4, 3)):
        model(x)


def test_weights_that_do_not_fit_are_said():
    model, x = two_layers("fused")
    for weights in (torch.ones(4, 5), torch.ones(3, 3)):
        with raises(MethodError, "attention.heads-mismatch"), scale_heads(model, CallSite(0, 1), weights):
            model(x)
    assert torch._C._len_torch_function_stack() == 0


def test_heads_that_are_mixed_with_the_values_are_refused():
    class Mixed(nn.Module):
        def forward(self, x):
            a = (x @ x.mT)[:, None].expand(-1, 2, -1, -1).softmax(-1)
            return torch.einsum("bhij,bjd->bid", a, x)

    model, x = Mixed(), torch.randn(1, 4, 6)
    with capture(model) as captured:
        model(x)
    with (
        raises(MethodError, "attention.heads-mixed"),
        scale_heads(model, captured.attention.call_sites[0], torch.zeros(1, 2)),
    ):
        model(x)
