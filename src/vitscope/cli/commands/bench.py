"""`vitscope bench`: methods against known answers."""

from pathlib import Path
from typing import Annotated

import typer

from vitscope._version import __version__
from vitscope.cli import console
from vitscope.cli.commands._options import DEFAULT_MODEL, AsJson, Device, Dtype, Force, Revision, load, pair

__all__ = ["bench"]


def bench(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="planted, segmentation, digits or speed.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Model reference; digits has its own.")] = None,
    methods: Annotated[
        str, typer.Option(help="Names with commas between, each with options; all: every quick one. The first leads.")
    ] = "",
    count: Annotated[int | None, typer.Option(help="Cases: 60, speed 12, segmentation all.")] = None,
    seed: Annotated[int, typer.Option(help="Of scenes and random maps.")] = 0,
    size: Annotated[int | None, typer.Option(help="Side of scenes, and input size, in pixels.")] = None,
    split: Annotated[str, typer.Option(help="Half of the objects and backgrounds: report or tune.")] = "report",
    cutouts: Annotated[Path | None, typer.Option(help="Folder of objects with transparency (planted).")] = None,
    backgrounds: Annotated[Path | None, typer.Option(help="Folder of backgrounds (planted).")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of photos, or gtsegs_ijcv.mat (segmentation).")] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder of masks of the same names (segmentation).")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where results go; out/bench-KIND.")] = None,
    force: Force = False,
    as_json: AsJson = False,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> int:
    """Methods against known answers, beside a random map and a blob in the middle; goes on where it was interrupted."""
    from vitscope.bench.benchmark import make_benchmark, run_benchmark
    from vitscope.bench.cases import KINDS
    from vitscope.bench.digits import MODEL
    from vitscope.bench.runner import method_specs
    from vitscope.errors import UnknownNameError

    if kind not in KINDS:
        raise UnknownNameError("benchmark", kind, KINDS)
    scope = load(model or (MODEL if kind == "digits" else DEFAULT_MODEL), revision, device, dtype)
    specs = method_specs(scope, methods.split(","), pair)
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
    where = out or Path("out") / f"bench-{kind}"
    with console.explaining(len(benchmark.cases) * len(specs)) as progress:
        summary = run_benchmark(
            scope, benchmark, specs, where, force=force, on_progress=progress.reached, on_note=console.note
        )
    failed = any(score.failed for score in summary.scores)
    if as_json:
        console.print_json({"vitscope": __version__, "out": str(where)} | summary.to_dict())
        return int(failed)
    console.table(summary.headings(), summary.table(intervals=False))
    groups = ", ".join(f"{number} {group}" for group, number in summary.groups.items())
    console.out.print(
        f"\n{sum(summary.groups.values())} cases ({groups}). In brackets 95 % intervals; p is corrected for the number "
        f"of methods. Knowing nothing scores {summary.info.chance}.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for words in summary.notes:
        console.out.print(words, markup=False, soft_wrap=True)
    console.out.print(f"{where / 'report.html'}", markup=False, soft_wrap=True)
    return int(failed)
