"""`vitscope bench`: methods against known answers."""

from pathlib import Path
from typing import Annotated

import typer

from vitscope._version import __version__
from vitscope.cli import console
from vitscope.cli.commands import _checks as checks
from vitscope.cli.commands import _options as opt
from vitscope.errors import UnknownNameError
from vitscope.models.bundled.catalogue import default_model

_MODEL_OF_DIGITS = "embedded:digit-scenes"


def _check_methods(value: str) -> str:
    """Check methods and their own options; `all`, the priors and options of the call are the benchmark's."""
    for name, *options in (text.split(":") for text in checks.split_names(value)):
        if name not in ("all", "centre", "centre prior"):
            own = [one for one in options if one.partition("=")[0] not in ("gradient_rule", "refine")]
            checks.check_methods(":".join([name, *own]))
    return value


def bench(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="planted, segmentation, digits or speed.")],
    flags: opt.LoadFlags,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            callback=checks.check_model,
            help=f"{opt.MODEL_HELP} {opt.DEFAULT_HELP} digits has a model of its own.",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME[:OPTION=VALUE],...",
            callback=_check_methods,
            help="Methods and their options; all: every quick one. The others are compared with the first.",
        ),
    ] = "",
    count: Annotated[
        int | None,
        typer.Option(metavar="COUNT", min=1, help="Cases; by default 60, for speed 12, for segmentation all."),
    ] = None,
    seed: opt.Seed = 0,
    size: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS", callback=checks.in_range, help="Side of the scenes and input size of the model."
        ),
    ] = None,
    split: Annotated[str, checks.one_of("report|tune", "Which half of the objects and backgrounds to use.")] = "report",
    cutouts: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", callback=checks.check_file, help="Objects with transparency (planted)."),
    ] = None,
    backgrounds: Annotated[
        Path | None, typer.Option(metavar="FOLDER", callback=checks.check_file, help="Backgrounds (planted).")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", callback=checks.check_file, help="Images, or the file gtsegs_ijcv.mat (segmentation)."
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", callback=checks.check_file, help="Masks named like the images (segmentation)."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Folder for the results; by default out/bench-KIND."),
    ] = None,
    force: opt.Force = False,
    as_json: opt.AsJson = False,
) -> int:
    """Compare methods on images whose answer is known, beside a random map and a blob in the centre.

    An interrupted benchmark continues where it stopped.
    """
    from vitscope.bench.cases import KINDS

    if kind not in KINDS:
        raise UnknownNameError("benchmark", kind, KINDS)
    if model is None and kind != "digits":
        model = checks.check_model(default_model())
    scope = opt.load(model or _MODEL_OF_DIGITS, **flags.keywords())
    from vitscope.bench.benchmark import make_benchmark, run_benchmark
    from vitscope.bench.runner import method_specs

    specs = method_specs(scope, method.split(","), checks.split_option)
    benchmark = make_benchmark(
        scope,
        kind,
        count=count,
        seed=seed,
        size=size,
        split=split,
        cutouts=cutouts,
        backgrounds=backgrounds,
        images=images,
        masks=masks,
    )
    folder = out or Path("out") / f"bench-{kind}"
    with console.image_progress(len(benchmark.cases) * len(specs)) as progress:
        summary = run_benchmark(
            scope, benchmark, specs, folder, force=force, on_progress=progress.update, on_note=console.print_note
        )
    failed = any(score.failed for score in summary.scores)
    if as_json:
        console.print_json({"vitscope": __version__, "out": str(folder)} | summary.to_dict())
        return int(failed)
    console.print_table(summary.headings(), summary.table(intervals=False))
    groups = ", ".join(f"{number} {group}" for group, number in summary.groups.items())
    console.print_line("")
    console.print_line(
        f"{sum(summary.groups.values())} cases ({groups}). In brackets: 95 % intervals; p is corrected for the "
        f"number of methods. A map that knows nothing scores {summary.info.chance}."
    )
    for note in summary.notes:
        console.print_line(console.in_flags(note))
    console.print_line(str(folder / "report.html"))
    return int(failed)
