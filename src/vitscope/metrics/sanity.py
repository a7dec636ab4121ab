"""Sanity check: whether the map depends on the learned weights, which are randomised group by group.

Source: Adebayo et al. 2018. The model's own tensors are never written: other parameters take their place during a
`with`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from vitscope.attention.changes import Changes
from vitscope.attention.model_lock import exclusive
from vitscope.metrics.faithfulness import MeasureResult
from vitscope.metrics.measurement import Number, compare_with_random
from vitscope.metrics.ranking import moved_copies, spearman, ssim

_DRAWS, _LEVEL = 99, 0.025  # the second least and the second largest of 99 copies
# the parts of its numbers' names
_KINDS, _ALIKE, _SIGNS = ("cascading", "independent"), ("", "-ssim"), ("", "-without-sign")
SANITY_NUMBERS = tuple(f"sanity-{kind}{alike}{sign}" for kind in _KINDS for alike in _ALIKE for sign in _SIGNS)
_PARTS = 8  # groups of a model whose blocks are not known


@dataclass(frozen=True, eq=False)
class WeightGroup:
    """Parameters that are randomised together."""

    name: str
    parameters: tuple[nn.Parameter, ...]


def weight_groups(model: nn.Module, run: Callable[[], object], blocks: Sequence[nn.Module] = ()) -> list[WeightGroup]:
    """Group the model's parameters in the order in which a forward uses them: embedding, blocks, head.

    Args:
        model: the model.
        run: one forward; modules that it does not call (a text tower) are left out, except those inside a module that
            it calls.
        blocks: the blocks, first block first. Without them, the called modules are split into 8 parts of their order.
    """
    position: dict[int, int] = {}

    def enter(module: nn.Module, _args: Any) -> None:
        position.setdefault(id(module), len(position))

    with Changes() as changes:
        for module in model.modules():
            changes.hook(module, enter, before=True)
        run()
    owner = {id(inside): number for number, block in enumerate(blocks) for inside in block.modules()}
    first = position[id(blocks[0])] if blocks else 0
    modules = dict(model.named_modules())
    found: list[tuple[tuple[int, int], list[nn.Parameter]]] = []
    for name, module in modules.items():
        own = [p for _, p in module.named_parameters(recurse=False)]
        above = [name.rsplit(".", up)[0] if up else name for up in range(name.count(".") + 1)] + [""]
        called = next((position[id(modules[path])] for path in above if id(modules[path]) in position), None)
        if own and called is not None:
            block = owner.get(id(module))
            group = block + 1 if block is not None else 0 if called < first else len(blocks) + 1
            found.append(((group if blocks else 0, called), own))
    found.sort(key=lambda one: one[0])
    if blocks:
        titles = ["embedding", *(f"block {number}" for number in range(len(blocks))), "head"]
        groups = [[own for (where, _), own in found if where == number] for number in range(len(titles))]
    else:
        parts = [part for part in np.array_split(np.arange(len(found)), _PARTS) if part.size]
        titles = [f"part {number + 1} of {len(parts)}" for number in range(len(parts))]
        groups = [[found[i][1] for i in part] for part in parts]
    used: set[int] = set()
    made = []
    for title, together in zip(titles, groups, strict=True):
        fresh = {id(p): p for own in together for p in own if id(p) not in used}
        used |= set(fresh)
        if fresh:
            made.append(WeightGroup(title, tuple(fresh.values())))
    return made


@contextmanager
def randomised_weights(model: nn.Module, parameters: Sequence[nn.Parameter], seed: int) -> Iterator[None]:
    """Replace parameters by random ones during the `with`: normal, with each tensor's mean and standard deviation.

    A tensor of one value or of equal values stays. The values depend on `seed` and the parameter's number in the model
    alone. The parameters themselves are restored at the end, never written.
    """
    number = {id(p): n for n, p in enumerate(model.parameters())}
    fresh = {id(p): _random_like(p, seed * 1_000_003 + number[id(p)]) for p in parameters}
    with exclusive(model) as changes:
        for module in model.modules():
            for name, p in list(module._parameters.items()):
                if id(p) in fresh:
                    changes.set_item(module._parameters, name, fresh[id(p)])
        yield


def sanity(
    values: Float[np.ndarray, "gh gw"],
    explain_again: Callable[[], Float[np.ndarray, "gh gw"]],
    model: nn.Module,
    groups: Sequence[WeightGroup],
    *,
    seed: int = 0,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> list[Number]:
    """Measure how alike the map stays when weights are randomised, from the head down and one group at a time.

    Formula: `spearman(m, m')` and `ssim(m, m')`, m' the map afterwards; for a map of both signs, also of `|m|` and
    `|m'|`. Cascading: the groups from the last to each earlier one are random; the number is that of the last map, all
    weights random, and the curve has all of them. Independent: one group is random; the number is the mean over groups.
    Chance: 99 copies of the map, shifted around the edges and mirrored, as smooth but unrelated; their range is from
    the second least to the second largest, beyond which lies one in fifty on each side.

    Args:
        values: the map.
        explain_again: makes the map of the same image as that one was made.
        model: the model; its own tensors are not written.
        groups: `weight_groups(...)`.
        seed: draws weights and shifts.
        tick: called with (done, total).

    Cost: 2 S - 1 explanations for S groups.
    Limits: a map that follows the image more than the model, such as an edge detector, stays the same; so does a map
        that leans to the middle whatever the weights. The learned structure is randomised, not the scale.
    """
    total = 2 * len(groups) - 1
    maps: list[np.ndarray] = []
    down = list(reversed(groups))
    for kind in ("cascading", "independent"):
        for number in range(len(down)):
            if kind == "independent" and number == 0:
                maps.append(maps[0])  # the last stage alone: it was the cascade's first
                continue
            those = down[: number + 1] if kind == "cascading" else down[number : number + 1]
            with randomised_weights(model, [p for group in those for p in group.parameters], seed):
                maps.append(explain_again())
            tick(len(maps) - (kind == "independent"), total)
    cascade, single = np.stack(maps[: len(down)]), np.stack(maps[len(down) :])
    signed = bool(values.min() < 0)
    numbers = []
    for kind, found in zip(_KINDS, (cascade, single), strict=True):
        for measure, alike in zip(_ALIKE, (spearman, ssim), strict=True):
            for sign in _SIGNS if signed else _SIGNS[:1]:
                name = f"sanity-{kind}{measure}{sign}"
                one, others = (np.abs(values), np.abs(found)) if sign else (values, found)
                numbers.append(_number(name, one, others, alike, [s.name for s in down], seed))
    return numbers


def _number(
    name: str,
    values: np.ndarray,
    found: np.ndarray,
    alike: Callable[[np.ndarray, np.ndarray], np.ndarray],
    names: list[str],
    seed: int,
) -> Number:
    curve = alike(np.broadcast_to(values, found.shape), found)
    counted = found[-1:] if "cascading" in name else found
    value = curve[-1] if "cascading" in name else curve.mean()
    others = moved_copies(values, _DRAWS, seed)
    chance = np.mean([alike(others, np.broadcast_to(one, others.shape)) for one in counted], 0)
    x = tuple((i + 1) / len(names) for i in range(len(names)))
    result = MeasureResult(float(value), x, tuple(curve.tolist()), {"stages": names})
    return compare_with_random(name, "sanity", "lower", result, chance.tolist(), level=_LEVEL)


def _random_like(parameter: nn.Parameter, seed: int) -> nn.Parameter:
    own = parameter.detach().double()
    if own.numel() < 2 or float(own.std()) == 0:
        return parameter
    drawn = torch.randn(own.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, device="cpu").to(
        own.device
    )
    return nn.Parameter((own.mean() + own.std() * drawn).to(parameter.dtype), parameter.requires_grad)
