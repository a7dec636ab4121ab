"""One reading of numbers that people write, and the places that use it."""

import pytest

from tests.helpers.errors import raises
from vitscope import UnknownNameError, UsageError
from vitscope._numbers import number, whole_number
from vitscope.attention.store import _numbers as layer_numbers
from vitscope.geometry import TokenLayout
from vitscope.methods.places import parse_place, place_of_text, region
from vitscope.methods.targets import class_number

NO_NUMBERS = ("²", "--5", "٣", "5_0", "9" * 5000)


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


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_places_layers_and_patches_are_numbered_in_ascii_digits(text):
    for refused in (
        lambda: parse_place("query", f"{text}:cat"),
        lambda: parse_place("region", f"cat:0,0,{text},9"),
        lambda: region(3, box=(0, 0, text, 9)),
        lambda: layer_numbers(text, 6),
        lambda: layer_numbers(f"last{text}", 6),
        lambda: TokenLayout(("cls",), (4, 4)).patch_number(f"{text},1"),
    ):
        with pytest.raises(UsageError):
            refused()
    assert place_of_text(f"cat at query {text}") is None


@pytest.mark.parametrize("option", ["--size", "--seed", "--batch-size", "--opacity", "--blur"])
@pytest.mark.parametrize("text", [*NO_NUMBERS[:-1], "nan", "inf"])
def test_options_are_numbers_of_the_same_kind(option, text, monkeypatch, capsys):
    from vitscope.cli.main import main

    monkeypatch.setattr("sys.argv", ["vitscope", "explain", "no.png", f"{option}={text}"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert option in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--max-mb=nan", "--max-mb=inf", "--keep-mb=1e400", "--port=65536", "--port=-1"])
def test_limits_of_the_server_are_numbers(option, monkeypatch, capsys):
    from vitscope.cli.main import main

    monkeypatch.setattr("sys.argv", ["vitscope", "serve", option])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert option.partition("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize("field", ["size", "top", "seed", "target"])
@pytest.mark.parametrize("text", ["5_0", " 50", "٣"])
def test_numbers_of_the_api_are_numbers_of_json(field, text):
    pydantic = pytest.importorskip("pydantic")
    from vitscope.web.schemas import ViewRequest

    if field == "target":
        assert ViewRequest(sample="cat", target=text).target == text
    else:
        with pytest.raises(pydantic.ValidationError):
            ViewRequest(sample="cat", **{field: text})
