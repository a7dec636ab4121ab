"""`vitscope statistics`: the attention of one photo in numbers, layer by layer."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from vitscope._version import __version__
from vitscope.cli import console, report_text
from vitscope.cli.commands._options import (
    DEFAULT_MODEL,
    AsJson,
    Device,
    Dtype,
    Force,
    MaybeOut,
    Model,
    Photo,
    Revision,
    Size,
    load,
    picture_path,
    target_of,
    write,
)
from vitscope.errors import MissingDependencyError

if TYPE_CHECKING:
    from vitscope.metrics.attention_statistics import Layer, Statistics

__all__ = ["statistics"]


def statistics(
    image: Photo,
    importance: Annotated[
        bool, typer.Option("--importance", help="Also what silencing each head costs: one forward a head.")
    ] = False,
    target: Annotated[str | None, typer.Option(help="Whose score importance follows; as for explain.")] = None,
    model: Model = DEFAULT_MODEL,
    size: Size = None,
    batch_size: Annotated[int, typer.Option(help="Heads silenced together.")] = 8,
    out: MaybeOut = None,
    force: Force = False,
    as_json: AsJson = False,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Attention in numbers by layer: entropy, distance, shares, agreement, rank, and the tokens that collect it."""
    from vitscope.images import load_image

    picture, goal = load_image(image), target_of(target) if target else None
    place = out / picture.name if out else None
    names = ("statistics.json", "statistics.parquet", "by-depth.png")
    for name in names if place else ():
        assert place is not None
        picture_path(place / name, force)
    scope = load(model, revision, device, dtype)
    with console.explaining(1) as progress:
        found = scope.statistics(
            picture, size=size, importance=importance, target=goal, batch_size=batch_size, progress=progress.forwards
        )
    files: list[str] = []
    if place is not None:
        files = _write(found, place, force)
    if as_json:
        about = {"name": picture.name, "files": files}
        console.print_json({"vitscope": __version__, **about, **found.to_dict()})
        return
    columns = " x ".join(map(str, found.region.input[::-1]))
    report_text.heading(f"{picture.name}: {scope.adapter.reference}, {found.layout}, input {columns}")
    console.out.print()
    _table(found)
    console.out.print()
    report_text.attention_lines(found)
    for name, why in _missing(found, importance).items():
        report_text.prose("not given", f"{name}: {why}")
    if found.target:
        report_text.prose(
            "importance",
            f"{found.target}: {report_text.figure(found.score or 0.0)} for the whole model; range over heads",
        )
    if files:
        report_text.prose("written", ", ".join(Path(name).name for name in files) + f" in {place}")


def _write(found: "Statistics", place: Path, force: bool) -> list[str]:
    files = [str(found.save(place / "statistics.json", force=force))]
    try:
        files.append(str(found.save(place / "statistics.parquet", force=force)))
    except MissingDependencyError as error:
        console.trouble(error, str(place / "statistics.parquet"))
    write(found.plot(), place / "by-depth.png")
    return [*files, str(place / "by-depth.png")]


def _table(found: "Statistics") -> None:
    """One row for each layer, means over heads; a dash where a number is not known, a column left out where none is."""
    cells: dict[str, list[str]] = {
        "layer": [str(number) for number in range(len(found.layers))],
        "entr.": [_mean(layer.entropy_normalised, ".2f") for layer in found.layers],
        "dist.": [_mean(layer.distance, ".0f") for layer in found.layers],
        "CLS": [_share(layer, "cls") for layer in found.layers],
        "reg.": [_share(layer, "registers") for layer in found.layers],
        "self": [_share(layer, "self") for layer in found.layers],
        "agree": [_mean(layer.agreement, ".2f") for layer in found.layers],
        "rank": [_one(layer.effective_rank, ".0f") for layer in found.layers],
        "sinks": [str(len(layer.sinks)) for layer in found.layers],
        "importance": [_range(layer.importance) for layer in found.layers],
    }
    there = {"CLS": "cls" in found.layout.prefix, "reg.": any("register" in name for name in found.layout.prefix)}
    kept = {n: of for n, of in cells.items() if there.get(n, True) and any(cell != "-" for cell in of)}
    if "sinks" in found.withheld:
        kept.pop("sinks", None)
    report_text.columns(list(kept), list(zip(*kept.values(), strict=True)), left=())


def _mean(values: Any, form: str) -> str:
    return "-" if values is None else format(float(np.mean(values)), form)


def _one(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _share(layer: "Layer", name: str) -> str:
    return _mean(layer.shares.get(name), ".1%")


def _range(values: Any) -> str:
    return (
        "-"
        if values is None
        else f"{report_text.figure(float(min(values)))} .. {report_text.figure(float(max(values)))}"
    )


def _missing(found: "Statistics", importance: bool) -> dict[str, str]:
    """What is not known, and why; reasons that several share are told once."""
    by_reason: dict[str, list[str]] = {}
    for name, why in found.withheld.items():
        if name != "importance" or importance:
            by_reason.setdefault(why, []).append(name.replace("_", " "))
    return {", ".join(names): why for why, names in by_reason.items()}
