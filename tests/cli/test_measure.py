"""`vitscope measure` and `vitscope statistics` as users run them: screen, JSON, files, exit codes."""

import hashlib
import io
import json
import re
from importlib import import_module

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import vitscope
from tests.cli.test_main import album, cli, damaged, names, one_line, pixels  # noqa: F401
from vitscope.cli import console, report_text
from vitscope.metrics.concentration import concentration
from vitscope.metrics.faithfulness import MEASURES
from vitscope.metrics.measurement import Measurement

NAMES = [measure.name for measure in MEASURES]
FILES = {"measure.json", "measure.parquet", "curves.png", "statistics.json", "by-depth.png"}
FEW = ("--n-random-maps", "2", "--steps", "4")
MARKS = {"better than random": "+ better", "no better than random": "= no better"}
MARKS |= {"worse than random": "- worse", "undecided": "? undecided"}


RAN = {}


@pytest.fixture
def once(measure):
    """Like `measure`, but what it said before to the same arguments is kept: for runs that write no files."""

    def run(*arguments):
        if arguments not in RAN:
            RAN[arguments] = measure(*arguments)
        return RAN[arguments]

    return run


@pytest.fixture
def measure(cli, tiny_folder):  # noqa: F811
    """`vitscope measure ARGUMENTS...` with the tiny model, rollout unless another method is named, two random maps."""

    def run(*arguments):
        method = () if "--method" in arguments else ("--method", "rollout")
        return cli("measure", *arguments, *method, "--model", tiny_folder, *FEW)

    return run


@pytest.fixture
def narrow(monkeypatch):
    """A screen of so many letters."""

    def set_to(letters):
        monkeypatch.setattr(console.out, "_width", letters)
        monkeypatch.setattr(console.out, "_height", 40)

    return set_to


def measured(scope, photo, method="rollout", **options):
    """The same in Python."""
    e = scope.explain(photo, method=method)
    return e, scope.measure(e, n_random_maps=2, steps=4, **options)


def table(said):
    """The rows of the table of measures, cell by cell."""
    lines = said.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("measure  "))
    rows = []
    for line in lines[start + 1 :]:
        if not line.strip() or line.startswith("asked "):
            break
        rows.append(re.fullmatch(r"(\S+) +(low|high) +(\S+) +(\S+) +(\S+ ?\.\. ?\S+) +(. .+)", line).groups())
    return rows


def alike(got, wanted):
    """The same document but for rounding: where arrays lie in memory decides the order of some sums."""
    if isinstance(wanted, dict):
        assert set(got) == set(wanted)
        for name in wanted:
            alike(got[name], wanted[name])
    elif isinstance(wanted, list):
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            alike(one, other)
    elif isinstance(wanted, float):
        assert got == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    else:
        assert got == wanted


def digests(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.*"))}


# --- the screen ------------------------------------------------------------------------------------------------------


def test_one_screen(once, album, tiny_scope):  # noqa: F811
    ran = once(album[0])
    assert (ran.code, ran.err) == (0, "")
    e, m = measured(tiny_scope, album[0])
    lines = ran.out.splitlines()
    assert lines[0].startswith("cat: rollout, ")
    assert len(lines) <= 28
    assert max(map(len, lines)) <= 80
    told = concentration(e)
    assert f"as broad as {told['effective_patches']:.0f} even ones of 16 patches" in ran.out
    assert f"the largest holds {told['largest_share']:.1%}" in ran.out
    words = " ".join(ran.out.split())
    assert f"score {m.score}: {m.whole:.3f} for the whole picture, {m.empty:.3f} with every patch" in words
    assert "random the map's values in other places, drawn 2 or 199 times (seed 0)" in words
    assert "asked does the score fall as the map's best go (deletion, aopc, positive)? does it stay where" in words
    rows = table(ran.out)
    assert [row[0] for row in rows] == NAMES
    for (_, best, value, random, interval, mark), number in zip(rows, m.numbers, strict=True):
        assert best == {"lower": "low", "higher": "high"}[number.better]
        assert float(value) == pytest.approx(number.value, abs=6e-4)
        assert float(random) == pytest.approx(number.random, abs=6e-4)
        low, high = (float(end) for end in interval.split(".."))
        assert (low, high) == pytest.approx(number.shown, abs=6e-4)
        assert mark == MARKS[number.verdict]
    assert words.endswith(m.sentence(brief=True))


def test_what_is_said_of_attention(measure, album, tiny_scope):  # noqa: F811
    said = " ".join(measure(album[0], "--metrics", "saco").out.split())
    found = tiny_scope.statistics(album[0])
    share = np.mean([layer.shares["cls"].mean() for layer in found.layers])
    itself = np.mean([layer.shares["self"].mean() for layer in found.layers])
    assert f"attention to CLS {share:.1%}, itself {itself:.1%}, others" in said
    assert "registers" not in said
    distance = np.mean([layer.distance.mean() for layer in found.layers])  # three layers: the first and the last three
    assert f"reaches {distance:.0f} px, later {distance:.0f}" in said
    assert said.startswith("cat: rollout, 64 x 64 pixels, ")
    if found.sinks:
        assert f"{len(found.sinks)} of the tokens" in said
        assert f"({found.sinks[0].factor:.1f} x its share" in said
    else:
        assert "sinks none: no token receives far more" in said


def test_nothing_wraps_or_is_cut(measure, album, narrow, monkeypatch):  # noqa: F811
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
        lines = ran.out.splitlines()
        assert max(map(len, lines)) <= min(letters, 100)
        assert len(table(ran.out)) == len(NAMES) + 2
        sanity = [line for line in lines if line.startswith(("cascading", "independent"))]
        assert len(sanity) == 4
        assert all(re.search(r"(unlike|alike|opposite)$", line) for line in sanity)
        assert not any("!" in line for line in sanity if line.startswith("independent"))


def test_signs_stand_for_verdicts_without_colour(capsys, monkeypatch):
    from vitscope.metrics.faithfulness import Found
    from vitscope.metrics.measurement import number_of

    kinds = {"saco": (0.5, (-1.0, 1.0)), "negative": (0.0, (None, None)), "aopc": (-0.5, (None, None))}
    numbers = [
        number_of(name, "faithfulness", "higher", Found(value), [-0.01, 0.0, 0.01], possible=possible)
        for name, (value, possible) in kinds.items()
    ]
    numbers.append(number_of("insertion", "faithfulness", "higher", Found(0.9), [0.5, 0.7, 0.9], possible=(0.0, 1.0)))
    report_text.measured(Measurement("pca", "x", "m", "s", 1.0, 0.0, "mean", tuple(numbers), 9))
    said = capsys.readouterr().out
    assert [row[-1] for row in table(said)] == ["+ better", "= no better", "- worse", "? undecided"]
    assert table(said)[3][4].endswith(" .. 1.000")
    assert numbers[3].high > 1
    assert "\x1b" not in said


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {}], ids=["no colour", "colour"])
def test_no_color_is_honoured_and_progress_is_drawn_on_a_terminal(measure, album, monkeypatch, environment):  # noqa: F811
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


def test_json_is_one_document_and_what_python_gives(measure, album, tiny_scope):  # noqa: F811
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
    assert summary["photos"] == 2
    assert {name: sum(of.values()) for name, of in summary["verdicts"].items()} == dict.fromkeys(NAMES, 2)
    again = measure(*album[:2], "--json", "--baseline", "black", "--seed", 3)
    assert again.out == ran.out


def test_several_photos_end_in_a_count(once, album):  # noqa: F811
    metrics = ("--metrics", "deletion,insertion,saco")
    ran = once(*album, *metrics)
    document = json.loads(once(*album, *metrics, "--json").out)
    heads = [line for line in ran.out.splitlines() if re.match(r"(cat|cup|rocket): ", line)]
    assert len(heads) == 3
    last = " ".join(ran.out.split("\n\n")[-1].split())
    assert last.startswith("Of 3 photos ")
    assert last.endswith("By chance each number is better for 0.075 of 3.")
    for name, of in document["summary"]["verdicts"].items():
        for words in ("better than random", "worse than random", "undecided"):
            told = re.search(rf"{words}: ([^;.]*)", last)
            listed = dict(part.split() for part in told[1].split(", ")) if told else {}
            assert int(listed.get(name, 0)) == of.get(words, 0)
    assert "By chance" not in once(album[0]).out


def test_files_and_the_maps_are_never_touched(cli, measure, album, tiny_folder, tiny_scope, tmp_path):  # noqa: F811
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


def test_what_is_there_is_kept_without_force(measure, album, tmp_path):  # noqa: F811
    out = tmp_path / "out"
    mine = out / "cat" / "curves.png"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    few = ("--metrics", "deletion", "--out", out)
    ran = measure(*album[:2], *few)
    assert ran.code == 1
    assert one_line(ran.err) == (
        f"vitscope: {album[0]}: {mine} is already there (--force replaces it, or give another --out)"
    )
    assert (mine.read_text(), names(out / "cat"), names(out / "cup")) == ("mine", {"curves.png"}, FILES)
    ran = measure(album[0], *few, "--force")
    assert (ran.code, ran.err) == (0, "")
    assert names(out / "cat") == FILES
    assert pixels(mine).ndim == 3


def test_a_place_that_cannot_be_written(cli, measure, album, tiny_folder, tmp_path):  # noqa: F811
    (tmp_path / "file").write_text("mine")
    for ran in (
        measure(album[0], "--out", tmp_path / "file" / "out", "--metrics", "saco"),
        cli("statistics", album[0], "--model", tiny_folder, "--out", tmp_path / "file" / "out"),
    ):
        assert ran.code == 1
        assert "cannot be written: Not a directory" in one_line(ran.err)
    assert names(tmp_path) == {"file"}


def test_without_pyarrow_the_rest_is_written_and_it_is_said(measure, cli, album, tiny_folder, tmp_path, monkeypatch):  # noqa: F811
    from vitscope.metrics import table_files

    monkeypatch.setattr(table_files, "find_spec", lambda name: None)
    ran = measure(album[0], "--out", tmp_path, "--metrics", "saco")
    assert ran.code == 0
    assert one_line(ran.err).endswith("is not installed (pip install 'vitscope[batch]')")
    assert names(tmp_path / "cat") == {"measure.json", "statistics.json", "by-depth.png"}
    ran = cli("statistics", album[1], "--model", tiny_folder, "--out", tmp_path)
    assert ran.code == 0
    one_line(ran.err)
    assert names(tmp_path / "cup") == {"statistics.json", "by-depth.png"}


# --- what is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (["--metrics", "saco, deletion"], {"metrics": ["saco", "deletion"]}),
        (["--metrics", "stability"], {"metrics": "stability"}),
        (["--score", "logit", "--metrics", "saco"], {"score": "logit", "metrics": "saco"}),
        (["--target", "fox", "--metrics", "saco"], {"target": "fox", "metrics": "saco"}),
        (["--baseline", "removal", "--metrics", "saco"], {"baseline": "removal", "metrics": "saco"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_reach_the_measurement(measure, album, tiny_scope, flags, options):  # noqa: F811
    [result] = json.loads(measure(album[0], *flags, "--json").out)["results"]
    _, m = measured(tiny_scope, album[0], **options)
    alike(result["measurement"], json.loads(m.to_json()))
    assert not any("changes nothing" in note for note in result["provenance"]["notes"])


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (
            ["--method", "rollout", "--residual-weight", ".3", "--layers", "1-2"],
            {"method": "rollout", "residual_weight": 0.3, "layers": "1-2"},
        ),
        (["--method", "attention", "--head", "1"], {"method": "attention", "head": 1}),
        (["--method", "rollout", "-O", "head_fusion=max"], {"method": "rollout", "head_fusion": "max"}),
        (["--method", "gradcam", "--target", "fox"], {"method": "gradcam", "target": "fox"}),
        (["--method", "rollout", "--size", "96"], {"method": "rollout", "size": 96}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_reach_the_map(measure, album, tiny_scope, flags, options):  # noqa: F811
    [result] = json.loads(measure(album[0], *flags, "--metrics", "saco", "--json").out)["results"]
    e = tiny_scope.explain(album[0], **options)
    assert result["provenance"]["options"] == e.provenance["options"]
    assert result["target"] == e.target
    assert result["statistics"] == pytest.approx(concentration(e))
    number = tiny_scope.measure(e, metrics="saco", n_random_maps=2, steps=4, target=options.get("target"))["saco"]
    alike(result["measurement"]["numbers"], [json.loads(json.dumps(number.to_dict()))])


WRONG = {
    "--metrics delete": "no metric is called 'delete' (did you mean",
    "--metrics saco,delete": "no metric is called 'delete'",
    "--metrics ,": "no metric is called ''",
    "--baseline white": "no baseline is called 'white' (choices: blur, mean,",
    "--score loss": "no score is called 'loss'",
    "--n-random-maps 1": "n_random_maps is at least 2",
    "--steps 0": "steps is at least 1",
    "--batch-size 0": "batch_size is at least 1",
    "--target unicorn": "no class is called 'unicorn'",
    "--method rolout": "no method is called 'rolout' (did you mean 'rollout'?",
    "--method rollout -O residual_weight": "'residual_weight' is not an option",
    "--method attention --residual-weight .3": "no option of the method 'attention' is called 'residual_weight'",
    "--size 3": "size is between 16 and 8192 pixels, not 3",
    "--n-random-maps many": "Invalid value for '--n-random-maps'",
}


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("flags", WRONG)
def test_wrong_usage(cli, album, tiny_folder, tmp_path, flags):  # noqa: F811
    out = tmp_path / "out"
    ran = cli("measure", album[0], "--model", tiny_folder, *FEW, "--out", out, *flags.split())
    assert (ran.code, ran.out) == (2, "")
    assert WRONG[flags] in one_line(ran.err)
    assert not out.exists()


@pytest.mark.parametrize("flags", ["--metrics delete", "--baseline white", "--score loss"])
@pytest.mark.usefixtures("as_shipped")
def test_a_wrong_word_is_told_before_a_model_is_loaded(cli, album, flags):  # noqa: F811
    ran = cli("measure", album[0], "--model", "./nowhere", *flags.split())
    assert ran.code == 2


@pytest.mark.parametrize("kind", ["missing", "text", "truncated", "one pixel"])
def test_a_bad_photo_among_good_ones(measure, cli, album, tiny_folder, tmp_path, kind):  # noqa: F811
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


def test_a_baseline_that_does_not_fit_the_model(cli, album, tmp_path):  # noqa: F811
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


def test_windows_have_no_sinks_and_it_is_said(cli, album, tmp_path):  # noqa: F811
    from transformers import SwinConfig, SwinForImageClassification, ViTImageProcessorPil

    config = SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4)
    SwinForImageClassification(config).eval().save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    arguments = ("measure", album[0], "--model", tmp_path, *FEW, "--metrics", "saco")
    ran = cli(*arguments)
    assert (ran.code, ran.err) == (0, "")
    said = " ".join(ran.out.split())
    assert "sinks, shares and distance are not known: its layers do not all see the same tokens" in said
    [result] = json.loads(cli(*arguments, "--json").out)["results"]
    assert result["attention"]["sinks"] is result["attention"]["shares"] is result["attention"]["distance_last"] is None
    ran = cli("statistics", album[0], "--model", tmp_path)
    assert ran.code == 0
    assert ran.out.splitlines()[2].split() == ["layer", "entr.", "agree"]


# --- statistics ------------------------------------------------------------------------------------------------------


def test_statistics(cli, album, tiny_folder, tiny_scope, tmp_path, narrow):  # noqa: F811
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
    assert "importance" in document["withheld"]
    assert len(document["files"]) == 3
    told = [cli("statistics", album[0], "--model", tiny_folder, "--importance", "--json").out for _ in range(2)]
    assert told[0] == told[1]


@pytest.mark.usefixtures("as_shipped")
def test_wrong_usage_of_statistics(cli, album, tiny_folder):  # noqa: F811
    for flags, told in {
        "--target fox": "a target changes nothing but importance",
        "--importance --target unicorn": "no class is called 'unicorn'",
        "--size 3": "size is between 16 and 8192",
    }.items():
        ran = cli("statistics", album[0], "--model", tiny_folder, *flags.split())
        assert (ran.code, ran.out) == (2, "")
        assert told in one_line(ran.err)
    ran = cli("statistics")
    assert (ran.code, ran.out) == (2, "")
    assert "Missing argument 'IMAGE'" in one_line(ran.err)


def test_a_saved_picture_of_nothing_is_refused():
    from vitscope.errors import UsageError

    with pytest.raises(UsageError, match="no curves"):
        Measurement("pca", "x", "m", "s", 1.0, None, "mean", (), 0).plot()


# --- masks -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def masks(album, tmp_path):  # noqa: F811
    """The left third of the cat, the lower half of the cup, as two kinds of file; none for the rocket."""
    folder = tmp_path / "masks"
    folder.mkdir()
    cat, cup = np.zeros((100, 150), np.uint8), np.zeros((180, 100), np.uint16)
    cat[:, :50], cup[90:] = 1, 1
    Image.fromarray(cat).save(folder / "cat.png")
    Image.fromarray(cup).save(folder / "cup.tiff")
    return folder


def test_masks(measure, album, masks, tiny_scope, tmp_path):  # noqa: F811
    from vitscope.metrics.ground_truth import against_mask

    ran = measure(*album, "--metrics", "saco", "--masks", masks, "--json", "--out", tmp_path / "out")
    assert ran.code == 1
    assert one_line(ran.err) == (
        f"vitscope: {album[2]}: {masks} has no mask called rocket "
        "(one mask for each photo, of the same name but for the ending)"
    )
    document = json.loads(ran.out)
    assert [result["name"] for result in document["results"]] == ["cat", "cup"]
    truth = np.zeros((180, 100), bool)
    truth[90:] = True
    wanted = against_mask(tiny_scope.explain(album[1], method="rollout"), truth)
    alike(document["results"][1]["localisation"], json.loads(json.dumps(wanted.to_dict())))
    assert document["results"][0]["localisation"]["object_share"] == pytest.approx(1 / 3)
    saved = json.loads((tmp_path / "out" / "cup" / "localisation.json").read_text())
    assert saved == document["results"][1]["localisation"]
    assert sum(document["summary"]["verdicts"]["pixel-auc"].values()) == 2


@pytest.mark.parametrize("letters", [60, 80])
def test_the_screen_of_masks(measure, album, masks, narrow, letters):  # noqa: F811
    narrow(letters)
    arguments = (album[0], "--metrics", "saco", "--masks", masks)
    [result] = json.loads(measure(*arguments, "--json").out)["results"]
    ran = measure(*arguments)
    assert (ran.code, ran.err) == (0, "")
    assert max(map(len, ran.out.splitlines())) <= letters
    rows = re.findall(
        r"^(pixel-auc|avg-precision|pointing|mass-inside) +(\S+) +(\S+) +(\S+) ?\.\. ?(\S+) +(\S+) +(.*)$",
        ran.out,
        re.MULTILINE,
    )
    assert len(rows) == 4
    for row, number in zip(rows, result["localisation"]["numbers"], strict=True):
        told = [number["value"], number["random"], *number["shown"], number["detail"]["centre"]]
        assert [float(cell) for cell in row[1:6]] == pytest.approx(told, abs=6e-4)
        assert row[6] == MARKS[number["verdict"]]
    assert " ".join(ran.out.split()).endswith(result["localisation"]["sentence"])


BAD_MASKS = {
    "another size": "has 20 x 30 pixels and its photo 150 x 100 (a mask has its photo's size)",
    "empty": "is empty (0 is ground, everything else is the object)",
    "everything": "covers the whole photo",
    "jpeg": "is a JPEG: compression smears a mask's edges",
    "text": "is not a picture that can be read",
    "two": "has 2 masks called cat",
}


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_a_bad_mask_is_one_line_and_the_others_go_on(measure, album, masks, kind):  # noqa: F811
    made = {
        "another size": np.eye(30, 20, dtype=np.uint8),
        "empty": np.zeros((100, 150), np.uint8),
        "everything": np.ones((100, 150), np.uint8),
    }
    if kind in made:
        Image.fromarray(made[kind]).save(masks / "cat.png")
    elif kind == "text":
        (masks / "cat.png").write_text("Dear diary")
    else:
        Image.open(masks / "cat.png").save(masks / {"jpeg": "cat.jpg", "two": "cat.bmp"}[kind])
        if kind == "jpeg":
            (masks / "cat.png").unlink()
    ran = measure(*album[:2], "--metrics", "saco", "--masks", masks, "--json")
    assert ran.code == 1
    assert BAD_MASKS[kind] in one_line(ran.err)
    assert [result["name"] for result in json.loads(ran.out)["results"]] == ["cup"]


def test_an_object_that_the_model_does_not_see_is_no_wrong_usage(cli, tmp_path):  # noqa: F811
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(**sizes, image_size=32, patch_size=8)
    ViTForImageClassification(config).eval().save_pretrained(tmp_path / "model")
    ViTImageProcessorPil(
        size={"shortest_edge": 32}, do_center_crop=True, crop_size={"height": 32, "width": 32}
    ).save_pretrained(tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    mask = np.zeros((40, 200), np.uint8)
    mask[:, :20] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "wide.png")
    arguments = ("--model", tmp_path / "model", *FEW, "--metrics", "saco", "--masks", tmp_path / "masks")
    ran = cli("measure", tmp_path / "wide.png", *arguments)
    assert json.loads((tmp_path / "model" / "preprocessor_config.json").read_text())["do_center_crop"] is True
    assert (ran.code, ran.out) == (1, "")
    assert "the mask has no object in what the model saw" in one_line(ran.err)


@pytest.mark.usefixtures("as_shipped")
def test_masks_that_are_no_folder(measure, album, tmp_path):  # noqa: F811
    ran = measure(album[0], "--masks", tmp_path / "nowhere")
    assert (ran.code, ran.out) == (2, "")
    assert "nowhere is not a folder" in one_line(ran.err)


def test_what_counts_as_object(tmp_path):
    from vitscope.cli.commands._masks import Masks

    numbers = np.array([[0, 1, 255], [7, 0, 255]], np.uint8)
    palette = Image.fromarray(numbers, "L").convert("P")
    palette.putdata(numbers.ravel().tolist())
    palette.save(tmp_path / "voc.png")
    Image.fromarray(numbers).save(tmp_path / "grey.png")
    Image.fromarray(numbers.astype(np.uint16)).save(tmp_path / "deep.tiff")
    colour = np.zeros((2, 3, 3), np.uint8)
    colour[0, 1], colour[1, 2] = (0, 0, 9), (1, 0, 0)
    Image.fromarray(colour).save(tmp_path / "colour.bmp")
    masks, size = Masks(tmp_path), (3, 2)
    assert masks.of("a/voc.jpg", size).tolist() == [[False, True, False], [True, False, False]]
    for name in ("grey", "deep"):
        assert masks.of(f"{name}.jpg", size).tolist() == (numbers > 0).tolist()
    assert masks.of("colour.jpg", size).tolist() == [[False, True, False], [False, False, True]]


class TestKnown:
    """A map against a mask, by hand and against the library's own `localise` on maps made one by one."""

    def test_a_map_on_the_object(self, explained):
        from vitscope.metrics.ground_truth import against_mask

        values = np.zeros((8, 8))
        values[1:3, 5:8] = 1
        e = explained(values, (64, 64))
        mask = np.zeros((64, 64), bool)
        mask[8:24, 40:64] = True
        got = against_mask(e, mask)
        assert got.share == pytest.approx(mask.mean())
        assert got["pixel-auc"].value > 0.99
        assert got["pixel-auc"].verdict == "better than random"
        assert got["pixel-auc"].random == pytest.approx(0.5, abs=0.1)
        assert got["pointing"].verdict == "undecided"  # a random map may point at it, and no map does more
        assert got["mass-inside"].value > 0.7
        assert "above a blob in the middle in 4" in got.sentence()
        off = np.zeros((64, 64), bool)
        off[40:, :24] = True
        worse = against_mask(e, off)
        assert worse["mass-inside"].value < 0.01
        assert "better than random" not in worse.sentence()
        assert "mass-inside" not in worse.sentence()

    def test_beside_what(self, explained):
        from vitscope.metrics.ground_truth import against_mask
        from vitscope.metrics.localisation import localise

        rng = np.random.default_rng(1)
        e = explained(rng.normal(size=(5, 7)), (35, 25))
        mask = rng.random((25, 35)) < 0.3
        got = against_mask(e, mask, seed=2)
        blob = [
            [np.exp(-(((r + 0.5) / 5 - 0.5) ** 2 + ((c + 0.5) / 7 - 0.5) ** 2) / 0.125) for c in range(7)]
            for r in range(5)
        ]
        middle = localise(explained(blob, (35, 25)).heat(), mask)
        own = localise(e.heat(), mask)
        flat = e.map.ravel()
        order = np.argsort(-flat, kind="stable")
        randoms = []
        for number in range(39):
            shuffled = np.empty_like(flat)
            shuffled[np.random.default_rng([2, number]).permutation(35)] = flat[order]
            randoms.append(localise(explained(shuffled.reshape(5, 7), (35, 25)).heat(), mask))
        fields = {"pixel-auc": "auc", "average-precision": "ap", "pointing": "pointing", "mass-inside": "inside"}
        for name, field in fields.items():
            values = [getattr(one, field) for one in randoms]
            number = got[name]
            assert number.value == getattr(own, field)
            assert number.detail["centre"] == pytest.approx(getattr(middle, field), rel=1e-5)
            assert (number.low, number.high, number.draws) == (min(values), max(values), 39)
            assert number.random == pytest.approx(np.mean(values))
        before = e.map.tobytes()
        assert against_mask(e, mask, seed=2) == got
        assert e.map.tobytes() == before


# --- compare ---------------------------------------------------------------------------------------------------------


def test_compare_with_measured_numbers(cli, album, tiny_folder, tiny_scope, tmp_path, monkeypatch):  # noqa: F811
    from vitscope.render import sheets

    shown = []
    monkeypatch.setattr(sheets, "sheet", lambda cells, title, **_: shown.extend(cells) or Image.new("L", (2, 2)))
    arguments = ["compare", album[0], "--model", tiny_folder, "--methods", "rollout,attention,random"]
    ran = cli(*arguments, "--out", tmp_path / "a", "--measure", "--baseline", "black", "--json")
    assert (ran.code, ran.err) == (0, "")
    documents = json.loads(ran.out)["methods"]
    for cell, document, method in zip(shown[1:], documents, ("rollout", "attention", "random"), strict=True):
        e = tiny_scope.explain(album[0], method=method)
        wanted = tiny_scope.measure(e, metrics=["deletion", "insertion"], baseline="black")
        for got, number in zip(document["measurement"]["numbers"], wanted.numbers, strict=True):
            for field in ("value", "random", "low", "high"):
                assert got[field] == pytest.approx(getattr(number, field), abs=1e-6)
            low, high = number.shown
            assert f"\n{number.name} {number.value:.3f} ({low:.2f} to {high:.2f}) " in cell.below
    first, *others = (document["measurement"]["forwards"] for document in documents)
    assert all(count <= 2 * 15 + 2 < first for count in others)  # random maps are those of the first
    shown.clear()
    assert cli(*arguments, "--out", tmp_path / "b").code == 0
    assert "deletion" not in shown[1].below
    ran = cli(*arguments, "--out", tmp_path / "c", "--measure", "--baseline", "white")
    assert (ran.code, ran.out) == (2, "")
    assert "no baseline is called 'white'" in one_line(ran.err)


def test_known_scores_belong_to_one_picture_and_one_question(tiny_scope, album):  # noqa: F811
    known = {}
    options = {"metrics": ["deletion"], "n_random_maps": 2, "steps": 4, "known": known}
    e = tiny_scope.explain(album[0])
    first = tiny_scope.measure(e, **options)
    assert first.forwards == len(next(iter(known.values()))) > 0
    assert tiny_scope.measure(e, **options).forwards == 0
    assert tiny_scope.measure(e, **options).numbers == first.numbers
    for other in ({"baseline": "black"}, {"score": "logit"}, {"target": "fox"}):
        assert tiny_scope.measure(e, **options, **other).forwards == first.forwards
    assert tiny_scope.measure(tiny_scope.explain(album[1]), **options).forwards > 0
    assert len(known) == 5
