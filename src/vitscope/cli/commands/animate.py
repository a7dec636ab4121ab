"""`vitscope animate`: layers, heads or a growing rollout as an animated image."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from vitscope._files import atomic_write
from vitscope._messages import msg
from vitscope._version import __version__
from vitscope.cli import console
from vitscope.cli.commands import _checks as checks
from vitscope.cli.commands import _options as opt
from vitscope.cli.commands import _results as results
from vitscope.errors import UsageError

if TYPE_CHECKING:
    from vitscope.engine.animation import Sequence

_SUFFIXES = (".gif", ".webp")


def animate(
    image: opt.SingleImage,
    drawing: opt.SheetStyle,
    model: opt.ModelChoice,
    sequence: Annotated[
        str,
        checks.one_of("layers|heads|rollout", "Attention by layer, or by head of one layer; or rollout that grows."),
    ] = "layers",
    layer: Annotated[int, typer.Option(metavar="LAYER", help="Layer of the heads; negative: from the end.")] = -1,
    query: Annotated[
        str, typer.Option(metavar="readout|ROW,COLUMN", help="The token whose attention is shown.")
    ] = "readout",
    rate: Annotated[float, typer.Option(metavar="NUMBER", help="Frames per second.")] = 2.0,
    width: Annotated[int, typer.Option(metavar="PIXELS", help="Width of the photo in a frame.")] = 640,
    one_scale: Annotated[bool, typer.Option("--one-scale", help="One colour scale for all frames.")] = False,
    size: opt.Size = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="An animated image: .gif or .webp.")] = Path(
        "layers.gif"
    ),
    force: opt.Force = False,
    as_json: opt.AsJson = False,
) -> None:
    """Write an animated image: what the model attends to layer by layer or head by head, or rollout that grows."""
    if out.suffix.lower() not in _SUFFIXES:
        problem = msg("cli.not-animated", "--out expects a .gif or .webp file, not {path}", path=out)
        raise UsageError(problem, msg("cli.not-animated.hint", "for example -o layers.gif"))
    if not (0.1 <= rate <= 50 and 64 <= width <= 4096):
        raise UsageError.coded(
            "cli.animation-range",
            "--rate must be between 0.1 and 50 and --width between 64 and 4096, not {rate} and {width}",
            rate=f"{rate:g}",
            width=width,
        )
    model.check_image(image)
    path = results.require_free(out, force, image)
    style, scope = drawing.style(), model.load()
    from vitscope.engine.animation import map_sequence
    from vitscope.render.animation import frames
    from vitscope.render.film import write_film

    picture = scope.adapter.load(image)
    results.print_notes(scope, picture, size)
    chosen = cast("Sequence", sequence)
    with console.image_progress(1) as progress:
        tell = progress.update_forwards
        made = map_sequence(scope.engine, picture, chosen, layer=layer, query=query, size=size, progress=tell)
    what = "rollout" if sequence == "rollout" else "attention"
    of = "the readout" if query == "readout" else f"patch {query}" if "," in query else query
    name = f"{picture.name} · {scope.adapter.reference}"
    captions = [f"{what} of {of} · {place} · {name}" for _, place in made]
    first = made[0][0]
    maps = [(e.map, caption) for (e, _), caption in zip(made, captions, strict=True)]
    drawn = frames(maps, first.region, first.photo.pixels, first.style(**style), width=width, one_scale=one_scale)
    flags = {"sequence": sequence, "layer": layer, "query": query, "size": size, "width": width, "rate": rate, **style}
    command = ["vitscope", "animate", image, "--model", scope.adapter.reference, *scope.adapter.options.flags()]
    command += [word for name, value in flags.items() if value is not None for word in (f"--{name}", str(value))]
    command += ["--one-scale"] * one_scale
    with atomic_write(path) as part:
        write_film(drawn, part, rate, "\n".join([*captions, f"vitscope {__version__}", shlex.join(command)]))
    document = {"sequence": sequence, "frames": captions, "size": list(drawn[0].size), "rate": rate}
    results.print_result(path, as_json, document)
