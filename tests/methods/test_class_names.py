"""Classes by name: one class, or an error that lists those that could be meant."""

import pytest

from tests.helpers.errors import raises
from vitscope.errors import UnknownNameError, UsageError
from vitscope.methods.class_names import class_name, class_number, contrast_numbers

ANIMALS = {
    0: "Cardigan, Cardigan Welsh corgi",
    1: "cardigan",
    2: "crane",
    3: "crane",
    4: "maillot",
    5: "maillot, tank suit",
    6: "tabby, tabby cat",
    7: "Fox",
}
FOLDERS = {0: "1", 1: "10", 2: "2", 3: "3"}  # in the order of torchvision's ImageFolder


@pytest.mark.parametrize(
    ("target", "number"),
    [
        ("cardigan", 1),
        ("Cardigan", 0),
        ("Cardigan Welsh corgi", 0),
        ("cardigan welsh corgi", 0),
        ("Cardigan, Cardigan Welsh corgi", 0),
        ("tabby cat", 6),
        ("TABBY", 6),
        ("maillot, tank suit", 5),
        ("tank suit", 5),
        ("fox", 7),
        ("crane (class 3)", 3),
        ("class 3", 3),
        (" fox ", 7),
        ("3", 3),
        (3, 3),
    ],
)
def test_a_name_is_one_class(target, number):
    assert class_number(target, ANIMALS, 8) == number


@pytest.mark.parametrize(("target", "listed"), [("crane", "2 (crane); 3 (crane)"), ("CARDIGAN", "1 (cardigan)")])
def test_a_name_of_two_classes_lists_both_with_their_numbers(target, listed):
    with raises(UsageError, "methods.several-classes") as caught:
        class_number(target, ANIMALS, 8)
    assert listed in caught.value.message


def test_a_synonym_and_a_whole_label_are_alike():
    with raises(UsageError, "methods.several-classes") as caught:
        class_number("maillot", ANIMALS, 8)
    assert "4 (maillot); 5 (maillot, tank suit)" in caught.value.message


def test_part_of_a_name_is_none():
    with raises(UnknownNameError, "errors.unknown-name"):
        class_number("corgi", ANIMALS, 8)


@pytest.mark.parametrize(("target", "number"), [("1", 0), ("10", 1), (1, 1), ("class 1", 1), ("0", 0)])
def test_a_name_that_looks_like_a_number_is_a_name(target, number):
    assert class_number(target, FOLDERS, 4) == number


@pytest.mark.parametrize("target", [-1, 8, "-1", "8", "class 8", "class -1", "--5", "²", "٣", "class ²"])
def test_numbers_that_are_none_are_refused(target):
    with pytest.raises(UsageError) as caught:
        class_number(target, ANIMALS, 8)
    assert caught.value.code in ("methods.no-such-class", "errors.unknown-name")
    if caught.value.code == "methods.no-such-class":
        assert "0 to 7" in caught.value.hint


def test_a_name_of_no_output_is_no_class():
    with raises(UsageError, "methods.no-such-class"):
        class_number("kite", {0: "ant", 10: "kite"}, 3)


def test_without_names_only_numbers_are_taken():
    assert class_number("2", {}, 3) == 2
    with raises(UsageError, "methods.no-class-names") as caught:
        class_number("tabby", {}, 3)
    assert "0 to 2" in caught.value.hint


def test_what_a_class_is_called_finds_it_again():
    for labels in (ANIMALS, FOLDERS, {0: "a - b", 1: "a", 2: "b", 3: "a - b"}, {0: "class 1", 1: "class 0"}, {0: ""}):
        for number in range(len(labels)):
            assert class_number(class_name(number, labels), labels, len(labels)) == number
    assert class_name(2, ANIMALS) == "crane (class 2)"
    assert class_name(6, ANIMALS) == "tabby, tabby cat"
    assert class_name(9, ANIMALS) == "class 9"


class TestContrasts:
    NAMES = {0: "spider - man", 1: "man", 2: "spider", 3: "bat - man"}

    @pytest.mark.parametrize(
        ("target", "pair"),
        [
            ("spider - man - man", (0, 1)),
            ("spider - bat - man", (2, 3)),
            ("spider - man - bat - man", (0, 3)),
            ("man - 2", (1, 2)),
            ("class 3 - man", (3, 1)),
        ],
    )
    def test_names_may_hold_the_sign(self, target, pair):
        assert contrast_numbers(target, self.NAMES, 4) == pair

    def test_a_label_is_no_contrast(self):
        assert contrast_numbers("spider - man", self.NAMES, 4) is None
        assert class_number("spider - man", self.NAMES, 4) == 0

    def test_two_readings_are_refused(self):
        names = {0: "a - b", 1: "c", 2: "a", 3: "b - c"}
        with raises(UsageError, "methods.two-contrasts") as caught:
            contrast_numbers("a - b - c", names, 4)
        assert "0 - 1; 2 - 3" in caught.value.message

    def test_sides_must_be_classes_and_two(self):
        with raises(UsageError, "methods.contrast-with-itself"):
            contrast_numbers("man - class 1", self.NAMES, 4)
        with raises(UnknownNameError, "errors.unknown-name"):
            contrast_numbers("man - dog", self.NAMES, 4)
        assert contrast_numbers("man", self.NAMES, 4) is None
