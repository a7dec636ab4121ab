"""`vitscope heads`, `lens`, `alike` and `compare`: many pictures on one sheet."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitscope.cli.commands._options import (
    DEFAULT_MODEL,
    AsJson,
    Cmap,
    Device,
    Dtype,
    Force,
    Model,
    Norm,
    Out,
    Photo,
    Revision,
    Size,
    done,
    load,
    pair,
    picture_path,
    style_of,
    target_of,
    write,
)
from vitscope.errors import UnknownNameError

if TYPE_CHECKING:
    from vitscope.metrics.measurement import Number

__all__ = ["alike", "compare", "heads", "lens"]

_CURVES = ("deletion", "insertion")


def heads(
    image: Photo,
    layer: Annotated[int, typer.Option(help="From 0, or from the end with negative numbers.")] = -1,
    kind: Annotated[str, typer.Option(help="map: heads over the photo. matrix: N x N attention.")] = "map",
    model: Model = DEFAULT_MODEL,
    size: Size = None,
    cmap: Cmap = "inferno",
    norm: Norm = "auto",
    out: Out = Path("out"),
    force: Force = False,
    as_json: AsJson = False,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Every head of one layer on one contact sheet."""
    from vitscope.attention import pooled_matrix
    from vitscope.images import load_image
    from vitscope.render.sheets import Cell, sheet

    if kind not in ("map", "matrix"):
        raise UnknownNameError("kind", kind, ["map", "matrix"])
    picture = load_image(image)
    scope = load(model, revision, device, dtype)
    if kind == "map":
        maps = scope.attention_heads(picture, layer, size=size)
        number = maps[0].provenance["options"]["layer"]
        cells = [
            Cell(
                e.overlay(**style_of(cmap=cmap, norm=norm)),
                f"layer {number}, head {i}",
                f"largest patch {e.map.max():.2g}",
            )
            for i, e in enumerate(maps)
        ]
        what = "attention of the readout row; each head on its own scale"
    else:
        store = scope.attention(picture, size=size)
        number = store.select(layer)[0]
        weights, k = pooled_matrix(store[layer])
        cells = [
            Cell(w.float().cpu().numpy(), f"layer {number}, head {i}", f"{w.max():.2g} at most")
            for i, w in enumerate(weights[0])
        ]
        tokens = store[layer].shape[2]
        what = f"attention {tokens} x {tokens}: query tokens down, key tokens across; colour by square root"
        windows = store[layer].shape[0]
        what += f"; the first of {windows} windows" if windows > 1 else ""
        what += f"; means of {k} x {k}" if k > 1 else ""
    path = picture_path(out / f"{picture.name}-layer{number}-{kind}.png", force)
    write(sheet(cells, f"{picture.name} · {scope.adapter.reference} · {what}", cmap=cmap), path)
    done(path, as_json, {"layer": number, "heads": len(cells), "kind": kind})


def lens(
    image: Photo,
    target: Annotated[str | None, typer.Option(help="As for explain; by default what the model predicts.")] = None,
    model: Model = DEFAULT_MODEL,
    size: Size = None,
    cmap: Cmap = "inferno",
    norm: Norm = "auto",
    out: Out = Path("out"),
    force: Force = False,
    as_json: AsJson = False,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """What the model would say after each layer (logit lens), with that layer's map."""
    from vitscope.cli.console import explaining
    from vitscope.images import load_image
    from vitscope.render.sheets import Cell, sheet

    picture = load_image(image)
    scope = load(model, revision, device, dtype)
    with explaining(1) as bars:
        layers = scope.logit_lens(
            picture, target=target_of(target) if target else None, size=size, progress=bars.forwards
        )
    cells = []
    for number, e in enumerate(layers):
        says = [f"{label} {share:.0%}" for label, share in e.predictions[:2]] or [""]
        cells.append(
            Cell(e.overlay(**style_of(cmap=cmap, norm=norm)), f"after layer {number}: {e.score:.3g}", "\n".join(says))
        )
    path = picture_path(out / f"{picture.name}-lens.png", force)
    what = f"{layers[-1].target} after each layer; each map on its own scale"
    write(sheet(cells, f"{picture.name} · {scope.adapter.reference} · {what}", cmap=cmap), path)
    told = [{"layer": n, "score": e.score, "predictions": e.predictions} for n, e in enumerate(layers)]
    done(path, as_json, {"target": layers[-1].target, "layers": told})


def alike(
    image: Photo,
    other: Annotated[str, typer.Argument(metavar="OTHER", help="Another photo.")],
    method: Annotated[str, typer.Option(help="One that uses a target.")] = "relevance",
    model: Model = DEFAULT_MODEL,
    size: Size = None,
    cmap: Cmap = "inferno",
    norm: Norm = "auto",
    out: Out = Path("out"),
    force: Force = False,
    as_json: AsJson = False,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Which regions make two photos alike, drawn on both."""
    from vitscope.images import load_image
    from vitscope.render.sheets import Cell, sheet

    pictures = load_image(image), load_image(other)
    scope = load(model, revision, device, dtype)
    pair_of = scope.compare(*pictures, method=method, size=size)
    cells = [
        Cell(e.overlay(**style_of(cmap=cmap, norm=norm)), p.name, f"as {q.name} sees it")
        for e, p, q in zip(pair_of, pictures, reversed(pictures), strict=True)
    ]
    path = picture_path(out / f"{pictures[0].name}-{pictures[1].name}-alike.png", force)
    title = f"{method} · cosine of the features {pair_of[0].score:.3f} · {scope.adapter.reference}"
    write(sheet(cells, title, cmap=cmap), path)
    done(path, as_json, {"method": method, "cosine": pair_of[0].score})


def compare(
    image: Photo,
    methods: Annotated[
        str,
        typer.Option(
            help="Names with commas between, each with options: attention,rollout:layers=last3:residual_weight=.3."
        ),
    ] = "",
    model: Model = DEFAULT_MODEL,
    size: Size = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also deletion and insertion, beside random maps: some 40 forwards a map.")
    ] = False,
    baseline: Annotated[str, typer.Option(help="What replaces a patch: mean, blur, black, zero or removal.")] = "mean",
    cmap: Cmap = "inferno",
    norm: Norm = "auto",
    out: Out = Path("out"),
    force: Force = False,
    as_json: AsJson = False,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Several methods on one photo: one panel, with a line of numbers under each picture."""
    from vitscope.cli import console
    from vitscope.images import load_image
    from vitscope.methods.base import METHODS
    from vitscope.metrics.concentration import concentration
    from vitscope.render.sheets import Cell, sheet

    if measure:
        from vitscope.evaluation.evaluate import asked

        asked(_CURVES, baseline, "probability")
    picture = load_image(image)
    scope = load(model, revision, device, dtype)
    known: dict[Any, Any] = {}
    wanted = [name for name in methods.split(",") if name.strip()]
    wanted = wanted or [support.name for support in scope.methods() if support and METHODS.get(support.name).quick]
    cells, documents = [Cell(picture.pil(), "photo")], []
    for text in wanted:
        name, *options = text.strip().split(":")
        began = time.perf_counter()
        e = scope.explain(picture, method=name, size=size, method_options=dict(pair(option) for option in options))
        seconds = time.perf_counter() - began
        told = concentration(e)
        numbers = f"{told['effective_patches']:.0f} of {e.map.size} patches, largest {told['largest_share']:.1%}"
        below = f"{numbers}\nprefix {told['prefix_share']:.0%}, {seconds:.2f} s" + ("\nnot rollout" if e.caveat else "")
        document = {"method": name, "options": e.provenance["options"], "seconds": seconds} | told
        if measure:
            with console.explaining(1) as bars:
                m = scope.measure(e, metrics=_CURVES, baseline=baseline, known=known, progress=bars.forwards)
            below += "".join(f"\n{_beside(number)}" for number in m.numbers)
            document["measurement"] = m.to_dict()
        cells.append(Cell(e.overlay(**style_of(cmap=cmap, norm=norm)), text.strip(), below))
        documents.append(document)
    path = picture_path(out / f"{picture.name}-compare.png", force)
    columns = len(cells) if len(cells) <= 4 else None
    title = f"{picture.name} · {scope.adapter.reference}" + (" · in brackets 95 % of random maps" if measure else "")
    write(sheet(cells, title, columns=columns, cmap=cmap), path)
    done(path, as_json, {"methods": documents})


def _beside(number: "Number") -> str:
    """A number, where random maps' lie, and what that says, in a line under a picture."""
    low, high = number.shown
    said = {"better than random": "better", "worse than random": "worse", "undecided": "undecided"}
    verdict = said.get(number.verdict, "no better")
    return f"{number.name} {number.value:.3f} ({low:.2f} to {high:.2f}) {verdict}"
