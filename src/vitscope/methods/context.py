"""What a method that can run the model is given: images, attention, the model as a function, and the target's score.

Letters: B images, n rows of a forward (any number for each image), N tokens, P of them patches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitscope._messages import Message, msg
from vitscope.attention import AttentionStore
from vitscope.attention.transformer_blocks import HiddenStates, HookPoint, TokenActivations, TransformerBlocks
from vitscope.errors import MethodError
from vitscope.geometry import TokenLayout
from vitscope.tracing.block_io import StagedHiddenStates


@dataclass(frozen=True, eq=False)
class MethodContext:
    """One batch of images under one target.

    Attributes:
        store: the attention of the plain forward.
        pixels: the images as the model got them.
        score: the target's score of each image; with its graph for methods that require `gradient`.
        score_pixels: from pixels `(n, C, Hi, Wi)`, and the number of the image that each row belongs to, to scores.
        answer: from pixels to the model's answer, without a graph.
        states: the tokens of the plain forward, for methods that require `hidden-states` or `token-grids`.
        transformer_blocks: the model's blocks, for methods that require `hidden-states`.
        seed: for random numbers.
        batch_size: rows that go through the model together.
        last_target: no other target follows: the graph of the plain forward may be freed.
        progress: called with (done, total) while a method runs many forwards.
        cells: the row of patches that each row of pixels belongs to, and the column of each column; -1 for pixels that
            no patch sees. None where the patches divide the image evenly.
        require_gradient: raises where the score has no gradient at the images themselves.
    """

    store: AttentionStore
    pixels: Float[Tensor, "B C Hi Wi"]
    score: Float[Tensor, " B"]
    score_pixels: Callable[[Tensor, Tensor], Tensor]
    answer: Callable[[Tensor], Tensor]
    states: HiddenStates | StagedHiddenStates | None = None
    transformer_blocks: TransformerBlocks | None = None
    seed: int = 0
    batch_size: int = 8
    last_target: bool = True
    progress: Callable[[int, int], None] = lambda done, total: None
    cells: tuple[Tensor, Tensor] | None = None
    require_gradient: Callable[[], None] = lambda: None

    @property
    def layout(self) -> TokenLayout:
        """The token layout of the plain forward."""
        assert self.store.layout is not None
        return self.store.layout

    @property
    def blocks(self) -> TransformerBlocks:
        """The model's blocks."""
        if self.transformer_blocks is None:
            raise MethodError(_NO_STATES, _NO_STATES_HINT)
        return self.transformer_blocks

    @property
    def hidden_states(self) -> HiddenStates:
        """The tokens between the blocks in the plain forward."""
        if not isinstance(self.states, HiddenStates):
            raise MethodError(_NO_STATES, _NO_STATES_HINT)
        return self.states

    def gradients(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Differentiate the scores with respect to tensors of the plain forward; zero where they do not depend.

        Raises:
            MethodError: the gradient vanishes at the images themselves.
        """
        self.require_gradient()
        keep = not self.last_target
        grads = torch.autograd.grad(self.score.sum(), list(tensors), retain_graph=keep, allow_unused=True)
        return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(grads, tensors, strict=True))

    def scores(self, pixels: Float[Tensor, "n C Hi Wi"], images: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the target's scores of changed images; with a graph where `pixels` requires one."""
        return self.score_pixels(pixels, images)

    def scores_with_patches(self, kept: Bool[Tensor, "n P"], images: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the target's scores on some patch tokens only, equally many in each row."""
        with self.blocks.keep_patches(kept):
            return self.score_pixels(self.pixels.detach()[images], images)

    def scores_from_tokens(self, tokens: Float[Tensor, "n k D"], images: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the target's scores as if these tokens came out of the last block.

        One image's pixels go in, so that nothing but the blocks may need to know the numbers of images and tokens.
        """
        with self.blocks.skip(tokens):
            return self.score_pixels(self.pixels.detach()[:1], images)

    def activations(self, layer: int, at: HookPoint) -> TokenActivations:
        """Return the tokens at one point of a layer's block, on the grid that this layer has.

        Args:
            layer: block, from 0, or from the end with negative numbers.
            at: the output of its first `norm` (its input, where it has none), its `input`, or its `output`.

        Raises:
            UsageError: no such layer, or no grid of tokens there.
        """
        (number,) = self.store.select(layer)
        if isinstance(self.states, StagedHiddenStates):
            return self.states.spot(number, at)
        states = self.hidden_states
        normed = states.normed[number] if at == "norm" else None
        raw = states.tokens[number + (at == "output")] if normed is None else normed
        row = self._readout(raw) if at == "output" else None
        location = _location(number, at, normed is not None)
        return TokenActivations(raw, states.arrange, len(self.layout.prefix), self.layout.grid, location, row)

    def tokens_after(self, layer: int) -> TokenActivations:
        """Return the tokens after a layer's block; its input patches, where it returns prefix tokens alone."""
        (number,) = self.store.select(layer)
        if isinstance(self.states, StagedHiddenStates):
            return self.states.after(number)
        return self.activations(layer, "output")

    def final_tokens(self) -> TokenActivations:
        """Return the tokens after the model's own last norm, as its readout has them.

        Raises:
            MethodError: the model norms no tokens after its last block, or only those that it reads out.
        """
        if (final := self.hidden_states.final) is None:
            raise MethodError(
                msg("methods.no-final-norm", "the model does not norm all its tokens after its last block"),
                msg("methods.no-final-norm.hint", "leave {@O:final_norm=true} out: the last block's output is used"),
            )
        arrange, location = self.hidden_states.arrange, msg("methods.final-norm", "last norm")
        prefix, grid = len(self.layout.prefix), self.layout.grid
        return TokenActivations(final, arrange, prefix, grid, location, self._readout(final))

    def _readout(self, like: Tensor) -> Float[Tensor, " n"] | None:
        """Return each token's weight in the answer; None where a query of the model's own decides it (`map`)."""
        return None if self.layout.pooling == "map" else torch.from_numpy(self.layout.readout()).to(like)

    def to_tokens(self, patches: Float[Tensor, "B gh gw"]) -> Float[Tensor, "B N"]:
        """Return values of all tokens from values of the patches, on any grid; the prefix gets 0.

        Each patch of the layout gets the value of the token on whose cell of the image its centre lies; on a grid
        finer than the layout's, the mean over the tokens whose centres lie on it.
        """
        rows, columns = (_resampling(n, to, patches) for n, to in zip(patches.shape[1:], self.layout.grid, strict=True))
        flat = (rows @ patches @ columns.T).flatten(1)
        return torch.cat([flat.new_zeros(len(flat), len(self.layout.prefix)), flat], 1)

    def grid_note(self, grid: tuple[int, int]) -> str:
        """Return a note that a map was resampled from this grid by `to_tokens`; empty on the layout's own grid."""
        if grid == self.layout.grid:
            return ""
        return msg(
            "methods.other-grid",
            "computed on {rows} x {columns} tokens, each drawn on the patches of the {height} x {width} grid that it "
            "stands for",
            **dict(zip(("rows", "columns", "height", "width"), (*grid, *self.layout.grid), strict=True)),
        )

    def to_grid(self, weights: Float[Tensor, "B P"], grid: tuple[int, int]) -> Float[Tensor, "B p"]:
        """Return weights of the layout's patches as weights of the tokens of another grid that cover them."""
        on_layout = weights.reshape(len(weights), *self.layout.grid)
        rows, columns = (_resampling(n, to, on_layout) for n, to in zip(grid, self.layout.grid, strict=True))
        return (rows.T @ on_layout @ columns).flatten(1)

    def sum_per_patch(self, values: Float[Tensor, "B Hi Wi"]) -> Float[Tensor, "B gh gw"]:
        """Sum pixel values over each patch's cell of the image."""
        rows, columns = (
            (number == torch.arange(cells, device=values.device)[:, None]).to(values.dtype)
            for number, cells in zip(self.pixel_cells(), self.layout.grid, strict=True)
        )
        return rows @ values @ columns.T

    def pixel_cells(self) -> tuple[Tensor, Tensor]:
        """Return `cells`, on the device of the pixels, also where the patches divide the image evenly."""
        device = self.pixels.device
        if self.cells is not None:
            return self.cells[0].to(device), self.cells[1].to(device)
        sizes = zip(self.pixels.shape[2:], self.layout.grid, strict=True)
        rows, columns = (_even_cells(pixels, cells, device) for pixels, cells in sizes)
        return rows, columns


_NO_STATES = msg("methods.no-hidden-states", "the method was not given the model's hidden states")
_NO_STATES_HINT = msg("methods.no-hidden-states.hint", "add 'hidden-states' to what it requires")


def _location(layer: int, at: HookPoint, has_norm: bool) -> Message:
    if at == "output":
        return msg("methods.block-output", "output of block {layer}", layer=layer)
    if at == "input":
        return msg("methods.block-input", "input of block {layer}", layer=layer)
    if has_norm:
        return msg("methods.block-norm", "first norm of block {layer}", layer=layer)
    return msg("methods.block-without-norm", "input of block {layer}, which has no norm", layer=layer)


def _resampling(cells: int, others: int, like: Tensor) -> Float[Tensor, "others cells"]:
    """Return which of `cells` along one side belong to each of `others`; rows sum to one."""
    if cells > others:
        shares = _membership(cells, others, like)
        return shares / shares.sum(1, keepdim=True)
    return _membership(others, cells, like).T


def _even_cells(pixels: int, cells: int, device: torch.device) -> Int[Tensor, " pixels"]:
    return torch.arange(pixels, device=device) * cells // pixels


def _membership(pixels: int, cells: int, like: Tensor) -> Float[Tensor, "cells pixels"]:
    """Return 1 where a pixel along one side lies in a cell, else 0."""
    number = _even_cells(pixels, cells, like.device)
    return (number == torch.arange(cells, device=like.device)[:, None]).to(like.dtype)
