"""Write the lowest release that pyproject.toml admits of each dependency, as constraints for pip.

    python tools/lowest.py > constraints.txt

Dependencies of the package and its extras; what only the tests need is left to pip.
"""

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
LOWER = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)(?:\[[^\]]*\])?>=(?P<version>[0-9.]+)")


def lowest(project: Path = PROJECT) -> dict[str, str]:
    """Return the lower bounds by the names of the distributions.

    Raises:
        ValueError: a dependency has no lower bound, or two.
    """
    described = tomllib.loads(project.read_text("utf-8"))["project"]
    found: dict[str, str] = {}
    for text in (
        *described["dependencies"],
        *(one for extra in described["optional-dependencies"].values() for one in extra),
    ):
        if text.startswith(f"{described['name']}["):
            continue
        bound = LOWER.match(text)
        if bound is None or found.setdefault(bound["name"], bound["version"]) != bound["version"]:
            raise ValueError(f"expected one lower bound, got {text!r}")
    return found


if __name__ == "__main__":
    sys.stdout.write("".join(f"{name}=={version}\n" for name, version in sorted(lowest().items())))
