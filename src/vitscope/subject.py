"""What methods are given that go beyond attention: the pictures, the model as a function, its tokens, and the target.

Letters: B pictures, n rows of a forward (any number for each picture), N tokens, P of them patches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitscope.body import Body, States
from vitscope.errors import MethodError
from vitscope.geometry import TokenLayout
from vitscope.store import AttentionStore

__all__ = ["Subject"]


@dataclass(frozen=True, eq=False)
class Subject:
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
    states: States | None = None
    body: Body | None = None
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
        with self.blocks.keeping(kept):
            return self.run(self.pixels.detach()[pictures], pictures)

    @property
    def blocks(self) -> Body:
        """The model's blocks."""
        if self.body is None:
            raise MethodError("this method was not given the model's blocks", "register it with needs_tokens=True")
        return self.body

    @property
    def tokens(self) -> States:
        """The tokens of the plain forward."""
        if self.states is None:
            raise MethodError("this method was not given the model's tokens", "register it with needs_tokens=True")
        return self.states

    def whole(self, patches: Float[Tensor, "B gh gw"]) -> Float[Tensor, "B N"]:
        """Values of the patches as values of all tokens: the prefix gets nothing."""
        flat = patches.flatten(1)
        return torch.cat([flat.new_zeros(len(flat), len(self.layout.prefix)), flat], 1)

    def per_patch(self, values: Float[Tensor, "B Hi Wi"]) -> Float[Tensor, "B gh gw"]:
        """The sum of pixel values over each patch's cell of the picture."""
        gh, gw = self.layout.grid
        rows, columns = (_cells(n, cells, values) for n, cells in zip(values.shape[1:], (gh, gw), strict=True))
        return rows @ values @ columns.T


def _cells(pixels: int, cells: int, like: Tensor) -> Tensor:
    """`(cells, pixels)`, one where a pixel lies in a cell."""
    number = torch.arange(pixels, device=like.device) * cells // pixels
    return (number == torch.arange(cells, device=like.device)[:, None]).to(like.dtype)
