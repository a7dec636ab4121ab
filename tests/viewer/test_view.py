"""What a page carries, without a browser: the document, its versions, the command."""

import importlib
import json
import shlex

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import vitscope
from tests.models import toys as zoo
from vitscope.errors import MethodError
from vitscope.viewer.map_entries import full_entry
from vitscope.viewer.page import page, script, styles


@pytest.fixture(scope="module")
def tiny_view(tiny_scope, photo):
    return tiny_scope.view(photo, measure=False)


def test_the_document_has_the_form_that_hosts_rely_on(tiny_view):
    document = json.loads(json.dumps(tiny_view.document(), allow_nan=False))
    header = document["header"]
    assert sorted(header) == sorted(
        [
            "schema",
            "kind",
            "vitscope",
            "model",
            "photo",
            "images",
            "region",
            "layout",
            "layers",
            "attention",
            "maps",
            "predictions",
            "activation",
            "statistics",
            "likeness",
            "missing",
            "seed",
            "size",
            "command",
        ]
    )
    assert header["schema"] == 1
    assert sorted(header["maps"][0]) == sorted(
        [
            "id",
            "method",
            "options",
            "target",
            "label",
            "score",
            "scale",
            "prefix",
            "signed",
            "norm",
            "notes",
            "caveat",
            "remarks",
            "source",
            "passes",
            "sums_to_one",
            "uses_target",
            "statistics",
            "command",
            "measurement",
            "steps",
            "alike",
        ]
    )
    assert sorted(header["layers"][0]) == ["heads", "name", "rows"]
    names = {"readout", "features", "pca"} | {
        f"{kind}.{layer}" for kind in ("heads", "q", "k", "weight", "lse") for layer in range(3)
    }
    names |= {f"{kind}.{one['id']}" for kind in ("map", "order") for one in header["maps"]}
    assert set(document["arrays"]) == names
    assert sorted(document["arrays"]["readout"]) == ["data", "dtype", "encoding", "shape"]


def test_maps_are_the_methods_own(tiny_view, tiny_scope, photo):
    for entry in tiny_view.header["maps"]:
        options = {"target": entry["label"]} if entry["label"] else {}
        e = tiny_scope.explain(photo, method=entry["method"], **entry["options"], **options)
        drawn = tiny_view.arrays[f"map.{entry['id']}"].array().astype(np.float64) * entry["scale"]
        assert np.abs(drawn - e.map).max() <= 1e-3 * np.abs(e.map).max()


def test_the_readouts_heads_are_those_of_heads(tiny_view, tiny_scope, photo):
    for layer in range(3):
        made = tiny_view.arrays[f"heads.{layer}"].array() * tiny_view.header["attention"]["heads_scale"][layer]
        true = [e.map.ravel() for e in tiny_scope.attention_heads(photo, layer)]
        assert np.abs(made[:, 1:] - true).max() < 1e-3


def test_a_model_with_a_bias_has_its_maps_and_says_what_is_missing(photo):
    row = next(row for row in zoo.ROWS if row.name == "beit")
    made = vitscope.load(row.model(), processor=_processor(row.size)).view(photo, measure=False)
    assert any("bias" in one["why"] for one in made.header["missing"])
    assert "heads.0" in made.arrays
    assert not [name for name in made.arrays if name.startswith("q.")]
    assert len(page(made.document())) < 1_000_000


def _processor(size):
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": size[0], "width": size[1]})


def test_a_method_asked_for_by_name_must_apply(photo):
    row = next(row for row in zoo.ROWS if row.name == "beit")
    with pytest.raises(MethodError):
        vitscope.load(row.model(), processor=_processor(row.size)).view(photo, methods=("token-removal",))


def test_two_photos_are_one_page(tiny_scope, photo, tmp_path):
    other = tmp_path / "other.png"
    from PIL import Image

    Image.open(photo).rotate(20).save(other)
    made = tiny_scope.view(photo, other=other, methods=("attention",), top=0, measure=False)
    assert made.other is not None
    assert [one["alike"] for one in made.header["maps"]] == [False, True]
    assert [one["target"] for one in made.other.header["maps"]] == [None, f"similar to {photo}"]
    assert [name for name in made.other.arrays if name.startswith("q.")] == ["q.0", "q.1", "q.2"]


def run(*words, command="view"):
    from vitscope.cli.main import app

    return CliRunner().invoke(app, [command, *map(str, words)])


@pytest.mark.spread
@pytest.mark.parametrize(
    "asked",
    [
        {"method": "relevance", "gradient_rule": "libra", "target": "fox"},
        {"method": "relevance", "refine": "affinity", "target": vitscope.similar_to("PHOTO")},
        {"method": "random", "seed": 3, "size": 64},
    ],
)
def test_the_command_of_a_map_makes_it_again(tiny_scope, photo, tmp_path, asked):
    if "PHOTO" in str(asked.get("target")):
        Image.open(photo).rotate(180).save(tmp_path / "turned.png")
        asked = {**asked, "target": vitscope.similar_to(str(tmp_path / "turned.png"))}
    e = tiny_scope.explain(photo, **asked)
    words = shlex.split(full_entry(tiny_scope.engine, e)[0]["command"])
    done = run(*words[2:], "--out", tmp_path / "out", command=words[1])
    assert done.exit_code == 0, done.output
    [made] = (tmp_path / "out").iterdir()
    again = vitscope.Explanation.load(made)
    np.testing.assert_allclose(again.map, e.map, rtol=1e-4, atol=1e-6 * np.abs(e.map).max())
    assert again.target == e.target


@pytest.mark.slow
def test_no_version_of_a_page_is_larger_than_asked_for(tiny_scope, photo):
    viewer = len(script("page")) + len(styles())
    whole = tiny_scope.view(photo)
    size = len(page(whole.document()))
    assert size == pytest.approx(whole.nbytes + viewer, rel=0.02)
    versions = []
    made = tiny_scope.view(photo, max_mb=(size - 300) / 1e6, show=versions.append)
    assert all(len(page(one.document())) <= size - 300 for one in (*versions, made))
    assert made.header["attention"]["error"]["score"] > whole.header["attention"]["error"]["score"]


def test_versions_have_more_and_more_and_say_what_they_lack(tiny_scope, photo):
    versions = []
    made = tiny_scope.view(photo, show=versions.append)
    assert all(one.live for one in versions)
    maps = [len(one.header["maps"]) for one in versions]
    assert maps == [
        1,
        2,
        3,
        4,
        5,
        *[10] * 10,
    ]  # each method, the five classes, and then the numbers of each but the last
    first, unmeasured = versions[0], versions[5]
    measured = [sum(entry["measurement"] is not None for entry in one.header["maps"]) for one in versions[5:]]
    assert measured == list(range(10))
    assert [entry["method"] for entry in first.header["maps"]] == [made.header["maps"][0]["method"]]
    assert {"heads.0", "q.0", "k.0", "map.0-evidence-walk"} <= set(first.arrays)
    assert unmeasured.header["maps"] == [entry | {"measurement": None, "steps": []} for entry in made.header["maps"]]
    missing = [one.header["missing"][-1]["what"] for one in versions]
    assert missing == ["further maps and numbers"] * 5 + ["measurement"] * 10
    assert all("not made yet" in one.header["missing"][-1]["why"] for one in versions)
    assert all(entry["measurement"] for entry in made.header["maps"])
    assert not [one for one in made.header["missing"] if "not made yet" in one["why"]]
    for name, packed in first.arrays.items():
        assert made.arrays[name] == packed


def test_the_command_names_a_size_only_where_it_changes_the_page(tiny_scope, photo, monkeypatch):
    def command(**options):
        made = tiny_scope.view(photo, methods=("rollout",), measure=False, **options)
        return made.header["command"]

    assert "--max-mb" not in command(max_mb=24.0)
    assert "--max-mb 2" in command(max_mb=2)
    monkeypatch.setattr(importlib.import_module("vitscope.viewer.view_options"), "MAX_MB", 0.1)
    assert "--max-mb 24" in command(max_mb=24.0)


def test_the_command_writes_a_page_and_says_what_is_in_it(tiny_folder, photo, tmp_path):
    out = tmp_path / "view.html"
    done = run(photo, "--model", tiny_folder, "-o", out, "--no-measure", "--method", "attention,rollout", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["bytes"] == out.stat().st_size
    assert told["missing"] == [{"what": "measurement", "why": "measuring was switched off"}]
    assert "MB" in done.stderr
    assert out.read_bytes().startswith(b"<!doctype html>")
    again = run(photo, "--model", tiny_folder, "-o", out, "--no-measure")
    assert "already there" in str(again.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["view.html"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lang", "xx"], "language"),
        (["--max-mb", "0"], "max-mb"),
        (["--method", "rolout"], "did you mean 'rollout'"),
    ],
)
def test_wrong_words_are_one_line(tiny_folder, photo, tmp_path, words, said):
    done = run(photo, "--model", tiny_folder, "-o", tmp_path / "x.html", "--no-measure", *words)
    assert said in str(done.exception)
    assert isinstance(done.exception, vitscope.VitscopeError)
