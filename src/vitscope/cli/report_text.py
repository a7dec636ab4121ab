"""Measurements and statistics as text on one screen: at most 100 columns, readable without colour."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from vitscope.cli import console
from vitscope.metrics.verdict_text import MARKS

if TYPE_CHECKING:
    from vitscope.metrics.attention_statistics import Statistics
    from vitscope.metrics.ground_truth import MaskComparison
    from vitscope.metrics.measurement import Measurement, Number

_WIDEST, _LABEL = 100, 10
_VERDICTS = {
    "better than random": ("better", "green"),
    "no better than random": ("no better", ""),
    "worse than random": ("worse", "red"),
    "undecided": ("undecided", ""),
    "as unlike as chance": ("unlike", ""),
    "more alike than chance": ("alike", "red"),
    "more opposite than chance": ("opposite", "red"),
}
_SINKS = 2
_QUESTIONS = (
    (("deletion", "aopc", "positive"), "does the score fall when the map's best patches go"),
    (("insertion", "negative"), "does it stay where only they are left"),
    (("saco", "sensitivity-n", "infidelity"), "does hiding a set of patches cost as much score as the map predicts"),
    (("max-sensitivity", "stability"), "does the map withstand a little noise"),
)


def format_number(value: float) -> str:
    """Return a number in few characters."""
    plain = f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"
    return "0.000" if plain == "-0.000" else plain


def print_heading(text: str) -> None:
    """Print a bold line, or several where it does not fit."""
    console.out.print(console.shown(text, "bold"), width=_width())


def print_text(text: str) -> None:
    """Print a paragraph."""
    console.out.print(console.shown(text), width=_width())


def print_field(label: str, text: str) -> None:
    """Print a label and, beside it, its text, which may take several lines."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=_LABEL)
    grid.add_column(overflow="fold")
    grid.add_row(label, console.shown(text))
    console.out.print(grid, width=_width())


def print_files(paths: Sequence[Path]) -> None:
    """Print which files were written; where their folder does not fit, it has a line of its own, never wrapped."""
    names, folder = f"{', '.join(path.name for path in paths)} in", str(paths[0].parent)
    if len(folder) < _width() - _LABEL:
        print_field("written", f"{names} {folder}")
    else:
        print_field("written", names)
        console.print_line(f"{'':{_LABEL}} {folder}")


def print_columns(headings: Sequence[str], rows: Sequence[Sequence[str | Text]], *, left: Sequence[int] = (0,)) -> None:
    """Print columns, right-aligned but for `left`; where too wide, with less space between and in ranges."""
    options = console.out.options.update(width=10 * _WIDEST)
    for separator, gap in product((" .. ", ".."), (2, 1)):
        table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
        for number, heading in enumerate(headings):
            table.add_column(heading, justify="left" if number in left else "right", no_wrap=True)
        for row in rows:
            table.add_row(*(c if isinstance(c, Text) else console.shown(c.replace(" .. ", separator)) for c in row))
        if console.out.measure(table, options=options).maximum <= _width():
            break
    console.out.print(table, width=_width())


def print_measurement(measurement: "Measurement") -> None:
    """Print each number of a measurement beside that of random maps, and what it means in sentences."""
    from vitscope.metrics.faithfulness import POWERFUL

    sanity = [n for n in measurement.numbers if n.group == "sanity"]
    others = [n for n in measurement.numbers if n.group != "sanity"]
    for title, reference, numbers in (("measure", "random", others), ("weights reset", "chance", sanity)):
        if numbers:
            console.out.print()
            headings = [title, "best", "value", reference, "their range", "verdict"]
            print_columns(headings, [_measurement_row(number) for number in numbers], left=(0, 1, 5))
    if questions := _questions([number.name for number in measurement.numbers]):
        print_field("questions", questions)
    if weak := [f"{n.name} {n.power:.0%}" for n in measurement.numbers if n.power is not None and n.power < POWERFUL]:
        print_field(
            "weak", f"right maps that are found better than random, where the right map is known: {', '.join(weak)}"
        )
    console.out.print()
    print_text(measurement.sentence(brief=True))


def print_localisation(found: "MaskComparison") -> None:
    """Print the numbers of a map against a mask, beside random maps and a blob in the centre, and their sentence."""
    rows: list[list[str | Text]] = [
        [
            number.name.replace("average", "avg"),
            format_number(number.value),
            format_number(number.random),
            _range(number),
            format_number(number.detail["centre"]),
            _mark(number),
        ]
        for number in found.numbers
    ]
    console.out.print()
    print_columns(["localisation", "value", "random", "their range", "centre", "verdict"], rows, left=(0, 5))
    console.out.print()
    print_text(found.sentence())


def attention_document(found: "Statistics") -> dict[str, Any]:
    """Return the few numbers of attention that fit on a screen; None where they are not known.

    Shares and distances are means over heads; shares over layers too, distances over the first and the last three.
    """
    known = "distance" not in found.unavailable
    by_layer = [float(values.mean()) for values in found.by_head("distance")] if known else []
    shares = None
    if "shares" not in found.unavailable:
        names = list(found.layers[0].shares)
        shares = {n: sum(float(layer.shares[n].mean()) for layer in found.layers) / len(found.layers) for n in names}
    return {
        "sinks": None
        if "sinks" in found.unavailable
        else [
            {"name": sink.name, "received": sink.received, "factor": sink.factor, "norm_factor": sink.norm_factor}
            for sink in found.sinks
        ],
        "shares": shares,
        "distance_first": sum(by_layer[:3]) / len(by_layer[:3]) if known else None,
        "distance_last": sum(by_layer[-3:]) / len(by_layer[-3:]) if known else None,
        "input": list(found.region.input),
        "unavailable": dict(found.unavailable),
    }


def print_attention(found: "Statistics") -> None:
    """Print the sinks, which tokens patches attend to, and how far, in the first and the last three layers."""
    numbers = attention_document(found)
    if numbers["sinks"] is None:
        print_field(
            "attention", f"sinks, shares and distance are not known: {console.in_flags(found.unavailable['sinks'])}"
        )
        return
    print_field("sinks", _sinks(numbers["sinks"]))
    present = {
        "cls": "cls" in found.layout.prefix,
        "registers": any(name.startswith("register") for name in found.layout.prefix),
    }
    names = {"cls": "CLS", "self": "itself", "other patches": "others"}
    parts = [
        f"{names.get(name, name)} {share:.1%}"
        for name, share in numbers["shares"].items()
        if present.get(name, share > 0)
    ]
    reach = f"reaches {numbers['distance_first']:.0f} px, later {numbers['distance_last']:.0f} px"
    print_field("attention", f"to {', '.join(parts)}; {reach}")


def _width() -> int:
    return max(20, min(console.out.width, _WIDEST))


def _measurement_row(number: "Number") -> list[str | Text]:
    best = {"lower": "low", "higher": "high"}[number.better] if number.group != "sanity" else "-"
    name = number.name.removeprefix("sanity-")
    return [name, best, format_number(number.value), format_number(number.random), _range(number), _mark(number)]


def _range(number: "Number") -> str:
    return f"{format_number(number.low)} .. {format_number(number.high)}"


def _mark(number: "Number") -> Text:
    """Return a short verdict; with one layer reset alone the rest of the model remains, and likeness is no fault."""
    word, colour = _VERDICTS[number.verdict]
    return Text(f"  {word}") if "independent" in number.name else Text(f"{MARKS[number.verdict]} {word}", colour)


def _questions(names: Sequence[str]) -> str:
    """Return the questions that these measures answer."""
    answered = [([name for name in group if name in names], question) for group, question in _QUESTIONS]
    return " ".join(f"{question} ({', '.join(group)})?" for group, question in answered if group)


def _sinks(sinks: Sequence[dict[str, Any]]) -> str:
    if not sinks:
        return "none: no token receives far more attention than the others"
    parts = []
    for number, sink in enumerate(sinks[:_SINKS]):
        name = sink["name"] if "," not in sink["name"] else f"patch {sink['name']}"
        parts.append(f"{name} ({sink['factor']:.1f} x{'' if number else ' the even share'})")
    return f"{len(sinks)} of the tokens: {', '.join(parts)}{', ...' if len(sinks) > _SINKS else ''}"
