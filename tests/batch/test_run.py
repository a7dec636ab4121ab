"""A collection explained into a folder: a row for each question, the same however the work is done."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.helpers.batching import CLOSE, plan, same, table
from tests.helpers.errors import raises
from vitscope.batch.rows import map_from_row
from vitscope.batch.run import run
from vitscope.batch.types import BatchPlan
from vitscope.errors import UnknownNameError, UsageError


@pytest.fixture(scope="module")
def whole(collection, tiny_scope, tmp_path_factory):
    """An undisturbed run of two methods, and its folder."""
    out = tmp_path_factory.mktemp("whole") / "out"
    requested = plan(methods=("rollout", "relevance"), targets=("teapot", "kite - fox"), size=64)
    return run(str(collection), out, requested, scope=tiny_scope), out, requested


def test_a_row_for_each_picture_method_and_target(whole):
    summary, out, _ = whole
    assert (summary.images, summary.failed, summary.shards, summary.skipped) == (11, 1, 3, 0)
    assert summary.failures == {"ImageError": 1}
    rows = table(out)
    assert len(rows) == 11 * 3
    assert not rows.duplicated(["id", "method", "requested_target"]).any()
    assert rows.row.is_monotonic_increasing
    assert rows.groupby("method").requested_target.nunique(dropna=True).to_dict() == {"relevance": 2, "rollout": 0}
    stats = json.loads((out / "stats" / "part-000000.json").read_text())
    assert (stats["images"], stats["rows"], stats["failures"]) == (4, 12, {"ImageError": 1})


def test_rows_are_what_explain_gives_for_each_photo_alone(whole, collection, tiny_scope):
    _, out, _ = whole
    for row in pq.read_table(out / "data").to_pylist():
        if row["error"]:
            continue
        method = row["method"]
        e = tiny_scope.explain(row["source"], method=method, target=row["requested_target"], size=64)
        largest = np.abs(e.map).max()
        assert np.abs(map_from_row(row) - e.map).max() <= 2e-3 * largest
        assert (row["grid_rows"], row["grid_columns"]) == e.layout.grid
        assert np.allclose(row["prefix"], e.prefix, **CLOSE)
        assert row["prefix_names"] == list(e.layout.prefix) == ["cls"]
        assert (row["width"], row["height"], tuple(row["box"])) == (*e.region.size, e.region.box)
        assert [p["label"] for p in row["top"]] == [label for label, _ in e.predictions]
        if method == "relevance":
            assert row["target"] == e.target
            assert row["score"] == pytest.approx(e.score, rel=1e-3, abs=1e-4)
        told = json.loads(row["provenance"])
        assert (told["model"], told["weights"]) == (tiny_scope.adapter.reference, tiny_scope.adapter.weights)


@pytest.mark.spread
@pytest.mark.covering
@pytest.mark.parametrize(
    "how",
    [{"batch_size": 1, "workers": 1}, {"batch_size": 3, "workers": 3}, {"batch_tokens": 60}, {"max_pending_bytes": 1}],
    ids=str,
)
def test_the_rows_do_not_depend_on_how_the_work_is_done(whole, collection, tiny_scope, tmp_path, how):
    _, out, requested = whole
    run(str(collection), tmp_path / "out", BatchPlan(**vars(requested) | how), scope=tiny_scope)
    same(tmp_path / "out", out)


def test_a_bad_file_leaves_the_other_rows_as_they_are(whole, collection, tiny_scope, tmp_path):
    _, out, requested = whole
    clean = tmp_path / "clean.txt"
    clean.write_text("\n".join(str(path) for path in sorted(collection.rglob("*.png")) if path.stem != "03"))
    run(str(clean), tmp_path / "out", requested, scope=tiny_scope)
    same(out, tmp_path / "out", without=("id", "row", "source"))
    rows = table(out)
    bad = rows[rows.error.notna()]
    assert len(bad) == 3
    assert bad.source.str.endswith("03.png").all()
    assert bad.error.str.contains("truncated or broken").all()
    assert bad["map"].isna().all()


def test_what_a_model_raises_in_a_batch_costs_only_the_rows_it_is_about(collection, tiny_scope, tmp_path, monkeypatch):
    plain, seen = tiny_scope.explain_many, []

    def moody(images, **options):
        seen.append(len(images))
        if any(one.picture.name == "05" for one in images):
            raise RuntimeError("shapes differ\nand more")
        return plain(images, **options)

    monkeypatch.setattr(tiny_scope, "explain_many", moody)
    summary = run(str(collection), tmp_path / "out", plan(), scope=tiny_scope)
    rows = table(tmp_path / "out").set_index("row")
    assert rows.error[rows.error.notna()].index.tolist() == [3, 5]
    assert rows.error[5] == "RuntimeError: shapes differ"
    assert summary.failures == {"ImageError": 1, "MethodError": 1}
    assert max(seen) > 1


def test_metrics_and_overlays(collection, tiny_scope, tmp_path):
    requested = plan(metrics=("deletion", "saco"), overlays=True, size=64)
    two = tmp_path / "two.txt"
    two.write_text("\n".join(str(path) for path in sorted((collection / "1").iterdir())[:2]))
    run(str(two), tmp_path / "out", requested, scope=tiny_scope)
    for row in table(tmp_path / "out").to_dict("records"):
        e = tiny_scope.explain(row["source"], method="rollout", size=64)
        numbers = {n.name: n for n in tiny_scope.measure(e, metrics=("deletion", "saco")).numbers}
        assert row["deletion"] == pytest.approx(numbers["deletion"].value, abs=1e-3)
        assert row["saco_random"] == pytest.approx(numbers["saco"].random, abs=1e-2)
        with Image.open(tmp_path / "out" / row["overlay"]) as image:
            assert image.size == e.region.size


@pytest.mark.parametrize(("words", "absent"), [("default", {"saco"}), ("all", set())])
def test_words_for_several_metrics_become_their_columns(collection, tiny_scope, tmp_path, words, absent):
    """Not a column of that name which stays empty."""
    one = tmp_path / "one.txt"
    one.write_text(str(min((collection / "1").iterdir())))
    run(str(one), tmp_path / "out", plan(metrics=(words,), size=64), scope=tiny_scope)
    (row,) = table(tmp_path / "out").to_dict("records")
    e = tiny_scope.explain(row["source"], method="rollout", size=64)
    measurement = tiny_scope.measure(e, metrics=words)
    numbers = {n.name.replace("-", "_"): n for n in measurement.numbers}
    assert row["sentence"] == measurement.sentence(brief=True)
    assert "随机" in row["sentence_zh"]
    assert {"deletion", "saco", "sensitivity_n", "infidelity"} - absent <= numbers.keys() <= row.keys()
    assert not {words, *absent} & row.keys()
    for name, number in numbers.items():
        assert row[name] == pytest.approx(number.value, abs=1e-3)
        assert row[f"{name}_verdict"] == number.verdict


def test_wrong_questions_are_refused_before_anything_is_written(collection, tiny_scope, tmp_path):
    for wrong, kind in (
        ({"methods": ("rolout",)}, UnknownNameError),
        ({"methods": ("relevance",), "targets": ("tapir",)}, UnknownNameError),
        ({"method_options": {"alfa": 1}}, UnknownNameError),
        ({"metrics": ("deletoin",)}, UnknownNameError),
        ({"methods": ("logit-lens",), "method_options": {"layer": "x"}}, UsageError),
    ):
        with pytest.raises(kind):
            run(str(collection), tmp_path / "out", plan(**wrong), scope=tiny_scope)
        assert not (tmp_path / "out").exists(), wrong
    (tmp_path / "none").mkdir()
    with raises(UsageError, "batch.no-images"):
        run(str(tmp_path / "none"), tmp_path / "out", plan(), scope=tiny_scope)
    with pytest.raises(UnknownNameError, match="engine"):
        run(str(collection), tmp_path / "out", plan(), scope=tiny_scope, engine="spark")


def test_memory_that_waits_is_bounded(collection, tiny_scope, tmp_path, monkeypatch):
    """With room for one picture, no more are begun than threads had free before the first one's size was known."""
    from vitscope.batch import worker

    begun, done = [], []
    plain = worker._load

    def counted(*given):
        begun.append(given)
        return plain(*given)

    monkeypatch.setattr(worker, "_load", counted)
    gaps = []

    def on_progress(images, failed):
        done.append(images)
        gaps.append(len(begun) - sum(done))

    run(
        str(collection),
        tmp_path / "out",
        plan(max_pending_bytes=1, batch_size=1),
        scope=tiny_scope,
        on_progress=on_progress,
    )
    assert max(gaps) <= 2
    assert sum(done) == 11


def test_pictures_of_many_shapes_do_not_pile_up(tiny_scope, tmp_path, monkeypatch):
    from vitscope.batch import worker

    draw = np.random.default_rng(0)
    for number in range(12):
        pixels = draw.integers(0, 256, (40 + 16 * (number % 4), 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02d}.png")
    sizes, plain = [], worker._explain
    monkeypatch.setattr(worker, "_explain", lambda *given: sizes.append(len(given[3])) or plain(*given))
    held = tiny_scope.prepare(tmp_path / "00.png", size=64).pixels.nbytes
    requested = plan(size=64, batch_size=8, shard_size=12, max_pending_bytes=4 * held)
    assert run(str(tmp_path), tmp_path / "out", requested, scope=tiny_scope).failed == 0
    assert sum(sizes) == 12
    assert len(sizes) > 4  # more batches than shapes: some had to go before they were full
