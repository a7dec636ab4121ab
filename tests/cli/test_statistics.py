"""`vitscope statistics` as users run it."""

import json

import pytest

from tests.helpers.console import names, one_line
from tests.helpers.errors import raises
from tests.helpers.measured import alike
from vitscope.metrics.measurement import Measurement


def test_statistics(cli, album, tiny_folder, tiny_scope, tmp_path, narrow):
    narrow(60)
    ran = cli("statistics", album[0], "--model", tiny_folder, "--importance", "--out", tmp_path)
    assert (ran.code, ran.err) == (0, "")
    assert max(len(line) for line in ran.out.splitlines() if str(tmp_path) not in line) <= 60
    found = tiny_scope.statistics(album[0], importance=True)
    head, *rows = [line.split() for line in ran.out.split("\n\n")[1].splitlines()]
    assert head == ["layer", "entr.", "dist.", "CLS", "self", "agree", "rank", "sinks", "importance"]
    for number, (layer, row) in enumerate(zip(found.layers, rows, strict=True)):
        low, high = layer.importance.min(), layer.importance.max()
        assert row[:8] == [
            str(number),
            f"{layer.entropy_normalised.mean():.2f}",
            f"{layer.distance.mean():.0f}",
            f"{layer.shares['cls'].mean():.1%}",
            f"{layer.shares['self'].mean():.1%}",
            f"{layer.agreement.mean():.2f}",
            f"{layer.effective_rank:.0f}",
            str(len(layer.sinks)),
        ]
        assert [float(end) for end in row[8].split("..")] == pytest.approx([low, high], abs=6e-4)
    assert names(tmp_path / "cat") == {"statistics.json", "statistics.parquet", "by-depth.png"}
    saved = json.loads((tmp_path / "cat" / "statistics.json").read_text())
    alike(saved["layers"], json.loads(json.dumps(found.to_dict()["layers"])))
    again = cli("statistics", album[0], "--model", tiny_folder, "--out", tmp_path)
    assert (again.code, again.out) == (1, "")
    assert "is already there (--force replaces it" in one_line(again.err)
    plain = cli("statistics", album[0], "--model", tiny_folder, "--out", tmp_path, "--force", "--json")
    document = json.loads(plain.out)
    assert (plain.code, plain.err) == (0, "")
    alike(document["layers"], json.loads(json.dumps(tiny_scope.statistics(album[0]).to_dict()["layers"])))
    assert document["name"] == "cat"
    assert "importance" in document["unavailable"]
    assert len(document["files"]) == 3
    told = [cli("statistics", album[0], "--model", tiny_folder, "--importance", "--json").out for _ in range(2)]
    assert told[0] == told[1]


@pytest.mark.slow
def test_statistics_of_a_folder(cli, album, tiny_folder, tiny_scope, tmp_path):
    whole = [tiny_scope.statistics(path) for path in album]
    (tmp_path / "broken.jpg").write_text("Dear diary")
    ran = cli("statistics", *album, tmp_path / "broken.jpg", "--model", tiny_folder, "--out", tmp_path / "o")
    assert ran.code == 1
    assert "broken.jpg" in one_line(ran.err)
    assert f"means over {len(album)} images" in ran.out
    last = [line.split() for line in ran.out.split("\n\n")[1].splitlines()][-1]
    mean = sum(float(one.layers[-1].entropy_normalised.mean()) for one in whole) / len(whole)
    assert last[:2] == [str(len(whole[0].layers) - 1), f"{mean:.2f}"]
    assert names(tmp_path / "o") == {"cat", "cup", "rocket"}
    table = cli("statistics", album[0].parent, "--model", tiny_folder, "--format", "csv").out.splitlines()
    assert table[0].startswith("image,layer,head,module")
    assert len(table) == 1 + sum(len(one.rows()) for one in whole)
    assert float(table[1].split(",")[6]) == pytest.approx(whole[0].rows()[0]["entropy"], rel=1e-5)
    document = json.loads(cli("statistics", *album, "--model", tiny_folder, "--json").out)
    assert [one["name"] for one in document["results"]] == ["cat", "cup", "rocket"]
    assert document["failures"] == []


@pytest.mark.usefixtures("as_shipped")
def test_wrong_usage_of_statistics(cli, album, tiny_folder):
    for flags, told in {
        "--target fox": "a target changes nothing but importance",
        "--importance --target unicorn": "no class is called 'unicorn'",
        "--size 3": "--size is an integer between 16 and 8192",
    }.items():
        ran = cli("statistics", album[0], "--model", tiny_folder, *flags.split())
        assert (ran.code, ran.out) == (2, "")
        assert told in one_line(ran.err)
    ran = cli("statistics")
    assert (ran.code, ran.out) == (2, "")
    assert "Missing argument 'IMAGE...'" in one_line(ran.err)


def test_a_saved_picture_of_nothing_is_refused():
    from vitscope.errors import UsageError

    with raises(UsageError, "render.no-curves"):
        Measurement("pca", "x", "m", "s", 1.0, None, "mean", (), 0).plot()
