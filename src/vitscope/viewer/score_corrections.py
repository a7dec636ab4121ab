"""Corrections of single scores, where quantisation left large attention weights inaccurate.

The factors that a page carries (`attention_quantisation`) leave some of a row's largest weights more than 1 % off: for
an ordinary photo fewer than one in a hundred, few enough to list. A correction says where the weight is and by how much
its score has to change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitscope.attention import Factored
from vitscope.viewer.attention_quantisation import QuantisedHead

TOP = 20  # largest weights of a row that have to be accurate
_NEAR = 0.009  # how accurate, with some margin for the page's own arithmetic
_AT_ONCE = 2**22  # weights
_TIMES = 8  # a corrected weight moves its row's sum, and so all the others a little


@dataclass(frozen=True, eq=False)
class ScoreCorrections:
    """Changes of single scores of one layer, row by row.

    Attributes:
        row: `head * N + query`, ascending.
        key: the token that is attended to.
        by: what its score grows by, in nats.
    """

    row: np.ndarray
    key: np.ndarray
    by: np.ndarray

    @classmethod
    def none(cls) -> "ScoreCorrections":
        """Make an empty list of corrections."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))

    def __len__(self) -> int:
        return len(self.row)

    def largest(self, count: int) -> "ScoreCorrections":
        """Return the `count` largest corrections."""
        kept = np.sort(np.argsort(-np.abs(self.by), kind="stable")[:count])
        return ScoreCorrections(self.row[kept], self.key[kept], self.by[kept])

    def rounded(self) -> "ScoreCorrections":
        """Round to float16, as a page carries them."""
        return ScoreCorrections(self.row, self.key, self.by.astype(np.float16).astype(np.float32))

    def within(self, tokens: int, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return head, query from `start`, key and change of those with queries from `start` to `stop`."""
        head, query = np.divmod(self.row, tokens)
        chosen = (query >= start) & (query < stop)
        of = torch.from_numpy
        return of(head[chosen]), of(query[chosen] - start), of(self.key[chosen]), of(self.by[chosen])


@dataclass(frozen=True, eq=False)
class ReconstructionError:
    """How far one layer on the page is from the model's own attention.

    Attributes:
        lse: the log of each row's sum of exponentiated scores, `(H, N)`.
        single: relative errors of the 20 largest weights of every row.
        mean: the same for the mean over heads.
    """

    lse: np.ndarray
    single: np.ndarray
    mean: np.ndarray


def find_corrections(block: Factored, heads: Sequence[QuantisedHead]) -> ScoreCorrections:
    """Find the corrections that bring the 20 largest weights of every row within 1 %, by head and in the mean.

    Where the mean is inaccurate though every head's own largest weights are not, the least accurate head is corrected.

    Cost: a few times all N x N weights, in chunks.
    """
    found = []
    for start, queries in _chunks(block):
        true, scores = block.rows(queries)[0].float().cpu(), _scores(heads, queries)
        own, fused = true.topk(_top(true), -1), true.mean(0).topk(_top(true), -1)
        first, left = scores.clone(), torch.arange(true.shape[1])
        for _ in range(_TIMES + 2 * len(heads)):  # of the mean one head at a time
            made = scores[:, left].softmax(-1)
            head, query, key = _inaccurate(true[:, left], made, own.indices[:, left], fused.indices[left])
            least = torch.finfo(torch.float32).tiny
            change = true[head, left[query], key].clamp_min(least).log() - made[head, query, key].clamp_min(least).log()
            scores[head, left[query], key] += change
            left = left[torch.bincount(query, minlength=len(left)) > 0]
            if not len(left):
                break
        head, query, key = (scores != first).nonzero(as_tuple=True)
        by = scores[head, query, key] - first[head, query, key]
        found.append([one.numpy() for one in (head * block.shape[2] + query + start, key, by)])
    rows, keys, changes = (np.concatenate(one) for one in zip(*found, strict=True))
    order = np.lexsort((keys, rows))
    return ScoreCorrections(rows[order], keys[order], changes[order]).rounded()


def reconstruction_error(
    block: Factored, heads: Sequence[QuantisedHead], corrections: ScoreCorrections
) -> ReconstructionError:
    """Compare the attention that the page computes with the model's own."""
    lse, single, fused = [], [], []
    for start, queries in _chunks(block):
        true, scores = block.rows(queries)[0].float().cpu(), _scores(heads, queries)
        head, query, key, by = corrections.within(block.shape[2], start, start + scores.shape[1])
        scores[head, query, key] += by
        made = scores.softmax(-1)
        lse.append(scores.logsumexp(-1))
        single.append(_relative_error(true, made, true.topk(_top(true), -1).indices))
        mean = true.mean(0)
        fused.append(_relative_error(mean, made.mean(0), mean.topk(_top(true), -1).indices))
    return ReconstructionError(*(torch.cat(one, -1 if one is lse else -2).numpy() for one in (lse, single, fused)))


def _chunks(block: Factored) -> list[tuple[int, slice]]:
    _, heads, n, m = block.shape
    size = max(_AT_ONCE // (heads * m), 1)
    return [(start, slice(start, min(start + size, n))) for start in range(0, n, size)]


def _scores(heads: Sequence[QuantisedHead], queries: slice) -> Tensor:
    return torch.stack([head.scores(queries) for head in heads])


def _top(true: Tensor) -> int:
    return min(TOP, true.shape[-1])


def _relative_error(true: Tensor, made: Tensor, places: Tensor) -> Tensor:
    """Return the relative errors of the weights at these places."""
    wanted = true.gather(-1, places)
    return (made.gather(-1, places) - wanted).abs() / wanted.clamp_min(torch.finfo(torch.float32).tiny)


def _inaccurate(true: Tensor, made: Tensor, own: Tensor, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return head, query and key of the inaccurate weights; `own` and `fused` say where the largest weights are."""
    head, query, rank = (_relative_error(true, made, own) > _NEAR).nonzero(as_tuple=True)
    singles = torch.stack([head, query, own[head, query, rank]])
    query, rank = (_relative_error(true.mean(0), made.mean(0), fused) > _NEAR).nonzero(as_tuple=True)
    key = fused[query, rank]
    worst = (made[:, query, key] - true[:, query, key]).abs().argmax(0)
    both = torch.unique(torch.cat([singles, torch.stack([worst, query, key])], 1), dim=1)
    return both[0], both[1], both[2]
