"""Scores of an image with sets of its patches replaced or left out.

A mask `(n, P)` holds n sets, True where a patch is replaced; `Probe.scores` scores each distinct set once. The caller
defines the score and runs the model.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from vitscope.errors import MethodError
from vitscope.geometry import TokenLayout

Baseline = Literal["blur", "mean", "black", "zero", "removal"]
BASELINES = get_args(Baseline)
CellNumbers: TypeAlias = tuple[Int[np.ndarray, " Hi"], Int[np.ndarray, " Wi"]]


@dataclass(frozen=True, eq=False)
class Probe:
    """One image whose score is measured with patches replaced.

    Attributes:
        run: from pixels `(n, C, Hi, Wi)` and a mask `(n, P)` of the patch tokens that go through the model, equally
            many in each row (None for all), to the model's answers `(n, ...)`.
        pixels: the image as the model gets it.
        fill: the pixels that replace a patch; None leaves its token out.
        grid: rows and columns of patches.
        batch: images that go through the model together, at most.
        score: from answers to scores `(n,)`; by default they are scores themselves.
        known: a cache of answers by the bits of their sets (`set_key`), for this image and fill; new ones are added.
        numbers: the patch that each row and column of pixels belongs to (`TokenLayout.cell_numbers`); None where the
            patches tile the input.
        most_tokens: patch tokens of all images that go through the model together, at most (at least one image does);
            None for any number.
    """

    run: Callable[[Tensor, Tensor | None], Tensor]
    pixels: Float[Tensor, "C Hi Wi"]
    fill: Float[Tensor, "C Hi Wi"] | None
    grid: tuple[int, int]
    batch: int = 8
    score: Callable[[Tensor], Tensor] = lambda answers: answers
    known: dict[bytes, Tensor] | None = None
    numbers: CellNumbers | None = None
    most_tokens: int | None = None

    def scores(
        self, masks: Sequence[Bool[np.ndarray, "_ P"]], tick: Callable[[int, int], None] = lambda done, total: None
    ) -> tuple[list[Float64[np.ndarray, " _"]], int]:
        """Return the scores of each list of sets, and the number of forwards: one for each distinct new set.

        Raises:
            MethodError: a score is not finite.
        """
        together = np.concatenate(masks)
        sets, first, inverse = np.unique(np.packbits(together, 1), axis=0, return_index=True, return_inverse=True)
        known = {} if self.known is None else self.known
        new = np.array([one.tobytes() not in known for one in sets], bool)
        counts, done = together[first].sum(1), 0
        for count in np.unique(counts[new]) if self.fill is None else [None]:  # left out: equally many in each batch
            rows = np.flatnonzero(new & (counts == count) if count is not None else new)
            size = self._together(0 if count is None else int(count))
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                answers = self._run(together[first[part]])
                known.update((sets[row].tobytes(), one) for row, one in zip(part, answers, strict=True))
                done += len(part)
                tick(done, int(new.sum()))
        found = self.score(torch.stack([known[one.tobytes()] for one in sets])).double().cpu().numpy()
        if not np.isfinite(found).all():
            raise MethodError.coded(
                "metrics.score-not-finite",
                "the score is not finite where patches are replaced",
                "use another {@baseline}, as some models have no answer without any patch token",
            )
        ends = np.cumsum([len(one) for one in masks])[:-1]
        return np.split(found[inverse.ravel()], ends), int(new.sum())

    def _together(self, gone: int) -> int:
        """Return how many images without so many tokens go through the model together."""
        if self.most_tokens is None:
            return self.batch
        return max(min(self.batch, self.most_tokens // max(math.prod(self.grid) - gone, 1)), 1)

    def _run(self, masks: Bool[np.ndarray, "n P"]) -> Float[Tensor, "n ..."]:
        covered = torch.from_numpy(masks).to(self.pixels.device)
        pixels = self.pixels.expand(len(masks), -1, -1, -1)
        with torch.no_grad():
            if self.fill is None:
                return self.run(pixels, ~covered)
            return self.run(fill_patches(self.fill, pixels, covered, self.grid, self.numbers), None)


def set_key(mask: Bool[np.ndarray, " P"]) -> bytes:
    """Return the key of a set of patches in a cache of answers."""
    return np.packbits(mask).tobytes()


def baseline_fill(
    baseline: Baseline, pixels: Float[Tensor, "C Hi Wi"], black: Float[Tensor, "C Hi Wi"], grid: tuple[int, int]
) -> Float[Tensor, "C Hi Wi"] | None:
    """Return the pixels that replace a patch; None where its token is left out.

    Args:
        baseline: `blur`: the image under a Gaussian whose standard deviation is one patch along each axis, renormalised
            at the edges. `mean`: the image's mean colour. `black`: a black photo, normalised as the model's input.
            `zero`: zeros after normalisation, the mean colour of the training images. `removal`: leave the token out.
        pixels: the image as the model gets it.
        black: a black photo as the model gets it.
        grid: rows and columns of patches.
    """
    if baseline == "removal":
        return None
    if baseline == "black":
        return black
    if baseline == "zero":
        return torch.zeros_like(pixels)
    precise = pixels.to(torch.promote_types(pixels.dtype, torch.float32))
    if baseline == "mean":
        return precise.mean((1, 2), keepdim=True).expand_as(pixels).to(pixels.dtype)
    for cells in (grid[1], grid[0]):  # along each row, turned, then along each column
        precise = _blurred(precise, precise.shape[2] / cells).transpose(1, 2)
    return precise.to(pixels.dtype)


def fill_patches(
    fill: Float[Tensor, "C Hi Wi"],
    pixels: Float[Tensor, "n C Hi Wi"],
    gone: Bool[Tensor, "n P"],
    grid: tuple[int, int],
    numbers: CellNumbers | None = None,
) -> Float[Tensor, "n C Hi Wi"]:
    """Return the images with the patches of a mask replaced by `fill`; `numbers` as of a Probe."""
    height, width = pixels.shape[2:]
    rows, columns = (
        torch.from_numpy(n).to(gone.device)
        for n in numbers or TokenLayout((), grid, "mean").cell_numbers((height, width))
    )
    masks = torch.nn.functional.pad(gone.reshape(-1, *grid), (0, 1, 0, 1))  # -1, of no patch, stays
    return torch.where(masks[:, rows][:, :, columns][:, None], fill, pixels)


def _blurred(x: Float[Tensor, "c h w"], sigma: float) -> Float[Tensor, "c h w"]:
    """Blur along the last axis with a Gaussian cut at six standard deviations; its weights sum to one everywhere."""
    reach = min(math.ceil(6 * sigma), x.shape[2] - 1)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype) / sigma) ** 2)
    weighed, weight = (
        torch.nn.functional.conv1d(y.reshape(-1, 1, y.shape[-1]), kernel[None, None], padding=reach)
        for y in (x, torch.ones_like(x[:1, :1]))
    )
    return (weighed / weight).reshape(x.shape)
