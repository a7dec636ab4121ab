"""`vitscope batch` as users call it, and what its page says."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import faults
from tests.helpers.batching import plan
from vitscope.batch.rows import schema
from vitscope.batch.run import run
from vitscope.cli.main import app, main
from vitscope.errors import MethodError, ResultError, UsageError

ROOT = Path(__file__).parents[2]


def test_the_command_line(collection, tiny_folder, tmp_path, capsys):
    def call(*words):
        try:
            return app(["batch", *map(str, words)], standalone_mode=False)
        except UsageError:
            return 2
        except (ResultError, MethodError):
            return 1

    asked = ["--model", tiny_folder, "--method", "rollout", "--shard-size", 4]
    assert call(collection / "1", "-o", tmp_path / "fine", *asked) == 0
    assert call(collection, "-o", tmp_path / "some", *asked) == 1
    assert call(collection, "-o", tmp_path / "some", *asked) == 1  # there already
    capsys.readouterr()
    assert call(collection, "-o", tmp_path / "some", *asked, "--resume", "--json") == 1  # of which some had failed
    document = json.loads(capsys.readouterr().out)
    assert (document["images"], document["skipped"], document["failed"], document["failed_before"]) == (0, 11, 0, 1)
    assert call(tmp_path / "gone", "-o", tmp_path / "x", *asked) == 2
    assert call(collection, "-o", tmp_path / "x", *asked, "--engine", "spark") == 2
    assert not (tmp_path / "x").exists()


def test_a_full_disk_is_one_line_of_the_command(collection, tiny_folder, tmp_path, capsys, monkeypatch):
    asked = ["--model", str(tiny_folder), "--method", "rollout", "--shard-size", "4", "--json"]
    monkeypatch.setattr(sys, "argv", ["vitscope", "batch", str(collection), "-o", str(tmp_path / "out"), *asked])
    faults.install("during-shard-write:2=ENOSPC", monkeypatch.setattr)
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (1, "")
    said = [line for line in told.err.splitlines() if line.startswith("vitscope: ")]
    assert len(said) == 1
    assert "No space left on device" in said[0]
    assert "resume" in said[0]
    assert "Traceback" not in told.err


@pytest.mark.slow
def test_the_examples_of_the_documentation_run(collection, tiny_scope, tmp_path, monkeypatch):
    """Each block of docs/batch.md, in a folder where `out` is a run over `collection`."""
    monkeypatch.chdir(tmp_path)
    Path("photos").symlink_to(collection)
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
    page = (ROOT / "docs" / "batch.md").read_text("utf-8")
    section = page[page.index("## Columns") : page.index("## Reading it")]
    told = {
        name for line in re.findall(r"^\|([^|]*)\|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", line)
    }
    assert told == {*schema(["NAME"]).names}


def test_a_shard_that_is_made_again_is_named(collection, tiny_folder, tmp_path, capsys):
    words = ["batch", str(collection / "1"), "-o", str(tmp_path), "--model", str(tiny_folder), "--method", "rollout"]
    app(words, standalone_mode=False)
    (tmp_path / "data" / "part-000000.parquet").write_bytes(b"")
    capsys.readouterr()
    app([*words, "--resume"], standalone_mode=False)
    told = " ".join(capsys.readouterr().err.split())
    assert "data/part-000000.parquet was made again" in told
    assert "it has 0 bytes" in told
