"""Measure how far one map can be believed: `Scope.measure`."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor

from vitscope._messages import msg
from vitscope.attention.model_lock import lending
from vitscope.engine.engine import Engine
from vitscope.engine.options import one_target
from vitscope.engine.ranges import MOST, checked, names_of
from vitscope.engine.runner import alone
from vitscope.errors import UnknownNameError, UnsupportedError
from vitscope.evaluation.random_maps import compare_scores
from vitscope.evaluation.remake import map_maker, photo_of, pixels_of, score_of_map, uniform_pixels
from vitscope.explanation import Explanation, require_image
from vitscope.images import ImageLike
from vitscope.methods.targets import Target
from vitscope.metrics.faithfulness import DEFAULT, MEASURES, Measure, MeasureSettings
from vitscope.metrics.measurement import RANDOM_MAPS, Bounds, Measurement, Number
from vitscope.metrics.metric_names import FAITHFULNESS, check_metric_names
from vitscope.metrics.perturb import BASELINES, Baseline, Probe, baseline_fill
from vitscope.metrics.sanity import SANITY_NUMBERS, sanity, weight_groups
from vitscope.metrics.stability import NOISE_SAMPLES, STABILITY_NUMBERS, stability
from vitscope.metrics.target_score import ScoreKind

Progress: TypeAlias = Callable[[str, int, int], None]
ScoreCache: TypeAlias = dict[tuple[str, ...], dict[bytes, Tensor]]

# what a page measures: the curve that people read, in few steps, and what finds nearly every right map, on few squares
_FEW = 100  # patches, whose forwards are cheap

_REMAKING = {"stability": STABILITY_NUMBERS, "sanity": SANITY_NUMBERS}  # they make the map again, for these numbers
_TOKENS = 4096  # of all images that go through a model together on the CPU: of more, its caches hold too few
_KEPT = 1 << 16  # numbers of one answer that are kept; of a longer one only its score is


def quick_options(explanation: Explanation) -> Mapping[str, Any]:
    """Return options of `measure` for a map that a person waits for: some 70 forwards for six maps of one image.

    Deletion in three steps and infidelity with 16 squares; of a map of at most 100 patches ten steps, 200 forwards.
    """
    return {"metrics": ("deletion", "infidelity"), "steps": 10 if explanation.map.size <= _FEW else 3, "n_squares": 16}


@checked(
    seed=(0, 2**62),
    steps=(1, 10_000),
    n_subsets=(3, 10_000),
    n_squares=(3, MOST),
    n_random_maps=(2, MOST),
    seconds=(0, 1e9),
)
@alone
def measure(
    engine: Engine,
    explanation: Explanation,
    *,
    metrics: str | Sequence[str] = "default",
    baseline: Baseline | Literal["auto"] = "auto",
    score: ScoreKind = "probability",
    steps: int = 10,
    n_subsets: int = 19,
    n_squares: int = 40,
    n_random_maps: int = RANDOM_MAPS,
    seconds: float | None = None,
    seed: int = 0,
    batch_size: int = 8,
    image: ImageLike | None = None,
    target: Target = None,
    score_cache: ScoreCache | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Measure how far one map can be believed, each number beside the same number of random maps.

    Patches of the image are replaced in the map's order and in random sets, and the score is followed. A random map is
    the map itself with its values in a random order. `docs/measuring.md` has the formulas.

    Args:
        engine: the model that made the map.
        explanation: the map.
        metrics: `default`: deletion, and those that find nine of ten right maps or more where the right map is known:
            sensitivity-n and infidelity (`Measure.power`). `all`: also insertion, aopc, positive, negative, saco, and
            `stability` and `sanity`, which make the map 8 and 2 S - 1 times again, S the number of blocks plus two.
            Otherwise one name or several.
        baseline: what replaces a patch: `mean`, `blur`, `black`, `zero` (`metrics.perturb.baseline_fill`), or
            `removal`: its token is left out, where the model allows it. `auto`: `removal`, else `mean`.
        score: of a class, its `probability` or its `logit`; models without classes have the cosine to the whole
            image's feature, other targets are their own score (`metrics.target_score.score_of`).
        steps: intervals of the deletion and insertion curves; fewer where there are fewer patches. 10 steps are 18
            forwards for both curves of one map.
        n_subsets: random sets for each n of sensitivity-n, the same for all maps; the n are the steps up to 80 % of the
            patches, and the sets are those of deletion's first random maps, so that both take the same forwards.
        n_squares: random squares of infidelity, the same for all maps.
        n_random_maps: how many random maps the model is run for at most; drawing stops when every verdict stands, which
            takes 19 where a map is better or worse and two to six where it is neither. With fewer than 19 it may be
            that nothing can be told. Where a random map takes no forwards of its own (saco, sensitivity-n, infidelity,
            stability) there are 199.
        seconds: draw no more random maps after so long; None waits for a verdict.
        seed: draws sets, random maps, noise and weights; everything repeats to the digit.
        batch_size: images that go through the model together, at most; on the CPU at most 4,096 patch tokens, too.
        image: the photo, where the explanation does not keep it, or keeps it as JPEG.
        target: what is scored, where it is not the map's own target or cannot be made again from its words.
        score_cache: one dict for several maps of one image, such as of several methods or classes: what an earlier call
            ran the model for, the whole image and all sets of random maps among them, takes no forward again.
        progress: called with (`faithfulness`, `stability` or `sanity`, done, total).

    Raises:
        UsageError: a map of another model or size, a missing photo, a target that cannot be made again, wrong options.
        UnknownNameError: a metric, baseline, score or class that does not exist.
        MethodError: a score that is not finite, or `removal` where tokens cannot be left out (UnsupportedError).
        UnsupportedError: an explanation of a clip or of another medium than an image.

    Cost: `Measurement.forwards`.
    """
    require_image(explanation)
    target = one_target(target)
    names = metric_names(metrics, baseline, score)
    if baseline == "auto":
        baseline = "removal" if engine.supports("patch-dropping") else "mean"
    weights = engine.adapter.weights  # hashed now if ever, and never while others stand in their place
    plan = MeasureSettings(explanation.layout.grid, steps, n_subsets, n_squares, seed)
    notes: list[str] = []
    picture = photo_of(engine, explanation, image)
    pixels, region = pixels_of(engine, explanation, picture, notes)
    cache = {} if score_cache is None else score_cache
    answers = cache.setdefault(_cache_key(pixels, "", "", weights), {})
    if b"" not in answers:
        answers[b""] = engine.answer(pixels[None])
    answer = answers[b""]
    goal = score_of_map(engine, explanation, target, score, answer, notes)
    black, white = (uniform_pixels(engine, explanation, picture, value) for value in (0, 255))
    numbers: list[Number] = []
    empty, forwards, explanations = None, 0, 0

    def tick(name: str) -> Callable[[int, int], None]:
        return partial(lending(progress), name) if progress is not None else lambda done, total: None

    if any(name in FAITHFULNESS for name in names):
        fill = baseline_fill(baseline, pixels, black, plan.grid)
        numbers_of_cells = engine.layout_at(region.input).cell_numbers(region.input)
        keeps = answer[0].numel() <= _KEPT
        key = _cache_key(pixels, baseline, "" if keeps else goal.words, weights)
        run = _masked_answers(engine, baseline)
        probe = Probe(
            run if keeps else lambda pixels, kept: goal.from_answer(run(pixels, kept)),
            pixels,
            fill,
            plan.grid,
            batch_size,
            goal.from_answer if keeps else lambda scores: scores,
            cache.setdefault(key, {}),
            numbers_of_cells,
            _TOKENS if engine.device.type == "cpu" else None,
        )
        ends = _ends(goal.possible, float(goal.from_answer(answer)[0]))
        until = math.inf if seconds is None else time.monotonic() + seconds
        chosen = [one for one in MEASURES if one.name in names]
        numbers, empty, forwards = compare_scores(
            probe, explanation.map, chosen, plan, n_random_maps, until, ends, tick("faithfulness")
        )
    if any(name in _REMAKING for name in names):
        make_map = map_maker(engine, explanation, goal.target, picture, region)
        if "stability" in names:
            numbers += stability(
                explanation.map,
                make_map,
                pixels,
                white - black,
                seed=seed,
                tick=tick("stability"),
            )
            explanations += NOISE_SAMPLES
        if "sanity" in names:
            blocks = engine.blocks.blocks if engine.blocks else ()
            parts = weight_groups(engine.model, lambda: engine.answer(pixels[None]), blocks)
            numbers += sanity(
                explanation.map, lambda: make_map(pixels), engine.model, parts, seed=seed, tick=tick("sanity")
            )
            explanations += 2 * len(parts) - 1
    return Measurement(
        method=explanation.method,
        picture=picture.source,
        model=engine.adapter.reference,
        score=goal.words,
        whole=float(goal.from_answer(answer)[0]),
        empty=empty,
        baseline=baseline,
        numbers=tuple(numbers),
        forwards=forwards,
        explanations=explanations,
        options={
            **{
                "metrics": list(names),
                "steps": steps,
                "n_subsets": n_subsets,
                "n_squares": n_squares,
                "n_random_maps": n_random_maps,
            },
            **{"seed": seed, "batch_size": batch_size, "weights": weights, "input": list(region.input)},
            **{"device": str(engine.device), "dtype": str(engine.dtype).removeprefix("torch.")},
        },
        notes=tuple(notes),
    )


def metric_names(metrics: str | Sequence[str], baseline: str, score: str) -> tuple[str, ...]:
    """Return the metrics that a caller named, and check the names of the other two.

    Raises:
        UnknownNameError: a metric, baseline or score that does not exist.
        UsageError: no metric.
    """
    for word, given, choices in (("baseline", baseline, (*BASELINES, "auto")), ("score", score, get_args(ScoreKind))):
        UnknownNameError.check(word, given, choices)
    known = (*FAITHFULNESS, *_REMAKING)
    several = {"default": DEFAULT, "all": known}
    named = names_of(metrics)
    check_metric_names(named)
    return tuple(dict.fromkeys(one for name in named for one in several.get(name, (name,))))


def number_names(metrics: Sequence[str]) -> tuple[str, ...]:
    """Return the names of all numbers that metrics can have: most have one, of their own name."""
    return tuple(number for name in metrics for number in _REMAKING.get(name, (name,)))


def _cache_key(pixels: Tensor, baseline: str, score: str, weights: str) -> tuple[str, ...]:
    """Return what the scores of sets depend on."""
    picture = sha256(pixels.detach().double().cpu().numpy().tobytes()).hexdigest()
    return picture, str(pixels.dtype), baseline, score, weights


def _masked_answers(engine: Engine, baseline: str) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Return a function from pixels, and the patch tokens to keep, to the model's answers."""
    if baseline != "removal":
        return lambda pixels, _kept: engine.answer(pixels)
    if not (support := engine.supports("patch-dropping")):
        others = ", ".join(name for name in BASELINES if name != "removal")
        raise UnsupportedError(
            msg("evaluation.no-removal", "the baseline 'removal' does not apply: {reason}", reason=support.reason),
            msg("evaluation.no-removal.hint", "these do: {baselines}", baselines=others),
        )
    blocks = engine.require_blocks()

    def run(pixels: Tensor, kept: Tensor | None) -> Tensor:
        assert kept is not None
        with blocks.keep_patches(kept):
            return engine.answer(pixels)

    return run


def _ends(possible: tuple[float, float] | None, whole: float) -> Callable[[Measure], Bounds]:
    """Return the range of each measure's number: its own, or that of the score or of its drops."""

    def ends(measure: Measure) -> Bounds:
        if measure.possible is not None or possible is None:
            return measure.possible or (None, None)
        return (whole - possible[1], whole - possible[0]) if measure.name == "aopc" else possible

    return ends
