"""A saved explanation is the same when loaded, whole or not there, and shown without anything executable in it."""

import base64
import html
import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from tests.helpers.errors import raises
from vitscope import _pillow
from vitscope._documents import DamagedFileError, as_schema, document_bytes
from vitscope._saved import SCHEMA, Provenance, listed_files
from vitscope.errors import LayoutError, MethodError, ResultError
from vitscope.explanation import Explanation
from vitscope.render import raster

FILES = {"manifest.json", "arrays.npz", "overlay.png", "heat.png", "map.png", "photo.jpg"}
KEYS = {
    *("schema", "messages", "files", "sha256"),
    "method",
    "target",
    "score",
    "predictions",
    "layout",
    "region",
    "name",
    "provenance",
    "render",
}
EVIL = '</script><img src=x onerror="alert(1)">\'&'


@pytest.fixture
def some(explained):
    """An explanation with every field set, and values that decimal text would not keep."""
    values = np.random.default_rng(0).random((3, 4), np.float32) / 3
    return explained(
        values,
        (90, 60),
        resized=(48, 72),
        crop=(48, 64),
        pixels=np.ascontiguousarray(data.chelsea()[40:100, 100:190]),
        prefix=(0.1, 0.7),
        name="dog",
        target="tabby",
        score=1 / 3,
        predictions=[("tabby", 0.9), ("fox", 0.1 / 3)],
        provenance={
            "model": "a/b",
            "source": "photo.png",
            "options": {"residual_weight": 0.3, "layers": None},
            "notes": ["cut"],
        },
    )


@pytest.fixture
def saved(some, tmp_path):
    return some.save(tmp_path / "dog")


def changed(folder, **fields):
    """Change fields of a saved manifest, and whatever was done to its files, as if that had been written."""
    path = folder / "manifest.json"
    document = json.loads(path.read_text("utf-8")) | {"files": listed_files(folder)} | fields
    del document["sha256"]
    path.write_bytes(document_bytes(document))
    return folder


def refused(folder):
    with pytest.raises(ResultError) as info:
        Explanation.load(folder)
    assert "\n" not in str(info.value)
    assert str(folder) in str(info.value)
    return str(info.value)


# --- save and load ---------------------------------------------------------------------------------------------------


def test_round_trip(some, saved):
    loaded = Explanation.load(saved)
    assert loaded.map.dtype == np.float32
    assert np.array_equal(loaded.map, some.map)
    assert np.array_equal(loaded.prefix, some.prefix)
    for field in ("method", "layout", "region", "target", "score", "predictions", "provenance", "caveat"):
        assert getattr(loaded, field) == getattr(some, field), field
    assert (loaded.picture.name, loaded.picture.source) == ("dog", "photo.png")
    assert loaded.manifest() == some.manifest()


def test_a_loaded_one_draws_the_same_but_for_jpeg(some, saved):
    loaded = Explanation.load(str(saved))
    assert np.array_equal(loaded.heat(), some.heat(), equal_nan=True)
    for style in ({}, {"smooth": False, "cmap": "viridis"}, {"style": "notebook"}):
        difference = np.asarray(loaded.overlay(**style)).astype(int) - np.asarray(some.overlay(**style))
        assert np.abs(difference).mean() < 3
        assert np.abs(difference).max() < 40


def test_what_is_written(some, tmp_path):
    folder = some.save(tmp_path / "new" / "dog", norm="robust", colorbar=True)
    assert folder == tmp_path / "new" / "dog"
    assert {path.name for path in folder.iterdir()} == FILES
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert set(manifest) == KEYS
    assert manifest["schema"] == SCHEMA == 1
    assert manifest["layout"] == {
        "prefix": ["cls", "register 1"],
        "grid": [3, 4],
        "pooling": "cls",
        "pool_prefix": False,
        "planes": None,
        "cells": None,
        "seen": None,
    }
    assert set(manifest["region"]) == {"size", "box", "input", "cells"}
    assert manifest["predictions"][0] == {"label": "tabby", "probability": 0.9}
    assert manifest["render"]["norm"] == "robust"
    assert manifest["render"]["normalisation"].startswith("1st to 99th percentile")
    with np.load(folder / "arrays.npz") as arrays:
        assert set(arrays.files) == {"map", "prefix"}
    style = some.style(norm="robust", colorbar=True)
    drawn = {"overlay": some.overlay(norm="robust", colorbar=True), "heat": raster.heat(some.map, some.region, style)}
    for name, expected in drawn.items():
        with Image.open(folder / f"{name}.png") as image:
            assert np.array_equal(np.asarray(image), np.asarray(expected))
    with Image.open(folder / "photo.jpg") as image:
        assert image.size == (90, 60)


def test_without_a_photo(explained, tmp_path):
    e = explained(np.eye(2), (30, 20), pixels=None)
    folder = e.save(tmp_path / "bare")
    assert {path.name for path in folder.iterdir()} == FILES - {"photo.jpg", "overlay.png"}
    assert Explanation.load(folder).picture is None
    assert "<img" in e._repr_html_()


def test_a_real_run_survives(tiny_scope, photo, tmp_path):
    e = tiny_scope.explain(photo)
    assert len(e.predictions) == 5
    loaded = Explanation.load(e.save(tmp_path / "cat"))
    assert np.array_equal(loaded.map, e.map)
    assert loaded.manifest() == e.manifest()


def test_a_file_name_that_is_no_text(explained, tmp_path):
    e = explained(np.eye(2), (30, 20), provenance={"model": "caf\udce9"})
    assert Explanation.load(e.save(tmp_path / "odd")).provenance["model"] == "caf\udce9"


# --- saving is all or nothing ----------------------------------------------------------------------------------------


def test_what_is_there_is_kept_without_force(some, saved, tmp_path):
    before = (saved / "manifest.json").read_bytes()
    with raises(ResultError, "files.already-there", "files.already-there.hint"):
        some.save(saved, norm="robust")
    assert (saved / "manifest.json").read_bytes() == before
    some.save(saved, norm="robust", force=True)
    assert b"1st to 99th" in (saved / "manifest.json").read_bytes()
    assert list(tmp_path.iterdir()) == [saved]


@pytest.mark.parametrize(
    "content",
    [
        {"diary.txt": "mine"},
        {"manifest.json": '{"name": "a web page", "icons": []}', "index.html": "<html>"},
        {"manifest.json": "[1, 2]"},
        {"manifest.json": "{broken"},
    ],
    ids=["diary", "web page", "list", "broken"],
)
def test_a_folder_that_is_no_result_is_never_replaced(some, tmp_path, content):
    folder = tmp_path / "dog"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    with raises(ResultError, "files.not-a-result"):
        some.save(folder, force=True)
    assert {path.name: path.read_text() for path in folder.iterdir()} == content


def test_a_file_is_never_replaced_and_an_empty_folder_may_be(some, tmp_path):
    (tmp_path / "file").write_text("mine")
    with raises(ResultError, "files.not-a-result"):
        some.save(tmp_path / "file", force=True)
    (tmp_path / "empty").mkdir()
    with raises(ResultError, "files.already-there"):
        some.save(tmp_path / "empty")
    some.save(tmp_path / "empty", force=True)
    assert (tmp_path / "empty" / "manifest.json").exists()


def test_a_place_that_cannot_be_written(some, tmp_path):
    (tmp_path / "file").write_text("mine")
    with raises(ResultError, "files.file-in-the-way"):
        some.save(tmp_path / "file" / "dog")
    with raises(ResultError, "files.not-written"):
        some.save(tmp_path / "long" / ("a" * 300))
    some.save(tmp_path / ("a" * 250))  # as long as a photo's name may be: the working folder's name is shorter


def broken(error):
    def draw(*_args, **_options):
        raise error

    return draw


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), ZeroDivisionError()])
@pytest.mark.parametrize("force", [False, True])
def test_an_interrupted_save_leaves_nothing_new_and_keeps_the_old(some, tmp_path, monkeypatch, force, error):
    folder = tmp_path / "dog"
    if force:
        some.save(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()} if force else {}
    monkeypatch.setattr(raster, "heat", broken(error))
    with pytest.raises(ResultError if isinstance(error, OSError) else type(error)) as info:
        some.save(folder, force=force, norm="robust")
    if isinstance(error, OSError):
        assert "dog cannot be written: No space left on device" in str(info.value)
    assert list(tmp_path.iterdir()) == ([folder] if force else [])
    assert {path.name: path.read_bytes() for path in tmp_path.glob("dog/*")} == before


def test_an_interrupt_between_the_two_renames_brings_the_old_one_back(some, saved, tmp_path, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    replace = Path.replace

    def interrupted(self, target):
        if self.name == "new":
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        some.save(saved, force=True, norm="robust")
    assert list(tmp_path.iterdir()) == [saved]
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


# --- results that are none -------------------------------------------------------------------------------------------


def test_missing(tmp_path, saved):
    assert "is not a result of vitscope" in refused(tmp_path / "nowhere")
    (saved / "arrays.npz").unlink()
    refused(saved)


@pytest.mark.parametrize("name", ["manifest.json", "arrays.npz", "photo.jpg"])
@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b"garbage", None], ids=str)
def test_broken_files(saved, name, damage):
    whole = (saved / name).read_bytes()
    (saved / name).write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert f"is not a result of vitscope: {saved / name}" in refused(saved)
    if name != "manifest.json":
        assert "is not a result of vitscope" in refused(changed(saved))


@pytest.mark.parametrize("schema", [2, 0, "1", None])
def test_another_schema(saved, schema):
    assert f"has schema {schema}, this vitscope reads 1" in refused(changed(saved, schema=schema))


@pytest.mark.parametrize(
    "fields",
    [
        {"layout": {"prefix": ["cls"], "grid": [3, 4]}},  # another prefix than the arrays have
        {"layout": {"prefix": ["cls", "register 1"], "grid": [4, 3]}},
        {"layout": {"prefix": [], "grid": [3, 4]}},  # cls pooling without a prefix token
        {"layout": {"prefix": ["cls", "cls"], "grid": [3, 4]}},
        {"layout": {"grid": [3, 4]}},
        {"layout": 7},
        {"region": {"size": [90, 60], "box": [0, 0, 90, 60]}},
        {"region": {"size": [0, 60], "box": [0, 0, 90, 60], "input": [48, 64]}},
        {"region": {"size": [91, 60], "box": [0, 0, 91, 60], "input": [48, 64]}},  # not the photo's size
        {"predictions": [1]},
        {"predictions": [{"label": "fox", "probability": "high"}]},
        {"provenance": None},
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)
@pytest.mark.usefixtures("as_shipped")
def test_a_manifest_that_does_not_fit(saved, fields):
    assert "is not a result of vitscope" in refused(changed(saved, **fields))


def test_arrays_that_would_not_fit_into_memory(saved):
    with zipfile.ZipFile(saved / "arrays.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("map.npy", "prefix.npy"):
            with archive.open(name, "w", force_zip64=True) as member:
                for _ in range(129):
                    member.write(bytes(1 << 20))
    assert (saved / "arrays.npz").stat().st_size < 1 << 20
    assert "map would unpack to 135266304 bytes, more than" in refused(changed(saved))


def test_an_array_whose_header_claims_more_than_there_is(saved):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**7, 10**8)})
    with zipfile.ZipFile(saved / "arrays.npz", "w") as archive:
        archive.writestr("map.npy", header.getvalue() + bytes(64))
        archive.writestr("prefix.npy", header.getvalue() + bytes(64))
    assert "64 bytes are no array of float32 (10000000, 100000000)" in refused(changed(saved))


def test_a_pickle_is_not_run(saved, tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "run",)

    np.savez(saved / "arrays.npz", map=np.array([Evil()], dtype=object), prefix=np.zeros(2, np.float32))
    assert "is not a result of vitscope" in refused(saved)
    assert "are no array of object" in refused(changed(saved))
    assert not (tmp_path / "run").exists()


def test_a_photo_that_is_a_bomb(saved, monkeypatch):
    monkeypatch.setattr(_pillow, "MAX_PIXELS", 100)
    assert "is larger than" in refused(saved)


# --- without torch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [[32, 1 << 31], [10**30, 48], [1 << 20, 1 << 20]])
def test_a_forged_input_takes_no_memory(saved, size):
    region = json.loads((saved / "manifest.json").read_text("utf-8"))["region"] | {"input": size}
    assert "region.input" in refused(changed(saved, region=region))


def test_a_forged_seed_reaches_no_drawing(some, saved):
    assert "seed" in refused(changed(saved, provenance=some.provenance | {"seed": -1}))


def test_a_saved_result_opens_and_draws_without_torch(some, saved):
    code = """
import sys
from vitscope import Explanation
e = Explanation.load(sys.argv[1])
e.overlay().save(sys.argv[2])
assert len(e._repr_html_()) > 1000
loaded = [m for m in ("torch", "transformers", "typer") if m in sys.modules]
sys.exit(f"imported: {loaded}" if loaded else 0)
"""
    drawn = saved.parent / "drawn.png"
    # matplotlib before 3.10.7 calls pyparsing by names that pyparsing 3.3 warns of
    warnings = ("-W", "error", "-W", "ignore::DeprecationWarning:matplotlib._fontconfig_pattern")
    command = [sys.executable, *warnings, "-c", code, str(saved), str(drawn)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    with Image.open(drawn) as image:
        assert np.array_equal(np.asarray(image), np.asarray(Explanation.load(saved).overlay()))


# --- in a notebook ---------------------------------------------------------------------------------------------------


def test_the_notebook_card_is_self_contained_and_escapes_everything(explained):
    e = explained(
        np.eye(2),
        (30, 20),
        name=EVIL,
        method="rollout",
        predictions=[(EVIL, 0.5)],
        provenance={"model": EVIL, "options": {"layers": EVIL}, "caveat": f"not {EVIL}"},
    )
    text = e._repr_html_()
    assert re.findall(r"<\s*(\w+)", text) == ["figure", "img", "figcaption", "b", "br", "br", "br", "i"]
    assert "</script" not in text
    assert html.unescape(text).count(EVIL) == 5
    assert not re.search(r"https?:|\bon\w+=[\"']?\w+\(", re.sub(r"&lt;.*?&amp;", "", text))
    [source] = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    with Image.open(io.BytesIO(base64.b64decode(source))) as image:
        assert image.size == (30, 20)
        drawn = np.asarray(image).astype(int)
    assert np.abs(drawn - np.asarray(e.overlay())).mean() < 25


def test_the_notebook_card_says_what_it_shows(some):
    text = some._repr_html_()
    for said in (
        "<b>rollout</b> (residual_weight 0.3)",
        "a/b · 2 prefix + 3 x 4 patches",
        "tabby 90.0%",
        "rollout over dog",
    ):
        assert said in text


class Shell:
    """An IPython shell; a notebook's has a kernel."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


@pytest.mark.parametrize("shell", [Shell(kernel=object()), Shell(), None], ids=["notebook", "terminal", "script"])
def test_show_uses_the_notebook_and_never_a_desktop_program_there(some, monkeypatch, shell):
    import IPython

    inside, outside = [], []
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    monkeypatch.setattr("IPython.display.display", inside.append)
    monkeypatch.setattr(Image.Image, "show", lambda image, title=None: outside.append(image))
    some.show(norm="robust")
    [image] = inside or outside
    assert np.array_equal(np.asarray(image), np.asarray(some.overlay(norm="robust")))
    assert bool(inside) == hasattr(shell, "kernel")


def test_repr_is_one_line(some, explained):
    assert repr(some) == "<Explanation 'rollout' 3 x 4 dog target='tabby'>"
    assert repr(explained(np.eye(2), (30, 20), pixels=None)) == "<Explanation 'rollout' 2 x 2 no photo>"


# --- frozen ----------------------------------------------------------------------------------------------------------


def test_frozen_and_read_only(some, saved):
    for e in (some, Explanation.load(saved)):
        with pytest.raises(AttributeError):
            e.method = "other"
        for array in (e.map, e.prefix, e.picture.pixels):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1


def test_what_does_not_fit_together_is_refused(some, explained):
    with raises(LayoutError, "explanation.shape"):
        Explanation(some.map, some.prefix[:1], "rollout", some.layout, some.region)
    with raises(LayoutError, "explanation.shape"):
        Explanation(some.map[:2], some.prefix, "rollout", some.layout, some.region)
    with raises(LayoutError, "explanation.region-size"):
        Explanation(
            some.map, some.prefix, "rollout", some.layout, some.region, picture=explained(np.eye(2), (32, 32)).picture
        )


def test_a_map_with_nan_is_refused(explained):
    with raises(MethodError, "explanation.not-finite"):
        explained([[0.1, float("nan")]], (32, 16))


@pytest.mark.parametrize(
    "record",
    [
        {"drawing": {"norm": "../../etc/passwd"}},
        {"size": [64]},
        {"versions": {"torch": 2}},
        {"load": "--trust-remote-code"},
        {"dtype": 16},
    ],
)
def test_a_record_of_other_types_is_refused_where_it_is_read(record):
    with raises(DamagedFileError, "documents.damaged"):
        as_schema(record, Provenance, "here")
    as_schema({"drawing": {"norm": "robust", "blur": 1.0}, "size": 64, "load": {}}, Provenance, "here")
