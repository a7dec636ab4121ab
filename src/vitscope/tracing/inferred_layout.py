"""The token layout of a traced model: names of prefix tokens, pooling, and the order that all layers share."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vitscope.geometry import TokenLayout
from vitscope.tracing.records import TracedCall
from vitscope.tracing.token_grid import split_prefix

_KNOWN_NAMES = (
    ("regist", "register"),
    ("reg_token", "register"),
    ("dist", "distillation"),
    ("detection", "detection"),
    ("cls", "cls"),
    ("class", "cls"),
)


def prefix_names(parameters: list[str], counts: list[int]) -> tuple[str, ...]:
    """Name prefix tokens after their parameters, `counts` tokens for each; several of a kind are numbered."""
    names: list[str] = []
    for name, count in zip(parameters, counts, strict=True):
        last = name.rpartition(".")[2].lower()
        word = next((word for part, word in _KNOWN_NAMES if part in last), last or "prefix")
        many = count > 1 or word in ("register", "detection")
        for _ in range(count):
            number = 1 + sum(n == word or n.startswith(word + " ") for n in names)
            names.append(f"{word} {number}" if many or word in names else word)
    return tuple(names)


def infer_layout(
    names: tuple[str, ...], grid: tuple[int, int], readout: np.ndarray, pooled: bool
) -> tuple[TokenLayout, bool]:
    """Return the layout whose readout is nearest to the measured one, and whether the two are equal.

    Args:
        names: of the prefix tokens.
        grid: rows and columns of the patches.
        readout: how much the answer reads of each token, prefix first.
        pooled: an attention call pools the tokens at the end.
    """
    if pooled:
        return TokenLayout(names, grid, "map"), True
    share = readout / max(readout.sum(), 1e-9)
    choices = [TokenLayout(names, grid, "mean"), TokenLayout(names, grid, "mean", bool(names))]
    if names:
        choices += [TokenLayout(names, grid, "cls"), TokenLayout(names, grid, "cls", True)]
    distances = [float(np.abs(choice.readout() - share).sum()) for choice in choices]
    best = int(np.argmin(distances))
    return choices[best], distances[best] < 1e-3


def shared_order(calls: tuple[TracedCall, ...], layout: TokenLayout, counts: list[int]) -> tuple[Tensor | None, bool]:
    """Find where the layout's tokens stand among the keys of the calls, prefix first.

    Returns:
        The places, None where they are in order already; and whether all calls see all tokens in the same places.
    """
    if not calls or any(c.keys.ndim != 3 or c.keys.shape[0] != 4 or c.queries != layout.tokens for c in calls):
        return None, False
    keys = calls[0].keys.detach().as_subclass(Tensor)
    for call in calls:
        if call.keys.shape != keys.shape or not torch.allclose(call.keys.as_subclass(Tensor), keys, atol=1e-2):
            return None, False
    if keys.shape[-1] != layout.tokens or not torch.allclose(keys, keys[:, :1], atol=1e-2):
        return None, False
    leaf = keys[3, 0].round()
    expected = torch.tensor([i + 1.0 for i, n in enumerate(counts) for _ in range(n)], device=leaf.device)
    if not torch.equal(leaf[leaf != 0].sort().values, expected):
        return None, False
    found = split_prefix(keys[:, 0])
    if found is None or found[2] != layout.grid:
        return None, False
    order = torch.cat(found[:2])
    in_order = torch.equal(order, torch.arange(len(order), device=order.device))
    return None if in_order else order, True


def is_plain_rollout(readout: np.ndarray, traced: np.ndarray, matrices: Sequence[Tensor], pooled: bool) -> bool:
    """Return whether plain rollout from the readout gives the traced weights, for these matrices of the layers."""
    r = np.full(len(readout), 1 / len(readout)) if pooled else readout.astype(np.float64)
    for matrix in reversed(matrices):
        r = 0.5 * r + 0.5 * r @ matrix.cpu().double().numpy()
    return bool(np.abs(r - traced).max() < 1e-5)
