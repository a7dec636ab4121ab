"""`vitscope report`: what a batch found, on one page."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vitscope._files import atomic_write
from vitscope.cli import console
from vitscope.cli.commands._options import AsJson, Force, done, picture_path
from vitscope.errors import MissingDependencyError, ResultError

__all__ = ["report"]


def report(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="The folder that `vitscope batch` wrote.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page; report.html in OUT, or with --view view.html.")
    ] = None,
    view: Annotated[
        str | None, typer.Option(help="Instead: the interactive page of one photo, by its id's beginning or its name.")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """One page about a batch: counts, failures, distributions, the most and least concentrated maps, sinks by place."""
    try:
        from vitscope.batch.report import overview
        from vitscope.batch.report_page import render_report
    except ImportError:
        raise MissingDependencyError("report needs pyarrow, which", "batch") from None
    if view:
        _view(folder, view, out or folder / "view.html", force, as_json)
        return
    place = picture_path(out or folder / "report.html", force)
    seen = overview(folder)
    _write(place, render_report(seen, folder.resolve().name))
    numbers = {"images": seen.images, "failed": seen.failed, "rows": seen.rows}
    numbers["maps"] = sum(values["largest_share"].size for values in seen.numbers.values())
    done(place, as_json, numbers)


def _write(place: Path, text: str) -> None:
    with atomic_write(place) as part:
        part.write_text(text, "utf-8", errors="backslashreplace")


def _view(folder: Path, name: str, place: Path, force: bool, as_json: bool) -> None:
    """The viewer on one row: its photo, explained again by the same model with the same method and target."""
    import json

    from vitscope.batch.results import find_row, photo_from_row
    from vitscope.cli.commands._options import load, target_of
    from vitscope.viewer.page import page

    picture_path(place, force)
    row = find_row(folder, name)
    if row["map"] is None:
        raise ResultError(f"{row['source']} was not explained: {row['error']}")
    told = json.loads(row["provenance"])
    photo = photo_from_row(folder, row)
    kind, _, commit = str(told["weights"]).partition(":")
    scope = load(told["model"], commit if kind == "revision" else None, dtype=told["dtype"])
    target = target_of(row["requested_target"]) if row["requested_target"] else None
    view = scope.view(photo, methods=(row["method"],), target=target, size=told["size"], seed=told["seed"])
    if said := _other_options(row["method"], told):
        console.note(f"the row was made with {said}; the page shows {row['method']} as it is without")
    _write(place, page(view.document()))
    done(place, as_json, {"id": row["id"], "source": row["source"]})


def _other_options(method: str, told: dict[str, Any]) -> str:
    """What a row's map was made with that the viewer, which draws each method as it usually is, leaves out."""
    import json

    from vitscope.methods.base import METHODS

    usual: dict[str, Any] = {**METHODS.get(method).check({}), "gradient_rule": "plain", "refine": "none"}
    usual = json.loads(json.dumps(usual, default=str))
    made = {**told["options"], "gradient_rule": told["gradient_rule"], "refine": told["refine"]}
    return ", ".join(f"{name}={value}" for name, value in made.items() if value != usual.get(name))
