"""The mutants of `benchmarks/mutants` fit the code: each changes one line of what stands there, to other valid code."""

import ast
from collections import Counter
from pathlib import Path

import pytest
from benchmarks.mutants.table import MUTANTS, SOURCE

ROOT = Path(__file__).parents[1]


def test_a_mutant_applies_once_and_is_python():
    for mutant in MUTANTS:  # one that does not apply is named by its error
        text = (ROOT / SOURCE / mutant.file).read_text("utf-8")
        broken = mutant.applied(text)
        assert ast.dump(ast.parse(broken)) != ast.dump(ast.parse(text)), mutant.name
        lines = [set(one.splitlines()) for one in (text, broken)]
        assert len(lines[1] - lines[0]) <= 2, mutant.name


def test_the_tests_that_should_notice_are_there():
    assert [one.name for one in MUTANTS if not one.tests] == []
    named = {name for mutant in MUTANTS for name in mutant.tests}
    assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []


def test_there_are_enough_of_different_names():
    assert len(MUTANTS) >= 40
    assert [name for name, count in Counter(one.name for one in MUTANTS).items() if count > 1] == []


def test_a_line_that_is_not_there_is_told():
    with pytest.raises(ValueError, match="stands 0 times"):
        MUTANTS[0].applied("nothing of the kind")
