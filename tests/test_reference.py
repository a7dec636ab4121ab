"""The reference is made from the code: every command, option, method, column, error and public name is in it."""

import difflib

import pytest
import typer
from tools import reference

import vitscope
from vitscope.cli.main import app
from vitscope.methods.base import METHODS


def test_every_option_of_every_command_is_listed():
    page, root = reference.commands(), typer.main.get_command(app)
    for name, command in root.commands.items():
        section = page[page.index(f"\n## vitscope {name}\n") + 1 :].partition("\n## vitscope")[0]
        for one in command.params:
            if one.param_type_name == "option" and one.name != "help":
                assert one.opts[0] in section, (name, one.name)
                assert " ".join((one.help or "").split())[:20].partition("`")[0] in section


def test_every_method_and_option_is_listed():
    page = reference.methods()
    for name, one in METHODS:
        section = page[page.index(f"\n## {name}\n") + 1 :].partition("\n## ")[0]
        assert all(f"| `{option}` |" in section for option in one.options), name
        assert one.source.partition("|")[0][:30] in section


def test_every_public_name_has_a_docstring_and_an_entry():
    page = reference.python()
    for name in vitscope.__all__:
        if name != "__version__":
            assert f"::: vitscope.{name}\n" in page
            assert getattr(vitscope, name).__doc__, name


def test_every_column_has_words():
    page = reference.columns()
    cells = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert len(cells) > 50
    assert [line for line in cells if not line[-1].strip()] == []


def test_every_error_is_listed_in_both_languages():
    page = reference.errors()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 500
    assert [line for line in rows if line.endswith("|  |")] == []
    for name in ("UsageError", "MissingDependencyError", "OutOfMemoryError"):
        assert name in page


def test_the_public_names_are_those_that_are_written_down():
    """Each change of a name, a member or a parameter is named here; `python tools/reference.py` accepts it."""
    told = reference.FROZEN.read_text("utf-8").splitlines()
    changes = [
        line
        for line in difflib.unified_diff(told, reference.public_api().splitlines(), n=0, lineterm="")
        if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    assert changes == [], "run `python tools/reference.py`, and say in CHANGELOG.md what changed"


@pytest.mark.parametrize("change", ["a name less", "another default"])
def test_a_change_of_the_public_names_is_seen(change, monkeypatch):
    before = reference.public_api()
    if change == "a name less":
        monkeypatch.setattr(vitscope, "__all__", [name for name in vitscope.__all__ if name != "region"])
    else:
        monkeypatch.setattr(vitscope.Picture, "pil", lambda self, mode="RGB": None)
    assert reference.public_api() != before


def test_what_stands_in_a_cell_stays_in_it():
    assert reference.table(("a",), [("x|y <b> `<c|d>` *d*\n[e]",)]).splitlines()[-1] == (
        "| x\\|y &lt;b> `<c|d>` \\*d\\* \\[e] |"
    )
