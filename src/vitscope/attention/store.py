"""All attention of one forward: which layers there are, where the answer starts from, and what its gradients are."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.attention.blocks import Block, index_of
from vitscope.attention.operators import vecmat
from vitscope.errors import LayoutError, MethodError, UsageError
from vitscope.geometry import TokenLayout

__all__ = ["AttentionStore", "CallSite", "Chain", "GraphOutput", "LayerSpec"]

LayerSpec: TypeAlias = str | int | slice | Sequence[int] | None
Attend: TypeAlias = Callable[[Block, Tensor], Tensor]
Keep: TypeAlias = float | Callable[[Block], Tensor]


@runtime_checkable
class Chain(Protocol):
    """A forward as operators on tokens, where layers do not all see the same tokens."""

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The layers, first layer first."""
        ...

    def vecmat(self, layers: Sequence[int], attend: Attend, keep: Keep, mix: float) -> Float[Tensor, "B N"]:
        """The readout taken back to the finest tokens: `r <- keep r + mix attend(block, r)` at each of `layers`."""
        ...

    def with_blocks(self, blocks: tuple[Block, ...]) -> "Chain":
        """The same with other blocks, such as some that know gradients."""
        ...


@dataclass(frozen=True, eq=False)
class GraphOutput:
    """Where a block's result stands in the autograd graph.

    Attributes:
        out: the result itself.
        place: what makes a tensor of its shape `(B, H, N, E)`, as the block has it.
    """

    out: Tensor
    place: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class CallSite:
    """Which attention call of the forward a block was.

    Attributes:
        event: its number among the softmaxes and attention calls of the forward.
        axis: which of the axes before `(N, D)`, as the model has them, is the heads'; -1 where there are no heads.
    """

    event: int
    axis: int


@dataclass(frozen=True, eq=False)
class AttentionStore:
    """All attention of one forward, for one batch of pictures of one size.

    Attributes:
        blocks: self-attention, first layer first.
        layout: which token is which; None where nobody said.
        logits: class scores `(B, C)`, or None.
        pool: the attention of a pooling head over the tokens, or None.
        chain: how tokens go from layer to layer, where layers differ in them (windows, merging, reduced keys); a block
            then has the shape that its layer has, windows folded into B. None where each layer sees all tokens.
        answer: the model's answer `(B, C)` or `(B, N, D)`, with its graph where gradients are wanted.
        sources: where the blocks' results stand in that graph.
        start: the readout row, where it is none of the layout's, such as CLS and the mean patch in equal parts; with
            `pool`, how much of each pooling query the answer reads. For one picture, several of them `(Q, N)`.
        calls: which call of the forward each block was; empty for blocks that no capture saw.
    """

    blocks: tuple[Block, ...]
    layout: TokenLayout | None = None
    logits: Float[Tensor, "B C"] | None = None
    pool: Block | None = None
    chain: Chain | None = None
    start: Float[Tensor, "*Q N"] | None = None
    answer: Tensor | None = None
    sources: tuple[GraphOutput, ...] = ()
    calls: tuple[CallSite, ...] = ()

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks)

    def __getitem__(self, layer: int) -> Block:
        """The block of one layer, counted from 0, or from the end with negative numbers."""
        return self.blocks[self.select(layer)[0]]

    def select(self, layers: LayerSpec) -> list[int]:
        """Layer numbers, ascending, from what users write.

        Args:
            layers: None or "all"; 3, -1; "0-11" (both included), "-3--1", "4,7,9", "last3"; a slice; several numbers.

        Raises:
            UsageError: a layer that this model does not have, or text that is none of these forms.
        """
        depth = len(self.blocks)
        if layers is None or layers == "all":
            wanted = list(range(depth))
        elif isinstance(layers, slice):
            wanted = list(range(depth))[layers]
        else:
            parts = layers.split(",") if isinstance(layers, str) else [layers] if isinstance(layers, int) else layers
            wanted = [number for part in parts for number in _numbers(part, depth)]
        if not wanted and depth:
            raise UsageError(f"layers {layers!r} selects no layer", f"layers are 0 to {depth - 1}")
        return sorted(set(wanted))

    def readout_weights(self) -> Float[Tensor, "B N"]:
        """The readout row: how much of each last-layer token the model's answer starts from.

        Raises:
            LayoutError: where the layout is not known.
        """
        if self.layout is None:
            raise LayoutError(
                "nobody said which token is which, so the readout row is not known",
                "store_of(layout=vitscope.TokenLayout(prefix=('cls',), grid=(rows, columns)))",
            )
        first = self.blocks[0]
        if self.pool is not None:
            queries = self.pool.shape[2]
            read = torch.full((queries,), 1 / queries, device=first.device) if self.start is None else self.start
            return vecmat(self.pool, read.expand(first.shape[0], -1))
        readout = torch.from_numpy(self.layout.readout()).to(first.device) if self.start is None else self.start
        return readout if readout.ndim == 2 else readout.expand(first.shape[0], -1)

    def with_queries(self, tokens: Sequence[int]) -> "AttentionStore":
        """The same store of one picture, read from several tokens at once: a method gives a row `(Q, N)` for each.

        Args:
            tokens: places in the layout, prefix first.

        Raises:
            UsageError: more than one picture, layers that do not all see the same tokens, or no such token.
        """
        if self.layout is None or self.chain is not None:
            raise UsageError("tokens cannot be asked where layers do not all see the same tokens")
        if self.blocks[0].shape[0] != 1:
            raise UsageError("tokens are asked of one picture at a time")
        index = index_of(list(tokens), self.layout.tokens)
        start = torch.zeros(len(tokens), self.layout.tokens, device=self.blocks[0].device)
        start[torch.arange(len(tokens)), index] = 1
        return replace(self, pool=None, start=start)

    def with_query(self, query: str) -> "AttentionStore":
        """The same store, read from one token: `row,column` of a patch, from 0, or a prefix token's name such as `cls`.

        `readout` changes nothing.

        Raises:
            UsageError: no such token, or layers that do not all see the same tokens.
        """
        if query == "readout":
            return self
        named = self.layout is not None and query in self.layout.prefix
        match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", query)
        if (match is None and not named) or self.layout is None:
            names = "".join(f", {name}" for name in self.layout.prefix) if self.layout else ""
            raise UsageError(f"'{query}' is no query", f"write readout{names}, or row,column of a patch, from 0")
        if self.chain is not None:
            raise UsageError("a token cannot be asked where layers do not all see the same tokens")
        start = torch.zeros(self.layout.tokens, device=self.blocks[0].device)
        if match is None:
            start[self.layout.prefix.index(query)] = 1
            return replace(self, pool=None, start=start)
        (row, column), (rows, columns) = map(int, match.groups()), self.layout.grid
        if row >= rows or column >= columns:
            raise UsageError(
                f"there is no patch {row},{column}", f"rows are 0 to {rows - 1}, columns 0 to {columns - 1}"
            )
        start[len(self.layout.prefix) + row * columns + column] = 1
        return replace(self, pool=None, start=start)

    @property
    def pictures(self) -> int:
        """How many pictures: blocks may have windows beside them on their first axis."""
        return self.blocks[0].shape[0] if self.answer is None else len(self.answer)

    def received_attention(self, layer: int, weights: Callable[[Block], Float[Tensor, "b M"]]) -> Float[Tensor, "B N"]:
        """Weights of one layer's keys as weights of the layout's tokens: what a key was made of shares its weight.

        Args:
            layer: its number.
            weights: from the layer's block to weights of its keys, a row for each of the block's windows.
        """
        return self.layer_vecmat(layer, lambda block, _: weights(block))

    def layer_vecmat(self, layer: int, attend: Attend) -> Float[Tensor, "B N"]:
        """Return the readout weights times one layer's attention, without the residual path.

        Some tokens go around a layer's residual: patches around a class attention, or another branch.
        """
        if self.chain is None:
            return attend(self.blocks[layer], self.readout_weights())
        past = self.chain.vecmat([layer], lambda block, r: r.new_zeros(len(r), block.shape[3]), 0.0, 1.0)
        return self.chain.vecmat([layer], attend, 0.0, 1.0) - past

    def rollout_from_readout(
        self, layers: Sequence[int], attend: Attend, keep: Keep, mix: float
    ) -> Float[Tensor, "B N"]:
        """Take the readout row back through layers: `r <- keep r + mix attend(block, r)`, the last layer first.

        Args:
            layers: which take part, ascending; around any other a token's weight stays where it is.
            attend: from a block and weights of its queries to weights of its keys, such as `vecmat`.
            keep: weight of the residual path: one for all, or from a block to one for each of its queries.
            mix: weight of attention.

        Returns:
            Weights of the tokens of `layout`: of the first layer's tokens, where layers differ in them.
        """
        if self.chain is not None:
            return self.chain.vecmat(layers, attend, keep, mix)
        r = self.readout_weights()
        for layer in reversed(layers):
            pulled = attend(self.blocks[layer], r)
            kept = keep(self.blocks[layer]) if callable(keep) else keep
            r = kept * r + mix * pulled if isinstance(kept, Tensor) or kept else mix * pulled
        return r

    def in_chunks(self, chunk: int) -> "AttentionStore":
        """The same store, with blocks that work on `chunk` queries at a time."""
        return self._with(tuple(replace(block, chunk=chunk) for block in self.blocks))  # type: ignore[type-var]

    def without_blocks(self) -> "AttentionStore":
        """The answer and its layout alone: attention gives its memory back."""
        return replace(self, blocks=(), pool=None, chain=None, sources=(), calls=())

    def differentiate(self, score: Float[Tensor, " B"], *, last: bool = True) -> "AttentionStore":
        """The same store, whose blocks know the gradient of `score` with respect to their attention.

        Args:
            score: one number per picture, made from `answer`.
            last: no other score will be differentiated: the graph is freed.

        Raises:
            MethodError: the forward kept no graph.

        Cost: one backward pass; memory beyond it is that of the results, O(L N D).
        """
        if not self.sources or score.grad_fn is None:
            raise MethodError("this attention was captured without its graph", "use capture(model, gradients=True)")
        outs = [source.out for source in self.sources]
        grads = torch.autograd.grad(score.sum(), outs, retain_graph=not last, allow_unused=True)
        placed = [
            source.place(torch.zeros_like(source.out) if grad is None else grad)
            for source, grad in zip(self.sources, grads, strict=True)
        ]
        pairs = zip(self.blocks, placed, strict=True)
        return self._with(tuple(replace(block, grad_out=grad) for block, grad in pairs))  # type: ignore[type-var]

    def _with(self, blocks: tuple[Block, ...]) -> "AttentionStore":
        chain = None if self.chain is None else self.chain.with_blocks(blocks)
        return replace(self, blocks=blocks, chain=chain)


def _numbers(part: str | int, depth: int) -> list[int]:
    text = str(part).strip()
    if match := re.fullmatch(r"last(\d+)", text):
        ends = max(depth - int(match[1]), 0), depth - 1
    elif match := re.fullmatch(r"(-?\d+)-(-?\d+)", text):
        ends = int(match[1]), int(match[2])
    elif re.fullmatch(r"-?\d+", text):
        ends = int(text), int(text)
    else:
        raise UsageError(f"'{text}' is not a layer", "write 3, -1, 0-11, -3--1, 4,7,9, last3 or all")
    for end in ends:
        if not -depth <= end < depth:
            raise UsageError(f"there is no layer {end}", f"layers are 0 to {depth - 1}, or -{depth} to -1 from the end")
    first, last = (end % depth for end in ends)
    return list(range(first, last + 1))
