"""`vitscope statistics`: the attention of images in numbers, layer by layer."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitscope._version import __version__
from vitscope.cli import console, report_text
from vitscope.cli.commands import _checks as checks
from vitscope.cli.commands import _options as opt
from vitscope.cli.commands import _results as results
from vitscope.cli.tables import TableFormat, print_table_as
from vitscope.errors import MissingDependencyError, UsageError, VitscopeError

if TYPE_CHECKING:
    from vitscope.metrics.attention_statistics import LayerStatistics, Statistics

_FILES = ("statistics.json", "statistics.parquet", "by-depth.png")


def statistics(
    images: opt.Images,
    model: opt.ModelChoice,
    importance: Annotated[
        bool, typer.Option("--importance", help="Also measure what silencing each head costs: one forward a head.")
    ] = False,
    target: opt.Target = None,
    size: opt.Size = None,
    batch_size: Annotated[
        int, typer.Option(metavar="COUNT", callback=checks.in_range, help="Heads silenced in one forward pass.")
    ] = 8,
    out: opt.OptionalOut = None,
    force: opt.Force = False,
    format_: TableFormat = "text",
    as_json: opt.AsJson = False,
) -> int:
    """Print attention statistics by layer: entropy, distance, shares, agreement of heads, rank and sinks.

    Of several images, or of a folder, it prints the means over the images; --format has a row for each image, layer and
    head. --target names the score that --importance measures.
    """
    goal = opt.parse_target(target)
    folders = results.result_folders(images, out) if out else [None] * len(images)
    problems = [_problem(image, folder, model, force) for image, folder in zip(images, folders, strict=True)]
    if len(images) == 1 and problems[0]:
        raise problems[0]
    scope = None if all(problems) else model.load()
    found: list[Statistics] = []
    named: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    keywords = {"size": size, "importance": importance, "target": goal, "batch_size": batch_size}
    with console.image_progress(len(images)) as progress:
        for image, folder, problem in zip(images, folders, problems, strict=True):
            try:
                if problem:
                    raise problem
                assert scope is not None
                picture = scope.adapter.load(image)
                one = scope.statistics(picture, progress=progress.update_forwards, **keywords)
                files = _write(one, folder, force) if folder is not None else []
            except VitscopeError as error:
                if len(images) == 1 or isinstance(error, UsageError):
                    raise
                console.print_error(error, image)
                failures.append(console.failure_document(image, error))
            else:
                found.append(one)
                named.append({"name": picture.name, "files": [str(path) for path in files]})
            progress.advance()
    if as_json:
        documents = [{**about, **one.to_dict()} for about, one in zip(named, found, strict=True)]
        several = {"results": documents, "failures": failures}
        console.print_json({"vitscope": __version__, **(several if len(images) > 1 else documents[0])})
    elif format_ != "text":
        _print_rows(format_, found, named)
    elif found:
        assert scope is not None
        _print(found, [about["name"] for about in named], scope.adapter.reference, importance)
        if files := [Path(path) for about in named for path in about["files"]]:
            report_text.print_files(files)
    return 1 if failures else 0


def _problem(image: str, folder: Path | None, model: opt.ModelChoice, force: bool) -> VitscopeError | None:
    """Return what is wrong with an image, or with where its results go, before the model is loaded."""
    try:
        model.check_image(image)
        for name in _FILES if folder is not None else ():
            assert folder is not None
            results.require_free(folder / name, force)
    except UsageError:
        raise
    except VitscopeError as error:
        return error
    return None


def _write(found: "Statistics", folder: Path, force: bool) -> list[Path]:
    files = [found.save(folder / "statistics.json", force=force)]
    try:
        files.append(found.save(folder / "statistics.parquet", force=force))
    except MissingDependencyError as error:
        console.print_error(error, str(folder / "statistics.parquet"))
    results.write_sheet(found.plot(), folder / "by-depth.png")
    return [*files, folder / "by-depth.png"]


def _print_rows(form: str, found: "list[Statistics]", named: list[dict[str, Any]]) -> None:
    rows = [{"image": about["name"], **row} for about, one in zip(named, found, strict=True) for row in one.rows()]
    print_table_as(form, list(rows[0]) if rows else ["image"], [list(row.values()) for row in rows])


def _print(found: "list[Statistics]", names: list[str], reference: str, importance: bool) -> None:
    """Print one image's numbers, or the means over several."""
    first = found[0]
    sizes = {one.region.input for one in found}
    pixels = " x ".join(map(str, first.region.input[::-1]))
    form = f"{first.layout}, input {pixels}" if len(sizes) == 1 else f"inputs of {len(sizes)} sizes"
    what = names[0] if len(found) == 1 else f"means over {len(found)} images"
    report_text.print_heading(f"{what}: {reference}, {form}")
    console.out.print()
    _print_table(found)
    console.out.print()
    if len(found) == 1:
        report_text.print_attention(first)
    for reason, unknown in _unavailable(first, importance).items():
        report_text.print_field("not given", f"{', '.join(unknown)}: {console.in_flags(reason)}")
    if first.target:
        score = report_text.format_number(first.score or 0.0)
        of = f"'{first.target}' ({score})" if len(found) == 1 else "the target"
        what = f"drop in the score of {of} when a head is silenced: smallest .. largest head"
        report_text.print_field("importance", what)


def _print_table(found: "list[Statistics]") -> None:
    """Print a row for each layer, means over heads and images; a dash is unknown.

    A column without known numbers is left out.
    """
    depth = min(len(one.layers) for one in found)
    layers = [[one.layers[number] for one in found] for number in range(depth)]
    several = len(found) > 1
    columns: dict[str, list[str]] = {
        "layer": [str(number) for number in range(depth)],
        "entr.": [_mean([layer.entropy_normalised for layer in row], ".2f") for row in layers],
        "dist.": [_mean([layer.distance for layer in row], ".0f") for row in layers],
        "CLS": [_share(row, "cls") for row in layers],
        "reg.": [_share(row, "registers") for row in layers],
        "self": [_share(row, "self") for row in layers],
        "agree": [_mean([layer.agreement for layer in row], ".2f") for row in layers],
        "rank": [_mean([layer.effective_rank for layer in row], ".0f") for row in layers],
        "sinks": [_mean([len(layer.sinks) for layer in row], ".1f" if several else ".0f") for row in layers],
        "importance": [_range([layer.importance for layer in row]) for row in layers],
    }
    first = found[0]
    present = {"CLS": "cls" in first.layout.prefix, "reg.": any("register" in name for name in first.layout.prefix)}
    present["sinks"] = "sinks" not in first.unavailable
    shown = {n: cells for n, cells in columns.items() if present.get(n, True) and any(cell != "-" for cell in cells)}
    report_text.print_columns(list(shown), list(zip(*shown.values(), strict=True)), left=())


def _mean(values: "list[Any]", form: str) -> str:
    import numpy as np

    known = [float(np.mean(value)) for value in values if value is not None]
    return format(float(np.mean(known)), form) if known else "-"


def _share(layers: "list[LayerStatistics]", name: str) -> str:
    return _mean([layer.shares.get(name) for layer in layers], ".1%")


def _range(values: "list[Any]") -> str:
    known = [float(value) for one in values if one is not None for value in one]
    if not known:
        return "-"
    return f"{report_text.format_number(min(known))} .. {report_text.format_number(max(known))}"


def _unavailable(found: "Statistics", importance: bool) -> dict[str, list[str]]:
    """Return the numbers that are not known, by the reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in found.unavailable.items():
        if name != "importance" or importance:
            by_reason.setdefault(reason, []).append(name.replace("_", " "))
    return by_reason
