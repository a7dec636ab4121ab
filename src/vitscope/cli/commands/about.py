"""`vitscope models`, `methods` and `inspect`: the available models and methods, and what a model is."""

import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitscope._messages import msg
from vitscope.cli import console
from vitscope.cli.commands import _checks as checks
from vitscope.cli.commands import _options as opt
from vitscope.cli.tables import TableFormat, print_table_as
from vitscope.errors import Support, UnknownNameError, UsageError
from vitscope.methods.declared import declared_options
from vitscope.methods.method_options import PACKAGE
from vitscope.models.bundled.catalogue import default_model

if TYPE_CHECKING:
    from vitscope.methods.base import Method

_METHOD_OR_MODEL = "method or local model"
_Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="MODEL", callback=checks.check_model, help="The same as MODEL, as elsewhere."
    ),
]


def models(as_json: opt.AsJson = False) -> None:
    """List the forms of a model reference, and the bundled models."""
    from vitscope.models.base import ADAPTERS
    from vitscope.models.bundled import catalogue, wheel
    from vitscope.models.transformers.types import known_types

    types = known_types()
    if as_json:
        bundled = [{"reference": f"embedded:{n}", "cached": wheel.is_cached(n)} for n in catalogue.NAMES]
        bundled += [{"reference": f"embedded:{n}", "cached": True} for n in catalogue.SHIPPED]
        console.print_json({"embedded": bundled, "transformers": list(types)})
        return
    rows = [
        (
            f"embedded:{n}",
            f"{catalogue.about(n).summary} ({'installed' if wheel.is_cached(n) else 'downloaded on first use'})",
        )
        for n in catalogue.NAMES
    ]
    rows += [(f"embedded:{n}", f"{summary} (installed)") for n, summary in catalogue.SHIPPED.items()]
    rows += [
        (
            "HUB/ID or FOLDER",
            f"an image model of transformers; known types: {', '.join(types)}; other types are traced",
        ),
        *((f"{name}:NAME", adapter.references) for name, adapter in ADAPTERS if adapter.references),
        ("... --weights FILE", "that architecture with the weights of a file, such as best.pth or model.safetensors"),
        ("in Python", "vitscope.load(module) for any module; vitscope.capture(module) records its raw attention"),
    ]
    console.print_table(["reference", "meaning"], rows, wrap=True)


def methods(
    flags: opt.LoadFlags,
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL|METHOD",
            callback=checks.check_model,
            help="Also report which methods apply to this model; or one method alone.",
        ),
    ] = None,
    model: _Model = None,
    format_: TableFormat = "text",
    as_json: opt.AsJson = False,
) -> None:
    """List the methods: what each needs, costs and computes, and its source."""
    named = reference is not None and re.fullmatch("[a-z-]+[+]{0,2}", reference) and not Path(reference).exists()
    if reference is not None and named and not entry_points(group=PACKAGE):
        UnknownNameError.check(_METHOD_OR_MODEL, reference, sorted(declared_options()) or [reference])
    name, reference = (reference, _one(None, model)) if named else (None, _one(reference, model))
    loaded = opt.load(reference, **flags.keywords()).methods() if reference else []  # asks the Hub before torch comes
    from vitscope.methods.base import METHODS

    found = [method for _, method in METHODS]
    if name is not None:
        found = _called(found, name)
    found_here = {support.name: support for support in loaded}
    if as_json:
        fields = ("name", "summary", "passes", "works_on", "source", "caveat")
        documents = [
            {field: getattr(m, field) for field in fields}
            | {"requires": sorted(m.requires), "options": {o.name: _default(o.default) for o in m.options.values()}}
            | ({"works": found_here[m.name].ok, "reason": found_here[m.name].reason} if reference else {})
            for m in found
        ]
        console.print_json({"methods": documents})
        return
    headings = ["method", "gradient", "target", "passes", "works here" if reference else "works on"]
    rows = [
        [
            m.name,
            _yes_or_no("gradient" in m.requires),
            _yes_or_no("target" in m.requires),
            m.passes,
            _applies(found_here[m.name], "yes") if reference else m.works_on,
        ]
        for m in found
    ]
    words = [[_options(m), m.source, m.summary, m.caveat] for m in found]
    if format_ != "text":
        rows = [[*row, *more] for row, more in zip(rows, words, strict=True)]
        print_table_as(format_, [*headings, "options", "source", "summary", "caution"], rows)
        return
    console.print_table(headings, rows, wrap=True)
    for m, (options, source, summary, caveat) in zip(found, words, strict=True):
        caution = f" Caution: {caveat}." if caveat else ""
        console.print_line("")
        console.out.print(console.shown(f"{m.name}: {summary}{caution}"))
        for name, text in (("options", options), ("source", source)):
            if text:
                console.out.print(console.shown(f"  {name}: {text}", "dim"))


def _options(method: "Method") -> str:
    return " ".join(f"{option.name}={_default(option.default)}" for option in method.options.values())


def inspect(
    flags: opt.LoadFlags,
    reference: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", callback=checks.check_model, help=f"{opt.MODEL_HELP} {opt.DEFAULT_HELP}"),
    ] = None,
    model: _Model = None,
    as_json: opt.AsJson = False,
) -> None:
    """Describe a model: tokens, grid, pooling, input, the recommended method, and which methods apply."""
    reference = _one(reference, model) or checks.check_model(default_model())
    scope = opt.load(reference, **flags.keywords())
    layout, facts, best = scope.layout, dict(scope.adapter.describe()), scope.recommend()
    facts |= {
        "tokens": f"{layout.tokens}: {layout}",
        "prefix tokens": ", ".join(layout.prefix) or "none",
        "pooling": layout.pooling + (" (prefix tokens included)" if layout.pool_prefix else ""),
        "explained output": scope.adapter.reads(),
        "weights": scope.adapter.weights,
        **({"notes": "; ".join(scope.adapter.notes)} if scope.adapter.notes else {}),
        "recommended": f"{best}{f': {best.reason}' if best.reason else ''}",
        **({"calibration": best.note} if best.note else {}),
    }
    supports = scope.methods()
    if as_json:
        names = ("prefix", "grid", "pooling", "pool_prefix")
        document = {name: getattr(layout, name) for name in names}
        console.print_json(
            {"model": reference, "facts": facts, "layout": document, "methods": {s.name: s.reason for s in supports}}
        )
        return
    rows = [("model", reference), *facts.items()]
    rows += [(f"method {support.name}", _applies(support, "works")) for support in supports]
    console.print_table(["", ""], rows, wrap=True)


def _one(argument: str | None, option: str | None) -> str | None:
    """Return the model that was named in one of two ways."""
    if argument is not None and option is not None:
        raise UsageError(
            msg("cli.two-models", "the model is named twice: {one} and {other}", one=argument, other=option)
        )
    return argument if option is None else option


def _called(methods: "list[Method]", name: str) -> "list[Method]":
    """Return the method of that name."""
    UnknownNameError.check(_METHOD_OR_MODEL, name, [one.name for one in methods])
    return [one for one in methods if one.name == name]


def _applies(support: Support, yes: str) -> str:
    """Say whether a method applies, or under which condition."""
    reason = console.in_flags(support.reason)
    return f"no: {reason}" if not support else reason or yes


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


def _default(value: Any) -> str:
    return "all" if value is None else str(value)
