"""Write CITATION.cff: the version is that of the package, the date that of its release in CHANGELOG.md.

    python tools/citation.py

While the version is one of development, it has no date.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def citation(version: str, changelog: str, settings: dict) -> str:
    """Return the text of CITATION.cff.

    Args:
        version: that of `_version.py`.
        changelog: the text of CHANGELOG.md, in which a release is headed by its version and date.
        settings: those of pyproject.toml.
    """
    project = settings["project"]
    released = re.search(rf"^## {re.escape(version)} - (\d{{4}}-\d\d-\d\d)$", changelog, re.MULTILINE)
    if not released and "dev" not in version:
        raise SystemExit(f"citation: CHANGELOG.md has no heading `## {version} - YYYY-MM-DD`")
    address = settings["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"]
    lines = [
        "cff-version: 1.2.0",
        "message: If vitscope helps your work, please cite it.",
        'title: "vitscope: see where a Vision Transformer looks"',
        "type: software",
        "authors:",
        *(f"  - name: {author['name']}" for author in project["authors"]),
        f"version: {version}",
        *([f"date-released: {released[1]}"] if released else []),
        *([f"repository-code: {address}"] if address else []),
        f"license: {project['license']}",
        "keywords: [vision transformer, attention, attention rollout, explainability]",
    ]
    return "\n".join(lines) + "\n"


def package_version(root: Path = ROOT) -> str:
    """Return the version of the package in a source tree."""
    [version] = re.findall(r'^__version__ = "(.+)"$', (root / "src/vitscope/_version.py").read_text("utf-8"), re.M)
    return version


def current(root: Path = ROOT) -> str:
    """Return the text that CITATION.cff of a source tree should have."""
    settings = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    return citation(package_version(root), (root / "CHANGELOG.md").read_text("utf-8"), settings)


if __name__ == "__main__":
    (ROOT / "CITATION.cff").write_text(current(), "utf-8")
