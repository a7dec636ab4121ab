"""`vitscope compare`: several methods' maps of one image or of several on one sheet, with numbers below each."""

import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitscope._messages import msg
from vitscope.cli import console
from vitscope.cli.commands import _checks as checks
from vitscope.cli.commands import _options as opt
from vitscope.cli.commands import _results as results
from vitscope.cli.commands._two_models import TwoModels
from vitscope.cli.commands.sheets import SheetOut
from vitscope.cli.tables import TableFormat, print_table_as
from vitscope.errors import MethodError, UsageError
from vitscope.metrics.verdict_text import MARKS

if TYPE_CHECKING:
    from vitscope.explanation import Explanation
    from vitscope.images import Picture
    from vitscope.metrics.measurement import Measurement, Number
    from vitscope.render.raster import StyleOptions
    from vitscope.render.sheets import Cell
    from vitscope.scope import Scope

DEFAULT_METHODS = ("auto", "attention", "rollout", "gradcam", "relevance", "random")  # each answers another question
_NUMBERS = ("effective_patches", "largest_share", "prefix_share")
_REMARK = 40  # characters in a line below a map


def compare(
    images: opt.Images,
    drawing: opt.SheetStyle,
    model: TwoModels,
    method: opt.MethodSpecs = "",
    target: opt.Target = None,
    gradient_rule: opt.GradientRule = "plain",
    size: opt.Size = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Also deletion and infidelity, beside random maps: some 70 forwards an image."),
    ] = False,
    baseline: opt.Baseline = "auto",
    out: SheetOut = Path("out"),
    force: opt.Force = False,
    format_: TableFormat = "text",
    as_json: opt.AsJson = False,
) -> int:
    """Draw several methods' maps of images side by side, with numbers below each; of several images a row each.

    A method that does not apply has a cell with the reason; where it was named, the exit code is 1. With --model given
    twice, each image has a row for each model and one of differences, and the models' distance layer by layer.
    """
    for image in images:
        model.check_image(image)
    from vitscope.cli.commands._model_pair import ModelPair
    from vitscope.render.sheets import Cell, sheet

    name = f"{Path(images[0]).stem}-compare.png" if len(images) == 1 else "compare.png"
    path = results.sheet_path(out, name, force, *images)
    goal, style, scopes = opt.parse_target(target), drawing.style(), model.load()
    chosen = checks.split_names(method) or DEFAULT_METHODS
    options = {"target": goal, "gradient_rule": gradient_rule, "size": size}
    models = _told_apart([scope.adapter.reference for scope in scopes])
    panels = [_Panel(scope, style, options, measure, baseline) for scope in scopes]
    cells, pairs = [], []
    with console.image_progress(len(images) * len(chosen) * len(panels), "comparing") as progress:
        for image, photo in zip(images, _told_apart([Path(image).stem for image in images]), strict=True):
            picture = scopes[0].adapter.load(image)
            with progress.paused():
                results.print_notes(scopes[0], picture, size)
            for panel, called in zip(panels, models, strict=True):
                names = [photo] * (len(images) > 1) + [called] * (len(panels) > 1)
                cells.append(Cell(picture.pil(), " · ".join(names) or "image"))
                for text in chosen:
                    with _naming_model(panel.scope if len(panels) > 1 else None):
                        cells.append(panel.cell(picture, text, progress))
                    progress.advance()
            if len(panels) > 1:
                pairs.append(ModelPair(panels[0].maps, panels[1].maps, scopes[0], scopes[1], picture, size))
                cells += pairs[-1].cells(chosen, style)
    references = " and ".join(models)
    if len(images) > 1 or len(panels) > 1:
        columns: int | None = len(chosen) + 1
        title = references
    else:
        columns = min(len(cells), 4) if len(cells) <= 8 else None  # more are as square as they get
        title = f"{picture.name} · {references}"
    title += " · in brackets: the range of random maps" if measure else ""
    results.write_sheet(sheet(cells, title, columns=columns, cmap=drawing.cmap), path)
    refused = [one for panel in panels for one in panel.refused]
    told = {"methods": [one for panel in panels for one in panel.documents], "refused": refused}
    if format_ != "text" and not as_json:
        columns_of = ("model", "image", "method", "made_by", "target", "seconds", *_NUMBERS, "reason")
        rows = [[one.get(name) for name in columns_of] for one in [*told["methods"], *refused]]
        print_table_as(format_, columns_of, rows)
    else:
        results.print_result(path, as_json, told | ({"layers": [one.document() for one in pairs]} if pairs else {}))
    for one in refused if not as_json else ():
        of = f"{one['model']}: " if len(panels) > 1 else ""
        console.print_note(f"{one['image']}: {of}{one['method']}: {one['reason']}")
    for pair in pairs if not as_json else ():
        console.print_note(pair.summary())
    return 1 if refused and method else 0


def _told_apart(names: list[str]) -> list[str]:
    """Return the names, equal ones with their place, as the viewer's page has them."""
    return [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, 1)]


@contextmanager
def _naming_model(scope: "Scope | None") -> Iterator[None]:
    """Name the model of which an error is, where there are two."""
    try:
        yield
    except UsageError as error:
        if scope is None:
            raise
        words = {"model": scope.adapter.reference, "problem": error.message}
        raise UsageError(msg("cli.of-model", "{model}: {problem}", **words), error.hint) from error


@dataclass
class _Panel:
    """What makes the cells, and what is known of each."""

    scope: "Scope"
    style: "StyleOptions"
    options: dict[str, Any]
    measured: bool
    baseline: Any
    documents: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    score_cache: dict[Any, Any] = field(default_factory=dict)
    maps: dict[str, "Explanation"] = field(default_factory=dict)

    def cell(self, picture: "Picture", text: str, progress: console.ImageProgress) -> "Cell":
        """Return the map of one image by one method, or the reason why there is none."""
        from vitscope.cli.commands._model_pair import empty_cell
        from vitscope.render.sheets import Cell

        name, *options = text.split(":")
        start = time.perf_counter()
        try:
            e = self.scope.explain(
                picture,
                method=name,
                method_options=dict(map(checks.split_option, options)),
                progress=progress.update_forwards,
                **self.options,
            )
            seconds = time.perf_counter() - start
            measurement = None
            if self.measured:
                from vitscope.evaluation.evaluate import quick_options

                measurement = self.scope.measure(
                    e,
                    target=self.options["target"],
                    **quick_options(e),
                    baseline=self.baseline,
                    score_cache=self.score_cache,
                    progress=progress.update_forwards,
                )
        except MethodError as error:
            reason = ", ".join(part for part in error.spoken("cli") if part)
            self.refused.append(
                {"model": self.scope.adapter.reference, "image": picture.name, "method": text, "reason": reason}
            )
            return Cell(empty_cell(picture), text, textwrap.fill(reason, _REMARK))
        self.maps[text] = e
        self.documents.append(
            _document(e, picture.name, name, seconds, measurement) | {"model": self.scope.adapter.reference}
        )
        title = f"auto: {e.method}" if name == "auto" else text
        title += f" of {e.target}" if e.target else ""
        return Cell(e.overlay(**self.style), title, _below(e, seconds, measurement))


def _document(
    e: "Explanation", image: str, name: str, seconds: float, measurement: "Measurement | None"
) -> dict[str, Any]:
    from vitscope.metrics.concentration import concentration

    options = e.provenance["options"]
    document = {"image": image, "method": name, "made_by": e.method, "target": e.target, "options": options}
    document["input"] = list(e.region.input)
    document |= {"seconds": seconds} | concentration(e)
    return document | ({"measurement": measurement.to_dict()} if measurement else {})


def _below(e: "Explanation", seconds: float, measurement: "Measurement | None") -> str:
    """Return the lines below a map: its numbers, remarks and verdicts."""
    from vitscope.metrics.concentration import concentration

    numbers = concentration(e)
    prefix = f"prefix {numbers['prefix_share']:.0%}, " if numbers["prefix_share"] else ""
    lines = [
        f"{numbers['effective_patches']:.0f} of {e.map.size} patches, largest {numbers['largest_share']:.1%}",
        f"{prefix}{seconds:.2f} s",
        *(["not rollout"] if e.caveat else []),
        *(textwrap.fill(remark, _REMARK) for remark in e.remarks),
        *(_verdict(number) for number in (measurement.numbers if measurement else ())),
    ]
    return "\n".join(lines)


def _verdict(number: "Number") -> str:
    """Return a number, the range of random maps and the verdict, for two lines below a map."""
    verdict = f"{MARKS[number.verdict]} {number.verdict.removesuffix(' than random')}"
    best = f"{number.better} is better"
    return f"{verdict}: {number.name} {number.value:.3f}\n({number.low:.2f} to {number.high:.2f}; {best})"
