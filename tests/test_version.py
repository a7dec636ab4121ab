"""One version: `_version.py` has it; the citation, the changelog and a release's tag agree with it."""

import re
import shutil
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from tools import citation

import vitscope

ROOT = Path(__file__).parents[1]


def test_the_citation_is_made_from_the_version():
    text = (ROOT / "CITATION.cff").read_text("utf-8")
    assert text == citation.current(), "run python tools/citation.py"
    told = yaml.safe_load(text)
    assert told["version"] == vitscope.__version__
    assert ("date-released" in told) == ("dev" not in vitscope.__version__)


def test_the_citation_of_a_release_has_its_date_and_address():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    settings["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"] = "https://e.org/v"
    told = yaml.safe_load(citation.citation("1.0", "## 1.0.1 - 2027-03-04\n\n## 1.0 - 2027-01-02\n", settings))
    assert told["version"] == "1.0" or told["version"] == 1.0
    assert (str(told["date-released"]), told["repository-code"]) == ("2027-01-02", "https://e.org/v")
    assert {"cff-version", "message", "title", "authors"} <= told.keys()  # what the format requires
    with pytest.raises(SystemExit, match=r"no heading `## 2\.0 - YYYY-MM-DD`"):
        citation.citation("2.0", "## 1.0 - 2027-01-02\n", settings)


def test_the_changelog_begins_with_the_version():
    newest = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)[0]
    assert newest.partition(" - ")[0] == ("Unreleased" if "dev" in vitscope.__version__ else vitscope.__version__)


def test_the_changelog_keeps_its_form():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    for release in text.split("\n## ")[1:]:
        kinds = re.findall(r"^### (.+)$", release, re.MULTILINE)
        order = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
        assert kinds == [kind for kind in order if kind in kinds], "each once, in this order; themes are headed by ####"


def test_the_distribution_has_the_version():
    assert version("vitscope") == vitscope.__version__


def test_a_tagged_commit_is_the_release_of_its_version():
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    tags = subprocess.run(
        [git, "tag", "--points-at", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not tags or tags == [f"v{vitscope.__version__}"]
