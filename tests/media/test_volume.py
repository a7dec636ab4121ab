"""Volumes: files, spacing, orientation, resampling; results drawn on three slices, saved and read again."""

import json
import os
import tracemalloc

import numpy as np
import pytest

from tests.helpers.absent_extras import absent
from tests.helpers.errors import raises
from vitscope.errors import ImageError, MissingDependencyError, UsageError
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.media.clip import load_clip
from vitscope.media.sound import load_sound
from vitscope.media.volume import Volume, VolumeProcessor, load_volume
from vitscope.media.volume_explanation import VolumeExplanation


def voxels(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def nifti(path, array, affine=None):
    import nibabel as nib

    nib.save(nib.Nifti1Image(array, np.diag([2.0, 3.0, 4.0, 1.0]) if affine is None else affine), path)
    return path


def test_an_array_file_is_read(tmp_path):
    np.save(tmp_path / "scan.npy", voxels(4, 5, 6))
    volume = load_volume(tmp_path / "scan.npy")
    assert volume.voxels.shape == (1, 4, 5, 6)
    assert (volume.name, volume.spacing) == ("scan", None)
    assert volume.size == (6, 5)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_a_nifti_file_keeps_its_order_and_says_its_orientation(tmp_path, suffix):
    array = voxels(4, 5, 6)
    volume = load_volume(nifti(tmp_path / f"scan.{suffix}", array))
    assert np.array_equal(volume.voxels[0], array)
    assert volume.name == "scan"
    assert volume.spacing == (2.0, 3.0, 4.0)
    assert volume.axes == ("L-R", "P-A", "I-S")
    assert volume.notes[0].code == "media.orientation"


def test_a_packed_nifti_file_stands_in_memory_as_its_numbers_alone(tmp_path):
    import nibabel as nib

    array = np.zeros((200, 200, 200), np.int16)
    array[3, 5, 7] = 11
    image = nib.Nifti1Image(array, np.eye(4))
    image.header.set_slope_inter(2, 1)
    nib.save(image, tmp_path / "scan.nii.gz")
    tracemalloc.start()
    try:
        volume = load_volume(tmp_path / "scan.nii.gz")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (volume.voxels[0, 3, 5, 7], volume.voxels[0, 0, 0, 0]) == (2 * 11 + 1, 1)
    assert peak < 3.5 * volume.voxels.nbytes, "as it is read, as it is kept, and sorted: not also as integers"


def test_a_turned_nifti_file_names_its_axes_as_they_run(tmp_path):
    affine = np.array([[0, 0, -1.0, 0], [2.0, 0, 0, 0], [0, -3.0, 0, 0], [0, 0, 0, 1]])
    volume = load_volume(nifti(tmp_path / "scan.nii", voxels(4, 5, 6), affine))
    assert volume.axes == ("P-A", "S-I", "R-L")
    assert volume.spacing == (2.0, 3.0, 1.0)


def test_values_that_come_last_are_channels(tmp_path):
    array = voxels(4, 5, 6, 2)
    assert np.array_equal(load_volume(nifti(tmp_path / "a.nii", array)).voxels, np.moveaxis(array, 3, 0))
    assert load_volume(nifti(tmp_path / "b.nii", array[..., :1])).voxels.shape == (1, 4, 5, 6)


def test_without_nibabel_one_line_names_the_extra(tmp_path):
    path = nifti(tmp_path / "a.nii", voxels(4, 5, 6))
    with absent("nibabel"), pytest.raises(MissingDependencyError) as caught:
        load_volume(path)
    assert "vitscope[volume]" in str(caught.value)


def test_what_is_no_volume_is_refused(tmp_path):
    for name in ("text.npy", "text.nii", "text.nii.gz"):
        (tmp_path / name).write_text("no volume")
        with raises(ImageError, "media.broken-volume"):
            load_volume(tmp_path / name)
    with raises(ImageError, "media.no-such-file"):
        load_volume(tmp_path / "none.nii")
    with raises(ImageError, "media.volume-shape"):
        load_volume(voxels(4, 5))
    with raises(ImageError, "media.volume-not-finite"):
        Volume(np.full((4, 4, 4), np.nan))
    with raises(UsageError, "media.spacing"):
        Volume(voxels(4, 4, 4), (1.0, 0.0, 1.0))
    with raises(UsageError, "media.volume-processor"):
        VolumeProcessor((4, 4, 4), window=(1.0, 1.0))


def test_resampling_agrees_with_torch_and_windows_are_applied():
    import torch

    array = voxels(2, 6, 10, 7)
    found = VolumeProcessor((4, 15, 7))(Volume(array))
    expected = torch.nn.functional.interpolate(torch.from_numpy(array)[None], (4, 15, 7), mode="trilinear")[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    windowed = VolumeProcessor((6, 10, 7), window=(-1.0, 1.0))(Volume(array))
    np.testing.assert_allclose(windowed, ((array + 1) / 2).clip(0, 1), atol=1e-6)


def test_a_window_beside_the_voxels_is_refused():
    scan = np.random.default_rng(0).integers(-1000, 2000, (6, 10, 7)).astype(np.int16)
    with raises(ImageError, "images.window-beside", "images.window-beside.hint"):
        VolumeProcessor((6, 10, 7), window=(0.0, 1e-9))(Volume(scan - 4000))
    made = VolumeProcessor((6, 10, 7), window=(-1000.0, 2000.0))(Volume(scan))
    assert np.allclose(made[0], (scan + 1000) / 3000, atol=1e-6)


@pytest.fixture
def explained():
    """A map of 2 x 3 x 4 patches on 8 x 12 x 20 voxels, the hottest in the last slice's middle."""
    values = np.zeros((2, 3, 4), np.float32)
    values[1, 1, 2] = 1
    volume = Volume(voxels(8, 12, 20), (3.0, 1.0, 1.0), axes=("I-S", "P-A", "L-R"), name="head")
    region = ImageRegion((20, 12), (0, 0, 20, 12), (96, 20))
    layout = TokenLayout((), (6, 4), "mean", planes=2)
    return VolumeExplanation(values, np.zeros(0, np.float32), "rollout", layout, region, picture=volume)


def test_heat_lies_on_the_voxels_of_each_patch(explained):
    heat = explained.heat(smooth=False)
    expected = explained.map.repeat(4, 0).repeat(4, 1).repeat(5, 2)
    assert np.array_equal(heat, expected)
    smooth = explained.heat()
    assert smooth.shape == (8, 12, 20)
    assert np.unravel_index(smooth.argmax(), smooth.shape)[0] >= 5
    assert 0 <= smooth.min() <= smooth.max() <= 1


def test_the_slices_go_through_the_hottest_patch(explained):
    assert explained.hottest == (6, 6, 12)
    image = np.asarray(explained.overlay(opacity=1.0)).astype(float)
    hot = (image[..., 0] > 230) & (image[..., 1] > 230) & (image[..., 2] < 190)
    lower = hot[image.shape[0] // 2 :]
    third = lower.shape[1] // 3
    assert all(lower[:, n * third : (n + 1) * third].sum() > 50 for n in range(3))  # in each of the three slices
    with raises(UsageError, "media.no-such-voxel"):
        explained.overlay(at=(8, 0, 0))
    with raises(UsageError, "explanation.notebook-style"):
        explained.overlay(style="notebook")


def test_saved_and_read_again(tmp_path, explained):
    folder = explained.save(tmp_path / "out")
    names = ["arrays.npz", "heat.npy", "manifest.json", "overlay.png", "voxels.npy"]
    assert sorted(p.name for p in folder.iterdir()) == names
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["volume"] == {"spacing": [3.0, 1.0, 1.0], "axes": ["I-S", "P-A", "L-R"], "hottest": [6, 6, 12]}
    read = VolumeExplanation.load(folder)
    assert np.array_equal(read.map, explained.map)
    assert np.array_equal(read.volume.voxels, explained.volume.voxels)
    assert (read.volume.spacing, read.volume.axes) == ((3.0, 1.0, 1.0), ("I-S", "P-A", "L-R"))


def test_an_explanation_without_its_volume_cannot_be_drawn(tmp_path, explained):
    e = VolumeExplanation(explained.map, explained.prefix, "x", explained.layout, explained.region)
    with raises(UsageError, "media.no-volume"):
        e.overlay()
    e.save(tmp_path / "out")
    assert VolumeExplanation.load(tmp_path / "out").picture is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("load", [load_volume, load_sound, lambda path: load_clip(path, 2)])
def test_a_pipe_is_refused_unread_whatever_it_is_called(tmp_path, load):
    os.mkfifo(tmp_path / "pipe.npy")
    with raises(ImageError, "images.not-a-file"):
        load(tmp_path / "pipe.npy")
