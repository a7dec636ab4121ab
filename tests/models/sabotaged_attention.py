"""Sabotaged models, part 3: attention whose weights are changed, or are no softmax of queries and keys."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.sabotaged import HEADS, WIDTH, Tiny, rollout, sabotaged


class Formula(Tiny):
    """Attention by its matrix, which the twin keeps."""

    seen: Any = None

    def twin(self, seen: list[Tensor]) -> None:
        self.seen = seen

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        matrix = self.matrix(q, k)
        if self.seen is not None:
            self.seen.append(matrix)
        return matrix @ v

    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.mT / WIDTH**0.5).softmax(-1)


@sabotaged("a temperature that is learned, and a bias", rollout)
class Temperature(Formula):
    def __init__(self) -> None:
        super().__init__()
        self.temperature, self.bias = nn.Parameter(torch.tensor(3.0)), nn.Parameter(torch.randn(HEADS, 17, 17))

    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.mT * self.temperature + self.bias).softmax(-1)


@sabotaged("a denominator with one more", "attention.no-call")
class SoftmaxOne(Formula):
    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        weights = (q @ k.mT / WIDTH**0.5).exp()
        return weights / (1 + weights.sum(-1, keepdim=True))


@sabotaged("a sink in the kernel: a column of the softmax that is dropped", "attention.no-call")
class Sink(Formula):
    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        scores = q @ k.mT / WIDTH**0.5
        return torch.cat([scores, torch.ones_like(scores[..., :1])], -1).softmax(-1)[..., :-1]


@sabotaged("a sink in the kernel: a key and value of zeros", lambda m, a: rollout(m, [x[:, :17] for x in a]))
class ZeroKey(Tiny):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.kernel(q, functional.pad(k, (0, 0, 0, 1)), functional.pad(v, (0, 0, 0, 1)))


@sabotaged("extra keys and values that are learned", lambda m, a: rollout(m, [x[:, :17] for x in a]))
class ExtraKeys(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Parameter(torch.randn(2, 1, HEADS, 3, WIDTH))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        more_k, more_v = (part.expand(len(k), -1, -1, -1) for part in self.extra)
        return self.kernel(q, torch.cat([k, more_k], 2), torch.cat([v, more_v], 2))


@sabotaged("attention by sigmoids", "attention.no-call")
class Sigmoid(Formula):
    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.mT / WIDTH**0.5 - 3).sigmoid()


@sabotaged("attention by squared ReLUs", "attention.no-call")
class Relu(Formula):
    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.mT).relu().square() / 17


@sabotaged("sigmoids in one layer", "tracing.tokens-lost")
class HalfSigmoid(Formula):
    calls = 0

    def blocks(self, x: Tensor) -> Tensor:
        self.calls = 0
        return super().blocks(x)

    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        self.calls += 1
        return (q @ k.mT / WIDTH**0.5 - 3).sigmoid() if self.calls == 1 else super().matrix(q, k)


@sabotaged("linear attention", "attention.no-call")
class Linear(Tiny):
    kernel = staticmethod(lambda q, k, v: functional.elu(q) @ (functional.elu(k).mT @ v) / 17)


@sabotaged("linear attention with softmaxes over queries' channels and keys", "tracing.tokens-lost")
class Efficient(Tiny):
    kernel = staticmethod(lambda q, k, v: q.softmax(-1) @ (k.softmax(-2).mT @ v))


@sabotaged("softmax over queries", "attention.no-call")
class OverQueries(Formula):
    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.mT / WIDTH**0.5).softmax(-2)


@sabotaged("softmax over heads", "attention.no-call")
class OverHeads(Formula):
    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.mT / WIDTH**0.5).softmax(1)


@sabotaged("softmax over all queries and keys at once", "attention.reweighted")
class OverBoth(Formula):
    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.mT).flatten(2).softmax(-1).view(len(q), HEADS, 17, 17) * 17


@sabotaged("half of the softmax's weights set to zero", "attention.reweighted")
class Masked(Formula):
    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        return super().matrix(q, k) * (torch.arange(17) % 2)


@sabotaged("the softmax's strongest weights alone, normalised again", rollout)
class Sparse(Formula):
    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        matrix = super().matrix(q, k)
        matrix = matrix.masked_fill(matrix < matrix.median(-1, keepdim=True).values, 0)
        return matrix / matrix.sum(-1, keepdim=True)


@sabotaged("squared softmax, not normalised", "attention.reweighted")
class Squared(Formula):
    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        return super().matrix(q, k).square()


@sabotaged("queries and keys swapped", rollout)
class Swapped(Formula):
    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        return super().matrix(k, q)


@sabotaged("the attention matrix transposed", "attention.no-call")
class MatrixTransposed(Formula):
    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        return super().matrix(q, k).mT


@sabotaged("values rolled by one token", lambda m, a: rollout(m, [np.roll(x, -1, 1) for x in a]))
class Rolled(Tiny):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.kernel(q, k, v.roll(1, 2))


@sabotaged("cosine attention", rollout)
class Cosine(Formula):
    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        return (functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).mT * 10).softmax(-1)


@sabotaged("rotary positions and normalised queries and keys", rollout)
class Rotary(Formula):
    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        angle = torch.arange(17, dtype=q.dtype)[:, None] * 0.3
        q, k = ((x * angle.cos() + torch.cat([-x[..., 4:], x[..., :4]], -1) * angle.sin()) for x in (q, k))
        return super().matrix(3 * functional.rms_norm(q, (WIDTH,)), functional.rms_norm(k, (WIDTH,)))


@sabotaged("keys and values shared by the heads", rollout)
class MultiQuery(Tiny):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.kernel(q, k[:, :1].expand_as(k), v[:, :1].expand_as(v))


@sabotaged("causal attention by a mask", rollout)
class Causal(Tiny):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.kernel(q, k, v, attn_mask=torch.full((17, 17), float("-inf"), dtype=q.dtype).tril(-1) + 0)


@sabotaged("the difference of two softmaxes", rollout, note="models.differential-attention")
class Differential(Formula):
    """Averages count both softmaxes alike, which the note says."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        first, second = ((q[..., s] @ k[..., s].mT).softmax(-1) for s in (slice(0, 4), slice(4, 8)))
        if self.seen is not None:
            self.seen.append((first + second) / 2)
        return (first - 0.5 * second) @ v


@sabotaged("the product of two softmaxes", "attention.reweighted")
class TwoSoftmaxes(Formula):
    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        first, second = ((q[..., s] @ k[..., s].mT).softmax(-1) for s in (slice(0, 4), slice(4, 8)))
        return first * second * 17


@sabotaged("one softmax times another as matrices", "tracing.tokens-lost")
class Composed(Formula):
    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        first, second = ((q[..., s] @ k[..., s].mT).softmax(-1) for s in (slice(0, 4), slice(4, 8)))
        return first @ second


@sabotaged("attention over channels", "tracing.no-token-attention")
class Channels(Tiny):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.kernel(q.mT, k.mT, v.mT).mT


@sabotaged("other weights returned than used", rollout)
class Liar(Formula):
    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        self.attention_weights = torch.full((len(x), HEADS, 17, 17), 1.0).softmax(-1)
        return logits


@sabotaged("attention by hashes: each token sees its bucket", rollout)
class Hashed(Tiny):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        bucket = q[:, 0, :, 0] > 0
        mask = torch.zeros(len(q), 1, 17, 17, dtype=q.dtype).masked_fill(
            bucket[:, None, :, None] != bucket[:, None, None], float("-inf")
        )
        return self.kernel(q, k, v, attn_mask=mask)
