"""One reading of numbers that people write, and the places that use it."""

import pytest

from tests.helpers.errors import raises
from vitscope import UnknownNameError
from vitscope._numbers import number, whole_number
from vitscope.methods.targets import class_number


@pytest.mark.parametrize(
    ("text", "found"),
    [
        *(("7", 7), ("-1", -1), ("+3", 3), (" 12 ", 12), ("007", 7)),
        *((wrong, None) for wrong in ("²", "--5", "٣", "１", "1_000", "", "-", "3.0", "0x10", "9" * 5000)),
    ],
)
def test_whole_numbers_are_ascii_digits_with_one_sign(text, found):
    assert whole_number(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [("0.3", 0.3), ("1e-5", 1e-5), (".5", 0.5), ("4", 4), ("nan", None), ("inf", None), ("1e999", None), ("²", None)],
)
def test_decimal_numbers_are_finite(text, found):
    assert number(text) == found


@pytest.mark.parametrize("target", ["²", "--5", "٣"])
def test_a_target_that_is_no_number_is_a_name(target):
    with raises(UnknownNameError, "errors.unknown-name"):
        class_number(target, {0: "cat", 1: "dog"}, 2)


@pytest.mark.parametrize("target", ["--target=²", "--target=--5"])
def test_the_command_line_refuses_them_in_one_line(target, photo, tiny_folder, tmp_path, monkeypatch, capsys):
    from vitscope.cli.main import main

    arguments = ["explain", str(photo), "--model", str(tiny_folder), "-o", str(tmp_path / "o"), target]
    monkeypatch.setattr("sys.argv", ["vitscope", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code in (1, 2)
    assert len(capsys.readouterr().err.splitlines()) == 1
