"""Each script of examples/ runs without a network, with tiny models in place of the large ones."""

import csv
import importlib.util
import re
import shutil

import numpy as np
import pytest

from tests.helpers.pages import ROOT, Workplace

VIT = "google/vit-base-patch16-224"
CLIP = "openai/clip-vit-base-patch32"
RUNS = {  # what is said to each, and the files that it leaves
    "fine_tuned": (
        f"photo.jpg --model {VIT} --target tabby --against fox",
        ["out/fine-tuned.png"],
    ),
    "clip_text": (f"photo.jpg 'a cat' 'a sofa' --model {CLIP}", ["out/clip-text.png"]),
    "dinov3": ("photo.jpg --random", ["out/dinov3.png"]),
    "dicom": (
        "slices --model runs/checkpoint-500 --target pneumonia --window=-1000,400",
        ["out/maps.csv", "out/1.png"],
    ),
    "video": (f"clip.mp4 --model {VIT} --stride 3", ["out/over-time.png", "out/frames/manifest.json"]),
    "batch_to_duckdb": (f"photos --model {VIT}", ["out/maps/manifest.json"]),
    "training": ("--steps 6 --every 3 --out run", ["run/vitscope-image-00000.png", "run/vitscope-image-2-00006.png"]),
}
ELSEWHERE = {  # and where they are tested
    "demo": "make demo",
    "gallery": "docs/gallery.md",
    "measured": "docs/measuring.md",
    "viewers": "tests/test_viewers_example.py",
}
pytestmark = pytest.mark.slow


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, tiny_folder, clip_folder):
    return Workplace(tmp_path_factory.mktemp("workplace"), tiny_folder, clip_folder)


def test_every_example_is_run():
    assert {path.stem for path in ROOT.glob("examples/*.py")} == {*RUNS, *ELSEWHERE}


@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs(name, workplace, tmp_path, monkeypatch, capsys):
    import shlex

    monkeypatch.chdir(workplace.fresh(tmp_path))
    (tmp_path / "slices").mkdir()
    shutil.copy("slice.dcm", "slices/1.dcm")
    (tmp_path / "slices" / "2.dcm").write_bytes(b"no picture")
    said, files = RUNS[name]
    loaded(name).main([workplace.models.get(word, word) for word in shlex.split(said)])
    told = capsys.readouterr().out
    for file in files:
        assert (tmp_path / file).stat().st_size > 0, (file, sorted(p.name for p in tmp_path.rglob("*.*")))
    if name == "dicom":
        whole, broken = list(csv.reader((tmp_path / "out/maps.csv").read_text("utf-8").splitlines()))[1:]
        assert np.isfinite(float(whole[1]))
        assert broken[1] == ""
        assert "2.dcm" in broken[0]
    if name == "training":
        assert re.findall(r"step +(\d+)", told) == ["0", "0", "3", "3", "6", "6"]


def test_the_batch_is_resumed(workplace, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(workplace.fresh(tmp_path))
    for _ in range(2):
        loaded("batch_to_duckdb").main(["photos", "--model", workplace.models[VIT]])
    assert "0 images, 0 failed, 3 done before" in capsys.readouterr().out
