"""Flags that several commands share, and what is done with them."""

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitscope._version import __version__
from vitscope.errors import ResultError, UsageError

if TYPE_CHECKING:
    from PIL import Image

    from vitscope.render.raster import StyleOptions
    from vitscope.scope import Scope

_FILES = {".png", ".jpg", ".jpeg", ".pdf", ".html", ".json", ".npz"}


def style_of(**options: Any) -> "StyleOptions":
    """Return the drawing options of a command line, checked."""
    from vitscope.render.raster import Style

    Style.of(**options)
    chosen: StyleOptions = options  # type: ignore[assignment]
    return chosen


def _folder(path: Path | None) -> Path | None:
    """The folder as given; a name that only files have is a mistake."""
    if path is not None and path.suffix.lower() in _FILES and not path.is_dir():
        raise UsageError(f"--out is a folder, and {path} is called like a file", f"give a folder: -o {path.stem}")
    return path


DEFAULT_MODEL = "embedded:dinov2-small"  # as in loading.py, which loads torch
Images = Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Photos to look at.")]
Photo = Annotated[str, typer.Argument(metavar="IMAGE", help="A photo to look at.")]
Model = Annotated[str, typer.Option("--model", "-m", help="Model reference; `vitscope models` lists the forms.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0, mps.")]
Dtype = Annotated[str, typer.Option(help="float32, float64, bfloat16, float16.")]
Method = Annotated[str, typer.Option(help="A method's name; auto takes what suits the model, and says so.")]
GradientRule = Annotated[str, typer.Option(help="plain, libra or attnlrp: how gradients go back.")]
Refine = Annotated[str, typer.Option(help="affinity: spread the map along patches that are alike.")]
Layers = Annotated[str | None, typer.Option(help="0-11, -3--1, 4,7,9, last3 or all.")]
StartLayer = Annotated[int | None, typer.Option(help="First layer that takes part.")]
Layer = Annotated[int | None, typer.Option(help="The one layer of method attention.")]
Head = Annotated[str | None, typer.Option(help="mean, max, min or a head's number (method attention).")]
ResidualWeight = Annotated[float | None, typer.Option(help="Weight of the residual path (rollout).")]
HeadFusion = Annotated[str | None, typer.Option(help="mean, max, min or a head's number (rollout).")]
DiscardRatio = Annotated[float | None, typer.Option(help="Share of weakest patches a row forgets (rollout).")]
AnyOption = Annotated[list[str] | None, typer.Option("--option", "-O", help="NAME=VALUE, any method's.")]
Size = Annotated[int | None, typer.Option(help="Input size; keeps the photo's shape and crops nothing.")]
Out = Annotated[Path, typer.Option("--out", "-o", callback=_folder, help="Folder where results go.")]
MaybeOut = Annotated[
    Path | None, typer.Option("--out", "-o", callback=_folder, help="Folder where numbers and plots go too.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace results that are already there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Cmap = Annotated[str, typer.Option(help="A colour map of matplotlib.")]
Norm = Annotated[str, typer.Option(help="auto, minmax, or robust (1st to 99th percentile).")]


def load(model: str, revision: str | None = None, device: str = "auto", dtype: str = "float32") -> "Scope":
    """The model, with a progress bar where weights are fetched."""
    from transformers.utils import logging

    from vitscope import scope
    from vitscope.cli import console

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # of weights read from disk; our own shows what is fetched
    with console.fetching() as progress:
        return scope.load(model, revision=revision, device=device, dtype=dtype, progress=progress)


def pair(text: str) -> tuple[str, Any]:
    """`NAME=VALUE` as a name and a value."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"'{text}' is not an option", "write NAME=VALUE, such as residual_weight=0.3")
    return name.strip(), parsed(value.strip())


def parsed(text: str) -> Any:
    """A number, true, false, none, or the text itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def method_options_of(given: list[str] | None, **named: Any) -> dict[str, Any]:
    """A method's own options: the named ones that were given, and those of `-O NAME=VALUE`."""
    found = {name: value for name, value in named.items() if value is not None}
    found |= {name: parsed(found[name]) for name in ("head", "head_fusion") if name in found}
    return found | dict(pair(text) for text in given or [])


def folders(images: list[str], out: Path) -> list[Path]:
    """OUT/NAME for each photo; a second photo of the same name becomes NAME-2, or the next number that is free."""
    stems = [Path(image).stem for image in images]
    names: list[str] = []
    for stem in stems:
        numbered = (f"{stem}-{number}" for number in count(2))
        names.append(stem if stem not in names else next(n for n in numbered if n not in names and n not in stems))
    return [out / name for name in names]


def target_of(words: str) -> Any:
    """What `--target` says: `text:WORDS`, `image:IMAGE`, or a class by number, name or contrast."""
    from vitscope.methods.targets import parse_target

    return parse_target(words)


def picture_path(path: Path, force: bool) -> Path:
    """The path, unless something is there already."""
    from vitscope._files import path_exists

    if path_exists(path) and not force:
        raise already_there(path)
    return path


def already_there(path: Path) -> ResultError:
    """The error that keeps what is there."""
    return ResultError(f"{path} is already there", "--force replaces it, or give another --out")


def write(picture: "Image.Image", path: Path) -> None:
    """Write a PNG, whole or not at all."""
    from vitscope._files import atomic_write

    with atomic_write(path) as part:
        picture.save(part, "PNG")


def done(path: Path, as_json: bool, document: dict[str, Any]) -> None:
    """Say where the picture is."""
    from vitscope.cli import console

    if as_json:
        console.print_json({"vitscope": __version__, "out": str(path)} | document)
    else:
        console.out.print(str(path), markup=False, soft_wrap=True)
