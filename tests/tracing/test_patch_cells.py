"""Where patches lie on the input and on the photo: what each patch really saw, and NaN beyond."""

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from torch import nn

import vitscope
from tests.helpers.errors import raises
from tests.models.toys_processors import photo, tensor
from vitscope.errors import LayoutError
from vitscope.geometry import ImageRegion, TokenLayout


def _resized(width, height):
    return lambda image: tensor(image.resize((width, height)))


class Embedding(nn.Module):
    """A small Vision Transformer with any convolution as its patch embedding."""

    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 16, **options)
        self.block = timm.models.vision_transformer.Block(16, 2)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return self.head(self.block(tokens).mean(1))


def seen_by(embed, size, grid, place):
    """The pixels that one patch reads, by the gradient of the real model's embedding: first and last plus one."""
    x = torch.randn(1, 3, *size, requires_grad=True)
    y = embed(x)
    y = y.reshape(1, *grid, -1) if y.ndim == 3 else y if y.shape[1:3] == grid else y.permute(0, 2, 3, 1)
    (grad,) = torch.autograd.grad(y[0, place[0], place[1]].sum(), x)
    down, across = (grad[0].abs().sum((0, 2 - axis)).nonzero().flatten() for axis in range(2))
    return int(down[0]), int(down[-1]) + 1, int(across[0]), int(across[-1]) + 1


def checked(model, embed, size):
    """Explain a photo that is its own input, and compare middles of cells and NaN with the gradients' pixels."""
    height, width = size
    e = vitscope.load(model.eval(), processor=_resized(width, height)).explain(photo(width, height), method="rollout")
    (rows, columns), heat = e.map.shape, e.heat()
    patches = {(r, c): seen_by(embed, size, (rows, columns), (r, c)) for r in range(rows) for c in range(columns)}
    covered = np.zeros(size, bool)
    for top, bottom, left, right in patches.values():
        covered[top:bottom, left:right] = True
    np.testing.assert_array_equal(np.isnan(heat), ~covered)
    left, top, right, bottom = e.region.cells or e.region.box
    full = [p for p in patches if patches[p][1] - patches[p][0] == max(q[1] - q[0] for q in patches.values())]
    for r, c in full:
        ends = patches[r, c]
        assert top + (r + 0.5) / rows * (bottom - top) == pytest.approx((ends[0] + ends[1]) / 2, abs=0.01)
    full = [p for p in patches if patches[p][3] - patches[p][2] == max(q[3] - q[2] for q in patches.values())]
    for r, c in full:
        ends = patches[r, c]
        assert left + (c + 0.5) / columns * (right - left) == pytest.approx((ends[2] + ends[3]) / 2, abs=0.01)
    return e


CONVOLUTIONS = {
    "whole": {"kernel_size": 8, "stride": 8},
    "overlapping": {"kernel_size": 8, "stride": 4},
    "padded": {"kernel_size": 7, "stride": 4, "padding": 3},
    "oblong": {"kernel_size": (8, 4), "stride": (8, 4)},
}


@pytest.mark.spread
@pytest.mark.parametrize("size", [(32, 32), (37, 47), (39, 33)], ids=str)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_cells_of_a_traced_embedding(name, size):
    model = Embedding(**CONVOLUTIONS[name])
    checked(model, model.embed, size)


def test_timm_that_pads_any_size():
    options = {"dynamic_img_size": True, "dynamic_img_pad": True, "embed_dim": 32, "depth": 2, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=3, **options)
    assert checked(model, model.patch_embed, (37, 47)).map.shape == (5, 6)


class Bordered(Embedding):
    """Widens the image by itself before it cuts patches of 8 x 8."""

    def __init__(self, mode, pixels):
        super().__init__(kernel_size=8, stride=8)
        self.mode, self.pixels = mode, pixels

    def forward(self, x):
        return super().forward(nn.functional.pad(x, (self.pixels,) * 4, mode=self.mode))


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_a_border_of_patches_that_the_model_repeats_is_refused(mode):
    """The outer patches show pixels of the inner ones: six patches would share the width of four."""
    model = Bordered(mode, 8)
    places = [
        seen_by(lambda x: model.embed(nn.functional.pad(x, (8,) * 4, mode=mode)), (32, 32), (6, 6), (n, n))
        for n in (0, 1)
    ]
    assert places[0][0] <= places[1][1]  # row 0 sees what row 1 sees
    with raises(LayoutError, "tracing.uneven", "tracing.uneven.hint"):
        vitscope.load(model.eval(), processor=_resized(32, 32))


def test_a_border_of_one_repeated_pixel_moves_nothing_by_half_a_patch():
    e = vitscope.load(Bordered("reflect", 1).eval(), processor=_resized(46, 46)).explain(
        photo(46, 46), method="rollout"
    )
    assert e.map.shape == (6, 6)


@pytest.mark.parametrize("edge", [256, 100, 64])
def test_the_program_of_the_issue(edge):
    """DINOv2 whose processor does not crop: 341 x 256 pixels are no whole patches of 14."""
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    processor = transformers.BitImageProcessor(size={"shortest_edge": edge}, do_center_crop=False)
    scope = vitscope.load(transformers.Dinov2Model(config).eval(), processor=processor)
    e = scope.explain(Image.new("RGB", (400, 300)), method="rollout")
    (rows, columns), (height, width) = e.map.shape, e.region.input
    right, bottom = columns * 14 / width * 400, rows * 14 / height * 300
    assert e.region.box == pytest.approx((0, 0, right, bottom))
    beyond = np.isnan(e.heat())
    assert not beyond[: int(bottom), : int(right)].any()
    assert beyond[int(bottom + 1) :].all()
    assert beyond[:, int(right + 1) :].all()


@pytest.mark.parametrize(("left", "top", "side"), [(4, 4, 24), (3, 5, 24), (2, 2, 28), (0, 4, 28)])
def test_a_crop_that_the_model_enlarges_by_itself(left, top, side):
    """Resizing spreads what each patch sees, so the cells come from the middles of patches, known by hand."""

    class Cropping(Embedding):
        def forward(self, x):
            x = x[..., top : top + side, left : left + side]
            return super().forward(nn.functional.interpolate(x, (32, 32), mode="bilinear"))

    model = Cropping(kernel_size=8, stride=8).eval()
    e = vitscope.load(model, processor=_resized(32, 32)).explain(photo(64, 64), method="rollout")
    assert e.region.cells == pytest.approx((2 * left, 2 * top, 2 * (left + side), 2 * (top + side)), abs=0.2)
    seen = ~np.isnan(e.heat())
    assert not seen[: max(0, 2 * top - 1)].any()
    assert not seen[2 * (top + side) + 1 :].any()
    assert not seen[:, : max(0, 2 * left - 1)].any()
    assert seen[2 * top + 1 : 2 * (top + side) - 1, 2 * left + 1 : 2 * (left + side) - 1].all()


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
def test_an_image_that_the_model_enlarges_whole_keeps_its_place(mode):
    class Enlarging(Embedding):
        def forward(self, x):
            return super().forward(nn.functional.interpolate(x, (40, 48), mode=mode))

    e = vitscope.load(Enlarging(kernel_size=8, stride=8).eval(), processor=_resized(32, 32)).explain(
        photo(64, 64), method="rollout"
    )
    assert e.map.shape == (5, 6)
    assert (e.region.cells, e.region.box) == (None, (0, 0, 64, 64))
    assert not np.isnan(e.heat()).any()


def test_swin_pads_and_the_map_stays_where_its_patches_are():
    torch.manual_seed(0)
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4
    )
    model = transformers.SwinModel(config).eval()
    scope = vitscope.load(model, processor=_resized(46, 38))
    e = scope.explain(photo(46, 38), method="rollout")
    left, top, right, bottom = e.region.cells or e.region.box
    assert ((right - left) / e.map.shape[1], (bottom - top) / e.map.shape[0], left, top) == pytest.approx((4, 4, 0, 0))
    assert not np.isnan(e.heat()).any()


def test_pixels_past_the_last_patch_are_never_covered():
    """A patch that is replaced loses its own pixels, and no other pixel changes."""
    model = Embedding(kernel_size=8, stride=8).eval()
    scope = vitscope.load(model, processor=_resized(47, 37))
    image = photo(47, 37)
    watched = []
    hook = model.embed.register_forward_pre_hook(lambda module, args: watched.append(args[0].detach().clone()))
    try:
        scope.predict_without(image, [5 * 2 + 3])
    finally:
        hook.remove()
    pixels = scope.adapter.prepare(vitscope.images.load_image(image))[0]
    changed = np.flatnonzero((watched[-1][0] - pixels).abs().sum(0).flatten().numpy())
    rows, columns = np.unravel_index(changed, (37, 47))
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (16, 24, 24, 32)


def test_gradients_are_summed_over_the_pixels_of_each_patch():
    model = Embedding(kernel_size=8, stride=8).eval()
    image = photo(47, 37)
    scope = vitscope.load(model, processor=_resized(47, 37))
    e = scope.explain(image, method="input-x-gradient", target=1)
    x = scope.adapter.prepare(vitscope.images.load_image(image))[0][None].requires_grad_()
    (grad,) = torch.autograd.grad(model(x)[0, 1], x)
    product = (x * grad)[0].sum(0).detach()[:32, :40]
    wanted = product.reshape(4, 8, 5, 8).sum((1, 3))
    np.testing.assert_allclose(e.map, wanted, rtol=1e-4, atol=1e-6)


def test_what_is_saved_is_loaded(tmp_path):
    model = Embedding(kernel_size=8, stride=4).eval()
    e = vitscope.load(model, processor=_resized(37, 47)).explain(photo(37, 47), method="rollout")
    assert e.region.cells is not None
    loaded = vitscope.Explanation.load(e.save(tmp_path / "one"))
    assert (loaded.region, loaded.layout.cells, loaded.layout.seen) == (e.region, e.layout.cells, e.layout.seen)
    np.testing.assert_array_equal(loaded.heat(), e.heat())


def test_a_layout_from_the_caller_says_its_cells():
    layout = TokenLayout((), (4, 5), "mean", cells=(0, 0, 40, 32))
    region = ImageRegion((94, 74), (0, 0, 94, 74), (37, 47)).covered(layout)
    assert region.box == (0, 0, 80, 64)
    rows, columns = layout.cell_numbers((37, 47))
    np.testing.assert_array_equal(rows, [*np.repeat(np.arange(4), 8), *[-1] * 5])
    np.testing.assert_array_equal(columns, [*np.repeat(np.arange(5), 8), *[-1] * 7])
