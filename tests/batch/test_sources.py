"""Where pictures come from: the same refs in the same order each time, as a stream, from every kind of source."""

import http.server
import io
import sys
import tarfile
import threading
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.helpers.errors import raises
from vitscope.batch import sources
from vitscope.batch.fetch import image_reader
from vitscope.batch.sources import ImageSource
from vitscope.batch.types import split_tasks
from vitscope.errors import ImageError, UnknownNameError, UsageError


def picture(number, size=(20, 16)):
    return Image.fromarray(np.full((size[1], size[0], 3), number % 256, np.uint8))


def png(number):
    file = io.BytesIO()
    picture(number).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(["b/2.png", "b/10.png", "a/x.PNG", "c.jpg", "b.png", "a/deep/er/y.png"]):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    (tmp_path / "photos" / "readme.txt").write_text("no photo")
    (tmp_path / "photos" / ".hidden.png").write_bytes(b"")
    return tmp_path / "photos"


def keys(source):
    return [ref.key for ref in source]


def values(source):
    """The grey value of each picture, or the error."""
    found = []
    with image_reader() as read:
        for ref in source:
            try:
                found.append(int(read(ref)[0].pixels.mean().round()))
            except ImageError as error:
                found.append(error)
    return found


def test_a_folder_is_walked_in_the_order_of_names(folder):
    refs = list(ImageSource(str(folder)))
    assert [ref.key for ref in refs] == ["a/deep/er/y.png", "a/x.PNG", "b/10.png", "b/2.png", "b.png", "c.jpg"]
    assert [ref.row for ref in refs] == list(range(6))
    assert values(ImageSource(str(folder))) == [5, 2, 1, 0, 4, 3]


def test_ids_depend_on_the_place_in_the_source_not_on_where_it_lies(folder, tmp_path):
    before = [ref.id for ref in ImageSource(str(folder))]
    assert len({*before}) == 6
    assert all(len(one) == 32 for one in before)
    folder.rename(tmp_path / "moved")
    assert [ref.id for ref in ImageSource(str(tmp_path / "moved"))] == before


def test_a_folder_is_listed_only_as_far_as_it_is_asked_for(folder, monkeypatch):
    listed, plain = [], sources._listing
    monkeypatch.setattr(sources, "_listing", lambda path: listed.append(Path(path).name) or plain(path))
    stream = iter(ImageSource(str(folder)))
    next(stream)
    assert listed == ["photos", "a", "deep", "er"]
    list(stream)
    assert listed[-1] == "b"


def test_the_output_and_links_that_lead_back_are_left_out(folder):
    (folder / "out").mkdir()
    picture(9).save(folder / "out" / "overlay.png")
    (folder / "b" / "again").symlink_to(folder)
    assert len(keys(ImageSource(str(folder), exclude=(folder / "out").resolve()))) == 6


def test_what_vitscope_wrote_is_left_out_and_named(folder, explained):
    saved, page = folder / "b" / "saved", folder / "b" / "page"
    explained(np.eye(3), (48, 48)).save(saved)
    page.mkdir()
    (page / "manifest.json").write_text('{"name": "a web page"}')
    picture(7).save(page / "icon.png")
    batch = folder / "batch"
    (batch / "overlays").mkdir(parents=True)
    (batch / "manifest.json").write_text('{"schema": 1, "plan": "x", "shards": []}')
    picture(8).save(batch / "overlays" / "0.png")
    assert "b/page/icon.png" in keys(ImageSource(str(folder)))
    assert len(keys(ImageSource(str(folder)))) == 7
    assert ImageSource(str(folder)).ignored() == ({".txt": 1, ".json": 1}, [str(saved), str(batch)])
    assert keys(ImageSource(f"{saved}/*.jpg")) == ["photo.jpg"]  # a pattern takes what it names
    for one in (saved, batch):
        with raises(UsageError, "batch.results-as-source", "batch.results-as-source.hint"):
            keys(ImageSource(str(one)))


def test_a_pattern_takes_what_it_matches(folder, monkeypatch):
    assert keys(ImageSource(f"{folder}/*/*.png")) == ["b/10.png", "b/2.png"]
    assert keys(ImageSource(f"{folder}/**/*.png")) == ["a/deep/er/y.png", "b/10.png", "b/2.png", "b.png"]
    assert keys(ImageSource(f"{folder}/b/?.png")) == ["2.png"]
    monkeypatch.chdir(folder)
    assert keys(ImageSource("b/*")) == ["10.png", "2.png"]


def test_a_list_has_a_ref_for_each_line_also_for_one_that_is_there_twice(folder, tmp_path):
    lines = tmp_path / "photos.txt"
    lines.write_text(f"{folder}/c.jpg\n\n{folder}/b.png\n{folder}/c.jpg\n{folder}/gone.png\n")
    refs = list(ImageSource(str(lines)))
    assert len({ref.id for ref in refs}) == 4
    found = values(ImageSource(str(lines)))
    assert found[:3] == [3, 4, 3]
    assert isinstance(found[3], ImageError)


def test_parquet_holds_bytes_paths_or_both(folder, tmp_path):
    path = tmp_path / "data.parquet"
    table = {
        "bytes": [png(1), png(2), None, b"junk"],
        "file_name": ["photos/c.jpg", str(folder / "b.png"), "photos/gone.png", ""],
        "image": [{"bytes": png(7), "path": "x"}, {"bytes": None, "path": "photos/c.jpg"}, None, {"bytes": png(8)}],
    }
    pq.write_table(pa.table(table), path, row_group_size=2)
    assert values(ImageSource(str(path), column="bytes"))[:2] == [1, 2]
    empty, junk = values(ImageSource(str(path), column="bytes"))[2:]
    assert (empty.code, empty.message.params["column"]) == ("batch.empty-row", "bytes")
    assert isinstance(junk, ImageError)
    assert values(ImageSource(str(path), column="file_name"))[:2] == [3, 4]
    assert values(ImageSource(str(path), column="file_name"))[2].code == "batch.unreadable-image"
    found = values(ImageSource(str(path)))  # a usual name
    assert (found[0], found[1], found[3]) == (7, 3, 8)
    assert keys(ImageSource(str(path)))[3] == "data.parquet#3"
    with pytest.raises(UnknownNameError, match="did you mean 'bytes'"):
        list(ImageSource(str(path), column="byte"))


def archive(path, numbers):
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            for name, data in ((f"{number:03d}.png", png(number)), (f"{number:03d}.json", b"{}")):
                told = tarfile.TarInfo(name)
                told.size = len(data)
                tar.addfile(told, io.BytesIO(data))


def test_tars_of_webdataset(tmp_path):
    archive(tmp_path / "s-00.tar", [1, 2])
    archive(tmp_path / "s-01.tar", [3])
    for where in (f"{tmp_path}/s-{{00..01}}.tar", f"{tmp_path}/s-*.tar"):
        assert values(ImageSource(where)) == [1, 2, 3]
    assert values(ImageSource(str(tmp_path), "webdataset")) == [1, 2, 3]
    assert keys(ImageSource(f"{tmp_path}/s-*.tar"))[2] == "s-01.tar::003.png"


def test_a_broken_tar_costs_one_row_and_gives_what_comes_before(tmp_path):
    archive(tmp_path / "a.tar", [1])
    (tmp_path / "b.tar").write_bytes(b"no tar" * 200)
    archive(tmp_path / "c.tar", [2])
    found = values(ImageSource(f"{tmp_path}/*.tar"))
    assert (found[0], found[2]) == (1, 2)
    assert found[1].code == "batch.unreadable-container"


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """40 frames, 10 a second, each one grey."""
    av = pytest.importorskip("av")
    path = tmp_path_factory.mktemp("video") / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(10))
        stream.width = stream.height = 32
        stream.pix_fmt, stream.options = "yuv420p", {"g": "12"}
        for number in range(40):
            pixels = np.full((32, 32, 3), 5 * number + 20, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_a_video_gives_every_so_many_frames_one_in_any_order(video):
    source = ImageSource(str(video), stride=7)
    refs = list(source)
    assert [ref.key for ref in refs] == [f"film.mp4@{n}" for n in range(0, 40, 7)]
    assert [ref.source.rpartition("@")[2] for ref in refs][:3] == ["0.000s", "0.700s", "1.400s"]
    expected = np.array([5 * n + 20 for n in range(0, 40, 7)])
    assert np.abs(np.array(values(source)) - expected).max() <= 3  # the codec's own loss
    with image_reader() as read:
        for place in (4, 1, 5, 0, 2, 1):
            assert abs(read(refs[place])[0].pixels.mean() - expected[place]) <= 3


def test_a_url_goes_through_fsspec(folder):
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    for name in ("z.png", "d/a.png"):
        files.pipe(f"/bucket/{name}", png(4))
    try:
        assert keys(ImageSource("memory://bucket")) == ["d/a.png", "z.png"]
        assert values(ImageSource("memory://bucket")) == [4, 4]
    finally:
        files.rm("/bucket", recursive=True)


@contextmanager
def served(folder, parts):
    """A web server over a folder, with or without parts of files; its URL and the log of what was asked."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *_):
            asked.append((self.command, self.path, self.headers["Range"]))

        def send_head(self):
            path = Path(self.translate_path(self.path))
            wanted = self.headers["Range"]
            if not (parts and wanted and path.is_file()):
                return super().send_head()
            first, last = (int(place) for place in wanted.removeprefix("bytes=").split("-"))
            part = path.read_bytes()[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            return io.BytesIO(part)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.fixture(params=[True, False], ids=["in parts", "whole"])
def web(request, folder):
    with served(folder.parent, request.param) as (url, _):
        yield url


def test_folders_and_patterns_of_the_web(web):
    assert values(ImageSource(f"{web}/photos/b")) == [1, 0]
    assert keys(ImageSource(f"{web}/photos/*/*.png")) == ["b/10.png", "b/2.png"]
    assert len(keys(ImageSource(web))) == 6
    signed = ImageSource(f"{web}/photos/b/2.png?signature=a*b")
    assert (keys(signed), values(signed)) == (["2.png"], [0])


def test_a_list_of_urls_wherever_it_lies_where_a_bad_one_costs_its_own_row(web, folder):
    urls = [f"{web}/photos/c.jpg", f"{web}/photos/gone.png", "http://127.0.0.1:1/x.png", f"{web}/photos/b.png?v=2"]
    (folder / "all.txt").write_text("\n".join(urls))
    for where in (str(folder / "all.txt"), f"{web}/photos/all.txt"):
        found = values(ImageSource(where))
        assert (found[0], found[3]) == (3, 4)
        assert [one.code for one in found[1:3]] == ["batch.unreadable-image"] * 2
        assert [one.message.params["source"] for one in found[1:3]] == urls[1:3]
        assert found[1].message.params["reason"].code == "batch.does-not-exist"
        assert "onnect call failed" in found[2].message.params["reason"]


@pytest.mark.spread
def test_parquet_and_tars_of_the_web(web, tmp_path):
    archive(tmp_path / "s-00.tar", [1, 2])
    archive(tmp_path / "s-02.tar", [3])
    noise = np.random.default_rng(0).bytes(3 * 2**20)  # longer than what is read ahead
    table = {
        "image": [png(7), noise, noise, png(8)],
        "url": [f"{web}/photos/c.jpg", f"{web}/gone", "photos/b.png", None],
    }
    pq.write_table(pa.table(table), tmp_path / "data.parquet", row_group_size=1, compression="none")
    found = values(ImageSource(f"{web}/s-{{00..02}}.tar"))
    assert found[:2] + found[3:] == [1, 2, 3]
    assert found[2].message.params["path"].endswith("s-01.tar")
    assert found[2].message.params["kind"] == "webdataset"
    assert keys(ImageSource(f"{web}/s-*.tar")) == ["s-00.tar::001.png", "s-00.tar::002.png", "s-02.tar::003.png"]
    assert values(ImageSource(f"{web}/data.parquet"))[::3] == [7, 8]
    found = values(ImageSource(f"{web}/data.parquet", column="url"))
    assert (found[0], found[2]) == (3, 4)
    assert found[1].message.params["reason"].code == "batch.does-not-exist"
    assert found[3].code == "batch.empty-row"


def test_a_photo_of_the_web_is_one_request_and_neighbours_in_a_tar_share_one(folder):
    archive(folder / "many.tar", range(20))
    with served(folder, parts=True) as (url, asked):
        refs = [*ImageSource(f"{url}/b.png"), *ImageSource(f"{url}/many.tar")]
        del asked[:]
        with image_reader() as read:
            assert [int(read(ref)[0].pixels.mean()) for ref in refs] == [4, *range(20)]
    assert [path for _, path, _ in asked].count("/b.png") == 1
    assert len(asked) <= 1 + 4  # its length, its end, and what is read ahead


@pytest.mark.parametrize("where", ["", "/", "/none/", "/none/*.png", "/none.txt"])
def test_a_server_that_is_not_there_is_one_line(where):
    with raises(UsageError, "batch.unreadable-source") as caught:
        list(ImageSource(f"http://127.0.0.1:1{where}"))
    assert "onnect call failed" in caught.value.message.params["reason"]


def test_a_package_that_is_missing_is_told_before_anything_is_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with raises(UsageError, "batch.no-filesystem") as caught:
        ImageSource("s3://bucket/x.jpg")
    assert "s3fs" in str(caught.value.message.params["reason"])


@pytest.mark.usefixtures("as_shipped")
def test_wrong_sources_are_one_line():
    with raises(UsageError, "batch.no-source"):
        ImageSource("nowhere")
    with pytest.raises(UnknownNameError, match="did you mean 'photos'"):
        ImageSource(".", "photo")
    with raises(UsageError, "batch.stride-or-limit"):
        ImageSource(".", stride=0)
    with raises(UsageError, "batch.no-filesystem"):
        list(ImageSource("nosuch://bucket/photos"))


def test_shards_have_stable_borders_and_digests(folder):
    tasks = list(split_tasks(ImageSource(str(folder)), 4))
    assert [(task.number, len(task.refs)) for task in tasks] == [(0, 4), (1, 2)]
    assert [task.digest for task in split_tasks(ImageSource(str(folder)), 4)] == [task.digest for task in tasks]
    (folder / "a" / "x.PNG").unlink()
    assert next(split_tasks(ImageSource(str(folder)), 4)).digest != tasks[0].digest
    assert len(list(ImageSource(str(folder), limit=3))) == 3


def test_a_video_becomes_a_video_of_its_maps(video, tiny_scope, tmp_path):
    import av

    from vitscope.batch.overlays import overlay_paths, write_video
    from vitscope.batch.run import run
    from vitscope.batch.types import BatchPlan
    from vitscope.errors import ResultError

    plan = BatchPlan("tiny", methods=("rollout", "attention"), overlays=True, shard_size=2)
    summary = run(ImageSource(str(video), stride=10), tmp_path / "out", plan, scope=tiny_scope)
    assert (summary.images, summary.failed) == (4, 0)
    pictures = list(overlay_paths(tmp_path / "out"))
    assert len(pictures) == 4
    assert all("-rollout-" in path.name for path in pictures)
    with av.open(str(write_video(pictures, tmp_path / "maps.mp4", 5.0))) as made:
        stream = made.streams.video[0]
        assert (stream.width, stream.height, float(stream.average_rate)) == (32, 32, 5)
        frames = [region.to_ndarray(format="rgb24").astype(int) for region in made.decode(stream)]
    assert len(frames) == 4
    with Image.open(pictures[2]) as image:
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - frames[2]).mean() < 12  # the codec's loss
    with raises(ResultError, "batch.no-overlays"):
        write_video([], tmp_path / "none.mp4")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "maps.mp4"}
