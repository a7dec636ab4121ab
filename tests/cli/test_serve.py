"""`vitscope serve` where it does not start."""

import os
import socket

import pytest

from vitscope.cli.main import main

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def line(monkeypatch, capsys):
    """`vitscope serve ARGUMENTS` that is not to start: the exit code and the one line that it says."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["vitscope", "serve", *map(str, arguments)])
        with pytest.raises(SystemExit) as info:
            main()
        [said] = capsys.readouterr().err.splitlines()
        return info.value.code, said

    return run


def test_a_port_in_use_is_one_line(line, tiny_folder):
    with socket.create_server(("127.0.0.1", 0)) as path_exists:
        code, said = line("--port", path_exists.getsockname()[1], "-m", tiny_folder)
    assert (code, "address already in use" in said, "--port 0" in said) == (2, True, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0", "--no-token"], "can be reached from other machines"),
        (["--token", "short"], "at least 16"),
        (["--host", "203.0.113.77", "--port", 0], "cannot listen on 203.0.113.77"),
        (["--queue", 0], "--queue is a whole number from 1, not '0'"),
        (["-m", "no-such-folder/x/y", "--port", 0], "no-such-folder"),
    ],
)
def test_what_cannot_be_served_is_one_line(line, arguments, words, monkeypatch):
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    code, said = line(*arguments)
    assert code in (1, 2)
    assert words in said


def test_a_missing_extra_is_named(line, monkeypatch):
    import sys

    for name in [name for name in sys.modules if name.startswith("vitscope.web")]:
        monkeypatch.delitem(sys.modules, name)
    import vitscope.cli

    monkeypatch.delattr(vitscope.cli, "web", raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.setitem(sys.modules, "starlette.types", None)
    assert "vitscope[serve]" in line()[1]
