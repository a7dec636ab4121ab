"""`vitscope models`, `methods` and `inspect`: what there is, and what a model is."""

from typing import Annotated, Any

import typer

from vitscope.cli import console
from vitscope.cli.commands._options import DEFAULT_MODEL, AsJson, Revision, load

__all__ = ["inspect", "methods", "models"]


def models(as_json: AsJson = False) -> None:
    """The forms of a model reference, and what can be loaded."""
    from vitscope.models.bundled import wheel
    from vitscope.models.transformers import known_types

    types = known_types()
    if as_json:
        here = [{"reference": f"embedded:{n}", "cached": wheel.is_cached(n)} for n in wheel.NAMES]
        here += [{"reference": f"embedded:{n}", "cached": True} for n in wheel.SHIPPED]
        console.print_json({"embedded": here, "transformers": list(types)})
        return
    rows = [
        (
            f"embedded:{n}",
            f"{wheel.about(n).summary} ({'here' if wheel.is_cached(n) else 'fetched on first use'})",
        )
        for n in wheel.NAMES
    ]
    rows += [(f"embedded:{n}", f"{summary} (here)") for n, summary in wheel.SHIPPED.items()]
    rows += [
        ("HUB/ID or FOLDER", f"an image model of transformers; by table: {', '.join(types)}; others are traced"),
        ("timm:NAME", "any model of timm with pretrained weights, such as timm:vit_base_patch16_224"),
        ("torchvision:NAME", "such as torchvision:vit_b_16 or torchvision:swin_t"),
        (
            "open_clip:ARCH/PRETRAINED",
            "the image tower, such as open_clip:ViT-B-32/laion2b_s34b_b79k, or a file of weights",
        ),
        ("in Python", "vitscope.load(module) for any module; vitscope.capture(module) sees its raw attention"),
    ]
    console.table(["reference", "what it is"], rows, wrap=True)


def methods(
    reference: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Also say what works on it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Every method: what it needs, what it costs, where it comes from."""
    from vitscope.methods.base import METHODS

    reasons = {support.name: support.reason for support in load(reference).methods()} if reference else {}
    found = [method for _, method in METHODS]
    if as_json:
        fields = ("name", "summary", "passes", "works_on", "source", "caveat")
        documents = [
            {field: getattr(m, field) for field in fields}
            | {"requires": sorted(m.requires), "options": {o.name: shown(o.default) for o in m.options.values()}}
            | ({"works": not reasons[m.name], "reason": reasons[m.name]} if reference else {})
            for m in found
        ]
        console.print_json({"methods": documents})
        return
    headings = ["method", "gradient", "target", "passes", "options", "source"]
    headings += ["works here"] if reference else ["works on"]
    rows = []
    for m in found:
        options = " ".join(f"{o.name}={shown(o.default)}" for o in m.options.values())
        row = [m.name, yes("gradient" in m.requires), yes("target" in m.requires), m.passes, options, m.source]
        here = f"no: {reasons[m.name]}" if reasons.get(m.name) else "yes"
        rows.append([*row, here if reference else m.works_on])
    console.table(headings, rows, wrap=True)
    for m in found:
        console.out.print(f"\n{m.name}: {m.summary}{f' Caution: {m.caveat}.' if m.caveat else ''}", markup=False)


def inspect(
    reference: Annotated[str, typer.Argument(metavar="MODEL", help="A model reference.")] = DEFAULT_MODEL,
    as_json: AsJson = False,
    revision: Revision = None,
) -> None:
    """What vitscope understood of a model: tokens, grid, pooling, input, and which methods fit it."""
    scope = load(reference, revision)
    layout, facts = scope.layout, dict(scope.adapter.describe())
    facts |= {
        "tokens": f"{layout.tokens}: {layout}",
        "prefix tokens": ", ".join(layout.prefix) or "none",
        "pooling": layout.pooling + (" (prefix tokens included)" if layout.pool_prefix else ""),
        "weights": scope.adapter.weights,
        "recommended": f"{(best := scope.recommend())}{f': {best.why}' if best.why else ''}",
    }
    fitting = {support.name: support.reason for support in scope.methods()}
    if as_json:
        grid = {
            "prefix": layout.prefix,
            "grid": layout.grid,
            "pooling": layout.pooling,
            "pool_prefix": layout.pool_prefix,
        }
        console.print_json({"model": reference, "facts": facts, "layout": grid, "methods": fitting})
        return
    rows = [("model", reference), *facts.items()]
    rows += [(f"method {name}", f"no: {reason}" if reason else "works") for name, reason in fitting.items()]
    console.table(["", ""], rows, wrap=True)


def yes(value: bool) -> str:
    return "yes" if value else "no"


def shown(default: Any) -> str:
    return "all" if default is None else str(default)
