"""Numbers as one screen of text: aligned columns and wrapped lines that fit the width, readable without colour."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from vitscope.cli import console

if TYPE_CHECKING:
    from vitscope.metrics.attention_statistics import Statistics
    from vitscope.metrics.ground_truth import Known
    from vitscope.metrics.measurement import Measurement, Number

__all__ = ["attention_facts", "attention_lines", "columns", "figure", "heading", "known", "measured", "prose"]

_WIDEST = 100
_MARKS = {
    "better than random": ("+ better", "green"),
    "no better than random": ("= no better", ""),
    "worse than random": ("- worse", "red"),
    "undecided": ("? undecided", ""),
    "as unlike as chance": ("= unlike", ""),
    "more alike than chance": ("! alike", "red"),
    "more opposite than chance": ("! opposite", "red"),
}
_SINKS = 2
_ASKED = (
    (("deletion", "aopc", "positive"), "does the score fall as the map's best go"),
    (("insertion", "negative"), "does it stay where only they are left"),
    (("saco", "sensitivity-n", "infidelity"), "do sets cost what the map says"),
    (("max-sensitivity", "stability"), "does the map stay under a little noise"),
)


def width() -> int:
    """How many letters a line holds."""
    return max(20, min(console.out.width, _WIDEST))


def figure(value: float) -> str:
    """A number in few letters."""
    plain = f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"
    return "0.000" if plain == "-0.000" else plain


def heading(words: str) -> None:
    """A line in bold, cut where it does not fit."""
    console.out.print(Text(textwrap.shorten(words, width(), placeholder=" ..."), "bold"), soft_wrap=True)


def prose(label: str, words: str) -> None:
    """A labelled text; further lines stand under its first word."""
    start = f"{label:<10} " if label else ""
    wrapped = textwrap.TextWrapper(width(), subsequent_indent=" " * len(start), break_on_hyphens=False)
    wrapped.break_long_words = False  # a path stays one word
    for line in wrapped.wrap(start + words):
        console.out.print(Text(line), soft_wrap=True)


def columns(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,), ink: Any = None
) -> None:
    """Aligned columns, two blanks between, or one where they would not fit.

    Args:
        headings: above the columns.
        rows: the cells.
        left: columns that begin at their left edge; the others end at their right one.
        ink: from a row's number to the colour of its last cell.
    """
    table = [list(headings), *map(list, rows)]
    wide = [max(len(row[i]) for row in table) for i in range(len(headings))]
    if sum(wide) + len(wide) - 1 > width():
        table = [[cell.replace(" .. ", "..") for cell in row] for row in table]
        wide = [max(len(row[i]) for row in table) for i in range(len(headings))]
    gap = 2 if sum(wide) + 2 * (len(wide) - 1) <= width() else 1
    for number, row in enumerate(table):
        cells = [
            f"{cell:<{w}}" if i in left else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(row, wide, strict=True))
        ]
        line = Text((" " * gap).join(cells[:-1]) + " " * gap, "bold" if number == 0 else "")
        line.append(cells[-1].rstrip(), "bold" if number == 0 else ink(number - 1) if ink else "")
        line.rstrip()
        console.out.print(line, soft_wrap=True)


def measured(measurement: "Measurement") -> None:
    """The numbers of a measurement, each beside that of random maps, and its sentence."""
    groups = [("measure", "random", [n for n in measurement.numbers if n.group != "sanity"])]
    groups.append(("weights anew", "chance", [n for n in measurement.numbers if n.group == "sanity"]))
    for title, against, numbers in groups:
        if numbers:
            headings = [title, "best", "value", against, "95 % of them", "verdict"]
            found = [_mark(number) for number in numbers]
            console.out.print()
            columns(
                headings,
                [_row(number, mark) for number, (mark, _) in zip(numbers, found, strict=True)],
                left=(0, 1, 5),
                ink=lambda row, found=found: found[row][1],
            )
    if asked := _asked([number.name for number in measurement.numbers]):
        prose("asked", asked)
    console.out.print()
    prose("", measurement.sentence(brief=True))


def _asked(names: Sequence[str]) -> str:
    """What these measures ask, in plain words."""
    there = [([name for name in group if name in names], words) for group, words in _ASKED]
    return "? ".join([*(f"{words} ({', '.join(group)})" for group, words in there if group), ""]).strip()


def known(found: "Known") -> None:
    """The numbers of a map against a mask, beside random maps and a blob in the middle, and their sentence."""
    rows, inks = [], []
    for number in found.numbers:
        (low, high), (mark, ink) = number.shown, _mark(number)
        middle = figure(number.detail["centre"])
        ends = f"{figure(low)} .. {figure(high)}"
        rows.append(
            [number.name.replace("average", "avg"), figure(number.value), figure(number.random), ends, middle, mark]
        )
        inks.append(ink)
    console.out.print()
    headings = ["on the object", "value", "random", "95 % of them", "middle", "verdict"]
    columns(headings, rows, left=(0, 5), ink=inks.__getitem__)
    console.out.print()
    prose("", found.sentence())


def _mark(number: "Number") -> tuple[str, str]:
    """Its verdict in short, and a colour; with one stage drawn anew the rest of the model is there: no fault."""
    mark, colour = _MARKS[number.verdict]
    return (f"  {mark[2:]}", "") if "independent" in number.name else (mark, colour)


def _row(number: "Number", mark: str) -> list[str]:
    low, high = number.shown
    best = {"lower": "low", "higher": "high"}[number.better] if number.group != "sanity" else "-"
    name = number.name.removeprefix("sanity-")
    return [name, best, figure(number.value), figure(number.random), f"{figure(low)} .. {figure(high)}", mark]


def attention_facts(found: "Statistics") -> dict[str, Any]:
    """The few numbers of attention that a screen has room for; None where they are not known.

    Shares and distances are means over heads; shares over layers too, distances over the first and the last three.
    """
    known = "distance" not in found.withheld
    by_layer = [float(values.mean()) for values in found.by_head("distance")] if known else []
    shares = None
    if "shares" not in found.withheld:
        names = list(found.layers[0].shares)
        shares = {n: sum(float(layer.shares[n].mean()) for layer in found.layers) / len(found.layers) for n in names}
    return {
        "sinks": None
        if "sinks" in found.withheld
        else [
            {"name": sink.name, "received": sink.received, "factor": sink.factor, "norm_factor": sink.norm_factor}
            for sink in found.sinks
        ],
        "shares": shares,
        "distance_first": sum(by_layer[:3]) / len(by_layer[:3]) if known else None,
        "distance_last": sum(by_layer[-3:]) / len(by_layer[-3:]) if known else None,
        "input": list(found.region.input),
        "withheld": dict(found.withheld),
    }


def attention_lines(found: "Statistics") -> None:
    """Sinks; to whom a patch's attention goes, and how far in the first and the last three layers."""
    facts = attention_facts(found)
    if facts["sinks"] is None:
        prose("attention", f"sinks, shares and distance are not known: {found.withheld['sinks']}")
        return
    prose("sinks", _sinks(facts["sinks"]))
    there = {
        "cls": "cls" in found.layout.prefix,
        "registers": any(n.startswith("register") for n in found.layout.prefix),
    }
    words = {"cls": "CLS", "self": "itself", "other patches": "others"}
    parts = [
        f"{words.get(name, name)} {share:.1%}" for name, share in facts["shares"].items() if there.get(name, share > 0)
    ]
    reach = f"reaches {facts['distance_first']:.0f} px, later {facts['distance_last']:.0f}"
    prose("attention", f"to {', '.join(parts)}; {reach}")


def _sinks(sinks: Sequence[dict[str, Any]]) -> str:
    if not sinks:
        return "none: no token receives far more attention than the others"
    told: list[str] = []
    for sink in sinks[:_SINKS]:
        place = sink["name"] if "," not in sink["name"] else f"patch {sink['name']}"
        told.append(f"{place} ({sink['factor']:.1f} x{'' if told else ' its share'})")
    return f"{len(sinks)} of the tokens: {', '.join(told)}{', ...' if len(sinks) > _SINKS else ''}"
