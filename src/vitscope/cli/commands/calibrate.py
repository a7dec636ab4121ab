"""`vitscope calibrate`: which method tells the truth about one model."""

from pathlib import Path
from typing import Annotated

import typer

from vitscope._messages import msg
from vitscope._version import __version__
from vitscope.cli import console
from vitscope.cli.commands import _checks as checks
from vitscope.cli.commands import _options as opt
from vitscope.errors import UsageError
from vitscope.models.bundled.catalogue import DEFAULT_MODEL, MODEL_VARIABLE


def calibrate(
    flags: opt.LoadFlags,
    reference: Annotated[
        str,
        typer.Argument(metavar="MODEL", envvar=MODEL_VARIABLE, callback=checks.check_model, help=opt.MODEL_HELP),
    ] = DEFAULT_MODEL,
    images: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Photos of what a classifier knows; by default bundled ones."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer settings and cases: wider intervals.")] = False,
    size: opt.Size = None,
    seed: opt.Seed = 0,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the calibration to a file, to be shared.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Measure again what is measured already.")] = False,
    as_json: opt.AsJson = False,
) -> None:
    """Measure which method tells the truth about a model, without labels, and make it the model's auto.

    An interrupted calibration continues where it stopped.
    """
    from msgspec import to_builtins

    from vitscope.bench.calibrate import table

    if flags.calibration is not None:
        raise UsageError(
            msg("cli.calibrate-given", "--calibration names a calibration to use, and calibrate makes one"),
            msg("cli.calibrate-given.hint", "--export writes it to a file"),
        )
    if export is not None and export.is_dir():
        raise UsageError(
            msg("cli.export-folder", "--export expects a file, and {path} is a folder", path=export),
            msg("cli.export-folder.hint", "name a file in it, such as {path}/calibration.json", path=export),
        )
    scope = opt.load(reference, **flags.keywords())
    with console.image_progress(1) as bars:
        found = scope.calibrate(
            images=images,
            quick=quick,
            size=size,
            seed=seed,
            export=export,
            force=force,
            progress=bars.update_forwards,
            on_note=console.print_note,
        )
    if as_json:
        console.print_json({"vitscope": __version__, **to_builtins(found)})
        return
    for answer in found.answers.values():
        if answer.rows:
            console.print_table(*table(answer))
            console.print_line("")
            console.print_line(
                f"{answer.cases_text}; {answer.searched} settings were tried on {answer.tune} others. In brackets: "
                "95 % intervals over these cases; they say nothing about other objects or images."
            )
        console.print_line(f"auto: {answer.choice or 'as without a calibration'}: {console.in_flags(answer.reason)}")
    console.print_line(f"measured {found.made} in {found.seconds:.0f} s; --force measures again")
    if export is not None:
        console.print_line(str(export))
