"""`vitscope bench` as users run it."""

import json
import sys

import pytest

from vitscope.bench.runner import PRIORS

pytestmark = pytest.mark.usefixtures("plots_are_not_drawn")


@pytest.fixture
def cli(monkeypatch, capsys, tiny_folder):
    from vitscope.cli.main import main

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["vitscope", "bench", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as info:
            main()
        return (info.value.code, *capsys.readouterr())

    return call


def test_the_command(cli, tiny_folder, tmp_path):
    flags = ("--model", tiny_folder, "--count", 2, "--size", 64, "--out", tmp_path / "o")
    code, out, err = cli("planted", "--method", "attention,rollout:layers=last2", *flags)
    assert code == 0, err
    assert out.splitlines()[0].split()[:3] == ["method", "pixel", "AUC"]
    assert {line.split("  ")[0] for line in out.splitlines()[1:5]} == {"attention", "rollout:layers=last2", *PRIORS}
    assert "2 cases" in out
    code, out, err = cli("planted", "--method", "attention,rollout:layers=last2", "--json", *flags)
    document = json.loads(out)
    assert code == 0
    assert document["bench"] == "planted"
    assert document["options"]["seed"] == 0
    assert {s["method"] for s in document["scores"]} == {"attention", "rollout:layers=last2", *PRIORS}
    assert "8 maps of an earlier run" in err
    code, out, err = cli("planted", "--seed", 3, *flags)
    assert (code, out) == (1, "")
    assert "seed was 0 and is 3" in err
    assert err.count("\n") == 1
    assert cli("planted", "--seed", 3, "--force", "--method", "attention", *flags)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("plantet",), "did you mean 'planted'?"),
        (("planted", "--count", "0"), "--count is a whole number from 1, not '0'"),
        (("planted", "--split", "test"), "no split is called 'test'"),
        (("planted", "--method", "rolout"), "did you mean 'rollout'?"),
        (("planted", "--images", "."), "the benchmark 'planted' has no option 'images'"),
        (("segmentation",), "the benchmark 'segmentation' needs"),
        (("digits",), "has no classes named 0 to 9"),
        (("planted", "--cutouts", "nowhere"), "--cutouts: nowhere does not exist"),
    ],
)
def test_wrong_usage(cli, tiny_folder, tmp_path, arguments, told):
    code, out, err = cli(*arguments, "--model", tiny_folder, "--out", tmp_path / "o")
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1
    assert not (tmp_path / "o").exists()
