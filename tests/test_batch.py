"""A collection explained into a folder: the same rows however it is done, and nothing lost whatever goes wrong."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from PIL import Image

from vitscope.batch import faults
from vitscope.batch.contract import Plan
from vitscope.batch.rows import map_of
from vitscope.batch.run import run
from vitscope.errors import MethodError, ResultError, UnknownName, UsageError

ROOT = Path(__file__).parents[1]
# float32 sums in another order, then float16: two units in its last place, of the map's largest value
CLOSE = {"rtol": 2e-3, "atol": 2e-3}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eleven photos in two folders, of two shapes, one of them broken."""
    folder, draw = tmp_path_factory.mktemp("collection") / "photos", np.random.default_rng(0)
    for number in range(11):
        path = folder / f"{number // 6}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (70, 90, 3) if number % 3 else (96, 60, 3)
        Image.fromarray(draw.integers(0, 256, shape, np.uint8)).save(path)
    (folder / "0" / "03.png").write_bytes((folder / "0" / "02.png").read_bytes()[:900])
    return folder


def plan(**options):
    return Plan("tiny", **{"methods": ("rollout",), "shard_size": 4, "workers": 2} | options)


def table(out):
    return pq.read_table(out / "data").to_pandas()


@pytest.fixture(scope="module")
def whole(photos, tiny_scope, tmp_path_factory):
    """An undisturbed run of two methods, and its folder."""
    out = tmp_path_factory.mktemp("whole") / "out"
    asked = plan(methods=("rollout", "relevance"), targets=("teapot", "kite - fox"), size=64)
    return run(str(photos), out, asked, scope=tiny_scope), out, asked


def same(one, other, without=()):
    """The rows of two folders, equal but for float noise in numbers; `without` some columns and the failed rows."""
    pairs = [pq.read_table(out / "data").to_pylist() for out in (one, other)]
    mine, others = ([row for row in rows if not without or not row["error"]] for rows in pairs)
    assert len(mine) == len(others)
    for a, b in zip(mine, others, strict=True):
        for name in {*a} - {*without, "top"}:
            words = isinstance(a[name], list) and any(isinstance(one, str) for one in a[name])
            if isinstance(a[name], float) or (isinstance(a[name], list) and not words):
                assert np.allclose(a[name], b[name], **CLOSE), name
            else:
                assert a[name] == b[name], name
        assert [p["label"] for p in a["top"] or ()] == [p["label"] for p in b["top"] or ()]


def test_a_row_for_each_picture_method_and_target(whole):
    summary, out, _ = whole
    assert (summary.images, summary.failed, summary.shards, summary.skipped) == (11, 1, 3, 0)
    assert summary.failures == {"ImageError": 1}
    rows = table(out)
    assert len(rows) == 11 * 3
    assert not rows.duplicated(["id", "method", "asked"]).any()
    assert rows.row.is_monotonic_increasing
    assert rows.groupby("method").asked.nunique(dropna=True).to_dict() == {"relevance": 2, "rollout": 0}
    stats = json.loads((out / "stats" / "part-000000.json").read_text())
    assert (stats["images"], stats["rows"], stats["failures"]) == (4, 12, {"ImageError": 1})


def test_rows_are_what_explain_gives_for_each_photo_alone(whole, photos, tiny_scope):
    _, out, _ = whole
    for row in pq.read_table(out / "data").to_pylist():
        if row["error"]:
            continue
        method = row["method"]
        e = tiny_scope.explain(row["source"], method=method, target=row["asked"], size=64)
        largest = np.abs(e.map).max()
        assert np.abs(map_of(row) - e.map).max() <= 2e-3 * largest
        assert (row["grid_rows"], row["grid_columns"]) == e.layout.grid
        assert np.allclose(row["prefix"], e.prefix, **CLOSE)
        assert row["prefix_names"] == list(e.layout.prefix) == ["cls"]
        assert (row["width"], row["height"], tuple(row["box"])) == (*e.frame.size, e.frame.box)
        assert [p["label"] for p in row["top"]] == [label for label, _ in e.predictions]
        if method == "relevance":
            assert row["target"] == e.target
            assert row["score"] == pytest.approx(e.score, rel=1e-3, abs=1e-4)
        told = json.loads(row["provenance"])
        assert (told["model"], told["weights"]) == (tiny_scope.family.reference, tiny_scope.family.weights)


@pytest.mark.parametrize(
    "how",
    [{"batch_size": 1, "workers": 1}, {"batch_size": 3, "workers": 3}, {"batch_tokens": 60}, {"ahead": 1}],
    ids=str,
)
def test_the_rows_do_not_depend_on_how_the_work_is_done(whole, photos, tiny_scope, tmp_path, how):
    _, out, asked = whole
    run(str(photos), tmp_path / "out", Plan(**vars(asked) | how), scope=tiny_scope)
    same(tmp_path / "out", out)


def test_a_bad_file_leaves_the_other_rows_as_they_are(whole, photos, tiny_scope, tmp_path):
    _, out, asked = whole
    clean = tmp_path / "clean.txt"
    clean.write_text("\n".join(str(path) for path in sorted(photos.rglob("*.png")) if path.stem != "03"))
    run(str(clean), tmp_path / "out", asked, scope=tiny_scope)
    same(out, tmp_path / "out", without=("id", "row", "source"))
    rows = table(out)
    bad = rows[rows.error.notna()]
    assert len(bad) == 3
    assert bad.source.str.endswith("03.png").all()
    assert bad.error.str.contains("truncated or broken").all()
    assert bad["map"].isna().all()


def test_what_a_model_raises_in_a_batch_costs_only_the_rows_it_is_about(photos, tiny_scope, tmp_path, monkeypatch):
    plain, seen = tiny_scope.explain_many, []

    def moody(images, **options):
        seen.append(len(images))
        if any(one.picture.name == "05" for one in images):
            raise RuntimeError("out of memory\nand more")
        return plain(images, **options)

    monkeypatch.setattr(tiny_scope, "explain_many", moody)
    summary = run(str(photos), tmp_path / "out", plan(), scope=tiny_scope)
    rows = table(tmp_path / "out").set_index("row")
    assert rows.error[rows.error.notna()].index.tolist() == [3, 5]
    assert rows.error[5] == "RuntimeError: out of memory"
    assert summary.failures == {"ImageError": 1, "MethodError": 1}
    assert max(seen) > 1


def test_metrics_and_overlays(photos, tiny_scope, tmp_path):
    asked = plan(metrics=("deletion", "saco"), overlays=True, size=64)
    run(str(photos / "1"), tmp_path / "out", asked, scope=tiny_scope)
    for row in table(tmp_path / "out").to_dict("records"):
        e = tiny_scope.explain(row["source"], method="rollout", size=64)
        numbers = {n.name: n for n in tiny_scope.measure(e, metrics=("deletion", "saco")).numbers}
        assert row["deletion"] == pytest.approx(numbers["deletion"].value, abs=1e-3)
        assert row["saco_random"] == pytest.approx(numbers["saco"].random, abs=1e-2)
        with Image.open(tmp_path / "out" / row["overlay"]) as image:
            assert image.size == e.frame.size


def test_wrong_questions_are_refused_before_anything_is_written(photos, tiny_scope, tmp_path):
    for wrong, kind in (
        ({"methods": ("rolout",)}, UnknownName),
        ({"methods": ("relevance",), "targets": ("tapir",)}, UnknownName),
        ({"params": {"alfa": 1}}, UnknownName),
        ({"metrics": ("deletoin",)}, UnknownName),
        ({"methods": ("logit-lens",), "params": {"layer": "x"}}, UsageError),
    ):
        with pytest.raises(kind):
            run(str(photos), tmp_path / "out", plan(**wrong), scope=tiny_scope)
        assert not (tmp_path / "out").exists(), wrong
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="no pictures"):
        run(str(tmp_path / "none"), tmp_path / "out", plan(), scope=tiny_scope)
    with pytest.raises(UnknownName, match="engine"):
        run(str(photos), tmp_path / "out", plan(), scope=tiny_scope, engine="spark")


def test_resume_does_only_what_is_left(photos, tiny_scope, tmp_path):
    out, done = tmp_path / "out", []

    def stop(images, failed):
        done.append(images)
        if sum(done) >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(str(photos), out, plan(batch_size=2), scope=tiny_scope, advance=stop)
    kept = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (out / "data").iterdir()}
    assert [path.name for path in kept] == ["part-000000.parquet"]
    assert len(table(out)) == 4  # what is finished can be read
    with pytest.raises(ResultError, match="--resume goes on"):
        run(str(photos), out, plan(), scope=tiny_scope)
    summary = run(str(photos), out, plan(batch_size=3), scope=tiny_scope, resume=True)
    assert (summary.skipped, summary.images, summary.shards, summary.failed_before) == (4, 7, 2, 1)
    assert all((p.stat().st_ino, p.stat().st_mtime_ns) == was for p, was in kept.items())
    run(str(photos), tmp_path / "other", plan(), scope=tiny_scope)
    same(out, tmp_path / "other")


def test_sigterm_stops_as_ctrl_c_does(photos, tiny_scope, tmp_path):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run(
            str(photos),
            tmp_path / "out",
            plan(),
            scope=tiny_scope,
            advance=lambda images, failed: os.kill(os.getpid(), signal.SIGTERM),
        )
    assert signal.getsignal(signal.SIGTERM) is handler
    assert run(str(photos), tmp_path / "out", plan(), scope=tiny_scope, resume=True).failed == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"methods": ("attention",)}, "methods was \\['rollout'\\] and is \\['attention'\\]"),
        ({"size": 96}, "size was None and is 96"),
        ({"params": {"alpha": 0.3}}, "params was {} and is {'alpha': 0.3}"),
        ({"shard_size": 5}, "shard_size was 4 and is 5"),
        ({"seed": 1}, "seed was 0 and is 1"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_changed_option_refuses_to_resume_and_says_which(photos, tiny_scope, tmp_path, change, said):
    run(str(photos / "1"), tmp_path, plan(), scope=tiny_scope)
    with pytest.raises(ResultError, match=said):
        run(str(photos / "1"), tmp_path, plan(**change), scope=tiny_scope, resume=True)


def test_other_weights_and_other_pictures_refuse_to_resume(photos, tiny_scope, tmp_path, monkeypatch):
    source = tmp_path / "photos"
    source.mkdir()
    for path in (photos / "1").iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    run(str(source), tmp_path / "out", plan(), scope=tiny_scope)
    monkeypatch.setattr(tiny_scope.family, "_weights", "others")
    monkeypatch.delitem(vars(tiny_scope.family), "weights", raising=False)
    with pytest.raises(ResultError, match="weights was .* and is 'others'"):
        run(str(source), tmp_path / "out", plan(), scope=tiny_scope, resume=True)
    monkeypatch.undo()
    vars(tiny_scope.family).pop("weights", None)
    (source / "000.png").write_bytes((photos / "1" / "06.png").read_bytes())
    with pytest.raises(ResultError, match="the source has changed .* shard 0"):
        run(str(source), tmp_path / "out", plan(), scope=tiny_scope, resume=True)


def test_a_folder_of_something_else_is_refused(photos, tiny_scope, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ResultError, match="not empty and holds no run"):
        run(str(photos), tmp_path, plan(), scope=tiny_scope, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_second_writer_is_refused(photos, tiny_scope, tmp_path):
    run(str(photos / "1"), tmp_path, plan(), scope=tiny_scope)
    with FileLock(tmp_path / ".lock"), pytest.raises(ResultError, match="somebody is writing"):
        run(str(photos / "1"), tmp_path, plan(), scope=tiny_scope, resume=True)


@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EROFS", "EDQUOT"])
@pytest.mark.parametrize("point", ["during-shard-write:2", "after-shard-write:2", "during-manifest-write:2"])
def test_a_disk_that_fails_is_one_line_and_what_is_finished_stays(
    photos, tiny_scope, tmp_path, monkeypatch, point, error
):
    monkeypatch.setattr(faults, "_times", type(faults._times)())
    monkeypatch.setenv("VITSCOPE_FAULT", f"{point}={error}")
    with pytest.raises(ResultError, match="cannot be written: .*--resume"):
        run(str(photos), tmp_path / "out", plan(), scope=tiny_scope)
    monkeypatch.delenv("VITSCOPE_FAULT")
    listed = json.loads((tmp_path / "out" / "manifest.json").read_text())["shards"]
    assert [entry["number"] for entry in listed] == [0]
    assert pq.read_table(tmp_path / "out" / listed[0]["file"]).num_rows == 4
    assert not list((tmp_path / "out").rglob("*.part"))
    summary = run(str(photos), tmp_path / "out", plan(), scope=tiny_scope, resume=True)
    assert (summary.skipped, summary.images) == (4, 7)


def test_broken_manifests_and_lost_shards_are_told(photos, tiny_scope, tmp_path):
    run(str(photos / "1"), tmp_path, plan(), scope=tiny_scope)
    (tmp_path / "data" / "part-000000.parquet").rename(tmp_path / "away")
    with pytest.raises(ResultError, match="is listed as finished and is not there"):
        run(str(photos / "1"), tmp_path, plan(), scope=tiny_scope, resume=True)
    (tmp_path / "manifest.json").write_text('{"schema": 9, "shards": []}')
    with pytest.raises(ResultError, match="schema 9"):
        run(str(photos / "1"), tmp_path, plan(), scope=tiny_scope, resume=True)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ResultError, match="not what a run wrote"):
        run(str(photos / "1"), tmp_path, plan(), scope=tiny_scope, resume=True)


def test_memory_that_waits_is_bounded(photos, tiny_scope, tmp_path, monkeypatch):
    """With room for one picture, no more are begun than threads had free before the first one's size was known."""
    from vitscope.batch import work

    begun, done = [], []
    plain = work._item

    def counted(*given):
        begun.append(given)
        return plain(*given)

    monkeypatch.setattr(work, "_item", counted)
    gaps = []

    def advance(images, failed):
        done.append(images)
        gaps.append(len(begun) - sum(done))

    run(str(photos), tmp_path / "out", plan(ahead=1, batch_size=1), scope=tiny_scope, advance=advance)
    assert max(gaps) <= 2
    assert sum(done) == 11


def test_pictures_of_many_shapes_do_not_pile_up(tiny_scope, tmp_path, monkeypatch):
    from vitscope.batch import work

    draw = np.random.default_rng(0)
    for number in range(12):
        pixels = draw.integers(0, 256, (40 + 16 * (number % 4), 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02d}.png")
    sizes, plain = [], work._explain
    monkeypatch.setattr(work, "_explain", lambda *given: sizes.append(len(given[3])) or plain(*given))
    held = tiny_scope.prepare(tmp_path / "00.png", size=64).pixels.nbytes
    asked = plan(size=64, batch_size=8, shard_size=12, ahead=4 * held)
    assert run(str(tmp_path), tmp_path / "out", asked, scope=tiny_scope).failed == 0
    assert sum(sizes) == 12
    assert len(sizes) > 4  # more batches than shapes: some had to go before they were full


@pytest.mark.timeout(240)
def test_killed_at_every_point_and_at_twenty_random_moments(tmp_path):
    """`benchmarks/kills.py` does the work and asserts; here its count is looked at."""
    points = 2 * len(faults.POINTS) - 2
    assert len(faults.POINTS) >= 8
    command = [sys.executable, ROOT / "benchmarks" / "kills.py", "--points", "--kills", str(points + 20)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] == points + 20
    assert told["killed_in_time"] >= points + 10
    assert told["finished_runs"] >= 1
    assert told["shards_kept"] > 0


def test_the_command_line(photos, tiny_folder, tmp_path, capsys):
    from vitscope.apps.cli import app

    def call(*words):
        try:
            return app(["batch", *map(str, words)], standalone_mode=False)
        except UsageError:
            return 2
        except (ResultError, MethodError):
            return 1

    asked = ["--model", tiny_folder, "--method", "rollout", "--shard-size", 4]
    assert call(photos / "1", "-o", tmp_path / "fine", *asked) == 0
    assert call(photos, "-o", tmp_path / "some", *asked) == 1
    assert call(photos, "-o", tmp_path / "some", *asked) == 1  # there already
    capsys.readouterr()
    assert call(photos, "-o", tmp_path / "some", *asked, "--resume", "--json") == 1  # of which some had failed
    document = json.loads(capsys.readouterr().out)
    assert (document["images"], document["skipped"], document["failed"], document["failed_before"]) == (0, 11, 0, 1)
    assert call(tmp_path / "gone", "-o", tmp_path / "x", *asked) == 2
    assert call(photos, "-o", tmp_path / "x", *asked, "--engine", "spark") == 2
    assert not (tmp_path / "x").exists()


def test_a_full_disk_is_one_line_of_the_command(photos, tiny_folder, tmp_path):
    asked = ["--model", str(tiny_folder), "--method", "rollout", "--shard-size", "4", "--json"]
    command = [sys.executable, "-m", "vitscope", "batch", str(photos), "-o", str(tmp_path / "out"), *asked]
    fault = {**os.environ, "VITSCOPE_FAULT": "during-shard-write:2=ENOSPC"}
    done = subprocess.run(command, capture_output=True, text=True, env=fault)
    assert (done.returncode, done.stdout) == (1, "")
    said = [line for line in done.stderr.splitlines() if line.startswith("vitscope: ")]
    assert len(said) == 1
    assert "No space left on device" in said[0]
    assert "--resume" in said[0]
    assert "Traceback" not in done.stderr


def test_the_examples_of_the_documentation_run(photos, tiny_scope, tmp_path, monkeypatch):
    """Each block of docs/batch.md, in a folder where `out` is a run over `photos`."""
    import re

    monkeypatch.chdir(tmp_path)
    Path("photos").symlink_to(photos)
    run("photos", "out", plan(methods=("rollout", "attention")), scope=tiny_scope)
    page = (ROOT / "docs" / "batch.md").read_text("utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {"scope": tiny_scope}
    for block in code:
        exec(compile(block, "docs/batch.md", "exec"), names)
    assert len(code) == 5
    assert len(names["broadest"]) == len(names["sharpest"]) == 3
    assert sorted(names["by_method"]["method"].to_list()) == ["attention", "rollout"]
    e = tiny_scope.explain(names["row"]["source"], method=names["row"]["method"])
    assert np.allclose(names["heat"], e.heat(), atol=2e-3 * float(e.map.max()))
    assert names["summary"].failures == {"ImageError": 1}


def test_every_column_is_documented():
    import re

    from vitscope.batch.rows import schema

    page = (ROOT / "docs" / "batch.md").read_text("utf-8")
    section = page[page.index("## Columns") : page.index("## Reading it")]
    told = {
        name for line in re.findall(r"^\|([^|]*)\|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", line)
    }
    assert told - {"NAME", "NAME_random"} == {*schema().names}
