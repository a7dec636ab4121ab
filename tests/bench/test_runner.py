"""`vitscope bench`: cases, rows, resuming, tables, files, on a tiny model."""

import html.parser
import importlib.util
import json
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from vitscope.bench import digits, planted, run_log, segmentation, summary
from vitscope.bench.benchmark import make_benchmark, run_benchmark
from vitscope.bench.cases import KINDS, Case, grid_judge, mask_judge, pair_judge
from vitscope.bench.run_log import CaseResult, RunLog
from vitscope.bench.runner import PRIORS, MethodSpec, explain_case, method_specs, run_cases
from vitscope.errors import ImageError, MethodError, ResultError, UnknownNameError, UsageError
from vitscope.images import Picture
from vitscope.metrics.localisation import localise


def pair(text):
    name, _, value = text.partition("=")
    return name, int(value) if value.lstrip("-").isdigit() else float(value) if "." in value else value


@pytest.fixture(autouse=True)
def plots_are_not_drawn(monkeypatch):
    """Matplotlib would take most of the time; `test_bench_page` looks at whole reports."""
    for name in ("dots", "scatter"):
        monkeypatch.setattr(f"vitscope.bench.report.{name}", lambda *_: Image.new("RGB", (8, 8)))


@pytest.fixture
def benchmark(tiny_scope):
    return make_benchmark(tiny_scope, "planted", count=3, size=64, seed=1)


def rows_of(scope, *texts):
    return method_specs(scope, texts, pair)


# --- which methods


def test_random_and_centre_prior_are_always_there_and_last(tiny_scope):
    labels = [e.label for e in rows_of(tiny_scope, "random", "rollout:layers=last2", "attention", "attention")]
    assert labels == ["rollout:layers=last2", "attention", *PRIORS]
    assert rows_of(tiny_scope, "rollout:residual_weight=0.3:refine=affinity")[0].method_options == {
        "residual_weight": 0.3
    }
    assert rows_of(tiny_scope, "rollout:residual_weight=0.3:refine=affinity")[0].options == {"refine": "affinity"}
    everything = {e.method for e in rows_of(tiny_scope, "all")}
    assert {m.name for m, reason in tiny_scope.methods() if m.quick and not reason} <= everything
    assert next(e.label for e in rows_of(tiny_scope)) == "auto"


def test_wrong_methods_are_told_before_anything_runs(tiny_scope):
    with pytest.raises(UnknownNameError, match="no method is called 'rolout'"):
        rows_of(tiny_scope, "rolout")
    with pytest.raises(UnknownNameError, match="option"):
        rows_of(tiny_scope, "rollout:alfa=1")
    refused = next((m.name for m, reason in tiny_scope.methods() if reason), None)
    if refused:
        with pytest.raises(MethodError, match="does not apply"):
            rows_of(tiny_scope, refused)


# --- rows


def test_a_row_is_what_explaining_and_judging_give(tiny_scope, benchmark, tmp_path):
    rows = rows_of(tiny_scope, "attention", "rollout:layers=last2")
    found = run_cases(tiny_scope, benchmark.cases, rows, RunLog(tmp_path / "o", benchmark.options), size=64, seed=1)
    assert len(found) == 3 * 4
    scenes = planted.scenes(3, size=64, seed=1)
    for scene in scenes:
        e = tiny_scope.explain(scene.image, method="rollout", layers="last2", size=64)
        row = next(r for r in found if r.case == scene.name and r.method == "rollout:layers=last2")
        expected = localise(e.heat(), scene.mask).to_dict()
        assert json.loads(json.dumps(dict(row.numbers))) == json.loads(json.dumps(expected))
        assert row.group == scene.size
        assert row.resolved.startswith("rollout ")
        assert "layers=last2" in row.resolved


def test_priors_are_as_described_and_random_maps_differ_from_case_to_case(tiny_scope, benchmark):
    maps = {}
    for case in benchmark.cases:
        picture = Picture(np.array(case.load()[0]))
        for name in PRIORS:
            maps[name, case.name] = explain_case(tiny_scope, MethodSpec(name, name), picture, case, 64, 5).map
    centres = [maps["centre prior", case.name] for case in benchmark.cases]
    expected = np.exp(-sum(np.meshgrid(*[((np.arange(4) + 0.5) / 4 - 0.5) ** 2] * 2)) / (2 * 0.0625))
    assert np.allclose(centres[0], expected)
    assert (centres[0] == centres[1]).all()
    randoms = [maps["random", case.name] for case in benchmark.cases]
    assert not (randoms[0] == randoms[1]).any()
    again = explain_case(tiny_scope, MethodSpec("random", "random"), picture, benchmark.cases[-1], 64, 5).map
    assert (again == randoms[-1]).all()
    other = explain_case(tiny_scope, MethodSpec("random", "random"), picture, benchmark.cases[-1], 64, 6).map
    assert not (other == again).any()


def test_a_forward_takes_time_and_changes_nothing(tiny_scope, benchmark):
    from vitscope.bench.runner import _forward

    picture = Picture(np.array(benchmark.cases[0].load()[0]))
    before = picture.pixels.tobytes()
    assert _forward(tiny_scope, picture, 64) > 0
    assert picture.pixels.tobytes() == before


def test_nothing_of_the_model_or_the_pictures_changes(tiny_scope, benchmark, tmp_path):
    model = tiny_scope.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    scenes = [case.load()[0].tobytes() for case in benchmark.cases]
    rows = rows_of(tiny_scope, "attention", "relevance")
    run_benchmark(tiny_scope, benchmark, rows, tmp_path / "o")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    assert scenes == [case.load()[0].tobytes() for case in benchmark.cases]


def test_numbers_repeat_to_the_digit_in_another_folder(tiny_scope, benchmark, tmp_path):
    rows = rows_of(tiny_scope, "attention", "relevance")
    kept = []
    for name in ("a", "b"):
        made = run_benchmark(tiny_scope, benchmark, rows, tmp_path / name).to_dict()
        for score in made["scores"]:
            score.pop("seconds")
        kept.append(made)
    assert kept[0] == kept[1]


def test_a_bad_case_is_told_and_the_others_go_on(tiny_scope, tmp_path, benchmark):
    def broken():
        raise ImageError("this one is broken")

    def empty():
        return benchmark.cases[0].load()[0], np.zeros((64, 64), bool)

    cases = [
        Case("broken", "", broken, mask_judge),
        Case("empty", "", empty, mask_judge),
        *benchmark.cases,
    ]
    made = run_benchmark(tiny_scope, replace(benchmark, cases=cases), rows_of(tiny_scope, "attention"), tmp_path / "o")
    assert {score.failed for score in made.scores} == {2}
    assert {score.count for score in made.scores} == {3}
    assert "2 of 5 cases have no numbers, the first: this one is broken" in made.notes[0]
    assert sum(made.groups.values()) == 3
    with pytest.raises(MethodError, match="no method has a number on any case: this one is broken"):
        run_benchmark(tiny_scope, replace(benchmark, cases=cases[:1]), rows_of(tiny_scope, "attention"), tmp_path / "p")


def test_cost_is_measured_in_turn_with_a_forward(tiny_scope, tmp_path, monkeypatch):
    benchmark = make_benchmark(tiny_scope, "speed", count=2, size=64)
    order = []

    def slow(*a):
        order.append(a[1].label)
        time.sleep({"attention": 0.06, "pca": 0.03}.get(a[1].label, 0))
        return explain_case(*a)

    def forward(*a):
        order.append("forward")
        return 0.01

    monkeypatch.setattr("vitscope.bench.runner.explain_case", slow)
    monkeypatch.setattr("vitscope.bench.runner._forward", forward)
    made = run_benchmark(tiny_scope, benchmark, rows_of(tiny_scope, "attention", "pca"), tmp_path / "o")
    names = ["attention", "pca", *PRIORS]
    assert order[: 4 + 2 * 3 * 5] == [*names, *["forward", *names] * 6], "a warm-up, then three rounds a scene"
    ratio = {score.method: score.ratio.value for score in made.scores}
    assert ratio["attention"] >= 6
    assert ratio["pca"] >= 3
    assert ratio["random"] < ratio["pca"]
    assert made.headings()[-1] == "x forward"
    assert "accuracy against cost" in (tmp_path / "o" / "report.html").read_text()


# --- resuming


class Stop(Exception):
    pass


def test_an_interrupted_run_goes_on_and_gives_the_same(tiny_scope, benchmark, tmp_path, monkeypatch):
    rows = rows_of(tiny_scope, "attention", "rollout")
    whole = run_benchmark(tiny_scope, benchmark, rows, tmp_path / "whole")

    def stop(done, total):
        assert total == 12
        if done == 5:
            raise Stop

    with pytest.raises(Stop):
        run_benchmark(tiny_scope, benchmark, rows, tmp_path / "o", on_progress=stop)
    lines = (tmp_path / "o" / "rows.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 5
    with (tmp_path / "o" / "rows.jsonl").open("a") as file:
        file.write(lines[0][:40])  # a line cut off in the middle
    made = []
    monkeypatch.setattr("vitscope.bench.runner.explain_case", lambda *a: made.append(a[1].label) or explain_case(*a))
    said = []
    resumed = run_benchmark(tiny_scope, benchmark, rows, tmp_path / "o", on_note=said.append)
    assert len(made) == 12 - 5
    assert "5 maps of an earlier run" in said[0]
    for one, other in zip(resumed.scores, whole.scores, strict=True):
        assert (one.method, one.numbers, one.groups, one.p) == (other.method, other.numbers, other.groups, other.p)
    made.clear()
    run_benchmark(tiny_scope, benchmark, rows_of(tiny_scope, "attention", "pca"), tmp_path / "o")
    assert set(made) == {"pca"}, "another method is added, the others stay"


def test_other_options_are_refused_by_name(tiny_scope, benchmark, tmp_path):
    rows = rows_of(tiny_scope, "attention")
    run_benchmark(tiny_scope, benchmark, rows, tmp_path / "o")
    other = make_benchmark(tiny_scope, "planted", count=3, size=80, seed=2)
    with pytest.raises(ResultError, match="seed was 1 and is 2; size was 64 and is 80") as info:
        run_benchmark(tiny_scope, other, rows, tmp_path / "o")
    assert "count" not in info.value.message
    changed = replace(benchmark, options={**benchmark.options, "weights": "others"})
    with pytest.raises(ResultError, match="weights was .* and is 'others'"):
        run_benchmark(tiny_scope, changed, rows, tmp_path / "o")
    run_benchmark(tiny_scope, other, rows, tmp_path / "o", force=True)
    kept = [json.loads(line) for line in (tmp_path / "o" / "rows.jsonl").read_text().splitlines()]
    assert len(kept) == 9
    assert json.loads((tmp_path / "o" / "bench.json").read_text())["seed"] == 2


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    for force in (False, True):
        with pytest.raises(ResultError, match="holds something else"):
            RunLog(tmp_path, {}, force=force)
    assert (tmp_path / "thesis.txt").read_text() == "years"
    (tmp_path / "bench.json").write_text("not json")
    with pytest.raises(ResultError, match="not what a benchmark wrote"):
        RunLog(tmp_path, {})
    (tmp_path / "bench.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text('{"key": "x", "methods": 1}\n')
    with pytest.raises(ResultError, match="a line that no benchmark wrote"):
        RunLog(tmp_path, {})


def test_rows_of_another_key_are_not_taken(tmp_path):
    one = RunLog(tmp_path / "o", {"seed": 0})
    one.add(CaseResult("attention", "a", "g", {"ap": 0.5}))
    path = tmp_path / "o" / "rows.jsonl"
    path.write_text(path.read_text().replace('"case": "a"', '"case": "b"'))
    again = RunLog(tmp_path / "o", {"seed": 0})
    assert again.get("attention", "a") is None
    assert again.get("attention", "b") is None


def test_a_fingerprint_sees_contents_and_names(tmp_path):
    (tmp_path / "a").write_text("1")
    first = run_log.fingerprint(tmp_path)
    (tmp_path / "a").write_text("2")
    second = run_log.fingerprint(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, run_log.fingerprint(tmp_path)}) == 3
    assert run_log.fingerprint(None) is None


# --- tables


def made_up(values, seconds=1.0):
    """Rows of methods with given average precisions."""
    return [
        CaseResult(method, f"case {n}", "small" if n % 2 else "large", {"ap": ap, "auc": ap}, seconds)
        for method, own in values.items()
        for n, ap in enumerate(own)
    ]


def test_a_summary_by_hand():
    info = replace(KINDS["planted"], metrics={"auc": "AUC", "ap": "AP"})
    rng = np.random.default_rng(0)
    first, same = rng.uniform(0.3, 0.5, 40), rng.uniform(0.3, 0.5, 40)
    made = summary.summarise("planted", info, made_up({"a": first, "b": first + 0.2, "c": same}), {})
    assert next(score.method for score in made.scores) == "b"
    assert made.reference == "a"
    of = {score.method: score for score in made.scores}
    assert of["a"].numbers["ap"].value == pytest.approx(first.mean())
    assert of["a"].difference is None
    assert of["b"].difference.value == pytest.approx(0.2)
    assert of["b"].p == pytest.approx(2 / 10_001)
    assert of["c"].p > 0.05
    assert of["b"].groups["small"]["ap"] == pytest.approx((first[1::2] + 0.2).mean())
    assert list(made.groups.items()) == [("small", 20), ("large", 20)]
    line = made.table()[0]
    assert line[0] == "b"
    assert line[3] == "+.200 (p .0002)"
    assert made.table(intervals=False)[0][1] == line[1].split(" ")[0]
    json.dumps(made.to_dict())


def test_methods_are_compared_on_the_cases_that_both_have():
    info = KINDS["planted"]
    rows = made_up({"a": [0.1, 0.2, 0.3], "b": [0.2, 0.3, 0.4]})
    rows[1] = replace(rows[1], numbers={}, error="broken")
    made = summary.summarise("planted", info, rows, {})
    assert next(s for s in made.scores if s.method == "b").difference.value == pytest.approx(0.1)
    assert made.notes == ("a: 1 of 3 cases have no numbers, the first: broken",)


def test_pixels_of_all_photos_are_pooled():
    counts = [(10, 0, 0, 90), (0, 50, 50, 0)]
    numbers = [{"counts": c, "iou_mean": i, "ap": 0.5, "ap_both": 0.6} for c, i in zip(counts, (1.0, 0.0), strict=True)]
    rows = [CaseResult("a", str(n), "small", one) for n, one in enumerate(numbers)]
    made = summary.summarise("segmentation", KINDS["segmentation"], rows, {}).scores[0]
    assert made.numbers["accuracy"].value == 0.5
    assert made.numbers["miou"].value == pytest.approx((10 / 110 + 90 / 190) / 2)
    assert made.numbers["ap_both"].value == 0.6


# --- segmentation


@pytest.fixture
def photos(tmp_path):
    """Two photos and their masks: one grey, one with a palette and a border of 255."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    rng = np.random.default_rng(0)
    for name in ("one", "two", "alone"):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(images / f"{name}.png")
    grey = np.zeros((40, 60), np.uint8)
    grey[5:20, 10:30] = 1
    Image.fromarray(grey).save(masks / "one.png")
    palette = np.zeros((40, 60), np.uint8)
    palette[10:30, 20:40] = 255
    palette[12:28, 22:38] = 15
    labelled = Image.fromarray(palette, "L").convert("P")
    labelled.putdata(palette.ravel().tolist())
    labelled.save(masks / "two.png")
    return images, masks


def test_photos_and_masks_of_one_name(photos, tiny_scope, tmp_path):
    cases = segmentation.folder_cases(*photos)
    assert [case.name for case in cases] == ["one", "two"]
    assert cases[0].load()[1].sum() == 15 * 20
    assert cases[1].load()[1].sum() == 16 * 16, "255 of a palette is a border"
    benchmark = make_benchmark(tiny_scope, "segmentation", images=photos[0], masks=photos[1])
    made = run_benchmark(tiny_scope, benchmark, rows_of(tiny_scope, "attention"), tmp_path / "o")
    assert set(made.scores[0].numbers) == set(KINDS["segmentation"].metrics)
    Image.new("L", (60, 40), 1).save(photos[1] / "one.png")
    changed = make_benchmark(tiny_scope, "segmentation", images=photos[0], masks=photos[1])
    with pytest.raises(ResultError, match="masks was"):
        run_benchmark(tiny_scope, changed, rows_of(tiny_scope, "attention"), tmp_path / "o")


def test_masks_that_do_not_fit(photos, tiny_scope):
    images, masks = photos
    Image.new("L", (30, 40), 1).save(masks / "alone.png")
    with pytest.raises(ImageError, match="30 x 40 pixels and its picture 60 x 40"):
        next(c for c in segmentation.folder_cases(images, masks) if c.name == "alone").load()
    Image.new("L", (60, 40), 1).save(masks / "alone.jpg")
    with pytest.raises(UsageError, match="two masks called alone"):
        segmentation.folder_cases(images, masks)
    with pytest.raises(ImageError, match="is a JPEG"):
        segmentation.read_mask(masks / "alone.jpg")
    (images / "alone.png").rename(images / "other.png")
    for stem in ("one", "two", "alone"):
        (masks / f"{stem}.png").unlink()
    with pytest.raises(UsageError, match="has a mask of the same name"):
        segmentation.folder_cases(images, masks)
    with pytest.raises(UsageError, match="needs --images FOLDER --masks FOLDER"):
        make_benchmark(tiny_scope, "segmentation", images=images)


def test_a_draw_of_photos_repeats():
    assert segmentation._sample(list(range(100)), 7, 3) == segmentation._sample(list(range(100)), 7, 3)
    assert len(set(segmentation._sample(list(range(100)), 7, 3))) == 7
    assert segmentation._sample([1, 2], 7, 3) == [1, 2]


def test_the_imagenet_file(tmp_path):
    import h5py

    rng = np.random.default_rng(0)
    photo, truth = rng.integers(0, 255, (30, 50, 3), dtype=np.uint8), np.zeros((30, 50), np.uint8)
    truth[:15, :25] = 1
    with h5py.File(tmp_path / "gtsegs_ijcv.mat", "w") as file:  # axes as MATLAB's are in HDF5
        image = file.create_dataset("#refs#/a", data=photo.transpose(2, 1, 0))
        mask = file.create_dataset("#refs#/b", data=truth.T)
        cell = file.create_dataset("#refs#/c", (1, 1), dtype=h5py.ref_dtype)
        cell[0, 0] = mask.ref
        for name, one in (("img", image), ("gt", cell)):
            references = file.create_dataset(f"value/{name}", (1, 1), dtype=h5py.ref_dtype)
            references[0, 0] = one.ref
    (case,) = segmentation.imagenet_cases(tmp_path / "gtsegs_ijcv.mat")
    small, seen = case.load()
    assert small.shape == (224, 224, 3)
    assert (small == np.asarray(Image.fromarray(photo).resize((224, 224), Image.Resampling.BILINEAR))).all()
    assert seen[:112, :112].all()
    assert seen.sum() == 112 * 112
    (tmp_path / "not.mat").write_text("text")
    with pytest.raises(UsageError, match="is not the file of the ImageNet segmentation test"):
        segmentation.imagenet_cases(tmp_path / "not.mat")


def test_without_h5py_the_extra_is_named(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(segmentation, "find_spec", lambda name: None if name == "h5py" else found(name))
    with pytest.raises(Exception, match=r"vitscope\[bench\]"):
        segmentation.imagenet_cases("gtsegs_ijcv.mat")


# --- digits


def test_two_digits_by_hand(explained_by_hand):
    heat = np.zeros((2, 2), np.float32)
    heat[0] = 3, 1
    heat[1, 0] = 4
    e = explained_by_hand(heat)
    ours, other = np.zeros((32, 32), bool), np.zeros((32, 32), bool)
    ours[:16, :16] = other[:16, 16:] = True
    got = pair_judge(other)(e, ours)
    assert got == {"share": 0.75, "hotter": 1.0, "inside": 3 / 8}
    assert pair_judge(ours)(e, other) == {"share": 0.25, "hotter": 0.0, "inside": 1 / 8}
    assert grid_judge(e, ours) == {"cell share": 3 / 8, "cell pointing": 0.0}
    flat = explained_by_hand(-np.ones((2, 2), np.float32))
    assert pair_judge(other)(flat, ours) == {"share": 0.5, "hotter": 0.5, "inside": 0.25}


@pytest.fixture
def explained_by_hand():
    from vitscope.explanation import Explanation
    from vitscope.geometry import ImageRegion, TokenLayout

    def make(values):
        layout, region = TokenLayout(("cls",), values.shape), ImageRegion.from_resize_crop((32, 32), (32, 32))
        return Explanation(values, np.zeros(1, np.float32), "made", layout, region)

    return make


@pytest.fixture(scope="module")
def digit_scope():
    import vitscope

    return vitscope.load("embedded:digit-scenes")


def test_digits_are_asked_both_ways_and_in_grids(as_shipped, digit_scope):
    cases, left = digits.digit_cases(digit_scope, 6)
    pairs = [case for case in cases if case.group == "two digits"]
    grids = [case for case in cases if case.group == "grid"]
    assert len(pairs) == 2 * (12 - left - len(grids))
    assert len(grids) >= 4
    first, second = pairs[:2]
    assert first.target != second.target
    assert not (first.load()[1] & second.load()[1]).any()
    for case in grids:
        image, mask = case.load()
        assert image.shape == (60, 60, 3)
        assert mask.sum() == 900
        e = digit_scope.explain(image)
        assert case.target in {label for label, _ in e.predictions[:4]}
    assert [case.name for case in digits.digit_cases(digit_scope, 6)[0]] == [case.name for case in cases]


def test_methods_that_know_the_class_beat_those_that_do_not(as_shipped, digit_scope, tmp_path):
    benchmark = make_benchmark(digit_scope, "digits", count=6)
    made = run_benchmark(digit_scope, benchmark, rows_of(digit_scope, "relevance", "rollout"), tmp_path / "o")
    of = {score.method: score for score in made.scores}
    assert of["relevance"].numbers["share"].value > 0.9
    assert of["relevance"].numbers["cell share"].value > 0.6
    assert of["rollout"].numbers["share"].value == pytest.approx(0.5, abs=1e-6)
    assert of["centre prior"].numbers["cell share"].value == pytest.approx(0.25)
    assert of["random"].p < 0.05
    assert made.groups == {"grid": 6, "two digits": 12} or made.notes


def test_digits_need_a_model_that_names_them(tiny_scope):
    with pytest.raises(UsageError, match="does not name the digits"):
        make_benchmark(tiny_scope, "digits")


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


@pytest.fixture
def cli(monkeypatch, capsys, tiny_folder):
    from vitscope.cli.main import main

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["vitscope", "bench", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as info:
            main()
        return (info.value.code, *capsys.readouterr())

    return call


def test_the_command(cli, tiny_folder, tmp_path):
    flags = ("--model", tiny_folder, "--count", 2, "--size", 64, "--out", tmp_path / "o")
    code, out, err = cli("planted", "--methods", "attention,rollout:layers=last2", *flags)
    assert code == 0, err
    assert out.splitlines()[0].split()[:3] == ["method", "pixel", "AUC"]
    assert {line.split("  ")[0] for line in out.splitlines()[1:5]} == {"attention", "rollout:layers=last2", *PRIORS}
    assert "2 cases" in out
    code, out, err = cli("planted", "--methods", "attention,rollout:layers=last2", "--json", *flags)
    document = json.loads(out)
    assert code == 0
    assert document["bench"] == "planted"
    assert document["options"]["seed"] == 0
    assert {s["method"] for s in document["scores"]} == {"attention", "rollout:layers=last2", *PRIORS}
    assert "8 maps of an earlier run" in err
    code, out, err = cli("planted", "--seed", 3, *flags)
    assert (code, out) == (1, "")
    assert "seed was 0 and is 3" in err
    assert err.count("\n") == 1
    assert cli("planted", "--seed", 3, "--force", "--methods", "attention", *flags)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("plantet",), "did you mean 'planted'?"),
        (("planted", "--count", "0"), "a count is at least 1"),
        (("planted", "--split", "test"), "no split is called 'test'"),
        (("planted", "--methods", "rolout"), "did you mean 'rollout'?"),
        (("planted", "--images", "."), "--images is not for planted"),
        (("segmentation",), "needs --images FOLDER --masks FOLDER"),
        (("digits",), "does not name the digits"),
        (("planted", "--cutouts", "nowhere"), "is not a folder"),
    ],
)
def test_wrong_usage(cli, tiny_folder, tmp_path, arguments, told):
    code, out, err = cli(*arguments, "--model", tiny_folder, "--out", tmp_path / "o")
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.weights
def test_the_embedded_model_finds_planted_objects(as_shipped, tmp_path):
    import vitscope

    scope = vitscope.load("embedded:dinov2-small")
    benchmark = make_benchmark(scope, "planted", count=4, size=224)
    made = run_benchmark(scope, benchmark, rows_of(scope, "auto", "attention"), tmp_path / "o")
    of = {score.method: score.numbers for score in made.scores}
    assert of["auto"]["auc"].value > 0.9
    assert of["auto"]["ap"].value > of["centre prior"]["ap"].value + 0.3
    assert of["random"]["auc"].value == pytest.approx(0.5, abs=0.1)
