"""Every kind of image gives the same map, alone and among several."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import vitscope
from tests.helpers.errors import raises
from vitscope.errors import UsageError

ARRAY = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.fixture
def kinds(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(ARRAY).save(buffer, "PNG")
    data, path = buffer.getvalue(), tmp_path / "photo.png"
    path.write_bytes(data)
    files = [path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data)]
    return [*files, Image.fromarray(ARRAY), ARRAY / 255, {"image": data}, {"bytes": data, "path": None}]


def test_every_kind_of_image_gives_the_same_map(tiny_scope, kinds):
    expected = tiny_scope.explain(ARRAY, method="rollout").map
    for kind in kinds:
        assert np.array_equal(tiny_scope.explain(kind, method="rollout").map, expected), type(kind)


def test_several_may_be_of_different_kinds(tiny_scope, kinds):
    maps = [e.map for e in tiny_scope.explain(kinds, method="rollout")]
    assert len(maps) == len(kinds)
    np.testing.assert_allclose(maps, np.broadcast_to(maps[0], (len(maps), *maps[0].shape)), atol=1e-6)


def test_the_bytes_of_an_image_are_one_image(tiny_scope, kinds):
    for kind in kinds[2:5]:
        assert tiny_scope.attention(kind).images == 1
    assert tiny_scope.attention(kinds[:2]).images == 2


@pytest.mark.usefixtures("as_shipped")
def test_what_is_not_a_list_of_images_is_refused_as_such(tiny_scope):
    with raises(UsageError, "engine.one-image"):
        list(tiny_scope.explain_many("photo.png"))
    with raises(UsageError, "engine.no-images"):
        tiny_scope.attention([])


@pytest.mark.usefixtures("as_shipped")
def test_what_is_not_a_model_is_refused_as_such(tiny_scope):
    for other in (3, tiny_scope):
        with raises(UsageError, "models.not-a-model"):
            vitscope.load(other)
        with raises(UsageError, "attention.not-a-module"), vitscope.capture(other):
            pass


def test_a_model_loaded_in_inference_mode_can_be_differentiated(tiny_scope, tiny_folder, kinds):
    with torch.inference_mode():
        scope = vitscope.load(tiny_folder)
    found, expected = (one.explain(kinds[0], method="gradcam").map for one in (scope, tiny_scope))
    np.testing.assert_array_equal(found, expected)


def test_devices_and_dtypes_of_torch(tiny_folder):
    scope = vitscope.load(tiny_folder, device=torch.device("cpu"), dtype=torch.float64)
    assert (scope.device, scope.dtype) == (torch.device("cpu"), torch.float64)


def test_file_objects_are_read_once_where_an_image_is_needed_twice(tiny_scope, kinds):
    def file(array=ARRAY):
        Image.fromarray(array).save(buffer := io.BytesIO(), "PNG")
        return io.BytesIO(buffer.getvalue())

    expected = tiny_scope.compare(ARRAY, mirrored := np.ascontiguousarray(ARRAY[:, ::-1]))
    for found, other in zip(tiny_scope.compare(file(), file(mirrored)), expected, strict=True):
        np.testing.assert_allclose(found.map, other.map, atol=1e-6)
    target = vitscope.similar_to(file(mirrored))
    assert [e.target for e in tiny_scope.explain(kinds[:2], target=target, batch_size=1)] == [
        "similar to file object"
    ] * 2
    assert tiny_scope.view(file(), other=file(mirrored), methods=("rollout",), measure=False).arrays


def test_an_image_made_ready_ahead_stands_for_itself(tiny_scope, kinds):
    ready, expected = tiny_scope.prepare(kinds[0]), tiny_scope.statistics(kinds[0])
    assert tiny_scope.prepare(ready) is ready
    assert tiny_scope.statistics(ready).rows() == expected.rows()
    with raises(UsageError, "engine.prepared-size"):
        tiny_scope.explain(tiny_scope.prepare(kinds[0], size=64), method="rollout")


@pytest.mark.parametrize(("size", "side"), [(None, 64), (48, 48), (50, 48), (100, 96), (57, 64)])
def test_a_size_that_whole_patches_do_not_fill_is_said(tiny_scope, size, side):
    square = np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)
    e = tiny_scope.explain(square, method="attention", size=size)
    assert e.region.input == (side, side) == (e.map.shape[0] * 16, e.map.shape[1] * 16)
    said = [note for note in e.provenance["notes"] if str(side) in note]
    assert bool(said) == (size not in (None, side))
    assert not said or said == [f"size={size} is not filled by whole patches: the input has {side} x {side} pixels"]


def test_a_size_of_an_image_that_is_not_square_is_said_only_where_patches_change_it(tiny_scope):
    wide = np.zeros((60, 90, 3), np.uint8)
    assert tiny_scope.prepare(wide, size=64).picture.notes == ()
    ready = tiny_scope.prepare(wide, size=70)
    [note] = ready.picture.notes
    assert " x ".join(map(str, ready.region.input)) in note
    assert tiny_scope.prepare(ready.picture, size=70).picture.notes == (note,)
