"""Patches of a picture replaced or left out: in which order, by what, and what the score says then.

Everything here is about sets of patches. A mask `(n, P)` names n of them, True where a patch is replaced, and
`Probe.scores` turns them into scores, each different set once. What a score is, and how the model is run, is not known
here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from vitscope.errors import MethodError

__all__ = ["BASELINES", "Baseline", "Probe", "baseline_fill", "fill_patches"]

Baseline = Literal["blur", "mean", "black", "zero", "removal"]
BASELINES = get_args(Baseline)


@dataclass(frozen=True, eq=False)
class Probe:
    """One picture, and what becomes of its score when patches are replaced.

    Attributes:
        run: scores `(n,)` of pixels `(n, 3, Hi, Wi)`; with a mask `(n, P)` of the patch tokens that go through the
            model, as many in each row, or None for all of them.
        pixels: the picture as the model gets it.
        fill: what stands where a patch was; None leaves its token out.
        grid: rows and columns of patches; patch (r, c) is the pixels whose row times gh // Hi is r, and so for c.
        batch: pictures that go through the model together.
        known: scores of sets by their bits, of this picture, fill and score: those are not asked for again. The new
            ones are added.
    """

    run: Callable[[Tensor, Tensor | None], Tensor]
    pixels: Float[Tensor, "3 Hi Wi"]
    fill: Float[Tensor, "3 Hi Wi"] | None
    grid: tuple[int, int]
    batch: int = 8
    known: dict[bytes, float] | None = None

    def scores(
        self, masks: Sequence[Bool[np.ndarray, "_ P"]], tick: Callable[[int, int], None] = lambda done, total: None
    ) -> tuple[list[Float64[np.ndarray, " _"]], int]:
        """The scores of each list of sets, and how many forwards they took: one for each different set not yet known.

        Raises:
            MethodError: a score that is not a finite number.
        """
        together = np.concatenate(masks)
        sets, first, inverse = np.unique(np.packbits(together, 1), axis=0, return_index=True, return_inverse=True)
        known = {} if self.known is None else self.known
        found = np.array([known.get(one.tobytes(), np.nan) for one in sets])
        new = np.array([one.tobytes() not in known for one in sets], bool)
        counts, done = together[first].sum(1), 0
        for count in np.unique(counts[new]) if self.fill is None else [None]:  # left out: equally many in each batch
            rows = np.flatnonzero(new & (counts == count) if count is not None else new)
            for start in range(0, len(rows), self.batch):
                part = rows[start : start + self.batch]
                found[part] = self._run(together[first[part]])
                done += len(part)
                tick(done, int(new.sum()))
        if not np.isfinite(found).all():
            raise MethodError(
                "the score is not a finite number where patches are replaced",
                "take another baseline: with every patch token left out some models have no answer",
            )
        known.update((sets[row].tobytes(), float(found[row])) for row in np.flatnonzero(new))
        ends = np.cumsum([len(one) for one in masks])[:-1]
        return np.split(found[inverse.ravel()], ends), int(new.sum())

    def _run(self, masks: Bool[np.ndarray, "n P"]) -> Float64[np.ndarray, " n"]:
        covered = torch.from_numpy(masks).to(self.pixels.device)
        pixels = self.pixels.expand(len(masks), -1, -1, -1)
        with torch.no_grad():
            if self.fill is None:
                scores = self.run(pixels, ~covered)
            else:
                scores = self.run(fill_patches(self.fill, pixels, covered, self.grid), None)
        return scores.double().cpu().numpy()


def baseline_fill(
    baseline: Baseline, pixels: Float[Tensor, "3 Hi Wi"], black: Float[Tensor, "3 Hi Wi"], grid: tuple[int, int]
) -> Float[Tensor, "3 Hi Wi"] | None:
    """What stands where a patch was.

    Args:
        baseline: `blur`: the picture under a Gaussian whose standard deviation is one patch, each axis its own,
            renormalised at the edges. `mean`: the picture's own mean colour. `black`: what a black photo
            becomes before it goes in. `zero`: zeros after normalisation, the mean colour of the training pictures.
            `removal`: nothing, the token is left out.
        pixels: the picture as the model gets it.
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
    fill: Float[Tensor, "3 Hi Wi"], pixels: Float[Tensor, "n 3 Hi Wi"], gone: Bool[Tensor, "n P"], grid: tuple[int, int]
) -> Float[Tensor, "n 3 Hi Wi"]:
    """The pictures with `fill` where the patches of a mask were."""
    return torch.where(_in_pixels(gone.reshape(-1, *grid), pixels.shape[2:])[:, None], fill, pixels)


def _blurred(x: Float[Tensor, "c h w"], sigma: float) -> Float[Tensor, "c h w"]:
    """A Gaussian along the last axis, cut at six standard deviations; its weights sum to one at the edges, too."""
    reach = min(math.ceil(6 * sigma), x.shape[2] - 1)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype) / sigma) ** 2)
    weighed, weight = (
        torch.nn.functional.conv1d(y.reshape(-1, 1, y.shape[-1]), kernel[None, None], padding=reach)
        for y in (x, torch.ones_like(x[:1, :1]))
    )
    return (weighed / weight).reshape(x.shape)


def _in_pixels(cells: Bool[Tensor, "n gh gw"], size: Sequence[int]) -> Bool[Tensor, "n Hi Wi"]:
    rows, columns = (_cell_of(n, c, cells.device) for n, c in zip(size, cells.shape[1:], strict=True))
    return cells[:, rows][:, :, columns]


def _cell_of(pixels: int, cells: int, device: torch.device) -> Int[Tensor, " n"]:
    return torch.arange(pixels, device=device) * cells // pixels
