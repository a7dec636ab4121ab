"""Files that are no pictures, or cost more than they weigh, are rows with an error; a lack of memory is not kept."""

import contextlib
import http.server
import os
import threading
import time

import pytest
from PIL import Image

from tests.helpers.batching import plan, same
from tests.helpers.errors import raises
from tests.helpers.odd_pictures import COLOURS, encoded, scans
from vitscope.batch.fetch import image_reader
from vitscope.batch.run import run
from vitscope.batch.sources import ImageSource
from vitscope.errors import ImageError


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "in"
    made.mkdir()
    for name in ("a.png", "z.png"):
        (made / name).write_bytes(encoded(COLOURS, "PNG"))
    return made


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_pipes_devices_holes_and_endless_scans_cost_a_row(folder, tiny_scope, tmp_path):
    os.mkfifo(folder / "pipe.png")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "pipe behind a link.png").symlink_to(folder / "pipe.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    with (folder / "holes.tif").open("wb") as file:
        file.truncate(3 << 30)
    (folder / "scans.jpg").write_bytes(scans(4000))
    (folder / "slow.ppm").write_bytes(b"P3\n#" + b"x" * 100_000 + b"\n4 4 255 " + b"1 " * 48)
    began = time.monotonic()
    summary = run(str(folder), tmp_path / "out", plan(), scope=tiny_scope)
    assert time.monotonic() - began < 60
    assert (summary.images, summary.failed) == (9, 6)
    errors = " ".join(summary.errors.values())
    for said in ("is a pipe", "is a device", "holes", "scans over"):
        assert said in errors


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("name", ["all.tar", "all.parquet", "clip.mp4"])
def test_a_pipe_that_is_called_a_container_is_listed_as_broken(tmp_path, name):
    os.mkfifo(tmp_path / name)
    (ref,) = ImageSource(str(tmp_path / name))
    assert ref.kind == "broken"
    assert "a pipe" in ref.problem


def test_images_over_which_memory_ran_out_are_tried_again(collection, tiny_scope, tmp_path, monkeypatch):
    whole = run(str(collection), tmp_path / "whole", plan(), scope=tiny_scope)
    with monkeypatch.context() as patch:
        prepare, calls = type(tiny_scope).prepare, []

        def scarce(scope, picture, **options):
            calls.append(picture)
            if len(calls) == 2:
                raise MemoryError("Unable to allocate 3.2 GiB for an array")
            return prepare(scope, picture, **options)

        patch.setattr(type(tiny_scope), "prepare", scarce)
        first = run(str(collection), tmp_path / "out", plan(), scope=tiny_scope)
    assert first.failures == {"OutOfMemoryError": 1, **whole.failures}
    assert "3.2 GiB" in " ".join(first.errors.values())
    second = run(str(collection), tmp_path / "out", plan(), scope=tiny_scope, resume=True)
    assert second.shards == 1
    assert "OutOfMemoryError" not in second.failures
    same(tmp_path / "out", tmp_path / "whole")


def test_a_thin_picture_costs_a_row(folder, tiny_scope, tmp_path):
    Image.new("1", (20_000, 2), 1).save(folder / "thin.png")
    summary = run(str(folder), tmp_path / "out", plan(), scope=tiny_scope)
    assert summary.images == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_url_of_a_local_file_is_that_file_and_no_device(folder, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    names = [
        f"file://{folder}/a.png",
        f"local://{folder}/a.png",
        f"simplecache::file://{folder}/a.png",
        "file:///dev/zero",
        "local:///dev/zero",
        f"file://{tmp_path}/pipe.png",
        "simplecache::file:///dev/zero",
        f"zip://a.png::file://{tmp_path}/pipe.png",
    ]
    (tmp_path / "list.txt").write_text("\n".join(names))
    read = []
    with image_reader() as reader:
        for ref in ImageSource(str(tmp_path / "list.txt")):
            try:
                read.append(reader(ref)[0].size)
            except ImageError as error:
                read.append(error.code)
    assert read == [(32, 24)] * 3 + ["images.not-a-file"] * 5
    (ref,) = ImageSource(f"file://{tmp_path}/pipe.png", file_kind="webdataset")
    assert ref.kind == "broken"


def test_a_server_that_sends_without_end_costs_a_row(tmp_path, monkeypatch):
    class Endless(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(1000):
                    self.wfile.write(bytes(1 << 20))
                    asked.append(self.path)

        def log_message(self, *_):
            pass

    asked = []
    monkeypatch.setattr("vitscope.batch.fetch._MOST_FETCHED", 5_000_000)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server, image_reader() as read:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        (ref,) = ImageSource(f"http://127.0.0.1:{server.server_port}/x.png")
        with raises(ImageError, "batch.endless-url"):
            read(ref)
        server.shutdown()
    assert len(asked) < 100
