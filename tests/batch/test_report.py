"""The report on a batch: its numbers against the rows, its page, its command."""

import html
import json
import re
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import av
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.helpers.errors import raises
from vitscope.batch.report import SINK_FACTOR, overview
from vitscope.batch.report_page import overlay_or_heat, render_report
from vitscope.batch.results import explanation_from_row, explanations, find_row, photo_from_row
from vitscope.batch.rows import map_from_row
from vitscope.batch.run import run
from vitscope.batch.sources import ImageSource
from vitscope.batch.types import BatchPlan
from vitscope.cli.main import app
from vitscope.errors import ImageError, ResultError, UsageError
from vitscope.export.coco import coco

GOOD, BAD = 9, 2
HOSTILE = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_scope, tiny_folder):
    """A run over nine photos and two files that are none, and the photos' folder."""
    photos = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(3)
    for number in range(GOOD - 1):
        coarse = Image.fromarray(noise.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        coarse.resize((140, 100)).save(photos / f"{number}.png")
    shutil.copy(photos / "0.png", photos / HOSTILE)
    for number in range(BAD):
        (photos / f"bad{number}.jpg").write_bytes(b"<script>alert(1)</script>")
    out = tmp_path_factory.mktemp("out") / "run"
    run(str(photos), out, BatchPlan(str(tiny_folder), methods=("rollout", "attention"), shard_size=4), scope=tiny_scope)
    return out, photos


def rows_of(out):
    return pq.read_table(out / "data").to_pylist()


def test_the_numbers_are_those_of_the_rows(finished):
    out, _ = finished
    seen, rows = overview(out, cards=3), rows_of(out)
    fine = [row for row in rows if row["error"] is None]
    assert (seen.images, seen.failed, seen.rows) == (GOOD + BAD, BAD, 2 * (GOOD + BAD))
    assert {kind: count for kind, (count, _) in seen.failures.items()} == {"ImageError": 2 * BAD}
    assert len(seen.failures["ImageError"][1]) == BAD
    for method in ("rollout", "attention"):
        held = [row["largest_share"] for row in fine if row["method"] == method]
        assert sorted(seen.numbers[method]["largest_share"].tolist()) == pytest.approx(sorted(held))
        breadth = sorted(row["effective_patches"] / 16 for row in fine if row["method"] == method)
        shown = [row["effective_patches"] / 16 for row in seen.narrow[method] + seen.broad[method][::-1]]
        assert shown == pytest.approx(breadth[:3] + breadth[-3:], rel=1e-6)
    by_image = {row["id"]: [one["method"] for one in fine if one["id"] == row["id"]] for row in fine}
    assert [(rows[0]["id"], [row["method"] for row in rows]) for rows in seen.sample] == sorted(by_image.items())
    few = overview(out, sheet=4).sample
    assert [rows[0]["id"] for rows in few] == sorted(by_image)[:4]
    assert {len(rows) for rows in few} == {2}


def test_hot_patches_are_counted_where_they_lie(finished):
    out, _ = finished
    found = overview(out).sinks[4, 4]
    maps = [map_from_row(row) for row in rows_of(out) if row["map"]]
    by_hand = sum((values > SINK_FACTOR * values.mean()).astype(int) for values in maps)
    assert found.maps == len(maps) == 2 * GOOD
    assert np.array_equal(found.counts, by_hand)
    found.counts[:] = [[4, 0, 0, 0], [0, 6, 0, 0], [0, 0, 0, 0], [0, 0, 0, 2]]
    assert found.border == (0.5, 0.75)


def test_the_page_holds_everything_and_runs_nothing(finished):
    out, _ = finished
    text = render_report(overview(out), "run <b>")
    assert "<h1>run &lt;b&gt;</h1>" in text
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)
    assert text.count("<svg") == 2 * 3
    for heading in ("Failures", "breadth", "Sinks by position", "All images"):
        assert f">{heading}</h2>" in text


def test_each_map_stands_once_and_names_its_method(finished):
    out, _ = finished
    for found in (overview(out), overview(out, cards=2, sheet=4)):
        text = render_report(found, "run")
        pictures = re.findall(r'<img alt="(\w+ over [^"]+)".*?<b>(\w+)</b>', text)
        assert len(pictures) == len(set(pictures)) >= 8
        assert {alt.partition(" ")[0] for alt, _ in pictures} == {"rollout", "attention"}
        assert all(alt.startswith(method) for alt, method in pictures)
    assert "Most concentrated by rollout" in text
    assert "Least concentrated by attention" in text


@pytest.mark.parametrize(("shift", "norm"), [(-0.5, "positive"), (1.0, "robust")])
def test_a_signed_map_has_the_colours_that_explain_gives_it(tiny_scope, photo, shift, norm):
    """Of a map over its whole range the ends are clipped instead, so that one sink does not hide the rest."""
    values = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4) + shift
    e = replace(tiny_scope.explain(photo), map=values)
    assert np.array_equal(overlay_or_heat(e), e.overlay(norm=norm))
    assert not np.array_equal(overlay_or_heat(e), e.overlay(norm="minmax"))


def test_histograms_of_one_number_share_their_axes(finished):
    found = overview(finished[0])
    for numbers in found.numbers.values():
        numbers["largest_share"] = np.linspace(0.1, 0.2, 9, dtype=np.float32)
    found.numbers["rollout"]["largest_share"] += 0.3
    text = render_report(found, "run")
    charts = re.search(r"<h2>largest patch</h2>(.*?)<h2>", text, re.DOTALL)[1].split("</figure>")[:2]
    ends = [re.findall(r'<text x="[\d.]+" y="124"[^>]*>([\d.]+)</text>', chart) for chart in charts]
    assert ends == [["0.1", "0.5"]] * 2
    places = [[float(x) for x in re.findall(r'<rect x="([\d.]+)"', chart)] for chart in charts]
    assert max(places[0]) < min(places[1])  # attention left of rollout
    assert "9 maps; median" in charts[0]


def test_what_no_map_has_is_not_drawn(finished):
    """A method that gives the prefix nothing has no chart of it, and places without a sink have no picture."""
    found = overview(finished[0])
    found.sinks[4, 4].counts[:] = 0
    for number, (method, charts) in enumerate({"attention": 1, "rollout": 0}.items()):
        found.numbers[method]["prefix_share"][:] = 0
        text = render_report(found, "run")
        assert text.count("<svg") == 2 * 2 + charts
        assert (">prefix tokens</h2>" in text) == (number == 0)
        assert 'alt="sinks by position"' not in text
        assert f"<figcaption>No patch in {2 * GOOD} maps of 4 x 4 patches holds more than 10 times" in text


def test_sinks_are_those_of_attention_alone(photo, tiny_folder, tmp_path, tiny_scope):
    asked = BatchPlan(str(tiny_folder), methods=("rollout", "random", "relevance"))
    run(str(photo), tmp_path / "run", asked, scope=tiny_scope)
    assert overview(tmp_path / "run").sinks[4, 4].maps == 1


def test_a_measured_map_has_its_verdict_in_words(photo, tiny_folder, tiny_scope, tmp_path):
    plan = BatchPlan(str(tiny_folder), methods=("rollout",), metrics=("deletion",))
    run(str(photo), tmp_path / "out", plan, scope=tiny_scope)
    measured = tiny_scope.measure(tiny_scope.explain(photo, method="rollout"), metrics="deletion")
    text = html.unescape(render_report(overview(tmp_path / "out"), "run"))
    assert f"<em>{measured.sentence(brief=True)}</em>" in text


def test_pictures_open_the_viewers_that_are_there(finished, tmp_path):
    out, _ = finished
    shutil.copytree(out, tmp_path / "run")
    name = find_row(out, "3.png")["id"][:12]
    (tmp_path / "run" / "views").mkdir()
    (tmp_path / "run" / "views" / f"{name}.html").touch()
    text = render_report(overview(tmp_path / "run"), "run", tmp_path / "run")
    assert set(re.findall(r'href="([^"]+)"', text)) == {f"views/{name}.html"}
    elsewhere = render_report(overview(tmp_path / "run"), "run", tmp_path / "pages")
    assert f'href="../run/views/{name}.html"' in elsewhere
    assert "href=" not in render_report(overview(tmp_path / "run"), "run")


def test_photos_that_are_gone_leave_their_maps(finished, tmp_path):
    out, photos = finished
    shutil.copytree(out, tmp_path / "moved")
    with_photos = render_report(overview(tmp_path / "moved"), "run")
    hidden = photos.rename(photos.with_name("elsewhere"))
    try:
        without = render_report(overview(tmp_path / "moved"), "run")
    finally:
        hidden.rename(photos)
    assert without.count("<img") == with_photos.count("<img")
    assert without != with_photos


def test_rows_are_explanations_again(finished, tiny_scope):
    out, photos = finished
    row = find_row(out, "3.png")
    assert find_row(out, row["id"][:10]) == row
    (again,) = (e for e in explanations(out) if e.provenance["source"] == row["source"] and e.method == "rollout")
    fresh = tiny_scope.explain(photos / "3.png", method="rollout")
    np.testing.assert_allclose(again.map, fresh.map, atol=2**-11 * fresh.map.max())
    assert again.region == fresh.region
    assert again.layout.prefix == fresh.layout.prefix
    assert np.array_equal(again.picture.pixels, fresh.picture.pixels)
    told = coco(explanations(out, photo=False))
    assert len(told["annotations"]) == 2 * GOOD
    assert len(told["images"]) == GOOD


def test_the_command_writes_the_page_once(finished, tmp_path):
    out, _ = finished
    place = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", str(out), "-o", str(place), "--json"])
    told = json.loads(done.stdout)
    assert (told["images"], told["failed"], told["maps"]) == (GOOD + BAD, BAD, 2 * GOOD)
    assert place.read_text("utf-8").startswith("<!doctype html>")
    again = CliRunner().invoke(app, ["report", str(out), "-o", str(place)])
    assert isinstance(again.exception, ResultError)


@pytest.mark.slow
def test_one_row_opens_in_the_viewer(finished, tiny_folder, tmp_path):
    out, _ = finished
    row, place = find_row(out, "3.png"), tmp_path / "view.html"
    model = ["--model", str(tiny_folder)]
    done = CliRunner().invoke(app, ["report", str(out), "--view", row["id"][:12], *model, "-o", str(place), "--json"])
    assert json.loads(done.stdout)["source"] == row["source"]
    text = place.read_bytes()
    assert text.lower().startswith(b"<!doctype html>")
    assert row["method"].encode() in text
    bad = CliRunner().invoke(app, ["report", str(out), "--view", "bad0.jpg", "-o", str(tmp_path / "other.html")])
    assert isinstance(bad.exception, ResultError)
    assert bad.exception.code == "batch.not-explained"


@pytest.mark.slow
def test_a_photo_is_found_wherever_it_lies(finished, tiny_scope, tmp_path):
    """In a tar, in Parquet, in a video, behind a URL; and not where another one lies now."""
    _, photos = finished
    names = [f"{number}.png" for number in range(3)]
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in names:
            archive.add(photos / name, name)
    pq.write_table(pa.table({"where": [str(photos / name) for name in names]}), tmp_path / "a.parquet")
    store = fsspec.filesystem("memory")
    store.pipe({f"/shelf/{name}": (photos / name).read_bytes() for name in names})
    sources = [tmp_path / "a.tar", tmp_path / "a.parquet", "memory://shelf", "memory://shelf/1.png"]
    with av.open(str(tmp_path / "a.mp4"), "w") as film:
        stream = film.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 140, 100, "yuv420p"
        for name in names:
            film.mux(stream.encode(av.VideoFrame.from_image(Image.open(photos / name).convert("RGB"))))
        film.mux(stream.encode(None))
    sources.append(tmp_path / "a.mp4")
    for number, place in enumerate(sources):
        out = tmp_path / f"out{number}"
        source = ImageSource(str(place), column="where" if number == 1 else None, stride=1)
        run(source, out, BatchPlan("tiny", methods=("rollout",)), scope=tiny_scope)
        for row in rows_of(out):
            e = tiny_scope.explain(photo_from_row(out, row), method="rollout")
            assert np.abs(map_from_row(row) - e.map).max() <= 2e-3 * e.map.max(), place
    store.rm("/shelf", recursive=True)
    for place in (tmp_path / "a.tar", tmp_path / "a.parquet"):
        place.unlink()
    shutil.copy(photos / "3.png", tmp_path / "a.tar")
    for number in range(4):
        with pytest.raises(ImageError):
            photo_from_row(tmp_path / f"out{number}", rows_of(tmp_path / f"out{number}")[0])


def test_a_model_that_results_name_is_loaded_only_when_the_user_says_so(finished, tiny_folder, tmp_path, monkeypatch):
    out, _ = finished
    monkeypatch.setattr("vitscope.scope.load", lambda *_, **__: pytest.fail("loaded"))
    refused = CliRunner().invoke(app, ["report", str(out), "--view", "3.png", "-o", str(tmp_path / "v.html")])
    assert isinstance(refused.exception, UsageError)
    assert refused.exception.code == "cli.view-loads"
    assert f"--model {tiny_folder}" in refused.exception.hint
    assert not (tmp_path / "v.html").exists()


def test_another_model_does_not_draw_the_row(finished, tmp_path):
    out, _ = finished
    other = ["--model", "embedded:digit-scenes", "-o", str(tmp_path / "v.html")]
    refused = CliRunner().invoke(app, ["report", str(out), "--view", "3.png", *other])
    assert isinstance(refused.exception, UsageError)
    assert refused.exception.code == "cli.view-other-weights"


@pytest.mark.slow
def test_options_that_the_viewer_leaves_out_are_told(photo, tiny_folder, tmp_path, capsys):
    asked = BatchPlan(str(tiny_folder), methods=("rollout",), method_options={"residual_weight": 0.3})
    run(str(photo), tmp_path / "run", asked)
    row = ["--view", photo.name, "--model", str(tiny_folder)]
    app(["report", str(tmp_path / "run"), *row, "-o", str(tmp_path / "a.html")], standalone_mode=False)
    assert "made with residual_weight=0.3; the page shows rollout with its defaults" in capsys.readouterr().err


def test_the_documents_examples_run(finished, tmp_path, monkeypatch, capsys):
    shutil.copytree(finished[0], tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "report.md").read_text("utf-8")
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "report.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 2 * GOOD
    assert len(json.loads((tmp_path / "maps.json").read_text())["annotations"]) == 2 * GOOD


def test_what_is_no_run_is_told(finished, tmp_path):
    out, _ = finished
    with raises(ResultError, "batch.no-run"):
        overview(tmp_path)
    with raises(ResultError, "batch.no-such-row"):
        find_row(out, "nothing")
    (tmp_path / "batch.json").write_text("{}")
    with raises(ResultError, "documents.damaged"):
        overview(tmp_path)
    shutil.copy(out / "batch.json", tmp_path)
    with raises(ResultError, "batch.nothing-finished"):
        overview(tmp_path)
    row = next(row for row in rows_of(out) if row["error"])
    with raises(ResultError, "batch.not-explained"):
        explanation_from_row(row)


def test_a_photo_that_was_exchanged_is_not_drawn_on(finished, tmp_path):
    row = dict(next(row for row in rows_of(finished[0]) if row["map"] is not None))
    path = tmp_path / "photo.png"
    path.write_bytes(Path(row["source"]).read_bytes())
    row["source"] = str(path)
    assert explanation_from_row(row).picture.size == (row["width"], row["height"])
    Image.new("RGB", (row["width"], row["height"])).save(path)
    assert explanation_from_row(row).picture is None


def test_equal_maps_have_a_report(finished):
    found = overview(finished[0])
    for numbers in found.numbers.values():
        for name, values in numbers.items():
            numbers[name] = np.full_like(values, 0.75)
    assert "histogram" in render_report(found, "run")
