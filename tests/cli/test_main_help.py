"""The help: every option says in words what it wants, and every command what it does."""

import pytest
import typer

from vitscope.cli.main import app

COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_wants(name):
    for parameter in COMMANDS[name].params:
        assert (parameter.help or "").endswith("."), parameter.name
        flag = getattr(parameter, "is_flag", False) or getattr(parameter, "count", False)
        assert flag or parameter.metavar, f"{parameter.name} has no metavariable of its own"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_headline(name):
    headline = COMMANDS[name].help.partition("\n")[0]
    assert headline[0].isupper()
    assert headline.endswith(".")
    assert len(headline) <= 112


def test_no_flag_seems_to_take_a_value(cli):
    for arguments in (["--help"], *([name, "--help"] for name in COMMANDS)):
        ran = cli(*arguments)
        assert ran.code == 0
        assert "<bool>" not in ran.out
        assert "[env var: VITSCOPE_INSTALL" not in ran.out


def test_options_of_a_group_stand_under_its_heading():
    panels = {one.name: one.rich_help_panel for one in COMMANDS["explain"].params}
    assert panels["gradient_rule"] == panels["option"] == "Method options"
    assert panels["device"] == "Model"
    assert panels["colorbar"] == panels["cmap"] == "Drawing"
    assert panels["method"] is None
