"""Run the soak and write its table into docs/reliability.md.

    python -m benchmarks.soak [NAME...] [--scale 0.01] [--seed 0]

A part that was not run keeps its row, with its date. The exit status is the number of parts with something bad.
"""

import argparse
import datetime
import logging
import os
import re
import sys
import warnings
from pathlib import Path

import torch
from benchmarks.soak.counts import PARTS, Counts, chosen

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- written by python -m benchmarks.soak -->", "<!-- to here -->"
COLUMNS = ("tried", "right", "refused", "wrong", "lost", "hung", "left_changed")
HEAD = ("part", "what", *(column.replace("_", " ") for column in COLUMNS), "measured besides", "run")


def row_of(name: str, counts: Counts, seconds: float) -> str:
    """Return a part's row of the table."""
    figures = ", ".join(f"{key.replace('_', ' ')}: {value:,g}" for key, value in counts.figures.items())
    when = f"{datetime.date.today().isoformat()}, {os.cpu_count()} cores, {seconds / 60:.1f} min"
    cells = (f"`{name}`", PARTS[name].unit, *(f"{getattr(counts, column):,}" for column in COLUMNS), figures, when)
    return "| " + " | ".join(cells) + " |"


def written(text: str, rows: dict[str, str]) -> str:
    """Return the page with these rows put in the place of older ones."""
    before, _, rest = text.partition(BEGIN)
    table, _, after = rest.partition(END)
    found = {match[1]: match[0] for match in re.finditer(r"^\| `(\w+)` .*$", table, re.MULTILINE)} | rows
    head = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    return "\n".join([f"{before}{BEGIN}", *head, *(found[name] for name in PARTS if name in found), f"{END}{after}"])


def main() -> int:
    """Return the number of parts with something bad."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--scale", type=float, default=1.0, help="of each part's count")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("vitscope").setLevel(logging.CRITICAL)  # a line for each of 440,000 damaged files
    torch.set_num_threads(1)
    bad = 0
    for name, part in chosen(arguments.names).items():
        print(f"{name}: {part.what}", flush=True)
        counts, seconds = part.run(name, max(1, round(part.full * arguments.scale)), arguments.seed)
        bad += counts.bad > 0
        PAGE.write_text(written(PAGE.read_text("utf-8"), {name: row_of(name, counts, seconds)}), "utf-8")
        print(f"{row_of(name, counts, seconds)}", *counts.notes, sep="\n  ", flush=True)
    return bad


if __name__ == "__main__":
    sys.exit(main())
