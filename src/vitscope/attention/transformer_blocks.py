"""The blocks that a model's tokens go through, one after another: watched, entered with fewer tokens, or gone past.

Blocks are found by where attention calls stand in the model and believed only when one forward shows that each takes
`(B, N, D)` tokens from the one before it. Everything here is undone at the end of its `with`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitscope.errors import MethodError

__all__ = ["HiddenStates", "HookPoint", "TokenActivations", "TransformerBlocks", "find_blocks"]

HookPoint: TypeAlias = Literal["norm", "input", "output"]


@dataclass(frozen=True, eq=False)
class TokenActivations:
    """The tokens at one place of a forward.

    Attributes:
        raw: the tensor, as the model has it, with its graph where there is one.
        arrange: from a tensor of its shape to `(B, n, D)`, prefix first, then the patches row by row.
        prefix: how many prefix tokens; grid: rows and columns of the patches.
        place: where it is, in words.
        readout: how much of each token the answer starts from, along the residual path; None where none is read.
    """

    raw: Tensor
    arrange: Callable[[Tensor], Float[Tensor, "B n D"]]
    prefix: int
    grid: tuple[int, int]
    place: str
    readout: Float[Tensor, " n"] | None = None

    def tokens(self) -> Float[Tensor, "B n D"]:
        """All tokens, in float32 or better, without a graph."""
        return self._arranged(self.raw.detach())

    def patches(self, x: Tensor | None = None) -> Float[Tensor, "B gh gw D"]:
        """The patches of a tensor of the same shape, such as a gradient; without one, those of the tokens."""
        found = self.tokens() if x is None else self._arranged(x)
        return found[:, self.prefix :].reshape(len(found), *self.grid, -1)

    def _arranged(self, x: Tensor) -> Tensor:
        return self.arrange(x if x.dtype == torch.float64 else x.float())


@dataclass(eq=False)
class HiddenStates:
    """The tokens of one forward, as the model had them, with their graph where there is one.

    Attributes:
        tokens: what each block was given, and last what the last block gave: L + 1 tensors.
        normed: what each block's first norm gave, or None where it has none.
        arrange: from a tensor as the model has it to `(B, N, D)` in the layout's order.
    """

    arrange: Callable[[Tensor], Float[Tensor, "B N D"]]
    tokens: list[Tensor] = field(default_factory=list)
    normed: list[Tensor | None] = field(default_factory=list)

    def at(self, layer: int) -> Float[Tensor, "B N D"]:
        """Tokens as block `layer` was given them; of layer L what the last block gave."""
        return self.arrange(self.tokens[layer])


@dataclass(frozen=True, eq=False)
class TransformerBlocks:
    """A model's blocks.

    Attributes:
        blocks: the modules, first block first.
        extras: how many things each answers with beside its tokens, in a tuple; None where with tokens alone.
        batch: which axis is the batch: 0, or 1 where tokens come first.
        order: where the layout's tokens stand, or None where they stand in its order.
        prefix: how many of the layout's tokens are prefix tokens.
    """

    blocks: tuple[nn.Module, ...]
    extras: tuple[int | None, ...]
    batch: int
    order: Int[Tensor, " N"] | None
    prefix: int

    def arrange(self, x: Tensor) -> Tensor:
        """Tokens as the model has them, as `(B, N, D)` in the layout's order."""
        x = x.transpose(0, 1) if self.batch else x
        return x if self.order is None else x[:, self.order]

    def restore(self, x: Float[Tensor, "B N D"]) -> Tensor:
        """The other way round."""
        if self.order is not None:
            x = x[:, self.order.argsort()]
        return x.transpose(0, 1) if self.batch else x

    @contextmanager
    def watched(self) -> Iterator[HiddenStates]:
        """The tokens of one forward."""
        states = HiddenStates(self.arrange)
        handles = []
        done: list[bool] = []

        def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:
            states.tokens.append(_tokens(args, kwargs))
            states.normed.append(None)
            done.clear()

        def norm(_module: nn.Module, _args: Any, out: Any) -> None:
            fits = isinstance(out, Tensor) and bool(states.tokens) and out.shape == states.tokens[-1].shape
            if not done and fits:
                states.normed[-1] = out
                done.append(True)

        def leave(_module: nn.Module, _args: Any, out: Any) -> None:
            states.tokens.append(_first(out))

        try:
            for block in self.blocks:
                handles.append(block.register_forward_pre_hook(enter, with_kwargs=True))
                handles += [
                    m.register_forward_hook(norm) for m in block.modules() if "norm" in type(m).__name__.lower()
                ]
            handles.append(self.blocks[-1].register_forward_hook(leave))
            yield states
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def keeping(self, kept: Bool[Tensor, "B P"]) -> Iterator[None]:
        """Only these patch tokens, as many in each picture, go into the first block; the prefix tokens always do."""
        count = int(kept[0].sum())
        if not bool((kept.sum(1) == count).all()):
            raise MethodError("pictures that go through the model together keep equally many tokens")
        patches = kept.nonzero()[:, 1].reshape(len(kept), count) + self.prefix
        ahead = torch.arange(self.prefix, device=kept.device).expand(len(kept), -1)
        with self.entered(torch.cat([ahead, patches], 1)):
            yield

    @contextmanager
    def entered(self, index: Int[Tensor, "B n"]) -> Iterator[None]:
        """The tokens of these numbers go into the first block, in this order."""
        if self.order is not None:
            index = self.order[index]

        def enter(_module: nn.Module, args: Any, kwargs: Any) -> Any:
            tokens = _tokens(args, kwargs)
            where = index.T if self.batch else index
            fewer = tokens.gather(1 - self.batch, where[..., None].expand(-1, -1, tokens.shape[-1]))
            return _replaced(args, kwargs, fewer)

        handle = self.blocks[0].register_forward_pre_hook(enter, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def replaced(self, tokens: Float[Tensor, "B N D"]) -> Iterator[None]:
        """The blocks are gone past: what follows them is given these tokens."""
        given = self.restore(tokens)
        own = [block.__dict__.get("forward") for block in self.blocks]
        try:
            for block, extra in zip(self.blocks, self.extras, strict=True):
                answer = given if extra is None else (given, *(None,) * extra)
                block.__dict__["forward"] = lambda *_, answer=answer, **__: answer
            yield
        finally:
            for block, forward in zip(self.blocks, own, strict=True):
                if forward is None:
                    del block.__dict__["forward"]
                else:
                    block.__dict__["forward"] = forward


def find_blocks(
    names: Sequence[str], model: nn.Module, run: Callable[[], object], count: int, order: Tensor | None, prefix: int
) -> TransformerBlocks | str:
    """The blocks of a model, or why they cannot be told.

    Args:
        names: the modules that called attention, first layer first.
        model: the model.
        run: runs one forward of a batch of two.
        count: tokens of the layout, prefix included.
        order: where the layout's tokens stand, where they are not in its order.
        prefix: how many of them are prefix tokens.
    """
    paths = [name.split(".") for name in names]
    deepest = min((len(path) for path in paths), default=0)
    depth = next((d for d in range(1, deepest + 1) if len({tuple(p[:d]) for p in paths}) == len(paths)), None)
    if depth is None:
        return "its attention calls do not stand in blocks of their own"
    blocks = tuple(model.get_submodule(".".join(path[:depth])) for path in paths)
    told: list[tuple[Any, Any, int | None]] = []

    def leave(_module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        told.append((_tokens(args, kwargs), _first(out), len(out) - 1 if isinstance(out, tuple) else None))

    handles = [block.register_forward_hook(leave, with_kwargs=True) for block in blocks]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    ends = [x for given, got, _ in told for x in (given, got)]
    if len(told) == len(blocks) and all(isinstance(x, Tensor) and x.ndim == 3 for x in ends):
        batch = next(
            (axis for axis in (0, 1) if all(x.shape[axis] == 2 and x.shape[1 - axis] == count for x in ends)), None
        )
        if batch is not None:
            if any(not torch.equal(a[1], b[0]) for a, b in pairwise(told)):
                return "something happens to its tokens between its blocks"
            return TransformerBlocks(blocks, tuple(extra for _, _, extra in told), batch, order, prefix)
    return f"its blocks do not each take and give tokens (B, {count}, D)"


def _tokens(args: Any, kwargs: Any) -> Any:
    """The first tensor that a block is given."""
    return next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)


def _first(out: Any) -> Any:
    return out[0] if isinstance(out, tuple) and out else out


def _replaced(args: Any, kwargs: Any, tokens: Tensor) -> tuple[Any, Any]:
    for i, x in enumerate(args):
        if isinstance(x, Tensor):
            return (*args[:i], tokens, *args[i + 1 :]), kwargs
    name = next(name for name, x in kwargs.items() if isinstance(x, Tensor))
    return args, {**kwargs, name: tokens}
