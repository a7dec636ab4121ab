"""Some patches hidden or left out: what the model says then, at once.

`Scope.predict_without` is this module's one entry for callers; `PatchMasker` serves hosts that ask often of one.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.attention.transformer_blocks import TransformerBlocks
from vitscope.errors import MethodError, UnknownNameError, UsageError
from vitscope.evaluation.evaluate import irremovable
from vitscope.geometry import TokenLayout
from vitscope.images import ImageLike
from vitscope.methods.targets import Scorer, Target
from vitscope.metrics.perturb import covered_with, fill_of
from vitscope.metrics.target_score import Score, score_of

if TYPE_CHECKING:
    from vitscope.scope import Scope

__all__ = ["MaskedPrediction", "PatchMasker", "masking"]

_MODES = ("fill", "drop")


@dataclass(frozen=True)
class MaskedPrediction:
    """What the model says without some patches.

    Attributes:
        predictions: (label, probability), most probable first, five at most; empty for a feature model.
        score: the score without them: of a class its probability, of a feature model the cosine to the whole picture's
            feature, of another target its own (`metrics.score.score_of`).
        whole: the same score of the whole picture.
        words: which score that is.
        mode: `fill` or `drop`.
        patches: the patches, row by row from 0.
        forward_ms: milliseconds of the one forward.
    """

    predictions: Sequence[tuple[str, float]]
    score: float
    whole: float
    words: str
    mode: str
    patches: tuple[int, ...]
    forward_ms: float


@dataclass(frozen=True, eq=False)
class PatchMasker:
    """One picture made ready: each question costs one forward.

    Attributes:
        scope: the model.
        layout: its tokens at this input size.
        pixels: the picture as the model gets it.
        fill: what stands where a patch is hidden: the picture's own mean colour.
        score: what is followed.
        whole: the score of the whole picture.
    """

    scope: "Scope"
    layout: TokenLayout
    pixels: Float[Tensor, "3 Hi Wi"]
    fill: Float[Tensor, "3 Hi Wi"]
    score: Score
    whole: float

    def without(self, patches: Iterable[int], mode: str = "fill") -> MaskedPrediction:
        """What the model says without these patches; see `Scope.predict_without`."""
        if mode not in _MODES:
            raise UnknownNameError("mode", mode, _MODES)
        count = self.layout.tokens - len(self.layout.prefix)
        numbers = sorted({int(patch) for patch in patches})
        if numbers and not 0 <= numbers[0] <= numbers[-1] < count:
            raise UsageError(f"patches are numbered 0 to {count - 1}, not {numbers[0]} to {numbers[-1]}")
        gone = torch.zeros(1, count, dtype=torch.bool, device=self.pixels.device)
        gone[:, numbers] = True
        begun = time.perf_counter()
        answer = self._dropped(gone) if mode == "drop" else self._filled(gone)
        score = float(self.score.of(answer)[0])  # waits for the device
        spent = (time.perf_counter() - begun) * 1000
        says = self.scope.said(answer)
        return MaskedPrediction(says, score, self.whole, self.score.words, mode, tuple(numbers), spent)

    def _filled(self, gone: Tensor) -> Tensor:
        return self.scope._answer(covered_with(self.fill, self.pixels[None], gone, self.layout.grid))

    def _dropped(self, gone: Tensor) -> Tensor:
        if reason := irremovable(self.scope):
            raise MethodError(f"patches cannot be dropped: {reason}", "mode='fill' paints over them")
        assert isinstance(self.scope.body, TransformerBlocks)
        with self.scope.body.keep_patches(~gone):
            return self.scope._answer(self.pixels[None])


def masking(scope: "Scope", image: ImageLike, *, size: int | None = None, target: Any = None) -> PatchMasker:
    """Make a picture ready to be asked of without some of its patches."""
    if isinstance(target, (list, tuple)):
        raise UsageError("one target at a time is followed")
    ready = scope.prepare(image, size=size)
    pixels = ready.pixels.to(scope.device, scope.dtype)
    layout, answer = scope.adapter.layout(ready.region.input), scope._answer(pixels[None])

    def settle(other: Target) -> Scorer:
        scorer = scope._scorer(other, answer)
        assert scorer is not None
        return scorer

    score = score_of(
        target,
        "probability",
        answer,
        labels=scope.adapter.labels,
        classifies=scope.adapter.classifies(answer),
        independent=scope.adapter.multi_label,
        settle=settle,
    )
    fill = fill_of("mean", pixels, pixels, layout.grid)
    assert fill is not None
    return PatchMasker(scope, layout, pixels, fill, score, float(score.of(answer)[0]))
