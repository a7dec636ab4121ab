"""What rounding did to the largest weights of attention, made good one by one.

Factors as a page carries them (`factors`) leave some of a row's largest weights more than 1 % off: for an ordinary
photo fewer than one in a hundred, few enough to be told apart. Of each is kept where it is and by how much its score
has to change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitscope.attention import Factored
from vitscope.viewer.attention_quantisation import QuantisedHead

__all__ = ["TOP", "Drawn", "ScoreCorrections", "drawn", "mended"]

TOP = 20  # largest weights of a row that have to be right
_NEAR = 0.009  # how right, with something left for the page's own arithmetic
_AT_ONCE = 2**22  # weights
_TIMES = 8  # a mended weight moves its row's sum, and so all the others a little


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
        """Nothing to change."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))

    def __len__(self) -> int:
        return len(self.row)

    def largest(self, count: int) -> "ScoreCorrections":
        """The `count` that change most."""
        kept = np.sort(np.argsort(-np.abs(self.by), kind="stable")[:count])
        return ScoreCorrections(self.row[kept], self.key[kept], self.by[kept])

    def rounded(self) -> "ScoreCorrections":
        """As float16, which is how they are carried."""
        return ScoreCorrections(self.row, self.key, self.by.astype(np.float16).astype(np.float32))

    def within(self, tokens: int, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Head, query from `start`, key and change of those with queries from `start` to `stop`."""
        head, query = np.divmod(self.row, tokens)
        chosen = (query >= start) & (query < stop)
        of = torch.from_numpy
        return of(head[chosen]), of(query[chosen] - start), of(self.key[chosen]), of(self.by[chosen])


@dataclass(frozen=True, eq=False)
class Drawn:
    """One layer as the page draws it.

    Attributes:
        lse: the log of each row's sum of exponentiated scores, `(H, N)`.
        single: by how much the 20 largest weights of every row are off, relative to themselves, flat.
        fused: the same for the mean over heads.
    """

    lse: np.ndarray
    single: np.ndarray
    fused: np.ndarray


def mended(block: Factored, heads: Sequence[QuantisedHead]) -> ScoreCorrections:
    """What makes the 20 largest weights of every row right to 1 %, for each head and for the mean over heads.

    Where the mean is off though every head's own largest weights are not, the head that is off most there is mended.

    Cost: a few times all N x N weights, in chunks.
    """
    found = []
    for start, queries in _chunks(block):
        true, scores = block.rows(queries)[0].float().cpu(), _scores(heads, queries)
        own, fused = true.topk(_top(true), -1), true.mean(0).topk(_top(true), -1)
        first, left = scores.clone(), torch.arange(true.shape[1])
        for _ in range(_TIMES + 2 * len(heads)):  # of the mean one head at a time
            made = scores[:, left].softmax(-1)
            head, query, key = _wrong(true[:, left], made, own.indices[:, left], fused.indices[left])
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


def drawn(block: Factored, heads: Sequence[QuantisedHead], mends: ScoreCorrections) -> Drawn:
    """What comes out, beside the model's own attention."""
    lse, single, fused = [], [], []
    for start, queries in _chunks(block):
        true, scores = block.rows(queries)[0].float().cpu(), _scores(heads, queries)
        head, query, key, by = mends.within(block.shape[2], start, start + scores.shape[1])
        scores[head, query, key] += by
        made = scores.softmax(-1)
        lse.append(scores.logsumexp(-1))
        single.append(_off(true, made, true.topk(_top(true), -1).indices))
        mean = true.mean(0)
        fused.append(_off(mean, made.mean(0), mean.topk(_top(true), -1).indices))
    return Drawn(*(torch.cat(one, -1 if one is lse else -2).numpy() for one in (lse, single, fused)))


def _chunks(block: Factored) -> list[tuple[int, slice]]:
    _, heads, n, m = block.shape
    size = max(_AT_ONCE // (heads * m), 1)
    return [(start, slice(start, min(start + size, n))) for start in range(0, n, size)]


def _scores(heads: Sequence[QuantisedHead], queries: slice) -> Tensor:
    return torch.stack([head.scores(queries) for head in heads])


def _top(true: Tensor) -> int:
    return min(TOP, true.shape[-1])


def _off(true: Tensor, made: Tensor, places: Tensor) -> Tensor:
    """By how much weights at these places are off, relative to themselves."""
    wanted = true.gather(-1, places)
    return (made.gather(-1, places) - wanted).abs() / wanted.clamp_min(torch.finfo(torch.float32).tiny)


def _wrong(true: Tensor, made: Tensor, own: Tensor, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Head, query and key of the weights to be mended; `own` and `fused`: where the largest ones are."""
    head, query, rank = (_off(true, made, own) > _NEAR).nonzero(as_tuple=True)
    singles = torch.stack([head, query, own[head, query, rank]])
    query, rank = (_off(true.mean(0), made.mean(0), fused) > _NEAR).nonzero(as_tuple=True)
    key = fused[query, rank]
    worst = (made[:, query, key] - true[:, query, key]).abs().argmax(0)
    both = torch.unique(torch.cat([singles, torch.stack([worst, query, key])], 1), dim=1)
    return both[0], both[1], both[2]
