"""One layer's attention in few integers per token, from which a page computes scores.

A row of attention is a softmax of scores `S_ij = scale q_i . k_j`, and a softmax forgets what all scores of a row
have in common: keys may be centred. Of what is left, `S = Q K^T` with D columns, two QR decompositions and one
D x D matrix give the singular value decomposition, `S = U diag(s) V^T`, with memory linear in tokens. Both
sides are kept as `U diag(s)` and `V diag(s)`, rounded to one step for all columns, and the page divides by s: each
column then adds the same error to a score (reverse water-filling, Cover & Thomas 2006, section 10.3.3), and columns
that would add less by being left out are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vitscope.attention import Block, Factored

_QUERIES = 256  # solved together
_FITTED, _READ = 32, 20  # largest weights of a row: that are fit_queries, and of which the last counts fully
_REST = 0.3  # how much all other keys count, over their mass
_WIDEST = 32767  # the largest integer that zigzag coding fits into 16 bits


@dataclass(frozen=True, eq=False)
class FactorisedHead:
    """The scores of one head, decomposed.

    Attributes:
        left: `U diag(s)`, `(N, D)`; right: `V diag(s)`, `(M, D)`.
        s: the singular values, largest first.
    """

    left: Tensor
    right: Tensor
    s: Tensor


@dataclass(frozen=True, eq=False)
class QuantisedHead:
    """The same in integers: `S_ij = sum_d weight_d q_id k_jd`, up to a constant for each row.

    Attributes:
        q: `(r, N)` and k: `(r, M)`, integers within 16 bits; r of D columns are kept.
        weight: `(r,)`, step squared over singular value.
    """

    q: np.ndarray
    k: np.ndarray
    weight: np.ndarray

    def scores(self, queries: Sequence[int] | slice = slice(None)) -> Tensor:
        """Return the scores of some queries, `(n, M)`, float32."""
        q = torch.from_numpy(self.q[:, queries].astype(np.float32) * self.weight[:, None].astype(np.float32))
        return q.T @ torch.from_numpy(self.k.astype(np.float32))


def is_factored(block: Block) -> bool:
    """Answer whether queries and keys alone give this layer's attention, and for one image."""
    return isinstance(block, Factored) and block.bias is None and block.shape[0] == 1


def factorise(block: Factored) -> list[FactorisedHead]:
    """Decompose the scores of each head of a layer, for one image."""
    q, k = block.q[0].double() * block.scale, block.k[0].double()
    k = k - k.mean(-2, keepdim=True)
    (q_basis, q_rest), (k_basis, k_rest) = torch.linalg.qr(q), torch.linalg.qr(k)
    u, s, vh = torch.linalg.svd(q_rest @ k_rest.transpose(-1, -2), full_matrices=False)
    left, right = q_basis @ u * s[:, None], k_basis @ vh.transpose(-1, -2) * s[:, None]
    return [FactorisedHead(*of) for of in zip(left.cpu(), right.cpu(), s.cpu(), strict=True)]


def quantise(head: FactorisedHead, error: float) -> QuantisedHead:
    """Round a head's factors, to 16 bits at most, so that its scores are off by `error` nats (root mean square)."""
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
    return QuantisedHead(q, k, (step**2 / s).astype(np.float32))


def fit_queries(head: FactorisedHead, quantised: QuantisedHead) -> QuantisedHead:
    """Return the same keys with the queries that give each row's largest weights best.

    Of a row a reader sees only the largest weights, some twenty, and a query has D numbers to fit them, whatever the
    rounding of keys did. Least squares minimise the error of each query's 32 largest scores, each counted by its weight
    over the twentieth (at most one), and all other keys together as much as their mass. Then the numbers are rounded
    one after another, each compensating for those before it (Babai 1986, as GPTQ does with weights). A constant for
    the whole row is free.

    Cost: N systems of r equations, in float32.
    """
    keys = torch.from_numpy((quantised.k * quantised.weight[:, None]).T.astype(np.float32))
    basis = (head.right / head.s.clamp_min(torch.finfo(head.s.dtype).tiny)).float()
    left, spread = head.left.float(), keys.T @ keys / len(keys)
    parts = []
    for at in range(0, len(left), _QUERIES):
        start = torch.from_numpy(quantised.q[:, at : at + _QUERIES].T.astype(np.float32))
        parts.append(_solve_queries(left[at : at + _QUERIES] @ basis.T, start, keys, spread))
    return replace(quantised, q=torch.cat(parts).T.numpy().astype(np.int32))


def _solve_queries(scores: Tensor, start: Tensor, keys: Tensor, spread: Tensor) -> Tensor:
    """Return integers `(n, r)` of the queries with scores `(n, M)`; `start` is what all other keys would have."""
    top = scores.softmax(-1).topk(min(_FITTED, scores.shape[1]), -1)
    last = top.values[:, min(_READ, top.values.shape[1]) - 1, None].clamp_min(torch.finfo(torch.float32).tiny)
    weight = (top.values / last).clamp(max=1)
    rest = (_REST * (1 - top.values.sum(-1, keepdim=True)).clamp_min(0) / last).clamp(1e-3, 10)[..., None] * spread
    near, wanted = keys[top.indices], scores.gather(1, top.indices)
    share = weight / weight.sum(-1, keepdim=True)
    near = near - (share[..., None] * near).sum(1, keepdim=True)
    wanted = wanted - (share * wanted).sum(-1, keepdim=True)
    weighted = (near * weight[..., None]).transpose(1, 2)
    normal = weighted @ near + rest
    normal.diagonal(dim1=1, dim2=2).mul_(1 + 1e-4)
    root, failed = torch.linalg.cholesky_ex(normal)
    goal = torch.cholesky_solve(weighted @ wanted[..., None] + rest @ start[..., None], root)[..., 0]
    found, off = torch.empty_like(goal), torch.zeros_like(goal)
    for column in range(goal.shape[1] - 1, -1, -1):
        carried = (root[:, column + 1 :, column] * off[:, column + 1 :]).sum(1) / root[:, column, column]
        found[:, column] = (goal[:, column] + carried).round()
        off[:, column] = goal[:, column] - found[:, column]
    bad = (failed > 0) | ~found.isfinite().all(1) | (found.abs().amax(1) > _WIDEST)
    return torch.where(bad[:, None], start, found)


def reconstruct_rows(heads: Sequence[QuantisedHead], queries: Sequence[int]) -> Tensor:
    """Return rows of attention as the page computes them, `(H, n, M)`."""
    return torch.stack([head.scores(queries).softmax(-1) for head in heads])
