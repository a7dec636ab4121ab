"""Every row of docs/works-with.md holds, and the page has them all."""

from pathlib import Path

import pytest
from benchmarks.works_with.table import REFUSED, Row, is_installed, rows

PAGE = Path(__file__).parents[1] / "docs" / "works-with.md"
ROWS = list(rows())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the libraries that a row tries
@pytest.mark.parametrize("row", ROWS, ids=[f"{row.kind}: {row.what}" for row in ROWS])
def test_vitscope_agrees_with_the_independent_value(row: Row) -> None:
    for name in row.libraries:
        if not is_installed(name):
            pytest.skip(f"{name} is not installed: it is no part of the test group")
    found = row.try_it()
    assert found == REFUSED or (not isinstance(found, str) and found <= row.tolerance)


def test_the_page_has_every_row() -> None:
    page = PAGE.read_text()
    assert len(ROWS) >= 80
    assert [row.what for row in ROWS if f"| {row.what} |" not in page] == []
