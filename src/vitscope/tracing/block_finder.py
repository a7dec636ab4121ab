"""Finding the blocks of a traced model: the averaged network runs on positions with hooks on every module.

The block of a layer is the smallest module in which a residual connection adds the layer's attention. Its arguments and
its result hold positions, which show where each token lies, whatever the order: windows unfolded or not, channels last
or second, prefix tokens.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from vitscope._messages import msg
from vitscope.attention.changes import Changes
from vitscope.attention.model_modes import own_state
from vitscope.errors import UnsupportedError
from vitscope.tracing.averaged import Run, run_averaged
from vitscope.tracing.block_io import BlockIO, BlockMap, TensorSite, TokenArrangement
from vitscope.tracing.network import AveragedNetwork
from vitscope.tracing.placement import input_device
from vitscope.tracing.records import varies
from vitscope.tracing.token_grid import position_images, split_prefix
from vitscope.tracing.token_tensor import BackwardPlan, TokenTensor, tensors_in
from vitscope.tracing.trace import Trace, set_uniform_attention

log = logging.getLogger(__name__)

Candidate: TypeAlias = tuple[TensorSite, Tensor]
_NORM_OF_QUERIES = re.compile(r"(^|_)(q|k|v|query|key|value)(_|$)")
_NEARLY_ALL = 1 - 1e-3


@own_state
def find_block_map(run: Run, model: nn.Module, size: tuple[int, int], found: Trace, channels: int = 3) -> BlockMap:
    """Find the blocks at an input of `(channels, Hi, Wi)` pixels.

    Cost: one forward of the averaged network and two backward passes.

    Raises:
        UnsupportedError: the last block holds no grid of tokens, or only a part of what the answer reads.
    """
    plan, observer = BackwardPlan(), _ModuleObserver(model)
    images = position_images(size, input_device(model), channels)
    network, start, out = run_averaged(run, model, images, plan, found.events, observer.observe, probing=True)
    calls = [_block_of(event, network, observer.joins.get(event, [])) for event in found.layers]
    ends = [([], []) if call is None else (call.inputs(), call.outputs()) for call in calls]
    tensors = [x for both in ends for candidates in both for _, x in candidates]
    set_uniform_attention(plan, network)
    first, *through = torch.autograd.grad(out.sum(), [start, *tensors], allow_unused=True, retain_graph=True)
    plan.skip, plan.branch = 1.0, 0.0
    along = torch.autograd.grad(out.sum(), tensors, allow_unused=True) if tensors else ()
    total = _total(first)
    weights = {id(x): (_total(g) / total, a) for x, g, a in zip(tensors, through, along, strict=True)}
    order = {call.event: (number, call.queries) for number, call in enumerate(network.calls)}
    blocks = tuple(
        None if call is None else _block_io(call, *order[event], *both, weights)
        for event, call, both in zip(found.layers, calls, ends, strict=True)
    )
    log.debug(
        "blocks of %s: %s", type(model).__name__, ", ".join(io.block if io else "no grid" for io in blocks) or "none"
    )
    last = blocks[-1]
    if last is None:
        raise UnsupportedError(
            msg("tracing.last-block-without-grid", "the tokens around its last attention layer fill no grid of patches")
        )
    if last.share < _NEARLY_ALL:
        raise UnsupportedError.coded(
            "tracing.parallel-branches",
            "only {share} of what the answer reads of the image passes through the tokens of its last block "
            "({block}): the model has parallel branches, and a map of one branch would show a part of the answer",
            share=f"{last.share:.0%}",
            block=last.block,
        )
    return BlockMap(blocks)


@dataclass(eq=False)
class _ModuleCall:
    """One call of a module: the attention calls in it, the norms inside it, its arguments and its result."""

    path: str
    number: int
    attention: slice
    arguments: list[Tensor]
    results: list[Tensor] = field(default_factory=list)
    norms: list[tuple[Candidate, int]] = field(default_factory=list)

    def inputs(self) -> list[Candidate]:
        """Return the arguments whose tokens fill a grid."""
        return self._on_grids(self.arguments, False)

    def outputs(self) -> list[Candidate]:
        """Return the results whose tokens fill a grid."""
        return self._on_grids(self.results, True)

    def norm(self, attention: int, queries: int, entering: Candidate) -> TensorSite | None:
        """Return the first norm, before attention call number `attention`, of tokens on the same grid and of one width.

        Of several, one with as many tokens as the call has queries comes first; norms of queries and keys do not count.
        """
        site, x = entering
        fitting = [
            normed
            for (normed, out), before in self.norms
            if before <= attention
            and normed.arrangement.grid == site.arrangement.grid
            and out.shape[normed.arrangement.axis] == x.shape[site.arrangement.axis]
            and not _NORM_OF_QUERIES.search(normed.module.rpartition(".")[2])
        ]
        return next((s for s in fitting if len(s.arrangement.index) == queries), next(iter(fitting), None))

    def _on_grids(self, tensors: list[Tensor], returned: bool) -> list[Candidate]:
        arrangements = [_arrangement_of(x) for x in tensors]
        return [
            (TensorSite(self.path, self.number, returned, number, arrangement), x)
            for number, (arrangement, x) in enumerate(zip(arrangements, tensors, strict=True))
            if arrangement is not None and x.requires_grad
        ]


@dataclass(eq=False)
class _ModuleObserver:
    """Observes the modules of a model while the averaged network runs.

    Attributes:
        joins: for each attention call, the module calls in which a residual connection adds it, the smallest first.
    """

    model: nn.Module
    joins: dict[int, list[_ModuleCall]] = field(default_factory=dict)

    @contextmanager
    def observe(self, network: AveragedNetwork) -> Iterator[None]:
        """Register hooks on every module for one run."""
        running: list[_ModuleCall] = []
        times: dict[str, int] = {}

        def entering(path: str) -> Callable[..., None]:
            def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:
                times[path] = times.get(path, -1) + 1
                attention = slice(len(network.calls), None)
                running.append(_ModuleCall(path, times[path], attention, list(tensors_in((args, kwargs)))))

            return enter

        def leaving(path: str, norm: bool) -> Callable[..., None]:
            def leave(_module: nn.Module, _args: Any, out: Any) -> None:
                this = running.pop()
                this.attention = slice(this.attention.start, len(network.calls))
                this.results = list(tensors_in(out))
                for call in network.calls[this.attention]:
                    if call.joined and path:
                        self.joins.setdefault(call.event, []).append(this)
                for normed in this.outputs()[:1] if norm else ():
                    for outer in running:
                        outer.norms.append((normed, len(network.calls)))

            return leave

        with Changes() as changes:
            for path, module in self.model.named_modules():
                norm = "norm" in type(module).__name__.lower()
                changes.hook(module, entering(path), before=True, with_kwargs=True)
                changes.hook(module, leaving(path, norm))
            yield


def _block_of(event: int, network: AveragedNetwork, calls: list[_ModuleCall]) -> _ModuleCall | None:
    """Return the smallest module that adds a layer's attention, or the one around it that has the norm."""
    if not calls:
        return None
    number, attention = next((i, call) for i, call in enumerate(network.calls) if call.event == event)
    for call in calls:
        alone = all(not other.joined or other.event == event for other in network.calls[call.attention])
        if not alone:
            break
        if any(call.norm(number, attention.queries, entering) for entering in call.inputs()):
            return call
    return calls[0]


def _block_io(
    call: _ModuleCall,
    attention: int,
    queries: int,
    inputs: list[Candidate],
    outputs: list[Candidate],
    weights: Mapping[int, tuple[float, Tensor | None]],
) -> BlockIO | None:
    """Return a layer's block where a grid of tokens enters it; of several grids the one that most passes through."""

    def chosen(candidates: list[Candidate]) -> Candidate:
        as_many = [c for c in candidates if len(c[0].arrangement.index) == queries]
        most = [c for c in as_many or candidates if weights[id(c[1])][0] > _NEARLY_ALL]
        return next(iter(most), max(candidates, key=lambda c: weights[id(c[1])][0]))

    if not inputs:
        return None
    entering = chosen(inputs)
    leaving, readout = (chosen(outputs) if outputs else None), None
    if leaving is not None:
        grad = weights[id(leaving[1])][1]
        if grad is not None and _total(grad) > 1e-6:
            row = leaving[0].arrangement.arrange(grad.as_subclass(Tensor))[0].sum(-1)
            readout = row / row.sum()
    return BlockIO(
        block=call.path,
        input=entering[0],
        norm=call.norm(attention, queries, entering),
        output=leaving[0] if leaving else None,
        share=weights[id(entering[1])][0],
        readout=readout,
    )


def _arrangement_of(x: Tensor) -> TokenArrangement | None:
    """Return how tokens lie in a tensor of the four images 1, x, y and 0; None where they fill no grid."""
    if not isinstance(x, TokenTensor) or x.product or x.ndim < 3 or len(x) % 4:
        return None
    plain = x.as_subclass(Tensor).detach()
    for axis in (-1, 1 - x.ndim):
        if varies(plain, axis % x.ndim):
            continue
        found = split_prefix(plain.movedim(axis, -1)[..., 0].reshape(4, -1))
        if found is not None:
            prefix, patches, grid = found
            return TokenArrangement(axis, len(x) // 4, torch.cat([prefix, patches]), len(prefix), grid)
    return None


def _total(grad: Tensor | None) -> float:
    """Return the weight that reached a tensor of the four images, of the first of them."""
    return 0.0 if grad is None else float(grad.as_subclass(Tensor).reshape(4, -1)[0].sum())
