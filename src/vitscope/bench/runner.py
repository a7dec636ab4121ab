"""Runs methods on cases, one map after the other; each result is on disk as soon as it is known."""

import statistics
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vitscope._messages import msg
from vitscope.bench.cases import Case, Explainer
from vitscope.bench.planted import size_class
from vitscope.bench.run_log import CaseResult, RunLog
from vitscope.errors import YES, ImageError, MethodError, UnsupportedError, UsageError, VitscopeError
from vitscope.explanation import Explanation
from vitscope.images import Picture
from vitscope.methods.base import METHODS
from vitscope.metrics.ground_truth import centre_prior

RANDOM, CENTRE = "random", "centre prior"
PRIORS = (RANDOM, CENTRE)
DEFAULT_METHODS = (
    "auto",
    "rollout",
    "attention",
    "relevance",
    "grad-sam",
    "attnlrp",
    "gradcam",
    "evidence-walk",
    "pca",
    "ncut",
)
TIMING_ROUNDS = 3  # how often each map is timed where cost is measured
_CALL_OPTIONS = ("gradient_rule", "refine")  # options of the call, not of the method


@dataclass(frozen=True)
class MethodSpec:
    """A method with its options: one row of the table.

    Attributes:
        label: the text that specifies it, such as `rollout:layers=last3`.
        method: its name; `random` and `centre prior` do not run the model.
        options: `gradient_rule` and `refine`.
        method_options: the method's own options.
    """

    label: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    method_options: Mapping[str, Any] = field(default_factory=dict)


def method_specs(scope: Explainer, texts: Sequence[str], parse: Callable[[str], tuple[str, Any]]) -> list[MethodSpec]:
    """Parse and check the specifications of methods.

    `random` and `centre prior` are always added at the end.

    Args:
        scope: the model.
        texts: such as `rollout:layers=last3:gradient_rule=libra`. Empty means `DEFAULT_METHODS` as far as they apply to
            the model; `all` means every method of one forward and at most one backward that applies at its own size.
        parse: from `NAME=VALUE` to name and value.

    Raises:
        UnknownNameError: a method or option that does not exist.
        UnsupportedError: a method that does not apply to the model.
    """
    fits = {support.name: support for support in scope.methods()}
    names = [text.strip() for text in texts if text.strip()]
    if names == ["all"]:
        unlimited = [name for name, support in fits.items() if support and not support.reason]
        names = ["auto", *(name for name in unlimited if METHODS.get(name).quick)]
    elif not names:
        names = [name for name in DEFAULT_METHODS if fits.get(name, YES)]
    found = []
    for text in dict.fromkeys(names):
        name, *rest = text.split(":")
        if name in PRIORS or name == "centre":
            continue
        given = dict(parse(part) for part in rest)
        own = {key: value for key, value in given.items() if key not in _CALL_OPTIONS}
        if name != "auto":
            METHODS.get(name).check(own)
            if not fits[name]:
                message = msg(
                    "bench.method-unsupported",
                    "the method '{name}' does not apply to this model: {reason}",
                    name=name,
                    reason=fits[name].reason,
                )
                raise UnsupportedError(message, msg("bench.method-unsupported.hint", "leave it out of {@method}"))
        found.append(MethodSpec(text, name, {key: given[key] for key in _CALL_OPTIONS if key in given}, own))
    return [*found, *(MethodSpec(name, name) for name in PRIORS)]


def run_cases(
    scope: Explainer,
    cases: Sequence[Case],
    specs: Sequence[MethodSpec],
    run_log: RunLog,
    *,
    size: int | None = None,
    seed: int = 0,
    timed: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[CaseResult]:
    """Return the result of every method on every case.

    Results in the log are not made again.

    Args:
        scope: the model.
        cases: the cases.
        specs: the methods.
        run_log: where results are stored.
        size: input size as in `Scope.explain`.
        seed: of methods that draw random numbers, and of the random maps, which differ from case to case.
        timed: make each map `TIMING_ROUNDS` times, in turn with a plain forward of the same image, and store medians;
            every method runs once before on the first image.
        on_progress: called with the number of finished results and of all results.
    """
    total, done, warm = len(cases) * len(specs), 0, False
    results: list[CaseResult] = []
    for case in cases:
        missing = [spec for spec in specs if run_log.get(spec.label, case.name) is None]
        if missing:
            try:
                image, mask = case.load()
            except ImageError as error:
                for spec in missing:
                    run_log.add(CaseResult(spec.label, case.name, case.group, error=error.message))
                missing = []
        if missing:
            picture = Picture(np.array(image), case.name, "benchmark")
            if timed and not warm:
                warm = True
                for spec in missing:
                    _try_explain(scope, spec, picture, case, size, seed)
            for row in _rows(scope, missing, picture, mask, case, size, seed, timed):
                run_log.add(row)
                done += 1
                on_progress(done, total)
        done += len(specs) - len(missing)
        on_progress(done, total)
        results += [result for spec in specs if (result := run_log.get(spec.label, case.name)) is not None]
    return results


def explain_case(
    scope: Explainer, spec: MethodSpec, picture: Picture, case: Case, size: int | None = None, seed: int = 0
) -> Explanation:
    """Return one method's map of one case.

    `random` draws uniform random numbers, seeded by the seed and the case's name. `centre prior` is a Gaussian in the
    middle of the input; its standard deviation is a quarter of each side. Both depend on the patch grid only.
    """
    if spec.method not in PRIORS:
        options = {"method": spec.method, "size": size, "target": case.target, "seed": seed, **spec.options}
        found: Explanation = scope.explain(picture, method_options=dict(spec.method_options), **options)
        return found
    pixels, region = scope.engine.prepare_pixels(picture, size)
    layout = scope.adapter.layout((pixels.shape[1], pixels.shape[2]))
    if spec.method == RANDOM:
        values = np.random.default_rng([seed, zlib.crc32(case.name.encode())]).random(layout.grid)
    else:
        values = centre_prior(layout.grid)
    prefix = np.zeros(len(layout.prefix), np.float32)
    return Explanation(values.astype(np.float32), prefix, spec.method, layout, region.covered(layout), picture=picture)


def _rows(
    scope: Explainer,
    missing: Sequence[MethodSpec],
    picture: Picture,
    mask: np.ndarray,
    case: Case,
    size: int | None,
    seed: int,
    timed: bool,
) -> list[CaseResult]:
    """Return the results of one case; timed methods take turns with a forward."""
    group = case.group or size_class(mask)
    durations: dict[str, list[float]] = {spec.label: [] for spec in missing}
    ratios: dict[str, list[float]] = {spec.label: [] for spec in missing}
    outcomes: dict[str, Explanation | VitscopeError] = {}
    for _ in range(TIMING_ROUNDS if timed else 1):
        forward = _forward(scope, picture, size) if timed else 0.0
        for spec in missing:
            start = time.perf_counter()
            outcomes[spec.label] = _try_explain(scope, spec, picture, case, size, seed)
            durations[spec.label].append(time.perf_counter() - start)
            ratios[spec.label].append(durations[spec.label][-1] / forward if forward else 0.0)
    rows = []
    for spec in missing:
        outcome = outcomes[spec.label]
        seconds = statistics.median(durations[spec.label])
        row = CaseResult(spec.label, case.name, group, seconds=seconds)
        if timed:
            row = replace(row, forward=seconds / statistics.median(ratios[spec.label]))
        if isinstance(outcome, VitscopeError):
            rows.append(replace(row, error=outcome.message))
            continue
        try:
            rows.append(replace(row, numbers=dict(case.judge(outcome, mask)), resolved=_resolved(outcome)))
        except UsageError as error:
            rows.append(replace(row, error=error.message, resolved=_resolved(outcome)))
    return rows


def _try_explain(
    scope: Explainer, spec: MethodSpec, picture: Picture, case: Case, size: int | None, seed: int
) -> Explanation | VitscopeError:
    """Return the map or its error: a bad image or map does not stop a benchmark."""
    try:
        return explain_case(scope, spec, picture, case, size, seed)
    except (ImageError, MethodError) as error:
        return error


def _forward(scope: Explainer, picture: Picture, size: int | None) -> float:
    """Return the seconds of preprocessing and one plain forward without recording."""
    start = time.perf_counter()
    pixels, _ = scope.engine.prepare_pixels(picture, size)
    scope.engine.answer(pixels[None]).cpu()  # waits for the device
    return time.perf_counter() - start


def _resolved(explanation: Explanation) -> str:
    """Return the method that ran, with its options."""
    options = explanation.provenance.get("options", {})
    return " ".join([explanation.method, *(f"{k}={v}" for k, v in options.items() if v is not None)])
