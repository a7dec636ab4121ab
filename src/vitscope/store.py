"""Attention as a linear operator on tokens, never a stored matrix.

A block is anything that gives rows of attention on demand: `Factored` rebuilds them from queries and keys, `Dense`
holds them. Methods cannot tell the difference. `pull` takes a weighting of queries back to a weighting of keys, chunk
by chunk, so that memory stays linear in the number of tokens:

    r (B, N)  --pull-->  r A (B, M)       with A (B, H, N, M) the block's attention, fused over heads

Letters: B images, H heads, N query tokens, M key tokens, D head width.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitscope.errors import LayoutError, MethodError, UsageError
from vitscope.geometry import TokenLayout

__all__ = [
    "AttentionStore",
    "Block",
    "Call",
    "Chain",
    "Dense",
    "Factored",
    "Fuse",
    "LayerSpec",
    "Selection",
    "Source",
    "Weigh",
    "matrix",
    "pull",
    "pull_heads",
    "push",
    "walk",
]

Selection: TypeAlias = slice | int | Sequence[int] | Int[Tensor, " n"]
Weigh: TypeAlias = Callable[[Float[Tensor, "B H n M"], Float[Tensor, "B H n M"]], Float[Tensor, "B n M"]]
LayerSpec: TypeAlias = str | int | slice | Sequence[int] | None
Attend: TypeAlias = Callable[["Block", Tensor], Tensor]
Fuse: TypeAlias = Callable[[Float[Tensor, "B H n M"]], Float[Tensor, "B n M"]]

# a tile of attention that stays in one core's second-level cache while it is made, exponentiated and summed
_TILE_QUERIES, _TILE_KEYS = 256, 512
_LOG2_E = math.log2(math.e)
_CHUNK_ELEMENTS = {"cpu": 2**20, "other": 2**25}


@runtime_checkable
class Block(Protocol):
    """One layer's attention, by rows."""

    @property
    def name(self) -> str:
        """The module that made it."""
        ...

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(B, H, N, M)`."""
        ...

    @property
    def chunk(self) -> int | None:
        """Queries at a time; None chooses a number that fits the cache."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the numbers are."""
        ...

    def rows(self, sel: Selection = ...) -> Float[Tensor, "B H n M"]:
        """The attention distributions of the chosen queries; each sums to one over M."""
        ...

    def grad_rows(self, sel: Selection = ...) -> Float[Tensor, "B H n M"]:
        """The gradient of the score with respect to the chosen rows, in a store that was differentiated."""
        ...

    def fold(self, r: Float[Tensor, "B N"]) -> Float[Tensor, "B M"] | None:
        """`r` times the mean over heads in one cheap sweep, or None where only rows can be had."""
        ...


@dataclass(frozen=True, eq=False)
class Factored:
    """Attention kept as queries and keys: `A = softmax(scale * q k^T + bias)`.

    Attributes:
        name: the module that called the attention kernel.
        q: queries `(B, H, N, D)`; k: keys `(B, H, M, D)`, grouped heads already expanded.
        scale: what the scores are multiplied by, `1 / sqrt(D)` as a rule.
        bias: additive mask or position bias, broadcastable to `(B, H, N, M)`, or None.
        lse: log of each query's sum of exponentiated scores `(B, H, N)`, where the kernel gave it.
        chunk: queries at a time; None chooses.
        v: values `(B, H, M, E)`, kept where gradients are wanted.
        grad_out: gradient of a score with respect to the result `A v`, `(B, H, N, E)`.
        project: weight `(W, H E)` of the linear map that the heads' results, side by side, go into; where asked for.

    Memory: O(B H (N + M) D); rows are made on demand and not kept.
    """

    name: str
    q: Float[Tensor, "B H N D"]
    k: Float[Tensor, "B H M D"]
    scale: float
    bias: Float[Tensor, "#B #H #N #M"] | None = None
    lse: Float[Tensor, "B H N"] | None = None
    chunk: int | None = None
    v: Float[Tensor, "B H M E"] | None = None
    grad_out: Float[Tensor, "B H N E"] | None = None
    project: Float[Tensor, "W C"] | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(B, H, N, M)`."""
        return self.q.shape[0], self.q.shape[1], self.q.shape[2], self.k.shape[2]

    @property
    def device(self) -> torch.device:
        """Where the numbers are."""
        return self.q.device

    def rows(self, sel: Selection = slice(None)) -> Float[Tensor, "B H n M"]:
        """The attention distributions of the queries `sel` (a slice, an index, or several), in float32 or better."""
        sel = _index(sel, self.shape[2])
        scores = torch.matmul(_precise(self.q[:, :, sel]) * self.scale, _precise(self.k).transpose(-1, -2))
        if self.bias is not None:
            scores = scores + (self.bias if self.bias.shape[2] == 1 else self.bias[:, :, sel])
        return torch.softmax(scores, -1)

    def grad_rows(self, sel: Selection = slice(None)) -> Float[Tensor, "B H n M"]:
        """The gradient of the score with respect to those rows of attention: `dy/dA = (dy/dO) v^T`, exactly."""
        return _grad_rows(self, sel)

    def fold(self, r: Float[Tensor, "B N"]) -> Float[Tensor, "B M"] | None:
        """`sum_i r_i mean_h A_hij`, from `A_ij = exp(scale q_i.k_j - lse_i)`: no softmax pass, tile by tile.

        Powers of two are taken instead of e, which costs half on a CPU. Weights below 2^-80 count as 2^-80: far below
        the resolution of the sum, and it keeps denormal numbers out, which are slow.
        """
        if self.lse is None or self.bias is not None:
            return None
        b, h, n, m = self.shape
        q, k = _precise(self.q).flatten(0, 1), _precise(self.k).flatten(0, 1).transpose(1, 2)
        shift = (_precise(self.lse) * -_LOG2_E).to(q.dtype).reshape(b * h, n, 1)
        weight = r.to(q.dtype)[:, None].expand(b, h, n).reshape(b * h, 1, n)
        out = q.new_zeros(b * h, 1, m)
        tall = self.chunk or _TILE_QUERIES
        wide = _TILE_KEYS if self.device.type == "cpu" else m
        group = max(1, _budget(self.device) // (tall * min(wide, m)))
        tile = q.new_empty(min(group, b * h) * min(tall, n) * min(wide, m))
        for heads in _slices(b * h, group):
            for keys in _slices(m, wide):
                part, total = k[heads, :, keys], out[heads, :, keys]
                for queries in _slices(n, tall):
                    here = q[heads, queries]
                    a = tile[: here.shape[0] * here.shape[1] * part.shape[2]].view(*here.shape[:2], part.shape[2])
                    torch.baddbmm(shift[heads, queries], here, part, alpha=self.scale * _LOG2_E, out=a)
                    a.clamp_(min=-80).exp2_()
                    total.baddbmm_(weight[heads, :, queries], a)
        return out.view(b, h, m).mean(1)


@dataclass(frozen=True, eq=False)
class Dense:
    """Attention that is already a matrix, `probs (B, H, N, M)`: for code with a softmax of its own, and for tests."""

    name: str
    probs: Float[Tensor, "B H N M"]
    chunk: int | None = None
    v: Float[Tensor, "B H M E"] | None = None
    grad_out: Float[Tensor, "B H N E"] | None = None
    project: Float[Tensor, "W C"] | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(B, H, N, M)`."""
        b, h, n, m = self.probs.shape
        return b, h, n, m

    @property
    def device(self) -> torch.device:
        """Where the numbers are."""
        return self.probs.device

    def rows(self, sel: Selection = slice(None)) -> Float[Tensor, "B H n M"]:
        """The attention distributions of the queries `sel`."""
        return _precise(self.probs[:, :, _index(sel, self.shape[2])])

    def grad_rows(self, sel: Selection = slice(None)) -> Float[Tensor, "B H n M"]:
        """The gradient of the score with respect to those rows of attention: `dy/dA = (dy/dO) v^T`, exactly."""
        return _grad_rows(self, sel)

    def fold(self, r: Float[Tensor, "B N"]) -> None:
        """Nothing cheaper than rows here."""
        return


def pull(
    block: Block, r: Float[Tensor, "B N"], fuse: Fuse | None = None, *, weigh: Weigh | None = None
) -> Float[Tensor, "B M"]:
    """Take a weighting of queries to a weighting of keys: `r A`, with A fused over heads.

    Args:
        block: one layer's attention.
        r: weights of the query tokens, any sign; queries that weigh nothing in the whole batch are never computed.
        fuse: from rows `(B, H, n, M)` to `(B, n, M)`; None is the mean over heads, which is also the fastest.
        weigh: from rows and their gradients, both `(B, H, n, M)`, to `(B, n, M)`; instead of `fuse`.

    A block of one picture takes several weightings at once, a row of `r` for each.

    Cost: at most one attention without its value product; O(chunk M) memory beyond the block.
    """
    active = _active(r)
    if block.shape[0] == 1 < len(r):
        fuse = fuse or (lambda rows: rows.mean(1))
    if fuse is None and weigh is None:
        folded = block.fold(r) if len(active) > _TILE_QUERIES // 2 else None
        return pull_heads(block, r).mean(1) if folded is None else folded
    out = r.new_zeros(r.shape[0], block.shape[3])
    for chunk in torch.split(active, _chunk(block)):
        rows = block.rows(chunk)
        fused = weigh(rows, block.grad_rows(chunk)) if weigh else fuse(rows) if fuse else rows.mean(1)
        part = r[:, chunk].to(fused.dtype)
        out = out + (part @ fused[0] if len(fused) == 1 else torch.bmm(part[:, None], fused).squeeze(1))
    return out


def pull_heads(block: Block, r: Float[Tensor, "B N"]) -> Float[Tensor, "B H M"]:
    """`r A` for each head by itself."""
    b, h, _, m = block.shape
    out = r.new_zeros(b, h, m)
    for chunk in torch.split(_active(r), _chunk(block)):
        rows = block.rows(chunk)
        out = out + torch.matmul(r[:, None, None, chunk].to(rows.dtype), rows).squeeze(2)
    return out


def walk(block: Block) -> Iterator[slice]:
    """All queries, first to last, as many at a time as fit the cache."""
    return _slices(block.shape[2], _chunk(block))


def matrix(block: Block, most: int = 1024) -> tuple[Float[Tensor, "B H n m"], int]:
    """All rows, for looking at: at most `most` on a side, by the mean over k x k entries; and that k."""
    b, h, n, m = block.shape
    k = -(-max(n, m) // most)
    rows = [_columns_pooled(block.rows(queries).mean(2), k) for queries in _slices(n, k)] if k > 1 else [block.rows()]
    return torch.cat([row.reshape(b, h, -1, row.shape[-1]) for row in rows], 2), k


def push(block: Block, v: Float[Tensor, "B M"], fuse: Fuse | None = None) -> Float[Tensor, "B N"]:
    """Take values of the keys to the queries: `A v`, with A fused over heads; a column of a product from its right."""
    parts = []
    for queries in walk(block):
        rows = block.rows(queries)
        fused = rows.mean(1) if fuse is None else fuse(rows)
        parts.append(torch.bmm(fused, v[..., None].to(fused.dtype)).squeeze(2))
    return torch.cat(parts, 1)


@runtime_checkable
class Chain(Protocol):
    """A forward as operators on tokens, where layers do not all see the same tokens."""

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The layers, first layer first."""
        ...

    def pull(self, layers: Sequence[int], attend: Attend, keep: float, mix: float) -> Float[Tensor, "B N"]:
        """The readout taken back to the finest tokens: `r <- keep r + mix attend(block, r)` at each of `layers`."""
        ...

    def with_blocks(self, blocks: tuple[Block, ...]) -> "Chain":
        """The same with other blocks, such as some that know gradients."""
        ...


@dataclass(frozen=True, eq=False)
class Source:
    """Where a block's result stands in the autograd graph.

    Attributes:
        out: the result itself.
        place: what makes a tensor of its shape `(B, H, N, E)`, as the block has it.
    """

    out: Tensor
    place: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Call:
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
    sources: tuple[Source, ...] = ()
    calls: tuple[Call, ...] = ()

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

    def seed(self) -> Float[Tensor, "B N"]:
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
            return pull(self.pool, read.expand(first.shape[0], -1))
        readout = torch.from_numpy(self.layout.readout()).to(first.device) if self.start is None else self.start
        return readout if readout.ndim == 2 else readout.expand(first.shape[0], -1)

    def asking(self, tokens: Sequence[int]) -> "AttentionStore":
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
        index = _index(list(tokens), self.layout.tokens)
        start = torch.zeros(len(tokens), self.layout.tokens, device=self.blocks[0].device)
        start[torch.arange(len(tokens)), index] = 1
        return replace(self, pool=None, start=start)

    def asked(self, query: str) -> "AttentionStore":
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

    def carry(self, layers: Sequence[int], attend: Attend, keep: float, mix: float) -> Float[Tensor, "B N"]:
        """Take the readout row back through layers: `r <- keep r + mix attend(block, r)`, the last layer first.

        Args:
            layers: which take part, ascending; around any other a token's weight stays where it is.
            attend: from a block and weights of its queries to weights of its keys, such as `pull`.
            keep: weight of the residual path.
            mix: weight of attention.

        Returns:
            Weights of the tokens of `layout`: of the first layer's tokens, where layers differ in them.
        """
        if self.chain is not None:
            return self.chain.pull(layers, attend, keep, mix)
        r = self.seed()
        for layer in reversed(layers):
            pulled = attend(self.blocks[layer], r)
            r = keep * r + mix * pulled if keep else mix * pulled
        return r

    def in_chunks(self, chunk: int) -> "AttentionStore":
        """The same store, with blocks that work on `chunk` queries at a time."""
        return self._with(tuple(replace(block, chunk=chunk) for block in self.blocks))  # type: ignore[type-var]

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


def _grad_rows(block: Factored | Dense, sel: Selection) -> Tensor:
    if block.v is None or block.grad_out is None:
        raise MethodError(f"no gradient is known of {block.name}", "store.differentiate(score) comes first")
    grad = _precise(block.grad_out[:, :, _index(sel, block.shape[2])])
    return torch.matmul(grad, _precise(block.v).transpose(-1, -2))


def _index(sel: Selection, length: int) -> slice | Tensor:
    if isinstance(sel, slice):
        return sel
    index = torch.as_tensor([sel] if isinstance(sel, int) else sel, dtype=torch.long)
    if len(index) and not (-length <= int(index.min()) and int(index.max()) < length):
        raise UsageError(f"query {index.tolist()} is not one of the {length} tokens")
    return index


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


def _precise(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _budget(device: torch.device) -> int:
    return _CHUNK_ELEMENTS["cpu" if device.type == "cpu" else "other"]


def _chunk(block: Block) -> int:
    b, h, _, m = block.shape
    return block.chunk or max(1, _budget(block.device) // (b * h * m))


def _active(r: Float[Tensor, "B N"]) -> Int[Tensor, " n"]:
    return (r != 0).any(0).nonzero().squeeze(1)


def _columns_pooled(rows: Float[Tensor, "B H M"], k: int) -> Float[Tensor, "B H m"]:
    return torch.nn.functional.avg_pool1d(rows, k, ceil_mode=True, count_include_pad=False)


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))
