"""Corrected gradients: values stay, and each rule is its twin written out with autograd in float64."""

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from vitscope.attention.capture import capture
from vitscope.attention.gradient_rules import GradientRule

D, H, N = 12, 3, 7
STYLES = ["fused", "module", "explicit"]


class Attention(nn.Module):
    def __init__(self, style):
        super().__init__()
        self.style = style
        self.qkv, self.out = nn.Linear(D, 3 * D, bias=False), nn.Linear(D, D, bias=False)
        self.inner = nn.MultiheadAttention(D, H, bias=False, batch_first=True) if style == "module" else None

    def weights(self):
        return (
            (self.inner.in_proj_weight, self.inner.out_proj.weight)
            if self.inner
            else (self.qkv.weight, self.out.weight)
        )

    def forward(self, x):
        if self.inner is not None:
            return self.inner(x, x, x, need_weights=False)[0]
        q, k, v = self.qkv(x).unflatten(-1, (3, H, D // H)).permute(2, 0, 3, 1, 4)
        if self.style == "fused":
            y = scaled_dot_product_attention(q, k, v)
        else:
            y = ((q @ k.transpose(-1, -2)) * (D // H) ** -0.5).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then an MLP with the activation or gate asked for."""

    def __init__(self, style, middle="gelu"):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(D, bias=False), nn.LayerNorm(D, bias=False)
        self.attention, self.middle = Attention(style), middle
        self.up, self.gate, self.down = (nn.Linear(D, D, bias=False) for _ in range(3))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        h = self.up(self.norm2(x))
        if self.middle == "gelu":
            h = gelu(h)
        elif self.middle == "swiglu":
            h = nn.functional.silu(h) * self.gate(self.norm2(x))
        else:
            h = h * torch.sigmoid(1.702 * h)
        return x + self.down(h)


def made(style="fused", middle="gelu"):
    torch.manual_seed(0)
    model = nn.Sequential(Block(style, middle), Block(style, middle)).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.7).add_(torch.randn_like(p) * 0.1)
    return model, torch.randn(2, N, D, dtype=torch.float64)


def gradient(model, x, kind):
    x = x.clone().requires_grad_()
    with capture(model, gradient_rule=GradientRule(kind)):
        y = model(x)
    score = y[:, 0].sum()
    return y.detach(), score.item(), torch.autograd.grad(score, x)[0]


def norm(x, m):
    """With the deviation held fixed."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (x.var(-1, keepdim=True, unbiased=False) + m.eps).sqrt().detach() * m.weight


def half(x, part=0.5):
    return part * x + (1 - part) * x.detach()


def twin(model, x, kind):
    for block in model:
        first, last = block.attention.weights()
        z = norm(x, block.norm1)
        q, k, v = (z @ first.T).unflatten(-1, (3, H, D // H)).permute(2, 0, 3, 1, 4)
        if kind == "libra":
            a = (q @ k.mT * (D // H) ** -0.5).softmax(-1).detach()
            y = a @ v
        else:
            a = (half(q) @ half(k).mT * (D // H) ** -0.5).softmax(-1)
            y = half(a) @ half(v)
        x = x + y.transpose(1, 2).flatten(2) @ last.T
        z = norm(x, block.norm2)
        h = block.up(z)
        if block.middle == "gelu":
            h = h * (gelu(h) / h).detach()
        elif block.middle == "swiglu":
            silu = h * torch.sigmoid(h).detach()
            h = half(silu) * half(block.gate(z))
        else:
            h = h * torch.sigmoid(1.702 * h).detach()
        x = x + block.down(h)
    return x


@pytest.mark.parametrize("kind", ["libra", "attnlrp"])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("middle", ["gelu", "swiglu", "quick"])
def test_each_rule_is_its_twin(style, kind, middle):
    model, x = made(style, middle)
    plain, _, _ = gradient(model, x, "plain")
    value, _, grad = gradient(model, x, kind)
    torch.testing.assert_close(value, plain, rtol=1e-10, atol=1e-12)
    given = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(twin(model, given, kind)[:, 0].sum(), given)
    torch.testing.assert_close(grad, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("middle", ["gelu", "swiglu", "quick"])
def test_libra_loses_no_relevance(style, middle):
    """Without biases input times gradient is the score; the plain gradient's is not."""
    model, x = made(style, middle)
    _, score, grad = gradient(model, x, "libra")
    assert (x * grad).sum().item() == pytest.approx(score, rel=1e-8)
    _, _, grad = gradient(model, x, "plain")
    assert (x * grad).sum().item() != pytest.approx(score, rel=1e-2)


@pytest.mark.parametrize("style", STYLES)
def test_plain_changes_nothing(style):
    model, x = made(style)
    _, _, grad = gradient(model, x, "plain")
    given = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(model(given)[:, 0].sum(), given)
    torch.testing.assert_close(grad, wanted, rtol=1e-8, atol=1e-12)


def test_rms_norms_and_activations_at_zero():
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.RMSNorm(D, eps=1e-6)
            self.inner = nn.Sequential(nn.Linear(D, D), nn.GELU())

        def forward(self, x):
            return self.inner(self.norm(x)) + gelu(torch.zeros_like(x) * x)

    model, x = Small().double(), torch.randn(1, 2, D, dtype=torch.float64)
    _, _, grad = gradient(model, x, "libra")
    assert grad.isfinite().all()
    given = x.clone().requires_grad_()
    z = given / (given.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt().detach() * model.norm.weight
    h = model.inner[0](z)
    wanted = (h * (gelu(h) / h).detach())[:, 0].sum()
    torch.testing.assert_close(grad, torch.autograd.grad(wanted, given)[0], rtol=1e-8, atol=1e-10)
