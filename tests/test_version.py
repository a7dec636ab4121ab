"""One version: `_version.py` has it; the citation, the changelog and a release's tag agree with it."""

import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

import vitscope

ROOT = Path(__file__).parents[1]


def test_the_citation_names_the_version():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [vitscope.__version__]
    assert ("date-released" in citation) == ("dev" not in vitscope.__version__)


def test_the_changelog_begins_with_the_version():
    newest = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)[0]
    assert newest == ("Unreleased" if "dev" in vitscope.__version__ else vitscope.__version__)


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
