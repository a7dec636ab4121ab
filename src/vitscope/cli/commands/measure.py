"""`vitscope measure`: how far the map of each image can be believed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitscope._files import already_there, path_exists
from vitscope._version import __version__
from vitscope.cli import console, report_text
from vitscope.cli.commands import _checks as checks
from vitscope.cli.commands import _options as opt
from vitscope.cli.commands import _results as results
from vitscope.cli.commands._masks import MaskFolder
from vitscope.cli.tables import TableFormat, print_table_as
from vitscope.engine.ranges import MOST
from vitscope.errors import ImageError, MissingDependencyError, UsageError, VitscopeError

if TYPE_CHECKING:
    from vitscope.explanation import Explanation
    from vitscope.metrics.attention_statistics import Statistics
    from vitscope.metrics.ground_truth import MaskComparison
    from vitscope.metrics.measurement import Measurement, Number
    from vitscope.scope import Scope

_FILES = ("measure.json", "measure.parquet", "curves.png", "statistics.json", "by-depth.png", "localisation.json")
_WORTH_SAYING = 0.0005  # else it reads 0.0%


@dataclass(frozen=True, eq=False)
class _Request:
    """The keywords of `Scope.explain` and `Scope.measure`, the target and the masks."""

    explain: dict[str, Any]
    measure: dict[str, Any]
    target: Any
    masks: MaskFolder | None


@dataclass(frozen=True, eq=False)
class _Result:
    """One measured image."""

    explanation: "Explanation"
    attention: "Statistics"
    measurement: "Measurement"
    localisation: "MaskComparison | None" = None
    files: list[Path] = field(default_factory=list)


def measure(
    images: opt.Images,
    options: opt.MethodOptions,
    model: opt.ModelChoice,
    method: opt.Method = "auto",
    target: opt.Target = None,
    metrics: Annotated[
        str,
        typer.Option(
            metavar="default|all|NAMES",
            callback=checks.check_metrics,
            help="Names with commas; all adds weaker ones, and stability and sanity, which make the map again.",
        ),
    ] = "default",
    baseline: opt.Baseline = "auto",
    score: Annotated[str, checks.one_of("probability|logit", "Score of a class.")] = "probability",
    n_random_maps: Annotated[
        int,
        typer.Option(
            metavar="COUNT", min=2, max=MOST, help="Most random maps to compare with; fewer where they settle it."
        ),
    ] = 19,
    seconds: opt.Seconds = None,
    steps: Annotated[
        int, typer.Option(metavar="COUNT", min=1, max=10_000, help="Steps of the deletion and insertion curves.")
    ] = 10,
    seed: opt.Seed = 0,
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Object masks named like the images: also measure how well the map finds the object."
        ),
    ] = None,
    size: opt.Size = None,
    batch_size: opt.BatchSize = 8,
    out: opt.OptionalOut = None,
    force: opt.Force = False,
    format_: TableFormat = "text",
    as_json: opt.AsJson = False,
) -> int:
    """Measure how far the map of each image can be believed: numbers beside those of random maps, and a verdict.

    The model runs 205 to 222 times by default, with patches left out or replaced; --size 224 takes a fifth of the time.
    """
    options.check(method)
    objects = MaskFolder(masks) if masks else None
    folders = results.result_folders(images, out) if out else [None] * len(images)
    problems = [_problem(image, folder, force) for image, folder in zip(images, folders, strict=True)]
    common = {"seed": seed, "batch_size": batch_size}
    request = _Request(
        {"method": method, "size": size, **common, **options.keywords()},
        {
            "metrics": checks.split_names(metrics),
            "baseline": baseline,
            "score": score,
            "n_random_maps": n_random_maps,
            "seconds": seconds,
            "steps": steps,
            **common,
        },
        None if all(problems) else opt.parse_target(target),
        objects,
    )
    scope = None if all(problems) else model.load()
    documents: dict[str, Any] = {"results": [], "failures": []}
    measured: list[list[Number]] = []
    with console.image_progress(len(images), "measuring") as progress:
        for image, folder, problem in zip(images, folders, problems, strict=True):
            try:
                if problem:
                    raise problem
                assert scope is not None
                result = _measured(scope, image, request, progress.update_forwards)
                if folder is not None:
                    _write(result, folder, force)
            except UsageError:
                raise
            except VitscopeError as error:
                console.print_error(error, image)
                documents["failures"].append(console.failure_document(image, error))
            else:
                measured.append(_numbers(result))
                if as_json or format_ != "text":
                    documents["results"].append(_document(result))
                else:
                    with progress.paused():
                        _print(result, first=len(measured) == 1)
            progress.advance()
    if as_json:
        console.print_json({"vitscope": __version__, **documents, "summary": _counts(measured)})
    elif format_ != "text":
        names_of = ("name", "value", "random", "low", "high", "verdict")
        rows = [
            [e["name"], e["method"], *(number[name] for name in names_of)]
            for e in documents["results"]
            for number in e["measurement"]["numbers"] + (e["localisation"] or {"numbers": []})["numbers"]
        ]
        print_table_as(format_, ["image", "method", "measure", *names_of[1:]], rows)
    elif len(measured) > 1:
        console.out.print()
        report_text.print_text(_summary(measured))
    return 1 if documents["failures"] else 0


def _problem(image: str, folder: Path | None, force: bool) -> VitscopeError | None:
    """Return what keeps an image from being measured, as far as it shows before the model is loaded."""
    taken = [folder / name for name in _FILES if folder is not None and not force and path_exists(folder / name)]
    return results.unusable(image) or (already_there(taken[0]) if taken else None)


def _measured(scope: "Scope", image: str, request: _Request, progress: Any) -> _Result:
    """Return the map of one image, its attention statistics and its measurement."""
    from vitscope.methods.base import METHODS
    from vitscope.metrics.ground_truth import compare_with_mask

    picture = scope.adapter.load(image)
    mask = request.masks.read(image, picture.size) if request.masks else None
    name = request.explain["method"]
    if name == "auto":
        name = scope.recommend(target=request.target, **request.explain).method
    target = request.target if "target" in METHODS.get(name).requires else None  # else only the score is of it
    e = scope.explain(picture, target=target, progress=progress, **request.explain)
    measurement = scope.measure(e, target=request.target, progress=progress, **request.measure)
    localisation = None
    if mask is not None:
        try:
            localisation = compare_with_mask(e, mask, request.measure["seed"])
        except UsageError as error:  # the object is outside of what the model saw
            raise ImageError(error.message, error.hint) from None
    return _Result(e, scope.statistics(picture, size=request.explain["size"]), measurement, localisation)


def _numbers(result: _Result) -> "list[Number]":
    return [*result.measurement.numbers, *(result.localisation.numbers if result.localisation else ())]


def _write(result: _Result, folder: Path, force: bool) -> None:
    """Write numbers and plots; other files in the folder stay as they are."""
    from vitscope.metrics.table_files import write_table

    try:
        result.files.append(result.measurement.save(folder / "measure.json", force=force))
        result.files.append(result.measurement.save(folder / "measure.parquet", force=force))
    except MissingDependencyError as error:
        console.print_error(error, str(folder / "measure.parquet"))
    result.files.append(result.attention.save(folder / "statistics.json", force=force))
    if result.localisation is not None:
        path = folder / "localisation.json"
        result.files.append(write_table(path, result.localisation.to_dict(), (), force=force))
    plots = {"by-depth.png": result.attention.plot}
    if {number.name for number in result.measurement.numbers} & {"deletion", "insertion"}:
        plots["curves.png"] = result.measurement.plot
    for name, plot in plots.items():
        results.write_sheet(plot(), folder / name)
        result.files.append(folder / name)


def _print(result: _Result, first: bool) -> None:
    """Print everything about one image: with the default metrics some 25 lines of 80 characters."""
    from vitscope.metrics.concentration import concentration

    e, m, numbers = result.explanation, result.measurement, concentration(result.explanation)
    rows, columns = e.layout.grid
    if not first:
        console.out.print()
    size = " x ".join(map(str, reversed(e.region.input)))
    what = opt.describe_map(e.method, e.target, e.provenance["options"])
    assert e.picture is not None
    report_text.print_heading(f"{e.picture.name}: {what}, {size} pixels, {m.model}")
    spread = f"spread like {numbers['effective_patches']:.0f} of {rows * columns} patches"
    prefix = f", prefix tokens {numbers['prefix_share']:.1%}" if numbers["prefix_share"] >= _WORTH_SAYING else ""
    report_text.print_field("map", f"{spread}; the largest has {numbers['largest_share']:.1%} of the total{prefix}")
    report_text.print_attention(result.attention)
    empty = "" if m.empty is None else f"; all patches replaced ({m.baseline}): {report_text.format_number(m.empty)}"
    report_text.print_field("score", f"{m.score}: {report_text.format_number(m.whole)}{empty}")
    draws = sorted({n.draws for n in m.numbers if n.group == "faithfulness"})
    if draws:
        counts = " to ".join(map(str, dict.fromkeys((draws[0], draws[-1]))))
        report_text.print_field(
            "random", f"{counts} maps with the same values in other places (seed {m.options['seed']})"
        )
    report_text.print_measurement(m)
    if result.localisation is not None:
        report_text.print_localisation(result.localisation)
    for note in [e.caveat, *e.remarks, *m.notes]:
        if note:
            report_text.print_field("note", console.in_flags(note))
    if result.files:
        report_text.print_files(result.files)


def _document(result: _Result) -> dict[str, Any]:
    from vitscope.metrics.concentration import concentration

    e = result.explanation
    return {
        **e.manifest(),
        "statistics": concentration(e),
        "attention": report_text.attention_document(result.attention),
        "measurement": result.measurement.to_dict(),
        "localisation": result.localisation.to_dict() if result.localisation else None,
        "files": [str(path) for path in result.files],
    }


def _counts(measured: "list[list[Number]]") -> dict[str, Any]:
    """Count, for each number, the images with each verdict."""
    counts: dict[str, dict[str, int]] = {}
    for number in (n for numbers in measured for n in numbers):
        of = counts.setdefault(number.name, {})
        of[number.verdict] = of.get(number.verdict, 0) + 1
    return {"images": len(measured), "verdicts": counts}


def _summary(measured: "list[list[Number]]") -> str:
    """Return how many images are better than random, by each number."""
    from vitscope.metrics.measurement import LEVEL

    images, counts = len(measured), _counts(measured)["verdicts"]
    compared = {n.name for numbers in measured for n in numbers if n.group != "sanity"}
    parts = []
    for verdict in ("better than random", "worse than random", "undecided"):
        listed = [f"{name} {c[verdict]}" for name, c in counts.items() if verdict in c and name in compared]
        parts += [f"{verdict}: {', '.join(listed)}"] if listed else []
    found = "; ".join(parts) or "no number tells a map from random maps"
    chance = f"{LEVEL * images:.2g}"
    return f"Of {images} images {found}. By chance each number would be better for {chance} of {images} at most."
