"""The command line run in this process, because importing torch takes seconds."""

import sys

import pytest

from tests.helpers.console import Ran
from tests.helpers.measured import FEW
from vitscope.cli import console
from vitscope.cli.main import main


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run `vitscope ARGUMENTS...` in this process: its exit code, stdout and stderr."""
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["vitscope", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as info:
            main()
        return Ran(info.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def explain(cli, tiny_folder, tmp_path):
    """`vitscope explain ARGUMENTS...` with the tiny model into `tmp_path / "out"`, one map of each image."""

    def run(*arguments):
        method = () if "--method" in arguments else ("--method", "auto")
        return cli("explain", *arguments, *method, "--model", tiny_folder, "--out", tmp_path / "out")

    return run


@pytest.fixture
def measure(cli, tiny_folder):
    """`vitscope measure ARGUMENTS...` with the tiny model, rollout unless another method is named, two random maps."""

    def run(*arguments):
        method = () if "--method" in arguments else ("--method", "rollout")
        return cli("measure", *arguments, *method, "--model", tiny_folder, *FEW)

    return run


@pytest.fixture
def narrow(monkeypatch):
    """A screen of so many letters."""

    def set_to(letters):
        monkeypatch.setattr(console.out, "_width", letters)
        monkeypatch.setattr(console.out, "_height", 40)

    return set_to
