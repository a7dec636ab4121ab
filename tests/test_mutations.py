"""Damaged files of results are read right or refused in one line, whatever the damage; `make soak` tries many more."""

from collections import Counter

import pytest

from tests.helpers.mutations import Mutations
from tests.helpers.result_files import KINDS

RAW, FORGED = (range(5), range(5, 11)), 7


@pytest.fixture(scope="module")
def mutations(tmp_path_factory):
    return Mutations(tmp_path_factory.mktemp("mutations"))


@pytest.mark.parametrize("numbers", [RAW[0], pytest.param(RAW[1], marks=pytest.mark.slow)], ids=["first", "others"])
@pytest.mark.parametrize("name", KINDS)
def test_what_is_damaged_is_right_or_refused(mutations, name, numbers):
    found = [mutations.attempt(name, (number, len(name))) for number in numbers]
    assert [about for outcome, about in found if outcome == "wrong"] == []
    assert len(found) == len(numbers)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.seal])
def test_what_is_forged_crashes_nothing(mutations, name):
    found = [mutations.attempt(name, (number, len(name)), forged=True) for number in range(FORGED)]
    assert [about for outcome, about in found if outcome == "wrong"] == []


def test_undamaged_files_are_right(mutations):
    for name, kind in KINDS.items():
        assert kind.read(mutations._copy(name)) == mutations.expected[name], name


def test_both_outcomes_come_up(mutations):
    count = Counter(mutations.attempt("explanation", number)[0] for number in range(40))
    assert count["refused"] > 20
    assert count["wrong"] == 0
