"""Attention inside the averaged network: fused calls, softmax times values, nn.MultiheadAttention and einsum."""

from typing import Any

import torch
from torch import Tensor

from vitscope._messages import msg
from vitscope.attention.softmax_tracking import expand_ellipsis
from vitscope.errors import LayoutError
from vitscope.tracing.network import AveragedNetwork, broadcast_shape
from vitscope.tracing.records import CAPTURE_HINT, varies
from vitscope.tracing.rules import argument
from vitscope.tracing.token_tensor import AttentionTensor, TokenTensor, attention_tensor, token_tensor, token_tensors


def fused_attention(
    network: AveragedNetwork,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: Any = 0,
    is_causal: Any = False,
    **_: Any,
) -> Tensor:
    """Run `scaled_dot_product_attention`."""
    if not isinstance(value, TokenTensor):
        raise LayoutError.coded(
            "tracing.values-not-from-image", "the values of an attention call do not come from the image", CAPTURE_HINT
        )
    if value.shape[-3] != query.shape[-3] and query.ndim > 3:
        repeated = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        value = token_tensor(repeated, value)
    return network.attend(value, query.shape[-2], network.event)


def softmax(network: AveragedNetwork, x: TokenTensor, axis: int) -> Tensor:
    """Return an attention matrix where the real forward recorded attention at this softmax; else the tokens."""
    if network.event not in network.events:
        shares = token_tensor(x.view_as(x), x, product=x.product)
        if network.probing and not x.product and varies(x, axis % x.ndim):
            shares.marks |= {"shares"}
        return shares
    probs = torch.zeros((), dtype=x.dtype).expand(x.shape).as_subclass(AttentionTensor)
    probs.event = network.event
    return probs


def multi_head_attention(network: AveragedNetwork, args: Any, kwargs: Any) -> Any:
    """Run `multi_head_attention_forward`."""
    query, value = (argument(args, kwargs, i, n) for i, n in ((0, "query"), (2, "value")))
    heads, weight = (argument(args, kwargs, i, n) for i, n in ((4, "num_heads"), (11, "out_proj_weight")))
    batched = value.ndim == 3
    tokens = value.mean(-1) if batched else value.mean(-1)[:, None]  # (M, B)
    lead = token_tensor(tokens.t()[:, None, :, None].expand(-1, heads, -1, -1), value)
    mixed = network.attend(lead, query.shape[0], network.event)
    out = mixed.mean((1, 3)).t()[..., None].expand(-1, -1, weight.shape[0])
    needs_weights = argument(args, kwargs, 16, "need_weights", True)
    return token_tensor(out if batched else out[:, 0], mixed), (torch.zeros(1) if needs_weights else None)


def matmul(network: AveragedNetwork, a: Any, b: Any, *_: Any) -> Tensor:
    """Multiply: attention with values, tokens with weights, or tokens with tokens."""
    if isinstance(a, AttentionTensor):
        if a.shape[-1] != b.shape[-2]:
            raise LayoutError.coded(
                "tracing.attention-times-shape",
                "attention of shape {shape} is multiplied with {other}",
                shape=tuple(a.shape),
                other=tuple(b.shape),
            )
        return network.attend(b, a.shape[-2], a.event)
    if isinstance(b, AttentionTensor):
        mixed = network.attend(token_tensors(a.transpose(-1, -2), [a]), b.shape[-1], b.event)
        return token_tensor(mixed.transpose(-1, -2), mixed)
    lead = broadcast_shape(a.shape[:-2], b.shape[:-2]) if b.ndim > 1 else a.shape[:-2]
    if isinstance(a, TokenTensor) and isinstance(b, TokenTensor):
        stub = torch.zeros((), dtype=a.dtype).expand(*lead, a.shape[-2], b.shape[-1])
        return token_tensor(stub, a, b, product=True)
    if isinstance(a, TokenTensor) and b.ndim > 1:
        out = a.mean(-1, keepdim=True).expand(*lead, a.shape[-2], b.shape[-1]) if a.ndim > 1 else a
        return network.mix(a, token_tensor(out, a, product=a.product), -1)
    if isinstance(a, TokenTensor) and a.ndim > 1:  # times a vector: one number of all channels
        one = network.mix(a, token_tensor(a.mean(-1, keepdim=True), a, product=a.product), -1)
        return token_tensor(one.squeeze(-1), one, product=one.product)
    # queries from outside with keys from the image; were it no attention, all that follows would mean nothing
    network.lost = network.lost or msg(
        "tracing.lost-left-product", "tokens are multiplied from the left with something that is not attention"
    )
    columns = b.shape[-1:] if b.ndim > 1 else ()
    stub = torch.zeros((), dtype=b.dtype).expand(*lead, *a.shape[-2:-1], *columns)
    return token_tensor(stub, b, product=True)


def einsum(network: AveragedNetwork, equation: str, *operands: Any) -> Tensor:
    """Run an einsum of two operands, each of them attention, tokens or weights."""
    if len(operands) != 2 or "->" not in equation:
        raise LayoutError(
            msg("tracing.einsum-of-tokens", "einsum '{equation}' on tokens is not supported", equation=equation)
        )
    inputs, out = expand_ellipsis(equation, [x.ndim for x in operands]).split("->")
    terms = inputs.split(",")
    sizes = {c: n for term, x in zip(terms, operands, strict=True) for c, n in zip(term, x.shape, strict=True)}
    if any(isinstance(x, AttentionTensor) for x in operands):
        return _einsum_of_attention(network, equation, terms, out, sizes, operands)
    shape = [sizes[c] for c in out]
    tokens = [x for x in operands if isinstance(x, TokenTensor)]
    if len(tokens) == 2:
        return token_tensor(torch.zeros((), dtype=tokens[0].dtype).expand(shape), *tokens, product=True)
    axes = terms[0] if isinstance(operands[0], TokenTensor) else terms[1]
    summed = [i for i, c in enumerate(axes) if c not in out]
    remaining = [c for c in axes if c in out]
    x = tokens[0].mean(summed) if summed else tokens[0].view_as(tokens[0])
    x = x.permute([remaining.index(c) for c in out if c in remaining])
    for i, c in enumerate(out):
        x = x if c in remaining else x.unsqueeze(i)
    return token_tensor(x.expand(shape), tokens[0], product=tokens[0].product)


def _einsum_of_attention(
    network: AveragedNetwork, equation: str, terms: list[str], out: str, sizes: dict[str, int], operands: Any
) -> Tensor:
    which = next(i for i, x in enumerate(operands) if isinstance(x, AttentionTensor))
    probs, value, tokens = terms[which], terms[1 - which], operands[1 - which]
    key = [c for c in probs if c in value and c not in out]
    query = [c for c in probs if c not in value and c in out]
    channel = [c for c in value if c not in probs]
    if out[-2:] == probs[-2:] and not set(out[-2:]) & set(value) and not isinstance(tokens, TokenTensor):
        mixed = torch.zeros((), dtype=operands[which].dtype).expand([sizes[c] for c in out])  # heads, by fixed weights
        weights: Tensor = attention_tensor(mixed, operands[which].event)
        return weights
    lead = [c for c in probs if c not in (*key, *query)]
    if len(key) != 1 or len(query) > 1 or not (query or {*lead} <= {*value}):
        raise LayoutError.coded(
            "tracing.einsum-of-attention",
            "einsum '{equation}' of attention with tokens is not supported",
            equation=equation,
        )
    moved = tokens.permute([value.index(c) for c in [*lead, *key, *channel]]).flatten(len(lead) + 1)
    moved = moved if channel else moved[..., None]
    parents = [x for x in operands if isinstance(x, TokenTensor)]
    within = not query and not varies(moved, len(lead))  # several numbers of a token, as those of experts
    queries = sizes[query[0]] if query else 1
    mixed = network.attend(token_tensor(moved, *parents), queries, operands[which].event, within)
    result = mixed.reshape(*mixed.shape[:-1], *(sizes[c] for c in channel)) if channel else mixed[..., 0]
    result = result if query else result.squeeze(len(lead))
    axes = [*lead, *query, *channel]
    return token_tensor(result.permute([axes.index(c) for c in out]), mixed)
