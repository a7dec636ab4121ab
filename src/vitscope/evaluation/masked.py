"""Predict with some patches painted over or left out, once (`Scope.predict_without`) or often (`PatchMasker`)."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitscope._messages import msg
from vitscope._numbers import is_whole
from vitscope.engine.engine import Engine
from vitscope.engine.options import one_target
from vitscope.engine.runner import alone
from vitscope.errors import UnknownNameError, UnsupportedError, UsageError
from vitscope.geometry import TokenLayout
from vitscope.images import ImageLike
from vitscope.metrics.perturb import baseline_fill, fill_patches
from vitscope.metrics.target_score import Score, make_score

_MODES = ("fill", "drop")


@dataclass(frozen=True)
class MaskedPrediction:
    """The model's prediction without some patches.

    Attributes:
        predictions: (label, probability), most probable first, five at most; empty for a feature model.
        score: the score without them: of a class its probability, of a feature model the cosine to the whole image's
            feature, of another target its own (`metrics.target_score.score_of`).
        whole: the same score of the whole image.
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
    """One image made ready, so that each prediction costs one forward.

    Attributes:
        engine: the model.
        layout: its tokens at this input size.
        pixels: the image as the model gets it.
        fill: what replaces a patch: the image's mean colour.
        score: the score that is followed.
        whole: the score of the whole image.
    """

    engine: Engine
    layout: TokenLayout
    pixels: Float[Tensor, "C Hi Wi"]
    fill: Float[Tensor, "C Hi Wi"]
    score: Score
    whole: float

    @property
    def model(self) -> nn.Module:
        """The model itself."""
        return self.engine.model

    @alone
    def without(self, patches: Iterable[int], mode: str = "fill") -> MaskedPrediction:
        """Predict without these patches; see `Scope.predict_without`."""
        UnknownNameError.check(msg("evaluation.mode", "mode"), mode, _MODES)
        count = self.layout.tokens - len(self.layout.prefix)
        numbers = _patch_numbers(patches)
        if numbers and not 0 <= numbers[0] <= numbers[-1] < count:
            raise UsageError.coded(
                "evaluation.no-such-patch",
                "patches are numbered 0 to {last}, not {first_given} to {last_given}",
                last=count - 1,
                first_given=numbers[0],
                last_given=numbers[-1],
            )
        gone = torch.zeros(1, count, dtype=torch.bool, device=self.pixels.device)
        gone[:, numbers] = True
        begun = time.perf_counter()
        answer = self._dropped(gone) if mode == "drop" else self._filled(gone)
        score = float(self.score.from_answer(answer)[0])  # waits for the device
        spent = (time.perf_counter() - begun) * 1000
        says = self.engine.predictions(answer)
        return MaskedPrediction(says, score, self.whole, self.score.words, mode, tuple(numbers), spent)

    def _filled(self, gone: Tensor) -> Tensor:
        numbers = self.layout.cell_numbers((self.pixels.shape[1], self.pixels.shape[2]))
        return self.engine.answer(fill_patches(self.fill, self.pixels[None], gone, self.layout.grid, numbers))

    def _dropped(self, gone: Tensor) -> Tensor:
        if not (support := self.engine.supports("patch-dropping" if bool(gone.all()) else "order-free")):
            raise UnsupportedError(
                msg("evaluation.no-drop", "patches cannot be dropped: {reason}", reason=support.reason),
                msg("evaluation.no-drop.hint", "{@mode=fill} paints over them"),
            )
        with self.engine.require_blocks().keep_patches(~gone):
            return self.engine.answer(self.pixels[None])


def _patch_numbers(patches: Any) -> list[int]:
    """Return the numbers of patches, ascending; raise a UsageError where they are not whole numbers."""
    try:
        given = [patch.item() if getattr(patch, "ndim", 1) == 0 else patch for patch in patches]
    except (TypeError, ValueError, RuntimeError):  # not several, or no numbers but rows of them
        given = [None]
    if isinstance(patches, (str, bytes)) or not all(is_whole(patch) for patch in given):
        raise UsageError(msg("evaluation.patch-numbers", "patches are whole numbers, counted from 0"))
    return sorted(set(given))


@alone
def patch_masker(engine: Engine, image: ImageLike, *, size: int | None = None, target: Any = None) -> PatchMasker:
    """Make an image ready for predictions without some of its patches."""
    target = one_target(target)
    ready = engine.prepare(image, size=size)
    if ready.picture.medium == "sound":
        raise UnsupportedError(
            msg("evaluation.overlapping-patches", "this model's patches overlap: none can be painted over alone")
        )
    pixels = ready.pixels.to(engine.device, engine.dtype)
    layout, answer = engine.adapter.layout(ready.region.input), engine.answer(pixels[None])
    score = make_score(
        target,
        "probability",
        answer,
        labels=engine.adapter.labels,
        activation=engine.activation(answer),
        make_scorer=lambda other: engine.scorer(other, answer, [ready.region]),
    )
    fill = baseline_fill("mean", pixels, pixels, layout.grid)
    assert fill is not None
    return PatchMasker(engine, layout, pixels, fill, score, float(score.from_answer(answer)[0]))
