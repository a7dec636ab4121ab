"""A model's transformer blocks: record the tokens between them, run them on fewer tokens, or skip them.

Blocks are found from the modules that call attention, and confirmed by one forward in which each takes `(B, N, D)`
tokens from the one before it. Every change ends with its `with`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitscope._messages import msg
from vitscope.attention.changes import Changes
from vitscope.errors import MethodError, UnsupportedError

HookPoint: TypeAlias = Literal["norm", "input", "output"]


@dataclass(frozen=True, eq=False)
class TokenActivations:
    """The tokens at one point of a forward.

    Attributes:
        raw: the tensor, as the model has it, with its graph where there is one.
        arrange: from a tensor of its shape to `(B, n, D)`, prefix first, then the patches row by row.
        prefix: the number of prefix tokens.
        grid: rows and columns of the patches.
        location: the point in words.
        readout: each token's weight in the answer, along the residual path; None where the answer reads none of them.
    """

    raw: Tensor
    arrange: Callable[[Tensor], Float[Tensor, "B n D"]]
    prefix: int
    grid: tuple[int, int]
    location: str
    readout: Float[Tensor, " n"] | None = None

    def tokens(self) -> Float[Tensor, "B n D"]:
        """Return all tokens, in float32 or better, without a graph."""
        return self._arranged(self.raw.detach())

    def patches(self, x: Tensor | None = None) -> Float[Tensor, "B gh gw D"]:
        """Return the patches of a tensor of the same shape, such as a gradient; by default those of the tokens."""
        tokens = self.tokens() if x is None else self._arranged(x)
        return tokens[:, self.prefix :].reshape(len(tokens), *self.grid, -1)

    def _arranged(self, x: Tensor) -> Tensor:
        return self.arrange(x if x.dtype == torch.float64 else x.float())


@dataclass(eq=False)
class HiddenStates:
    """The tokens of one forward, as the model had them, with their graph where there is one.

    Attributes:
        tokens: the input of each block, then the output of the last: L + 1 tensors.
        normed: the output of each block's first norm, or None where it has none.
        final: the output of the model's own norm of all tokens after the last block, or None where it has none.
        arrange: from a tensor as the model has it to `(B, N, D)` in the layout's order.
    """

    arrange: Callable[[Tensor], Float[Tensor, "B N D"]]
    tokens: list[Tensor] = field(default_factory=list)
    normed: list[Tensor | None] = field(default_factory=list)
    final: Tensor | None = None

    def at(self, layer: int) -> Float[Tensor, "B N D"]:
        """Return the input tokens of block `layer`; for layer L, the output of the last block."""
        return self.arrange(self.tokens[layer])


@dataclass(frozen=True, eq=False)
class TransformerBlocks:
    """A model's blocks.

    Attributes:
        blocks: the modules, first block first.
        extra_outputs: how many outputs each has beside its tokens, in a tuple; None where it returns tokens alone.
        batch_axis: 0, or 1 where tokens come first.
        order: the positions of the layout's tokens in the model's, or None where both have the same order.
        prefix: the number of prefix tokens.
        final_norm: the module that norms all tokens after the last block; None where there is none, or not one.
    """

    blocks: tuple[nn.Module, ...]
    extra_outputs: tuple[int | None, ...]
    batch_axis: int
    order: Int[Tensor, " N"] | None
    prefix: int
    final_norm: nn.Module | None = None

    def arrange(self, x: Tensor) -> Tensor:
        """Bring tokens as the model has them to `(B, N, D)` in the layout's order."""
        x = x.transpose(0, 1) if self.batch_axis else x
        return x if self.order is None else x[:, self.order]

    def restore(self, x: Float[Tensor, "B N D"]) -> Tensor:
        """Bring tokens in the layout's order to the form that the model has them in: the inverse of `arrange`."""
        if self.order is not None:
            x = x[:, self.order.argsort()]
        return x.transpose(0, 1) if self.batch_axis else x

    @contextmanager
    def record_states(self) -> Iterator[HiddenStates]:
        """Record the tokens of one forward that runs in the `with`."""
        states = HiddenStates(self.arrange)
        normed: list[bool] = []  # whether the running block's first norm has run

        def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:
            states.tokens.append(_tokens(args, kwargs))
            states.normed.append(None)
            normed.clear()

        def norm(_module: nn.Module, _args: Any, out: Any) -> None:
            fits = isinstance(out, Tensor) and bool(states.tokens) and out.shape == states.tokens[-1].shape
            if not normed and fits:
                states.normed[-1] = out
                normed.append(True)

        def leave(_module: nn.Module, _args: Any, out: Any) -> None:
            states.tokens.append(_first(out))

        def final(_module: nn.Module, args: Any, out: Any) -> None:
            if len(states.tokens) > len(self.blocks) and _norms(args, out, states.tokens[-1]):
                states.final = out

        with Changes() as changes:
            for block in self.blocks:
                changes.hook(block, enter, before=True, with_kwargs=True)
                for module in block.modules():
                    if "norm" in type(module).__name__.lower():
                        changes.hook(module, norm)
            changes.hook(self.blocks[-1], leave)
            if self.final_norm is not None:
                changes.hook(self.final_norm, final)
            yield states

    @contextmanager
    def keep_patches(self, kept: Bool[Tensor, "B P"]) -> Iterator[None]:
        """Pass only these patch tokens, equally many in each image, and all prefix tokens to the first block."""
        count = int(kept[0].sum())
        if not bool((kept.sum(1) == count).all()):
            raise MethodError(msg("attention.unequal-tokens", "the images of a batch must keep equally many tokens"))
        patches = kept.nonzero()[:, 1].reshape(len(kept), count) + self.prefix
        ahead = torch.arange(self.prefix, device=kept.device).expand(len(kept), -1)
        with self.select_tokens(torch.cat([ahead, patches], 1)):
            yield

    @contextmanager
    def select_tokens(self, index: Int[Tensor, "B n"]) -> Iterator[None]:
        """Pass only the tokens with these numbers, in this order, to the first block."""
        if self.order is not None:
            index = self.order[index]

        def enter(_module: nn.Module, args: Any, kwargs: Any) -> Any:
            tokens = _tokens(args, kwargs)
            where = index.T if self.batch_axis else index
            fewer = tokens.gather(1 - self.batch_axis, where[..., None].expand(-1, -1, tokens.shape[-1]))
            return _with_tokens(args, kwargs, fewer)

        with Changes() as changes:
            changes.hook(self.blocks[0], enter, before=True, with_kwargs=True)
            yield

    @contextmanager
    def skip(self, tokens: Float[Tensor, "B N D"]) -> Iterator[None]:
        """Skip all blocks; the code after them receives `tokens`."""
        given = self.restore(tokens)
        with Changes() as changes:
            for block, extra in zip(self.blocks, self.extra_outputs, strict=True):
                output = given if extra is None else (given, *(None,) * extra)
                changes.replace_forward(block, lambda *_, output=output, **__: output)
            yield


def find_blocks(
    names: Sequence[str], model: nn.Module, run: Callable[[], object], count: int, order: Tensor | None, prefix: int
) -> TransformerBlocks:
    """Find the blocks of a model.

    Args:
        names: the modules that called attention, first layer first.
        model: the model.
        run: runs one forward of a batch of two.
        count: the number of the layout's tokens, prefix included.
        order: the positions of the layout's tokens in the model's, where the order differs.
        prefix: the number of prefix tokens.

    Raises:
        UnsupportedError: the model has no such blocks.
    """
    paths = [name.split(".") for name in names]
    deepest = min((len(path) for path in paths), default=0)
    depth = next((d for d in range(1, deepest + 1) if len({tuple(p[:d]) for p in paths}) == len(paths)), None)
    if depth is None:
        raise UnsupportedError(msg("attention.no-blocks", "its attention calls are not in separate blocks"))
    blocks = tuple(model.get_submodule(".".join(path[:depth])) for path in paths)
    runs: list[tuple[Any, Any, int | None]] = []  # of each block: input, output, extra outputs

    def leave(_module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        runs.append((_tokens(args, kwargs), _first(out), len(out) - 1 if isinstance(out, tuple) else None))

    after: list[nn.Module] = []  # norms of all that came out of the last block

    def norm(module: nn.Module, args: Any, out: Any) -> None:
        if len(runs) == len(blocks) and _norms(args, out, runs[-1][1]):
            after.append(module)

    within = {id(module) for block in blocks for module in block.modules()}
    with Changes() as changes:
        for block in blocks:
            changes.hook(block, leave, with_kwargs=True)
        for module in model.modules():
            if "norm" in type(module).__name__.lower() and id(module) not in within:
                changes.hook(module, norm)
        run()
    ends = [x for given, got, _ in runs for x in (given, got)]
    if len(runs) == len(blocks) and all(isinstance(x, Tensor) and x.ndim == 3 for x in ends):
        batch = next(
            (axis for axis in (0, 1) if all(x.shape[axis] == 2 and x.shape[1 - axis] == count for x in ends)), None
        )
        if batch is not None:
            if any(not torch.equal(a[1], b[0]) for a, b in pairwise(runs)):
                raise UnsupportedError(msg("attention.tokens-change", "its tokens change between its blocks"))
            extras = tuple(extra for _, _, extra in runs)
            return TransformerBlocks(blocks, extras, batch, order, prefix, after[0] if len(after) == 1 else None)
    raise UnsupportedError.coded(
        "attention.not-token-blocks", "not every block takes and returns tokens of shape (B, {count}, D)", count=count
    )


def _tokens(args: Any, kwargs: Any) -> Any:
    """Return the first tensor among a block's arguments."""
    return next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)


def _norms(args: Any, out: Any, tokens: Any) -> bool:
    """Return whether a module was given these tokens, as they are, and returned as many."""
    given = args[0] if args else None
    if not (isinstance(given, Tensor) and isinstance(out, Tensor) and isinstance(tokens, Tensor)):
        return False
    return given.data_ptr() == tokens.data_ptr() and given.shape == tokens.shape == out.shape


def _first(out: Any) -> Any:
    return out[0] if isinstance(out, tuple) and out else out


def _with_tokens(args: Any, kwargs: Any, tokens: Tensor) -> tuple[Any, Any]:
    for i, x in enumerate(args):
        if isinstance(x, Tensor):
            return (*args[:i], tokens, *args[i + 1 :]), kwargs
    name = next(name for name, x in kwargs.items() if isinstance(x, Tensor))
    return args, {**kwargs, name: tokens}
