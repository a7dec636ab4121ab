"""`vitscope view`: one self-contained interactive page."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vitscope._files import atomic_write
from vitscope.cli import console
from vitscope.cli.commands._options import (
    DEFAULT_MODEL,
    AsJson,
    Device,
    Dtype,
    Force,
    Model,
    Photo,
    Revision,
    Size,
    done,
    load,
    picture_path,
    target_of,
)
from vitscope.errors import UnknownNameError, UsageError

__all__ = ["view"]


def view(
    image: Photo,
    other: Annotated[
        str | None, typer.Argument(metavar="OTHER", help="A second photo, to compare: what makes the two alike.")
    ] = None,
    model: Model = DEFAULT_MODEL,
    methods: Annotated[
        str | None, typer.Option(help="Names between commas; by default five that fit most models.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="As for explain.")] = None,
    top: Annotated[int, typer.Option(help="Predicted classes with a map of their own.")] = 5,
    size: Size = None,
    measure: Annotated[bool, typer.Option(help="Deletion and insertion of each map.")] = True,
    max_mb: Annotated[
        float, typer.Option("--max-mb", help="Of the page: precision of rows is given up first, then layers.")
    ] = 10.0,
    lang: Annotated[str | None, typer.Option(help="en or zh; by default the reader's own.")] = None,
    seed: Annotated[int, typer.Option(help="Draws random maps.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("view.html"),
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    force: Force = False,
    as_json: AsJson = False,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """One HTML file to look around in: maps, every head, what each patch attends to, numbers. It needs no network."""
    from vitscope.images import load_image
    from vitscope.viewer.page import page_bytes

    if lang not in (None, "en", "zh"):
        raise UnknownNameError("language", lang or "", ["en", "zh"])
    if not 0.5 <= max_mb <= 500:
        raise UsageError(f"--max-mb is between 0.5 and 500, not {max_mb:g}")
    path = picture_path(out, force)
    for one in (image, other):
        if one is not None:
            load_image(one)
    options: dict[str, Any] = {"target": target_of(target) if target else None, "top": top, "size": size, "seed": seed}
    if methods:
        options["methods"] = tuple(name.strip() for name in methods.split(","))
    scope = load(model, revision, device, dtype)
    with console.explaining(1) as bars:
        made = scope.view(
            image,
            other=other,
            measure=measure,
            max_mb=max_mb,
            progress=bars.forwards,
            **options,
        )
    text = page_bytes(made.document(), lang)
    told = made.header["attention"]["error"]
    words = f"{len(text) / 1e6:.1f} MB"
    if told:
        off = "each" if told["head_beyond"] + told["mean_beyond"] == 0 else f"all but {told['head_beyond']:.1%}"
        words += (
            f"; rows within {told['mean_rms']:.1%} (one head: {told['head_rms']:.1%}) over their 20 largest weights,"
            f" {off} within 1 %"
        )
    console.note(words)
    for one in made.header["missing"]:
        console.note(f"not in the page: {one['what']}: {one['why']}")
    with atomic_write(path) as part:
        part.write_bytes(text)
    done(path, as_json, {"bytes": len(text), "error": told, "missing": made.header["missing"]})
    if open_:
        typer.launch(path.resolve().as_uri())
