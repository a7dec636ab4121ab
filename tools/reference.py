"""The reference, written from the code: commands, methods, Python, columns of tables, errors, and the public names.

    python tools/reference.py            writes docs/reference/public-api.txt anew
    python tools/reference.py errors     prints one page

`tools/site_hooks.py` puts the pages into the site; none of them is kept in the repository.
"""

import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polib
import typer

ROOT = Path(__file__).parent.parent
FROZEN = ROOT / "docs" / "reference" / "public-api.txt"
# beyond `vitscope.__all__`: what the documents use by its full name
MODULES = {
    "vitscope.batch.run": ("run", "BatchSummary"),
    "vitscope.batch.types": ("BatchPlan",),
    "vitscope.batch.results": ("explanations",),
    "vitscope.batch.report": ("overview",),
    "vitscope.batch.rows": ("map_from_row",),
    "vitscope.export.coco": ("coco",),
    "vitscope.export.fiftyone": ("add",),
    "vitscope.export.tensorboard": ("logger",),
    "vitscope.export.wandb": ("logger",),
    "vitscope.export.trainer": ("AttentionMaps",),
    "vitscope.export.lightning": ("AttentionMaps",),
    "vitscope.images": ("load_image",),
    "vitscope.methods.base": ("method", "Method"),
    "vitscope.models.base": ("ModelAdapter",),
    "vitscope.models.traced": ("TracedAdapter",),
    "vitscope.models.generic": ("GenericAdapter",),
}


def commands() -> str:
    """Every command with its arguments and options, as the command line parses them."""
    from vitscope.cli.main import app

    root: Any = typer.main.get_command(app)
    parts = [
        "# Commands\n",
        "Every option also has an environment variable, `VITSCOPE_COMMAND_OPTION`, and a key in `vitscope.toml`: "
        "[defaults](../command-line.md#defaults). All commands take `--help`.",
    ]
    for name, command in root.commands.items():
        parts.append(f"\n## vitscope {name}\n\n{_prose(command.help)}\n\n    {_usage(name, command)}\n")
        panels: dict[str, list[Any]] = {}
        for one in command.params:
            if one.param_type_name == "argument":
                panels.setdefault("Arguments", []).append(one)
            elif one.name != "help":
                panels.setdefault(getattr(one, "rich_help_panel", None) or "Options", []).append(one)
        for panel, options in panels.items():
            rows = [(_flags(one), _default(one), one.help or "") for one in options]
            parts.append(f"**{panel}**\n\n{table(('', 'default', 'meaning'), rows)}")
        if command.epilog:
            examples = [line for line in command.epilog.splitlines() if "vitscope " in line]
            parts.append(
                "```console\n" + "\n".join(f"$ {line.partition('Example: ')[2] or line}" for line in examples) + "\n```"
            )
    return "\n".join(parts) + "\n"


def methods() -> str:
    """Every method with its options, needs and source, from the registry."""
    from vitscope.methods.base import METHODS

    parts = [
        "# Methods and their options\n",
        "Formulas and costs stand in [Methods](../methods.md), strengths and failures in "
        "[Each method](../background/each-method.md). On the command line an option is written `-O NAME=VALUE`.",
    ]
    for name, one in METHODS:
        needs = ", ".join(sorted(one.requires)) or "attention alone"
        facts = [("costs", one.passes), ("needs", needs), ("works on", one.works_on), ("source", one.source)]
        facts += [("caution", one.caveat)] if one.caveat else []
        parts.append(f"\n## {name}\n\n{_prose(inspect.getdoc(one.run) or '')}\n\n{table(('', ''), facts)}")
        if one.options:
            rows = [(f"`{o.name}`", "`" + _type(o.annotation) + "`", f"`{o.default!r}`") for o in one.options.values()]
            parts.append(table(("option", "values", "default"), rows))
    return "\n".join(parts) + "\n"


def python() -> str:
    """Every public name, by its docstring."""
    import vitscope

    names = [name for name in vitscope.__all__ if name != "__version__"]
    parts = ["# Python\n", "What `import vitscope` offers, and what the documents use by its full name.\n"]
    parts += [f"::: vitscope.{name}\n" for name in names]
    parts += [f"::: {module}.{name}\n" for module, found in MODULES.items() for name in found]
    return "\n".join(parts)


def columns() -> str:
    """Every column of the tables that vitscope writes, with its type."""
    from vitscope.batch.rows import schema

    words = (ROOT / "docs" / "batch.md").read_text("utf-8")
    said: dict[str, str] = {}
    for names, meaning in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| [^|]+ \| (.+) \|$", words, re.MULTILINE):
        said |= dict.fromkeys(re.findall(r"`(\w+)`", names), meaning)
    batch = [(f"`{one.name}`", f"`{one.type}`", said[one.name]) for one in schema()]
    layers, numbers = _example_rows()
    parts = [
        "# Columns of tables\n",
        "## vitscope batch: `data/*.parquet`\n",
        table(("column", "type", "meaning"), batch),
        "With `--metrics`, each measure adds `NAME`, `NAME_random` and `NAME_verdict`.\n",
        "## vitscope statistics: `statistics.parquet`, `--format`\n",
        "One row for each layer and head.\n",
        table(("column", "meaning"), layers),
        "## vitscope measure: `measure.parquet`, `--format`\n",
        "One row for each number.\n",
        table(("column", "meaning"), numbers),
    ]
    return "\n".join(parts)


def _example_rows() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the columns of both tables of numbers, from rows made by hand, with the words of their classes."""
    import numpy as np

    from vitscope.geometry import ImageRegion, TokenLayout
    from vitscope.metrics.attention_statistics import LayerStatistics, Statistics
    from vitscope.metrics.measurement import Measurement, Number

    one = np.zeros(1, np.float32)
    layout, region = TokenLayout(("cls",), (1, 1)), ImageRegion.from_resize_crop((16, 16), (16, 16), None)
    layer = LayerStatistics("block", 2, 2, one, one)
    shares = {"layer": "the layer, from 0", "head": "the head, from 0", "module": _said(LayerStatistics, "name")}
    layers = [
        (f"`{name}`", shares.get(name) or _said(LayerStatistics, name) or _share(name))
        for name in Statistics((layer,), (), layout, region).rows()[0]
    ]
    number = Number("deletion", "faithfulness", 0.0, "lower", 0.0, 0.0, 0.0, 1, 1, 1, 0, 0)
    own = {"verdict": "what the number says beside random maps"}
    made = Measurement.rows(SimpleNamespace(numbers=[number]))  # type: ignore[arg-type]
    return layers, [(f"`{name}`", own.get(name) or _said(Number, name)) for name in made[0]]


def _share(name: str) -> str:
    return f"share of the attention of patches that goes to: {name.removeprefix('share_').replace('_', ' ')}"


def _said(kind: type, name: str) -> str:
    """Return what the docstring of a class says of an attribute."""
    words = " ".join((inspect.getdoc(kind) or "").split())
    found = re.search(rf"[ .]{name}: (.+?)\.? (?:\w+: |Raises:|Returns:)", f"{words} end: ")
    return found[1] if found else ""


def errors() -> str:
    """Every error: the classes, and the code of each sentence with its English and its Chinese."""
    from vitscope import errors as module

    tree = re.search(r"VitscopeError\n(?:[├└│ ].*\n)+", inspect.getdoc(module) or "")
    assert tree is not None
    parts = [
        "# Errors\n",
        "Each error is a `vitscope.VitscopeError` with a `code`, which never changes with the words. Codes that end in "
        "`.hint` say what to do. `{name}` is a value, `{@size=224}` an option: `size=224` in Python, `--size 224` on "
        "the command line.\n",
        f"```text\n{tree[0]}```\n",
    ]
    for path in sorted((ROOT / "src/vitscope/locales/en").glob("*.po")):
        if path.stem.endswith("-page"):  # words of a page, not sentences with a code
            continue
        chinese = {entry.msgid: entry.msgstr for entry in polib.pofile(path.parents[1] / "zh" / path.name)}
        rows = [(f"`{one.msgid}`", one.msgstr, chinese.get(one.msgid, "")) for one in polib.pofile(path)]
        parts.append(f"## {path.stem}\n\n{table(('code', 'English', 'Chinese'), rows)}")
    return "\n".join(parts)


PAGES: dict[str, Callable[[], str]] = {
    f"reference/{page.__name__}.md": page for page in (commands, methods, python, columns, errors)
}


# --- the public names ------------------------------------------------------------------------------------------------


def public_api() -> str:
    """Return one line for each public name and each member of a class, with its signature."""
    import vitscope

    found = {f"vitscope.{name}": getattr(vitscope, name) for name in vitscope.__all__ if name != "__version__"}
    for module, names in MODULES.items():
        found |= {f"{module}.{name}": getattr(importlib.import_module(module), name) for name in names}
    return "".join(f"{line}\n" for name in sorted(found) for line in _lines(name, found[name]))


def _lines(name: str, value: Any) -> Iterator[str]:
    if not inspect.isclass(value):
        yield f"{name}{_signature(value)}"
        return
    bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
    takes = "" if issubclass(value, dict) else _signature(value)
    yield f"class {name}{takes}" + (f" of {bases}" if bases else "")
    keys = value.__annotations__ if issubclass(value, dict) else {}
    yield from (f"  {name}[{key!r}]" for key in sorted(keys))
    for member in sorted(member for member in dir(value) if not member.startswith("_")):
        owner = next(kind for kind in value.__mro__ if member in vars(kind) or member in _own_fields(kind))
        if owner.__module__.partition(".")[0] != "vitscope":  # of Exception, dict, tuple
            continue
        what = inspect.getattr_static(value, member, None)
        if isinstance(what, (staticmethod, classmethod)) or callable(what):
            yield f"  {name}.{member}{_signature(getattr(value, member))}"
        else:
            yield f"  {name}.{member}"
    for member in sorted(_own_fields(value) - set(dir(value))):
        yield f"  {name}.{member}"


def _own_fields(kind: type) -> set[str]:
    return {one.name for one in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()


def _signature(value: Any) -> str:
    """Return the parameters with whether they have a default; annotations may change their spelling."""
    try:
        given = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return "(...)"
    shown, keywords = [], False
    for one in given:
        if one.kind is one.KEYWORD_ONLY and not keywords:
            shown.append("*")
        keywords = keywords or one.kind in (one.KEYWORD_ONLY, one.VAR_POSITIONAL)
        stars = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
        default = "" if one.default is one.empty else "="
        if default and isinstance(one.default, (str, int, float, bool, type(None))):
            default += repr(one.default)
        shown.append(f"{stars}{one.name}{default}")
    return f"({', '.join(shown)})"


# --- Markdown --------------------------------------------------------------------------------------------------------


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def _cell(value: object) -> str:
    parts = " ".join(str(value).split()).split("`")
    parts[::2] = [_escaped(part) for part in parts[::2]]  # what is between back quotes stays
    return "`".join(parts)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("[", "\\[")


def _prose(text: str | None) -> str:
    """Return a docstring as Markdown: a section's entries become a list."""
    lines: list[str] = []
    for line in inspect.cleandoc(text or "").splitlines():
        if section := re.fullmatch(r"(Args|Returns|Raises|Yields):", line):
            lines += [f"**{section[1]}**", ""]
        elif entry := re.fullmatch(r" {4}(\w+): (.*)", line):
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        else:
            lines.append(line.strip())
    return "".join(f"{line}\n" for line in lines).replace("<", "&lt;").rstrip()


def _usage(name: str, command: Any) -> str:
    arguments = [one.metavar or one.name.upper() for one in command.params if one.param_type_name == "argument"]
    return " ".join(["vitscope", name, "[OPTIONS]", *arguments])


def _flags(option: Any) -> str:
    if option.param_type_name == "argument":
        return f"`{option.metavar or option.name.upper()}`"
    flags = ", ".join([*option.opts, *option.secondary_opts])
    metavar = (option.metavar or "").strip()
    return f"`{flags} {metavar}`" if metavar else f"`{flags}`"


def _default(option: Any) -> str:
    value = option.default
    if value is None or callable(value) or value is False or value in ("", []) or type(value).__name__ == "Sentinel":
        return ""
    return f"`{value}`"


def _type(annotation: Any) -> str:
    plain = isinstance(annotation, type) and not getattr(annotation, "__args__", ())
    return annotation.__name__ if plain else str(annotation).replace("typing.", "")


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.stdout.write(PAGES[f"reference/{sys.argv[1]}.md"]())
    else:
        FROZEN.write_text(public_api(), "utf-8")
