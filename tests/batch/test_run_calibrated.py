"""A batch by `auto` follows the calibration of its model, on every machine, and does not change in the middle."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

import vitscope
from tests.helpers.batching import plan, table
from tests.helpers.calibrations import evidence_of
from tests.helpers.errors import raises
from vitscope.batch import local_engine
from vitscope.batch.run import run
from vitscope.errors import ResultError


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return str(folder)


def test_auto_is_the_calibrations_choice_for_all_rows(tiny_folder, photos, tmp_path, monkeypatch):
    plain = vitscope.load(tiny_folder)
    found = evidence_of(plain)
    scope, handed = vitscope.load(tiny_folder, calibration=found), []
    own = local_engine.run
    monkeypatch.setattr(local_engine, "run", lambda tasks, plan, *rest: handed.append(plan) or own(tasks, plan, *rest))
    run(photos, tmp_path / "out", plan(methods=("auto",)), scope=scope)
    told = [json.loads(text) for text in table(tmp_path / "out").provenance]
    assert [one["calibration"]["choice"] for one in told] == ["rollout, layers last2"] * 2
    assert pickle.loads(pickle.dumps(handed[0])).calibration == found  # what a worker elsewhere loads the model with
    with raises(ResultError, "files.other-options") as caught:
        run(photos, tmp_path / "out", plan(methods=("auto",)), scope=plain, resume=True)
    assert found.made in str(caught.value)
    run(photos, tmp_path / "other", plan(methods=("auto",)), scope=plain)
    assert handed[1].calibration == "none"
    assert "calibration" not in json.loads(table(tmp_path / "other").provenance[0])


def test_methods_that_are_named_do_not_ask_for_it(tiny_folder, photos, tmp_path):
    plain = vitscope.load(tiny_folder)
    run(photos, tmp_path / "out", plan(), scope=vitscope.load(tiny_folder, calibration=evidence_of(plain)))
    run(photos, tmp_path / "out", plan(), scope=plain, resume=True)
