"""Tables of results for other programs: CSV, Markdown and LaTeX."""

import csv
import io
import sys
from collections.abc import Sequence
from typing import Annotated

from vitscope._messages import visible
from vitscope._numbers import number
from vitscope.cli.commands._checks import one_of

_FORMS = "text|csv|md|latex"
TableFormat = Annotated[
    str,
    one_of(_FORMS, "Form of the table: for the screen, or for other programs, with all digits.", "format", "--format"),
]
_LATEX = {
    **{one: f"\\{one}" for one in "&%$#_{}"},
    **{
        one: f"{{{one}}}" for one in "[*"
    },  # at the start of a row LaTeX takes them for an option of the break before it
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},  # other signs in LaTeX's own fonts
}


def print_table_as(form: str, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout as `csv`, `md` or `latex`; floats have seven digits, None is empty."""
    cells = [[_text(cell) for cell in row] for row in rows]
    if form == "csv":
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([headings, *([*map(_inert, row)] for row in cells)])
        text = buffer.getvalue()
    elif form == "md":
        lines = [headings, ["---"] * len(headings), *([cell.replace("|", "\\|") for cell in row] for row in cells)]
        text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    else:
        body = "".join(f"{' & '.join(map(_escaped, line))} \\\\\n" for line in [headings, *cells])
        text = f"\\begin{{tabular}}{{{'l' * len(headings)}}}\n{body}\\end{{tabular}}\n"
    sys.stdout.write(text)


def _text(cell: object) -> str:
    text = "" if cell is None else f"{cell:.7g}" if isinstance(cell, float) else str(cell)
    return visible(" ".join(text.split()))


def _inert(text: str) -> str:
    """Return a text that no spreadsheet computes: before a name that looks like a formula stands an apostrophe."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) and number(text) is None else text


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(one, one) for one in text)
