"""Rows: where a processor's pixels come from on the photo, and which pixels each patch saw."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from benchmarks.works_with.table import REFUSED, row
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, nn

import vitscope
from vitscope.errors import VitscopeError
from vitscope.geometry import ImageRegion

_SOURCE = "Where pixels come from"
_PATCHES = "Input that is no multiple of the patch"
_BY_HAND = "the box by the arithmetic of the processor's steps, in pixels of the input"
_VISION = ("torch", "torchvision", "pillow")


def _photo(width: int = 400, height: int = 200) -> Image.Image:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (6, 12, 3), np.uint8))
    array = np.array(small.resize((width, height), Image.Resampling.BICUBIC))
    for x, y in itertools.product(range(0, width - 30, 70), range(0, height - 20, 50)):
        array[y : y + 12, x : x + 20] = rng.integers(0, 255, 3, np.uint8)
    return Image.fromarray(array)


def _tensor(image: Image.Image) -> Tensor:
    array = np.asarray(image, np.float32) / 255
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


class _Model(nn.Module):
    """One block behind a convolution."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        torch.manual_seed(0)
        self.embed, self.block, self.head = nn.Conv2d(3, 16, **options), Block(16, 2), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(self.block(self.embed(x).flatten(2).transpose(1, 2)).mean(1))
        return answer


def _explained(process: Any, photo: Image.Image | None = None, model: nn.Module | None = None, **options: Any) -> Any:
    model = model or _Model(kernel_size=8, stride=8)
    return vitscope.load(model.eval(), processor=process, **options).explain(photo or _photo(), method="rollout")


def _miss(process: Any, box: tuple[float, ...], photo: Image.Image | None = None) -> float:
    """Return how far the region is from `box`, in pixels of the input."""
    region = _explained(process, photo).region
    scale = [(region.input[1 - i % 2]) / (box[2 + i % 2] - box[i % 2]) for i in range(4)]
    return float(np.abs((np.array(region.box) - box) * scale).max())


def _refused(run: Callable[[], Any], *codes: str) -> float | str:
    try:
        run()
    except vitscope.errors.VitscopeError as error:
        return REFUSED if getattr(error.message, "code", "") in codes else float("inf")
    return float("inf")


def _colours() -> dict[str, Callable[[Image.Image], Tensor]]:
    def z_score(image: Image.Image) -> Tensor:
        pixels = _tensor(image)
        return (pixels - pixels.mean()) / pixels.std()

    return {
        "grey": lambda image: _tensor(image.convert("L").convert("RGB")),
        "the red channel alone": lambda image: _tensor(image) * torch.tensor([1.0, 0, 0])[:, None, None],
        "BGR": lambda image: _tensor(image).flip(0),
        "HSV": lambda image: _tensor(image.convert("HSV")),
        "an equalised histogram": lambda image: _tensor(ImageOps.equalize(image)),
        "stretched contrast": lambda image: _tensor(ImageOps.autocontrast(image)),
        "a negative": lambda image: _tensor(ImageOps.invert(image)),
        "a z-score of each photo": z_score,
    }


def _with_colours(colours: Callable[[Image.Image], Tensor]) -> Callable[[], float]:
    def try_it() -> float:
        def process(image: Image.Image) -> Tensor:
            resized = image.resize((72, 36))  # the shorter edge of 400 x 200
            return colours(resized.crop((20, 2, 52, 34)))

        return _miss(process, (20 * 400 / 72, 2 * 200 / 36, 52 * 400 / 72, 34 * 200 / 36))

    return try_it


for _name, _change in _colours().items():
    row(_SOURCE, f"resize, centre crop, then {_name}", libraries=_VISION, against=_BY_HAND, tolerance=0.5)(
        _with_colours(_change)
    )


@row(_SOURCE, "a grey processor, whole photo of 400 x 200", libraries=_VISION, against=_BY_HAND, tolerance=1e-9)
def _grey() -> float:
    from torchvision import transforms

    process = transforms.Compose([transforms.Grayscale(3), transforms.Resize((32, 32)), transforms.ToTensor()])
    return _miss(process, (0, 0, 400, 200))


@row(_SOURCE, "padding to a square, as LLaVA does", libraries=_VISION, against=_BY_HAND, tolerance=0.3)
def _square() -> float:
    return _miss(
        lambda image: _tensor(ImageOps.pad(image, (400, 400), color=(9, 9, 9)).resize((32, 32))), (0, -100, 400, 300)
    )


@row(
    _SOURCE, "a photo of 3000 x 100, shorter edge resized, cropped", libraries=_VISION, against=_BY_HAND, tolerance=0.5
)
def _thin() -> float:
    from torchvision import transforms

    process = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(64), transforms.ToTensor()])
    return _miss(process, (1450, 0, 1550, 100), _photo(3000, 100))


@row(_SOURCE, "a dictionary from `image=` an array (albumentations' form)", libraries=_VISION, against=_BY_HAND)
def _keyword() -> float:
    def process(*, image: np.ndarray) -> dict[str, Any]:
        return {"image": np.asarray(Image.fromarray(image).resize((32, 32)), np.float32) / 255}

    return _miss(process, (0, 0, 400, 200))


@row(_SOURCE, "a white square: its place in the pixels, and by the region", libraries=_VISION,
     against="the centre of mass of the square in the pixels, in pixels of the photo", tolerance=1.0)  # fmt: skip
def _white_square() -> float:
    image = np.zeros((200, 400, 3), np.uint8)
    image[60:80, 180:210] = 255
    e = _explained(lambda one: -_tensor(one.resize((72, 36)).crop((20, 2, 52, 34)).convert("L").convert("RGB")))
    pixels = _tensor(Image.fromarray(image).resize((72, 36)).crop((20, 2, 52, 34)))[0].numpy()
    y, x = (float(pixels.sum(1 - axis) @ (np.arange(32) + 0.5) / pixels.sum()) for axis in range(2))
    left, top, right, bottom = e.region.box
    return max(abs(left + x / 32 * (right - left) - 195), abs(top + y / 32 * (bottom - top) - 70))


@row(_SOURCE, "a random crop", libraries=_VISION, against="two runs on one photo differ")
def _random() -> float | str:
    from torchvision import transforms

    process = transforms.Compose([transforms.RandomResizedCrop(32), transforms.ToTensor()])
    return _refused(lambda: _explained(process), "models.processor-random", "models.processor-content")


@row(_SOURCE, "a mirrored photo", libraries=_VISION, against="no region can express it")
def _mirrored() -> float | str:
    return _refused(
        lambda: _explained(lambda image: _tensor(ImageOps.mirror(image).resize((32, 32)))), "models.processor-region"
    )


@row(_SOURCE, "a crop around the brightest place", libraries=_VISION, against="marks on the photo lie elsewhere")
def _brightest() -> float | str:
    def process(image: Image.Image) -> Tensor:
        grey = np.asarray(image.convert("L").resize((20, 10)))
        y, x = np.unravel_index(grey.argmax(), grey.shape)
        left, top = int(x) * image.width // 40, int(y) * image.height // 20
        return _tensor(image.crop((left, top, left + image.width // 2, top + image.height // 2)).resize((32, 32)))

    codes = ("models.processor-content", "models.processor-region", "models.processor-random")
    return _refused(lambda: _explained(process), *codes)


@row(_SOURCE, "a crop around the brightest pixel of a gradient in a black border", libraries=_VISION,
     against="faint marks on the photo lie elsewhere")  # fmt: skip
def _brightest_pixel() -> float | str:
    def process(image: Image.Image) -> Tensor:
        grey = np.asarray(image.convert("L"))
        y, x = (int(n) for n in np.unravel_index(grey.argmax(), grey.shape))
        left, top = min(max(0, x - 60), image.width - 120), min(max(0, y - 40), image.height - 80)
        return _tensor(image.crop((left, top, left + 120, top + 80)).resize((32, 32)))

    photo = np.zeros((160, 240, 3), np.uint8)
    photo[12:-12, 12:-12] = np.linspace(40, 220, 216)[None, :, None]
    return _refused(lambda: _explained(process, Image.fromarray(photo)), "models.processor-content")


@row(_SOURCE, "resize, centre crop, then solarised colours", libraries=_VISION, against=_BY_HAND, tolerance=0.5)
def _solarised() -> float:
    return _with_colours(lambda image: _tensor(ImageOps.solarize(image, 128)))()


@row(
    _SOURCE, "a filter for edges, and `region='whole'`", libraries=_VISION, against="the size of the photo", tolerance=0
)
def _edges() -> float | str:
    def process(image: Image.Image) -> Tensor:
        grey = np.asarray(image.convert("L").resize((32, 32)), np.float32)
        return torch.from_numpy(np.hypot(*np.gradient(grey))).expand(3, -1, -1) / 255

    if _refused(lambda: _explained(process), "models.processor-region") != REFUSED:
        return "not refused"
    return float(_explained(process, region="whole").region.box != (0, 0, 400, 200))


@row(_SOURCE, "a region from the caller", libraries=_VISION, against="the region that was given", tolerance=0)
def _given() -> float:
    stated = ImageRegion((400, 200), (0, 0, 400, 200), (32, 32))
    process = lambda image: _tensor(image.filter(ImageFilter.FIND_EDGES).resize((32, 32)))  # noqa: E731
    return float(_explained(process, region=lambda picture: stated).region != stated)


@row(_SOURCE, "a region from the caller for a mirrored photo", libraries=_VISION, against="no region can express it")
def _given_mirrored() -> str:
    stated = ImageRegion((400, 200), (0, 0, 400, 200), (32, 32))
    process = lambda image: _tensor(ImageOps.mirror(image).resize((32, 32)))  # noqa: E731
    try:
        _explained(process, region=lambda picture: stated)
    except VitscopeError as error:
        return REFUSED if error.code == "models.processor-region" else error.code
    return "explained"


@row(
    _SOURCE,
    "`size=` with a grey processor",
    libraries=_VISION,
    against="Pillow's grey of the resized photo",
    tolerance=0.01,
)
def _size() -> float:
    process = lambda image: _tensor(image.resize((32, 32)).convert("L").convert("RGB"))  # noqa: E731
    scope = vitscope.load(_Model(kernel_size=8, stride=8).eval(), processor=process)
    ready = scope.prepare(_photo(), size=48)
    resized = _photo().resize(ready.region.input[::-1], Image.Resampling.BICUBIC).convert("L").convert("RGB")
    return float((ready.pixels - _tensor(resized)).abs().max())


@row(
    _SOURCE, "`size=` with a z-score of each photo", libraries=_VISION, against="it cannot be repeated at another size"
)
def _size_refused() -> float | str:
    process = lambda image: _colours()["a z-score of each photo"](image.resize((32, 32)))  # noqa: E731
    scope = vitscope.load(_Model(kernel_size=8, stride=8).eval(), processor=process)
    return _refused(lambda: scope.prepare(_photo(), size=48), "models.size-and-colours")


@row(_SOURCE, "a transformers processor of a user's own class, with a crop", libraries=("torch", "transformers"),
     against=_BY_HAND, tolerance=0.5)  # fmt: skip
def _derived() -> float:
    import transformers

    class Halved(transformers.ViTImageProcessor):  # type: ignore[misc]
        def __call__(self, images: Any, **options: Any) -> Any:
            images = Image.fromarray(np.asarray(images))
            return super().__call__(images.crop((0, 0, images.width // 2, images.height)), **options)

    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    e = _explained(Halved(size={"height": 32, "width": 32}), model=transformers.ViTModel(config))
    return float(np.abs(np.array(e.region.box) - (0, 0, 200, 200)).max()) / 200 * 32


def _places(model: nn.Module, embed: nn.Module, height: int, width: int) -> float:
    """Return how far the middles of cells are from the pixels whose gradient each patch has, and NaN from the rest."""
    photo = _photo(width, height)
    e = _explained(_tensor, photo, model)
    rows, columns = e.map.shape
    x = torch.randn(1, 3, height, width, requires_grad=True)
    tokens = embed(x)
    tokens = tokens if tokens.ndim == 4 else tokens.transpose(1, 2).reshape(1, -1, rows, columns)
    tokens = tokens if tokens.shape[2:] == (rows, columns) else tokens.permute(0, 3, 1, 2)
    left, top, right, bottom = e.region.cells or e.region.box
    worst, covered = 0.0, np.zeros((height, width), bool)
    sides = []
    for r, c in itertools.product(range(rows), range(columns)):
        (grad,) = torch.autograd.grad(tokens[0, :, r, c].sum(), x, retain_graph=True)
        read = grad[0].abs().sum(0).numpy() > 0
        covered |= read
        ys, xs = np.flatnonzero(read.any(1)), np.flatnonzero(read.any(0))
        sides.append((r, c, ys[0], ys[-1] + 1, xs[0], xs[-1] + 1))
    most = max(s[3] - s[2] for s in sides), max(s[5] - s[4] for s in sides)
    for r, c, y0, y1, x0, x1 in sides:
        if y1 - y0 == most[0]:
            worst = max(worst, abs(top + (r + 0.5) / rows * (bottom - top) - (y0 + y1) / 2))
        if x1 - x0 == most[1]:
            worst = max(worst, abs(left + (c + 0.5) / columns * (right - left) - (x0 + x1) / 2))
    return worst + float((np.isnan(e.heat()) == covered).sum())


_GRADIENT = "the pixels that each patch's gradient reaches, NaN elsewhere"
for _what, _options in {
    "patches of 8 on 47 x 37 pixels": {"kernel_size": 8, "stride": 8},
    "overlapping patches, stride 4": {"kernel_size": 8, "stride": 4},
    "a padded convolution of 7, stride 4": {"kernel_size": 7, "stride": 4, "padding": 3},
}.items():

    def _try_it(options: dict[str, Any] = _options) -> float:
        model = _Model(**options)
        return _places(model, model.embed, 37, 47)

    row(_PATCHES, _what, libraries=("torch", "timm"), against=_GRADIENT, tolerance=0.01)(_try_it)


@row(_PATCHES, "timm's dynamic_img_pad", libraries=("torch", "timm"), against=_GRADIENT, tolerance=0.01)
def _padded() -> float:
    import timm

    options = {"dynamic_img_size": True, "dynamic_img_pad": True, "embed_dim": 32, "depth": 1, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=3, **options)
    return _places(model, model.patch_embed, 37, 47)


@row(_PATCHES, "a border of mirrored patches inside the model", libraries=("torch", "timm"),
     against="the outer patches see what others see")  # fmt: skip
def _mirrored_border() -> str:
    import timm

    class Mirrored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            small = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 3}
            self.vit = timm.create_model("vit_tiny_patch16_224", img_size=48, **small)

        def forward(self, x: Any) -> Any:
            return self.vit(nn.functional.pad(x, (8, 8, 8, 8), mode="reflect"))

    try:
        vitscope.load(Mirrored().eval(), processor=_squashed)
    except VitscopeError as error:
        return REFUSED if error.code == "tracing.uneven" else str(error)
    return "explained"


def _squashed(image: Any) -> Any:
    return torch.from_numpy(np.array(image.resize((32, 32)), np.float32)).permute(2, 0, 1) / 255


@row(_PATCHES, "DINOv2 without its crop, 341 x 256 pixels", libraries=("torch", "transformers"),
     against="14 pixels for each patch, on the photo", tolerance=1e-6)  # fmt: skip
def _dinov2() -> float:
    import transformers

    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=56, patch_size=14
    )
    processor = transformers.BitImageProcessor(size={"shortest_edge": 256}, do_center_crop=False)
    e = _explained(processor, _photo(400, 300), transformers.Dinov2Model(config))
    (rows, columns), (height, width) = e.map.shape, e.region.input
    wanted = (0, 0, columns * 14 / width * 400, rows * 14 / height * 300)
    return float(np.abs(np.array(e.region.box) - wanted).max())
