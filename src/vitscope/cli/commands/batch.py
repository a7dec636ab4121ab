"""`vitscope batch`: a whole collection into a Parquet data set."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitscope._version import __version__
from vitscope.cli import console
from vitscope.cli.commands import _checks as checks
from vitscope.cli.commands import _options as opt
from vitscope.errors import UsageError

if TYPE_CHECKING:
    from vitscope.batch.run import BatchSummary
    from vitscope.batch.sources import ImageSource


def batch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder, a pattern in quotes, a list (.txt), Parquet, a WebDataset tar, a video; or URLs of these.",
        ),
    ],
    options: opt.MethodOptions,
    model: opt.ModelChoice,
    out: opt.Out,
    engine: Annotated[
        str, checks.one_of("local|ray", "Where the work is done: in this process or on a Ray cluster.")
    ] = "local",
    resume: Annotated[bool, typer.Option("--resume", help="Continue what an earlier run wrote to the folder.")] = False,
    method: opt.Methods = "auto",
    target: Annotated[
        list[str] | None, typer.Option(metavar="CLASS", help=f"{opt.TARGET_HELP}; may be repeated, for a row of each.")
    ] = None,
    size: opt.Size = None,
    seed: opt.Seed = 0,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            callback=lambda value: checks.check_metrics(value or None),
            help="Metrics of `vitscope measure`; each runs the model many times.",
        ),
    ] = None,
    overlays: Annotated[bool, typer.Option("--overlays", help="Also draw every map over its image.")] = False,
    film: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Make a video of the overlays, such as maps.mp4.")
    ] = None,
    rate: Annotated[float, typer.Option(metavar="FPS", help="Frames a second in that video.")] = 10.0,
    file_kind: Annotated[
        str, typer.Option("--kind", metavar="KIND", help="Of SOURCE: photos, parquet, webdataset or video; auto looks.")
    ] = "auto",
    column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column with the images: bytes, paths or URLs (Parquet).")
    ] = None,
    stride: Annotated[int, typer.Option(metavar="COUNT", min=1, help="Take one of so many frames (video).")] = 30,
    limit: Annotated[int | None, typer.Option(metavar="COUNT", min=1, help="Stop after so many images.")] = None,
    shard_size: Annotated[
        int, typer.Option(metavar="COUNT", min=1, help="Images in one output file: the most that a crash can cost.")
    ] = 512,
    batch_size: Annotated[
        int | None,
        typer.Option(metavar="COUNT", callback=checks.in_range, help="Images in one forward pass; see --batch-tokens."),
    ] = None,
    batch_tokens: Annotated[
        int, typer.Option(metavar="COUNT", min=1, help="Tokens in one forward pass, where --batch-size is not given.")
    ] = 4096,
    workers: Annotated[
        int,
        typer.Option(metavar="COUNT", min=0, help="Decoding threads; with Ray, model processes. 0 chooses the number."),
    ] = 0,
    ray_address: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A running Ray cluster, such as auto or ray://HOST:10001.")
    ] = None,
    as_json: opt.AsJson = False,
) -> int:
    """Explain a whole collection: one row for each image, method and target, in Parquet files."""
    from vitscope.batch.run import require_engine, run

    require_engine(engine)
    options.check(*checks.split_names(method))
    from vitscope.batch.sources import ImageSource

    images = ImageSource(source, file_kind, column, stride, limit)  # type: ignore[arg-type]  # which it checks
    from vitscope.batch.output import check_output
    from vitscope.batch.overlays import overlay_paths, write_video
    from vitscope.batch.types import BatchPlan

    plan = BatchPlan(
        model.model,
        **model.keywords(),
        **options.keywords(),
        methods=checks.split_names(method),
        targets=tuple(target or ()),
        size=size,
        seed=seed,
        metrics=checks.split_names(metrics),
        overlays=overlays,
        shard_size=shard_size,
        batch_size=batch_size,
        batch_tokens=batch_tokens,
        workers=workers,
    )
    check_output(out, resume=resume)
    if film is not None and not overlays:
        raise UsageError.coded("cli.film-needs-overlays", "--film makes its video of overlays", "add --overlays")
    if ray_address and engine != "ray":
        raise UsageError.coded("cli.address-needs-ray", "--ray-address is for --engine ray", "add --engine ray")
    scope = model.load()
    with console.collection_progress() as progress:
        if console.err.is_terminal:
            threading.Thread(target=_count, args=(images, progress), daemon=True).start()
        summary = run(
            images,
            out,
            plan,
            scope=scope,
            engine=engine,
            engine_options={"address": ray_address} if ray_address else {},
            resume=resume,
            on_progress=progress.advance,
            on_start=progress.resume,
        )
    if film is not None:
        write_video(overlay_paths(out), film, rate)
    _print(summary, as_json)
    return 1 if summary.failed or summary.failed_before else 0


def _count(images: "ImageSource", progress: console.CollectionProgress) -> None:
    """Count the images while the work goes on."""
    progress.set_total(sum(1 for _ in images))


def _print(summary: "BatchSummary", as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        console.print_json({"vitscope": __version__, **asdict(summary)})
        return
    speed = f", {summary.images / summary.seconds:.3g} images/s" if summary.images and summary.seconds else ""
    before = f"; {summary.skipped} were finished before" if summary.skipped else ""
    console.print_line(f"{summary.images} images in {summary.seconds:.1f} s{speed}{before}: {summary.out}")
    for name, reason in summary.damaged.items():
        console.print_note(f"{name} was made again: {reason}")
    for name, error in summary.errors.items():
        console.print_note(error if name in error else f"{name}: {error}")
    if summary.ignored:
        endings = ", ".join(f"{count} {ending or 'without one'}" for ending, count in summary.ignored.items())
        total = sum(summary.ignored.values())
        console.print_note(f"{total} {'file' if total == 1 else 'files'} skipped, by their ending: {endings}")
    if summary.results:
        console.print_note(f"skipped, as they hold results of vitscope: {', '.join(summary.results)}")
    if summary.failed:
        kinds = ", ".join(f"{count} with {kind}" for kind, count in summary.failures.items())
        console.print_note(f"{summary.failed} failed ({kinds}); the column 'error' has all reasons")
