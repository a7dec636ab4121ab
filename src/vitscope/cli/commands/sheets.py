"""`vitscope heads`, `logit-lens`, `similarity` and `compare`: many maps on one sheet."""

import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitscope.cli import console
from vitscope.cli.commands import _options as opt
from vitscope.cli.commands import _results as results
from vitscope.metrics.verdict_text import MARKS

if TYPE_CHECKING:
    from vitscope.metrics.measurement import Number

_REMARK = 40  # characters in a line below a map
_CURVES = ("deletion", "insertion")


def heads(
    image: opt.SingleImage,
    drawing: opt.SheetStyle,
    model: opt.ModelChoice,
    layer: opt.Layer = -1,
    kind: Annotated[str, opt.one_of("map|matrix", "map: over the image; matrix: N x N attention of tokens.")] = "map",
    size: opt.Size = None,
    out: opt.Out = Path("out"),
    force: opt.Force = False,
    as_json: opt.AsJson = False,
) -> None:
    """Draw every head of one layer on one sheet."""
    model.check_image(image)
    style, scope = drawing.style(), model.load()
    from vitscope.attention import pooled_matrix
    from vitscope.render.sheets import Cell, sheet

    picture = scope.adapter.load(image)
    if kind == "map":
        maps = scope.attention_heads(picture, layer, size=size)
        number = maps[0].provenance["options"]["layer"]
        cells = [
            Cell(e.overlay(**style), f"layer {number}, head {i}", f"largest patch {e.map.max():.2g}")
            for i, e in enumerate(maps)
        ]
        title = "attention of the readout row; each head on its own scale"
    else:
        store = scope.attention(picture, size=size)
        number = store.select(layer)[0]
        weights, k = pooled_matrix(store[layer])
        cells = [
            Cell(w.float().cpu().numpy(), f"layer {number}, head {i}", f"at most {w.max():.2g}")
            for i, w in enumerate(weights[0])
        ]
        windows, _, tokens = store[layer].shape[:3]
        title = f"attention {tokens} x {tokens}: query tokens down, key tokens across; colour by square root"
        title += f"; the first of {windows} windows" if windows > 1 else ""
        title += f"; means of {k} x {k}" if k > 1 else ""
    path = results.require_free(out / f"{picture.name}-layer{number}-{kind}.png", force)
    results.write_png(sheet(cells, f"{picture.name} · {scope.adapter.reference} · {title}", cmap=drawing.cmap), path)
    results.print_result(path, as_json, {"layer": number, "heads": len(cells), "kind": kind})


def logit_lens(
    image: opt.SingleImage,
    drawing: opt.SheetStyle,
    model: opt.ModelChoice,
    target: opt.Target = None,
    size: opt.Size = None,
    out: opt.Out = Path("out"),
    force: opt.Force = False,
    as_json: opt.AsJson = False,
) -> None:
    """Draw the prediction after each layer (logit lens), with that layer's map.

    The target is what the model predicts, unless --target names another.
    """
    model.check_image(image)
    results.require_free(path := out / f"{Path(image).stem}-logit-lens.png", force)
    style, scope = drawing.style(), model.load()
    from vitscope.render.sheets import Cell, sheet

    picture = scope.adapter.load(image)
    with console.image_progress(1) as progress:
        layers = scope.logit_lens(
            picture, target=opt.parse_target(target), size=size, progress=progress.update_forwards
        )
    cells = []
    for number, e in enumerate(layers):
        predictions = "\n".join(e.prediction_texts(digits=0)[:2])
        cells.append(Cell(e.overlay(**style), f"after layer {number}: {e.score:.3g}", predictions))
    title = f"{layers[-1].target} after each layer; each map on its own scale"
    results.write_png(sheet(cells, f"{picture.name} · {scope.adapter.reference} · {title}", cmap=drawing.cmap), path)
    documents = [{"layer": n, "score": e.score, "predictions": e.predictions} for n, e in enumerate(layers)]
    results.print_result(path, as_json, {"target": layers[-1].target, "layers": documents})


def similarity(
    image: opt.SingleImage,
    other: Annotated[str, typer.Argument(metavar="OTHER", help="Another image file.")],
    drawing: opt.SheetStyle,
    model: opt.ModelChoice,
    method: Annotated[
        str, typer.Option(metavar="NAME", callback=opt.check_methods, help="A method that explains a target.")
    ] = "relevance",
    size: opt.Size = None,
    out: opt.Out = Path("out"),
    force: opt.Force = False,
    as_json: opt.AsJson = False,
) -> None:
    """Draw, on two images, the regions that make them similar to the model."""
    from vitscope.render.sheets import Cell, sheet

    for one in (image, other):
        model.check_image(one)
    results.require_free(path := out / f"{Path(image).stem}-{Path(other).stem}-similarity.png", force)
    style, scope = drawing.style(), model.load()
    pictures = (scope.adapter.load(image), scope.adapter.load(other))
    maps = scope.compare(*pictures, method=method, size=size)
    cells = [
        Cell(e.overlay(**style), p.name, f"similar to {q.name}")
        for e, p, q in zip(maps, pictures, reversed(pictures), strict=True)
    ]
    title = f"{method} · cosine of the features {maps[0].score:.3f} · {scope.adapter.reference}"
    results.write_png(sheet(cells, title, cmap=drawing.cmap), path)
    results.print_result(path, as_json, {"method": method, "cosine": maps[0].score})


def compare(
    image: opt.SingleImage,
    drawing: opt.SheetStyle,
    model: opt.ModelChoice,
    method: opt.MethodSpecs = "",
    size: opt.Size = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also deletion and insertion, beside random maps: some 40 forwards a map.")
    ] = False,
    baseline: opt.Baseline = "auto",
    out: opt.Out = Path("out"),
    force: opt.Force = False,
    as_json: opt.AsJson = False,
) -> None:
    """Draw several methods' maps of one image side by side, with numbers below each."""
    from vitscope.methods.base import METHODS
    from vitscope.metrics.concentration import concentration
    from vitscope.render.sheets import Cell, sheet

    model.check_image(image)
    results.require_free(path := out / f"{Path(image).stem}-compare.png", force)
    style, scope = drawing.style(), model.load()
    picture = scope.adapter.load(image)
    score_cache: dict[Any, Any] = {}
    chosen = opt.split_names(method)
    chosen = chosen or tuple(s.name for s in scope.methods() if s and METHODS.get(s.name).quick)
    cells, documents = [Cell(picture.pil(), "image")], []
    for text in chosen:
        name, *options = text.split(":")
        start = time.perf_counter()
        e = scope.explain(picture, method=name, size=size, method_options=dict(map(opt.split_option, options)))
        seconds = time.perf_counter() - start
        numbers = concentration(e)
        below = f"{numbers['effective_patches']:.0f} of {e.map.size} patches, largest {numbers['largest_share']:.1%}"
        below += f"\nprefix {numbers['prefix_share']:.0%}, {seconds:.2f} s" + ("\nnot rollout" if e.caveat else "")
        below += "".join(f"\n{textwrap.fill(remark, _REMARK)}" for remark in e.remarks)
        document = {"method": name, "options": e.provenance["options"], "seconds": seconds} | numbers
        if measure:
            with console.image_progress(1) as progress:
                m = scope.measure(
                    e, metrics=_CURVES, baseline=baseline, score_cache=score_cache, progress=progress.update_forwards
                )
            below += "".join(f"\n{_verdict(number)}" for number in m.numbers)
            document["measurement"] = m.to_dict()
        cells.append(Cell(e.overlay(**style), text, below))
        documents.append(document)
    columns = len(cells) if len(cells) <= 4 else None
    title = f"{picture.name} · {scope.adapter.reference}" + (
        " · in brackets: the range of random maps" if measure else ""
    )
    results.write_png(sheet(cells, title, columns=columns, cmap=drawing.cmap), path)
    results.print_result(path, as_json, {"methods": documents})


def _verdict(number: "Number") -> str:
    """Return a number, the range of random maps and the verdict, for a line below a map."""
    verdict = f"{MARKS[number.verdict]} {number.verdict.removesuffix(' than random')}"
    best = f"{number.better} is better"
    return f"{verdict}: {number.name} {number.value:.3f} ({number.low:.2f} to {number.high:.2f}; {best})"
