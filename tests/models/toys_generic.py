"""Models that no library knows, around any kind of attention."""

import torch
from torch import nn
from torch.nn import functional

import vitscope
from tests.models.traced_row import as_it_is

D, HEADS, WIDTH = 32, 4, 8


class ViT(nn.Module):
    """A Vision Transformer around any kind of attention.

    Args:
        block: what mixes tokens.
        size: of the picture; registers: tokens *after* the patches; pool: "cls" or "mean".
    """

    def __init__(self, block, size=(32, 32), registers=0, pool="cls", depth=2):
        super().__init__()
        self.size, self.pool = size, pool
        self.stem = nn.Conv2d(3, D, 8, 8)
        self.cls = nn.Parameter(torch.randn(1, 1, D)) if pool == "cls" else None
        self.register_tokens = nn.Parameter(torch.randn(1, registers, D)) if registers else None
        self.places = nn.Parameter(torch.randn(1, size[0] * size[1] // 64, D))
        self.layers = nn.ModuleList(block() for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, 5)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2) + self.places
        tokens = x.shape[1]
        if self.cls is not None:
            x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        if self.register_tokens is not None:
            x = torch.cat([x, self.register_tokens.expand(len(x), -1, -1)], 1)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return self.head(x[:, 0] if self.pool == "cls" else x[:, :tokens].mean(1))


class Attention(nn.Module):
    """Pre-norm attention and an MLP; subclasses attend. `seen` are the matrices (B, H, N, N) by the plain formula."""

    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(D), nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.mlp = nn.Sequential(nn.LayerNorm(D), nn.Linear(D, D), nn.GELU(), nn.Linear(D, D))
        self.bias = nn.Parameter(torch.randn(HEADS, 1, 64))  # for those that use it
        self.seen = []
        with torch.no_grad():
            self.qkv.weight.mul_(3)

    def heads(self, x):
        return (part.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))

    def forward(self, x):
        y = self.norm(x)
        x = x + self.out(self.attend(y))
        return x + self.mlp(x)

    def by_hand(self, y):
        q, k, _ = self.heads(y)
        return (q.double() @ k.double().mT / WIDTH**0.5).softmax(-1)


class Fused(Attention):
    def attend(self, y):
        q, k, v = self.heads(y)
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class ScaledFirst(Attention):
    def attend(self, y):
        q, k, v = self.heads(y)
        return ((q * WIDTH**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1).matmul(v).transpose(1, 2).flatten(2)


class ScaledAfter(Attention):
    def attend(self, y):
        q, k, v = self.heads(y)
        return (torch.softmax((q @ k.mT) / WIDTH**0.5, -1) @ v).transpose(1, 2).flatten(2)


class Biased(Attention):
    def attend(self, y):
        q, k, v = self.heads(y)
        scores = torch.matmul(q, k.transpose(2, 3)) * WIDTH**-0.5 + self.bias[:, :, : y.shape[1]]
        return (functional.softmax(scores, dim=-1) @ v).transpose(1, 2).flatten(2)

    def by_hand(self, y):
        q, k, _ = self.heads(y)
        return (q.double() @ k.double().mT / WIDTH**0.5 + self.bias[:, :, : y.shape[1]].double()).softmax(-1)


class Einsum(Attention):
    """Heads third, as `b n h d`, all the way."""

    def attend(self, y):
        q, k, v = (part.unflatten(-1, (HEADS, WIDTH)) for part in self.qkv(y).chunk(3, -1))
        probs = torch.einsum("bihd,bjhd->bhij", q * WIDTH**-0.5, k).softmax(-1)
        return torch.einsum("bhij,bjhd->bihd", probs, v).flatten(2)


class HeadsInTheBatch(Attention):
    """Heads folded into the batch, and `bmm`."""

    def attend(self, y):
        q, k, v = (part.flatten(0, 1) for part in self.heads(y))
        probs = nn.Softmax(dim=2)(torch.bmm(q, k.transpose(1, 2)) * WIDTH**-0.5)
        return torch.bmm(probs, v).unflatten(0, (-1, HEADS)).transpose(1, 2).flatten(2)


class HeadsFirst(Attention):
    """Heads before the batch: `h b n d`."""

    def attend(self, y):
        q, k, v = (part.transpose(0, 1) for part in self.heads(y))
        return ((q @ k.mT) * WIDTH**-0.5).softmax(-1).matmul(v).permute(1, 2, 0, 3).flatten(2)


class KeysFirst(Attention):
    """The matrix transposed: columns of keys by queries times values."""

    def attend(self, y):
        q, k, v = self.heads(y)
        probs = ((q @ k.mT) * WIDTH**-0.5).softmax(-1)
        return (v.transpose(-2, -1) @ probs.transpose(-2, -1)).transpose(-2, -1).transpose(1, 2).flatten(2)


class MultiHead(Attention):
    weights = False

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(D, HEADS, batch_first=True)
        with torch.no_grad():
            self.attention.in_proj_weight.mul_(3)

    def attend(self, y):
        return self.attention(y, y, y, need_weights=self.weights)[0]

    def by_hand(self, y):
        projected = functional.linear(y, self.attention.in_proj_weight, self.attention.in_proj_bias)
        q, k, _ = (part.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for part in projected.chunk(3, -1))
        return (q.double() @ k.double().mT / WIDTH**0.5).softmax(-1)


class MultiHeadWithWeights(MultiHead):
    weights = True


class Encoder(nn.TransformerEncoderLayer):
    def __init__(self):
        super().__init__(D, HEADS, 48, batch_first=True, norm_first=True)
        with torch.no_grad():
            self.self_attn.in_proj_weight.mul_(3)

    def by_hand(self, y):
        return MultiHead.by_hand(type("", (), {"attention": self.self_attn}), y)

    @property
    def norm(self):
        return self.norm1


KINDS = [Fused, ScaledFirst, ScaledAfter, Biased, Einsum, HeadsInTheBatch, HeadsFirst, KeysFirst]
KINDS += [MultiHead, MultiHeadWithWeights, Encoder]


def made(kind, seed=0, **options):
    torch.manual_seed(seed)
    return ViT(kind, **options).eval()


def loaded(model):
    return vitscope.load(model, processor=as_it_is(model.size))


def rows_by_hand(model, pixels):
    """The matrices of each layer by the plain formula, from what goes into its norm."""
    inputs = []
    handles = [layer.norm.register_forward_pre_hook(lambda _m, args: inputs.append(args[0])) for layer in model.layers]
    model(pixels)  # with gradients: torch then leaves its fused encoder layers
    for handle in handles:
        handle.remove()
    return [layer.by_hand(layer.norm(x)).detach() for layer, x in zip(model.layers, inputs, strict=True)]


class OneHeadInWindows(nn.Module):
    """One head, windows on an axis of their own: (B, 1, windows, tokens, D)."""

    def __init__(self, heads_axis=True):
        super().__init__()
        self.qkv, self.heads_axis = nn.Linear(D, 3 * D), heads_axis
        with torch.no_grad():
            self.qkv.weight.mul_(4)

    def matrices(self, x):
        q, k, v = self.qkv(x.unflatten(1, (-1, 4))).chunk(3, -1)
        return (q @ k.mT / D**0.5).softmax(-1), v

    def forward(self, x):
        parts = self.qkv(x.unflatten(1, (-1, 4))).chunk(3, -1)
        q, k, v = (part[:, None] if self.heads_axis else part for part in parts)
        out = functional.scaled_dot_product_attention(q, k, v)
        return x + (out[:, 0] if self.heads_axis else out).flatten(1, 2)


# vit-pytorch

_P = {"image_size": 32, "patch_size": 8, "num_classes": 5, "dim": 32, "depth": 2, "heads": 4, "mlp_dim": 48}


def vit_pytorch(module, name, **options):
    import importlib

    torch.manual_seed(0)
    return getattr(importlib.import_module(f"vit_pytorch.{module}"), name)(**options).eval()
