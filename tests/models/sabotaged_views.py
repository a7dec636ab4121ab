"""Sabotaged models, part 7: several views of one image, and several models, in one answer."""

import numpy as np
import torch
from torch import Tensor, nn

from tests.models.sabotaged import D, Matrices, Tiny, from_cls, grid, rollout, sabotaged


class Views(Tiny):
    """The answers to the image and to its mirror image, put together."""

    def forward(self, x: Tensor) -> Tensor:
        return self.together(super().forward(x), super().forward(x.flip(-1)))

    def together(self, one: Tensor, other: Tensor) -> Tensor:
        raise NotImplementedError


def both_views(share: float) -> object:
    """Rollout of the first two matrices, and of the last two mirrored back, by their shares."""

    def truth(model: Tiny, a: Matrices) -> np.ndarray:
        return share * grid(from_cls(a[:2])) + (1 - share) * grid(from_cls(a[2:]))[:, ::-1]

    return truth


@sabotaged("the mean of two views", both_views(0.5), layers=4)
class MeanOfViews(Views):
    def together(self, one: Tensor, other: Tensor) -> Tensor:
        return torch.stack([one, other]).mean(0)


@sabotaged("four fifths of one view", both_views(0.8), layers=4)
class MostlyOne(Views):
    def together(self, one: Tensor, other: Tensor) -> Tensor:
        return 0.8 * one + 0.2 * other


@sabotaged("the larger of two views", "tracing.chosen-run")
class LargerView(Views):
    def together(self, one: Tensor, other: Tensor) -> Tensor:
        return torch.maximum(one, other)


@sabotaged("the largest of two stacked views", "tracing.chosen-run")
class LargestView(Views):
    def together(self, one: Tensor, other: Tensor) -> Tensor:
        return torch.stack([one, other], 1).amax(1)


@sabotaged("the first of two sorted views", "tracing.chosen-run")
class SortedViews(Views):
    def together(self, one: Tensor, other: Tensor) -> Tensor:
        return torch.stack([one, other], 1).sort(1).values[:, 0]


@sabotaged("the surer of two views", "tracing.chosen-run")
class SurerView(Views):
    def together(self, one: Tensor, other: Tensor) -> Tensor:
        surer = one.softmax(-1).amax(-1, keepdim=True) > other.softmax(-1).amax(-1, keepdim=True)
        return torch.where(surer, one, other)


@sabotaged("the larger of two views by a rectifier", "tracing.subtracted")
class RectifiedViews(Views):
    def together(self, one: Tensor, other: Tensor) -> Tensor:
        return other + (one - other).relu()


@sabotaged("two views, each as much as it is sure", "tracing.weighted-runs")
class SureViews(Views):
    def together(self, one: Tensor, other: Tensor) -> Tensor:
        one, other = one.softmax(-1), other.softmax(-1)
        return one * one.amax(-1, keepdim=True) + other * other.amax(-1, keepdim=True)


class Batched(Tiny):
    """Both views in one batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.cat([x, x.flip(-1)])).unflatten(0, (2, -1)).mean(0)


sabotaged("both views in one batch", "tracing.no-grid")(Batched)


@sabotaged("all numbers in one row and back, by views", rollout)
class InOneRow(Tiny):
    """Torch can view contiguous pixels so; the averaged network keeps one number for all channels."""

    def embed(self, x: Tensor) -> Tensor:
        return self.stem(x).view(len(x), -1).view(len(x), D, -1).mT + self.places


@sabotaged("the three best answers alone", "tracing.ranked-answer")
class Best(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).topk(3).values


@sabotaged("the best answer alone", "tracing.ranked-answer")
class Largest(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).max(-1).values


@sabotaged("a softmax written out, after the largest answer is subtracted", rollout)
class Softmax(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        answer = super().forward(x)
        exponents = (answer - answer.amax(-1, keepdim=True)).exp()
        return exponents / exponents.sum(-1, keepdim=True)


@sabotaged("answers below the third best cut off", rollout)
class Third(Tiny):
    """The numbers that are sorted decide, but are not the answer."""

    def forward(self, x: Tensor) -> Tensor:
        answer = super().forward(x)
        return answer.masked_fill(answer < answer.topk(3).values[:, -1:], -1e4)


def _spread(length: int, start: int, end: int) -> np.ndarray:
    """How much of each of four patches of an enlarged crop lies in each quarter of the whole, `(4, 4)`."""
    pixels = nn.functional.interpolate(torch.eye(end - start)[None, None], (length, end - start), mode="bilinear")
    shares = pixels[0, 0].reshape(4, length // 4, -1).mean(1).numpy()
    quarters = np.eye(4)[np.arange(start, end) * 4 // length]
    return np.asarray(shares @ quarters)


def _view_and_crop(model: Tiny, a: Matrices) -> np.ndarray:
    spread = _spread(32, 4, 28)
    return 0.5 * grid(from_cls(a[:2])) + 0.5 * spread.T @ grid(from_cls(a[2:])) @ spread


@sabotaged("the mean of the image and of an enlarged crop of it", _view_and_crop, layers=4)
class ViewAndCrop(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        crop = nn.functional.interpolate(x[..., 4:28, 4:28], (32, 32), mode="bilinear")
        return (super().forward(x) + super().forward(crop)) / 2
