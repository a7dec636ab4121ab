"""Rows on attention seen in part: loops, kernels of other packages, custom functions, weights that are changed."""

import numpy as np
import torch
from benchmarks.works_with.table import REFUSED, row
from tests.models.all_sabotaged import SABOTAGED
from tests.models.sabotaged import wanted
from tests.models.traced_row import as_it_is

import vitscope
from vitscope.errors import VitscopeError

KIND = "Attention seen in part"
TWIN = "rollout of a float64 twin whose attention is a plain formula"
REASON = "the reason by its code"

TRIED = {
    "heads in a loop, side by side at last": "heads in a loop, torch.cat",
    "heads in a loop, stacked": "heads in a loop, torch.stack",
    "a list of modules, one for each head": "a module for each head",
    "queries in chunks": "queries in chunks, fused kernel",
    "queries in chunks with a softmax of their own": "queries in chunks, softmax written out",
    "CLS and patches as queries of two calls": "CLS and patches as queries of two calls",
    "xformers' kernel, written with torch's functions": "memory_efficient_attention of xformers' signature, by torch",
    "nn.MultiheadAttention in a TransformerEncoderLayer, which has a path of its own": "nn.TransformerEncoderLayer",
    "blocks under checkpoint": "blocks under torch.utils.checkpoint",
    "attention of the first layer used again in the second": "weights of one layer used again in the next",
    "values rolled by one token": "values rolled against queries",
    "extra keys and values that are learned": "learned extra keys and values",
    "the softmax's strongest weights alone, normalised again": "top weights alone, normalised again",
    "cosine attention": "cosine attention",
    "rotary positions and normalised queries and keys": "RoPE and qk-norm",
    "keys and values shared by the heads": "multi-query attention",
    "windows with a cyclic shift": "shifted windows",
    "class attention: CLS alone attends in the last layer": "class attention",
    "keys before queries: a softmax over the last axis but one": "a softmax over the last axis but one",
    "heads after the keys, in einsums": "einsum 'bqhd,bkhd->bqkh'",
    "heads mixed by einsums before and after the softmax": "talking heads by einsum, as in vit-pytorch's CaiT",
    "causal attention by the kernel": "is_causal=True",
    "residuals by lerp between vectors of unit length, as in nGPT": "residuals by torch.lerp, as in vit-pytorch's nViT",
    "tokens pooled by a softmax over them, as in compact transformers": "sequence pooling, as in CCT",
    "tokens pooled by a softmax over them in an einsum, as in vit-pytorch's CCT": "sequence pooling by an einsum",
    "attention's result times a sigmoid of the tokens": "gated attention",
    "attention's result times a swish of the tokens, as in RetNet": "attention's result times a swish",
    "the mean of the image and of an enlarged crop of it": "the mean over the image and an enlarged crop of it",
}
REFUSALS = {
    "pictures in a loop": "images in a loop",
    "keys in chunks, joined by their log-sum-exp": "keys in chunks",
    "attention in an autograd.Function": "a kernel in an autograd.Function",
    "flash-attn's kernel": "flash_attn_func's signature, hidden in one layer",
    "flash-attn's kernel for queries, keys and values in one tensor": "flash_attn_qkvpacked_func's signature, hidden",
    "flash-attn's kernel for sequences of their own lengths": "flash_attn_varlen_func's signature, by a loop",
    "flex_attention": "flex_attention",
    "softmax of one layer written as exp over sum": "exp over sum in one layer",
    "half of the softmax's weights set to zero": "weights masked after the softmax",
    "attention's result times zero": "attention multiplied with zero",
    "an MLP over tokens beside attention": "an MLP over tokens beside attention",
    "a script in one layer": "TorchScript in one layer",
    "weights summed over the queries by an einsum": "weights summed over their queries by an einsum",
}


def _try(twist: str) -> float | str:
    """Return the largest difference to the twin, or REFUSED where the refusal has the expected code."""
    case = next(case for case in SABOTAGED if case.twist == twist)
    model = case.model()
    pixels = torch.randn(1, 3, *model.size, generator=torch.Generator().manual_seed(3))
    try:
        scope = vitscope.load(model, processor=as_it_is(model.size))
        found = scope.attribute(pixels, method="rollout").maps[0].numpy()
    except VitscopeError as error:
        return REFUSED if error.code == case.truth else f"refused by {error.code}"
    return float(np.abs(found - wanted(case, model, pixels)).max()) if callable(case.truth) else "not refused"


for _twist, _what in TRIED.items():
    row(KIND, _what, against=TWIN)(lambda twist=_twist: _try(twist))
for _twist, _what in REFUSALS.items():
    row(KIND, _what, against=REASON)(lambda twist=_twist: _try(twist))
