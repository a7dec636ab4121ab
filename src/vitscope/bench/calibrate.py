"""Measure which method and options tell the truth about one model, and make them its `auto`: `Scope.calibrate`.

Settings are searched by successive halving on one half of the cases; what is left is compared with the default on the
other half. It replaces the default only where it is demonstrably better, and not demonstrably less faithful.
"""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from msgspec import structs

from vitscope._documents import json_bytes
from vitscope._version import __version__
from vitscope.bench.calibration_cases import CaseSet, evidence_cases, object_cases
from vitscope.bench.cases import BenchmarkInfo, Case, Explainer
from vitscope.bench.run_log import CaseResult, RunLog, fingerprint
from vitscope.bench.runner import PRIORS, MethodSpec, run_cases
from vitscope.bench.summary import summarise
from vitscope.engine.auto import Question, choose_method, question_of
from vitscope.engine.calibrated import CalibrationOfModel
from vitscope.engine.calibration import (
    SCHEMA,
    Answer,
    Calibration,
    Outcome,
    Row,
    Setting,
    calibration_path,
    identity,
    read_calibration,
    write_calibration,
)
from vitscope.engine.options import Options
from vitscope.engine.ranges import checked
from vitscope.errors import ResultError, UnsupportedError, UsageError
from vitscope.explanation import Explanation
from vitscope.methods.base import METHODS
from vitscope.metrics.resampling import Difference, Estimate, bootstrap, paired

Progress: TypeAlias = Callable[[str, int, int], None]
_Run: TypeAlias = Callable[[Sequence[Case], Sequence[Setting], str], list[CaseResult]]
LEVEL = 0.05
RIGHT = "the right answer"  # the object's or cell's own mask: how far the model rests on it
FULL = ((4, 12, 24), 48, 12)  # cases of each rung of the search, of the report, and of faithfulness
QUICK = ((4, 12), 24, 8)
_FINALISTS = 3
_LEAST = 4  # settings that reach the next rung, at least
_LEFT_OUT = {  # of the methods of one forward and at most one backward
    *("random", "notebook-recipe"),
    "flow",  # minutes for an image
    "attnlrp",  # used on request only (docs/methods.md)
}
_VALUES: dict[str, tuple[Any, ...]] = {  # of options that are no choice among names
    "layer": (-1, -2, -4),
    "layers": ("all", "half", "last3"),
    "detail": (0.0, 0.5, 1.0),
}
_ASKING = {"query", "component"}  # options that ask something else
_RULES = ("plain", "libra")
_METRICS = {
    "score": "score",
    **{"auc": "pixel AUC", "ap": "average precision", "inside": "mass inside"},
    **{"share": "share", "pointing": "pointing", "faithful": "faithfulness"},
}


@checked(seed=(0, 2**62))
def calibrate(
    scope: Explainer,
    *,
    images: str | Path | None = None,
    quick: bool = False,
    size: int | None = None,
    seed: int = 0,
    force: bool = False,
    export: str | Path | None = None,
    progress: Progress = lambda stage, done, total: None,
    on_note: Callable[[str], None] = lambda words: None,
) -> Calibration:
    """Measure which method and options tell the truth about a model, and make them its `auto`.

    No labels are needed. A model without classes is asked where a planted object is. A classifier is asked which part
    of a grid of images is evidence for one of them: images that it names with confidence itself. The result lies in the
    cache, under the hash of the model's weights; an interrupted measurement continues where it ended.

    Args:
        scope: the model.
        images: a folder of photos for the grids; None takes bundled photos, else digits and patterns.
        quick: fewer settings, fewer cases: wider intervals.
        size: input size as in `Options`; None is the model's own preprocessing.
        seed: of everything random: the same seed gives the same numbers.
        force: measure again where the cache has the same measurement already.
        export: also write the calibration to this file, for `load(calibration=FILE)` elsewhere.
        progress: called with (stage, done, total).
        on_note: called with remarks, such as on images that are left out.

    Raises:
        UnsupportedError: a model of another medium than images, or of other channels than three.
        MissingDependencyError: the extra `bench` is not installed.
        ResultError: the cache or the file cannot be written.

    Cost: some 1200 maps and 800 forwards, 350 and 500 with `quick`: minutes on a CPU for a small model.
    """
    adapter = scope.adapter
    if adapter.result is not Explanation or (adapter.channels, adapter.bands) != (3, 3):
        raise UnsupportedError.coded(
            "bench.calibrate-medium",
            "only models of images with three channels are calibrated",
            "choose its {@method} yourself; measure says how far the maps can be believed",
        )
    options: dict[str, Any] = {
        **{"quick": quick, "seed": seed, "size": size, "images": fingerprint(images)},
        "device": str(scope.device).partition(":")[0],
        "dtype": str(scope.dtype).removeprefix("torch."),
    }
    path, found = calibration_path(adapter), None
    with suppress(ResultError):  # damaged or of another version: made anew
        found = read_calibration(path) if path.exists() and not force else None
    if found is None or (found.options, found.version) != (options, __version__):
        start, known = time.perf_counter(), {**options, **identity(adapter), "version": __version__}
        folder = path.with_name(f"{path.stem}-{hashlib.sha256(json_bytes(known)).hexdigest()[:8]}")
        run_log = RunLog(folder, known)
        question = question_of(adapter, Options())
        answer = _answer(scope, question, options | {"images": images}, run_log, progress, on_note)
        found = Calibration(
            schema=SCHEMA,
            made=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            version=__version__,
            model=adapter.reference,
            **identity(adapter),
            options=options,
            seconds=time.perf_counter() - start,
            answers={question: answer},
        )
        write_calibration(found, path)
        shutil.rmtree(folder, ignore_errors=True)
    if export is not None:
        write_calibration(found, Path(export).expanduser())
    scope.engine.calibration = CalibrationOfModel(adapter, found)
    return found


def table(answer: Answer) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of an answer's table, the best score first."""
    shown = [name for name in _METRICS if any(name in row.numbers for row in answer.rows)]
    rows = sorted(answer.rows, key=lambda row: -row.numbers["score"].value if "score" in row.numbers else 1.0)
    cells = [
        [row.label, *(_cell(row.numbers.get(name)) for name in shown), _cell(row.difference), _cell(row.faithfulness)]
        for row in rows
    ]
    return ["method", *(_METRICS[name] for name in shown), "score - default's", "faithfulness - default's"], cells


def _cell(number: Estimate | Difference | None) -> str:
    """Return a number with its interval; a difference with its sign."""
    if number is None:
        return ""
    sign = "+" if isinstance(number, Difference) else ""
    value, low, high = (f"{x:{sign}.3f}".replace("0.", ".", 1) for x in (number.value, number.low, number.high))
    return f"{value} [{low} {high}]"


def _answer(
    scope: Explainer,
    question: Question,
    options: dict[str, Any],
    run_log: RunLog,
    progress: Progress,
    on_note: Callable[[str], None],
) -> Answer:
    """Search on one half of a question's cases, and compare on the other."""
    quick, size, seed = options["quick"], options["size"], options["seed"]
    rungs, report, faithful = QUICK if quick else FULL
    if question == "objects":
        cases = object_cases(scope, rungs[-1], report, seed, faithful)
    else:
        cases = evidence_cases(scope, rungs[-1], report, seed, faithful, options["images"], on_note)
    if cases.problem is not None:
        return Answer(cases.problem, cases.kind, cases.images)
    adapter = scope.adapter
    choice = choose_method(adapter, Options(), lambda method: scope.engine.supports(method.name))
    default = Setting(choice.method, dict(choice.method_options), choice.gradient_rule, choice.refine)

    def run(some: Sequence[Case], pool: Sequence[Setting], stage: str, *others: MethodSpec) -> list[CaseResult]:
        specs = [*map(_spec, pool), *others]
        tick = lambda done, total: progress(stage, done, total)  # noqa: E731
        return run_cases(scope, some, specs, run_log, size=size, seed=seed, on_progress=tick)

    def more(best: Setting) -> Iterator[Setting]:
        yield from _neighbours(best, adapter.depth)
        if best.refine == "none" and scope.engine.supports("hidden-states"):
            yield structs.replace(best, refine="affinity")

    ranked, searched = _search(_candidates(scope, question, default, quick), cases, rungs, run, more)
    finalists = [setting for setting in ranked if str(setting) != str(default)][:_FINALISTS]
    priors = [MethodSpec(name, name) for name in PRIORS]
    results = run(cases.report, [default, *finalists], "report", *priors)
    asked = Answer("failed", cases.kind, cases.images, searched, len(cases.tune), len(cases.report))
    if not any(row.method == str(default) and not row.error for row in results):
        return asked
    rows = _rows(results, str(default), seed)
    outcome, chosen = _decide(rows, default, finalists)
    return structs.replace(asked, outcome=outcome, default=default, choice=chosen, rows=list(rows.values()))


def _decide(rows: Mapping[str, Row], default: Setting, finalists: Sequence[Setting]) -> tuple[Outcome, Setting]:
    """Return the first finalist that is better than the default by more than chance and no less faithful.

    The order is that of the search: of several that are better, the report does not choose. One without numbers on some
    of the default's cases is not taken.
    """
    count = rows[str(default)].numbers["score"].count
    better = [
        setting
        for setting in finalists
        if (row := rows[str(setting)]).difference is not None
        and row.difference.low > 0
        and (row.p or 0.0) < LEVEL
        and row.numbers["score"].count == count
    ]
    faithful = [s for s in better if (less := rows[str(s)].faithfulness) is None or less.high >= 0]
    return ("better", faithful[0]) if faithful else ("unfaithful" if better else "kept", default)


def _rows(results: Sequence[CaseResult], default: str, seed: int) -> dict[str, Row]:
    """Return the row of each method over the cases for which the default has numbers."""
    failed = {row.case for row in results if row.error and row.method == default}
    kept = [row for row in results if row.case not in failed]
    summary = summarise("calibrate", BenchmarkInfo("", _METRICS, "score"), kept, {}, seed=seed)
    faith = {(row.method, row.case): row.numbers["faithful"] for row in kept if "faithful" in row.numbers}
    rows = {}
    for score in summary.scores:
        shared = [case for method, case in faith if method == score.method and (default, case) in faith]
        ours, theirs = (np.array([faith[name, case] for case in shared]) for name in (score.method, default))
        compared = paired(ours, theirs, seed=seed) if shared and score.method != default else None
        rows[score.method] = Row(score.method, dict(score.numbers), score.difference, score.p, compared)
    if right := {row.case: row.numbers["right"] for row in kept if "right" in row.numbers}:
        rows[RIGHT] = Row(RIGHT, {"faithful": bootstrap(np.array(list(right.values())), seed=seed)})
    return rows


# --- the search ------------------------------------------------------------------------------------------------------


def _spec(setting: Setting) -> MethodSpec:
    call = {"gradient_rule": setting.gradient_rule, "refine": setting.refine}
    return MethodSpec(str(setting), setting.method, call, setting.method_options)


def _candidates(scope: Explainer, question: Question, default: Setting, quick: bool) -> list[Setting]:
    """Return the default, each method that applies, and with one option changed; of `quick`, without the last."""
    found = [default]
    for support in scope.methods():
        method = METHODS.get(support.name)
        blind = question == "evidence" and "target" not in method.requires
        if not support or not method.quick or blind or method.name in _LEFT_OUT:
            continue
        plain = Setting(method.name)
        found += [plain] if quick else [plain, *_neighbours(plain, scope.engine.adapter.depth)]
    return list({str(setting): setting for setting in found}.values())


def _neighbours(setting: Setting, depth: int) -> Iterator[Setting]:
    """Yield a setting with one option changed, each to each of its other values."""
    method = METHODS.get(setting.method)
    for name, option in method.options.items():
        values = () if name in _ASKING else option.choices or _VALUES.get(name, ())
        for value in values:
            own = {key: given for key, given in setting.method_options.items() if key != name}
            if value != option.default and not (value == "all" and option.default is None):
                own[name] = f"last{depth // 2}" if value == "half" else value
            yield structs.replace(setting, method_options=own)
    if "gradient" in method.requires and not method.gradient_rule:
        yield from (structs.replace(setting, gradient_rule=rule) for rule in _RULES)


def _search(
    pool: list[Setting],
    cases: CaseSet,
    rungs: Sequence[int],
    run: _Run,
    more: Callable[[Setting], Iterator[Setting]],
) -> tuple[list[Setting], int]:
    """Return settings, the best first, by successive halving; and how many were tried.

    Of each rung a quarter goes on to the next, which asks more; the best one's neighbours join it.
    """
    tried = {str(setting) for setting in pool}
    for number, count in enumerate(rungs, 1):
        stage = f"search {number} of {len(rungs)}"
        pool = [setting for setting in pool if _fits(run, cases.tune[:1], setting, stage)]
        results = run(cases.tune[:count], pool, stage)
        failed = {row.method for row in results if row.error}
        means = {
            str(setting): np.mean([row.numbers["score"] for row in results if row.method == str(setting)])
            for setting in pool
            if str(setting) not in failed
        }
        pool = sorted((s for s in pool if str(s) in means), key=lambda setting: -round(means[str(setting)], 6))
        if number < len(rungs) and pool:
            fresh = {str(setting): setting for setting in more(pool[0]) if str(setting) not in tried}
            tried |= set(fresh)
            pool = [*pool[: max(_LEAST, len(pool) // 4)], *fresh.values()]
    return pool, len(tried)


def _fits(run: _Run, cases: Sequence[Case], setting: Setting, stage: str) -> bool:
    """Return whether a setting fits the model; of some options only a map shows it."""
    try:
        run(cases, [setting], stage)
    except UsageError:
        return False
    return True
