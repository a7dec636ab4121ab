"""`vitscope statistics`: the attention of one image in numbers, layer by layer."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitscope._version import __version__
from vitscope.cli import console, report_text
from vitscope.cli.commands import _options as opt
from vitscope.cli.commands import _results as results
from vitscope.errors import MissingDependencyError

if TYPE_CHECKING:
    from vitscope.metrics.attention_statistics import LayerStatistics, Statistics

_FILES = ("statistics.json", "statistics.parquet", "by-depth.png")


def statistics(
    image: opt.SingleImage,
    model: opt.ModelChoice,
    importance: Annotated[
        bool, typer.Option("--importance", help="Also measure what silencing each head costs: one forward a head.")
    ] = False,
    target: opt.Target = None,
    size: opt.Size = None,
    batch_size: Annotated[int, typer.Option(metavar="COUNT", help="Heads silenced in one forward pass.")] = 8,
    out: opt.OptionalOut = None,
    force: opt.Force = False,
    as_json: opt.AsJson = False,
) -> None:
    """Print attention statistics by layer: entropy, distance, shares, agreement of heads, rank and sinks.

    --target names the score that --importance measures.
    """
    model.check_image(image)
    goal, folder = opt.parse_target(target), out / Path(image).stem if out else None
    if folder is not None:
        for name in _FILES:
            results.require_free(folder / name, force)
    scope = model.load()
    picture = scope.adapter.load(image)
    with console.image_progress(1) as progress:
        found = scope.statistics(
            picture,
            size=size,
            importance=importance,
            target=goal,
            batch_size=batch_size,
            progress=progress.update_forwards,
        )
    files = _write(found, folder, force) if folder is not None else []
    if as_json:
        about = {"name": picture.name, "files": [str(path) for path in files]}
        console.print_json({"vitscope": __version__, **about, **found.to_dict()})
        return
    pixels = " x ".join(map(str, found.region.input[::-1]))
    report_text.print_heading(f"{picture.name}: {scope.adapter.reference}, {found.layout}, input {pixels}")
    console.out.print()
    _print_table(found)
    console.out.print()
    report_text.print_attention(found)
    for reason, names in _unavailable(found, importance).items():
        report_text.print_field("not given", f"{', '.join(names)}: {console.in_flags(reason)}")
    if found.target:
        score = report_text.format_number(found.score or 0.0)
        what = f"drop in the score of {found.target} ({score}) when a head is silenced: smallest .. largest head"
        report_text.print_field("importance", what)
    if files:
        report_text.print_files(files)


def _write(found: "Statistics", folder: Path, force: bool) -> list[Path]:
    files = [found.save(folder / "statistics.json", force=force)]
    try:
        files.append(found.save(folder / "statistics.parquet", force=force))
    except MissingDependencyError as error:
        console.print_error(error, str(folder / "statistics.parquet"))
    results.write_png(found.plot(), folder / "by-depth.png")
    return [*files, folder / "by-depth.png"]


def _print_table(found: "Statistics") -> None:
    """Print a row for each layer, means over heads; a dash is unknown, a column without known numbers is left out."""
    columns: dict[str, list[str]] = {
        "layer": [str(number) for number in range(len(found.layers))],
        "entr.": [_mean(layer.entropy_normalised, ".2f") for layer in found.layers],
        "dist.": [_mean(layer.distance, ".0f") for layer in found.layers],
        "CLS": [_share(layer, "cls") for layer in found.layers],
        "reg.": [_share(layer, "registers") for layer in found.layers],
        "self": [_share(layer, "self") for layer in found.layers],
        "agree": [_mean(layer.agreement, ".2f") for layer in found.layers],
        "rank": [_mean(layer.effective_rank, ".0f") for layer in found.layers],
        "sinks": [str(len(layer.sinks)) for layer in found.layers],
        "importance": [_range(layer.importance) for layer in found.layers],
    }
    present = {"CLS": "cls" in found.layout.prefix, "reg.": any("register" in name for name in found.layout.prefix)}
    present["sinks"] = "sinks" not in found.unavailable
    shown = {n: cells for n, cells in columns.items() if present.get(n, True) and any(cell != "-" for cell in cells)}
    report_text.print_columns(list(shown), list(zip(*shown.values(), strict=True)), left=())


def _mean(values: Any, form: str) -> str:
    import numpy as np

    return "-" if values is None else format(float(np.mean(values)), form)


def _share(layer: "LayerStatistics", name: str) -> str:
    return _mean(layer.shares.get(name), ".1%")


def _range(values: Any) -> str:
    if values is None:
        return "-"
    return f"{report_text.format_number(float(min(values)))} .. {report_text.format_number(float(max(values)))}"


def _unavailable(found: "Statistics", importance: bool) -> dict[str, list[str]]:
    """Return the numbers that are not known, by the reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in found.unavailable.items():
        if name != "importance" or importance:
            by_reason.setdefault(reason, []).append(name.replace("_", " "))
    return by_reason
