"""Finding out what a model does with tokens, from one forward and one run of its averaged network.

The run's input is not a photo but positions: four pictures that say 1, x, y and 0. Averages carry positions through the
model's own code, so that each attention call tells where its keys lie, tokens from outside (CLS, registers) stand out
by saying nothing, and what the answer is read from is a gradient.
"""

import traceback
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitscope.attention.capture import RecordedCall, evaluating, uncompiled
from vitscope.errors import LayoutError
from vitscope.geometry import TokenLayout
from vitscope.tracing.averaged import AveragedNetworkMode
from vitscope.tracing.records import CallSite, TokenMerge
from vitscope.tracing.token_tensor import Plan, TokenTensor, parameter_names, shadow_of

__all__ = ["NO_HEADS", "Run", "Trace", "averaged", "grid_of", "positions", "trace", "uniform"]

Run = Callable[[Tensor], Tensor]
NO_HEADS = -1
_KNOWN_NAMES = (
    ("regist", "register"),
    ("reg_token", "register"),
    ("dist", "distillation"),
    ("detection", "detection"),
    ("cls", "cls"),
    ("class", "cls"),
)


@dataclass(frozen=True, eq=False)
class Trace:
    """What a model does with the tokens of an input of one size.

    Attributes:
        layers: events of the attention calls that a residual takes in, in order.
        pool: event of the call that pools the tokens at the end, or None.
        channels: events that mix channels, not tokens.
        heads: which of the leading axes are heads, by event.
        finest: the finest tokens, which maps are drawn on.
        leaves: how many tokens each leaf (CLS, registers) brings; 0 for one that no answer reads, such as what is
            joined to keys alone.
        layout: prefix names, grid and pooling; exact: the answer is read just so.
        isotropic: every layer sees all tokens of the layout; reorder: where they are, prefix first, None if they are.
        readout: how much of each token of the layout the answer starts from, along the residual path.
        queries: how much of each pooling query the answer reads, or None.
        differential: the model subtracts one attention from another.
        together: each picture of a batch has its own answer; else their tokens lie in one row, as Pixtral's do.
        events: all attention calls of a real forward; sizes: queries and keys of each layer, in one window.
    """

    layers: tuple[int, ...]
    pool: int | None
    channels: frozenset[int]
    heads: dict[int, int]
    finest: "Finest"
    leaves: tuple[int, ...]
    layout: TokenLayout
    exact: bool
    isotropic: bool
    reorder: Tensor | None
    readout: np.ndarray
    queries: np.ndarray | None
    differential: bool
    together: bool
    events: frozenset[int]
    sizes: tuple[tuple[int, int], ...]


def averaged(
    run: Run,
    model: nn.Module,
    pixels: Tensor,
    plan: Plan,
    seen: Collection[int],
    watch: Callable[[AveragedNetworkMode], AbstractContextManager[object]] | None = None,
    **options: Any,
) -> tuple[AveragedNetworkMode, Tensor, Tensor]:
    """Run the averaged network on `pixels`: the mode with what it met, its input, and the output's mean per picture."""
    network = AveragedNetworkMode(plan, frozenset(seen), named=parameter_names(model), **options)
    with torch.inference_mode(False), torch.enable_grad():
        start = pixels.detach().clone().requires_grad_()
        shadow = shadow_of(start * 1)
    with evaluating(model), uncompiled(model), watch(network) if watch else nullcontext(), network.running():
        try:
            out = run(shadow)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            if not _ours(error):
                raise
            what = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            what = network.lost or what
            raise LayoutError(
                f"where the tokens of {type(model).__name__} go is not understood: {what}",
                "vitscope.capture(model) gives raw attention of any model",
            ) from error
    if not isinstance(out, TokenTensor) or not out.requires_grad:
        why = f": {network.lost}" if network.lost else ""
        raise LayoutError(
            f"no attention with a softmax leads from the picture to the answer of {type(model).__name__}{why}",
            "vitscope.capture(model) gives raw attention of any model",
        )
    return network, start, out.as_subclass(Tensor).flatten(1).mean(1)


def _ours(error: BaseException) -> bool:
    """Was it raised in a rule of the averaged network, not by the model's own code?"""
    names = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return any(
        Path(name).parent.name == "tracing" and Path(name).stem in ("network", "rules", "shadow") for name in names
    )


@torch.inference_mode(False)
@torch.enable_grad()
def trace(run: Run, model: nn.Module, size: tuple[int, int], seen: dict[int, RecordedCall]) -> Trace:
    """Understand a model at an input of `(Hi, Wi)` pixels.

    Args:
        run: from pixels to the tensor that the answer is, `(B, C)` or `(B, N, C)`.
        model: the module that `run` calls.
        size: the input's height and width.
        seen: what a capture of one forward at that size saw.

    Raises:
        LayoutError: something on the way is not understood, or tokens do not fill a grid.
    """
    values = positions(size, next(model.parameters()).device)
    plan = Plan()
    network, start, out = averaged(run, model, values, plan, seen, probing=True)
    calls = [call for call in network.calls if not call.channels]
    if not calls:
        what = "its attention is between channels" if network.calls else "no softmax is multiplied with tokens"
        raise LayoutError(f"{type(model).__name__} has no attention between tokens", what)
    sizes = {call.event: call.keys.shape[-1] for call in calls}
    read = uniform(plan, network)
    finest = _finest(network.merges, start, out)
    leaves = [leaf for _, leaf in network.leaves]
    reached = torch.autograd.grad(out.sum(), leaves, allow_unused=True, retain_graph=True) if leaves else ()
    parts = finest.values(network.merges, start)
    tensors = [*(values for values, _ in parts), *leaves]

    counts = [0 if g is None else leaf.numel() // leaf.shape[-1] // 4 for g, leaf in zip(reached, leaves, strict=True)]

    def pulled() -> np.ndarray:
        grads = torch.autograd.grad(out.sum(), tensors, allow_unused=True, retain_graph=True)
        told = zip(grads[len(parts) :], leaves, counts, strict=True)
        rows = [prefix_tokens(g, t, 4)[0] for g, t, count in told if count]
        weights: np.ndarray = torch.cat([*rows, finest.laid(grads[: len(parts)], parts, 4)[0]]).cpu().numpy()
        return weights

    alike = pulled()
    plan.keep, plan.mix = 1.0, 0.0
    readout = pulled()
    joined = tuple(call for call in calls if call.joined)
    loose = [call for call in calls if not call.joined and call.event in read]
    names = _names([name for name, _ in network.leaves], counts)
    if len(readout) != len(names) + finest.grid[0] * finest.grid[1]:
        raise LayoutError(
            f"{type(model).__name__} reads {len(readout) - finest.grid[0] * finest.grid[1]} numbers from outside the "
            f"picture beside its {finest.grid[0]} x {finest.grid[1]} patches: which tokens these are is not understood",
            "vitscope.capture(model) gives raw attention of any model",
        )
    pooled = bool(loose) and loose[-1].event > max((c.event for c in joined), default=-1)
    layout, exact = _layout(names, finest.grid, readout, pooled)
    reorder, isotropic = _isotropic(joined, layout, counts)
    isotropic = isotropic and not network.parallel
    if layout.pooling == "map":  # the pooling may leave the prefix out
        isotropic = isotropic and sizes[loose[-1].event] == layout.tokens and reorder is None
    return Trace(
        layers=tuple(call.event for call in joined),
        pool=loose[-1].event if layout.pooling == "map" else None,
        channels=frozenset(call.event for call in network.calls if call.channels),
        heads={call.event: _head_axis(call, seen[call.event]) for call in calls},
        finest=finest,
        leaves=tuple(counts),
        layout=layout,
        exact=exact,
        isotropic=isotropic and _as_plain(readout, alike, len(joined), bool(pooled)),
        reorder=reorder,
        readout=readout,
        queries=_queries(read[loose[-1].event]) if layout.pooling == "map" else None,
        differential=network.differential,
        together=len(out) == len(values),
        events=frozenset(seen),
        sizes=tuple((call.queries, sizes[call.event]) for call in joined),
    )


def positions(size: tuple[int, int], device: torch.device) -> Tensor:
    """The four pictures `(4, 3, Hi, Wi)` that say 1, x, y and 0."""
    ys, xs = (torch.arange(n, dtype=torch.float32) + 0.5 for n in size)
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    return torch.stack([torch.ones_like(x), x, y, torch.zeros_like(x)])[:, None].expand(4, 3, -1, -1).to(device)


def uniform(plan: Plan, network: AveragedNetworkMode) -> dict[int, Tensor]:
    """Attention between tokens is uniform from now on, beside a residual of the same weight; what calls are asked."""
    sizes = {call.event: call.keys.shape[-1] for call in network.calls if not call.channels}
    read: dict[int, Tensor] = {}

    def uniformly(event: int, r: Tensor) -> Tensor:
        read[event] = r
        return r.sum(-1, keepdim=True).expand(*r.shape[:-1], sizes[event]) / sizes[event]

    plan.attend, plan.active = uniformly, frozenset(sizes)
    plan.keep, plan.mix = 0.5, 0.5
    return read


def _queries(r: Tensor) -> np.ndarray:
    """Weights `(4, ..., queries)` of a pooling's queries as shares of the first picture."""
    weights = r[:1].reshape(-1, r.shape[-1]).sum(0)
    shares: np.ndarray = (weights / weights.sum()).cpu().numpy()
    return shares


def _tokens(grad: Tensor | None, like: Tensor, axis: int, batch: int) -> Tensor:
    """A gradient summed over channels: `(B, tokens)`, also where windows are folded into the batch."""
    if grad is None:
        grad = torch.zeros_like(like)
    grad = grad.as_subclass(Tensor)
    return (grad.sum(axis) if axis < grad.ndim else grad).reshape(batch, -1)


def prefix_tokens(grad: Tensor | None, leaf: Tensor, batch: int) -> Tensor:
    """A gradient of a leaf as weights `(B, tokens)` of its tokens."""
    return _tokens(grad, leaf, leaf.ndim - 1, batch)


@dataclass(frozen=True, eq=False)
class Finest:
    """The finest tokens, as parts of the averaged network.

    Attributes:
        merges: numbers of the merges that make them; everything that the answer reads passes through these. None of
            them where two grids are side by side: then the pixels stand for them, in cells of the finer grid.
        order: where each token goes on the grid, row by row.
        grid: rows and columns.
    """

    merges: tuple[int, ...]
    order: Tensor
    grid: tuple[int, int]

    def values(self, merges: list[TokenMerge], start: Tensor) -> list[tuple[Tensor, int]]:
        """The tensors to take gradients of, with their channel axes."""
        return [(merges[i].values, merges[i].axis) for i in self.merges] or [(start, 1)]

    def laid(self, grads: Sequence[Tensor | None], parts: list[tuple[Tensor, int]], batch: int) -> Tensor:
        """Gradients of those tensors as weights `(B, gh*gw)`, row by row."""
        tokens = [_tokens(g, like, axis, batch) for g, (like, axis) in zip(grads, parts, strict=True)]
        total = torch.stack(tokens).sum(0)
        if self.merges:
            laid = torch.zeros_like(total)
            laid[..., self.order] = total
            return laid
        gh, gw = self.grid
        height, width = parts[0][0].shape[2:]
        return total.reshape(batch, gh, height // gh, gw, width // gw).sum((2, 4)).flatten(1)


def _finest(merges: list[TokenMerge], start: Tensor, out: Tensor) -> Finest:
    """The last merges before any attention that everything passes through, and the grid that their tokens fill."""
    batch = start.shape[0]
    candidates = [i for i, merge in enumerate(merges) if merge.values.numel() // batch]
    tensors = [merges[i].values for i in candidates]
    grads = torch.autograd.grad(out.sum(), [start, *tensors], allow_unused=True, retain_graph=True)
    total = 0.0 if grads[0] is None else float(grads[0][0].sum())
    groups: list[tuple[list[int], float, Tensor, Tensor, tuple[int, int]]] = []
    for i, grad in reversed(list(zip(candidates, grads[1:], strict=True))):
        mass = 0.0 if grad is None else float(_tokens(grad, merges[i].values, merges[i].axis, batch)[0].sum())
        if total < 1e-6 or mass < 1e-3 * total:
            continue
        values = merges[i].values.as_subclass(Tensor).detach().mean(merges[i].axis).reshape(batch, -1)
        placed = grid_of(values)
        if placed is None:
            continue
        order, grid = placed
        if mass > (1 - 1e-3) * total:  # more than all, where a later part of the model pads
            return Finest((i,), order, grid)
        if not merges[i].real:
            continue
        alike = next((g for g in groups if g[4] == grid and torch.equal(g[3], order)), None)
        members, mass = ([i, *alike[0]], mass + alike[1]) if alike else ([i], mass)
        if abs(mass - total) < 1e-3 * total:
            return Finest(tuple(members), order, grid)
        if mass < total:  # two merges side by side, such as a shortcut's and a branch's: they may add up
            groups = [g for g in groups if g is not alike] + [(members, mass, values, order, grid)]
    height, width = start.shape[2:]
    fine = [g for g in groups if height % g[4][0] == 0 and width % g[4][1] == 0]
    if fine:
        _, _, _, order, grid = max(fine, key=lambda g: g[4][0] * g[4][1])
        return Finest((), order, grid)
    raise LayoutError(
        "no grid of patch tokens was found that everything the answer reads passes through",
        "say which token is which: layout=vitscope.TokenLayout(prefix=..., grid=(rows, columns))",
    )


def grid_of(values: Tensor) -> tuple[Tensor, tuple[int, int]] | None:
    """Rank of each token on a full grid, row by row, from its mass and position."""
    mass, x, y, leaf = values
    if bool((mass < 0.05).any()) or bool((leaf > 0.5).any()):
        return None
    columns, rows = _ranks(x / mass), _ranks(y / mass)
    gw, gh = int(columns.max()) + 1, int(rows.max()) + 1
    order = rows * gw + columns
    if gh * gw != len(order) or len(torch.unique(order)) != len(order):
        return None
    return order, (gh, gw)


def _ranks(x: Tensor) -> Tensor:
    values = x.sort().values
    step = (values[-1] - values[0]) / max(len(values) - 1, 1)
    new = values.diff() > max(float(step) / 2, 1e-3)
    edges = torch.cat([values[:1], values[1:][new]]) - 1e-3 - float(step) / 4
    return torch.searchsorted(edges, x.contiguous(), right=True) - 1


def _as_plain(readout: np.ndarray, uniform: np.ndarray, layers: int, pooled: bool) -> bool:
    """Were all attention uniform: does plain rollout from the readout row give what the averaged network gives?"""
    r = np.full(len(readout), 1 / len(readout)) if pooled else readout.astype(np.float64)
    for _ in range(layers):
        r = 0.5 * r + 0.5 * r.sum() / len(r)
    return bool(np.abs(r - uniform).max() < 1e-5)


def _names(given: list[str], counts: list[int]) -> tuple[str, ...]:
    names: list[str] = []
    for name, count in zip(given, counts, strict=True):
        last = name.rpartition(".")[2].lower()
        word = next((word for part, word in _KNOWN_NAMES if part in last), last or "prefix")
        many = count > 1 or word in ("register", "detection")
        for _ in range(count):
            number = 1 + sum(n == word or n.startswith(word + " ") for n in names)
            names.append(f"{word} {number}" if many or word in names else word)
    return tuple(names)


def _layout(
    names: tuple[str, ...], grid: tuple[int, int], readout: np.ndarray, pooled: bool
) -> tuple[TokenLayout, bool]:
    """The layout whose readout is the one seen, and whether it is just so."""
    if pooled:
        return TokenLayout(names, grid, "map"), True
    share = readout / max(readout.sum(), 1e-9)
    choices = [TokenLayout(names, grid, "mean"), TokenLayout(names, grid, "mean", bool(names))]
    if names:
        choices += [TokenLayout(names, grid, "cls"), TokenLayout(names, grid, "cls", True)]
    away = [float(np.abs(choice.readout() - share).sum()) for choice in choices]
    best = int(np.argmin(away))
    return choices[best], away[best] < 1e-3


def _isotropic(calls: tuple[CallSite, ...], layout: TokenLayout, counts: list[int]) -> tuple[Tensor | None, bool]:
    """Does every call see all tokens, in the same places; and where they are."""
    if not calls or any(c.keys.ndim != 3 or c.keys.shape[0] != 4 or c.queries != layout.tokens for c in calls):
        return None, False
    keys = calls[0].keys.detach().as_subclass(Tensor)
    if any(
        c.keys.shape != keys.shape or not torch.allclose(c.keys.as_subclass(Tensor), keys, atol=1e-2) for c in calls
    ):
        return None, False
    mass, _, _, leaf = keys[:, 0]
    if keys.shape[-1] != layout.tokens or not torch.allclose(keys, keys[:, :1], atol=1e-2):
        return None, False
    prefix = torch.tensor([i + 1.0 for i, n in enumerate(counts) for _ in range(n)], device=mass.device)
    outside = leaf.round().nonzero().squeeze(1)
    if len(outside) != len(prefix) or not torch.equal(leaf[outside].round().sort().values, prefix):
        return None, False
    ranked = outside[leaf[outside].round().argsort(stable=True)]
    inside = (leaf.round() == 0).nonzero().squeeze(1)
    placed = grid_of(keys[:, 0][:, inside])
    if placed is None or placed[1] != layout.grid:
        return None, False
    where = torch.empty_like(inside)
    where[placed[0]] = inside
    reorder = torch.cat([ranked, where])
    same = torch.equal(reorder, torch.arange(len(reorder), device=reorder.device))
    return None if same else reorder, True


def _head_axis(call: CallSite, seen: RecordedCall) -> int:
    """The leading axis along which positions are the same: heads; NO_HEADS where they differ along each."""
    keys = call.keys.detach().as_subclass(Tensor)
    lead = keys.ndim - 1
    for axis in range(lead - 1, 0, -1):
        if keys.shape[axis] > 1 and torch.allclose(keys, keys.narrow(axis, 0, 1), atol=1e-2):
            return axis
    return next((axis for axis in range(lead - 1, 0, -1) if keys.shape[axis] == 1), NO_HEADS)
