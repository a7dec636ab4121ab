"""Tables as CSV, Markdown and LaTeX."""

import csv
import io
import json
import re

import pytest

from tests.helpers.console import mentions
from tests.helpers.measured import FEW
from vitscope.cli.tables import print_table_as


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ("csv", 'a,b\n"x,\\|_","1"\n,0.3333333\n'.replace('"1"', "1")),
        ("md", "| a | b |\n| --- | --- |\n| x,\\\\| _ | 1 |\n|  | 0.3333333 |\n"),
        (
            "latex",
            "\\begin{tabular}{ll}\na & b \\\\\n"
            "x,\\textbackslash{}\\textbar{}\\_ & 1 \\\\\n & 0.3333333 \\\\\n\\end{tabular}\n",
        ),
    ],
)
def test_each_form(capsys, form, wanted):
    text = "x,\\|_" if form != "md" else "x,\\| _"
    print_table_as(form, ["a", "b"], [[text, 1], [None, 1 / 3]])
    assert capsys.readouterr().out == wanted


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1+1", "-rf", "@SUM(1)", "\t=1"])
def test_a_name_in_csv_is_no_formula(capsys, name):
    print_table_as("csv", ["image", "score"], [[name, -0.5], ["-0.25", "-1e-05"]])
    rows = list(csv.reader(capsys.readouterr().out.splitlines()))[1:]
    assert rows == [["'" + name.strip(), "-0.5"], ["-0.25", "-1e-05"]]


@pytest.mark.parametrize("name", ["[1]", "*", "[2mm]"])
def test_a_row_of_latex_does_not_begin_as_an_option_of_the_row_before(capsys, name):
    print_table_as("latex", ["image", "method"], [[name, "a < b > c"]])
    row = capsys.readouterr().out.splitlines()[2]
    assert row.startswith("{")
    assert row.endswith(r"a \textless{} b \textgreater{} c \\")
    assert re.sub(r"[{}]", "", row).startswith(name)


def test_measures_of_several_images_are_one_table(cli, album, tiny_folder):
    arguments = ("measure", *album[:2], "-m", tiny_folder, "--method", "rollout", "--metrics", "deletion", *FEW)
    ran = cli(*arguments, "--format", "csv")
    assert ran.code == 0
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    told = json.loads(cli(*arguments, "--json").out)["results"]
    assert [(row["image"], row["method"], row["measure"]) for row in rows] == [
        ("cat", "rollout", "deletion"),
        ("cup", "rollout", "deletion"),
    ]
    for row, one in zip(rows, told, strict=True):
        [number] = one["measurement"]["numbers"]
        assert float(row["value"]) == pytest.approx(number["value"], rel=1e-5)
        assert float(row["high"]) == pytest.approx(number["high"], rel=1e-5)
        assert row["verdict"] == number["verdict"]


def test_maps_of_several_images_are_one_table(cli, album, tiny_folder, tmp_path):
    arguments = ("explain", *album, "-m", tiny_folder, "--method", "rollout", "--out", tmp_path / "out")
    ran = cli(*arguments, "--format", "csv")
    assert (ran.code, ran.err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    told = json.loads(cli(*arguments, "--force", "--json").out)["results"]
    assert [row["image"] for row in rows] == [str(path) for path in album]
    for row, one in zip(rows, told, strict=True):
        assert (row["out"], row["target"]) == (one["out"], "")
        for name, value in one["statistics"].items():
            assert float(row[name]) == pytest.approx(value, rel=1e-5)
    ran = cli(*arguments, "--format", "xls")
    assert ran.code == 2
    assert mentions(ran.err, "'xls'…csv…latex")
