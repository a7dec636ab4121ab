"""`vitscope measure` as users run it: screen, JSON, files, exit codes."""

import hashlib
import io
import json
import re
from importlib import import_module

import numpy as np
import pytest
from rich.console import Console

import vitscope
from tests.helpers.console import damaged, mentions, names, one_line, pixels
from tests.helpers.faithfulness import NAMES as EVERY
from tests.helpers.measured import FEW, FILES, MARKS, NAMES, alike, measured, table
from vitscope.cli import console, report_text
from vitscope.metrics.concentration import concentration
from vitscope.metrics.measurement import Measurement

pytestmark = pytest.mark.usefixtures("as_shipped")  # the metrics' own tests execute their annotations
RAN = {}
SLOW = {"marks": pytest.mark.slow}
DAMAGED = ("text", "truncated", "one pixel")


@pytest.fixture
def once(measure):
    """Like `measure`, but what it said before to the same arguments is kept: for runs that write no files."""

    def run(*arguments):
        if arguments not in RAN:
            RAN[arguments] = measure(*arguments)
        return RAN[arguments]

    return run


def digests(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.*"))}


# --- the screen ------------------------------------------------------------------------------------------------------


def test_one_screen(once, album, tiny_scope):
    ran = once(album[0])
    assert (ran.code, ran.err) == (0, "")
    e, m = measured(tiny_scope, album[0])
    lines = ran.out.splitlines()
    assert lines[0].startswith("cat: rollout, ")
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80
    told = concentration(e)
    assert f"spread like {told['effective_patches']:.0f} of 16 patches" in ran.out
    assert f"the largest has {told['largest_share']:.1%} of the total" in ran.out
    words = " ".join(ran.out.split())
    assert f"score {m.score}: {m.whole:.3f}; all patches replaced (removal): {m.empty:.3f}" in words
    assert "random 2 to 199 maps with the same values in other places (seed 0)" in words
    assert "questions does the score fall when the map's best patches go (deletion)? does hiding" in words
    rows = table(ran.out)
    assert [row[0] for row in rows] == NAMES
    for (_, best, value, random, interval, mark), number in zip(rows, m.numbers, strict=True):
        assert best == {"lower": "low", "higher": "high"}[number.better]
        assert float(value) == pytest.approx(number.value, abs=6e-4)
        assert float(random) == pytest.approx(number.random, abs=6e-4)
        low, high = (float(end) for end in interval.split(".."))
        assert (low, high) == pytest.approx((number.low, number.high), abs=6e-4)
        assert mark == MARKS[number.verdict]
    assert words.endswith(m.sentence(brief=True))


def test_what_is_said_of_attention(measure, album, tiny_scope):
    said = " ".join(measure(album[0], "--metrics", "saco").out.split())
    found = tiny_scope.statistics(album[0])
    share = np.mean([layer.shares["cls"].mean() for layer in found.layers])
    itself = np.mean([layer.shares["self"].mean() for layer in found.layers])
    assert f"attention to CLS {share:.1%}, itself {itself:.1%}, others" in said
    assert "registers" not in said
    distance = np.mean([layer.distance.mean() for layer in found.layers])  # three layers: the first and the last three
    assert f"reaches {distance:.0f} px, later {distance:.0f} px" in said
    assert said.startswith("cat: rollout, 64 x 64 pixels, ")
    if found.sinks:
        assert f"{len(found.sinks)} of the tokens" in said
        assert f"({found.sinks[0].factor:.1f} x the even share" in said
    else:
        assert "sinks none: no token receives far more" in said


@pytest.mark.slow
def test_nothing_wraps_or_is_cut(measure, album, narrow, monkeypatch):
    command = import_module("vitscope.cli.commands.measure")
    made, kept = command._measured, []

    def first(*arguments):
        if not kept:
            kept.append(made(*arguments))
        return kept[0]

    monkeypatch.setattr(command, "_measured", first)
    for letters in (60, 80, 200):
        narrow(letters)
        ran = measure(album[0], "--metrics", "all")
        assert ran.code == 0
        lines = [line.rstrip() for line in ran.out.splitlines()]
        assert max(map(len, lines)) <= min(letters, 100)
        assert [row[0] for row in table(ran.out)] == [*EVERY, "max-sensitivity", "stability"]
        sanity = [line for line in lines if line.startswith(("cascading", "independent"))]
        assert len(sanity) == 4
        assert all(re.search(r"(unlike|alike|opposite)$", line) for line in sanity)
        assert not any("!" in line for line in sanity if line.startswith("independent"))


def test_signs_stand_for_verdicts_without_colour(capsys, monkeypatch):
    from vitscope.metrics.faithfulness import MeasureResult
    from vitscope.metrics.measurement import compare_with_random

    kinds = {"saco": (0.5, (-1.0, 1.0)), "negative": (0.0, (None, None)), "aopc": (-0.5, (None, None))}
    numbers = [
        compare_with_random(
            name, "faithfulness", "higher", MeasureResult(value), [-0.01, 0.0, 0.01] * 9, possible=possible
        )
        for name, (value, possible) in kinds.items()
    ]
    numbers.append(
        compare_with_random(
            "insertion", "faithfulness", "higher", MeasureResult(0.9), [0.9, 1.0] * 10, possible=(0.0, 1.0)
        )
    )
    report_text.print_measurement(Measurement("pca", "x", "m", "s", 1.0, 0.0, "mean", tuple(numbers), 9))
    said = capsys.readouterr().out
    assert [row[-1] for row in table(said)] == ["▲ better", "= no better", "▼ worse", "? undecided"]
    assert "\x1b" not in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [pytest.param({"NO_COLOR": "1"}, id="no colour"), pytest.param({}, id="colour", marks=pytest.mark.slow)],
)
def test_no_color_is_honoured_and_progress_is_drawn_on_a_terminal(measure, album, monkeypatch, environment):
    written = io.StringIO()
    options = {"file": written, "force_terminal": True, "width": 60, "height": 40, "highlight": False}
    options |= {"color_system": "256", "_environ": {"TERM": "xterm-256color", **environment}}
    for name in ("out", "err"):
        monkeypatch.setattr(console, name, Console(**options))
    assert measure(*album[:2], "--metrics", "deletion,saco,sensitivity-n").code == 0
    said = written.getvalue()
    assert bool(re.search(r"\x1b\[[0-9;]*(3[0-7]|38|9[0-7])[0-9;]*m", said)) != bool(environment)
    assert "measuring" in said
    assert "2/2" in said
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", said)
    rows = [line for line in plain.splitlines() if re.match(r"(deletion|saco|sensitivity-n) ", line)]
    assert len(rows) == 6
    assert all(len(line) <= 60 for line in rows)


# --- JSON and files --------------------------------------------------------------------------------------------------


def test_json_is_one_document_and_what_python_gives(measure, album, tiny_scope):
    ran = measure(*album[:2], "--json", "--baseline", "black", "--seed", 3)
    assert (ran.code, ran.err) == (0, "")
    document = json.loads(ran.out)
    assert set(document) == {"vitscope", "results", "failures", "summary"}
    assert document["vitscope"] == vitscope.__version__
    assert [result["name"] for result in document["results"]] == ["cat", "cup"]
    for path, result in zip(album[:2], document["results"], strict=True):
        e = tiny_scope.explain(path, method="rollout", seed=3)
        m = tiny_scope.measure(e, n_random_maps=2, steps=4, baseline="black", seed=3)
        alike(result["measurement"], json.loads(m.to_json()))
        assert result["statistics"] == pytest.approx(concentration(e))
        assert result["method"] == "rollout"
        assert result["files"] == []
        assert sum(result["attention"]["shares"].values()) == pytest.approx(1)
    summary = document["summary"]
    assert summary["images"] == 2
    assert {name: sum(of.values()) for name, of in summary["verdicts"].items()} == dict.fromkeys(NAMES, 2)
    again = measure(*album[:2], "--json", "--baseline", "black", "--seed", 3)
    assert again.out == ran.out


def test_several_photos_end_in_a_count(once, album):
    metrics = ("--metrics", "deletion,insertion,saco")
    ran = once(*album, *metrics)
    document = json.loads(once(*album, *metrics, "--json").out)
    heads = [line for line in ran.out.splitlines() if re.match(r"(cat|cup|rocket): ", line)]
    assert len(heads) == 3
    last = " ".join(ran.out.split("\n\n")[-1].split())
    assert last.startswith("Of 3 images ")
    assert last.endswith("By chance each number would be better for 0.15 of 3 at most.")
    for name, of in document["summary"]["verdicts"].items():
        for words in ("better than random", "worse than random", "undecided"):
            told = re.search(rf"{words}: ([^;.]*)", last)
            listed = dict(part.split() for part in told[1].split(", ")) if told else {}
            assert int(listed.get(name, 0)) == of.get(words, 0)
    assert "By chance" not in once(album[0]).out


@pytest.mark.slow
def test_files_and_the_maps_are_never_touched(cli, measure, album, tiny_folder, tiny_scope, tmp_path):
    out = tmp_path / "out"
    assert cli("explain", album[0], "--model", tiny_folder, "--out", out).code == 0
    maps, model = digests(out), digests(tiny_folder)
    ran = measure(album[0], "--out", out)
    assert (ran.code, ran.err) == (0, "")
    after = digests(out)
    assert {path: after[path] for path in maps} == maps
    assert {path.name for path in set(after) - set(maps)} == FILES
    assert digests(tiny_folder) == model
    folder = out / "cat"
    words = " ".join(ran.out.split())
    assert f"written measure.json, measure.parquet, statistics.json, by-depth.png, curves.png in {folder}" in words
    _, m = measured(tiny_scope, album[0])
    saved = json.loads((folder / "measure.json").read_text())
    alike(saved, json.loads(m.to_json()))
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "measure.parquet")
    alike(table.to_pylist(), m.rows())
    about = json.loads(table.schema.metadata[b"vitscope"])
    assert about["sentence"] == m.sentence()
    assert about["options"] == saved["options"]
    assert np.abs(pixels(folder / "curves.png").astype(int) - np.asarray(m.plot())).mean() < 0.5
    assert json.loads((folder / "statistics.json").read_text())["kind"] == "attention statistics"
    assert pixels(folder / "by-depth.png").ndim == 3


@pytest.mark.slow
def test_what_is_there_is_kept_without_force(measure, album, tmp_path):
    out = tmp_path / "out"
    mine = out / "cat" / "curves.png"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    few = ("--metrics", "deletion", "--out", out)
    ran = measure(*album[:2], *few)
    assert ran.code == 1
    assert one_line(ran.err) == (
        f"vitscope: {album[0]}: {mine} is already there (--force replaces it, or choose another path)"
    )
    assert (mine.read_text(), names(out / "cat"), names(out / "cup")) == ("mine", {"curves.png"}, FILES)
    ran = measure(album[0], *few, "--force")
    assert (ran.code, ran.err) == (0, "")
    assert names(out / "cat") == FILES
    assert pixels(mine).ndim == 3


def test_a_place_that_cannot_be_written(cli, measure, album, tiny_folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    for ran in (
        measure(album[0], "--out", tmp_path / "file" / "out", "--metrics", "saco"),
        cli("statistics", album[0], "--model", tiny_folder, "--out", tmp_path / "file" / "out"),
    ):
        assert ran.code == 2
        assert f"--out expects a folder, and {tmp_path / 'file'} is a file" in one_line(ran.err)
    assert names(tmp_path) == {"file"}


@pytest.mark.slow
def test_without_pyarrow_the_rest_is_written_and_it_is_said(measure, cli, album, tiny_folder, tmp_path, monkeypatch):
    from vitscope import errors

    there = errors.find_spec
    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == "pyarrow" else there(name))
    ran = measure(album[0], "--out", tmp_path, "--metrics", "saco")
    assert ran.code == 0
    assert one_line(ran.err).endswith("is not installed (pip install 'vitscope[batch]')")
    assert names(tmp_path / "cat") == {"measure.json", "statistics.json", "by-depth.png"}
    ran = cli("statistics", album[1], "--model", tiny_folder, "--out", tmp_path)
    assert ran.code == 0
    one_line(ran.err)
    assert names(tmp_path / "cup") == {"statistics.json", "by-depth.png"}


# --- what is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.spread
@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (["--metrics", "saco, deletion"], {"metrics": ["saco", "deletion"]}),
        pytest.param(["--metrics", "stability"], {"metrics": "stability"}, **SLOW),
        pytest.param(
            ["--score", "logit", "--metrics", "saco"], {"score": "logit", "metrics": "saco"}, marks=pytest.mark.slow
        ),
        (["--target", "fox", "--metrics", "saco"], {"target": "fox", "metrics": "saco"}),
        (["--baseline", "removal", "--metrics", "saco"], {"baseline": "removal", "metrics": "saco"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_reach_the_measurement(measure, album, tiny_scope, flags, options):
    [result] = json.loads(measure(album[0], *flags, "--json").out)["results"]
    _, m = measured(tiny_scope, album[0], **options)
    alike(result["measurement"], json.loads(m.to_json()))
    assert not any("changes nothing" in note for note in result["provenance"]["notes"])


@pytest.mark.spread
@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (
            ["--method", "rollout", "--residual-weight", ".3", "--layers", "1-2"],
            {"method": "rollout", "residual_weight": 0.3, "layers": "1-2"},
        ),
        (["--method", "attention", "--head", "1"], {"method": "attention", "head": 1}),
        pytest.param(
            ["--method", "rollout", "-O", "head_fusion=max"], {"method": "rollout", "head_fusion": "max"}, **SLOW
        ),
        pytest.param(
            ["--method", "gradcam", "--target", "fox"], {"method": "gradcam", "target": "fox"}, marks=pytest.mark.slow
        ),
        pytest.param(
            ["--method", "rollout", "--size", "96"], {"method": "rollout", "size": 96}, marks=pytest.mark.slow
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_reach_the_map(measure, album, tiny_scope, flags, options):
    [result] = json.loads(measure(album[0], *flags, "--metrics", "saco", "--json").out)["results"]
    e = tiny_scope.explain(album[0], **options)
    assert result["provenance"]["options"] == e.provenance["options"]
    assert result["target"] == e.target
    assert result["statistics"] == pytest.approx(concentration(e))
    number = tiny_scope.measure(e, metrics="saco", n_random_maps=2, steps=4, target=options.get("target"))["saco"]
    alike(result["measurement"]["numbers"], [json.loads(json.dumps(number.to_dict()))])


WRONG = {
    "--metrics delete": "'delete'…deletion",
    "--metrics saco,delete": "'delete'",
    "--metrics ,": "no metric",
    "--baseline white": "'white'…auto, mean,",
    "--score loss": "'loss'",
    "--n-random-maps 1": "--n-random-maps…2",
    "--steps 0": "steps…1",
    "--batch-size 0": "--batch-size…1",
    "--target unicorn": "'unicorn'",
    "--method rolout": "'rolout'…'rollout'",
    "--method rollout -O residual_weight": "'residual_weight' is not a valid option",
    "--method attention --residual-weight .3": "'attention'…'residual_weight'",
    "--size 3": "--size…16…8192…3",
    "--n-random-maps many": "--n-random-maps is a whole number…'many'",
}


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("flags", WRONG)
def test_wrong_usage(cli, album, tiny_folder, tmp_path, flags):
    out = tmp_path / "out"
    few = [] if {"--steps", "--n-random-maps"} & {*flags.split()} else FEW  # an option is given once
    ran = cli("measure", album[0], "--model", tiny_folder, *few, "--out", out, *flags.split())
    assert (ran.code, ran.out) == (2, "")
    assert mentions(ran.err, WRONG[flags])
    assert not out.exists()


@pytest.mark.parametrize("flags", ["--metrics delete", "--baseline white", "--score loss"])
@pytest.mark.usefixtures("as_shipped")
def test_a_wrong_word_is_told_before_a_model_is_loaded(cli, album, flags):
    ran = cli("measure", album[0], "--model", "nobody/nothing", *flags.split())
    assert ran.code == 2


@pytest.mark.parametrize("kind", ["missing", *(pytest.param(one, **SLOW) for one in DAMAGED)])
def test_a_bad_photo_among_good_ones(measure, cli, album, tiny_folder, tmp_path, kind):
    bad = tmp_path / "bad.jpg"
    damaged(bad, kind)
    ran = measure(album[0], bad, album[1], "--json", "--metrics", "saco")
    assert ran.code == 1
    assert str(bad) in one_line(ran.err)
    document = json.loads(ran.out)
    assert [result["name"] for result in document["results"]] == ["cat", "cup"]
    assert [failure["source"] for failure in document["failures"]] == [str(bad)]
    assert document["failures"][0]["error"] in ran.err
    ran = cli("statistics", bad, "--model", tiny_folder)
    assert (ran.code, ran.out) == (1, "")
    assert str(bad) in one_line(ran.err)


@pytest.mark.slow
def test_a_baseline_that_does_not_fit_the_model(cli, album, tmp_path):
    from transformers import IJepaConfig, IJepaModel, ViTImageProcessorPil

    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    IJepaModel(IJepaConfig(hidden_size=16, image_size=32, patch_size=16, **sizes)).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    ran = cli("measure", album[0], "--model", tmp_path, *FEW, "--baseline", "removal")
    assert (ran.code, ran.out) == (1, "")
    assert "'removal' does not apply" in one_line(ran.err)
    ran = cli("measure", album[0], "--model", tmp_path, *FEW)  # two layers, four patches, no CLS
    assert (ran.code, ran.err) == (0, "")
    assert "CLS" not in ran.out
    assert "prefix" not in ran.out


@pytest.mark.slow
def test_windows_have_no_sinks_and_it_is_said(cli, album, tmp_path):
    from transformers import SwinConfig, SwinForImageClassification, ViTImageProcessorPil

    config = SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4)
    SwinForImageClassification(config).eval().save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    arguments = ("measure", album[0], "--model", tmp_path, *FEW, "--metrics", "saco")
    ran = cli(*arguments)
    assert (ran.code, ran.err) == (0, "")
    said = " ".join(ran.out.split())
    assert "its layers do not all have the same tokens" in said
    [result] = json.loads(cli(*arguments, "--json").out)["results"]
    assert result["attention"]["sinks"] is result["attention"]["shares"] is result["attention"]["distance_last"] is None
    ran = cli("statistics", album[0], "--model", tmp_path)
    assert ran.code == 0
    assert ["layer", "entr.", "agree"] in [line.split() for line in ran.out.splitlines()]
