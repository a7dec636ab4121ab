"""Sabotaged models, part 6: kernels of other packages, by functions of the same signatures, and of newer torch.

xformers 0.0.29: `memory_efficient_attention(query, key, value, attn_bias, p, scale, *, op, output_dtype)` on `(B, N, H,
D)`. flash-attn 2.7: `flash_attn_func`, `flash_attn_qkvpacked_func` on `(B, N, 3, H, D)`, `flash_attn_varlen_func` on
`(total, H, D)` with the places where sequences begin.
"""

from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.flex_attention import flex_attention

from tests.models.sabotaged import HEADS, WIDTH, Tiny, by_hand, rollout, sabotaged

__all__ = ["flash_attn", "xformers_ops"]


def memory_efficient_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: Any = None,
    p: float = 0.0,
    scale: float | None = None,
    *,
    op: Any = None,
    output_dtype: Any = None,
) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    scores = q * (query.shape[-1] ** -0.5 if scale is None else scale) @ k.transpose(-2, -1)
    scores = scores if attn_bias is None else scores + attn_bias
    return (functional.dropout(scores.softmax(-1), p) @ v).transpose(1, 2)


class _FlashAttnFunc(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v)
        parts = (x.detach().transpose(1, 2) for x in (q, k, v))
        return by_hand(*parts, scale=scale)[0].transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0], grads[0], grads[0], None


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Tensor:
    return _FlashAttnFunc.apply(q, k, v, softmax_scale or q.shape[-1] ** -0.5)


def flash_attn_qkvpacked_func(qkv: Tensor, dropout_p: float = 0.0, softmax_scale: float | None = None) -> Tensor:
    return flash_attn_func(*qkv.unbind(2), dropout_p, softmax_scale)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
) -> Tensor:
    out = []
    for start, end in zip(cu_seqlens_q[:-1].tolist(), cu_seqlens_q[1:].tolist(), strict=True):
        a, b, c = (x[start:end].transpose(0, 1) for x in (q, k, v))
        out.append(functional.scaled_dot_product_attention(a, b, c, scale=softmax_scale).transpose(0, 1))
    return torch.cat(out)


xformers_ops, flash_attn = ModuleType("xformers.ops"), ModuleType("flash_attn")
xformers_ops.memory_efficient_attention = memory_efficient_attention  # type: ignore[attr-defined]
for function in (flash_attn_func, flash_attn_qkvpacked_func, flash_attn_varlen_func):
    setattr(flash_attn, function.__name__, function)


@sabotaged("xformers' kernel, written with torch's functions", rollout)
class XFormers(Tiny):
    def mixed(self, layer: int, x: Tensor) -> Tensor:
        if self.kernel is not functional.scaled_dot_product_attention:  # the twin
            return super().mixed(layer, x)
        q, k, v = (part.transpose(1, 2) for part in self.split(layer, x))
        return self.out[layer](xformers_ops.memory_efficient_attention(q, k, v, p=0.0).flatten(2))


@sabotaged("flash-attn's kernel", "tracing.tokens-lost")
class FlashAttention(Tiny):
    def mixed(self, layer: int, x: Tensor) -> Tensor:
        q, k, v = (part.transpose(1, 2) for part in self.split(layer, x))
        if not layer:
            return super().mixed(layer, x)
        return self.out[layer](flash_attn.flash_attn_func(q, k, v, causal=False).flatten(2))


@sabotaged("flash-attn's kernel for queries, keys and values in one tensor", "attention.no-call")
class FlashPacked(Tiny):
    def mixed(self, layer: int, x: Tensor) -> Tensor:
        qkv = self.qkv[layer](x).unflatten(-1, (3, HEADS, WIDTH))
        return self.out[layer](flash_attn.flash_attn_qkvpacked_func(qkv, softmax_scale=WIDTH**-0.5).flatten(2))


@sabotaged("flash-attn's kernel for sequences of their own lengths", "tracing.calls-by-image")
class FlashVarlen(Tiny):
    def mixed(self, layer: int, x: Tensor) -> Tensor:
        b, n = x.shape[:2]
        starts = torch.arange(0, (b + 1) * n, n, dtype=torch.int32)
        q, k, v = (part.transpose(1, 2).flatten(0, 1) for part in self.split(layer, x))
        out = flash_attn.flash_attn_varlen_func(q, k, v, starts, starts, n, n)
        return self.out[layer](out.unflatten(0, (b, n)).flatten(2))


@sabotaged("flex_attention", "attention.no-call")
class Flex(Tiny):
    kernel = staticmethod(flex_attention)


@sabotaged("flex_attention with a bias of its own", "attention.no-call")
class FlexBias(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(HEADS, 17, 17))

    def mixed(self, layer: int, x: Tensor) -> Tensor:
        q, k, v = self.split(layer, x)

        def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return score + self.bias[h, i, j]

        return self.out[layer](flex_attention(q, k, v, score_mod=score_mod).transpose(1, 2).flatten(2))


@sabotaged("nn.MultiheadAttention in a TransformerEncoderLayer, which has a path of its own", rollout)
class Encoder(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(16, HEADS, 16, batch_first=True, norm_first=True) for _ in range(2)
        )

    def block(self, layer: int, x: Tensor) -> Tensor:
        one = self.layers[layer]
        if self.kernel is functional.scaled_dot_product_attention:
            return one(x)
        y = one.norm1(x)  # the twin
        qkv = functional.linear(y, one.self_attn.in_proj_weight, one.self_attn.in_proj_bias)
        q, k, v = (part.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for part in qkv.chunk(3, -1))
        x = x + one.self_attn.out_proj(self.kernel(q, k, v).transpose(1, 2).flatten(2))
        return x + one.linear2(functional.relu(one.linear1(one.norm2(x))))


class _Half(Tiny):
    """The second layer's attention is made by another kernel."""

    other: Any = None

    def mixed(self, layer: int, x: Tensor) -> Tensor:
        if not layer:
            return super().mixed(layer, x)
        return self.out[layer](self.other(*self.split(layer, x)).transpose(1, 2).flatten(2))


@sabotaged("flex_attention in one layer", "tracing.not-followed")
class HalfFlex(_Half):
    other = staticmethod(flex_attention)


@torch.library.custom_op("vitscope_tests::opaque", mutates_args=())
def opaque(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return by_hand(q, k, v)[0].contiguous()


@sabotaged("a custom operator in one layer", "tracing.unsupported-function")
class HalfOperator(_Half):
    other = staticmethod(opaque)


@sabotaged("NumPy in one layer", "tracing.unsupported-function")
class HalfNumpy(_Half):
    @staticmethod
    def other(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.detach().numpy() for x in (q, k, v))
        weights = np.exp(np.einsum("bhid,bhjd->bhij", q, k) / WIDTH**0.5)
        return torch.from_numpy(np.einsum("bhij,bhjd->bhid", weights / weights.sum(-1, keepdims=True), v))


@sabotaged("a script in one layer", "tracing.unseen-function", pool="mean")
class HalfScript(_Half):
    def __init__(self, pool: str) -> None:
        super().__init__(pool)
        self.other = torch.jit.script(_scripted)


def _scripted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-2, -1) / 8**0.5, -1) @ v
