"""The attention of one forward: its layers, the tokens that the answer is read from, and its gradients."""

import html
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitscope._layers import backwards, layer_span
from vitscope._messages import msg
from vitscope.attention.backward import Backward, GraphOutput
from vitscope.attention.blocks import Block, query_index
from vitscope.attention.operators import vecmat
from vitscope.errors import LayoutError, MethodError, UsageError
from vitscope.geometry import TokenLayout

LayerSpec: TypeAlias = str | int | slice | Sequence[int] | None
AttentionVecmat: TypeAlias = Callable[[Block, Tensor], Tensor]  # from weights of queries to weights of keys
ResidualWeight: TypeAlias = float | Callable[[Block], Tensor]


@runtime_checkable
class Chain(Protocol):
    """A forward as a chain of operators on tokens, for models whose layers do not all have the same tokens."""

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The layers, first layer first."""
        ...

    def vecmat(
        self,
        layers: Sequence[int],
        attention_vecmat: AttentionVecmat,
        residual_weight: ResidualWeight,
        attention_weight: float,
    ) -> Float[Tensor, "B N"]:
        """Take the readout weights back to the finest tokens, as `AttentionStore.rollout_from_readout` does."""
        ...

    def with_blocks(self, blocks: tuple[Block, ...]) -> "Chain":
        """Return the same chain with other blocks, such as differentiated ones."""
        ...


@dataclass(frozen=True)
class CallSite:
    """The attention call of the forward that made a block.

    Attributes:
        event: its number among the softmaxes and attention calls of the forward.
        axis: the axis of the heads among those before `(N, D)`, as the model has them; -1 where there are no heads.
    """

    event: int
    axis: int


@dataclass(frozen=True, eq=False)
class AttentionStore:
    """The attention of one forward, for one batch of images of one size.

    Attributes:
        blocks: self-attention, first layer first.
        layout: which token is which; None where no layout was given.
        logits: class scores `(B, C)`, or None.
        pool: the attention of a pooling head over the tokens, or None.
        chain: how tokens go from layer to layer, where layers have different tokens (windows, merging, reduced keys);
            a block then has its layer's shape, windows folded into B. None where each layer has all tokens.
        answer: the model's answer `(B, C)` or `(B, N, D)`, with its graph where gradients are captured.
        readout: the weights of the last layer's tokens in the answer, where they are not the layout's, such as CLS and
            the mean patch in equal parts; with `pool`, the weights of the pooling queries. For one image, there may be
            several rows `(Q, N)`.
        outputs: the results of the blocks in that graph.
        call_sites: the call of the forward that made each block; empty for blocks that were not captured.
        backward: the backward that computes gradients when they are first needed.
    """

    blocks: tuple[Block, ...]
    layout: TokenLayout | None = None
    logits: Float[Tensor, "B C"] | None = None
    pool: Block | None = None
    chain: Chain | None = None
    readout: Float[Tensor, "*Q N"] | None = None
    answer: Tensor | None = None
    outputs: tuple[GraphOutput, ...] = ()
    call_sites: tuple[CallSite, ...] = ()
    backward: Backward | None = None

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks)

    def __getitem__(self, layer: int) -> Block:
        """Return the block of one layer, counted from 0, or from the end with negative numbers."""
        return self.blocks[self.select(layer)[0]]

    def select(self, layers: LayerSpec) -> list[int]:
        """Return the numbers of the selected layers, ascending.

        Args:
            layers: None or "all"; 3, -1; "0-11" (both included), "-3--1", "4,7,9", "last3"; a slice; several numbers.

        Raises:
            UsageError: the model has no such layer, or the text has none of these forms.
        """
        depth = len(self.blocks)
        layers = layers.tolist() if isinstance(layers, (np.ndarray, np.generic, Tensor)) else layers
        if layers is None or layers == "all":
            numbers = list(range(depth))
        elif isinstance(layers, slice):
            numbers = list(range(depth))[layers]
        else:
            listed = layers.split(",") if isinstance(layers, str) else layers
            parts: Iterable[str | int] = listed if isinstance(listed, Iterable) else [listed]
            numbers = [number for part in parts for number in _numbers(part, depth)]
        if not numbers and depth:
            raise UsageError(
                msg("attention.empty-selection", "layers {layers} selects no layer", layers=repr(layers)),
                msg("attention.empty-selection.hint", "layers are 0 to {last}", last=depth - 1),
            )
        return sorted(set(numbers))

    def readout_weights(self) -> Float[Tensor, "B N"]:
        """Return the weights of the last layer's tokens in the model's answer; each row sums to one.

        Raises:
            LayoutError: no layout was given.
        """
        if self.layout is None:
            raise LayoutError(
                msg("attention.no-layout", "no token layout was given, so the readout weights are not known"),
                msg(
                    "attention.no-layout.hint",
                    "capture(model, layout=vitscope.TokenLayout(prefix=('cls',), grid=(rows, columns)))",
                ),
            )
        first = self.blocks[0]
        if self.pool is not None:
            queries = self.pool.shape[2]
            mean = torch.full((queries,), 1 / queries, device=first.device)
            return vecmat(self.pool, (mean if self.readout is None else self.readout).expand(first.shape[0], -1))
        readout = torch.from_numpy(self.layout.readout()).to(first.device) if self.readout is None else self.readout
        return readout if readout.ndim == 2 else readout.expand(first.shape[0], -1)

    def with_queries(self, tokens: Sequence[int]) -> "AttentionStore":
        """Return the store of one image, read out from several tokens: methods give a row `(Q, N)` for each.

        Args:
            tokens: their numbers in the layout, prefix first.

        Raises:
            UsageError: several images, layers that do not all have the same tokens, or no such token.
        """
        if self.layout is None or self.chain is not None:
            raise UsageError(_uneven())
        if self.blocks[0].shape[0] != 1:
            raise UsageError(msg("attention.query-several-images", "tokens are queried in one image at a time"))
        index = query_index(list(tokens), self.layout.tokens)
        readout = torch.zeros(len(tokens), self.layout.tokens, device=self.blocks[0].device)
        readout[torch.arange(len(tokens), device="cpu"), index] = 1
        return replace(self, pool=None, readout=readout)

    def with_query(self, query: str) -> "AttentionStore":
        """Return the store, read out from one token instead of the answer's tokens.

        Args:
            query: `row,column` of a patch, or `plane,row,column`, counted from 0; the name of a prefix token, such as
                `cls`; or `readout` for the answer's own tokens.

        Raises:
            UsageError: no such token, or layers that do not all have the same tokens.
        """
        if query == "readout":
            return self
        named = self.layout is not None and query in self.layout.prefix
        if self.layout is None or not (named or re.fullmatch(r"[0-9\s,]+", query)):
            names = ", ".join(("readout", *(self.layout.prefix if self.layout else ())))
            hint = msg(
                "attention.not-a-query.hint", "write {names}, or row,column of a patch, counted from 0", names=names
            )
            raise UsageError(msg("attention.not-a-query", "'{query}' is not a valid query", query=query), hint)
        if self.chain is not None:
            raise UsageError(_uneven())
        prefix = self.layout.prefix
        token = prefix.index(query) if named else len(prefix) + self.layout.patch_number(query)
        readout = torch.zeros(self.layout.tokens, device=self.blocks[0].device)
        readout[token] = 1
        return replace(self, pool=None, readout=readout)

    @property
    def images(self) -> int:
        """How many images: the first axis of a block may have windows beside them."""
        return self.blocks[0].shape[0] if self.answer is None else len(self.answer)

    def received_attention(self, layer: int, weights: Callable[[Block], Float[Tensor, "b M"]]) -> Float[Tensor, "B N"]:
        """Return weights of one layer's keys as weights of the layout's tokens: a key's tokens share its weight.

        Args:
            layer: its number.
            weights: from the layer's block to the weights of its keys, a row for each of the block's windows.
        """
        return self.received_in_each([layer], weights)[0]

    def received_in_each(
        self, layers: Sequence[int], weights: Callable[[Block], Float[Tensor, "b M"]]
    ) -> list[Float[Tensor, "B N"]]:
        """Return `received_attention` of each of some layers, whose numbers are ascending."""
        if self.chain is not None:
            return [self.layer_vecmat(layer, lambda block, _: weights(block)) for layer in layers]
        found: list[Tensor] = []
        self._from_last(layers, lambda block: found.append(weights(block)))
        return found[::-1]

    def layer_vecmat(self, layer: int, attention_vecmat: AttentionVecmat) -> Float[Tensor, "B N"]:
        """Return the readout weights times one layer's attention, without the residual path.

        Weight that bypasses the layer's attention is left out, too: patches around a class attention, another branch.
        """
        if self.chain is None:
            return attention_vecmat(self.blocks[layer], self.readout_weights())
        bypass = self.chain.vecmat([layer], lambda block, r: r.new_zeros(len(r), block.shape[3]), 0.0, 1.0)
        return self.chain.vecmat([layer], attention_vecmat, 0.0, 1.0) - bypass

    def rollout_from_readout(
        self,
        layers: Sequence[int],
        attention_vecmat: AttentionVecmat,
        residual_weight: ResidualWeight,
        attention_weight: float,
    ) -> Float[Tensor, "B N"]:
        """Take the readout weights back through layers, the last layer first.

        Formula: `r <- residual_weight r + attention_weight attention_vecmat(block, r)`.

        Args:
            layers: their numbers, ascending; any other layer leaves the weights of its tokens as they are.
            attention_vecmat: from a block and weights of its queries to weights of its keys, such as `vecmat`.
            residual_weight: the weight of the residual path: a number, or from a block to a number for each query.
            attention_weight: the weight of attention.

        Returns:
            Weights of the tokens of `layout`; of the first layer's tokens, where layers have different tokens.
        """
        if self.chain is not None:
            return self.chain.vecmat(layers, attention_vecmat, residual_weight, attention_weight)
        r = self.readout_weights()

        def step(block: Block) -> None:
            nonlocal r
            attended = attention_weight * attention_vecmat(block, r)
            residual = residual_weight(block) if callable(residual_weight) else residual_weight
            if isinstance(residual, Tensor):
                r = residual * r + attended
            else:
                r = torch.add(attended, r, alpha=residual) if residual else attended

        self._from_last(layers, step)
        return r

    def _from_last(self, layers: Sequence[int], step: Callable[[Block], None]) -> None:
        """Call a function with the block of each of some layers, the last first; within the backward if that is due."""
        if self.backward is not None:
            self.backward.visit(self.blocks, layers, step)
            return
        for layer in reversed(layers):
            step(self.blocks[layer])

    def in_chunks(self, chunk: int) -> "AttentionStore":
        """Return the store with blocks that work on `chunk` queries at a time."""
        return self._with(tuple(replace(block, chunk=chunk) for block in self.blocks))  # type: ignore[type-var]

    def without_blocks(self) -> "AttentionStore":
        """Return the store with its answer and layout alone, which frees the memory of attention."""
        return replace(self, blocks=(), pool=None, chain=None, outputs=(), call_sites=(), backward=None)

    def differentiate(self, score: Float[Tensor, " B"], *, last: bool = True, lazily: bool = False) -> "AttentionStore":
        """Return the store whose blocks have the gradient of `score` with respect to their attention.

        Args:
            score: one number per image, made from `answer`.
            last: free the graph; no other score can be differentiated afterwards.
            lazily: run the backward when a gradient is first needed. A method that takes weights back through the
                layers then goes along with it, and makes each layer's attention once for both.

        Raises:
            MethodError: the forward was captured without its graph, or no layer has a residual connection.

        Cost: one backward pass; beyond it, the memory of the results, O(L N D).
        """
        if not self.blocks:
            raise MethodError(
                msg(
                    "attention.no-layers",
                    "no attention of this model is added to its own input, by a residual connection: it has no layers",
                ),
                msg("attention.no-layers.hint", "use rollout, or a method of the input such as input-x-gradient"),
            )
        if not self.outputs or score.grad_fn is None:
            raise MethodError(
                msg("attention.no-graph", "this attention was captured without its graph"),
                msg("attention.no-graph.hint", "use capture(model, gradients=True)"),
            )
        backward = Backward(self.outputs, score.sum(), last)
        grads = [partial(backward.gradient, layer) for layer in range(len(self))]
        pairs = zip(self.blocks, grads, strict=True)
        found = tuple(replace(block, grad_out=grad if lazily else grad()) for block, grad in pairs)  # type: ignore[type-var]
        return replace(self._with(found), backward=backward if lazily else None)

    def _with(self, blocks: tuple[Block, ...]) -> "AttentionStore":
        chain = None if self.chain is None else self.chain.with_blocks(blocks)
        return replace(self, blocks=blocks, chain=chain)

    def __repr__(self) -> str:
        sizes = (
            f"{name}={_range([block.shape[axis] for block in self.blocks])}"
            for name, axis in (("heads", 1), ("queries", 2), ("keys", 3))
        )
        counts = [f"images={self.images}", *sizes] if self.blocks else []
        about = f"'{self.layout}'" if self.layout else "None"
        return f"{type(self).__name__}({', '.join((f'layers={len(self)}', *counts, f'layout={about}'))})"

    def _repr_html_(self) -> str:
        """Return a table of the layers, for notebooks."""
        cells = [(str(number), block.name, *map(str, block.shape[1:])) for number, block in enumerate(self.blocks)]
        head = "".join(f"<th>{name}</th>" for name in ("layer", "module", "heads", "queries", "keys"))
        rows = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in cells)
        return f"<table><caption>{html.escape(repr(self))}</caption><tr>{head}</tr>{rows}</table>"


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}..{high}"


def _uneven() -> str:
    return msg("attention.query-uneven", "single tokens cannot be queried where layers do not all have the same tokens")


def _numbers(part: str | int, depth: int) -> list[int]:
    text = str(part).strip()
    ends = layer_span(text)
    if text.startswith("last"):  # as many as there are
        ends = max(ends[0], -depth), -1
    for end in ends:
        if not -depth <= end < depth:
            hint = msg(
                "attention.no-such-layer.hint",
                "layers are 0 to {last}, or -{depth} to -1 from the end",
                last=depth - 1,
                depth=depth,
            )
            raise UsageError(msg("attention.no-such-layer", "there is no layer {layer}", layer=end), hint)
    first, last = (end % depth for end in ends)
    if first > last:
        raise backwards(text, first, last)
    return list(range(first, last + 1))
