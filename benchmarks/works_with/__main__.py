"""Try every row and write docs/works-with.md."""

import sys
import warnings
from pathlib import Path

import torch
from benchmarks.works_with.table import REFUSED, is_installed, rows

PAGE = Path(__file__).parents[2] / "docs" / "works-with.md"
HEAD = """# What vitscope works with

Each row was run by `python -m benchmarks.works_with`, which writes this page: tiny models with random weights unless a
row says otherwise, on the CPU. "Difference" is the largest one between vitscope's numbers and a value that was computed
in another way. "Refused" means that vitscope says, in one line, what it saw, what it expected and what to do.
"""


def main() -> int:
    """Return the number of wrong rows."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    needed = {name for row in rows() for name in row.libraries}
    if missing := sorted(name for name in needed if not is_installed(name)):
        sys.exit(f"not installed: {', '.join(missing)}")
    lines, kind, wrong = [HEAD], "", 0
    for row in rows():
        try:
            found = row.try_it()
        except Exception as error:  # wrong, as any other difference is
            found = f"{type(error).__name__}: {error}"
        right = found == REFUSED or (not isinstance(found, str) and found <= row.tolerance)
        wrong += not right
        print("ok   " if right else "WRONG", row.kind, "|", row.what, "|", found, flush=True)
        if row.kind != kind:
            kind = row.kind
            lines += [f"\n## {kind}\n", "| tried | libraries | checked against | difference |", "|---|---|---|---|"]
        lines.append(
            f"| {row.what} | {row.versions()} | {row.against} | {found if isinstance(found, str) else f'{found:.1e}'} |"
        )
    PAGE.write_text("\n".join(lines) + "\n")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
