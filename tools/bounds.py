"""Write constraints for pip by which it installs the lowest, or the newest, releases that pyproject.toml admits.

    python tools/bounds.py lowest > constraints.txt

Of the package and its extras; what only the tests need is as new as fits. `newest` needs no constraint.
"""

import re
import sys
import tomllib
from itertools import chain
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
BOUNDS = re.compile(r"(?P<name>[\w.-]+)(\[[\w,]+\])?>=(?P<lower>[\d.]+),<(?P<upper>[\d.]+)")


def bounds(project: Path = PROJECT) -> dict[str, tuple[str, str]]:
    """Return the lower and the upper bound of each distribution, by its name.

    Raises:
        ValueError: a dependency has not both bounds, or others elsewhere.
    """
    described = tomllib.loads(project.read_text("utf-8"))["project"]
    texts = chain(described["dependencies"], *described["optional-dependencies"].values())
    found: dict[str, tuple[str, str]] = {}
    for text in texts:
        if text.startswith(f"{described['name']}["):
            continue
        match = BOUNDS.fullmatch(text)
        pair = (match["lower"], match["upper"]) if match else None
        if pair is None or found.setdefault(match["name"], pair) != pair:
            raise ValueError(f"{text!r}: expected the same lower and upper bound wherever it is named")
    return found


if __name__ == "__main__":
    if sys.argv[1] == "lowest":
        sys.stdout.writelines(f"{name}=={lower}\n" for name, (lower, _) in sorted(bounds().items()))
