"""The report and the files of a benchmark."""

import html.parser
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.helpers.benchmarks import rows_of
from vitscope.bench.benchmark import make_benchmark, run_benchmark

pytestmark = pytest.mark.usefixtures("plots_are_not_drawn")

# --- files and the command


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.tags, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_report_stands_alone_and_escapes_what_it_shows(tiny_scope, tmp_path):
    evil = "<script>alert(1)</script> & \"'"
    things = tmp_path / "things"
    things.mkdir()
    y, x = np.mgrid[:30, :30]
    for number in range(2):
        rgba = np.full((30, 30, 4), 90, np.uint8)
        rgba[..., 3] = 255 * ((x - 15) ** 2 + (y - 15) ** 2 < 150)
        Image.fromarray(rgba).save(things / f"<b>bold{number}<b>.png")
    benchmark = make_benchmark(tiny_scope, "planted", count=3, size=64, cutouts=things)
    benchmark = replace(benchmark, notes=(evil,), options={**benchmark.options, "model": evil})
    run_benchmark(tiny_scope, benchmark, rows_of(tiny_scope, "attention", "rollout:layers=last2"), tmp_path / "o")
    page = Page((tmp_path / "o" / "report.html").read_text())
    assert all(link.startswith("data:image/") for link in page.links)
    assert len(page.links) == 1 + 3 * 3
    assert not {"script", "b", "link", "iframe"} & set(page.tags)
    words = " ".join(page.words)
    assert evil in words
    assert "<b>bold" in words
    assert "rollout:layers=last2" in words
    assert "http" not in (tmp_path / "o" / "report.html").read_text()


def test_parquet_holds_every_row(tiny_scope, benchmark, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    rows = rows_of(tiny_scope, "attention")
    run_benchmark(tiny_scope, benchmark, rows, tmp_path / "o")
    table = pq.read_table(tmp_path / "o" / "results.parquet").to_pylist()
    kept = [json.loads(line) for line in (tmp_path / "o" / "rows.jsonl").read_text().splitlines()]
    assert len(table) == len(kept) == 9
    for line, row in zip(table, kept, strict=True):
        assert line["method"] == row["method"]
        assert line["case"] == row["case"]
        assert line["ap"] == row["numbers"]["ap"]
        assert [line[n] for n in ("hits", "false", "missed", "right")] == row["numbers"]["counts"]


def test_without_pyarrow_the_rest_is_written(tiny_scope, benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr("vitscope.bench.benchmark.find_spec", lambda name: None)
    said = []
    run_benchmark(tiny_scope, benchmark, rows_of(tiny_scope, "attention"), tmp_path / "o", on_note=said.append)
    assert "vitscope[batch]" in said[0]
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [
        *("bench.json", "report.html", "results.json", "rows.jsonl"),
    ]
