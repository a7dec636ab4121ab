"""Tokens between blocks where layers do not all see the same tokens: which tensors hold them, and on which grid.

The averaged network is run on positions once more, with hooks on every module. The block of a layer is the smallest
module at whose end a residual has taken the layer's attention in; what it is given and what it gives are positions, and
so tell where each token lies, whatever the order: windows unfolded or not, channels last or second, prefix tokens.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitscope._messages import msg
from vitscope.attention.transformer_blocks import HookPoint, TokenActivations
from vitscope.errors import UnsupportedError, UsageError
from vitscope.tracing.averaged import AveragedNetworkMode
from vitscope.tracing.records import varies
from vitscope.tracing.token_tensor import Plan, TokenTensor, tensors_in
from vitscope.tracing.trace import Run, Trace, averaged, grid_of, positions, uniform

__all__ = ["BlockIO", "BlockMap", "StagedHiddenStates", "stages_of"]


@dataclass(frozen=True, eq=False)
class Laid:
    """How a tensor holds tokens.

    Attributes:
        axis: its channels', counted from the end.
        fold: how many rows of its first axis belong to one picture.
        index: where the tokens are, prefix first, then row by row.
        prefix: how many prefix tokens; grid: rows and columns of the patches.
    """

    axis: int
    fold: int
    index: Int[Tensor, " n"]
    prefix: int
    grid: tuple[int, int]

    def arrange(self, x: Tensor) -> Float[Tensor, "B n D"]:
        """The tokens of a tensor such as this."""
        rows = x.movedim(self.axis, -1)
        return rows.reshape(len(x) // self.fold, -1, rows.shape[-1])[:, self.index]


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor of the forward: `number` of those that call `call` of a module is given, or gives."""

    module: str
    call: int
    leaving: bool
    number: int
    laid: Laid

    @property
    def key(self) -> tuple[str, int, bool, int]:
        """What it is known by."""
        return self.module, self.call, self.leaving, self.number


@dataclass(frozen=True, eq=False)
class BlockIO:
    """The block of one attention layer.

    Attributes:
        block: its path in the model.
        given, normed, gave: the tokens it gets, what its first norm before attention makes of them, what it hands on;
            None where these are no grid of tokens.
        share: how much of what the answer reads of the picture passes through `given`, when all attention is uniform.
        readout: how much of each token of `gave` the answer starts from, along the residual path; None where none of.
    """

    block: str
    given: Held
    normed: Held | None
    gave: Held | None
    share: float
    readout: Float[Tensor, " n"] | None


@dataclass(eq=False)
class StagedHiddenStates:
    """The tokens of one forward, stage by stage, with their graph where there is one."""

    stages: Sequence[BlockIO | None]
    seen: dict[tuple[str, int, bool, int], Tensor] = field(default_factory=dict)

    def spot(self, layer: int, at: HookPoint) -> TokenActivations:
        """The tokens at one place of a layer's block.

        Raises:
            UsageError: no grid of tokens is there.
        """
        stage = self.stages[layer]
        if stage is None:
            raise UsageError(f"the tokens around layer {layer} fill no grid", "ask for another layer")
        if at == "output" and stage.gave is None:
            raise UsageError(
                f"block {layer} ({stage.block}) hands on no patch tokens", "ask at='norm' or 'input', or another layer"
            )
        held, place = stage.given, f"{'input' if at == 'norm' else at} of block {layer} ({stage.block})"
        if at == "output" and stage.gave is not None:
            held = stage.gave
        elif at == "norm" and stage.normed is not None:
            held, place = stage.normed, f"first norm of block {layer} ({stage.block})"
        elif at == "norm":
            place += ", which has no norm before its attention"
        laid = held.laid
        readout = stage.readout if held is stage.gave else None
        return TokenActivations(self.seen[held.key], laid.arrange, laid.prefix, laid.grid, place, readout)

    def after(self, layer: int) -> TokenActivations:
        """The patch tokens as they are after a layer's block: unchanged where it hands on prefix tokens alone."""
        stage = self.stages[layer]
        if stage is None or stage.gave is not None:
            return self.spot(layer, "output")
        spot = self.spot(layer, "input")
        return TokenActivations(spot.raw, spot.arrange, spot.prefix, spot.grid, f"{spot.place}, which changes no patch")


@dataclass(frozen=True, eq=False)
class BlockMap:
    """The blocks of a model whose layers do not all see the same tokens, at one input size."""

    stages: tuple[BlockIO | None, ...]

    @contextmanager
    def watched(self, model: nn.Module) -> Iterator[StagedHiddenStates]:
        """The tokens of one forward."""
        states = StagedHiddenStates(self.stages)
        wanted = [held for s in self.stages if s for held in (s.given, s.normed, s.gave) if held is not None]
        modules = {held.module for held in wanted}
        calls = dict.fromkeys(modules, -1)

        def keep(path: str, leaving: bool, values: Any) -> None:
            tensors = list(tensors_in(values))
            for held in wanted:
                if (held.module, held.call, held.leaving) == (path, calls[path], leaving):
                    states.seen[held.key] = tensors[held.number]

        def entering(path: str) -> Callable[..., None]:
            def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:
                calls[path] += 1
                keep(path, False, (args, kwargs))

            return enter

        def leaving(path: str) -> Callable[..., None]:
            return lambda _module, _args, out: keep(path, True, out)

        handles = []
        try:
            for path in modules:
                module = model.get_submodule(path)
                handles.append(module.register_forward_pre_hook(entering(path), with_kwargs=True))
                handles.append(module.register_forward_hook(leaving(path)))
            yield states
        finally:
            for handle in handles:
                handle.remove()


Candidate: TypeAlias = tuple[Held, Tensor]
_OF_QUERIES = re.compile(r"(^|_)(q|k|v|query|key|value)(_|$)")


@dataclass(eq=False)
class _Run:
    """One run of a module: the attention calls in it, norms inside it, what it was given and what it gave."""

    path: str
    call: int
    calls: slice
    given: list[Tensor]
    gave: list[Tensor] = field(default_factory=list)
    norms: list[tuple[Candidate, int]] = field(default_factory=list)

    def entered(self) -> list[Candidate]:
        """What it was given that fills a grid."""
        return self._filling(self.given, False)

    def left(self) -> list[Candidate]:
        """What it gave that fills a grid."""
        return self._filling(self.gave, True)

    def norm(self, number: int, queries: int, given: Candidate) -> Held | None:
        """The first norm, before attention call `number`, of tokens such as these: of their grid and width.

        Of several one of as many tokens as the call has queries comes first; norms of queries and keys do not count.
        """
        held, x = given
        alike = [
            normed
            for (normed, out), before in self.norms
            if before <= number
            and normed.laid.grid == held.laid.grid
            and out.shape[normed.laid.axis] == x.shape[held.laid.axis]
            and not _OF_QUERIES.search(normed.module.rpartition(".")[2])
        ]
        return next((one for one in alike if len(one.laid.index) == queries), next(iter(alike), None))

    def _filling(self, tensors: list[Tensor], leaving: bool) -> list[Candidate]:
        laid = [_laid(x) for x in tensors]
        return [
            (Held(self.path, self.call, leaving, number, how), x)
            for number, (how, x) in enumerate(zip(laid, tensors, strict=True))
            if how is not None and x.requires_grad
        ]


@dataclass(eq=False)
class _Blocks:
    """For each attention call the modules at whose ends it is joined, the smallest first."""

    model: nn.Module
    found: dict[int, list[_Run]] = field(default_factory=dict)

    @contextmanager
    def told(self, network: AveragedNetworkMode) -> Iterator[None]:
        """Seen while the averaged network runs."""
        running: list[_Run] = []
        times: dict[str, int] = {}

        def entering(path: str) -> Callable[..., None]:
            def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:
                times[path] = times.get(path, -1) + 1
                begin = slice(len(network.calls), None)
                running.append(_Run(path, times[path], begin, list(tensors_in((args, kwargs)))))

            return enter

        def leaving(path: str, norm: bool) -> Callable[..., None]:
            def leave(_module: nn.Module, _args: Any, out: Any) -> None:
                this = running.pop()
                this.calls, this.gave = slice(this.calls.start, len(network.calls)), list(tensors_in(out))
                for call in network.calls[this.calls]:
                    if call.joined and path:
                        self.found.setdefault(call.event, []).append(this)
                for normed in this.left()[:1] if norm else ():
                    for outer in running:
                        outer.norms.append((normed, len(network.calls)))

            return leave

        handles = []
        try:
            for path, module in self.model.named_modules():
                norm = "norm" in type(module).__name__.lower()
                handles.append(module.register_forward_pre_hook(entering(path), with_kwargs=True))
                handles.append(module.register_forward_hook(leaving(path, norm)))
            yield
        finally:
            for handle in handles:
                handle.remove()


@torch.inference_mode(False)
@torch.enable_grad()
def stages_of(run: Run, model: nn.Module, size: tuple[int, int], found: Trace) -> BlockMap:
    """The blocks at an input of `(Hi, Wi)` pixels, or why they cannot be told.

    Cost: one forward of the averaged network and two passes back.
    """
    plan, blocks = Plan(), _Blocks(model)
    values = positions(size, next(model.parameters()).device)
    network, start, out = averaged(run, model, values, plan, found.events, watch=blocks.told, probing=True)
    runs = [_block(event, network, blocks.found.get(event, [])) for event in found.layers]
    around = [([], []) if one is None else (one.entered(), one.left()) for one in runs]
    tensors = [x for ends in around for end in ends for _, x in end]
    uniform(plan, network)
    first, *through = torch.autograd.grad(out.sum(), [start, *tensors], allow_unused=True, retain_graph=True)
    plan.keep, plan.mix = 1.0, 0.0
    along = torch.autograd.grad(out.sum(), tensors, allow_unused=True)
    total = _sum(first)
    weights = {id(x): (_sum(g) / total, a) for x, g, a in zip(tensors, through, along, strict=True)}
    order = {call.event: (number, call.queries) for number, call in enumerate(network.calls)}
    stages = tuple(
        None if one is None else _stage(one, *order[event], *ends, weights)
        for event, one, ends in zip(found.layers, runs, around, strict=True)
    )
    last = stages[-1]
    if last is None:
        raise UnsupportedError(
            msg("tracing.last-block-without-grid", "the tokens around its last attention layer fill no grid of patches")
        )
    if last.share < 1 - 1e-3:
        raise UnsupportedError(
            msg(
                "tracing.parallel-branches",
                "only {share} of what the answer reads of the image passes through the tokens of its last block "
                "({block}): the model has parallel branches, and a map of one would be a part of the answer's",
                share=f"{last.share:.0%}",
                block=last.block,
            )
        )
    return BlockMap(stages)


def _block(event: int, network: AveragedNetworkMode, runs: list[_Run]) -> _Run | None:
    """The smallest module that a layer's attention is joined in, or the one around it where the norm is there."""
    if not runs:
        return None
    number, call = next((i, call) for i, call in enumerate(network.calls) if call.event == event)
    for run in runs:
        alone = all(not other.joined or other.event == event for other in network.calls[run.calls])
        if not alone:
            break
        if any(run.norm(number, call.queries, given) for given in run.entered()):
            return run
    return runs[0]


def _stage(
    run: _Run,
    number: int,
    queries: int,
    entered: list[Candidate],
    left: list[Candidate],
    weights: Mapping[int, tuple[float, Tensor | None]],
) -> BlockIO | None:
    """A layer's block, where a grid of tokens goes into it; of several what most passes through."""

    def chosen(candidates: list[Candidate]) -> Candidate:
        alike = [one for one in candidates if len(one[0].laid.index) == queries]
        most = [one for one in alike or candidates if weights[id(one[1])][0] > 1 - 1e-3]
        return next(iter(most), max(candidates, key=lambda one: weights[id(one[1])][0]))

    if not entered:
        return None
    given = chosen(entered)
    gave, readout = (chosen(left) if left else None), None
    if gave is not None:
        grad = weights[id(gave[1])][1]
        if grad is not None and _sum(grad) > 1e-6:
            row = gave[0].laid.arrange(grad.as_subclass(Tensor))[0].sum(-1)
            readout = row / row.sum()
    return BlockIO(
        run.path,
        given[0],
        run.norm(number, queries, given),
        gave[0] if gave else None,
        weights[id(given[1])][0],
        readout,
    )


def _laid(x: Tensor) -> Laid | None:
    """How the four pictures 1, x, y and 0 tell that tokens lie in a shadow."""
    if not isinstance(x, TokenTensor) or x.product or x.ndim < 3 or len(x) % 4:
        return None
    plain = x.as_subclass(Tensor).detach()
    for axis in (-1, 1 - x.ndim):
        if varies(plain, axis % x.ndim):
            continue
        tokens = plain.movedim(axis, -1)[..., 0].reshape(4, -1)
        leaf = tokens[3].round()
        outside = leaf.nonzero().squeeze(1)
        inside = (leaf == 0).nonzero().squeeze(1)
        placed = grid_of(tokens[:, inside]) if len(inside) else None
        if placed is None:
            continue
        where = torch.empty_like(inside)
        where[placed[0]] = inside
        ahead = outside[leaf[outside].argsort(stable=True)]
        return Laid(axis, len(x) // 4, torch.cat([ahead, where]), len(ahead), placed[1])
    return None


def _sum(grad: Tensor | None) -> float:
    """The weight that reached a tensor of the four pictures, of the first of them."""
    return 0.0 if grad is None else float(grad.as_subclass(Tensor).reshape(4, -1)[0].sum())
