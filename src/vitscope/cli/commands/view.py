"""`vitscope view`: one self-contained interactive page."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitscope._files import atomic_write
from vitscope._messages import msg
from vitscope.cli import console
from vitscope.cli.commands import _checks as checks
from vitscope.cli.commands import _options as opt
from vitscope.cli.commands import _results as results
from vitscope.cli.commands._places import page_file
from vitscope.cli.commands._two_models import TwoModels
from vitscope.errors import UsageError

if TYPE_CHECKING:
    from vitscope.viewer.view import View

_PAUSE = 20  # times what writing the page took, before it is written again


def view(
    image: opt.SingleImage,
    model: TwoModels,
    other: Annotated[
        str | None, typer.Argument(metavar="OTHER", help="A second image, to show what makes the two similar.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME",
            callback=checks.check_plain_methods,
            help="Methods to show, with commas; by default five that fit most models.",
        ),
    ] = "",
    target: opt.Target = None,
    top: Annotated[int, typer.Option(metavar="COUNT", help="Predicted classes that get a map of their own.")] = 5,
    size: opt.Size = None,
    measure: Annotated[bool, typer.Option(help="Measure each map by deletion and infidelity.")] = True,
    max_mb: Annotated[
        float | None,
        typer.Option(
            "--max-mb",
            metavar="MB",
            help="Size limit, by default 20 for each photo; attention rows lose precision first, then layers.",
        ),
    ] = None,
    lang: Annotated[
        str | None, checks.one_of("en|zh", "Language of the page; by default the reader's.", "language")
    ] = None,
    seed: opt.Seed = 0,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", callback=page_file, help="The page, an .html file.")
    ] = Path("view.html"),
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    force: opt.Force = False,
    as_json: opt.AsJson = False,
) -> None:
    """Write one interactive page: maps, every head, what each patch attends to, and numbers. It needs no network.

    With --model given twice, both models' maps, their difference and how far apart they are in each layer.
    """
    from vitscope.viewer.page import page

    if max_mb is not None and not 0.5 <= max_mb <= 500:
        raise UsageError(
            msg("cli.max-mb-range", "--max-mb must be between 0.5 and 500, not {size}", size=format(max_mb, "g"))
        )
    path = results.require_free(out, force)
    for one in (image, other):
        if one is not None:
            model.check_image(one)
    options: dict[str, Any] = {"target": opt.parse_target(target), "top": top, "size": size, "seed": seed}
    if method:
        options["methods"] = checks.split_names(method)
    scope, *beside = model.load()
    due = 0.0

    def write(made: "View") -> None:
        with atomic_write(path) as part:
            part.write_text(page(made.document(), lang), "ascii")

    def show(made: "View") -> None:
        nonlocal due
        begun = time.monotonic()
        if begun < due:
            return
        write(made)
        if not due:
            console.print_note(f"{path} can be opened; what is still being made will be added to it")
        due = time.monotonic() + _PAUSE * (time.monotonic() - begun)

    with console.image_progress(1) as progress:
        made = scope.view(
            image,
            other=other,
            beside=beside[0] if beside else None,
            measure=measure,
            max_mb=max_mb,
            progress=progress.update_forwards,
            show=show,
            **options,
        )
        write(made)
    size, error = path.stat().st_size, made.header["attention"]["error"]
    summary = f"{size / 1e6:.1f} MB"
    if error:
        summary += (
            f"; of each row of attention the 20 largest weights are right to {error['head_max']:.1%}, those of the "
            f"mean over heads to {error['mean_max']:.1%}"
        )
    console.print_note(summary)
    for one in made.header["missing"]:
        console.print_note(f"not in the page: {one['what']}: {console.in_flags(one['why'])}")
    results.print_result(path, as_json, {"bytes": size, "error": error, "missing": made.header["missing"]})
    if open_:
        typer.launch(path.resolve().as_uri())
