"""The gradient of a score with respect to attention, tile by tile; and, from the same tiles, to queries, keys, values.

Letters: B images, H heads, G heads of all images, n of N query tokens, m of M key tokens, D and E head widths.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.attention.tiles import aligned


@dataclass(eq=False)
class InputGradients:
    """The gradients of one attention call's queries, keys and values, added up from tiles: the call's backward.

    Formula: with `P_ij` the attention and `dP_ij = dO_i . v_j`: `dv_j = sum_i P_ij dO_i`,
    `dS_ij = P_ij (dP_ij - dO_i . O_i)`, `dq_i = scale sum_j dS_ij k_j` and `dk_j = scale sum_i dS_ij q_i`.

    Attributes:
        q: queries `(G, N, D)`.
        k: keys `(G, M, D)`.
        grad: the score's gradient with respect to the result, dO, `(G, N, E)`.
        shift: `dO_i . O_i`, `(G, N, 1)`.
        scale: the factor of the scores.
        sums: of q, k and v, `(B, H, ...)`; None where no gradient is asked for.
        like: the dtype of the call.
        begun: whether a pass over the tiles adds its parts; another pass adds none.
        complete: whether all tiles were added.
    """

    q: Float[Tensor, "G N D"]
    k: Float[Tensor, "G M D"]
    grad: Float[Tensor, "G N E"]
    shift: Float[Tensor, "G N 1"]
    scale: float
    sums: tuple[Tensor | None, Tensor | None, Tensor | None]
    like: torch.dtype
    begun: bool = False
    complete: bool = False

    @classmethod
    def of(
        cls, q: Tensor, k: Tensor, v: Tensor, grad: Tensor, out: Tensor, scale: float, needed: Sequence[bool]
    ) -> "InputGradients":
        """Begin with nothing, for a call's tensors `(B, H, ...)`."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        sums = tuple(_zeros_like(x, dtype) if asked else None for x, asked in zip((q, k, v), needed, strict=True))
        q, k, grad, out = (x.detach().to(dtype).flatten(0, 1) for x in (q, k, grad, out))
        return cls(q, k, grad, (grad * out).sum(-1, keepdim=True), scale, sums, v.dtype)  # type: ignore[arg-type]

    def begin(self) -> bool:
        """Return whether a pass that begins now is the first, whose parts are added."""
        first, self.begun = not self.begun, True
        return first

    def add(
        self,
        heads: slice,
        queries: slice,
        keys: slice,
        a: Float[Tensor, "g n m"],
        product: Float[Tensor, "g n m"],
        weight: float,
    ) -> None:
        """Add one tile's part.

        Args:
            heads: of all images.
            queries: of the tile.
            keys: of the tile.
            a: P over `weight`.
            product: `a` times dP; overwritten.
            weight: the factor that `a` lacks.
        """
        dq, dk, dv = self.sums
        grad = self.grad[heads, queries]
        if dv is not None:
            dv[heads, keys].baddbmm_(a.transpose(1, 2), grad, alpha=weight)
        if dq is None and dk is None:
            return
        product.addcmul_(a, self.shift[heads, queries], value=-1)
        if dq is not None:
            dq[heads, queries].baddbmm_(product, self.k[heads, keys], alpha=weight * self.scale)
        if dk is not None:
            dk[heads, keys].baddbmm_(product.transpose(1, 2), self.q[heads, queries], alpha=weight * self.scale)

    def totals(self, images: int) -> tuple[Tensor | None, ...]:
        """Return the gradients of q, k and v, `(B, H, ...)`."""
        return tuple(None if x is None else x.view(images, -1, *x.shape[1:]).to(self.like) for x in self.sums)


def _zeros_like(x: Float[Tensor, "B H n d"], dtype: torch.dtype) -> Float[Tensor, "G n d"]:
    """Return zeros for the heads of all images; of one image in the order in which models put heads side by side."""
    b, h, n, d = x.shape
    if b == 1:
        return torch.zeros(n, h, d, dtype=dtype, device=x.device).transpose(0, 1)
    return torch.zeros(b * h, n, d, dtype=dtype, device=x.device)


@dataclass(frozen=True, eq=False)
class AttentionGradient:
    """The gradient of a score with respect to one layer's attention, `dy/dA_ij = dO_i . v_j`.

    Attributes:
        grad: dO, `(G, N, E)`.
        v: values `(G, E, M)`.
        inputs: where gradients of queries, keys and values are added up.
    """

    grad: Float[Tensor, "G N E"]
    v: Float[Tensor, "G E M"]
    inputs: InputGradients | None = None

    @property
    def arrays(self) -> int:
        """How many tiles are in memory at once, the attention's included."""
        return 2 if self.inputs is None else 3

    def positive_relevance(
        self,
        a: Float[Tensor, "g n m"],
        heads: slice,
        queries: slice,
        keys: slice,
        into: Float[Tensor, "r e"],
        weight: float = 1.0,
    ) -> Float[Tensor, "g n m"]:
        """Return `relu(a * dy/dA)` of one tile, in the memory of `a` or of `into`; `a` is A over `weight`."""
        slope = aligned(into[0], *a.shape).baddbmm_(self.grad[heads, queries], self.v[heads, :, keys], beta=0)
        if self.inputs is None:
            return a.mul_(slope.clamp_(min=0))
        product = slope.mul_(a)
        risen = torch.clamp(product, min=0, out=aligned(into[1], *a.shape))
        self.inputs.add(heads, queries, keys, a, product, weight)
        return risen

    def end(self) -> None:
        """Note that all tiles were made."""
        if self.inputs is not None:
            self.inputs.complete = True
