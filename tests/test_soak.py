"""`make soak` in short, and that it sees what is bad; the bounds of the dependencies."""

import re
import tomllib

import pytest
from benchmarks.soak import __main__ as soak
from benchmarks.soak import pictures
from benchmarks.soak.counts import PARTS, Counts
from tools.bounds import PROJECT, bounds

from vitscope.images import Picture, load_image

pytestmark = pytest.mark.usefixtures("as_shipped")


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_a_short_run_of_each_part_leaves_nothing_bad(name):
    counts, _ = PARTS[name].run(name, PARTS[name].short, 0)
    assert counts.bad == 0, counts.notes
    assert counts.right + counts.refused == counts.tried >= PARTS[name].short


@pytest.mark.parametrize("fault", ["turned", "refused", "crashes"])
def test_a_reader_with_a_fault_is_seen(fault, monkeypatch):
    def faulty(source):
        picture = load_image(source)
        if fault == "turned":
            return Picture(picture.pixels[::-1].copy())
        if picture.notes and fault == "crashes":
            raise IndexError
        return load_image(b"") if picture.notes else picture

    assert pictures.run(60, 0).bad == 0
    monkeypatch.setattr(pictures, "load_image", faulty)
    assert pictures.run(60, 0).wrong > 10


def test_a_part_that_was_not_run_keeps_its_row():
    page = soak.PAGE.read_text("utf-8")
    once = soak.written(page, {"kills": soak.row_of("kills", Counts(tried=7, right=7), 60)})
    both = soak.written(once, {"threads": soak.row_of("threads", Counts(tried=8, right=8), 60)})
    assert "| `kills` | kills of `batch` | 7 | 7 |" in both
    assert "| `threads` | answers in eight threads | 8 | 8 |" in both
    assert both.partition(soak.BEGIN)[0] == page.partition(soak.BEGIN)[0]
    assert both.partition(soak.END)[2] == page.partition(soak.END)[2]


def test_the_page_tells_of_no_bad_run():
    rows = re.findall(r"^\| `\w+` \|.*$", soak.PAGE.read_text("utf-8"), re.MULTILINE)
    assert rows
    for row in rows:
        assert [int(n.replace(",", "")) for n in row.split("|")[6:10]] == [0, 0, 0, 0]


def test_each_dependency_has_a_lower_and_an_upper_bound():
    assert len(bounds()) > 30
    project = tomllib.loads(PROJECT.read_text("utf-8"))["project"]
    assert all(re.split(r"[\[>]", text)[0] in bounds() for text in project["dependencies"])
