"""What a release is checked for, and that the workflows say what the Makefile does."""

import re
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from tools import citation, extras, release

ROOT = Path(__file__).parent.parent
GITHUB = ROOT / ".github"
METADATA = "Metadata-Version: 2.1\nName: vitscope\nVersion: 1\nSummary: s\n\n# vitscope\n{}\n"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """Make a wheel of a source with two files; `wheel(words, leave_out=..., more=...)`."""
    source = tmp_path / "src" / "vitscope"
    source.mkdir(parents=True)
    for name in ("py.typed", "__init__.py"):
        (source / name).touch()
    monkeypatch.setattr(release, "ROOT", tmp_path)
    monkeypatch.setattr(release, "IN_WHEEL", ("vitscope/py.typed",))

    def make(words="", leave_out="", more="", size=0):
        path = tmp_path / "vitscope-1.whl"
        with zipfile.ZipFile(path, "w") as file:
            for name in ("vitscope/py.typed", "vitscope/__init__.py", more):
                if name and name != leave_out:
                    file.writestr(name, bytes(size))
            file.writestr("vitscope-1.dist-info/METADATA", METADATA.format(words))
        return path

    return make


def test_a_whole_wheel_has_no_problems(wheel):
    assert release.wheel_problems(wheel("[x](https://x.org) ![y](https://y.org/y.jpg)")) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"leave_out": "vitscope/__init__.py"}, "vitscope/__init__.py is not in the wheel"),
        ({"leave_out": "vitscope/py.typed"}, "nothing of vitscope/py.typed"),
        ({"more": "tests/x.py"}, "tests/x.py does not belong"),
        ({"words": "![y](docs/y.jpg)"}, "leads to docs/y.jpg"),
        ({"size": 7_000_000}, "more than 6"),
    ],
)
def test_each_fault_of_a_wheel_is_named(wheel, changed, said):
    assert any(said in problem for problem in release.wheel_problems(wheel(**changed)))


def test_each_fault_of_an_sdist_is_named(tmp_path):
    (tmp_path / "x").touch()
    with tarfile.open(tmp_path / "v.tar.gz", "w:gz") as file:
        for name in ("README.md", "tests/a.py", ".venv/bin/python"):
            file.add(tmp_path / "x", f"vitscope-1/{name}")
    found = release.sdist_problems(tmp_path / "v.tar.gz")
    assert "nothing of mkdocs.yml is in the sdist" in found
    assert ".venv/bin/python does not belong into the sdist" in found
    assert not any("README" in problem for problem in found)


@pytest.mark.parametrize(
    ("version", "repository", "tag", "said"),
    [
        ("1.0", "https://e.org/v", "v1.0", None),
        ("1.0", "https://e.org/v", "v1.1", "the tag is v1.1, and the version 1.0"),
        ("1.0.dev0", "https://e.org/v", "v1.0.dev0", "no version to publish"),
        ("1.0", "", "v1.0", "does not say where the repository is"),
        ("1.1", "https://e.org/v", "v1.1", "CITATION.cff is old"),
    ],
)
def test_what_may_not_be_published_is_refused(version, repository, tag, said, tmp_path, monkeypatch):
    monkeypatch.setattr(release, "ROOT", tmp_path)
    written = {
        "src/vitscope/_version.py": f'"""The version, in "one" place."""\n\n__version__ = "{version}"\n',
        "pyproject.toml": (ROOT / "pyproject.toml")
        .read_text("utf-8")
        .replace('repository = ""', f'repository = "{repository}"'),
        "CHANGELOG.md": "# Changelog\n\n## 1.1 - 2027-02-01\n\n## 1.0 - 2027-01-02\n",
    }
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    (tmp_path / "CITATION.cff").write_text(
        citation.citation("1.0", written["CHANGELOG.md"], tomllib.loads(written["pyproject.toml"])), "utf-8"
    )
    found = release.refusal(tag)
    assert found is None if said is None else said in found


@pytest.mark.parametrize("path", sorted(GITHUB.rglob("*.yml")), ids=lambda path: path.name)
def test_what_github_reads_is_yaml(path):
    assert isinstance(yaml.safe_load(path.read_text("utf-8")), dict)


def test_workflows_call_targets_that_exist_and_keep_no_secret():
    heads = re.findall(r"^([\w -]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    targets = {target for head in heads for target in head.split()}
    for path in GITHUB.glob("workflows/*.yml"):
        text = path.read_text("utf-8")
        assert set(re.findall(r"run: make (\S+)", text)) <= targets, path
        assert "secrets." not in text
        assert "permissions:\n  contents: read" in text


def test_every_extra_is_tried_alone():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert set(extras.PARTS) == set(settings["project"]["optional-dependencies"])
    assert [name for name, (asked, _) in extras.PARTS.items() if not asked] == ["tensorboard"]  # the caller brings it
