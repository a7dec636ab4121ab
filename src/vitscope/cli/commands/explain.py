"""`vitscope explain`: overlay, heat map, arrays and manifest for each photo."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitscope._version import __version__
from vitscope.cli import console
from vitscope.cli.commands._options import (
    DEFAULT_MODEL,
    AnyOption,
    AsJson,
    Cmap,
    Device,
    DiscardRatio,
    Dtype,
    Force,
    GradientRule,
    Head,
    HeadFusion,
    Images,
    Layer,
    Layers,
    Method,
    Model,
    Norm,
    Out,
    Refine,
    ResidualWeight,
    Revision,
    Size,
    StartLayer,
    already_there,
    folders,
    load,
    method_options_of,
    style_of,
    target_of,
)
from vitscope.errors import VitscopeError

if TYPE_CHECKING:
    from vitscope.engine.options import Failure
    from vitscope.explanation import Explanation
    from vitscope.render.raster import StyleOptions

__all__ = ["explain"]

_DAZZLING = 30  # a patch this many times the mean leaves the rest of a picture nearly black


def explain(
    images: Images,
    model: Model = DEFAULT_MODEL,
    method: Method = "auto",
    target: Annotated[
        list[str] | None,
        typer.Option(help="Class (number, name, 'a - b'), text:WORDS or image:IMAGE; more than once: several."),
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
    batch_size: Annotated[int, typer.Option(help="Photos that go through the model together.")] = 8,
    seed: Annotated[int, typer.Option(help="For methods that draw random numbers.")] = 0,
    style: Annotated[str, typer.Option(help="color, grey or notebook.")] = "color",
    cmap: Cmap = "inferno",
    norm: Norm = "auto",
    opacity: Annotated[float, typer.Option(help="Of the hottest colour over the photo.")] = 0.9,
    blur: Annotated[float, typer.Option(help="Gaussian blur, standard deviation in photo pixels.")] = 0.0,
    blocks: Annotated[bool, typer.Option("--blocks", help="Draw flat patches, not a smooth map.")] = False,
    colorbar: Annotated[bool, typer.Option("--colorbar", help="Draw the scale beside the picture.")] = False,
    out: Out = Path("out"),
    force: Force = False,
    as_json: AsJson = False,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> int:
    """Where the model looks: overlay, heat map, arrays and manifest for each photo, in OUT/NAME/."""
    from vitscope._files import path_exists

    drawing = style_of(
        style=style, cmap=cmap, norm=norm, opacity=opacity, blur=blur, smooth=not blocks, colorbar=colorbar
    )
    named = {
        "layers": layers,
        "start_layer": start_layer,
        "layer": layer,
        "residual_weight": residual_weight,
        "discard_ratio": discard_ratio,
    }
    method_options = method_options_of(option, **named, head=head, head_fusion=head_fusion)
    targets = [target_of(words) for words in target or []]
    asked = targets if len(targets) > 1 else targets[0] if targets else None
    options = {
        "method": method,
        "target": asked,
        "gradient_rule": gradient_rule,
        "refine": refine,
        "size": size,
        "batch_size": batch_size,
        "seed": seed,
    }
    scope = load(model, revision, device, dtype)
    work = list(zip(images, folders(images, out), strict=True))
    documents: list[dict[str, Any]] = []
    failures: list[tuple[str, VitscopeError]] = []
    free = [(image, folder) for image, folder in work if force or not path_exists(folder)]
    failures += [(image, already_there(folder)) for image, folder in work if (image, folder) not in free]
    with console.explaining(len(free)) as advance:
        given = [image for image, _ in free]
        outcomes = scope.explain_many(given, progress=advance.forwards, **options, method_options=method_options)
        for (image, folder), outcome in zip(free, outcomes, strict=True):
            try:
                for one, where in _each(outcome, folder):
                    documents.append(_saved(one, where, force, drawing))
            except VitscopeError as error:
                failures.append((image, error))
            advance()
    for image, why in failures:
        console.trouble(why, image)
    if as_json:
        failed = [{"source": image, "error": why.message, "hint": why.hint} for image, why in failures]
        console.print_json({"vitscope": __version__, "results": documents, "failures": failed})
    elif documents:
        headings = ["photo", "method", "effective patches", "largest share", "prefix share", "out"]
        console.table(headings, [_row(document) for document in documents])
        said = [line for document in documents for line in _said(document, norm)]
        for line in dict.fromkeys(said):  # several targets of a photo have most of it in common
            console.out.print(line, markup=False, soft_wrap=True)
    return 1 if failures else 0


def _each(outcome: Any, folder: Path) -> list[tuple[Any, Path]]:
    """Results and their folders: FOLDER, or with several targets FOLDER/TARGET for each."""
    if not isinstance(outcome, list):
        return [(outcome, folder)]
    names = [re.sub(r"\W+", "-", e.target or "target").strip("-")[:60] or "target" for e in outcome]
    return [
        (e, folder / (name if names.count(name) == 1 else f"{name}-{i}"))
        for i, (e, name) in enumerate(zip(outcome, names, strict=True))
    ]


def _saved(outcome: "Explanation | Failure", folder: Path, force: bool, drawing: "StyleOptions") -> dict[str, Any]:
    """Save one result; what is said of it."""
    from vitscope.engine.options import Failure
    from vitscope.metrics.concentration import concentration

    if isinstance(outcome, Failure):
        raise outcome.error
    outcome.save(folder, force=force, **drawing)
    return outcome.manifest() | {"out": str(folder), "statistics": concentration(outcome)}


def _row(document: dict[str, Any]) -> list[str]:
    """One line of the table; of the options those that are not the method's defaults."""
    from vitscope.methods.base import METHODS

    usual = {name: option.default for name, option in METHODS.get(document["method"]).options.items()}
    given = document["provenance"]["options"].items()
    options = ", ".join(f"{k} {v}" for k, v in given if v is not None and v != usual.get(k))
    told, (rows, columns) = document["statistics"], document["layout"]["grid"]
    of = f" of {document['target']}" if document["target"] else ""
    return [
        document["name"],
        f"{document['method']}{of} ({options})" if options else f"{document['method']}{of}",
        f"{told['effective_patches']:.0f} of {rows * columns}",
        f"{told['largest_share']:.1%}",
        f"{told['prefix_share']:.1%}",
        f"{document['out']}{os.sep}",
    ]


def _said(document: dict[str, Any], norm: str) -> list[str]:
    """Predictions, notes and caveat of one result, after the table."""
    said = [f"{p['label']} {p['probability']:.1%}" for p in document["predictions"]]
    notes = [*document["provenance"]["notes"]]
    if caveat := document["provenance"].get("caveat"):
        notes.append(caveat)
    rows, columns = document["layout"]["grid"]
    times = document["statistics"]["largest_share"] * rows * columns
    if times > _DAZZLING and norm != "robust" and "drawing" not in document["provenance"]:
        notes.append(f"the hottest patch is {times:.0f} times the mean and darkens the rest: try --norm robust")
    told = [f"top {len(said)}: {', '.join(said)}"] if said else []
    return [f"{document['name']}: {words}" for words in told + notes]
