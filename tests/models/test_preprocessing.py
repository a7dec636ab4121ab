"""Processors and sizes: what the model sees of the photo."""

import contextlib

import numpy as np
import pytest
import torch
from PIL import Image

import vitscope
from tests.helpers.errors import raises
from tests.models.toys_generic import Fused, ViT, loaded, made
from tests.models.traced_row import as_it_is, picture
from vitscope.errors import CaptureError, LayoutError
from vitscope.geometry import TokenLayout
from vitscope.images import Picture
from vitscope.models.pixels.preprocessing import Preprocessing, squash

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}


def _timm(name, **options):
    import timm

    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}: it came later")
    return timm.create_model(name, num_classes=5, **options)


def test_another_size_is_normalised_as_the_processor_does():
    image = Picture(picture((40, 60)))
    pixels, region = Preprocessing(squash((8, 8)))(image, size=32, multiple=(8, 8))
    assert (region.input, region.box) == ((24, 40), (0, 0, 60, 40))
    torch.testing.assert_close(pixels, squash(region.input)(Image.fromarray(image.pixels)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "box"), [((60, 100), (1000 / 53, 0, 4200 / 53, 60)), ((90, 50), (0, 12 * 90 / 57, 50, 44 * 90 / 57))]
)
def test_the_frame_of_torchvisions_resize_and_centre_crop(size, box):
    from torchvision import transforms

    process = transforms.Compose(
        [
            transforms.Resize(32),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize((0.5,) * 3, (0.5,) * 3),
        ]
    )
    e = vitscope.load(made(Fused), processor=process).explain(picture(size), method="rollout")
    assert e.region.box == pytest.approx(box, abs=1e-6)
    assert e.region.size == (size[1], size[0])
    assert e.region.input == (32, 32)


def letterbox(image):
    """The whole photo in its own shape, with black bars."""
    scale = 32 / max(image.size)
    small = image.resize((round(image.width * scale), round(image.height * scale)), 2)
    canvas = Image.new("RGB", (32, 32))
    canvas.paste(small, ((32 - small.width) // 2, (32 - small.height) // 2))
    return as_it_is((32, 32))(canvas)


def test_a_letterboxing_processor_is_refused_or_right():
    scope = vitscope.load(made(Fused), processor=letterbox)
    try:
        e = scope.explain(picture((50, 100)), method="rollout")
    except LayoutError as error:
        assert "more than resize and crop" in str(error)
    else:
        assert e.region.box == pytest.approx((0, -25, 100, 75), abs=2)


def test_a_processor_that_flips_is_refused():
    with raises(LayoutError, "models.processor-region"):
        vitscope.load(made(Fused), processor=lambda image: as_it_is((32, 32))(image).flip(-1))


# the libraries' own corners


def test_a_timm_model_made_for_another_size_than_its_name_says():
    import timm

    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4)
    scope = vitscope.load(model)
    assert scope.layout == TokenLayout(("cls",), (4, 4))
    assert scope.explain(picture((60, 40))).region.input == (32, 32)


class WantsAMask(ViT):
    size = (32, 32)

    def __init__(self):
        super().__init__(Fused)

    def forward(self, x, mask):
        return super().forward(x * mask)


@pytest.mark.spread
@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("vit_tiny_patch16_224", {"img_size": 96, "dynamic_img_size": True, **SMALL}, 96),
        ("hiera_tiny_224", {"img_size": 96, "stages": (1, 1, 1, 1)}, 96),
        pytest.param("coatnet_pico_rw_224", {"img_size": 96}, 96, marks=pytest.mark.slow),
        ("twins_svt_small", {"img_size": 128, "depths": (1, 1, 1, 1), "embed_dims": (16, 16, 32, 32)}, 128),
        ("test_maxvit", {"img_size": 128}, 128),
        pytest.param("mvitv2_tiny", {"img_size": 256}, 256, marks=pytest.mark.slow),
        pytest.param("mvitv2_small_cls", {"img_size": 256}, 256, marks=pytest.mark.slow),
    ],
)
def test_a_timm_model_is_explained_at_the_size_that_it_was_built_for(name, options, size):
    from timm.data import create_transform, resolve_model_data_config

    model, photo = _timm(name, **options).eval(), picture((200, 150))
    transform = create_transform(**resolve_model_data_config(model) | {"input_size": (3, size, size)})
    with torch.no_grad():
        expected = model(transform(Image.fromarray(photo))[None]).softmax(-1)[0]
    e = vitscope.load(model).explain(photo, method="rollout")
    assert e.region.input == (size, size)
    assert sorted(share for _, share in e.predictions) == pytest.approx(sorted(expected.tolist()), abs=1e-6)


@pytest.mark.parametrize("made_for", [48, 64])
def test_pixels_of_a_size_that_a_model_does_not_take_are_told_as_that(made_for):
    """The words of timm, and those of torch where a model does not check."""
    transform = as_it_is((32, 32))
    if made_for == 48:
        model = _timm("vit_tiny_patch16_224", img_size=48, patch_size=8, **SMALL)
    else:
        model = ViT(Fused, size=(64, 64))
    with raises(LayoutError, "models.pixels-refused", "models.pixels-refused.hint") as caught:
        vitscope.load(model.eval(), processor=transform)
    assert "32 x 32" in str(caught.value)


def test_a_model_that_wants_more_than_pixels_is_refused_in_one_line():
    with pytest.raises((LayoutError, CaptureError)) as caught:
        vitscope.load(WantsAMask().eval())
    assert "\n" not in str(caught.value)


# sizes


class Shrinking(ViT):
    """Notes the smallest picture it has seen, and answers by it."""

    def __init__(self):
        super().__init__(Fused)
        self.smallest = 64

    def forward(self, x):
        self.smallest = min(self.smallest, x.shape[-1])
        return super().forward(x) * self.smallest


def test_what_a_forward_notes_in_the_model_is_put_back():
    model = Shrinking().eval()
    loaded(model).explain(picture(model.size), method="rollout")
    assert model.smallest == 64


@pytest.mark.parametrize(
    ("name", "options", "grid", "seen"),
    [
        ("vit_tiny_patch16_224", {"dynamic_img_size": True, **SMALL}, (4, 6), (64, 96)),
        ("pvt_v2_b0", {"depths": (1,) * 4, "embed_dims": (8, 16, 40, 64)}, (16, 24), (64, 96)),
        pytest.param(
            "swin_tiny_patch4_window7_224",
            {"strict_img_size": False, "embed_dim": 24, "depths": (1,) * 4},
            (16, 24),
            None,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_another_size_keeps_the_shape_of_the_photo(name, options, grid, seen):
    scope = vitscope.load(_timm(name, **options).eval())
    image = picture((64, 96))
    e = scope.explain(image, method="rollout", size=78)
    assert e.layout.grid == grid
    assert e.region.input == (seen or (64, 96))
    assert not np.isnan(e.heat()).any()
    turned = scope.explain(np.ascontiguousarray(image.transpose(1, 0, 2)), method="rollout", size=78)
    assert turned.layout.grid == grid[::-1]


@pytest.mark.spread
@pytest.mark.parametrize("ask", ["explain", "attention", "attention_heads"])
def test_a_size_that_a_model_does_not_take_is_a_line(ask):
    scope = vitscope.load(_timm("vit_tiny_patch16_224", depth=1).eval())
    options = {"method": "rollout"} if ask == "explain" else {}
    with raises(vitscope.errors.UsageError, "models.size-refused", hint="models.size-refused.hint"):
        getattr(scope, ask)(picture((64, 96)), size=78, **options)
    assert scope.explain(picture((64, 96)), method="rollout").layout.grid == (14, 14)


def test_a_size_that_fails_does_not_change_the_model():
    """transformers' Swin makes its windows smaller in a forward."""
    import transformers

    torch.manual_seed(0)
    config = transformers.SwinConfig(
        image_size=64, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=8
    )
    scope = vitscope.load(transformers.SwinModel(config).eval(), processor=as_it_is((64, 64)))
    image = picture((64, 64))
    before = scope.explain(image, method="rollout").map
    windows = [m.window_size for m in scope.model.modules() if hasattr(m, "window_size")]
    for size in ((24, 24), (16, 40)):
        with torch.no_grad(), vitscope.attention.model_modes.eval_mode(scope.model), contextlib.suppress(RuntimeError):
            scope.adapter.run(torch.zeros(1, 3, *size))
    assert [m.window_size for m in scope.model.modules() if hasattr(m, "window_size")] == windows
    np.testing.assert_array_equal(scope.explain(image, method="rollout").map, before)


def test_a_function_can_be_the_processor_of_a_transformers_model():
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    scope = vitscope.load(transformers.ViTModel(config).eval(), processor=as_it_is((32, 48)))
    e = scope.explain(picture((32, 48)), method="rollout")
    assert (e.layout.grid, e.region.input, e.region.box) == ((4, 6), (32, 48), (0, 0, 48, 32))
    assert scope.explain(picture((32, 48)), method="rollout", size=64).region.input == (56, 80)
    assert "function" in scope.adapter.describe()["input"]


@pytest.mark.spread
@pytest.mark.parametrize("size", [(40, 72), (83, 61)])
def test_siglip_2_sees_the_patches_that_its_own_processor_cuts(size):
    """NaFlex: the photo's own shape, as many patches as fit; the processor fills up with zeros behind a mask."""
    from tests.models.toys_traced import ROWS

    row = next(row for row in ROWS if row.name == "hf-siglip2")
    scope = row.scope()
    image = picture(size)
    given = scope.adapter.processor(images=Image.fromarray(image), return_tensors="pt")
    rows, columns = (int(n) for n in given["spatial_shapes"][0])
    assert rows * columns <= given["pixel_values"].shape[1] == 16
    e = scope.explain(image, method="rollout")
    assert e.layout.grid == (rows, columns)
    assert e.region.box == (0, 0, size[1], size[0])
    with torch.no_grad():
        wanted = scope.model(**given).pooler_output
        answer = scope.adapter.answer(scope.adapter.prepare(e.picture)[0][None])
    torch.testing.assert_close(answer, wanted, rtol=1e-4, atol=1e-4)
