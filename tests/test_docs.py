"""What the documents say is run: code blocks, commands, links."""

import re
from pathlib import Path

import pytest
import torch
from tools import reference
from tools.each_method import expand

import vitscope
from tests.helpers.distributions import blocks
from tests.models import toys as zoo
from vitscope.methods.base import METHODS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PROJECT = {f"project/{name}.md" for name in ("changelog", "contributing", "readme-zh", "security")}


@pytest.mark.slow
@pytest.mark.weights
def test_the_readmes_python_runs(photo, tmp_path, monkeypatch, capsys):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    for name, turned in (("photo.jpg", 0), ("other.jpg", 180)):
        Image.open(photo).convert("RGB").rotate(turned).save(name)
    short, _ = blocks("README.md", "python")
    exec(compile(short, "README.md", "exec"), {})
    for made in ("overlay.png", "result"):
        assert (tmp_path / made).exists()
        (tmp_path / made).rename(tmp_path / f"first-{made}")
    assert "rollout: Hiding what this map marks" in capsys.readouterr().out
    code, _ = blocks("docs/python.md", "python")
    names = {}
    exec(compile(code, "python.md", "exec"), names)
    assert (tmp_path / "overlay.png").exists()
    assert (tmp_path / "result" / "manifest.json").exists()
    assert names["rows"].shape == (1, 6, 1, 1 + 30 * 45)
    assert "(1, 6, 1351, 1351)" in capsys.readouterr().out


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_loop_runs(page, capsys):
    from torch.utils.data import DataLoader, TensorDataset

    row = next(row for row in zoo.ROWS if row.name == "vit")
    pixels, labels = torch.randn(4, 3, *row.size), torch.tensor([1, 0, 3, 2])
    _, code = blocks(page, "python")
    names = {
        "vitscope": vitscope,
        "model": row.model(),
        "loader": DataLoader(TensorDataset(pixels, labels), batch_size=2),
    }
    exec(compile(code, page, "exec"), names)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("['LABEL_1', 'LABEL_0']")
    assert second.startswith("['LABEL_3', 'LABEL_2']")
    assert names["found"].maps.shape == (2, *names["scope"].layout.grid)


def test_every_command_is_in_the_readme_and_the_other_way_round():
    from vitscope.cli.main import app

    commands = {command.callback.__name__.replace("_", "-") for command in app.registered_commands}
    readme = (ROOT / "README.md").read_text("utf-8")
    assert set(re.findall(r"`vitscope ([\w-]+)", readme)) - {"methods"} <= commands
    assert {name for name in commands if f"`vitscope {name}" in readme} == commands


def test_the_readme_is_short_and_leads_to_the_overview():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert readme.count("\n") <= 150
    assert "](docs/index.md)" in readme


def test_the_overview_and_the_site_lead_to_every_page():
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.glob("**/*.md")} - {"index.md"}
    overview = (DOCS / "index.md").read_text("utf-8")
    assert pages - {*re.findall(r"\]\(([^)#]+)", overview)} == set()
    nav = re.findall(r"^ +- .+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert len(nav) == len(set(nav))
    assert {*nav} - set(reference.PAGES) - set(PROJECT) == pages | {"index.md"}
    assert {*nav} >= {*reference.PAGES, *PROJECT}


def test_each_method_has_its_prose_and_its_facts():
    page = (DOCS / "background" / "each-method.md").read_text("utf-8")
    assert sorted(re.findall(r"^### (\S+)$", page, re.MULTILINE)) == sorted(name for name, _ in METHODS)
    assert re.findall(r"^### (\S+)$", page, re.MULTILINE) == re.findall(r"<!-- method: (\S+) -->", page)
    shown = expand(page)
    assert "<!-- method" not in shown
    assert shown.count("| formula |") == len(list(METHODS))


def test_chinese_pages_stand_beside_english_ones():
    pages = sorted(path.name.removesuffix(".zh-CN.md") for path in DOCS.glob("tutorials/*.zh-CN.md"))
    assert pages == sorted(path.stem for path in DOCS.glob("tutorials/*.md") if "zh-CN" not in path.name)
    for path in [*DOCS.glob("tutorials/*.zh-CN.md"), ROOT / "README.zh-CN.md"]:
        text, other = path.read_text("utf-8"), path.with_name(path.name.replace(".zh-CN", "")).read_text("utf-8")
        commands = {line for line in other.splitlines() if line.startswith("$ vitscope")}
        assert commands - {*text.splitlines()} == set(), "the commands are the same"


def test_every_method_is_in_the_table():
    table = (ROOT / "docs" / "methods.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([\w+-]+)` \|.*\| ([^|]+) \|$", table, re.MULTILINE))
    assert rows == {name: method.works_on for name, method in METHODS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_readme_names_the_two_commands():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "make demo" in readme
    assert "make test" in readme
