"""`vitscope batch`: a whole collection into a Parquet data set."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitscope._version import __version__
from vitscope.cli import console
from vitscope.cli.commands._options import (
    DEFAULT_MODEL,
    AnyOption,
    AsJson,
    Device,
    DiscardRatio,
    Dtype,
    GradientRule,
    Head,
    HeadFusion,
    Layer,
    Layers,
    Model,
    Out,
    Refine,
    ResidualWeight,
    Revision,
    Size,
    StartLayer,
    load,
    method_options_of,
)
from vitscope.errors import UsageError

if TYPE_CHECKING:
    from vitscope.batch.run import BatchSummary
    from vitscope.batch.sources import ImageSource

__all__ = ["batch"]


def batch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder, a pattern in quotes, a list (.txt), Parquet, a WebDataset tar, a video; or URLs of these.",
        ),
    ],
    out: Out,
    engine: Annotated[str, typer.Option(help="local, or ray for a cluster.")] = "local",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in OUT.")] = False,
    model: Model = DEFAULT_MODEL,
    method: Annotated[str, typer.Option(help="One method or several, a,b,c: a row for each.")] = "auto",
    target: Annotated[
        list[str] | None,
        typer.Option(help="As for explain; more than once: a row for each, where the method asks."),
    ] = None,
    gradient_rule: GradientRule = "plain",
    refine: Refine = "none",
    layers: Layers = None,
    start_layer: StartLayer = None,
    layer: Layer = None,
    head: Head = None,
    residual_weight: ResidualWeight = None,
    head_fusion: HeadFusion = None,
    discard_ratio: DiscardRatio = None,
    option: AnyOption = None,
    size: Size = None,
    seed: Annotated[int, typer.Option(help="For methods that draw random numbers.")] = 0,
    metrics: Annotated[str | None, typer.Option(help="Measures of `vitscope measure`, a,b,c; each is dear.")] = None,
    overlays: Annotated[bool, typer.Option("--overlays", help="Also draw every map over its photo.")] = False,
    film: Annotated[Path | None, typer.Option(help="Make a video of the overlays, such as maps.mp4.")] = None,
    rate: Annotated[float, typer.Option(help="Pictures a second in that video.")] = 10.0,
    file_kind: Annotated[
        str, typer.Option("--kind", help="What the files are: photos, parquet, webdataset, video; auto looks.")
    ] = "auto",
    column: Annotated[str | None, typer.Option(help="Of Parquet: bytes, paths or URLs of the pictures.")] = None,
    stride: Annotated[int, typer.Option(help="Of a video, every so many frames one.")] = 30,
    limit: Annotated[int | None, typer.Option(help="No more pictures than this.")] = None,
    shard_size: Annotated[int, typer.Option(help="Pictures in a file of OUT: what a crash costs at most.")] = 512,
    batch_size: Annotated[int | None, typer.Option(help="Pictures that go through the model together.")] = None,
    batch_tokens: Annotated[int, typer.Option(help="The same in tokens, where --batch-size is not given.")] = 4096,
    workers: Annotated[int, typer.Option(help="Threads that decode; with ray, model processes. 0 chooses.")] = 0,
    ray_address: Annotated[
        str | None, typer.Option(help="A running cluster, such as auto or ray://HOST:10001; with --engine ray.")
    ] = None,
    as_json: AsJson = False,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> int:
    """Explain a whole collection: one row for each photo, method and target, in Parquet files."""
    from vitscope.batch.run import require_engine, run

    require_engine(engine)
    from vitscope.batch.output import check_output
    from vitscope.batch.overlays import overlay_paths, write_video
    from vitscope.batch.sources import ImageSource
    from vitscope.batch.types import BatchPlan

    named = {
        "layers": layers,
        "start_layer": start_layer,
        "layer": layer,
        "residual_weight": residual_weight,
        "discard_ratio": discard_ratio,
    }
    plan = BatchPlan(
        model=model,
        revision=revision,
        device=device,
        dtype=dtype,
        methods=_names(method),
        targets=tuple(target or ()),
        method_options=method_options_of(option, **named, head=head, head_fusion=head_fusion),
        gradient_rule=gradient_rule,
        refine=refine,
        size=size,
        seed=seed,
        metrics=_names(metrics),
        overlays=overlays,
        shard_size=shard_size,
        batch_size=batch_size,
        batch_tokens=batch_tokens,
        workers=workers,
    )
    where = ImageSource(source, file_kind, column, stride, limit)  # type: ignore[arg-type]  # looked at when made
    check_output(out, resume=resume)
    if film is not None and not overlays:
        raise UsageError("a video of the maps is made of overlays", "add --overlays")
    if ray_address and engine != "ray":
        raise UsageError("--ray-address belongs to --engine ray")
    options = {"address": ray_address} if ray_address else {}
    scope = load(model, revision, device, dtype)
    with console.batching() as bars:
        if console.err.is_terminal:
            threading.Thread(target=_count, args=(where, bars), daemon=True).start()
        summary = run(
            where,
            out,
            plan,
            scope=scope,
            engine=engine,
            engine_options=options,
            resume=resume,
            on_progress=bars,
            on_start=bars.begun,
        )
    if film is not None:
        write_video(overlay_paths(out), film, rate)
    _say(summary, as_json)
    return 1 if summary.failed or summary.failed_before else 0


def _names(words: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (words or "").split(",") if name.strip())


def _count(source: "ImageSource", bars: Any) -> None:
    """How many pictures there are, found out beside the work."""
    bars.total(sum(1 for _ in source))


def _say(summary: "BatchSummary", as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        console.print_json({"vitscope": __version__, **asdict(summary)})
        return
    speed = f", {summary.images / summary.seconds:.3g} images/s" if summary.images and summary.seconds else ""
    before = f"; {summary.skipped} were finished before" if summary.skipped else ""
    console.out.print(
        f"{summary.images} images in {summary.seconds:.1f} s{speed}{before}: {summary.out}",
        markup=False,
        soft_wrap=True,
    )
    for kind, count in summary.failures.items():
        console.note(f"{count} failed with {kind}; the column 'error' says why")
