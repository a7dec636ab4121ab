"""Choices of layers that people write."""

import pytest

from vitscope._layers import check_layers, layer_span
from vitscope.errors import UsageError


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("3", (3, 3)),
        ("-1", (-1, -1)),
        (" 0-11 ", (0, 11)),
        ("-3--1", (-3, -1)),
        ("2--1", (2, -1)),
        ("-1-3", (-1, 3)),
        ("last3", (-3, -1)),
        ("last012", (-12, -1)),
    ],
)
def test_each_form_is_read(text, ends):
    assert layer_span(text) == ends


@pytest.mark.parametrize("text", ["", "a", "0..11", "last", "last0", "last-1", "3-", "1-2-3", "٣", "4.0", "1" * 10])
def test_another_form_is_refused(text):
    with pytest.raises(UsageError, match="not a valid choice of layers"):
        check_layers(text)
    with pytest.raises(UsageError, match="not a valid choice of layers"):
        check_layers(f"1,{text}")


@pytest.mark.parametrize("text", ["11-0", "-1--3"])
def test_backwards_in_every_model(text):
    with pytest.raises(UsageError, match="backwards"):
        check_layers(text)


def test_several_and_all_are_choices():
    check_layers("all")
    check_layers("4, 7,-2,last2")
