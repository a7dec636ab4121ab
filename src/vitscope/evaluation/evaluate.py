"""A scope's own map, measured: the picture made ready again, the score settled, and the measures that were asked for.

`Scope.measure` is this module's one entry; it stands beside the pipeline, whose stages it calls.
"""

import ast
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, TypeAlias, get_args

import numpy as np
from torch import Tensor

from vitscope._messages import msg
from vitscope.engine.engine import Engine
from vitscope.engine.options import Failure, Options
from vitscope.engine.request import Request
from vitscope.engine.runner import Prepared
from vitscope.errors import UnknownNameError, UnsupportedError, UsageError
from vitscope.explanation import Explanation
from vitscope.geometry import ImageRegion
from vitscope.images import ImageLike, Picture, load_image
from vitscope.methods.base import METHODS
from vitscope.methods.targets import Target
from vitscope.metrics.faithfulness import DRAWS, MEASURES, Measure, MeasureSettings
from vitscope.metrics.measurement import Bounds, Measurement, Number, compare_with_random
from vitscope.metrics.perturb import BASELINES, Baseline, Probe, baseline_fill
from vitscope.metrics.ranking import rank_map, shuffled_maps
from vitscope.metrics.sanity import sanity, weight_groups
from vitscope.metrics.stability import NOISE_SAMPLES, stability
from vitscope.metrics.target_score import Score, ScoreKind, make_score, target_from_text

__all__ = ["asked", "measure"]

Progress: TypeAlias = Callable[[str, int, int], None]
Known: TypeAlias = dict[tuple[str, ...], dict[bytes, float]]

_CHEAP = tuple(one.name for one in MEASURES)
_DEAR = ("stability", "sanity")  # they make the map again
_TOLD_CHANGE = 1e-4


def measure(
    engine: Engine,
    explanation: Explanation,
    *,
    metrics: str | Sequence[str] = "default",
    baseline: Baseline = "mean",
    score: ScoreKind = "probability",
    steps: int = 20,
    n_subsets: int = 24,
    n_squares: int = 40,
    n_random_maps: int = 5,
    seed: int = 0,
    batch_size: int = 8,
    image: ImageLike | None = None,
    target: Target = None,
    known: Known | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """How far one map can be believed: each number beside the same number of random maps.

    Patches of the picture are replaced in the map's order and in random sets, and the score is watched. A random map is
    the map itself with its values in a random order. `docs/measuring.md` has the formulas.

    Args:
        engine: the model that made the map.
        explanation: the map.
        metrics: `default`: deletion, insertion, aopc, positive, negative, saco, sensitivity-n, infidelity. `all`: also
            `stability` and `sanity`, which make the map 8 and 2 S - 1 times again, S the number of blocks plus two.
            Otherwise one name or several.
        baseline: what stands where a patch was: `mean`, `blur`, `black`, `zero` (`metrics.perturb.fill_of`), or
            `removal`: its token is left out, where the model can do without.
        score: of a class, its `probability` or its `logit`; models without classes have the cosine to the whole
            picture's feature, other targets are their own score (`metrics.score.score_of`).
        steps: intervals of the deletion and insertion curves; fewer where there are fewer patches. 20 steps are 40
            forwards for both curves of one map.
        n_subsets: random sets for each of five n of sensitivity-n, the same for all maps.
        n_squares: random squares of infidelity, the same for all maps.
        n_random_maps: how many random maps the model is run for; where a random map takes no forwards of its own (saco,
            sensitivity-n, infidelity, stability) there are 199.
        seed: draws sets, random maps, noise and weights; everything repeats to the digit.
        batch_size: pictures that go through the model together.
        image: the photo, where the explanation does not keep it, or keeps it as JPEG.
        target: what is scored, where it is not the map's own target or cannot be made again from its words.
        known: one dict for several maps of one picture, such as of several methods: sets whose scores are known from an
            earlier call are not asked for again, which are all those of random maps.
        progress: called with (`faithfulness`, `stability` or `sanity`, done, total).

    Raises:
        UsageError: a map of another model or size, a missing photo, a target that cannot be made again, wrong options.
        UnknownNameError: a metric, baseline, score or class that does not exist.
        MethodError: `removal` where tokens cannot be left out, or a score that is not finite.

    Cost: `Measurement.forwards`, about 430 by default; two curves with five random maps are 240 at most.
    """
    names = asked(metrics, baseline, score)
    weights = engine.adapter.weights  # hashed now if ever, and never while others stand in their place
    if n_random_maps < 2 or batch_size < 1:
        raise UsageError(f"n_random_maps is at least 2 and batch_size at least 1, not {n_random_maps} and {batch_size}")
    plan = MeasureSettings(explanation.layout.grid, steps, n_subsets, n_squares, seed)
    notes: list[str] = []
    picture = _picture(explanation, image)
    pixels, region = _pixels(engine, explanation, picture, notes)
    answer = engine.answer(pixels[None])
    goal = _score(engine, explanation, target, score, answer, notes)
    black, white = (_flat(engine, explanation, value) for value in (0, 255))
    numbers: list[Number] = []
    empty, forwards, explanations = None, 0, 0

    def tick(name: str) -> Callable[[int, int], None]:
        return (lambda done, total: progress(name, done, total)) if progress else lambda done, total: None

    if any(name in _CHEAP for name in names):
        fill = baseline_fill(baseline, pixels, black, plan.grid)
        memory = None if known is None else known.setdefault(_case(pixels, baseline, goal.words, weights), {})
        probe = Probe(_runner(engine, goal.from_answer, baseline), pixels, fill, plan.grid, batch_size, memory)
        ends = _ends(goal.possible, float(goal.from_answer(answer)[0]))
        numbers, empty, forwards = _faithfulness(
            probe, explanation, plan, names, n_random_maps, ends, tick("faithfulness")
        )
    if any(name in _DEAR for name in names):
        again = _again(engine, explanation, goal.target, picture, region)
        if "stability" in names:
            numbers += stability(
                explanation.map,
                again,
                pixels,
                white - black,
                n_random_maps=max(n_random_maps, DRAWS),
                seed=seed,
                tick=tick("stability"),
            )
            explanations += NOISE_SAMPLES
        if "sanity" in names:
            blocks = engine.blocks.blocks if engine.blocks else ()
            parts = weight_groups(engine.model, lambda: engine.answer(pixels[None]), blocks)
            numbers += sanity(
                explanation.map, lambda: again(pixels), engine.model, parts, seed=seed, tick=tick("sanity")
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


def asked(metrics: str | Sequence[str], baseline: str, score: str) -> tuple[str, ...]:
    """The metrics that these words ask for; also looks at the other two.

    Raises:
        UnknownNameError: a metric, baseline or score that does not exist.
        UsageError: no metric.
    """
    for word, given, choices in (("baseline", baseline, BASELINES), ("score", score, get_args(ScoreKind))):
        if given not in choices:
            raise UnknownNameError(word, given, choices)
    known = (*_CHEAP, *_DEAR)
    if metrics in ("default", "all"):
        return _CHEAP if metrics == "default" else known
    names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    for name in names:
        if name not in known:
            raise UnknownNameError("metric", name, ("default", "all", *known))
    if not names:
        raise UsageError("no metric is asked for", f"choices: default, all, {', '.join(known)}")
    return names


def _picture(explanation: Explanation, image: ImageLike | None) -> Picture:
    if image is None and explanation.picture is None:
        raise UsageError("this explanation came without its photo", "pass the photo: measure(..., image=...)")
    picture = explanation.picture if image is None else load_image(image)
    assert picture is not None
    if picture.size != explanation.region.size:
        raise UsageError(f"the explanation is of a photo of {explanation.region.size} pixels, not {picture.size}")
    return picture


def _pixels(engine: Engine, explanation: Explanation, picture: Picture, notes: list[str]) -> tuple[Tensor, ImageRegion]:
    """The pixels that the map was made from, and whether this scope made it."""
    told = explanation.provenance
    if "weights" not in told:
        notes.append("the explanation does not say which model made it: that it was this one is not checked")
    elif told["weights"] != engine.adapter.weights:
        raise UsageError(
            f"this map was made by {told.get('model')} ({told['weights']}), not by {engine.adapter.reference} "
            f"({engine.adapter.weights})",
            "measure it with the scope that made it",
        )
    pixels, region = engine.adapter.prepare(picture, told.get("size"))
    layout = engine.adapter.layout(region.input)
    if (region, layout.grid) != (explanation.region, explanation.layout.grid):
        raise UsageError(
            f"this map has {explanation.layout} on an input of {explanation.region.input}, and of this photo "
            f"{engine.adapter.reference} makes {layout} on {region.input}",
            "measure it with the scope that made it, at the size that it was made at",
        )
    return pixels.to(engine.device, engine.dtype), region


def _case(pixels: Tensor, baseline: str, score: str, weights: str) -> tuple[str, ...]:
    """What scores of sets depend on."""
    picture = sha256(pixels.detach().double().cpu().numpy().tobytes()).hexdigest()
    return picture, str(pixels.dtype), baseline, score, weights


def _flat(engine: Engine, explanation: Explanation, value: int) -> Tensor:
    """What a photo of one grey becomes before it goes into the model."""
    width, height = explanation.region.size
    flat = Picture(np.full((height, width, 3), value, np.uint8))
    pixels, _ = engine.adapter.prepare(flat, explanation.provenance.get("size"))
    return pixels.to(engine.device, engine.dtype)


def _runner(
    engine: Engine, scored: Callable[[Tensor], Tensor], baseline: str
) -> Callable[[Tensor, Tensor | None], Tensor]:
    """The score of pixels, on all patch tokens or on some."""
    if baseline != "removal":
        return lambda pixels, _kept: scored(engine.answer(pixels))
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
            return scored(engine.answer(pixels))

    return run


def _faithfulness(
    probe: Probe,
    explanation: Explanation,
    plan: MeasureSettings,
    names: Sequence[str],
    n_random_maps: int,
    ends: Callable[[Measure], Bounds],
    tick: Callable[..., None],
) -> tuple[list[Number], float, int]:
    """The numbers, the score with everything replaced, and the forwards: sets that measures share are scored once."""
    one = rank_map(explanation.map, plan.seed)
    maps = [one, *shuffled_maps(one, n_random_maps, plan.seed)]
    asked = [measure for measure in MEASURES if measure.name in names]
    masks = [np.ones((1, plan.patches), bool), *(measure.masks(m, plan) for measure in asked for m in maps)]
    scores, forwards = probe.scores(masks, tick)
    numbers = []
    for number, measure in enumerate(asked):
        own = scores[1 + number * len(maps) : 1 + (number + 1) * len(maps)]
        found = [measure.value(m, s, plan) for m, s in zip(maps, own, strict=True)]
        randoms = (
            [other.value for other in found[1:]]
            if measure.random_values is None
            else measure.random_values(maps, own, plan)
        )
        curves = [other.y for other in found[1:]] if measure.random_values is None else ()
        numbers.append(
            compare_with_random(
                measure.name,
                "faithfulness",
                measure.better,
                found[0],
                randoms,
                possible=ends(measure),
                curves=curves,
            )
        )
    return numbers, float(scores[0][0]), forwards


def _ends(possible: tuple[float, float] | None, whole: float) -> Callable[[Measure], Bounds]:
    """Between what a measure's number lies: its own range, or that of the score or of its drops."""

    def ends(measure: Measure) -> Bounds:
        if measure.possible is not None or possible is None:
            return measure.possible or (None, None)
        return (whole - possible[1], whole - possible[0]) if measure.name == "aopc" else possible

    return ends


def _score(
    engine: Engine, explanation: Explanation, given: Target, kind: ScoreKind, answer: Tensor, notes: list[str]
) -> Score:
    """What is asked of the model: the map's own target, or the one that the caller says."""
    classifies, was = engine.adapter.classifies(answer), explanation.score if given is None else None
    score = make_score(
        target_from_text(explanation.target, classifies) if given is None else given,
        kind,
        answer,
        labels=engine.adapter.labels,
        classifies=classifies,
        independent=engine.adapter.multi_label,
        settle=lambda target: engine.scorer(target, answer),
        was=was,
    )
    if None not in (was, score.logit, explanation.target):
        now, then = score.logit or 0.0, was or 0.0
        if abs(now - then) > _TOLD_CHANGE * max(abs(now), 1):
            notes.append(
                f"its logit was {then:.4g} when the map was made and is {now:.4g} now: a saved explanation keeps its "
                "photo as JPEG (image= takes the photo itself)"
            )
    return score


def _again(
    engine: Engine, explanation: Explanation, target: Target, picture: Picture, region: ImageRegion
) -> Callable[[Tensor], np.ndarray]:
    """The map of other pixels, made as this one was."""
    told, method = explanation.provenance, METHODS.get(explanation.method)
    params = method.check({name: _value(value) for name, value in told.get("options", {}).items()})
    options = Options(
        method.name,
        target if "target" in method.requires else None,
        gradient_rule=told.get("gradient_rule", "plain"),
        refine=told.get("refine", "none"),
        size=told.get("size"),
        batch_size=told.get("batch_size", 8),
        seed=told.get("seed", 0),
    )
    request = Request(options, method, params)

    def again(pixels: Tensor) -> np.ndarray:
        (made,) = engine.explain_batch([Prepared(picture, pixels, region, options.size)], request, options.runs([0]))
        if isinstance(made, Failure):
            raise made.error
        return made[0].map

    return again


def _value(option: Any) -> Any:
    """An option as it was given: the provenance keeps lists as text."""
    if isinstance(option, str) and option[:1] in ("[", "("):
        return ast.literal_eval(option)
    return option
