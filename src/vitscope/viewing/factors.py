"""One layer's attention as a page carries it: scores rebuilt from few integers per token.

A row of attention is a softmax of scores `S_ij = scale q_i . k_j`, and a softmax forgets what all scores of a row
have in common: keys may be centred. Of what is left, `S = Q K^T` with D columns, the singular value decomposition is
had from two QR decompositions and one D x D matrix, `S = U diag(s) V^T`, so that memory stays linear in tokens. Both
sides are kept as `U diag(s)` and `V diag(s)`, rounded to one step for all columns, and the page divides by s: each
column then adds the same error to a score (reverse water-filling, Cover & Thomas 2006, section 10.3.3), and columns
that would add less by being left out are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitscope.store import Block, Factored

__all__ = ["Head", "Rounded", "factorised", "lse_of", "plain", "rounded", "rows_of"]

_WIDEST = 32767  # the largest integer that zigzag coding fits into 16 bits


@dataclass(frozen=True, eq=False)
class Head:
    """The scores of one head, decomposed.

    Attributes:
        left: `U diag(s)`, `(N, D)`; right: `V diag(s)`, `(M, D)`.
        s: the singular values, largest first.
    """

    left: Tensor
    right: Tensor
    s: Tensor


@dataclass(frozen=True, eq=False)
class Rounded:
    """The same in integers: `S_ij = sum_d weight_d q_id k_jd`, up to a constant for each row.

    Attributes:
        q: `(r, N)` and k: `(r, M)`, integers within 16 bits; r of D columns are kept.
        weight: `(r,)`, step squared over singular value.
    """

    q: np.ndarray
    k: np.ndarray
    weight: np.ndarray

    def scores(self, queries: Sequence[int] | slice = slice(None)) -> Tensor:
        """`(n, M)`, float32."""
        q = torch.from_numpy(self.q[:, queries].astype(np.float32) * self.weight[:, None].astype(np.float32))
        return q.T @ torch.from_numpy(self.k.astype(np.float32))


def plain(block: Block) -> bool:
    """Do queries and keys give all of this layer's attention, of one picture?"""
    return isinstance(block, Factored) and block.bias is None and block.shape[0] == 1


def factorised(block: Factored) -> list[Head]:
    """The heads of a layer of one picture."""
    q, k = block.q[0].double() * block.scale, block.k[0].double()
    k = k - k.mean(-2, keepdim=True)
    (q_basis, q_rest), (k_basis, k_rest) = torch.linalg.qr(q), torch.linalg.qr(k)
    u, s, vh = torch.linalg.svd(q_rest @ k_rest.transpose(-1, -2), full_matrices=False)
    left, right = q_basis @ u * s[:, None], k_basis @ vh.transpose(-1, -2) * s[:, None]
    return [Head(*of) for of in zip(left.cpu(), right.cpu(), s.cpu(), strict=True)]


def rounded(head: Head, error: float) -> Rounded:
    """Rounded so that scores are `error` off in the root mean square, in nats; never finer than 16 bits allow."""
    n, m = len(head.left), len(head.right)
    energy = head.s.square().numpy() / (n * m)

    def noise(step: float) -> float:
        each = step**2 / 12 * (1 / n + 1 / m)
        return float(np.minimum(energy, each).sum())

    low, high = 1e-12, 1e12
    for _ in range(80):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if noise(middle) > error**2 else (middle, high)
    peak = max(float(head.left.abs().max()), float(head.right.abs().max()))
    step = max(low, peak / _WIDEST)
    rank = max(int((energy > step**2 / 12 * (1 / n + 1 / m)).sum()), 1)
    s = head.s[:rank].clamp_min(torch.finfo(head.s.dtype).tiny).numpy()
    q, k = ((side[:, :rank].T / step).round().numpy().astype(np.int32) for side in (head.left, head.right))
    return Rounded(q, k, (step**2 / s).astype(np.float32))


def lse_of(heads: Sequence[Rounded]) -> np.ndarray:
    """The log of each row's sum of exponentiated scores, `(H, N)` float32."""
    made = []
    for head in heads:
        parts = [head.scores(slice(at, at + 512)).logsumexp(1) for at in range(0, head.q.shape[1], 512)]
        made.append(torch.cat(parts))
    return torch.stack(made).numpy()


def rows_of(heads: Sequence[Rounded], queries: Sequence[int]) -> Tensor:
    """Rows of attention as the page makes them, `(H, n, M)`."""
    return torch.stack([head.scores(queries).softmax(-1) for head in heads])
