"""The region that a processor's pixels show: measured right, or refused; never guessed."""

import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from skimage import data
from torchvision import transforms
from torchvision.transforms import v2

import vitscope
from tests.helpers.errors import raises
from tests.models.toys_generic import Fused, made
from tests.models.toys_processors import GEOMETRIES, centred, colours_after, photo, squared, tensor
from vitscope.errors import LayoutError, UsageError
from vitscope.geometry import ImageRegion
from vitscope.images import Picture, load_image
from vitscope.models.pixels.preprocessing import Preprocessing

SIZES = [(120, 60), (60, 120), (90, 90), (300, 211)]


def region_of(process, image, **options):
    return Preprocessing(process, **options)(load_image(image))[1]


@pytest.mark.covering
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("colours", colours_after)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_region_does_not_depend_on_colours(geometry, colours, size):
    place, box = GEOMETRIES[geometry]
    try:
        found = region_of(lambda image: colours_after[colours](place(image)), photo(*size))
    except LayoutError as error:  # equalised together with the bars, a half of the photo's edges is inverted
        assert (colours, geometry, error.message.code) == ("equalised", "letterbox", "models.processor-region")
        return
    per_pixel = (found.box[2] - found.box[0]) / found.input[1], (found.box[3] - found.box[1]) / found.input[0]
    np.testing.assert_allclose(np.array(found.box) / (per_pixel * 2), np.array(box(*size)) / (per_pixel * 2), atol=0.6)


@pytest.mark.parametrize(("size", "seed"), [((120, 60), 0), ((300, 211), 1), ((40, 30), 1)], ids=str)
def test_marks_that_change_what_equalising_does_are_found(size, seed):
    """One pair of faint marks is not found in these photos: it moves their histograms as much as it shows."""
    found = region_of(lambda image: tensor(ImageOps.equalize(centred(image))), photo(*size, seed))
    np.testing.assert_allclose(found.box, GEOMETRIES["centre"][1](*size), atol=0.6 * min(size) / 36)


@pytest.mark.parametrize("colours", ["grey", "hsv", "inverted", "stretched"])
def test_a_bright_square_lies_where_the_region_says(colours):
    """Independent of any probe: a white square on black, its centre of mass found in the pixels."""
    image = np.zeros((100, 160, 3), np.uint8)
    image[20:30, 90:104] = 255
    process = lambda image: colours_after[colours](centred(image))  # noqa: E731
    pixels, region = Preprocessing(process)(Picture(image))
    change = (pixels - process(Image.fromarray(image * 0))).abs().sum(0).numpy()
    rows, columns = np.arange(32) + 0.5, np.arange(32) + 0.5
    y, x = change.sum(1) @ rows / change.sum(), change.sum(0) @ columns / change.sum()
    left, top, right, bottom = region.box
    assert left + x / 32 * (right - left) == pytest.approx(97, abs=1)
    assert top + y / 32 * (bottom - top) == pytest.approx(25, abs=1)


def test_the_program_of_the_issue():
    """A whole 400 x 200 photo through a grey processor: the region is the whole, not 120 x 117 of it."""
    grey = transforms.Compose([transforms.Grayscale(3), transforms.Resize((32, 32)), transforms.ToTensor()])
    e = vitscope.load(made(Fused), processor=grey).explain(photo(400, 200), method="rollout")
    assert e.region.box == (0, 0, 400, 200)
    assert not np.isnan(e.heat()).any()


@pytest.mark.spread
@pytest.mark.parametrize("size", [(28, 28), (40, 30), (3000, 100), (50, 700), (17, 16)], ids=str)
def test_small_and_extreme_photos(size):
    whole = transforms.Compose([transforms.Resize((28, 28)), transforms.ToTensor()])
    assert region_of(whole, photo(*size)).box == (0, 0, *size)
    crop = transforms.Compose([transforms.Resize(224), transforms.CenterCrop(224), transforms.ToTensor()])
    width, height = size
    side = min(size)
    long = int(224 * max(size) / side)
    start = round((long - 224) / 2) * max(size) / long
    wanted = (start, 0, start + 224 * max(size) / long, side) if width > height else (0, start, side, start + side)
    assert region_of(crop, photo(*size)).box == pytest.approx(wanted, abs=side / 224)


RANDOM = {
    "crop": transforms.Compose([transforms.RandomResizedCrop(32), transforms.ToTensor()]),
    "flip": transforms.Compose([transforms.Resize((32, 32)), transforms.RandomHorizontalFlip(), transforms.ToTensor()]),
    "noise": lambda image: tensor(image.resize((32, 32))) + 0.1 * torch.rand(3, 32, 32),
    "jitter": transforms.Compose([transforms.Resize((32, 32)), transforms.ColorJitter(0.5), transforms.ToTensor()]),
    "shift": transforms.Compose([transforms.Resize((40, 40)), transforms.RandomCrop(32), transforms.ToTensor()]),
}


RANDOM_CODES = {"models.processor-random", "models.processor-random-part", "models.processor-content"}


@pytest.mark.parametrize("name", RANDOM)
def test_random_processors_are_refused_or_right(name):
    torch.manual_seed(0)
    refused = 0
    for seed in range(6):
        try:
            found = region_of(RANDOM[name], photo(120, 80, seed))
        except LayoutError as error:
            refused += error.message.code in RANDOM_CODES
        else:  # drawn alike by chance: then it must be right
            assert (name, found.box) == ("flip", (0, 0, 120, 80))
    assert refused >= 4


def test_a_flip_drawn_alike_each_time_is_seen_on_the_photo():
    """The region was measured unmirrored, all runs on a photo are mirrored: marks on the photo lie elsewhere."""
    mirrored = []
    preprocess = Preprocessing(lambda im: tensor((ImageOps.mirror(im) if mirrored else im).resize((32, 32))))
    assert preprocess(load_image(photo(120, 80)))[1].box == (0, 0, 120, 80)
    mirrored.append(True)
    with raises(LayoutError, "models.processor-content"):
        preprocess(load_image(photo(120, 80, seed=1)))


def around_the_brightest(image):
    """Crop around the brightest place, as crops around faces and lesions do."""
    grey = np.asarray(image.convert("L").resize((12, 12)))
    y, x = np.unravel_index(grey.argmax(), grey.shape)
    left, top = int(x / 24 * image.width), int(y / 24 * image.height)
    return tensor(image.crop((left, top, left + image.width // 2, top + image.height // 2)).resize((32, 32)))


def without_borders(image):
    """Trim the dark border."""
    return tensor(
        image.crop(image.convert("L").point(lambda v: 255 * (v > 60)).getbbox() or (0, 0, *image.size)).resize((32, 32))
    )


@pytest.mark.parametrize("process", [around_the_brightest, without_borders])
def test_a_crop_that_follows_the_content_is_refused(process):
    image = np.full((160, 240, 3), 20, np.uint8)
    image[60:130, 120:200] = np.asarray(photo(80, 70)) // 2 + 100
    with pytest.raises(LayoutError) as caught:
        region_of(process, Image.fromarray(image))
    assert caught.value.message.code in {
        "models.processor-content",
        "models.processor-region",
        "models.processor-random",
    }
    assert caught.value.hint.code.startswith("models.processor-")


def test_a_crop_that_follows_marks_as_bright_as_the_photo_is_refused():
    """Around the brightest pixel of a gradient in a black border: it follows bright marks, not faint ones."""

    def around(image):
        grey = np.asarray(image.convert("L"))
        y, x = (int(n) for n in np.unravel_index(grey.argmax(), grey.shape))
        left, top = min(max(0, x - 60), image.width - 120), min(max(0, y - 40), image.height - 80)
        return tensor(image.crop((left, top, left + 120, top + 80)).resize((32, 32)))

    image = np.zeros((160, 240, 3), np.uint8)
    image[12:-12, 12:-12] = np.linspace(40, 220, 216)[None, :, None]
    with raises(LayoutError, "models.processor-content", hint="models.processor-region.hint"):
        region_of(around, Image.fromarray(image))


def test_colours_that_are_folded_keep_their_place():
    found = region_of(lambda image: tensor(ImageOps.solarize(centred(image), 128)), photo(120, 60))
    np.testing.assert_allclose(found.box, GEOMETRIES["centre"][1](120, 60), atol=1)


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (ImageOps.mirror, "mirrors"),
        (ImageOps.flip, "mirrors"),
        (lambda image: image.transpose(Image.Transpose.TRANSPOSE), "turns"),
        (lambda image: image.transpose(Image.Transpose.ROTATE_90), "turns"),
        (lambda image: image.rotate(10), "edges"),
        (lambda image: Image.fromarray(np.hypot(*np.gradient(np.asarray(image.convert("L"), float)))), "same pixels"),
        (lambda image: image.filter(ImageFilter.GaussianBlur(40)), "blurs"),
    ],
)
def test_what_no_region_expresses_is_refused_with_its_reason(turn, reason):
    with pytest.raises(LayoutError, match=reason) as caught:
        region_of(lambda image: tensor(turn(image).resize((64, 64))), photo(120, 90))
    turned = "turned-" if reason in ("mirrors", "turns") else ""  # what is turned, no region puts right
    assert caught.value.hint.code == f"models.processor-region.{turned}hint"


@pytest.mark.spread
@pytest.mark.parametrize("bent", [0.03, 0.1])
@pytest.mark.parametrize("how", ["keystone", "askew", "barrel"])
def test_a_distortion_of_a_few_pixels_is_no_box(how, bent):
    """Stripes along one side, averaged over the other, would lie where those of a box do."""
    across, down = np.meshgrid(np.linspace(-1, 1, 224), np.linspace(-1, 1, 224))
    widths = {"keystone": 1 - bent * (1 - down) / 2, "askew": 1, "barrel": 1 + bent * down**2}[how]
    shift = bent * down if how == "askew" else 0

    def process(image):
        width, height = image.size
        columns, rows = ((across * widths + shift + 1) / 2 * (width - 1), (down + 1) / 2 * (height - 1))
        found = np.asarray(image)[rows.round().astype(int), columns.round().astype(int).clip(0, width - 1)]
        return torch.from_numpy(found / 255.0).permute(2, 0, 1).float()

    with raises(LayoutError, "models.processor-region", "models.processor-region.hint") as caught:
        region_of(process, photo(400, 300))
    assert "distorts" in caught.value.message


@pytest.mark.spread
@pytest.mark.parametrize(
    ("process", "image"),
    [
        (lambda image: tensor(image.resize((224, 224)).filter(ImageFilter.GaussianBlur(5))), photo(160, 120)),
        (lambda image: tensor(image.resize((224, 224))), photo(28, 28)),  # each of its pixels becomes 8 x 8
        (lambda image: (tensor(image.resize((64, 64))) > 0.5).float(), photo(160, 120).point(lambda v: v // 3)),
        (lambda image: (tensor(image.convert("L").resize((224, 224))) > 0.45).float(), photo(320, 240)),
    ],
    ids=["blurred", "enlarged", "a threshold above a dark photo", "a threshold within the photo"],
)
def test_marks_that_spread_or_vanish_are_no_content(process, image):
    assert region_of(process, image).box == (0, 0, *image.size)


@pytest.mark.spread
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("side", [32, 96, 224])
def test_a_signed_slope_is_refused_on_a_flat_photo_too(side, axis):
    """Its sign changes half a stripe beside the edges; a flat photo takes no marks that would show it."""

    def slope(image):
        grey = np.asarray(image.convert("L").resize((side, side)), float)
        return torch.from_numpy(np.gradient(grey, axis=axis))[None]

    for image in (Image.new("RGB", (120, 90), (90, 90, 90)), photo(120, 90)):
        with raises(LayoutError, "models.processor-region", hint="models.processor-region.hint") as caught:
            region_of(slope, image)
        assert caught.value.message.params["reason"].code == "models.processor-region.bumps"


@pytest.mark.slow
def test_the_caller_says_the_region():
    def process(image):  # slopes alone: no region is measured
        return tensor(image.resize((32, 32))).diff(dim=1, append=torch.zeros(3, 1, 32)).abs()

    stated = ImageRegion((120, 80), (10, 0, 110, 80), (32, 32))
    for region in (stated, lambda picture: ImageRegion(picture.size, (10, 0, 110, 80), (32, 32)), "10,0,110,80"):
        scope = vitscope.load(made(Fused), processor=process, region=region)
        assert scope.explain(photo(120, 80), method="rollout").region == stated
    with raises(UsageError, "models.region-given"):
        vitscope.load(made(Fused), processor=process, region=(130, 0, 150, 80)).explain(photo(120, 80))
    with raises(UsageError, "models.region", hint="models.region.hint"):
        vitscope.load(made(Fused), processor=process, region=(0, 0, 80))
    with raises(UsageError, "models.region-given", hint="models.region-given.hint"):
        vitscope.load(made(Fused), processor=process, region=stated).explain(photo(90, 80), method="rollout")
    wrong = ImageRegion((120, 80), (0, 0, 120, 80), (24, 32))
    with raises(UsageError, "models.region-given"):
        vitscope.load(made(Fused), processor=process, region=wrong).explain(photo(120, 80), method="rollout")


def jittered(image):
    return tensor(image.resize((32, 32))) * (0.8 + 0.2 * random.random())


CONTRADICTED = {
    "a crop": (lambda image: tensor(centred(image)), "models.region-contradicted"),
    "a crop by torchvision": (
        transforms.Compose([transforms.Resize(32), transforms.CenterCrop(32), transforms.ToTensor()]),
        "models.region-contradicted",
    ),
    "mirrored": (lambda image: tensor(ImageOps.mirror(image).resize((32, 32))), "models.processor-region"),
    "turned": (lambda image: tensor(image.rotate(90, expand=True).resize((32, 32))), "models.processor-region"),
    "transposed": (lambda image: tensor(image.resize((32, 32))).transpose(1, 2), "models.processor-region"),
    "a random crop": (transforms.Compose([transforms.RandomResizedCrop(32), transforms.ToTensor()]), None),
    "mirrored at random": (
        transforms.Compose([transforms.Resize((32, 32)), transforms.RandomHorizontalFlip(), transforms.ToTensor()]),
        None,
    ),
}


@pytest.mark.parametrize("name", CONTRADICTED)
def test_a_region_from_the_caller_that_is_seen_to_be_wrong_is_refused(name):
    process, code = CONTRADICTED[name]
    with raises((UsageError, LayoutError), code or "models.processor-random"):
        for _ in range(4):  # what is random may be right for once
            region_of(process, photo(120, 60), region="whole")


@pytest.mark.parametrize(
    ("process", "region"),
    [
        (jittered, "whole"),
        (lambda image: tensor(centred(image)), (33, 3, 87, 57)),
        (lambda image: tensor(centred(image)), (34, 4, 88, 58)),
        (lambda image: tensor(image.filter(ImageFilter.GaussianBlur(30)).resize((32, 32))), "whole"),
    ],
    ids=["of random brightness", "a crop, said rightly", "said half a pixel beside it", "blurred beyond measure"],
)
def test_a_region_from_the_caller_that_is_right_or_not_understood_stands(process, region):
    assert region_of(process, photo(120, 60), region=region).box == ((0, 0, 120, 60) if region == "whole" else region)


def test_a_region_that_follows_each_image_stands_where_test_images_show_another():
    """Half of the image around its brightest place: of stripes some fixed part is shown, of this photo another."""
    image = np.full((60, 120, 3), 40, np.uint8)
    image[::7, ::5] = 90
    image[20:30, 80:100] = 255

    def box(pixels):
        left = int(np.clip(np.asarray(pixels, float).mean(2)[:60].mean(0).argmax() - 30, 0, 60))
        return (left, 0, left + 60, 60)

    def process(photo):
        return tensor(photo.crop(box(photo)).resize((32, 32)))

    def said(picture):
        return ImageRegion(picture.size, box(picture.pixels), (32, 32))

    assert region_of(process, Image.fromarray(image), region=said).box == box(image) == (50, 0, 110, 60)
    with raises(LayoutError, "models.processor-content"):
        region_of(process, Image.fromarray(image))


@pytest.mark.spread
@pytest.mark.parametrize("name", ["rocket", "moon", "page", "coins", "cell"])
@pytest.mark.parametrize("place", ["brightest column", "brightest pixel", "darkest pixel"])
def test_a_crop_that_strong_marks_alone_move_is_refused(name, place):
    """On a dull photo, marks are so much stronger than what it holds that where it lay without them was not seen."""
    image = Image.fromarray(getattr(data, name)()).convert("RGB").resize((240, 120))

    def crop(photo):
        grey = np.asarray(photo, float).mean(2)
        if place == "brightest column":
            y, x = 60, int(grey.mean(0).argmax())
        else:
            y, x = divmod(int((grey if place == "brightest pixel" else -grey).argmax()), 240)
        left, top = int(np.clip(x - 80, 0, 80)), int(np.clip(y - 40, 0, 40))
        return left, top, left + 160, top + 80

    try:
        found = region_of(lambda photo: tensor(photo.crop(crop(photo)).resize((32, 32))), image).box
    except LayoutError as error:
        assert error.message.code in ("models.processor-content", "models.processor-region")
    else:
        np.testing.assert_allclose(found, crop(image), atol=2 * 160 / 32)  # by chance where stripes have it


def test_what_is_mirrored_is_explained_as_the_hint_says():
    """The processor without its mirroring, on a mirrored image: the same pixels, and the region lies on that image."""
    image = photo(120, 60)
    with raises(LayoutError, "models.processor-region", hint="models.processor-region.turned-hint"):
        region_of(lambda one: tensor(ImageOps.mirror(one).resize((32, 32))), image)
    pixels, region = Preprocessing(lambda one: tensor(one.resize((32, 32))))(load_image(ImageOps.mirror(image)))
    assert region.box == (0, 0, 120, 60)
    assert torch.equal(pixels, tensor(ImageOps.mirror(image).resize((32, 32))))


# what processors take and return


class Albumentations:
    """Takes `image=` an array alone, and returns a dictionary with an array (H, W, 3)."""

    def __call__(self, *args, image):
        assert not args
        small = np.asarray(Image.fromarray(image).resize((32, 32)), np.float32) / 255
        return {"image": small}


class Kornia(torch.nn.Module):
    """Takes a float tensor with a batch axis."""

    def forward(self, x):
        return torch.nn.functional.interpolate(x, (32, 32), mode="bilinear", antialias=True)


def numpy_function(array):
    return np.asarray(Image.fromarray(array[..., ::-1].copy()).resize((32, 32)), np.float64).transpose(2, 0, 1) / 255


ANSWERS = {
    "albumentations": Albumentations(),
    "kornia": Kornia(),
    "numpy": numpy_function,
    "torchvision v2": v2.Compose([v2.ToImage(), v2.Resize((32, 32)), v2.ToDtype(torch.float32, scale=True)]),
    "pixel_values": lambda image: {"pixel_values": tensor(image.resize((32, 32)))[None]},
    "list": lambda image: {"pixel_values": [tensor(image.resize((32, 32))).numpy()]},
    "image": lambda image: {"image": tensor(image.resize((32, 32))), "label": 3},
    "bytes": transforms.Compose([transforms.Resize((32, 32)), transforms.PILToTensor()]),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_processors_take_and_return(name):
    pixels, region = Preprocessing(ANSWERS[name])(load_image(photo(120, 80)))
    assert (region.box, tuple(pixels.shape), pixels.is_floating_point()) == ((0, 0, 120, 80), (3, 32, 32), True)
    wanted = tensor(photo(120, 80).resize((32, 32))) * (255 if name == "bytes" else 1)
    wanted = wanted.flip(0) if name == "numpy" else wanted
    assert np.corrcoef(pixels.flatten(), wanted.flatten())[0, 1] > 0.97


def test_several_crops_are_refused():
    five = transforms.Compose(
        [
            transforms.Resize(40),
            transforms.FiveCrop(32),
            lambda crops: torch.stack([transforms.ToTensor()(crop) for crop in crops]),
        ]
    )
    with raises(LayoutError, "models.processor-crops", hint="models.processor-crops.hint"):
        region_of(five, photo(120, 80))
    with raises(LayoutError, "models.processor-crops"):
        region_of(
            transforms.Compose(
                [
                    transforms.Resize(40),
                    transforms.FiveCrop(32),
                    lambda crops: [transforms.ToTensor()(crop) for crop in crops],
                ]
            ),
            photo(90, 90),
        )


def test_a_function_that_fails_says_why():
    def broken(image):
        raise KeyError("mean")

    with raises(LayoutError, "models.processor-failed", hint="models.processor-shape.hint"):
        region_of(broken, photo(60, 60))


def test_the_reason_is_that_of_the_way_to_call_it_that_fits():
    """As albumentations, which takes `image=` alone, with a crop that is larger than the image."""

    def crop(*args, image=None):
        if args:
            raise KeyError("You have to pass data to augmentations as named arguments")
        raise ValueError("Values for crop should be equal or smaller than image sizes")

    with raises(LayoutError, "models.processor-failed") as caught:
        region_of(crop, photo(60, 60))
    assert "smaller than image sizes" in str(caught.value)


# size=


@pytest.mark.parametrize("colours", ["plain", "grey", "red", "bgr", "inverted", "one channel", "bytes"])
def test_size_keeps_what_the_processor_does_to_colours(colours):
    image = photo(120, 80)
    pixels, region = Preprocessing(lambda im: colours_after[colours](centred(im)))(load_image(image), 32, (8, 8))
    wanted = colours_after[colours](image.resize(region.input[::-1], Image.Resampling.BICUBIC)).float()
    assert region.box == (0, 0, 120, 80)
    torch.testing.assert_close(pixels, wanted, rtol=0, atol=0.006 * float(wanted.abs().max()))


@pytest.mark.parametrize("colours", ["hsv", "equalised", "stretched", "z-score", "gamma"])
def test_size_is_refused_where_colours_cannot_be_repeated(colours):
    preprocess = Preprocessing(lambda im: colours_after[colours](centred(im)))
    with raises(UsageError, "models.size-and-colours", hint="models.size-and-colours.hint"):
        preprocess(load_image(photo(120, 80)), 32)
    assert preprocess(load_image(photo(120, 80)))[0].shape == (3, 32, 32)  # as the hint says


def test_padding_to_a_square_reaches_beyond_the_photo():
    e = vitscope.load(made(Fused), processor=lambda im: tensor(squared(im).resize((32, 32)))).explain(
        photo(100, 50), method="rollout"
    )
    assert e.region.box == (0, -25, 100, 75)
    assert not np.isnan(e.heat()).any()


@pytest.mark.parametrize("chance", [0.02, 0.1, 0.5])
def test_a_part_that_is_rarely_applied_is_random_all_the_same(chance):
    flip = v2.Compose([v2.RandomHorizontalFlip(chance), v2.Resize((32, 32)), v2.PILToTensor()])
    with raises(LayoutError, "models.processor-random-part"):
        Preprocessing(flip)(load_image(photo(120, 60)))


def test_a_function_that_draws_numbers_is_run_until_it_shows():
    def drawn(image):
        flipped = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.255 else image
        return tensor(flipped.resize((32, 32)))

    random.seed(0)  # of the first 18 numbers the sixteenth alone is below
    with raises(LayoutError, "models.processor-random"):
        Preprocessing(drawn)(load_image(photo(120, 60)))
