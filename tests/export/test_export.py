"""Maps for other tools: COCO-like JSON, FiftyOne."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.errors import raises
from vitscope.errors import MissingDependencyError, ResultError, UsageError
from vitscope.export.coco import bright_region, coco
from vitscope.export.fiftyone import add

FIFTYONE = Path(__file__).parents[2] / ".cache" / "fiftyone"  # put there by tests/helpers/beside.sh
MAP = [
    [0.0, 0.9, 0.0, 0.5],
    [0.3, 0.8, 0.0, 0.4],
    [0.0, 0.0, 0.1, 0.0],
]


def decoded(segmentation):
    """The RLE by the format's own words: runs of 0 and 1 in turn, column by column."""
    height, width = segmentation["size"]
    values = [bit for at, run in enumerate(segmentation["counts"]) for bit in [at % 2] * run]
    return np.array(values, bool).reshape(width, height).T


def test_the_region_is_the_largest_bright_part(explained):
    inside = bright_region(explained(MAP, (40, 30)), 0.2)
    assert sorted({(y // 10, x // 10) for y, x in np.argwhere(inside)}) == [(0, 1), (1, 0), (1, 1)]
    assert inside.sum() == 300


def test_a_map_without_light_and_a_flat_one_have_a_region(explained):
    assert bright_region(explained(np.zeros((2, 2)), (20, 20)), 0.2).all()
    assert bright_region(explained(-np.ones((2, 2)), (20, 20)), 0.2).all()
    with raises(UsageError, "export.above"):
        bright_region(explained(MAP, (40, 30)), 1.0)


def test_coco_tells_one_region_a_map(explained):
    named = {"target": "tabby", "score": 3.5, "provenance": {"source": "a.jpg", "model": "m"}}
    predicted = {"predictions": [("fox", 0.75)], "provenance": {"source": "a.jpg"}}
    plain = {"provenance": {"source": "b.jpg"}}
    told = coco([explained(MAP, (40, 30), **fields) for fields in (named, predicted, plain)])
    assert json.loads(json.dumps(told)) == told
    assert [image["file_name"] for image in told["images"]] == ["a.jpg", "b.jpg"]
    assert [(c["id"], c["name"]) for c in told["categories"]] == [(1, "tabby"), (2, "fox"), (3, "attended")]
    assert [(a["image_id"], a["category_id"], a["score"]) for a in told["annotations"]] == [
        (1, 1, 3.5),
        (1, 2, 0.75),
        (2, 3, None),
    ]
    first = told["annotations"][0]
    assert first["bbox"] == [0, 0, 20, 20]
    assert first["area"] == 300
    assert np.array_equal(decoded(first["segmentation"]), bright_region(explained(MAP, (40, 30)), 0.2))


def test_the_runs_begin_with_what_is_outside(explained):
    corner = coco([explained([[1.0, 0.0], [0.0, 0.0]], (20, 20))])["annotations"][0]["segmentation"]
    assert corner["counts"][0] == 0
    assert decoded(corner)[:10, :10].all()
    assert decoded(corner).sum() == 100


def test_what_the_model_did_not_see_is_outside(explained):
    cropped = explained([[1.0, 1.0], [1.0, 1.0]], (40, 20), resized=(20, 40), crop=(20, 20))
    assert coco([cropped])["annotations"][0]["bbox"] == [10, 0, 20, 20]


class Dataset(dict):
    """As much of FiftyOne as `add` uses; its Dataset needs a server."""

    def __iter__(self):
        return iter(self.values())

    def add_sample(self, sample):
        self[sample.filepath] = sample


class Sample(dict):
    def __init__(self, filepath):
        super().__init__()
        self.filepath, self.saved = filepath, 0

    def save(self):
        self.saved += 1


@pytest.fixture
def fiftyone(monkeypatch):
    """A module in FiftyOne's place, where it is not installed."""
    stand_in = types.SimpleNamespace(Sample=Sample, Heatmap=lambda **fields: types.SimpleNamespace(**fields))
    monkeypatch.setitem(sys.modules, "fiftyone", stand_in)


def test_fiftyone_gets_a_heatmap_a_map(fiftyone, explained, tmp_path):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (1024, 512)).save(photo)
    about = {"provenance": {"source": str(photo), "model": "m"}, "crop": (32, 32), "resized": (32, 64)}
    maps = [
        explained([[0.5, 1.0], [1.5, 2.5]], (1024, 512), method=m, **about) for m in ("rollout", "input-x-gradient")
    ]
    dataset = Dataset()
    assert add(dataset, maps, tmp_path / "maps") == 2
    (sample,) = dataset.values()
    assert set(sample) == {"vitscope_rollout", "vitscope_input_x_gradient"}
    heat = sample["vitscope_rollout"]
    assert (heat.range, heat.low, heat.high, heat.method, heat.model) == ([0, 255], 0.5, 2.5, "rollout", "m")
    drawn = np.asarray(Image.open(heat.map_path))
    assert drawn.shape == (256, 512)
    assert drawn[10, 500] == 0  # beyond the crop
    assert drawn[255, 383] == 255
    assert drawn[0, 128] == 0
    assert sample.saved == 2


@pytest.mark.slow
def test_fiftyone_itself_keeps_the_heatmap_and_reads_its_file(explained, tmp_path):
    if not (FIFTYONE / "whole").exists() and not os.environ.get("CI"):
        pytest.skip("no FiftyOne on this machine: run tests/helpers/beside.sh")
    photo = tmp_path / "photo.png"
    Image.new("RGB", (80, 40)).save(photo)
    about = {"provenance": {"source": str(photo), "model": "m"}, "target": "tabby", "score": 2.5}
    explained([[0.5, 1.0], [1.5, 2.5]], (80, 40), **about).save(tmp_path / "result")
    script, places = Path(__file__).parents[1] / "helpers" / "fiftyone_asked.py", ("result", "maps", "out.json")
    paths = os.pathsep.join(filter(None, [str(FIFTYONE), os.environ.get("PYTHONPATH")]))
    alone = {"PYTHONPATH": paths, "HOME": str(tmp_path), "FIFTYONE_DO_NOT_TRACK": "true"}
    asked = [sys.executable, script, *(tmp_path / name for name in places)]
    subprocess.run(asked, check=True, env=os.environ | alone, timeout=120)
    told = json.loads((tmp_path / "out.json").read_text())
    heat, again = sorted((tmp_path / "maps").iterdir(), reverse=True)
    assert again.name.endswith("-again_rollout.png")
    assert (told["added"], told["saved"], told["filepath"]) == ([1, 1], 2, str(photo))
    assert told["fields"] == ["again_rollout", "vitscope_rollout"]
    assert (told["map_path"], told["range"], told["low"], told["high"]) == (str(heat), [0, 255], 0.5, 2.5)
    assert [told[name] for name in ("method", "model", "target", "score")] == ["rollout", "m", "tabby", 2.5]
    shown = np.array(told["map"])
    assert shown.shape == (40, 80)
    assert (shown[0, 0], shown[39, 79]) == (0, 255)


def test_fiftyone_wants_files(fiftyone, explained, tmp_path):
    with raises(ResultError, "export.not-a-file"):
        add(Dataset(), [explained(MAP, (40, 30), provenance={"source": "array"})], tmp_path)


def test_fiftyone_is_asked_for_by_name(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(MissingDependencyError, match=r"vitscope\[fiftyone\]"):
        add(Dataset(), [], tmp_path)
