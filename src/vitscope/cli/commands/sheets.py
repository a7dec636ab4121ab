"""`vitscope heads`, `logit-lens` and `similarity`: many maps of one model on one sheet."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitscope._messages import msg
from vitscope._numbers import whole_number
from vitscope.cli import console
from vitscope.cli.commands import _checks as checks
from vitscope.cli.commands import _options as opt
from vitscope.cli.commands import _results as results
from vitscope.cli.commands._places import folder_or
from vitscope.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

    from vitscope.render.sheets import Cell

SheetOut = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="FOLDER|FILE",
        callback=folder_or(".png", ".jpg", ".jpeg", ".pdf", ".svg"),
        help="Folder for the sheet; or the sheet itself: .png, .jpg, .pdf or .svg.",
    ),
]


def heads(
    image: opt.SingleImage,
    drawing: opt.SheetStyle,
    model: opt.ModelChoice,
    layer: Annotated[
        str,
        typer.Option(metavar="LAYER|all", help="Layer, from 0; negative numbers count from the end; all: a row each."),
    ] = "-1",
    kind: Annotated[
        str, checks.one_of("map|matrix", "map: over the image; matrix: N x N attention of tokens.")
    ] = "map",
    size: opt.Size = None,
    out: SheetOut = Path("out"),
    force: opt.Force = False,
    as_json: opt.AsJson = False,
) -> None:
    """Draw every head of one layer, or of all layers, on one sheet."""
    number = None if layer == "all" else whole_number(layer)
    if number is None and layer != "all":
        raise UsageError(msg("cli.no-layer", "'{layer}' is no layer: write a number or all", layer=layer))
    model.check_image(image)
    style, scope = drawing.style(), model.load()
    from vitscope.attention import pooled_matrix
    from vitscope.render.sheets import Cell, sheet

    picture = scope.adapter.load(image)
    results.print_notes(scope, picture, size)
    cells: list[Cell] = []
    with scope.engine.shared_forwards():
        store = scope.attention(picture, size=size)
        numbers = store.select(number)
        if kind == "map":
            for one in numbers:
                for head, e in enumerate(scope.attention_heads(picture, one, size=size)):
                    below = f"largest patch {e.map.max():.2g}"
                    cells.append(Cell(_small(e.overlay(**style)), f"layer {one}, head {head}", below))
            readout = "CLS" if scope.layout.pooling == "cls" else "the tokens that the answer is read from"
            title = f"attention from {readout} to each patch; each head on its own scale"
        else:
            for one in numbers:
                weights, k = pooled_matrix(store[one])
                matrices = weights[0].float().cpu().numpy()
                cells += [Cell(w, f"layer {one}, head {i}", f"at most {w.max():.2g}") for i, w in enumerate(matrices)]
            windows, _, tokens = store[numbers[0]].shape[:3]
            title = f"attention {tokens} x {tokens}: query tokens down, key tokens across; colour by square root"
            title += f"; the first of {windows} windows" if windows > 1 else ""
            title += f"; means of {k} x {k}" if k > 1 else ""
    of = "all-layers" if number is None else f"layer{numbers[0]}"
    columns = max(store[one].shape[1] for one in numbers) if number is None else None
    if columns:  # a row for each layer, also where they have different numbers of heads
        cells = [cell for row in _rows(cells, [store[one].shape[1] for one in numbers], columns) for cell in row]
    path = results.sheet_path(out, f"{picture.name}-{of}-{kind}.png", force, image)
    drawn = sheet(cells, f"{picture.name} · {scope.adapter.reference} · {title}", columns=columns, cmap=drawing.cmap)
    results.write_sheet(drawn, path)
    heads_of_all = sum(store[one].shape[1] for one in numbers)
    document = {"layer": "all" if number is None else numbers[0], "heads": heads_of_all, "kind": kind}
    results.print_result(path, as_json, document)


def _rows(cells: "list[Cell]", lengths: list[int], columns: int) -> "Iterator[list[Cell]]":
    from PIL import Image

    from vitscope.render.sheets import Cell

    waiting = iter(cells)
    for length in lengths:
        row = [next(waiting) for _ in range(length)]
        yield row + [Cell(Image.new("L", (1, 1), 255), "")] * (columns - length)


def _small(image: "Image.Image") -> "Image.Image":
    image.thumbnail((1024, 1024))
    return image


_NO_CLASSES = (
    "this model has no classes: the number is the dot product of its feature after a layer with its final feature, "
    "and a map shows the same product for the token of each patch (--target image:OTHER.jpg follows another image)"
)


def logit_lens(
    image: opt.SingleImage,
    drawing: opt.SheetStyle,
    model: opt.ModelChoice,
    target: opt.Target = None,
    size: opt.Size = None,
    out: SheetOut = Path("out"),
    force: opt.Force = False,
    as_json: opt.AsJson = False,
) -> None:
    """Draw the prediction after each layer (logit lens), with that layer's map.

    The target is what the model predicts, unless --target names another.
    """
    model.check_image(image)
    path = results.sheet_path(out, f"{Path(image).stem}-logit-lens.png", force, image)
    style, scope = drawing.style(), model.load()
    from vitscope.render.sheets import Cell, sheet

    picture = scope.adapter.load(image)
    results.print_notes(scope, picture, size)
    with console.image_progress(1) as progress:
        layers = scope.logit_lens(
            picture, target=opt.parse_target(target), size=size, progress=progress.update_forwards
        )
    cells = []
    for number, e in enumerate(layers):
        predictions = "\n".join(e.prediction_texts(digits=0)[:2])
        assert e.score is not None
        score = f"{e.score:,.0f}" if abs(e.score) >= 100 else f"{e.score:.3g}"
        cells.append(Cell(e.overlay(**style), f"after layer {number}: {score}", predictions))
    followed = layers[-1].target
    if target is None and not layers[-1].predictions:
        followed = "product with the model's final feature,"
        console.print_note(_NO_CLASSES)
    title = f"{followed} after each layer; each map on its own scale"
    results.write_sheet(sheet(cells, f"{picture.name} · {scope.adapter.reference} · {title}", cmap=drawing.cmap), path)
    documents = [{"layer": n, "score": e.score, "predictions": e.predictions} for n, e in enumerate(layers)]
    results.print_result(path, as_json, {"target": layers[-1].target, "layers": documents})


def similarity(
    image: opt.SingleImage,
    other: Annotated[str, typer.Argument(metavar="OTHER", help="Another image file.")],
    drawing: opt.SheetStyle,
    model: opt.ModelChoice,
    method: Annotated[
        str, typer.Option(metavar="NAME", callback=checks.check_plain_methods, help="A method that explains a target.")
    ] = "relevance",
    size: opt.Size = None,
    out: SheetOut = Path("out"),
    force: opt.Force = False,
    as_json: opt.AsJson = False,
) -> None:
    """Draw, on two images, the regions that make them similar to the model."""
    for one in (image, other):
        model.check_image(one)
    from vitscope.render.sheets import Cell, sheet

    path = results.sheet_path(out, f"{Path(image).stem}-{Path(other).stem}-similarity.png", force, image, other)
    style, scope = drawing.style(), model.load()
    pictures = (scope.adapter.load(image), scope.adapter.load(other))
    for picture in pictures:
        results.print_notes(scope, picture, size)
    maps = scope.compare(*pictures, method=method, size=size)
    cells = [
        Cell(e.overlay(**style), p.name, f"similar to {q.name}")
        for e, p, q in zip(maps, pictures, reversed(pictures), strict=True)
    ]
    title = f"{method} · cosine of the features {maps[0].score:.3f} · {scope.adapter.reference}"
    results.write_sheet(sheet(cells, title, cmap=drawing.cmap), path)
    results.print_result(path, as_json, {"method": method, "cosine": maps[0].score})
