"""The page on which a batch's maps are brushed: what it holds, and that pictures follow what is chosen."""

import dataclasses
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.helpers.browser import axe_of, texts
from tests.helpers.errors import raises
from vitscope._version import __version__
from vitscope.batch import explore_page
from vitscope.batch.explore_page import render_explorer
from vitscope.batch.report_page import overlay_or_heat
from vitscope.batch.results import explanation_from_row
from vitscope.batch.run import run
from vitscope.batch.types import BatchPlan
from vitscope.cli.main import app
from vitscope.errors import ResultError
from vitscope.images import Picture

PHOTOS = 5
HOSTILE = "<img src=x onerror=alert(1)>.png"
SHOWN = """() => {
    const shown = [...document.querySelectorAll('figure')].filter((one) => !one.hidden);
    return shown.map((one) => one.querySelector('img').alt);
}"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_scope, tiny_folder):
    """A measured run by two methods over photos of noise, and its rows with a map."""
    photos, out = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("out") / "run"
    noise = np.random.default_rng(5)
    drawn = [noise.integers(0, 256, (5, 7, 3), dtype=np.uint8) for _ in range(3 + PHOTOS)]
    for number, coarse in enumerate(drawn[3:]):  # the verdicts on the first three are alike
        Image.fromarray(coarse).resize((140, 100)).save(photos / (f"{number}.png" if number else HOSTILE))
    (photos / "bad.jpg").write_bytes(b"no photo")
    plan = BatchPlan(str(tiny_folder), methods=("rollout", "attention"), metrics=("deletion",), shard_size=4)
    run(str(photos), out, plan, scope=tiny_scope)
    rows = [row for row in pq.read_table(out / "data").to_pylist() if row["error"] is None]
    return out, rows


def named(row):
    return f"{row['method']} over {row['source'].rpartition('/')[2]}"


def breadth(row):
    return row["effective_patches"] / (row["grid_rows"] * row["grid_columns"])


def label(row):
    return row["target"] or row["top"][0]["label"]


def latin(text):
    return set(re.findall(r"[A-Za-z]{2,}", text))


@pytest.fixture
def explorer(chromium, finished, tmp_path):
    out, rows = finished
    text, shown, total = render_explorer(out, "run <b>")
    assert shown == total == len(rows) == 2 * PHOTOS
    (tmp_path / "explore.html").write_text(text)
    with chromium.opened((tmp_path / "explore.html").as_uri()) as made:
        made.wait("() => document.querySelector('[role=status]')?.textContent")
        yield made, rows
        assert made.troubles == []


@pytest.mark.slow
def test_axe_finds_nothing_in_light_and_dark(explorer):
    made, _ = explorer
    for theme in ("light", "dark"):
        made.page.emulate_media(color_scheme=theme)
        assert axe_of(made)["violations"] == []


def test_a_brush_over_breadth_leaves_the_maps_within(explorer):
    made, rows = explorer
    rows = sorted(rows, key=breadth)
    assert made.evaluate(SHOWN) == [named(row) for row in rows]  # the narrowest first
    low, span = breadth(rows[0]), breadth(rows[-1]) - breadth(rows[0])
    box = made.box(".hist")
    made.move(box["x"] + 0.5 * box["width"], box["y"] + 9)
    made.down()
    made.move(box["x"] + box["width"] + 40, box["y"] + 9)
    made.up()
    ends = [
        float(one)
        for one in made.evaluate("() => [...document.querySelectorAll('[data-end]')].map((one) => one.value)")
    ]
    assert ends == pytest.approx([0.5, 1], abs=0.02)
    inside, around = (  # what a slider says is rounded
        [named(row) for row in rows if ends[0] + off <= (breadth(row) - low) / span] for off in (0.003, -0.003)
    )
    assert 0 < len(inside) <= len(around) < len(rows)
    within = made.evaluate(SHOWN)
    assert within in (inside, around) or set(inside) < set(within) < set(around)
    assert made.text("[role=status]") == f"{len(within)} of {len(rows)} maps"
    made.click("button", "Show all")
    assert len(made.evaluate(SHOWN)) == len(rows)
    made.evaluate("() => document.querySelector('[data-end=low]').focus()")
    made.press("End")
    assert made.evaluate(SHOWN) == [named(rows[-1])]


def test_verdict_class_and_method_are_chosen_together_and_say_what_is_left(explorer):
    made, rows = explorer
    counts = {label(row): sum(label(one) == label(row) for one in rows) for row in rows}
    chosen = max(counts, key=counts.get)
    made.click("[data-facet=class] button", chosen)
    assert sorted(made.evaluate(SHOWN)) == sorted(named(row) for row in rows if label(row) == chosen)
    told = dict(re.fullmatch(r"(.*?)(\d+)", one).groups() for one in texts(made, "[data-facet=method] button"))
    true = {m: str(sum(row["method"] == m and label(row) == chosen for row in rows)) for m in ("rollout", "attention")}
    assert told == true
    made.click("[data-facet=method] button", "attention")
    both = [row for row in rows if label(row) == chosen and row["method"] == "attention"]
    assert sorted(made.evaluate(SHOWN)) == sorted(map(named, both))
    made.click("button", "Show all")
    verdicts = {row["deletion_verdict"] for row in rows}
    assert len(verdicts) > 1
    for verdict in verdicts:
        made.click(f"[data-facet=deletion] [data-value='{verdict}']")
        assert sorted(made.evaluate(SHOWN)) == sorted(named(row) for row in rows if row["deletion_verdict"] == verdict)
        made.click("button", "Show all")


def test_each_map_has_its_verdict_as_a_sentence_in_both_languages(explorer):
    made, rows = explorer
    for language, column in (("中文", "sentence_zh"), ("English", "sentence")):
        made.click("header button", language)
        said = dict(zip(made.evaluate(SHOWN), texts(made, "figcaption p"), strict=True))
        names = [" 上的 ".join(named(row).split(" over ")[::-1]) if language == "中文" else named(row) for row in rows]
        assert said == {name: row[column] for name, row in zip(names, rows, strict=True)}
        assert all("deletion" in text for text in said.values())


@pytest.mark.slow
def test_the_address_keeps_what_is_brushed_and_no_step_of_the_history_is_made(explorer):
    made, rows = explorer
    steps, plain = "() => history.length", made.evaluate("() => location.href")
    before = made.evaluate(steps)
    box = made.box(".hist")
    made.move(box["x"] + 0.02 * box["width"], box["y"] + 9)
    made.down()
    for part in (0.4, 0.6, 0.8, 1.2):
        made.move(box["x"] + part * box["width"], box["y"] + 9)
    made.up()
    made.click("[data-facet=method] button", "attention")
    made.evaluate(
        "() => Object.assign(document.querySelector('select'), {value: 'broad'}).dispatchEvent(new Event('change'))"
    )
    kept = made.evaluate(SHOWN)
    assert 0 < len(kept) < len(rows) - 1
    made.wait("() => /low=.*sort=broad.*in.method=attention/.test(location.hash)")
    made.page.reload()
    made.wait("() => document.querySelector('[role=status]')?.textContent")
    assert made.evaluate(SHOWN) == kept
    assert made.evaluate(steps) == before
    made.click("button", "Show all")
    made.evaluate(
        "() => Object.assign(document.querySelector('select'), {value: 'narrow'}).dispatchEvent(new Event('change'))"
    )
    made.wait("(plain) => location.href === plain", plain)
    made.evaluate("() => { location.hash = '#in.method=rollout&low=odd'; }")
    made.wait("() => document.querySelector('[data-facet=method] [data-value=rollout]').ariaPressed === 'true'")
    assert sorted(made.evaluate(SHOWN)) == sorted(named(row) for row in rows if row["method"] == "rollout")


@pytest.mark.slow
def test_the_page_is_in_chinese_too_and_keeps_what_is_chosen(explorer, tiny_folder):
    """No English word is left but names; what was chosen stays."""
    made, rows = explorer
    made.click("[data-facet=method] button", "attention")
    chosen = [row for row in rows if row["method"] == "attention"]
    made.click("header button", "中文")
    assert made.evaluate("() => document.documentElement.lang") == "zh-Hans"
    assert made.text("[role=status]") == f"{len(rows)} 幅热图中的 {len(chosen)} 幅"
    assert len(made.evaluate(SHOWN)) == len(chosen)
    assert made.evaluate("() => document.activeElement.textContent") == "中文"
    said = made.evaluate("""() => [document.body.innerText, ...[...document.querySelectorAll(
        'main [aria-label], main [placeholder]'
    )].map((one) => one.getAttribute('aria-label') ?? one.placeholder)].join(' ')""")
    given = [tiny_folder, __version__, "run English vitscope attention rollout deletion", *map(label, rows)]
    given += [row["source"] for row in rows]
    assert latin(said) - latin(" ".join(map(str, given))) == set()
    made.click("header button", "English")
    assert made.text("[role=status]") == f"{len(chosen)} of {len(rows)} maps"


def test_names_of_files_are_text_and_nothing_is_fetched(finished):
    out, rows = finished
    text, _, _ = render_explorer(out, "run <b>")
    assert "<h1>run &lt;b&gt;</h1>" in text
    assert "<img src=x" not in text
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    island = json.loads(re.search(r'<script type="application/json">(.*?)</script>', text, re.S)[1])
    assert sorted(one["breadth"] for one in island["rows"]) == pytest.approx(sorted(map(breadth, rows)))
    assert HOSTILE in {one["name"] for one in island["rows"]}


def test_a_small_picture_is_the_large_one_made_smaller(finished):
    """Drawn small, for speed; as the map drawn at the photo's size and then made small, but for edges of patches."""
    _, rows = finished
    row = {**rows[0], "width": 560, "height": 400, "box": [4 * one for one in rows[0]["box"]]}
    row |= {"cells": row["cells"] and [4 * one for one in row["cells"]]}
    e = explanation_from_row(row, photo=False)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8).repeat(80, 0).repeat(80, 1)
    e = dataclasses.replace(e, picture=Picture(pixels))
    large, small = overlay_or_heat(e), overlay_or_heat(explore_page._small(e))
    assert small.size == (160, 114)
    apart = np.asarray(large.resize(small.size, Image.Resampling.LANCZOS), float) - np.asarray(small, float)
    assert np.abs(apart).mean() < 3


@pytest.mark.slow
def test_of_many_maps_whole_images_are_taken_and_the_export_of_all_is_named(chromium, finished, tmp_path):
    out, rows = finished
    text, shown, total = render_explorer(out, "run", most=5)
    island = json.loads(re.search(r'<script type="application/json">(.*?)</script>', text, re.S)[1])
    first = sorted({row["id"] for row in rows})[:2]
    assert (shown, total) == (4, len(rows))
    assert sorted(one["id"] for one in island["rows"]) == sorted(2 * [one[:12] for one in first])
    (tmp_path / "some.html").write_text(text)
    with chromium.opened((tmp_path / "some.html").as_uri()) as made:
        made.wait("() => document.querySelector('[role=status]')?.textContent")
        told = made.text("header")
    assert f"4 of {len(rows)} maps, of images chosen at random" in told
    assert "vitscope.export.fiftyone.add" in told


def test_the_command_writes_it_and_pictures_open_their_viewers(finished, tmp_path):
    out, rows = finished
    name = rows[0]["id"][:12]
    (out / "views").mkdir()
    (out / "views" / f"{name}.html").touch()
    done = CliRunner().invoke(app, ["report", str(out), "--explore", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["shown"], told["maps"]) == (len(rows), len(rows))
    assert (out / "explore.html").read_text().count(f"views/{name}.html") == 2


def test_a_run_without_maps_says_so(tmp_path, tiny_scope, tiny_folder):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"no photo")
    run(str(tmp_path / "photos"), tmp_path / "run", BatchPlan(str(tiny_folder)), scope=tiny_scope)
    with raises(ResultError, "batch.no-maps", "batch.nothing-finished.hint"):
        render_explorer(tmp_path / "run", "run")
