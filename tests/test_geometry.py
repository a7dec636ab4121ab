"""TokenLayout and ImageRegion, on cases worked out by hand."""

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.helpers.errors import raises
from vitscope.errors import LayoutError, UsageError
from vitscope.geometry import ImageRegion, TokenLayout


class TestTokenLayout:
    def test_counts_and_places_tokens(self):
        layout = TokenLayout(("cls", "register 1"), (2, 3))
        assert layout.tokens == 8
        tokens = np.arange(8)
        assert layout.patches(tokens).tolist() == [[2, 3, 4], [5, 6, 7]]
        batch = torch.arange(16).reshape(2, 8)
        assert layout.patches(batch)[1].tolist() == [[10, 11, 12], [13, 14, 15]]
        assert str(layout) == "2 prefix + 2 x 3 patches"

    @pytest.mark.parametrize(
        ("layout", "expected"),
        [
            (TokenLayout(("cls",), (1, 2)), [1, 0, 0]),
            (TokenLayout(("cls", "distillation"), (1, 2)), [1, 0, 0, 0]),
            (TokenLayout(("cls", "distillation"), (1, 2), "cls", True), [0.5, 0.5, 0, 0]),
            (TokenLayout((), (2, 2), "mean"), [0.25, 0.25, 0.25, 0.25]),
            (TokenLayout(("cls",), (2, 2), "mean"), [0, 0.25, 0.25, 0.25, 0.25]),
            (TokenLayout(("cls",), (1, 3), "mean", True), [0.25, 0.25, 0.25, 0.25]),
        ],
    )
    def test_readout(self, layout, expected):
        assert layout.readout().tolist() == expected

    def test_attention_pooling_has_no_fixed_readout(self):
        with raises(LayoutError, "geometry.no-fixed-readout"):
            TokenLayout((), (2, 2), "map").readout()

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            ((("cls",), (0, 4)), "not-a-grid"),
            ((("cls",), (4,)), "not-a-grid"),
            ((("cls", "cls"), (2, 2)), "repeated-name"),
            (((), (2, 2), "cls"), "cls-without-prefix"),
            ((("cls",), (2, 2), "sum"), "unknown-pooling"),
        ],
    )
    def test_refuses(self, arguments, code, monkeypatch):
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
        with raises(LayoutError, f"geometry.{code}"):
            TokenLayout(*arguments)

    def test_wrong_number_of_tokens_says_both_numbers(self):
        with raises(LayoutError, "geometry.wrong-token-count"):
            TokenLayout(("cls", "register 1"), (2, 3)).patches(np.zeros(9))

    def test_a_square_is_never_guessed(self):
        """Nine patches may be 1 x 9: only the layout says."""
        assert TokenLayout((), (1, 9), "mean").patches(np.arange(9)).shape == (1, 9)


class TestFrame:
    def test_resize_without_crop_is_the_whole_photo(self):
        region = ImageRegion.from_resize_crop((640, 480), (224, 224))
        assert region.box == (0, 0, 640, 480)
        assert region.input == (224, 224)

    def test_centre_crop_by_hand(self):
        """640 x 480, shorter side to 240 (so 320 x 240), 200 x 200 from the middle: 60 and 20 pixels off, doubled."""
        region = ImageRegion.from_resize_crop((640, 480), (240, 320), (200, 200))
        assert region.box == (120, 40, 520, 440)
        assert region.window() == (120, 40, 520, 440)

    def test_odd_margin_rounds_down(self):
        assert ImageRegion.from_resize_crop((11, 11), (11, 11), (4, 4)).box == (3, 3, 7, 7)

    def test_crop_larger_than_the_picture_reaches_beyond_it(self):
        region = ImageRegion.from_resize_crop((10, 20), (20, 10), (20, 20))
        assert region.box == (-5, 0, 15, 20)
        assert region.upsample(np.ones((2, 2), np.float32)).shape == (20, 10)
        assert not np.isnan(region.upsample(np.ones((2, 2), np.float32))).any()

    def test_blocks_by_hand(self):
        region = ImageRegion((6, 4), (0, 0, 6, 4), (4, 6))
        placed = region.upsample(np.array([[1, 2, 3], [4, 5, 6]], np.float32), smooth=False)
        assert placed.tolist() == [[1, 1, 2, 2, 3, 3]] * 2 + [[4, 4, 5, 5, 6, 6]] * 2

    def test_outside_the_box_is_nan(self):
        region = ImageRegion((6, 4), (2, 1, 6, 3), (2, 4))
        for smooth in (True, False):
            placed = region.upsample(np.ones((1, 2), np.float32), smooth)
            seen = ~np.isnan(placed)
            assert seen.sum() == 8
            assert seen[1:3, 2:6].all()

    def test_a_pixel_belongs_to_the_box_when_its_centre_does(self):
        placed = ImageRegion((4, 1), (0.6, 0, 3.4, 1), (1, 4)).upsample(np.ones((1, 1), np.float32))
        assert np.isnan(placed).tolist() == [[True, False, False, True]]

    @pytest.mark.parametrize("size", [(70, 50), (33, 90), (400, 300)])
    def test_bicubic_is_pillows(self, size):
        """Upsampling a map over a whole photo is Pillow's bicubic, but for the clipping to the map's range."""
        values = np.random.default_rng(0).random((5, 7)).astype(np.float32)
        wanted = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BICUBIC))
        placed = ImageRegion(size, (0, 0, *size), (50, 70)).upsample(values)
        np.testing.assert_allclose(placed, np.clip(wanted, values.min(), values.max()), atol=2e-6)

    def test_many_patches_on_few_pixels_skip_none(self):
        values = np.zeros((1, 40), np.float32)
        values[0, ::2] = 1
        placed = ImageRegion((4, 1), (0, 0, 4, 1), (1, 40)).upsample(values)
        np.testing.assert_allclose(placed, 0.5, atol=0.05)

    def test_blur_is_a_gaussian(self):
        """One bright block, blurred: the pixel values are the normal distribution's, by the error function."""
        values = np.zeros((1, 5), np.float32)
        values[0, 2] = 1
        placed = ImageRegion((100, 3), (0, 0, 100, 3), (3, 100)).upsample(values, smooth=False, blur=4.0)
        x = np.arange(100)
        kernel = np.exp(-0.5 * ((x[:, None] - x) / 4.0) ** 2)
        wanted = (kernel / kernel.sum(1, keepdims=True))[:, 40:60].sum(1)
        np.testing.assert_allclose(placed[1, 20:80], wanted[20:80], atol=1e-4)

    @settings(deadline=None)  # of a busy machine
    @given(
        st.integers(2, 60), st.integers(2, 60), st.integers(1, 9), st.integers(1, 9), st.booleans(),
        st.tuples(st.floats(-20, 50), st.floats(-20, 50), st.floats(1, 60), st.floats(1, 60)),
    )  # fmt: skip
    def test_placing_keeps_the_range_and_the_transpose(self, w, h, gh, gw, smooth, box):
        left, top, wide, tall = box
        values = np.random.default_rng(gh * 100 + gw).random((gh, gw)).astype(np.float32)
        placed = ImageRegion((w, h), (left, top, left + wide, top + tall), (16, 16)).upsample(values, smooth)
        inside = placed[~np.isnan(placed)]
        assert placed.shape == (h, w)
        assert inside.size
        assert inside.min() >= values.min()
        assert inside.max() <= values.max()
        turned = ImageRegion((h, w), (top, left, top + tall, left + wide), (16, 16)).upsample(values.T.copy(), smooth)
        np.testing.assert_allclose(turned.T, placed, atol=1e-5)

    def test_refuses_an_empty_box(self):
        with raises(LayoutError, "geometry.empty-region"):
            ImageRegion((4, 4), (3, 0, 3, 4), (2, 2))


def test_planes_give_maps_a_third_axis():
    layout = TokenLayout(("cls",), (6, 4), planes=3)
    assert layout.shape == (3, 2, 4)
    assert str(layout) == "1 prefix + 3 x 2 x 4 patches"
    assert layout.patches(np.arange(25))[2, 1, 3] == 24
    assert layout.patch_name(23) == "2,1,3"
    assert layout.patch_number("2, 1,3") == 23
    for text in ("1,3", "3,0,0", "0,2,0", "0,0,4", "a", "-1,0,0"):
        with raises(UsageError, "geometry.no-such-patch", "geometry.no-such-patch.hint"):
            layout.patch_number(text)
    with raises(LayoutError, "geometry.uneven-planes"):
        TokenLayout((), (6, 4), "mean", planes=4)


def test_a_patch_of_an_image_has_row_and_column():
    layout = TokenLayout((), (6, 4), "mean")
    assert (layout.shape, layout.patch_name(9), layout.patch_number("2,1")) == ((6, 4), "2,1", 9)
