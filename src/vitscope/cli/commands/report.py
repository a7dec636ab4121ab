"""`vitscope report`: the results of a batch on one page."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitscope._files import atomic_write
from vitscope.cli import console
from vitscope.cli.commands import _checks as checks
from vitscope.cli.commands import _options as opt
from vitscope.cli.commands import _results as results
from vitscope.cli.commands._places import page_file
from vitscope.errors import UsageError, require_package

if TYPE_CHECKING:
    from vitscope.batch.schemas import RowMade
    from vitscope.scope import Scope


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder that `vitscope batch` wrote.")],
    flags: opt.LoadFlags,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            callback=page_file,
            help="The page; by default report.html or views/ID.html in FOLDER.",
        ),
    ] = None,
    view: Annotated[
        str | None,
        typer.Option(
            metavar="ID|NAME", help="Write the interactive page of this image instead; ID may be its first digits."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="The model that --view loads; needed unless the rows name a bundled one.",
        ),
    ] = None,
    force: opt.Force = False,
    explore: Annotated[
        bool, typer.Option(help="Write a page of up to 2,000 maps instead, to be brushed: FOLDER/explore.html.")
    ] = False,
    lang: Annotated[
        str | None, checks.one_of("en|zh", "Language of --explore's page; by default the reader's.", "language")
    ] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Write one page about a batch: counts, failures, distributions, notable maps and where sinks are."""
    require_package("pyarrow", extra="batch")
    from vitscope.batch.types import plan_file

    plan_file(folder)
    from vitscope.batch.report import overview
    from vitscope.batch.report_page import render_report

    if view:
        _view(folder, view, model, flags, out, force, as_json)
        return
    if explore:
        _explore(folder, out, lang, force, as_json)
        return
    path = results.require_free(out or folder / "report.html", force)
    found = overview(folder)
    _write(path, render_report(found, folder.resolve().name, path.resolve().parent))
    numbers = {"images": found.images, "failed": found.failed, "rows": found.rows}
    numbers["maps"] = sum(values["largest_share"].size for values in found.numbers.values())
    results.print_result(path, as_json, numbers)


def _explore(folder: Path, out: Path | None, lang: str | None, force: bool, as_json: bool) -> None:
    """Write the page on which a batch's maps are brushed."""
    from vitscope.batch.explore_page import render_explorer

    path = results.require_free(out or folder / "explore.html", force)
    with console.image_progress(1) as progress:
        text, shown, total = render_explorer(
            folder, folder.resolve().name, path.resolve().parent, lang=lang, progress=progress.update_forwards
        )
    _write(path, text)
    if shown < total:
        console.print_note(f"the page shows {shown:,} of {total:,} maps; docs/report.md says how FiftyOne shows all")
    results.print_result(path, as_json, {"shown": shown, "maps": total})


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text, "utf-8", errors="backslashreplace")


def _view(
    folder: Path, name: str, model: str | None, flags: opt.LoadFlags, out: Path | None, force: bool, as_json: bool
) -> None:
    """Write the viewer of one row: its image, explained again with the same model, method and target."""
    from vitscope.batch.report import SHORT_ID
    from vitscope.batch.results import find_row, not_explained, photo_from_row
    from vitscope.batch.schemas import row_made
    from vitscope.viewer.page import page

    row = find_row(folder, name)
    path = results.require_free(out or folder / "views" / f"{row['id'][:SHORT_ID]}.html", force)
    if row["map"] is None:
        raise not_explained(row)
    made = row_made(row)
    photo = photo_from_row(folder, row)
    scope = _load(made, model, flags)
    target = opt.parse_target(row["requested_target"])
    view = scope.view(photo, methods=(row["method"],), target=target, size=made.size, seed=made.seed)
    if options := _other_options(row["method"], made):
        console.print_note(f"the row was made with {options}; the page shows {row['method']} with its defaults")
    _write(path, page(view.document()))
    results.print_result(path, as_json, {"id": row["id"], "source": row["source"]})


def _load(made: "RowMade", model: str | None, flags: opt.LoadFlags) -> "Scope":
    """Load the model of a row: a bundled one as the row says, any other one only as the user says."""
    chosen, options = results.recorded_model(made.model, made.load, model, flags)
    kind, _, commit = made.weights.partition(":")
    if kind == "revision" and options.get("revision") is None:
        options["revision"] = commit
    scope = opt.load(chosen, **{**options, "dtype": made.dtype})
    if scope.adapter.weights != made.weights:
        raise UsageError.coded(
            "cli.view-other-weights",
            "the row was made with the weights {recorded}, {model} has {found}",
            "name the model that the batch used",
            recorded=made.weights,
            model=chosen,
            found=scope.adapter.weights,
        )
    return scope


def _other_options(method: str, made: "RowMade") -> str:
    """Return the options of a row's map that differ from the defaults, which the viewer uses."""
    from vitscope.methods.base import METHODS

    defaults: dict[str, Any] = {**METHODS.get(method).check({}), "gradient_rule": "plain", "refine": "none"}
    defaults = json.loads(json.dumps(defaults, default=str))
    options = {**made.options, "gradient_rule": made.gradient_rule, "refine": made.refine}
    return ", ".join(f"{name}={value}" for name, value in options.items() if value != defaults.get(name))
