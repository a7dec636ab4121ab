"""What methods are given that go beyond attention: the pictures, the model as a function, its tokens, and the target.

Letters: B pictures, n rows of a forward (any number for each picture), N tokens, P of them patches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitscope.attention import AttentionStore
from vitscope.attention.transformer_blocks import HiddenStates, HookPoint, TokenActivations, TransformerBlocks
from vitscope.errors import MethodError
from vitscope.geometry import TokenLayout
from vitscope.tracing.block_io import StagedHiddenStates

__all__ = ["MethodContext"]


@dataclass(frozen=True, eq=False)
class MethodContext:
    """One batch of pictures under one target.

    Attributes:
        store: the attention of the plain forward.
        pixels: the pictures as the model got them.
        score: the target's score of each picture, with its graph where the method wants gradients.
        run: scores of other pixels `(n, 3, Hi, Wi)`, the numbers of the pictures they belong to, and `correction`.
        answer: the model's answer to pixels, without a graph.
        states: the tokens of the plain forward, where the method wants them.
        body: the model's blocks, where the method wants them.
        seed: for random numbers.
        batch: rows that go through the model together.
        last: no other target will be asked of this forward: its graph may be freed.
        tick: called with (done, total) while a method runs many forwards.
    """

    store: AttentionStore
    pixels: Float[Tensor, "B 3 Hi Wi"]
    score: Float[Tensor, " B"]
    run: Callable[[Tensor, Tensor], Tensor]
    answer: Callable[[Tensor], Tensor]
    states: HiddenStates | StagedHiddenStates | None = None
    body: TransformerBlocks | None = None
    seed: int = 0
    batch: int = 8
    last: bool = True
    tick: Callable[[int, int], None] = lambda done, total: None

    @property
    def layout(self) -> TokenLayout:
        """Which token is which."""
        assert self.store.layout is not None
        return self.store.layout

    def gradients(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The gradient of the scores with respect to tensors of the plain forward; zero where there is none."""
        grads = torch.autograd.grad(self.score.sum(), list(tensors), retain_graph=not self.last, allow_unused=True)
        return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(grads, tensors, strict=True))

    def scores(self, pixels: Float[Tensor, "n 3 Hi Wi"], pictures: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The target's scores of changed pictures; with a graph where `pixels` asks for one."""
        return self.run(pixels, pictures)

    def scores_keeping(self, kept: Bool[Tensor, "n P"], pictures: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The target's scores where only some patch tokens go through the blocks, equally many in each row."""
        with self.blocks.keep_patches(kept):
            return self.run(self.pixels.detach()[pictures], pictures)

    def scores_past(self, tokens: Float[Tensor, "n k D"], pictures: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The target's scores where these tokens come out of the last block, whatever went in: one picture's pixels do.

        Only for models of which nothing but the blocks needs to know how many pictures and tokens there are.
        """
        with self.blocks.skip(tokens):
            return self.run(self.pixels.detach()[:1], pictures)

    @property
    def blocks(self) -> TransformerBlocks:
        """The model's blocks."""
        if self.body is None:
            raise MethodError(
                "this method was not given the model's blocks", "register it with requires={'hidden-states'}"
            )
        return self.body

    @property
    def tokens(self) -> HiddenStates:
        """The tokens of the plain forward."""
        if not isinstance(self.states, HiddenStates):
            raise MethodError(
                "this method was not given the model's tokens", "register it with requires={'hidden-states'}"
            )
        return self.states

    def spot(self, layer: int, at: HookPoint) -> TokenActivations:
        """The tokens at one place of a layer's block; where layers do not all see the same tokens, on their own grid.

        Args:
            layer: block, from 0, or from the end with negative numbers.
            at: what its first `norm` gives (its input, where there is none), its `input`, or its `output`.

        Raises:
            UsageError: no such layer, or no grid of tokens there.
        """
        (number,) = self.store.select(layer)
        if isinstance(self.states, StagedHiddenStates):
            return self.states.spot(number, at)
        normed = self.tokens.normed[number] if at == "norm" else None
        place = f"{'first norm' if at == 'norm' else at} of block {number}"
        if at == "norm" and normed is None:
            place = f"input of block {number}, which has no norm"
        raw = self.tokens.tokens[number + (at == "output")] if normed is None else normed
        row = torch.from_numpy(self.layout.readout()).to(raw) if at == "output" else None
        return TokenActivations(raw, self.tokens.arrange, len(self.layout.prefix), self.layout.grid, place, row)

    def after(self, layer: int) -> TokenActivations:
        """The tokens after a layer's block; where it hands on prefix tokens alone, the patches that it leaves as is."""
        (number,) = self.store.select(layer)
        return self.states.after(number) if isinstance(self.states, StagedHiddenStates) else self.spot(layer, "output")

    def whole(self, patches: Float[Tensor, "B gh gw"]) -> Float[Tensor, "B N"]:
        """Values of the patches, of any grid, as values of all tokens: the prefix gets nothing.

        Each patch of the layout gets the value of the token on whose cell of the picture its centre lies; on a grid
        finer than the layout's, the mean over the tokens whose centres lie on it.
        """
        rows, columns = (_onto(n, to, patches) for n, to in zip(patches.shape[1:], self.layout.grid, strict=True))
        flat = (rows @ patches @ columns.T).flatten(1)
        return torch.cat([flat.new_zeros(len(flat), len(self.layout.prefix)), flat], 1)

    def brought(self, grid: tuple[int, int]) -> str:
        """What `whole` does to a map of this grid, in words; empty where it is the layout's."""
        if grid == self.layout.grid:
            return ""
        (gh, gw), (rows, columns) = self.layout.grid, grid
        return f"made on {rows} x {columns} tokens, each drawn on those of the {gh} x {gw} patches that it stands for"

    def gathered(self, patches: Float[Tensor, "B P"], grid: tuple[int, int]) -> Float[Tensor, "B p"]:
        """Weights of the layout's patches as weights of the tokens of another grid, on which they lie."""
        laid = patches.reshape(len(patches), *self.layout.grid)
        rows, columns = (_onto(n, to, laid) for n, to in zip(grid, self.layout.grid, strict=True))
        return (rows.T @ laid @ columns).flatten(1)

    def per_patch(self, values: Float[Tensor, "B Hi Wi"]) -> Float[Tensor, "B gh gw"]:
        """The sum of pixel values over each patch's cell of the picture."""
        gh, gw = self.layout.grid
        rows, columns = (_cells(n, cells, values) for n, cells in zip(values.shape[1:], (gh, gw), strict=True))
        return rows @ values @ columns.T


def _onto(cells: int, others: int, like: Tensor) -> Tensor:
    """`(others, cells)`, rows summing to one: which of `cells` along one side belong to each of `others`."""
    if cells > others:
        shares = _cells(cells, others, like)
        return shares / shares.sum(1, keepdim=True)
    return _cells(others, cells, like).T


def _cells(pixels: int, cells: int, like: Tensor) -> Tensor:
    """`(cells, pixels)`, one where a pixel lies in a cell."""
    number = torch.arange(pixels, device=like.device) * cells // pixels
    return (number == torch.arange(cells, device=like.device)[:, None]).to(like.dtype)
