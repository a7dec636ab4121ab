"""Files and folders that appear whole or not at all."""

import os

import pytest

from tests.helpers.errors import raises
from vitscope._files import PART_PREFIX, atomic_write, holds_results
from vitscope.errors import ResultError


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_appears_whole_and_nothing_is_left_beside_it(tmp_path, sync):
    path = tmp_path / "new" / "numbers.json"
    for content in ("first", "second"):
        with atomic_write(path, sync=sync) as part:
            part.write_text(content)
            assert part.parent == path.parent
            assert part.name.startswith(PART_PREFIX)
            assert part.suffix == ".json"
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == content
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_no_part(tmp_path):
    path = tmp_path / "numbers.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as part:
        part.write_text(f"half{part.write_text('half') / 0}")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_system_is_a_result_error_with_the_callers_hint(tmp_path):
    (tmp_path / "file").write_text("")
    with raises(ResultError, "files.file-in-the-way", "files.in-the-way.hint"), atomic_write(tmp_path / "file" / "a"):
        pass
    (tmp_path / "folder").mkdir()
    with raises(ResultError, "files.folder-in-the-way") as caught, atomic_write(tmp_path / "folder") as part:
        part.touch()
    assert str(caught.value).startswith(f"{tmp_path / 'folder'} is a folder")
    with raises(ResultError, "files.not-written") as caught, atomic_write(tmp_path / "a", "buy a disk"):
        raise OSError(28, "No space left on device")
    assert str(caught.value) == f"{tmp_path / 'a'} cannot be written: No space left on device (buy a disk)"


def test_long_names_that_end_alike_have_parts_of_their_own(tmp_path):
    names = ["a" * 245 + ".png", "b" * 245 + ".png", "é" * 120 + ".png"]
    with atomic_write(tmp_path / names[0]) as one, atomic_write(tmp_path / names[1]) as two:
        for part in (one, two):
            part.write_bytes(b"x")
        assert one != two
    with atomic_write(tmp_path / names[2]) as part:
        part.write_bytes(b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_folder_whose_manifest_is_a_pipe_or_a_device_holds_no_results(tmp_path):
    for number, make in enumerate((os.mkfifo, lambda path: path.symlink_to("/dev/zero"))):
        (tmp_path / str(number)).mkdir()
        make(tmp_path / str(number) / "manifest.json")
        assert not holds_results(tmp_path / str(number))
