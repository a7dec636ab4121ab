"""What docs/background/each-method.md shows besides its prose: picture, formula, cost, measurement, source."""

import re
from pathlib import Path

from tools.reference import table
from vitscope.methods.base import METHODS

DOCS = Path(__file__).parent.parent / "docs"
_MARK = re.compile(r"<!-- method: ([\w+-]+) -->")


def expand(markdown: str) -> str:
    """Replace each `<!-- method: NAME -->` by what the other pages and the code say of that method."""
    formulas = (DOCS / "methods.md").read_text("utf-8")

    def shown(match: re.Match[str]) -> str:
        name = match[1]
        one = METHODS.get(name)
        formula, value, cost, works = _row(formulas, rf"`{re.escape(name)}`", 4)
        facts = [("formula", formula), ("values", value), ("cost", cost), ("works on", works), ("source", one.source)]
        if measured := _row(formulas, re.escape(name), 4, missing_ok=True):
            share, pointing, inside, _ = measured
            facts.insert(4, ("two digits", f"share {share}, pointing {pointing}, inside {inside}"))
        picture = DOCS / "images" / "gallery" / f"{name}.jpg"
        lines = [f"![{name} on three photos](../images/gallery/{name}.jpg)\n"] if picture.exists() else []
        return "\n" + "\n".join([*lines, table(("", ""), facts)])

    return _MARK.sub(shown, markdown)


def _row(page: str, first: str, count: int, missing_ok: bool = False) -> tuple[str, ...]:
    """Return the cells after the first one of a table's row."""
    found = re.search(rf"^\| {first} \|" + r" ([^|]*) \|" * count + "$", page, re.MULTILINE)
    if found is None and not missing_ok:
        raise LookupError(f"docs/methods.md has no row {first}")
    return found.groups() if found else ()
