"""A saved manifest holds no number that vitscope does not write: each has its range, and refusals name the field."""

import json
from dataclasses import replace

import pytest

from tests.helpers.errors import raises
from tests.helpers.result_files import _MEDIA
from vitscope._documents import document_bytes
from vitscope.errors import ResultError
from vitscope.explanation import Explanation


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    for name, (_, make) in _MEDIA.items():
        make().save(folder / name)
    return folder


def forged(folder, place, value):
    """Change one place of a manifest, and seal it anew; what comes of reading it."""
    path = folder / "manifest.json"
    before = path.read_bytes()
    document = json.loads(before)
    del document["sha256"]
    *outer, last = place
    holder = document
    for key in outer:
        holder = holder[key]
    holder[last] = value
    path.write_bytes(document_bytes(document))
    try:
        return _MEDIA[document.get("medium", "image")][0].load(folder)
    finally:
        path.write_bytes(before)


FORGED = [
    *(("image", ("predictions", 0, "probability"), number) for number in (-5, -0.01, 1.02, 2, 1e308)),
    ("image", ("predictions", 0), {"label": "x"}),
    ("image", ("predictions", 0), {"label": "x", "value": 0.5}),
    ("image", ("predictions", 0), {"label": "x", "value": 0.5, "probability": 0.5}),
    ("image", ("predictions",), [{"label": "x", "probability": 0.5}] * 1001),
    ("image", ("predictions", 0, "label"), "x" * 100_000),
    ("image", ("provenance", "activation"), "value"),
    *(("image", ("provenance", "size"), number) for number in (0, -224, 1 << 40)),
    *(("image", ("provenance", "seed"), number) for number in (-1, 1 << 63)),
    *(("image", ("provenance", "batch_size"), number) for number in (0, -8)),
    *(("image", ("provenance", "drawing", "opacity"), number) for number in (-0.5, 2)),
    *(("image", ("render", "opacity"), number) for number in (-0.5, 2)),
    *(("image", ("render", "blur"), number) for number in (-1, 1e9)),
    ("image", ("layout", "cells"), [3, 0, 1, 5]),
    ("image", ("layout", "seen"), [0, 5, 5, 5]),
    ("image", ("region", "box"), [0, 0, 1e300, 5]),
    ("image", ("region", "cells"), [-1e12, 0, 5, 5]),
    ("image", ("files", "photo.jpg", "size"), -1),
    *(("clip", ("clip", "fps"), number) for number in (0, -25, 1e300)),
    ("clip", ("clip", "frames", 1, "step"), 1),
    ("clip", ("clip", "frames", 1, "number"), -1),
    *(("sound", ("sound", "seconds_per_column"), number) for number in (0, -1, 1e300)),
    *(("sound", ("sound", "seconds"), number) for number in (-1, 1e300)),
    *(("sound", ("sound", "hertz", 2), number) for number in (-100, 1e300)),
    *(("volume", ("volume", "spacing", 0), number) for number in (0, -1, 1e300)),
    *(("volume", ("volume", "hottest", 0), number) for number in (-1, 1 << 40)),
]


@pytest.mark.parametrize(
    ("medium", "place", "value"), FORGED, ids=[f"{n} {one[1][-1]}" for n, one in enumerate(FORGED)]
)
def test_what_is_out_of_range_is_refused_by_its_field(saved, medium, place, value):
    with raises(ResultError, "explanation.not-a-result") as caught:
        forged(saved / medium, place, value)
    told = str(caught.value)
    assert "\n" not in told
    assert any(str(key) in told for key in place) or "predictions" in told


@pytest.mark.parametrize("number", [0, 1, 1.0001, -1e-6, 1e-300])
def test_what_a_model_may_give_is_read(saved, number):
    assert forged(saved / "image", ("predictions", 0, "probability"), number).predictions[0] == ("tabby", number)


def test_a_great_many_long_labels_cost_nothing(saved):
    many = [{"label": f"{n}" + "x" * 1000, "probability": 0.5} for n in range(20_000)]
    with raises(ResultError, "explanation.not-a-result") as caught:
        forged(saved / "image", ("predictions",), many)
    assert "predictions" in str(caught.value)


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    made = _MEDIA["image"][1]()
    for predictions in ([("tabby", 7.0)], [("tabby", 0.1)] * 1001):
        e = replace(made, predictions=predictions)
        with raises(ResultError, "documents.damaged"):
            e.save(tmp_path / "x")
        assert not (tmp_path / "x").exists()
        e.save(tmp_path / "x.png", force=True)
    values = replace(made, predictions=[("age", 54.3)], provenance={"activation": "value"})
    assert Explanation.load(values.save(tmp_path / "values")).predictions == [("age", 54.3)]
