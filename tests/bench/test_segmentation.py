"""Photos with masks as cases."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.benchmarks import rows_of
from tests.helpers.errors import raises
from vitscope.bench import segmentation
from vitscope.bench.benchmark import make_benchmark, run_benchmark
from vitscope.bench.cases import KINDS
from vitscope.errors import ImageError, MissingDependencyError, ResultError, UsageError

pytestmark = pytest.mark.usefixtures("plots_are_not_drawn")

# --- segmentation


@pytest.fixture
def photos(tmp_path):
    """Two photos and their masks: one grey, one with a palette and a border of 255."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    rng = np.random.default_rng(0)
    for name in ("one", "two", "alone"):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(images / f"{name}.png")
    grey = np.zeros((40, 60), np.uint8)
    grey[5:20, 10:30] = 1
    Image.fromarray(grey).save(masks / "one.png")
    palette = np.zeros((40, 60), np.uint8)
    palette[10:30, 20:40] = 255
    palette[12:28, 22:38] = 15
    labelled = Image.fromarray(palette, "L").convert("P")
    labelled.putdata(palette.ravel().tolist())
    labelled.save(masks / "two.png")
    return images, masks


def test_photos_and_masks_of_one_name(photos, tiny_scope, tmp_path):
    cases = segmentation.folder_cases(*photos)
    assert [case.name for case in cases] == ["one", "two"]
    assert cases[0].load()[1].sum() == 15 * 20
    assert cases[1].load()[1].sum() == 16 * 16, "255 of a palette is a border"
    benchmark = make_benchmark(tiny_scope, "segmentation", images=photos[0], masks=photos[1])
    made = run_benchmark(tiny_scope, benchmark, rows_of(tiny_scope, "attention"), tmp_path / "o")
    assert set(made.scores[0].numbers) == set(KINDS["segmentation"].metrics)
    Image.new("L", (60, 40), 1).save(photos[1] / "one.png")
    changed = make_benchmark(tiny_scope, "segmentation", images=photos[0], masks=photos[1])
    with raises(ResultError, "files.other-options") as caught:
        run_benchmark(tiny_scope, changed, rows_of(tiny_scope, "attention"), tmp_path / "o")
    assert caught.value.message.params["changes"].params["name"] == "masks"


def test_masks_that_do_not_fit(photos, tiny_scope):
    images, masks = photos
    Image.new("L", (30, 40), 1).save(masks / "alone.png")
    with raises(ImageError, "bench.mask-size") as caught:
        next(c for c in segmentation.folder_cases(images, masks) if c.name == "alone").load()
    assert (caught.value.message.params["mask"], caught.value.message.params["image"]) == ("30 x 40", "60 x 40")
    Image.new("L", (60, 40), 1).save(masks / "alone.jpg")
    with raises(UsageError, "bench.two-masks"):
        segmentation.folder_cases(images, masks)
    with raises(ImageError, "bench.mask-jpeg"):
        segmentation.read_mask(masks / "alone.jpg")
    (images / "alone.png").rename(images / "other.png")
    for stem in ("one", "two", "alone"):
        (masks / f"{stem}.png").unlink()
    with raises(UsageError, "bench.no-pairs"):
        segmentation.folder_cases(images, masks)
    with raises(UsageError, "bench.segmentation-folders"):
        make_benchmark(tiny_scope, "segmentation", images=images)


def test_a_draw_of_photos_repeats():
    assert segmentation._sample(list(range(100)), 7, 3) == segmentation._sample(list(range(100)), 7, 3)
    assert len(set(segmentation._sample(list(range(100)), 7, 3))) == 7
    assert segmentation._sample([1, 2], 7, 3) == [1, 2]


def test_the_imagenet_file(tmp_path):
    import h5py

    rng = np.random.default_rng(0)
    photo, truth = rng.integers(0, 255, (30, 50, 3), dtype=np.uint8), np.zeros((30, 50), np.uint8)
    truth[:15, :25] = 1
    with h5py.File(tmp_path / "gtsegs_ijcv.mat", "w") as file:  # axes as MATLAB's are in HDF5
        image = file.create_dataset("#refs#/a", data=photo.transpose(2, 1, 0))
        mask = file.create_dataset("#refs#/b", data=truth.T)
        cell = file.create_dataset("#refs#/c", (1, 1), dtype=h5py.ref_dtype)
        cell[0, 0] = mask.ref
        for name, one in (("img", image), ("gt", cell)):
            references = file.create_dataset(f"value/{name}", (1, 1), dtype=h5py.ref_dtype)
            references[0, 0] = one.ref
    (case,) = segmentation.imagenet_cases(tmp_path / "gtsegs_ijcv.mat")
    small, seen = case.load()
    assert small.shape == (224, 224, 3)
    assert (small == np.asarray(Image.fromarray(photo).resize((224, 224), Image.Resampling.BILINEAR))).all()
    assert seen[:112, :112].all()
    assert seen.sum() == 112 * 112
    (tmp_path / "not.mat").write_text("text")
    with raises(UsageError, "bench.not-gtsegs"):
        segmentation.imagenet_cases(tmp_path / "not.mat")


def test_without_h5py_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("vitscope.errors.find_spec", lambda name: None)
    with raises(MissingDependencyError, "errors.missing-dependency") as caught:
        segmentation.imagenet_cases("gtsegs_ijcv.mat")
    assert (caught.value.message.params["package"], caught.value.hint.params["extra"]) == ("h5py", "bench")


def test_a_mask_of_a_kind_that_masks_do_not_have_is_one_line(tmp_path):
    np.save(tmp_path / "one.npy", np.eye(8, dtype=np.uint8))
    with raises(ImageError, "images.not-an-image"):
        segmentation.read_mask(tmp_path / "one.npy")
