"""`vitscope models`, `methods` and `inspect`: what there is, and what a model is."""

from typing import Annotated, Any

import typer

from vitscope.apps import terminal
from vitscope.apps.commands.common import DEFAULT_MODEL, AsJson, Revision, load

__all__ = ["inspect", "methods", "models"]


def models(as_json: AsJson = False) -> None:
    """The forms of a model reference, and what can be loaded."""
    from vitscope import embedded
    from vitscope.families.transformers import known_types

    types = known_types()
    if as_json:
        here = [{"reference": f"embedded:{n}", "cached": embedded.is_cached(n)} for n in embedded.NAMES]
        here += [{"reference": f"embedded:{n}", "cached": True} for n in embedded.SHIPPED]
        terminal.print_json({"embedded": here, "transformers": list(types)})
        return
    rows = [
        (
            f"embedded:{n}",
            f"{embedded.about(n).summary} ({'here' if embedded.is_cached(n) else 'fetched on first use'})",
        )
        for n in embedded.NAMES
    ]
    rows += [(f"embedded:{n}", f"{summary} (here)") for n, summary in embedded.SHIPPED.items()]
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
    terminal.table(["reference", "what it is"], rows, wrap=True)


def methods(
    reference: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Also say what works on it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Every method: what it needs, what it costs, where it comes from."""
    from vitscope.registry import METHODS

    reasons = {m.name: r for m, r in load(reference).methods()} if reference else {}
    found = [method for _, method in METHODS]
    if as_json:
        fields = ("name", "summary", "needs_gradient", "uses_target", "passes", "works_on", "source", "caveat")
        documents = [
            {field: getattr(m, field) for field in fields}
            | {"options": {o.name: shown(o.default) for o in m.options.values()}}
            | ({"works": not reasons[m.name], "reason": reasons[m.name]} if reference else {})
            for m in found
        ]
        terminal.print_json({"methods": documents})
        return
    headings = ["method", "gradient", "target", "passes", "options", "source"]
    headings += ["works here"] if reference else ["works on"]
    rows = []
    for m in found:
        options = " ".join(f"{o.name}={shown(o.default)}" for o in m.options.values())
        row = [m.name, yes(m.needs_gradient), yes(m.uses_target), m.passes, options, m.source]
        here = f"no: {reasons[m.name]}" if reasons.get(m.name) else "yes"
        rows.append([*row, here if reference else m.works_on])
    terminal.table(headings, rows, wrap=True)
    for m in found:
        terminal.out.print(f"\n{m.name}: {m.summary}{f' Caution: {m.caveat}.' if m.caveat else ''}", markup=False)


def inspect(
    reference: Annotated[str, typer.Argument(metavar="MODEL", help="A model reference.")] = DEFAULT_MODEL,
    as_json: AsJson = False,
    revision: Revision = None,
) -> None:
    """What vitscope understood of a model: tokens, grid, pooling, input, and which methods fit it."""
    scope = load(reference, revision)
    layout, facts = scope.layout, dict(scope.family.describe())
    facts |= {
        "tokens": f"{layout.tokens}: {layout}",
        "prefix tokens": ", ".join(layout.prefix) or "none",
        "pooling": layout.pooling + (" (prefix tokens included)" if layout.pool_prefix else ""),
        "weights": scope.family.weights,
        "recommended": f"{(best := scope.advice())}{f': {best.why}' if best.why else ''}",
    }
    fitting = {m.name: reason for m, reason in scope.methods()}
    if as_json:
        grid = {
            "prefix": layout.prefix,
            "grid": layout.grid,
            "pooling": layout.pooling,
            "pool_prefix": layout.pool_prefix,
        }
        terminal.print_json({"model": reference, "facts": facts, "layout": grid, "methods": fitting})
        return
    rows = [("model", reference), *facts.items()]
    rows += [(f"method {name}", f"no: {reason}" if reason else "works") for name, reason in fitting.items()]
    terminal.table(["", ""], rows, wrap=True)


def yes(value: bool) -> str:
    return "yes" if value else "no"


def shown(default: Any) -> str:
    return "all" if default is None else str(default)
