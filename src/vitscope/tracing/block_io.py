"""Tokens between blocks where layers do not all see the same tokens: which tensors hold them, and on which grid."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from vitscope._messages import Message, msg
from vitscope.attention.changes import Changes
from vitscope.attention.transformer_blocks import HookPoint, TokenActivations
from vitscope.errors import UsageError
from vitscope.tracing.token_tensor import tensors_in


@dataclass(frozen=True, eq=False)
class TokenArrangement:
    """How a tensor holds tokens.

    Attributes:
        axis: of the channels, counted from the end.
        fold: how many rows of the first axis belong to one image.
        index: places of the tokens, prefix first, then patches row by row.
        prefix: the number of prefix tokens.
        grid: rows and columns of the patches.
    """

    axis: int
    fold: int
    index: Int[Tensor, " n"]
    prefix: int
    grid: tuple[int, int]

    def arrange(self, x: Tensor) -> Float[Tensor, "B n D"]:
        """Return the tokens of a tensor that holds them in this way."""
        rows = x.movedim(self.axis, -1)
        return rows.reshape(len(x) // self.fold, -1, rows.shape[-1])[:, self.index]


@dataclass(frozen=True, eq=False)
class TensorSite:
    """A tensor of the forward that holds tokens.

    Attributes:
        module: path of the module that receives or returns it.
        call: which call of that module in the forward.
        returned: the module returns it; else it is an argument.
        number: its number among the tensors of the arguments or of the result.
        arrangement: how it holds tokens.
    """

    module: str
    call: int
    returned: bool
    number: int
    arrangement: TokenArrangement

    @property
    def key(self) -> tuple[str, int, bool, int]:
        """What identifies the tensor."""
        return self.module, self.call, self.returned, self.number


@dataclass(frozen=True, eq=False)
class BlockIO:
    """Input and output of the block around one attention layer.

    Attributes:
        block: path of the block in the model.
        input: its tokens before the block.
        norm: what the block's first norm before attention makes of them; None without such a norm.
        output: the tokens after the block; None where these fill no grid.
        share: how much of what the answer reads of the image passes through `input` when all attention is uniform.
        readout: how much of each token of `output` the answer reads along the residual path; None where it reads none.
    """

    block: str
    input: TensorSite
    norm: TensorSite | None
    output: TensorSite | None
    share: float
    readout: Float[Tensor, " n"] | None


@dataclass(eq=False)
class StagedHiddenStates:
    """The tokens of one forward, block by block, each on its own grid, with their graph where there is one."""

    blocks: Sequence[BlockIO | None]
    tensors: dict[tuple[str, int, bool, int], Tensor] = field(default_factory=dict)

    def spot(self, layer: int, at: HookPoint) -> TokenActivations:
        """Return the tokens at one place of a layer's block; raise a UsageError where they fill no grid."""
        io = self.blocks[layer]
        if io is None:
            raise UsageError(
                msg("tracing.layer-without-grid", "the tokens around layer {layer} fill no grid", layer=layer),
                msg("tracing.layer-without-grid.hint", "choose another layer"),
            )
        if at == "output" and io.output is None:
            raise UsageError.coded(
                "tracing.output-without-patches",
                "block {layer} ({block}) returns no patch tokens",
                "use {@O:at=norm} or {@O:at=input}, or choose another layer",
                layer=layer,
                block=io.block,
            )
        site = {"input": io.input, "norm": io.norm, "output": io.output}[at] or io.input
        tokens, location = site.arrangement, _location(layer, io, at)
        readout = io.readout if site is io.output else None
        return TokenActivations(self.tensors[site.key], tokens.arrange, tokens.prefix, tokens.grid, location, readout)

    def after(self, layer: int) -> TokenActivations:
        """Return the patch tokens after a layer's block: unchanged where the block returns prefix tokens alone."""
        io = self.blocks[layer]
        if io is None or io.output is not None:
            return self.spot(layer, "output")
        spot = self.spot(layer, "input")
        location = msg("tracing.at-unchanged", "{location}, which changes no patch", location=spot.location)
        return TokenActivations(spot.raw, spot.arrange, spot.prefix, spot.grid, location)


@dataclass(frozen=True, eq=False)
class BlockMap:
    """The blocks of a model whose layers do not all see the same tokens, at one input size."""

    blocks: tuple[BlockIO | None, ...]

    @contextmanager
    def watched(self, model: nn.Module) -> Iterator[StagedHiddenStates]:
        """Record the tokens of one forward."""
        states = StagedHiddenStates(self.blocks)
        sites = [site for io in self.blocks if io for site in (io.input, io.norm, io.output) if site is not None]
        modules = {site.module for site in sites}
        calls = dict.fromkeys(modules, -1)

        def record(path: str, returned: bool, values: Any) -> None:
            tensors = list(tensors_in(values))
            for site in sites:
                if (site.module, site.call, site.returned) == (path, calls[path], returned):
                    states.tensors[site.key] = tensors[site.number]

        def entering(path: str) -> Callable[..., None]:
            def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:
                calls[path] += 1
                record(path, False, (args, kwargs))

            return enter

        def leaving(path: str) -> Callable[..., None]:
            return lambda _module, _args, out: record(path, True, out)

        with Changes() as changes:
            for path in modules:
                module = model.get_submodule(path)
                changes.hook(module, entering(path), before=True, with_kwargs=True)
                changes.hook(module, leaving(path))
            yield states


def _location(layer: int, io: BlockIO, at: HookPoint) -> Message:
    """Name one place of a layer's block."""
    place = {"layer": layer, "block": io.block}
    if at == "output":
        return msg("tracing.at-output", "output of block {layer} ({block})", **place)
    if at == "input":
        return msg("tracing.at-input", "input of block {layer} ({block})", **place)
    if io.norm is not None:
        return msg("tracing.at-norm", "first norm of block {layer} ({block})", **place)
    return msg(
        "tracing.at-input-without-norm",
        "input of block {layer} ({block}), which has no norm before its attention",
        **place,
    )
