"""Runs that end too early and are gone on with: nothing lost, nothing twice, and nothing mixed up."""

import json
import os
import signal

import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from tests.helpers import faults
from tests.helpers.batching import plan, same, table
from tests.helpers.errors import raises
from vitscope._files import PART_PREFIX
from vitscope.batch.report import overview
from vitscope.batch.run import run
from vitscope.errors import ResultError, UsageError


def test_resume_does_only_what_is_left(collection, tiny_scope, tmp_path):
    out, done = tmp_path / "out", []

    def stop(images, failed):
        done.append(images)
        if sum(done) >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(str(collection), out, plan(batch_size=2), scope=tiny_scope, on_progress=stop)
    kept = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (out / "data").iterdir()}
    assert [path.name for path in kept] == ["part-000000.parquet"]
    assert len(table(out)) == 4  # what is finished can be read
    with raises(ResultError, "batch.already-started"):
        run(str(collection), out, plan(), scope=tiny_scope)
    summary = run(str(collection), out, plan(batch_size=3), scope=tiny_scope, resume=True)
    assert (summary.skipped, summary.images, summary.shards, summary.failed_before) == (4, 7, 2, 1)
    assert all((p.stat().st_ino, p.stat().st_mtime_ns) == was for p, was in kept.items())
    run(str(collection), tmp_path / "other", plan(), scope=tiny_scope)
    same(out, tmp_path / "other")


def test_sigterm_stops_as_ctrl_c_does(collection, tiny_scope, tmp_path):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run(
            str(collection),
            tmp_path / "out",
            plan(),
            scope=tiny_scope,
            on_progress=lambda images, failed: os.kill(os.getpid(), signal.SIGTERM),
        )
    assert signal.getsignal(signal.SIGTERM) is handler
    assert run(str(collection), tmp_path / "out", plan(), scope=tiny_scope, resume=True).failed == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"methods": ("attention",)}, ("methods", "['rollout']", "['attention']")),
        ({"size": 96}, ("size", "None", "96")),
        ({"method_options": {"residual_weight": 0.3}}, ("method_options", "{}", "{'residual_weight': 0.3}")),
        ({"shard_size": 5}, ("shard_size", "4", "5")),
        ({"seed": 1}, ("seed", "0", "1")),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_changed_option_refuses_to_resume_and_says_which(collection, tiny_scope, tmp_path, change, said):
    run(str(collection / "1"), tmp_path, plan(), scope=tiny_scope)
    with raises(ResultError, "files.other-options") as caught:
        run(str(collection / "1"), tmp_path, plan(**change), scope=tiny_scope, resume=True)
    named = caught.value.message.params["changes"].params
    assert (named["name"], named["before"], named["now"]) == tuple(map(str, said))


def test_other_weights_and_other_pictures_refuse_to_resume(collection, tiny_scope, tmp_path, monkeypatch):
    source = tmp_path / "photos"
    source.mkdir()
    for path in (collection / "1").iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    run(str(source), tmp_path / "out", plan(), scope=tiny_scope)
    monkeypatch.setattr(tiny_scope.adapter, "_weights", "others")
    monkeypatch.delitem(vars(tiny_scope.adapter), "weights", raising=False)
    with raises(ResultError, "files.other-options") as caught:
        run(str(source), tmp_path / "out", plan(), scope=tiny_scope, resume=True)
    change = caught.value.message.params["changes"].params
    assert (change["name"], change["now"]) == ("weights", "'others'")
    monkeypatch.undo()
    vars(tiny_scope.adapter).pop("weights", None)
    (source / "000.png").write_bytes((collection / "1" / "06.png").read_bytes())
    with raises(ResultError, "batch.source-changed"):
        run(str(source), tmp_path / "out", plan(), scope=tiny_scope, resume=True)


def test_a_folder_of_something_else_is_refused(collection, tiny_scope, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with raises(ResultError, "batch.output-not-empty"):
        run(str(collection), tmp_path, plan(), scope=tiny_scope, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("url", ["s3://bucket/out", "gs://bucket", "memory://out"])
def test_an_object_store_is_refused_as_output(collection, tiny_scope, tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    with raises(UsageError, "batch.output-is-url"):
        run(str(collection), url, plan(), scope=tiny_scope)
    assert not [*tmp_path.iterdir()]


def test_a_second_writer_is_refused(collection, tiny_scope, tmp_path):
    run(str(collection / "1"), tmp_path, plan(), scope=tiny_scope)
    with FileLock(tmp_path / ".lock"), raises(ResultError, "batch.locked"):
        run(str(collection / "1"), tmp_path, plan(), scope=tiny_scope, resume=True)


@pytest.mark.spread
@pytest.mark.parametrize(
    ("point", "error"),
    [
        ("during-shard-write:2", "ENOSPC"),
        pytest.param("during-shard-write:2", "EROFS", marks=pytest.mark.slow),
        ("after-shard-write:2", "EDQUOT"),
        pytest.param("during-manifest-write:2", "ENOSPC", marks=pytest.mark.slow),
        ("during-manifest-write:2", "EIO"),
    ],
)
def test_a_disk_that_fails_is_one_line_and_what_is_finished_stays(
    collection, tiny_scope, tmp_path, monkeypatch, point, error
):
    with monkeypatch.context() as patch:
        faults.install(f"{point}={error}", patch.setattr)
        with raises(ResultError, "files.not-written", "batch.resume.hint"):
            run(str(collection), tmp_path / "out", plan(), scope=tiny_scope)
    listed = json.loads((tmp_path / "out" / "manifest.json").read_text())["shards"]
    assert [entry["number"] for entry in listed] == [0]
    assert pq.read_table(tmp_path / "out" / listed[0]["file"]).num_rows == 4
    assert not list((tmp_path / "out").rglob(f"{PART_PREFIX}*"))
    summary = run(str(collection), tmp_path / "out", plan(), scope=tiny_scope, resume=True)
    assert (summary.skipped, summary.images) == (4, 7)


def test_broken_manifests_are_told(collection, tiny_scope, tmp_path):
    run(str(collection / "1"), tmp_path, plan(), scope=tiny_scope)
    (tmp_path / "manifest.json").write_text('{"schema": 9, "shards": []}')
    with raises(ResultError, "documents.schema"):
        run(str(collection / "1"), tmp_path, plan(), scope=tiny_scope, resume=True)
    (tmp_path / "manifest.json").write_text("{")
    with raises(ResultError, "batch.broken-manifest", "batch.broken-manifest.hint"):
        run(str(collection / "1"), tmp_path, plan(), scope=tiny_scope, resume=True)


@pytest.mark.spread
@pytest.mark.parametrize(
    "damage", ["missing", "flipped", *(pytest.param(one, marks=pytest.mark.slow) for one in ("emptied", "swapped"))]
)
def test_a_damaged_shard_is_named_and_made_again(collection, tiny_scope, tmp_path, damage):
    out = tmp_path / "out"
    run(str(collection), out, plan(), scope=tiny_scope)
    shards = sorted((out / "data").iterdir())
    whole = [shard.read_bytes() for shard in shards]
    if damage == "missing":
        shards[1].rename(tmp_path / "away")
    else:
        flipped = bytearray(whole[1])
        flipped[len(flipped) // 2] ^= 1
        shards[1].write_bytes({"emptied": b"", "swapped": whole[0], "flipped": bytes(flipped)}[damage])
    with raises(ResultError, "batch.damaged-shard", "batch.damaged-shard.hint") as caught:
        overview(out)
    assert str(shards[1]) in str(caught.value)
    summary = run(str(collection), out, plan(), scope=tiny_scope, resume=True)
    assert [*summary.damaged] == ["data/part-000001.parquet"]
    assert str(shards[1]) in summary.damaged["data/part-000001.parquet"]
    assert (summary.skipped, summary.images, summary.shards) == (7, 4, 1)
    assert [shard.read_bytes() for shard in shards] == whole
    assert overview(out).images == 11


SHARD = "data/part-000001.parquet"


@pytest.mark.spread
@pytest.mark.parametrize(
    "place", [SHARD, ".lock", *(pytest.param(one, marks=pytest.mark.slow) for one in
                                ("stats/part-000001.json", "data/.part-x", ".in-progress", ".suspects.json"))]
)  # fmt: skip
def test_an_empty_folder_in_the_place_of_a_file_makes_room_and_a_full_one_is_named(
    collection, tiny_scope, tmp_path, place
):
    out = tmp_path / "out"
    run(str(collection), out, plan(), scope=tiny_scope)
    whole = [shard.read_bytes() for shard in sorted((out / "data").iterdir())]
    (out / SHARD).unlink()  # so that it and its statistics are written again
    taken = out / place
    taken.unlink(missing_ok=True)
    taken.mkdir()
    (taken / "mine.txt").touch()
    with raises(ResultError, "files.folder-in-the-way") as caught:
        run(str(collection), out, plan(), scope=tiny_scope, resume=True)
    assert str(taken) in str(caught.value)
    assert (taken / "mine.txt").exists()
    (taken / "mine.txt").unlink()
    summary = run(str(collection), out, plan(), scope=tiny_scope, resume=True)
    assert ([*summary.damaged], summary.images) == ([SHARD], 4)
    assert [shard.read_bytes() for shard in sorted((out / "data").iterdir())] == whole


def test_a_file_in_the_place_of_a_folder_is_named(collection, tiny_scope, tmp_path):
    run(str(collection / "1"), tmp_path, plan(), scope=tiny_scope)
    (tmp_path / "stats").rename(tmp_path / "away")
    (tmp_path / "stats").touch()
    with raises(ResultError, "files.file-in-the-way") as caught:
        run(str(collection / "1"), tmp_path, plan(), scope=tiny_scope, resume=True)
    assert str(tmp_path / "stats") in str(caught.value)
