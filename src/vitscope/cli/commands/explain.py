"""`vitscope explain`: overlay, heat map, arrays and manifest of each image."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from vitscope._version import __version__
from vitscope.cli import console
from vitscope.cli.commands import _options as opt
from vitscope.errors import VitscopeError

if TYPE_CHECKING:
    from vitscope.engine.options import Failure
    from vitscope.explanation import Activation, Explanation
    from vitscope.render.raster import StyleOptions

_DARKENING = 30  # a patch this many times the mean leaves the rest of an overlay nearly black


@dataclass(frozen=True)
class OverlayStyle(opt.SheetStyle):
    """How the overlay of an image is drawn."""

    style_name: Annotated[
        str,
        typer.Option(
            "--style",
            metavar="color|grey|notebook",
            help="Kind of overlay; notebook: that of the widely copied recipe.",
        ),
    ] = "color"
    opacity: Annotated[float, typer.Option(metavar="0..1", help="Opacity of the hottest colour over the image.")] = 0.9
    blur: Annotated[
        float, typer.Option(metavar="PIXELS", help="Standard deviation of a Gaussian blur, in pixels of the image.")
    ] = 0.0
    blocks: Annotated[bool, typer.Option("--blocks", help="Draw flat patches instead of a smooth map.")] = False
    colorbar: Annotated[bool, typer.Option("--colorbar", help="Draw the colour scale beside the image.")] = False

    def style(self) -> "StyleOptions":
        """Return the drawing options, checked."""
        options = vars(self).copy()
        return opt.checked_style(style=options.pop("style_name"), smooth=not options.pop("blocks"), **options)


def explain(
    images: opt.Images,
    options: opt.MethodOptions,
    drawing: OverlayStyle,
    model: opt.ModelChoice,
    method: opt.Method = "auto",
    target: Annotated[
        list[str] | None, typer.Option(metavar="CLASS", help=f"{opt.TARGET_HELP}; may be repeated, for a map of each.")
    ] = None,
    size: opt.Size = None,
    batch_size: opt.BatchSize = 8,
    seed: opt.Seed = 0,
    out: opt.Out = Path("out"),
    force: opt.Force = False,
    as_json: opt.AsJson = False,
) -> int:
    """Explain images: write the overlay, heat map, arrays and manifest of each to OUT/NAME/."""
    from vitscope._files import already_there, path_exists

    style = drawing.style()
    keywords = {"method": method, "size": size, "batch_size": batch_size, "seed": seed, **options.keywords()}
    targets = [opt.parse_target(text) for text in target or []]
    keywords |= {"targets": targets} if len(targets) > 1 else {"target": next(iter(targets), None)}
    scope = model.load()
    work = list(zip(images, opt.result_folders(images, out), strict=True))
    documents: list[dict[str, Any]] = []
    failures: list[tuple[str, VitscopeError]] = []
    free = [(image, folder) for image, folder in work if force or not path_exists(folder)]
    failures += [(image, already_there(folder)) for image, folder in work if (image, folder) not in free]
    with console.image_progress(len(free)) as progress:
        outcomes = scope.explain_many([image for image, _ in free], progress=progress.update_forwards, **keywords)
        for (image, folder), outcome in zip(free, outcomes, strict=True):
            try:
                for one, place in _each(outcome, folder):
                    documents.append(_save(one, place, force, style))
            except VitscopeError as error:
                failures.append((image, error))
            progress.advance()
    for image, failure in failures:
        console.print_error(failure, image)
    if as_json:
        failed = [console.failure_document(image, failure) for image, failure in failures]
        console.print_json({"vitscope": __version__, "results": documents, "failures": failed})
    elif documents:
        headings = ["image", "method", "effective patches", "largest share", "prefix share", "out"]
        console.print_table(headings, [_row(document) for document in documents])
        lines = [line for document in documents for line in _remarks(document, drawing.norm)]
        for line in dict.fromkeys(lines):  # several targets of an image have most of them in common
            console.print_line(line)
    return 1 if failures else 0


def _each(outcome: Any, folder: Path) -> list[tuple[Any, Path]]:
    """Return the results and their folders: FOLDER, or FOLDER/TARGET for each of several targets."""
    if not isinstance(outcome, list):
        return [(outcome, folder)]
    names = [re.sub(r"\W+", "-", e.target or "target").strip("-")[:60] or "target" for e in outcome]
    return [
        (e, folder / (name if names.count(name) == 1 else f"{name}-{i}"))
        for i, (e, name) in enumerate(zip(outcome, names, strict=True))
    ]


def _save(outcome: "Explanation | Failure", folder: Path, force: bool, style: "StyleOptions") -> dict[str, Any]:
    """Save one result and return its document."""
    from vitscope.engine.options import Failure
    from vitscope.metrics.concentration import concentration

    if isinstance(outcome, Failure):
        raise outcome.error
    outcome.save(folder, force=force, **style)
    return outcome.manifest() | {"out": str(folder), "statistics": concentration(outcome)}


def _row(document: dict[str, Any]) -> list[str]:
    """Return one row of the table."""
    numbers, (rows, columns) = document["statistics"], document["layout"]["grid"]
    return [
        document["name"],
        opt.describe_map(document["method"], document["target"], document["provenance"]["options"]),
        f"{numbers['effective_patches']:.0f} of {rows * columns}",
        f"{numbers['largest_share']:.1%}",
        f"{numbers['prefix_share']:.1%}",
        f"{document['out']}{os.sep}",
    ]


def _remarks(document: dict[str, Any], norm: str) -> list[str]:
    """Return the predictions, notes and caveat of one result, for below the table."""
    from vitscope.explanation import prediction_text

    activation = cast("Activation | None", document["provenance"].get("activation"))
    shown = [(p["label"], p.get("probability", p.get("value"))) for p in document["predictions"]]
    predictions = [prediction_text(label, number, activation) for label, number in shown]
    kind = "values" if activation == "value" else f"top {len(predictions)}"
    remarks = [f"{kind}: {', '.join(predictions)}"] if predictions else []
    remarks += document["provenance"]["notes"]
    if caveat := document["provenance"].get("caveat"):
        remarks.append(caveat)
    rows, columns = document["layout"]["grid"]
    times = document["statistics"]["largest_share"] * rows * columns
    if times > _DARKENING and norm != "robust" and "drawing" not in document["provenance"]:
        remarks.append(f"the hottest patch is {times:.0f} times the mean and darkens the rest: try --norm robust")
    return [f"{document['name']}: {console.in_flags(remark)}" for remark in remarks]
